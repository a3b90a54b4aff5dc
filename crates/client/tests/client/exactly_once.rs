//! Consume, transform, produce: each record that is read takes effect once, whatever is lost, dropped, resolved or damaged.

use std::time::Duration;

use jangada_client::{
    Client, ClientError, CommitMode, ConsumedRecord, ConsumerConfig, ExactlyOnceOptions, GroupConfig, GroupConsumer,
    Processed, ProducerRecord, Reason, StartAt, TransactionOptions, TransactionOutcome, TransactionalProducer,
};
use tokio::time::timeout;

use crate::consume::{damage, fill};
use crate::fake::{Cluster, EndFault, Error, Fault};
use crate::group::{committed, member, soon, take, until};
use crate::produce::numbers;
use crate::transactions::{impatient, open, values};

/// A transaction of so many records, whenever they come.
const fn of(records_max: usize) -> ExactlyOnceOptions {
    ExactlyOnceOptions {
        records_max,
        interval: Duration::from_secs(60),
    }
}

/// Makes a record of each that was read: its offset.
async fn offsets_of(records: &[ConsumedRecord]) -> Result<Vec<ProducerRecord>, ClientError> {
    let made = records
        .iter()
        .map(|record| ProducerRecord::new("out").with_value(record.offset.to_string()));
    Ok(made.collect())
}

/// A cluster with ten records in "t" behind one that is read, one who reads them in a group, and one who writes.
async fn copying() -> (Cluster, Client, GroupConsumer, TransactionalProducer) {
    let (cluster, client) = impatient().await;
    cluster.create_topic("out", 1);
    fill(&client, 1, 0..11).await;
    let mut consumer = member(&client, cluster_group());
    take(&mut consumer, 1).await;
    let producer = open(&client).await;
    (cluster, client, consumer, producer)
}

fn copied(cluster: &Cluster) -> Vec<String> {
    let mut copied = cluster.values("out", 0);
    copied.sort_by_key(|value| value.parse::<i64>().expect("an offset"));
    copied
}

#[tokio::test]
async fn what_was_read_for_a_commit_that_the_caller_has_resolved_is_not_read_again() {
    let (cluster, client, mut consumer, mut producer) = copying().await;
    cluster.state().transactions.faults.extend(vec![EndFault::Miss; 100]);
    let round = producer.process(&mut consumer, of(10), offsets_of);
    let error = soon(round).await.expect_err("no answer");
    assert!(error.is_retryable() && !error.is_definite(), "{error}");
    cluster.state().transactions.faults.clear();
    let outcome = producer.resolve().await.expect("it answers");
    assert_eq!(outcome, TransactionOutcome::Committed);
    let round = producer.process(&mut consumer, of(1), offsets_of);
    let nothing = timeout(Duration::from_millis(300), round).await;
    assert!(nothing.is_err(), "all is copied: {nothing:?}");
    fill(&client, 1, 11..12).await;
    let round = producer.process(&mut consumer, of(1), offsets_of);
    assert_eq!(soon(round).await.expect("committed"), Processed { read: 1, made: 1 });
    assert_eq!(copied(&cluster), numbers(1..12));
}

#[tokio::test]
async fn what_was_read_is_not_taken_for_committed_with_a_transaction_of_the_caller() {
    let (cluster, _client, mut consumer, mut producer) = copying().await;
    let gathering = producer.process(&mut consumer, of(100), offsets_of);
    timeout(Duration::from_millis(500), gathering)
        .await
        .expect_err("it gathers");
    assert_eq!(consumer.position("t", 0), Some(11), "all is read");
    let transaction = producer.begin().await.expect("ready");
    let own = ProducerRecord::new("out").with_value("1000");
    drop(transaction.send(own).await.expect("taken"));
    cluster.state().transactions.faults.extend(vec![EndFault::Lose; 100]);
    soon(transaction.commit()).await.expect_err("no answer");
    cluster.state().transactions.faults.clear();
    let round = producer.process(&mut consumer, of(10), offsets_of);
    let error = soon(round).await.expect_err("it is unresolved");
    assert!(matches!(error, ClientError::TransactionUnknown(_)), "{error}");
    let outcome = producer.resolve().await.expect("it answers");
    assert_eq!(outcome, TransactionOutcome::Committed);
    let round = producer.process(&mut consumer, of(10), offsets_of);
    assert_eq!(soon(round).await.expect("committed"), Processed { read: 10, made: 10 });
    let expected = [numbers(1..11), numbers(1000..1001)].concat();
    assert_eq!(copied(&cluster), expected);
}

#[tokio::test]
async fn records_come_again_when_the_time_is_over_before_their_offsets_are_staged() {
    let (cluster, _client, mut consumer, mut producer) = copying().await;
    let late = async |_: &[ConsumedRecord]| {
        cluster.time_out("transfers");
        Ok::<_, ClientError>(Vec::new())
    };
    let round = producer.process(&mut consumer, of(10), late);
    assert_eq!(
        soon(round).await.expect("it is no error"),
        Processed { read: 0, made: 0 }
    );
    let round = producer.process(&mut consumer, of(10), offsets_of);
    assert_eq!(soon(round).await.expect("committed"), Processed { read: 10, made: 10 });
    assert_eq!(copied(&cluster), numbers(1..11));
}

#[tokio::test]
async fn what_lies_before_a_damaged_batch_is_committed_and_a_seek_beyond_it_counts() {
    const RECORDS: i64 = 300;
    let (cluster, client) = impatient().await;
    cluster.create_topic("out", 1);
    fill(&client, 1, 0..RECORDS as u32).await;
    let (damaged_at, behind) = damage(&cluster, 1);
    let mut consumer = member(&client, cluster_group());
    let mut producer = open(&client).await;
    let long = ExactlyOnceOptions {
        interval: Duration::from_millis(100),
        ..ExactlyOnceOptions::default()
    };
    let mut read = 0;
    while read < damaged_at {
        let done = soon(producer.process(&mut consumer, long, offsets_of)).await;
        read += done.expect("these are sound").read as i64;
    }
    assert_eq!(committed(&cluster, 0), Some(damaged_at));
    let error = soon(producer.process(&mut consumer, long, offsets_of))
        .await
        .expect_err("it is damaged");
    assert!(
        matches!(error, ClientError::Corrupt { offset, .. } if offset == damaged_at),
        "{error}"
    );
    consumer
        .seek("t", 0, StartAt::Offset(behind))
        .await
        .expect("it owns it");
    while read < RECORDS - (behind - damaged_at) {
        let done = soon(producer.process(&mut consumer, long, offsets_of)).await;
        read += done.expect("these are sound").read as i64;
    }
    let [damaged_at, behind] = [damaged_at, behind].map(|offset| offset as u32);
    let expected = [numbers(0..damaged_at), numbers(behind..RECORDS as u32)].concat();
    assert_eq!(copied(&cluster), expected);
}

/// Reads from "t" and writes to "out" until all is committed. Returns the rounds that were not committed.
async fn copy(client: Client, id: String, cluster: &Cluster, records: i64) -> u32 {
    let mut config = cluster_group();
    config.session_timeout = Duration::from_secs(10);
    let mut consumer = client.group_consumer(config).expect("good settings");
    let producer = TransactionalProducer::open(&client, id.as_str(), TransactionOptions::default());
    let mut producer = soon(producer).await.expect("a life");
    let options = ExactlyOnceOptions {
        records_max: 40,
        interval: Duration::from_millis(5),
    };
    let mut again = 0;
    let is_done = || (0..3).map(|at| committed(cluster, at).unwrap_or(0)).sum::<i64>() == records;
    while !is_done() {
        let transform = async |records: &[ConsumedRecord]| {
            let made = records.iter().map(|record| {
                let value = format!("{}/{}", record.partition, record.offset);
                ProducerRecord::new("out").with_partition(0).with_value(value)
            });
            Ok::<_, ClientError>(made.collect())
        };
        let round = producer.process(&mut consumer, options, transform);
        match timeout(Duration::from_millis(300), round).await {
            // All may be committed by others, so that nothing comes.
            Err(_) => {}
            Ok(Ok(Processed { read: 0, .. })) => again += 1,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("{error}"),
        }
    }
    consumer.abandon().await;
    again
}

fn cluster_group() -> GroupConfig {
    GroupConfig {
        commit: CommitMode::Manual,
        ..GroupConfig::new("g", ["t"])
    }
}

#[tokio::test]
async fn records_are_transformed_once_across_failures_and_rebalances() {
    const RECORDS: u32 = 300;
    let cluster = Cluster::start(2);
    cluster.create_topic("t", 3);
    cluster.create_topic("out", 1);
    let client = cluster.client().await;
    fill(&client, 3, 0..RECORDS).await;
    cluster
        .state()
        .transactions
        .faults
        .extend([EndFault::Lose, EndFault::Miss, EndFault::Lose]);
    cluster.script(
        "out",
        0,
        [
            Fault::AppendThenCut,
            Fault::Refuse(Error::definite(Reason::InvalidBatch)),
        ],
    );
    let total = i64::from(RECORDS) * 3;
    let late = async {
        until("the first has begun", || committed(&cluster, 0).is_some()).await;
        copy(client.clone(), "copy-2".to_owned(), &cluster, total).await
    };
    let trouble = async {
        until("the first has begun", || committed(&cluster, 0).is_some()).await;
        cluster.time_out("copy-1");
    };
    let all_of_it = async {
        tokio::join!(
            copy(client.clone(), "copy-1".to_owned(), &cluster, total),
            late,
            trouble
        )
    };
    let (first, _, ()) = timeout(Duration::from_secs(60), all_of_it).await.expect("in time");
    assert!(first > 0, "the failures met no transaction");

    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    consumer.assign_topic("out", StartAt::Earliest).await.expect("assigned");
    let ends = consumer.end_offsets().await.expect("it answers");
    let mut records = Vec::new();
    while !consumer.reached(&ends) {
        records.extend(soon(consumer.next_batch()).await.expect("records"));
    }
    let mut expected: Vec<String> = (0..3)
        .flat_map(|at| (0..RECORDS).map(move |n| format!("{at}/{n}")))
        .collect();
    expected.sort();
    assert_eq!(values(&records), expected);
}
