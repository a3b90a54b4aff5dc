//! A producer that runs while its topic's limit is lowered: every record arrives, once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jangada_client::{ClientError, Codec, ProducerConfig, ProducerRecord};
use jangada_proto::v1::ProduceStreamRequest;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;

use crate::harness::{Cluster, WAIT, eventually, raw};

const TOPIC: &str = "orders";
const LIMITS: [&str; 3] = ["20000", "2048", "60000"];

/// A value that does not compress to nothing.
fn value(number: usize) -> String {
    let mut noise = number as u64 | 1;
    let mut digit = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from_digit((noise >> 60) as u32, 16).expect("four bits")
    };
    format!("{number} {}", (0..500).map(|_| digit()).collect::<String>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_producer_goes_on_when_the_limit_is_lowered() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for compression in [Codec::None, Codec::Lz4] {
        let topic = format!("{TOPIC}-{compression}");
        cluster.create_topic(&topic, 1, 3).await;
        let config = ProducerConfig {
            batch_bytes: 500_000,
            linger: Duration::from_millis(20),
            compression,
            ..ProducerConfig::default()
        };
        let producer = Arc::new(client.producer(config).expect("the settings are valid"));
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let sending = tokio::spawn({
            let (producer, stop, sent, topic) = (producer.clone(), stop.clone(), sent.clone(), topic.clone());
            async move {
                let mut deliveries = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        let record = ProducerRecord::new(&*topic).with_value(value(deliveries.len()));
                        deliveries.push(producer.send(record).await.expect("it is small enough"));
                    }
                    sent.store(deliveries.len(), Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                deliveries
            }
        });
        for limit in LIMITS {
            let goal = sent.load(Ordering::Relaxed) + 3_000;
            eventually("records are sent", WAIT, || {
                let enough = sent.load(Ordering::Relaxed) >= goal;
                async move { enough.then_some(()) }
            })
            .await;
            let set = format!("max.message.bytes={limit}");
            cluster.cli(&["topic", "alter", &topic, "-c", &set]).await.expect(0);
        }
        stop.store(true, Ordering::Relaxed);
        let deliveries = sending.await.expect("it does not panic");
        producer.flush().await;
        let count = deliveries.len();
        for (number, delivery) in deliveries.into_iter().enumerate() {
            let delivered = delivery.await;
            let delivered = delivered.unwrap_or_else(|error| panic!("{compression}, record {number}: {error}"));
            assert_eq!(delivered.offset, Some(number as i64), "{compression}");
        }
        let consumed = cluster
            .cli(&["consume", &topic, "--exit-at-end"])
            .await
            .expect(0)
            .text();
        let mut lines = 0;
        for (number, line) in consumed.lines().enumerate() {
            assert!(line == value(number), "{compression}: another record at {number}");
            lines += 1;
        }
        assert_eq!(lines, count, "{compression}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_by_itself_fails_alone() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let config = ProducerConfig {
        linger: Duration::from_secs(5),
        ..ProducerConfig::default()
    };
    let producer = cluster.client().await.producer(config).expect("the settings are valid");
    let mut deliveries = Vec::new();
    for number in 0..30 {
        let value = vec![b'x'; if number == 13 { 5_000 } else { 500 }];
        let record = ProducerRecord::new(TOPIC).with_value(value);
        deliveries.push(producer.send(record).await.expect("it is taken"));
    }
    let set = ["topic", "alter", TOPIC, "-c", "max.message.bytes=2048"];
    cluster.cli(&set).await.expect(0);
    producer.flush().await;
    for (number, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(_) if number != 13 => {}
            Err(ClientError::RecordTooLarge { limit: 2048, .. }) if number == 13 => {}
            other => panic!("record {number}: {other:?}"),
        }
    }
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 29);
}

/// Sends a batch again until the broker knows the topic's new settings, which the answer to another batch tells.
async fn is_refused(log: &mut raw::Log, other: Bytes, reason: &str) {
    eventually("the settings are known", WAIT, || {
        let (mut log, other) = (log.clone(), other.clone());
        async move {
            let answer = raw::produce(&mut log, raw::partition(TOPIC, 0), other).await;
            answer.err().filter(|status| raw::reason(status) == reason)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_is_a_duplicate_whatever_the_settings_say_now() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let producer = raw::new_producer(&mut log).await;
    let batch = |sequence| raw::batch(Some(raw::Producer { sequence, ..producer }), &[&[7; 3_000], b"b"]);
    // The leader is killed and the batch sent again, as if the response had been lost with it.
    let taken = batch(0);
    let appended = raw::produce(&mut log, raw::partition(TOPIC, 0), taken.clone()).await;
    let appended = appended.expect("it is small enough");
    cluster.kill(leader);
    let leader = eventually("another one leads", WAIT, || async {
        let states = cluster.admin().await.describe_partitions(Some(TOPIC)).await.ok()?;
        states[0]
            .leader_id
            .map(|broker| broker.get())
            .filter(|now| *now != leader)
    })
    .await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let settings = [
        ("max.message.bytes=2048", "BATCH_TOO_LARGE"),
        ("message.timestamp.before.max.ms=1", "INVALID_TIMESTAMP"),
    ];
    for (setting, reason) in settings {
        // A batch before this one is missing, so it is refused in any case.
        let old = batch(40);
        cluster.cli(&["topic", "alter", TOPIC, "-c", setting]).await.expect(0);
        is_refused(&mut log, old.clone(), reason).await;
        let again = raw::produce(&mut log, raw::partition(TOPIC, 0), taken.clone()).await;
        let again = again.expect("it was appended before");
        assert!(again.duplicate, "{again:?}");
        assert_eq!(
            (again.base_offset, again.last_offset),
            (appended.base_offset, appended.last_offset)
        );
        let request = ProduceStreamRequest {
            correlation_id: 1,
            partition: Some(raw::partition(TOPIC, 0)),
            batch: taken.clone(),
            ..ProduceStreamRequest::default()
        };
        let answers = raw::produce_stream(&mut log, vec![request]).await;
        let Some(StreamResult::Ok(streamed)) = &answers[0].result else {
            panic!("refused: {answers:?}");
        };
        assert!(streamed.duplicate, "{streamed:?}");
        // A batch that was not appended is refused with a definite error.
        for absent in [old, batch(2)] {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), absent).await;
            let status = raw::assert_refused(refused, reason, &[TOPIC]);
            assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"), "{status:?}");
        }
        assert_eq!(cluster.high_watermark(TOPIC, 0).await, 2);
        let wider = ["topic", "alter", TOPIC, "-c", "max.message.bytes=1048576"];
        cluster.cli(&wider).await.expect(0);
    }
}
