//! Transactions: what is seen together or not at all, across lost answers, timeouts and takeovers.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_client::{
    Client, ClientError, CommitMode, ConsumedRecord, Consumer, ConsumerConfig, GroupConfig, GroupMetadata, Isolation,
    OffsetCommit, ProducerConfig, Reason, StartAt, TransactionOptions, TransactionOutcome, TransactionalProducer,
};
use tokio::time::timeout;

use crate::consume::fill;
use crate::fake::{Cluster, EndFault, Error, Fault};
use crate::group::{committed, config as group_config, member, offsets, soon, take, until};
use crate::produce::{numbers, record, small_batches};

pub async fn open(client: &Client) -> TransactionalProducer {
    let options = TransactionOptions {
        producer: small_batches(),
        ..TransactionOptions::default()
    };
    soon(TransactionalProducer::open(client, "transfers", options))
        .await
        .expect("a life")
}

/// Two partitions, and a client that gives up soon.
pub async fn impatient() -> (Cluster, Client) {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 2);
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_millis(400);
    let client = Client::connect(config).await.expect("it answers");
    (cluster, client)
}

async fn reader(client: &Client, isolation: Isolation) -> Consumer {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("good settings");
    consumer.assign_topic("t", StartAt::Earliest).await.expect("assigned");
    consumer
}

pub fn values(records: &[ConsumedRecord]) -> Vec<String> {
    let value = |record: &ConsumedRecord| String::from_utf8(record.value.clone().expect("a value").to_vec());
    let mut values: Vec<String> = records.iter().map(|record| value(record).expect("text")).collect();
    values.sort();
    values
}

/// All that a reader finds up to where the partitions end for it.
async fn all(client: &Client, isolation: Isolation) -> Vec<String> {
    let mut consumer = reader(client, isolation).await;
    let ends = consumer.end_offsets().await.expect("they answer");
    let mut records = Vec::new();
    while !consumer.reached(&ends) {
        records.extend(soon(consumer.next_batch()).await.expect("records"));
    }
    values(&records)
}

#[tokio::test]
async fn records_of_a_transaction_are_seen_together_when_it_is_committed() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 2);
    let client = cluster.client().await;
    let mut producer = open(&client).await;
    let mut consumer = reader(&client, Isolation::Committed).await;
    let transaction = producer.begin().await.expect("ready");
    for value in 0..40 {
        let delivery = transaction.send(record(value % 2, value)).await.expect("taken");
        delivery.await.expect("stored");
    }
    // A plain record behind them waits with them.
    fill(&client, 2, 100..101).await;
    assert!(timeout(Duration::from_millis(200), consumer.next()).await.is_err());
    assert_eq!(all(&client, Isolation::Uncommitted).await.len(), 42);
    assert_eq!(all(&client, Isolation::Committed).await.len(), 0);
    let done = transaction.commit().await.expect("committed");
    assert!(done.visible);
    let mut records = Vec::new();
    while records.len() < 42 {
        records.extend(soon(consumer.next_batch()).await.expect("records"));
    }
    let mut expected = numbers(0..40);
    expected.extend(["100".to_owned(), "100".to_owned()]);
    expected.sort();
    assert_eq!(values(&records), expected);
    assert_eq!(all(&client, Isolation::Committed).await, expected);
}

#[tokio::test]
async fn nothing_of_an_aborted_transaction_is_seen_and_each_has_an_epoch_of_its_own() {
    let (cluster, client) = impatient().await;
    let mut producer = open(&client).await;
    for (round, commits) in [(0, true), (1, false), (2, true), (3, false), (4, true)] {
        let transaction = producer.begin().await.expect("ready");
        for value in 0..50 {
            drop(
                transaction
                    .send(record(value % 2, round * 100 + value))
                    .await
                    .expect("taken"),
            );
        }
        match commits {
            true => drop(transaction.commit().await.expect("committed")),
            false => transaction.abort().await.expect("aborted"),
        }
    }
    let mut expected = [numbers(0..50), numbers(200..250), numbers(400..450)].concat();
    expected.sort();
    assert_eq!(all(&client, Isolation::Committed).await, expected);
    assert_eq!(
        cluster.state().transactions.inits,
        1,
        "the end of one gives the epoch of the next"
    );
    // The positions pass the markers, so that there is no lag at the end.
    let mut consumer = reader(&client, Isolation::Committed).await;
    let ends = consumer.end_offsets().await.expect("they answer");
    while !consumer.reached(&ends) {
        drop(soon(consumer.next_batch()).await.expect("records"));
    }
    let end = cluster.state().partition("t", 0).high_watermark();
    assert_eq!(consumer.position("t", 0), Some(end));
    // Sequences begin with 0 in each epoch.
    let attempts = cluster.state().partition("t", 0).attempts.clone();
    let mut firsts: BTreeMap<i16, i32> = BTreeMap::new();
    for header in &attempts {
        firsts
            .entry(header.producer_epoch.get())
            .or_insert(header.base_sequence.get());
    }
    assert!(
        firsts.len() >= 3 && firsts.values().all(|first| *first == 0),
        "{firsts:?}"
    );
}

#[tokio::test]
async fn an_answer_without_records_moves_the_position() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    fill(&client, 1, 0..10).await;
    cluster.state().partition("t", 0).passes_to = Some(6);
    let mut consumer = reader(&client, Isolation::Committed).await;
    assert_eq!(soon(consumer.next_batch()).await.expect("it moved"), []);
    assert_eq!(consumer.position("t", 0), Some(6));
    assert_eq!(soon(consumer.next()).await.expect("a record").offset, 6);

    // What a member has passed counts as finished, so that nothing lags at the end.
    cluster.state().partition("t", 0).passes_to = Some(10);
    let mut consumer = member(&client, group_config());
    assert!(
        timeout(Duration::from_millis(300), consumer.next()).await.is_err(),
        "there is no more"
    );
    until("the end is committed", || committed(&cluster, 0) == Some(10)).await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_aborted_before_the_next_one() {
    let (_cluster, client) = impatient().await;
    let mut producer = open(&client).await;
    let transaction = producer.begin().await.expect("ready");
    let delivery = transaction.send(record(0, "lost")).await.expect("taken");
    delivery.await.expect("stored");
    drop(transaction);
    let transaction = soon(producer.begin()).await.expect("the one before is aborted");
    drop(transaction.send(record(0, "kept")).await.expect("taken"));
    transaction.commit().await.expect("committed");
    assert_eq!(all(&client, Isolation::Committed).await, ["kept"]);
}

/// As in a program that enters its runtime for each call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_dropped_outside_of_the_runtime_is_aborted_before_the_next_one() {
    let (_cluster, client) = impatient().await;
    let options = TransactionOptions {
        producer: ProducerConfig {
            linger: Duration::from_secs(60),
            ..small_batches()
        },
        ..TransactionOptions::default()
    };
    let opened = soon(TransactionalProducer::open(&client, "transfers", options)).await;
    let mut producer = opened.expect("a life");
    let transaction = producer.begin().await.expect("ready");
    drop(transaction.send(record(0, "lost")).await.expect("taken"));
    std::thread::scope(|scope| scope.spawn(|| drop(transaction)).join()).expect("it does not panic");
    let transaction = soon(producer.begin()).await.expect("the one before is aborted");
    drop(transaction.send(record(0, "kept")).await.expect("taken"));
    transaction.commit().await.expect("committed");
    assert_eq!(all(&client, Isolation::Committed).await, ["kept"]);
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_asked_for_again() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let busy = Error::definite(Reason::NotReady);
    cluster
        .state()
        .transactions
        .faults
        .extend([EndFault::Refuse(busy), EndFault::Lose, EndFault::Miss]);
    let mut producer = open(&client).await;
    let transaction = producer.begin().await.expect("ready");
    drop(transaction.send(record(0, 1)).await.expect("taken"));
    transaction.commit().await.expect("committed");
    assert_eq!(cluster.state().transactions.ended, [(0, true)]);
}

#[tokio::test]
async fn an_unknown_commit_is_resolved() {
    for (fault, is_timed_out, expected) in [
        (EndFault::Lose, false, TransactionOutcome::Committed),
        (EndFault::Miss, false, TransactionOutcome::Committed),
        (EndFault::Miss, true, TransactionOutcome::Aborted),
    ] {
        let (cluster, client) = impatient().await;
        let mut producer = open(&client).await;
        let error = producer.resolve().await.expect_err("nothing is unknown");
        assert!(matches!(error, ClientError::Config(_)), "{error}");
        let transaction = producer.begin().await.expect("ready");
        drop(transaction.send(record(0, 1)).await.expect("taken"));
        cluster.state().transactions.faults.extend(vec![fault.clone(); 100]);
        let error = soon(transaction.commit()).await.expect_err("no answer");
        assert!(
            matches!(error, ClientError::TransactionUnknown(_)) && !error.is_definite(),
            "{error}"
        );
        let error = producer.begin().await.map(drop).expect_err("it is unresolved");
        assert!(matches!(error, ClientError::TransactionUnknown(_)), "{error}");
        if let EndFault::Miss = fault {
            let error = soon(producer.resolve()).await.expect_err("the end is not answered");
            assert!(error.is_retryable() && !error.is_definite(), "{error}");
        }
        cluster.state().transactions.faults.clear();
        if is_timed_out {
            cluster.time_out("transfers");
        }
        assert_eq!(producer.resolve().await.expect("it answers"), expected, "{fault:?}");
        let transaction = producer.begin().await.expect("ready");
        drop(transaction.send(record(0, 2)).await.expect("taken"));
        transaction.commit().await.expect("committed");
        let seen = all(&client, Isolation::Committed).await;
        assert_eq!(seen.len(), 1 + usize::from(expected == TransactionOutcome::Committed));
    }
}

#[tokio::test]
async fn who_opens_the_id_next_fences_this_one() {
    let (_cluster, client) = impatient().await;
    let mut old = open(&client).await;
    let transaction = old.begin().await.expect("ready");
    let delivery = transaction.send(record(0, "old")).await.expect("taken");
    delivery.await.expect("stored");
    let mut new = open(&client).await;
    let error = soon(transaction.commit()).await.expect_err("it is fenced");
    assert!(matches!(error, ClientError::ProducerFenced { .. }), "{error}");
    let error = soon(old.begin()).await.map(drop).expect_err("for ever");
    assert!(matches!(error, ClientError::ProducerFenced { .. }), "{error}");
    let transaction = new.begin().await.expect("ready");
    drop(transaction.send(record(0, "new")).await.expect("taken"));
    transaction.commit().await.expect("committed");
    assert_eq!(all(&client, Isolation::Committed).await, ["new"]);
}

#[tokio::test]
async fn a_transaction_whose_time_is_over_says_so_and_the_next_one_goes_on() {
    for sends_more in [false, true] {
        let (cluster, client) = impatient().await;
        let mut producer = open(&client).await;
        let transaction = producer.begin().await.expect("ready");
        let delivery = transaction.send(record(0, "late")).await.expect("taken");
        delivery.await.expect("stored");
        cluster.time_out("transfers");
        if sends_more {
            let delivery = transaction.send(record(1, "later")).await.expect("taken");
            let error = soon(delivery).await.expect_err("its epoch is fenced");
            assert_eq!(error.reason(), Some(Reason::ProducerFenced));
            let error = transaction.send(record(1, "more")).await.expect_err("it has failed");
            assert!(matches!(error, ClientError::TransactionAborted { .. }), "{error}");
        }
        let error = soon(transaction.commit()).await.expect_err("its time was over");
        assert!(
            matches!(error, ClientError::TransactionTimedOut(_)) && error.is_definite(),
            "{error}"
        );
        let transaction = soon(producer.begin()).await.expect("it is the same life");
        drop(transaction.send(record(0, "next")).await.expect("taken"));
        transaction.commit().await.expect("committed");
        assert_eq!(all(&client, Isolation::Committed).await, ["next"]);
    }
}

#[tokio::test]
async fn a_record_that_is_not_stored_aborts_its_transaction() {
    let (cluster, client) = impatient().await;
    let mut producer = open(&client).await;
    let transaction = producer.begin().await.expect("ready");
    cluster.script("t", 0, [Fault::Refuse(Error::definite(Reason::InvalidBatch))]);
    for value in 0..20 {
        // After the first failure no more are taken.
        if let Ok(delivery) = transaction.send(record(value % 2, value)).await {
            drop(delivery);
        }
    }
    let error = soon(transaction.commit()).await.expect_err("one record is missing");
    let ClientError::TransactionAborted { cause } = &error else {
        panic!("{error}")
    };
    assert_eq!(cause.reason(), Some(Reason::InvalidBatch));
    assert_eq!(all(&client, Isolation::Committed).await, Vec::<String>::new());
    let transaction = producer.begin().await.expect("ready");
    for value in 0..20 {
        drop(transaction.send(record(value % 2, value)).await.expect("taken"));
    }
    transaction.commit().await.expect("committed");
    assert_eq!(all(&client, Isolation::Committed).await.len(), 20);
    assert_eq!(cluster.state().transactions.ended, [(0, false), (1, true)]);
}

#[tokio::test]
async fn what_is_sent_again_is_stored_once() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let mut producer = open(&client).await;
    let faults = [
        Fault::AppendThenCut,
        Fault::Cut,
        Fault::AppendThen(Error::unknown(Reason::QuorumTimeout)),
    ];
    cluster.script("t", 0, faults);
    let transaction = producer.begin().await.expect("ready");
    for value in 0..200 {
        drop(transaction.send(record(0, value)).await.expect("taken"));
    }
    soon(transaction.commit()).await.expect("committed");
    assert_eq!(cluster.values("t", 0), numbers(0..200), "in order");
}

#[tokio::test]
async fn offsets_are_committed_with_the_transaction() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    fill(&client, 1, 0..10).await;
    let mut producer = open(&client).await;
    let config = GroupConfig {
        commit: CommitMode::Manual,
        ..GroupConfig::new("g", ["t"])
    };
    let mut consumer = member(&client, config);
    let records = take(&mut consumer, 10).await;
    assert_eq!(offsets(&records).len(), 10);
    let partition = consumer.assignment().remove(0);
    for commits in [false, true] {
        let transaction = producer.begin().await.expect("ready");
        let group = consumer.metadata();
        let commit = OffsetCommit::new(partition.clone(), 7);
        transaction.commit_offsets(&group, &[commit]).await.expect("it owns it");
        assert_eq!(committed(&cluster, 0), None, "they wait for the end");
        match commits {
            true => drop(transaction.commit().await.expect("committed")),
            false => transaction.abort().await.expect("aborted"),
        }
    }
    assert_eq!(committed(&cluster, 0), Some(7));

    // Who is no member commits nothing, and its transaction can only be aborted.
    for stranger in [GroupMetadata::of_member("g", "nobody", 1), GroupMetadata::outside("g")] {
        let transaction = producer.begin().await.expect("ready");
        let commit = OffsetCommit::new(partition.clone(), 9);
        transaction
            .commit_offsets(&stranger, &[commit])
            .await
            .expect_err("it owns nothing");
        let error = transaction.commit().await.expect_err("its offsets are missing");
        assert!(matches!(error, ClientError::TransactionAborted { .. }), "{error}");
    }
    assert_eq!(committed(&cluster, 0), Some(7));
}

/// A member's position waits for the offsets of a transaction that is open (KIP-447).
#[tokio::test]
async fn who_takes_up_a_partition_waits_for_offsets_that_are_not_decided() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    fill(&client, 1, 0..10).await;
    let mut producer = open(&client).await;
    let transaction = producer.begin().await.expect("ready");
    let partition = client
        .admin()
        .topic_partitions("t")
        .await
        .expect("it is there")
        .remove(0);
    let commit = OffsetCommit::new(partition, 6);
    transaction
        .commit_offsets(&GroupMetadata::outside("g"), &[commit])
        .await
        .expect("nobody is in the group");
    let mut consumer = member(&client, GroupConfig::new("g", ["t"]));
    assert!(timeout(Duration::from_millis(300), consumer.next()).await.is_err());
    transaction.commit().await.expect("committed");
    assert_eq!(soon(consumer.next()).await.expect("a record").offset, 6);
}
