//! A producer whose topic changes meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use jangada_client::{Client, ClientError, Codec, Producer, ProducerConfig, ProducerRecord};
use jangada_types::batch::decode_records;

use crate::fake::Cluster;
use crate::group::soon;

/// A config by which batches gather until they are full or flushed.
fn gathering() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::from_secs(5),
        ..ProducerConfig::default()
    }
}

fn record(bytes: usize) -> ProducerRecord {
    ProducerRecord::new("t").with_partition(0).with_value(vec![b'x'; bytes])
}

/// Sends records in as few batches as possible; returns each outcome.
async fn wave(producer: &Producer, records: usize) -> Vec<Result<(), ClientError>> {
    let mut deliveries = Vec::new();
    for _ in 0..records {
        deliveries.push(producer.send(record(1000)).await.expect("taken"));
    }
    soon(producer.flush()).await;
    let delivered = soon(join_all(deliveries)).await;
    delivered.into_iter().map(|delivered| delivered.map(drop)).collect()
}

#[tokio::test]
async fn a_limit_that_is_raised_lets_larger_records_in() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    cluster.limit_batches("t", 2000);
    let producer = cluster.client().await.producer(gathering()).expect("good settings");
    let error = producer.send(record(3000)).await.expect_err("too large");
    assert!(matches!(error, ClientError::RecordTooLarge { .. }), "{error}");
    cluster.limit_batches("t", 100_000);
    let delivery = producer.send(record(3000)).await.expect("it fits now");
    soon(producer.flush()).await;
    soon(delivery).await.expect("delivered");
    let delivered = wave(&producer, 60).await;
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
    let largest = cluster.state().partition("t", 0).batches.iter().map(|b| b.len()).max();
    assert!(largest > Some(50_000), "batches grow as well: {largest:?}");
}

/// The values of the log, which are numbers at the front of each value.
fn numbers(cluster: &Cluster) -> Vec<usize> {
    let values = cluster.values("t", 0);
    let number = |value: &String| value.trim_end_matches('x').parse().expect("a number");
    values.iter().map(number).collect()
}

#[tokio::test]
async fn batches_that_a_lowered_limit_refuses_are_sent_in_parts_and_in_order() {
    for compression in [Codec::None, Codec::Lz4] {
        for idempotent in [true, false] {
            let cluster = Cluster::start(1);
            cluster.create_topic("t", 1);
            let config = ProducerConfig {
                compression,
                idempotent,
                ..gathering()
            };
            let producer = cluster.client().await.producer(config).expect("good settings");
            let numbered = |number: usize| {
                let value = format!("{number}{}", "x".repeat(1000));
                ProducerRecord::new("t").with_partition(0).with_value(value)
            };
            let mut deliveries = Vec::new();
            for number in 0..400 {
                deliveries.push(producer.send(numbered(number)).await.expect("taken"));
            }
            // Nothing was sent yet, and all of it is larger than that.
            cluster.limit_batches("t", if compression == Codec::None { 5000 } else { 400 });
            soon(producer.flush()).await;
            for (number, delivered) in soon(join_all(deliveries)).await.into_iter().enumerate() {
                let delivered = delivered.unwrap_or_else(|error| panic!("{compression} {number}: {error}"));
                assert_eq!(delivered.offset, Some(number as i64));
            }
            assert_eq!(numbers(&cluster), (0..400).collect::<Vec<_>>());
            // The refusal also has the metadata asked for, so the client itself knows the new limit some time later.
            let state = || {
                let mut state = cluster.state();
                let partition = state.partition("t", 0);
                (partition.attempts.len(), partition.batches.len())
            };
            soon(async {
                for wave in 0.. {
                    let (attempts, stored) = state();
                    let mut deliveries = Vec::new();
                    for number in 0..8 {
                        match producer.send(numbered(400 + 8 * wave + number)).await {
                            Ok(delivery) => deliveries.push(delivery),
                            // A record is measured before it is compressed.
                            Err(ClientError::RecordTooLarge { .. }) if compression == Codec::Lz4 => return,
                            Err(error) => panic!("{compression} {wave}: {error}"),
                        }
                    }
                    soon(producer.flush()).await;
                    for delivered in soon(join_all(deliveries)).await {
                        delivered.expect("delivered");
                    }
                    let (attempts, stored) = (state().0 - attempts, state().1 - stored);
                    // Eight records are two batches of the new size, and one of the old one, which is refused.
                    if compression == Codec::None && (attempts, stored) == (2, 2) {
                        return;
                    }
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn of_a_batch_only_the_record_that_is_too_large_fails() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let producer = cluster.client().await.producer(gathering()).expect("good settings");
    let mut deliveries = Vec::new();
    for number in 0..40 {
        let bytes = if number == 17 { 6000 } else { 1000 };
        let value = format!("{number}{}", "x".repeat(bytes));
        let record = ProducerRecord::new("t").with_partition(0).with_value(value);
        deliveries.push(producer.send(record).await.expect("taken"));
    }
    cluster.limit_batches("t", 5000);
    soon(producer.flush()).await;
    for (number, delivered) in soon(join_all(deliveries)).await.into_iter().enumerate() {
        match delivered {
            Ok(_) if number != 17 => {}
            Err(ClientError::RecordTooLarge { limit: 5000, size, .. }) if number == 17 => assert!(size > 6000),
            other => panic!("record {number}: {other:?}"),
        }
    }
    assert_eq!(
        numbers(&cluster),
        (0..40).filter(|number| *number != 17).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn what_does_not_compress_is_sent_as_it_is() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let mut noise = 1_u64;
    let mut byte = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise >> 32) as u8
    };
    for compression in Codec::ALL {
        let config = ProducerConfig {
            compression,
            batch_bytes: 1 << 20,
            ..gathering()
        };
        let producer = client.producer(config).expect("good settings");
        let mut deliveries = Vec::new();
        for _ in 0..15_000 {
            let value: Vec<u8> = (0..90).map(|_| byte()).collect();
            let record = ProducerRecord::new("t").with_partition(0).with_value(value);
            deliveries.push(producer.send(record).await.expect("taken"));
        }
        soon(producer.flush()).await;
        for delivered in soon(join_all(deliveries)).await {
            delivered.unwrap_or_else(|error| panic!("{compression:?}: {error}"));
        }
    }
    let state = &mut cluster.state();
    let records = state.partition("t", 0).batches.iter();
    let records = records.flat_map(|batch| decode_records(batch, 2 << 20).expect("whole"));
    assert_eq!(records.count(), 15_000 * Codec::ALL.len());
}

#[tokio::test]
async fn a_topic_that_was_created_anew_is_written_to_at_once() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let producer = client.producer(gathering()).expect("good settings");
    assert!(wave(&producer, 1).await.iter().all(Result::is_ok));
    cluster.delete_topic("t");
    cluster.create_topic("t", 1);
    cluster.create_topic("u", 1);
    // Asking for another topic brings news of this one.
    client.topic("u").await.expect("there");
    // The producer's task has been woken by that, and runs before this goes on.
    tokio::task::yield_now().await;
    let delivered = wave(&producer, 1).await;
    assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
    assert_eq!(cluster.values("t", 0).len(), 1);
}

#[tokio::test]
async fn partitions_that_are_added_are_used() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 2);
    let mut config = cluster.config();
    config.metadata_max_age = Duration::from_millis(50);
    let client = Client::connect(config).await.expect("it answers");
    let producer = client.producer(ProducerConfig::default()).expect("good settings");
    let send = async |key: usize| {
        let record = ProducerRecord::new("t").with_key(format!("key {key}"));
        let delivery = producer.send(record).await.expect("taken");
        soon(delivery).await.expect("delivered").partition
    };
    assert!(send(0).await < 2);
    let total = client.admin().create_partitions("t", 4).await;
    total.expect("the fake does it");
    let mut used = BTreeSet::new();
    soon(async {
        for key in 0.. {
            used.insert(send(key).await);
            if used.len() == 4 {
                break;
            }
        }
    })
    .await;
}
