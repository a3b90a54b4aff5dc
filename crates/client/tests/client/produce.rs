//! Producing without faults.

use std::time::Duration;

use futures::future::join_all;
use jangada_client::{Acks, ClientError, Codec, Delivery, Producer, ProducerConfig, ProducerRecord};
use jangada_types::partition_for_key;

use crate::fake::Cluster;

pub fn record(partition: u32, value: impl ToString) -> ProducerRecord {
    ProducerRecord::new("t")
        .with_partition(partition)
        .with_value(value.to_string())
}

/// Sends numbered values to a partition, each as a batch.
pub async fn send(producer: &Producer, partition: u32, values: std::ops::Range<u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for value in values {
        deliveries.push(producer.send(record(partition, value)).await.expect("taken"));
    }
    deliveries
}

pub fn numbers(values: std::ops::Range<u32>) -> Vec<String> {
    values.map(|value| value.to_string()).collect()
}

/// Batches of few records, so that many are in flight.
pub fn small_batches() -> ProducerConfig {
    ProducerConfig {
        batch_bytes: 1024,
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    }
}

#[tokio::test]
async fn records_arrive_in_order_with_their_offsets() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 3);
    let client = cluster.client().await;
    for (compression, linger) in [(Codec::None, 0), (Codec::None, 5), (Codec::Zstd, 5), (Codec::Snappy, 0)] {
        let linger = Duration::from_millis(linger);
        let config = ProducerConfig {
            compression,
            linger,
            batch_bytes: 2048,
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).expect("good settings");
        let before = cluster.values("t", 1).len();
        let deliveries = send(&producer, 1, 0..1000).await;
        for (index, delivered) in join_all(deliveries).await.into_iter().enumerate() {
            let delivered = delivered.expect("delivered");
            assert_eq!(
                (delivered.partition, delivered.offset),
                (1, Some((before + index) as i64))
            );
        }
        assert_eq!(cluster.values("t", 1)[before..], numbers(0..1000));
    }
}

#[tokio::test]
async fn keys_go_where_kafka_puts_them() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 7);
    let producer = cluster
        .client()
        .await
        .producer(ProducerConfig::default())
        .expect("good settings");
    for n in 0..50 {
        let key = format!("key-{n}");
        let delivery = producer
            .send(ProducerRecord::new("t").with_key(key.clone()).with_value("x"))
            .await
            .expect("taken");
        assert_eq!(
            delivery.await.expect("delivered").partition,
            partition_for_key(key.as_bytes(), 7).get()
        );
    }
}

#[tokio::test]
async fn records_without_key_spread_over_the_partitions() {
    let cluster = Cluster::start(3);
    cluster.create_topic("t", 4);
    let producer = cluster.client().await.producer(small_batches()).expect("good settings");
    for n in 0..400 {
        let sent = producer
            .send(ProducerRecord::new("t").with_value(format!("{n:0100}")))
            .await;
        drop(sent.expect("taken"));
    }
    producer.close().await;
    for partition in 0..4 {
        assert!(cluster.values("t", partition).len() > 20, "partition {partition}");
    }
}

#[tokio::test]
async fn headers_and_times_arrive() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let producer = cluster
        .client()
        .await
        .producer(ProducerConfig::default())
        .expect("good settings");
    let sent = ProducerRecord::new("t")
        .with_value("v")
        .with_header("h", "1")
        .with_timestamp_ms(1234);
    let delivered = producer.send(sent).await.expect("taken").await.expect("delivered");
    assert_eq!(delivered.timestamp_ms, 1234);
    let batch = cluster.state().partition("t", 0).batches[0].clone();
    let records = jangada_types::batch::decode_records(&batch, 1000).expect("whole");
    assert_eq!(
        (records[0].timestamp_ms, records[0].headers[0].key.as_str()),
        (1234, "h")
    );
}

#[tokio::test]
async fn flush_leaves_nothing_to_linger() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let config = ProducerConfig {
        linger: Duration::from_secs(60),
        ..ProducerConfig::default()
    };
    let producer = cluster.client().await.producer(config).expect("good settings");
    let delivery = producer.send(record(0, "x")).await.expect("taken");
    producer.flush().await;
    assert!(delivery.try_result().expect("known after the flush").is_ok());
    producer.flush().await;
}

#[tokio::test]
async fn a_closed_producer_takes_nothing() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let producer = cluster
        .client()
        .await
        .producer(ProducerConfig::default())
        .expect("good settings");
    let clone = producer.clone();
    let delivery = producer.send(record(0, "x")).await.expect("taken");
    producer.close().await;
    assert!(delivery.try_result().expect("known after the close").is_ok());
    assert!(matches!(clone.send(record(0, "y")).await, Err(ClientError::Closed)));
    clone.flush().await;
}

#[tokio::test]
async fn a_dropped_producer_still_delivers() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let config = ProducerConfig {
        linger: Duration::from_secs(60),
        ..ProducerConfig::default()
    };
    let producer = cluster.client().await.producer(config).expect("good settings");
    let delivery = producer.send(record(0, "x")).await.expect("taken");
    drop(producer);
    delivery.await.expect("delivered without lingering");
}

#[tokio::test]
async fn acks_none_gives_no_offset() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let config = ProducerConfig {
        acks: Acks::None,
        idempotent: false,
        ..small_batches()
    };
    let producer = cluster.client().await.producer(config).expect("good settings");
    for delivered in join_all(send(&producer, 0, 0..100).await).await {
        assert_eq!(delivered.expect("taken by the leader").offset, None);
    }
    assert_eq!(cluster.values("t", 0), numbers(0..100));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 2);
    let producer = cluster
        .client()
        .await
        .producer(ProducerConfig::default())
        .expect("good settings");
    let large = ProducerRecord::new("t").with_value(vec![0; 2 << 20]);
    assert!(matches!(
        producer.send(large).await,
        Err(ClientError::RecordTooLarge { .. })
    ));
    assert!(matches!(
        producer.send(record(2, "x")).await,
        Err(ClientError::UnknownPartition { partitions: 2, .. })
    ));
    let nowhere = ProducerRecord::new("nowhere").with_value("x");
    assert!(matches!(
        producer.send(nowhere).await,
        Err(ClientError::UnknownTopic { .. })
    ));
}

#[tokio::test]
async fn a_full_buffer_makes_send_wait() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    let config = ProducerConfig {
        buffer_bytes: 4096,
        ..small_batches()
    };
    let producer = client.producer(config).expect("good settings");
    producer
        .send(record(0, "first"))
        .await
        .expect("taken")
        .await
        .expect("delivered");
    cluster.freeze(1);
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move { send(&producer, 0, 0..1000).await }
    });
    // That it does not end has no moment at which it is true: this is the time that it would need to end.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!sending.is_finished(), "a thousand records do not fit");
    cluster.thaw();
    for delivered in join_all(sending.await.expect("no panic")).await {
        delivered.expect("delivered");
    }
    assert_eq!(cluster.values("t", 0)[1..], numbers(0..1000));
}
