//! What readers get of transactions in each form and through each broker: while they are open, at the moment at which they end, and after
//! all brokers have died.

use jangada_client::{ConsumerConfig, ProducerRecord, StartAt, Transaction, TransactionOptions, TransactionalProducer};
use jangada_proto::v1::{AbortedTransaction, FetchRequest, FetchResponse, Isolation, RecordForm};
use jangada_types::batch::BatchIter;

use super::transaction_calls::Caller;
use crate::harness::{Cluster, WAIT, raw};

const TOPIC: &str = "ledger";
const ID: &str = "transfers";

async fn write(transaction: &Transaction<'_>, value: String) {
    let record = ProducerRecord::new(TOPIC).with_value(value);
    let delivery = transaction.send(record).await.expect("there is room");
    delivery.await.expect("it is stored");
}

/// Whoever waits at the end of a log is woken by each record, and reads at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_the_end_gets_what_is_committed_and_nothing_else() {
    const ROUNDS: usize = 20;
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let client = cluster.client().await;
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    let assigned = consumer.assign_topic(TOPIC, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    let reading = tokio::spawn(async move {
        let mut values: Vec<String> = Vec::new();
        while values.iter().filter(|value| value.starts_with('c')).count() < ROUNDS {
            for record in consumer.next_batch().await.expect("its leader answers") {
                let value = record.value.expect("it has a value");
                values.push(String::from_utf8(value.to_vec()).expect("it is text"));
            }
        }
        values
    });
    let opened = TransactionalProducer::open(&client, ID, TransactionOptions::default()).await;
    let mut producer = opened.expect("the id is free");
    for round in 0..ROUNDS {
        let aborted = producer.begin().await.expect("none is open");
        write(&aborted, format!("aborted {round}")).await;
        aborted.abort().await.expect("it is aborted");
        let committed = producer.begin().await.expect("the one before has ended");
        write(&committed, format!("committed {round}")).await;
        committed.commit().await.expect("it is committed");
    }
    let values = tokio::time::timeout(WAIT, reading).await.expect("all is read");
    let expected: Vec<String> = (0..ROUNDS).map(|round| format!("committed {round}")).collect();
    assert_eq!(values.expect("nothing panicked"), expected);
}

/// One fetch of the whole partition.
async fn fetch(caller: &mut Caller, isolation: Isolation, form: RecordForm, aborted_list: bool) -> FetchResponse {
    let request = FetchRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        isolation: isolation.into(),
        form: form.into(),
        aborted_list,
        ..FetchRequest::default()
    };
    caller.log.fetch(request).await.expect("it is passed on").into_inner()
}

fn values(fetched: &FetchResponse) -> Vec<&str> {
    let values = fetched.records.iter().map(|record| record.value.as_deref());
    values
        .map(|value| std::str::from_utf8(value.expect("it has a value")).expect("it is text"))
        .collect()
}

fn offsets(fetched: &FetchResponse) -> Vec<i64> {
    let headers = BatchIter::new(fetched.batches.clone()).map(|batch| batch.expect("it is whole").0);
    headers.map(|header| header.base_offset).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_form_leaves_out_what_was_aborted_also_after_all_brokers_died() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let mut caller = Caller::of(&cluster, 1).await;
    let first = caller.init(ID).await.expect("the id is free");
    let mut producer = first;
    let partition = || raw::partition(TOPIC, 0);
    for (value, commits) in [("a", true), ("b", false), ("c", true)] {
        let written = caller.write_at(ID, producer, partition(), (0, value)).await;
        written.expect("it is written");
        producer = caller.end(ID, producer, commits).await.expect("it is open");
    }
    let written = caller.write_at(ID, producer, partition(), (0, "d")).await;
    assert_eq!(written.expect("it is written"), 6, "there are three markers");

    for has_died in [false, true] {
        if has_died {
            cluster.kill_all();
            cluster.start_all();
            cluster.healthy().await;
        }
        for broker in cluster.ids() {
            let mut caller = Caller::of(&cluster, broker).await;
            let plain = fetch(&mut caller, Isolation::Committed, RecordForm::Plain, false).await;
            assert_eq!(
                (values(&plain), plain.next_offset),
                (vec!["a", "c"], 6),
                "broker {broker}"
            );
            assert_eq!((plain.last_stable_offset, plain.high_watermark), (6, 7));
            let plain = fetch(&mut caller, Isolation::Uncommitted, RecordForm::Plain, false).await;
            assert_eq!(values(&plain), ["a", "b", "c", "d"], "broker {broker}");
            let raw = fetch(&mut caller, Isolation::Committed, RecordForm::Raw, false).await;
            assert_eq!((offsets(&raw), raw.aborted), (vec![0, 4], vec![]), "broker {broker}");
            let listed = fetch(&mut caller, Isolation::Committed, RecordForm::Raw, true).await;
            let b = AbortedTransaction {
                producer_id: first.0,
                first_offset: 2,
            };
            assert_eq!((offsets(&listed), listed.aborted), (vec![0, 1, 2, 3, 4, 5], vec![b]));
        }
    }
    let mut caller = Caller::of(&cluster, 1).await;
    caller.end(ID, producer, false).await.expect("it is open");
    let whole = fetch(&mut caller, Isolation::Committed, RecordForm::Plain, false).await;
    assert_eq!((values(&whole), whole.next_offset), (vec!["a", "c"], 8));
}
