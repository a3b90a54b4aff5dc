//! Transactions from outside: what of them is seen and when, who may write them, and what is left of one when all that know it die.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientError, ConsumerConfig, GroupMetadata, Isolation, OffsetAt, OffsetCommit, ProducerRecord, StartAt,
    TopicPartition, Transaction, TransactionOptions, TransactionOutcome, TransactionalProducer,
};
use serde_json::json;

use super::transaction_calls::Caller;
use crate::harness::{Cluster, Options, WAIT, eventually};

const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 3;
const ID: &str = "transfers";
const GROUP: &str = "tellers";

async fn cluster() -> Cluster {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    cluster
}

async fn producer(client: &Client, timeout: Duration) -> TransactionalProducer {
    let options = TransactionOptions {
        timeout,
        ..TransactionOptions::default()
    };
    let opened = TransactionalProducer::open(client, ID, options).await;
    opened.expect("the id is free to take")
}

/// Writes a record with this value to each partition, and waits until all are stored.
async fn write(transaction: &Transaction<'_>, value: &str) {
    for partition in 0..PARTITIONS {
        let record = ProducerRecord::new(TOPIC)
            .with_partition(partition)
            .with_value(value.to_owned());
        let delivery = transaction.send(record).await.expect("there is room");
        delivery.await.expect("it is stored");
    }
}

/// The values of each partition, up to where a reader with this isolation gets.
async fn read(client: &Client, isolation: Isolation) -> BTreeMap<u32, Vec<String>> {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("the defaults");
    let assigned = consumer.assign_topic(TOPIC, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut values: BTreeMap<u32, Vec<String>> = (0..PARTITIONS).map(|partition| (partition, Vec::new())).collect();
    let reading = async {
        while !consumer.reached(&ends) {
            for record in consumer.next_batch().await.expect("the leaders answer") {
                let value = record.value.expect("it has a value");
                let value = String::from_utf8(value.to_vec()).expect("it is text");
                values.entry(record.partition).or_default().push(value);
            }
        }
    };
    tokio::time::timeout(WAIT, reading).await.expect("all is read");
    values
}

/// Each partition has these values.
fn everywhere(values: &[&str]) -> BTreeMap<u32, Vec<String>> {
    let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    (0..PARTITIONS).map(|partition| (partition, values.clone())).collect()
}

async fn end(client: &Client, isolation: Isolation) -> i64 {
    let listed = client.list_offsets_as(TOPIC, 0, OffsetAt::Latest, isolation).await;
    listed.expect("the leader answers").offset.expect("it is an offset")
}

async fn offset(client: &Client, offset: i64) -> OffsetCommit {
    let topic = client.topic(TOPIC).await.expect("it is there");
    let partition = TopicPartition {
        topic: TOPIC.into(),
        topic_id: topic.id,
        partition: 0,
    };
    OffsetCommit::new(partition, offset)
}

/// The offset that the group has committed in partition 0.
async fn committed(cluster: &Cluster) -> Option<i64> {
    let admin = cluster.admin().await;
    let offsets = admin.fetch_offsets(GROUP, None).await.expect("the coordinator answers");
    offsets.first().and_then(|offset| offset.offset)
}

async fn described(cluster: &Cluster) -> serde_json::Value {
    let run = cluster.cli(&["txn", "describe", ID, "-o", "json"]).await;
    run.expect(0).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_seen_whole_or_not_at_all() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let mut producer = producer(&client, Duration::from_secs(30)).await;
    let group = GroupMetadata::outside(GROUP);

    let first = producer.begin().await.expect("none is open");
    write(&first, "a").await;
    let staged = first.commit_offsets(&group, &[offset(&client, 7).await]).await;
    staged.expect("the group takes them");
    assert_eq!(read(&client, Isolation::Committed).await, everywhere(&[]), "it is open");
    assert_eq!(read(&client, Isolation::Uncommitted).await, everywhere(&["a"]));
    assert_eq!(committed(&cluster).await, None, "its offsets are open, too");
    let open = described(&cluster).await;
    assert_eq!((&open["state"], &open["groups"]), (&json!("Ongoing"), &json!([GROUP])));
    assert_eq!(open["partitions"], json!(["ledger/0", "ledger/1", "ledger/2"]));

    let answer = first.commit().await.expect("it is committed");
    assert!(answer.visible, "nothing keeps it from all partitions");
    assert_eq!(
        read(&client, Isolation::Committed).await,
        everywhere(&["a"]),
        "who reads after the answer sees it"
    );
    assert_eq!(committed(&cluster).await, Some(7));

    let second = producer.begin().await.expect("the first has ended");
    write(&second, "b").await;
    let staged = second.commit_offsets(&group, &[offset(&client, 9).await]).await;
    staged.expect("the group takes them");
    second.abort().await.expect("it is aborted");
    let third = producer.begin().await.expect("the second has ended");
    write(&third, "c").await;
    third.commit().await.expect("it is committed");
    assert_eq!(read(&client, Isolation::Committed).await, everywhere(&["a", "c"]));
    assert_eq!(
        read(&client, Isolation::Uncommitted).await,
        everywhere(&["a", "b", "c"])
    );
    assert_eq!(committed(&cluster).await, Some(7), "what was aborted leaves no offset");
    // Three records and three markers.
    assert_eq!(end(&client, Isolation::Committed).await, 6);

    // The end is answered when all see it, and noted a moment later, by itself or with the next transaction.
    let done = eventually("the end is noted", WAIT, || async {
        let done = described(&cluster).await;
        (done["state"] == json!("CompleteCommit")).then_some(done)
    });
    assert_eq!(done.await["last_committed"], json!(true));
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_the_id_aborts_what_is_open_and_fences_its_writer() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let mut first = producer(&client, Duration::from_secs(30)).await;
    let left_open = first.begin().await.expect("none is open");
    write(&left_open, "of the first").await;

    let mut second = producer(&client, Duration::from_secs(30)).await;
    // The answer came behind all effects of its predecessor.
    assert_eq!(
        end(&client, Isolation::Committed).await,
        end(&client, Isolation::Uncommitted).await
    );
    let transaction = second.begin().await.expect("none is open");
    write(&transaction, "of the second").await;
    let refused = left_open.commit().await.expect_err("another producer has the id");
    assert!(matches!(refused, ClientError::ProducerFenced { .. }), "{refused}");
    transaction.commit().await.expect("it is committed");
    assert_eq!(
        read(&client, Isolation::Committed).await,
        everywhere(&["of the second"])
    );
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_aborted_when_its_time_is_over_and_its_producer_goes_on() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    let mut producer = producer(&client, Duration::from_secs(2)).await;
    let late = producer.begin().await.expect("none is open");
    write(&late, "late").await;
    let began = Instant::now();
    eventually("it is aborted", WAIT, || async {
        (end(&client, Isolation::Committed).await == end(&client, Isolation::Uncommitted).await).then_some(())
    })
    .await;
    let after = began.elapsed();
    assert!(after < Duration::from_secs(7), "it was open for {after:?}");
    let refused = late.commit().await.expect_err("its time was over");
    assert!(matches!(refused, ClientError::TransactionTimedOut(_)), "{refused}");
    let next = producer.begin().await.expect("the producer goes on");
    write(&next, "in time").await;
    next.commit().await.expect("it is committed");
    assert_eq!(read(&client, Isolation::Committed).await, everywhere(&["in time"]));
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_transactions_and_abort_them() {
    let cluster = cluster().await;
    let client = cluster.client().await;
    assert_eq!(
        cluster.cli(&["txn", "ls", "-o", "json"]).await.expect(0).json(),
        json!([])
    );
    let unknown = cluster.cli(&["txn", "describe", "another"]).await.expect(1);
    unknown.names(&["another"]);
    let mut producer = producer(&client, Duration::from_secs(60)).await;
    let open = producer.begin().await.expect("none is open");
    write(&open, "open").await;

    let listed = cluster.cli(&["txn", "ls", "--state", "Ongoing", "-o", "json"]).await;
    let listed = listed.expect(0).json();
    assert_eq!(
        (listed.as_array().map(Vec::len), &listed[0]["transactional_id"]),
        (Some(1), &json!(ID))
    );
    let old = cluster.cli(&["txn", "ls", "--older-than", "1h", "-o", "json"]).await;
    assert_eq!(old.expect(0).json(), json!([]));
    let producers = cluster.cli(&["txn", "producers", "ledger/1", "-o", "json"]).await;
    let producers = producers.expect(0).json();
    assert_eq!(producers[0]["transaction_first_offset"], json!(0), "{producers}");
    assert_eq!(producers[0]["producer_id"], listed[0]["producer_id"]);

    let aborted = cluster.cli(&["txn", "abort", ID, "--yes", "-o", "json"]).await;
    assert_eq!(aborted.expect(0).json()["aborted"], json!(true));
    eventually("no transaction is open", WAIT, || async {
        (described(&cluster).await["state"] == json!("CompleteAbort")).then_some(())
    })
    .await;
    let again = cluster.cli(&["txn", "abort", ID, "--yes", "-o", "json"]).await;
    assert_eq!(again.expect(0).json()["aborted"], json!(false));
    let refused = open.commit().await.expect_err("an operator aborted it");
    assert!(matches!(refused, ClientError::TransactionTimedOut(_)), "{refused}");
    assert_eq!(read(&client, Isolation::Committed).await, everywhere(&[]));
    producer.close().await;
}

/// The brokers die as soon as one of them is to send the end, so nobody knows more of it than the coordinator's log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_is_carried_out_after_all_brokers_died() {
    let mut cluster = cluster().await;
    let client = cluster.client().await;
    // Whoever coordinates dies when it is to send the first end; then the next one.
    for id in cluster.ids() {
        cluster.stop(id).await;
        cluster.restart_with(id, &[("JANGADA_FAILPOINT", "transactions.decided")]);
        cluster.ready(id).await;
        cluster.healthy().await;
    }
    let mut producer = producer(&client, Duration::from_secs(60)).await;
    let staged = offset(&client, 3).await;
    let committing = tokio::spawn(async move {
        let transaction = producer.begin().await.expect("none is open");
        write(&transaction, "decided").await;
        let staged = transaction
            .commit_offsets(&GroupMetadata::outside(GROUP), &[staged])
            .await;
        staged.expect("the group takes them");
        match transaction.commit().await {
            Ok(_) => TransactionOutcome::Committed,
            Err(ClientError::TransactionUnknown(_)) => resolved(&mut producer).await,
            Err(error) => panic!("{error}"),
        }
    });
    eventually("two of three have died", WAIT, || {
        let down = cluster.ids().into_iter().filter(|id| !cluster.is_running(*id)).count();
        std::future::ready((down >= 2).then_some(()))
    })
    .await;
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    let outcome = tokio::time::timeout(WAIT, committing)
        .await
        .expect("it is known in time");
    assert_eq!(outcome.expect("nothing panicked"), TransactionOutcome::Committed);
    eventually("it is complete", WAIT, || async {
        (described(&cluster).await["state"] == json!("CompleteCommit")).then_some(())
    })
    .await;
    assert_eq!(read(&client, Isolation::Committed).await, everywhere(&["decided"]));
    assert_eq!(committed(&cluster).await, Some(3));
}

/// The refusal of the commit that is sent again says nothing of the one before it, which was taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_not_taken_for_refused_when_another_process_has_the_id_by_then() {
    let options = Options {
        proxied: true,
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let client = Client::connect(cluster.proxied_config()).await.expect("it answers");
    let mut producer = producer(&client, Duration::from_secs(60)).await;
    let transaction = producer.begin().await.expect("none is open");
    write(&transaction, "kept").await;
    // Past the proxies.
    let caller = Caller::of(&cluster, 1).await;
    let proxies = cluster.proxies();
    proxies.iter().for_each(|proxy| proxy.lose_answers());
    let taking_the_id = async {
        eventually("it is committed, and the id is taken", WAIT, || {
            let mut caller = caller.clone();
            async move {
                let described = caller.describe(ID).await.ok()?;
                if !described.last_committed {
                    return None;
                }
                caller.init(ID).await.ok()
            }
        })
        .await;
        proxies.iter().for_each(|proxy| proxy.cut());
    };
    let (committed, ()) = tokio::join!(transaction.commit(), taking_the_id);
    let refused = committed.expect_err("another process has the id");
    assert!(matches!(refused, ClientError::TransactionUnknown(_)), "{refused}");
    assert_eq!(resolved(&mut producer).await, TransactionOutcome::Committed);
    assert_eq!(read(&client, Isolation::Committed).await, everywhere(&["kept"]));
}

/// What became of a commit that was not answered.
async fn resolved(producer: &mut TransactionalProducer) -> TransactionOutcome {
    let deadline = Instant::now() + WAIT;
    loop {
        match producer.resolve().await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
        }
    }
}
