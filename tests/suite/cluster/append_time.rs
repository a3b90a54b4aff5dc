//! `message.timestamp.type=LogAppendTime`: the leader's clock counts, from the producer's answer to the search by time.

use std::time::SystemTime;

use jangada_client::{Codec, OffsetAt, ProducerConfig, ProducerRecord};

use crate::harness::{Cluster, WAIT, consumer_from_start};

const TOPIC: &str = "readings";

/// The timestamp in the producer's records: 2001.
const CLAIMED_MS: i64 = 1_000_000_000_000;

fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
    i64::try_from(since.as_millis()).expect("not that late")
}

/// Sends records as one batch; returns the times in their deliveries.
async fn produce(cluster: &Cluster, compression: Codec) -> Vec<i64> {
    let config = ProducerConfig {
        linger: std::time::Duration::from_millis(50),
        compression,
        ..ProducerConfig::default()
    };
    let producer = cluster.client().await.producer(config).expect("good settings");
    let mut deliveries = Vec::new();
    for number in 0..3 {
        let mut record = ProducerRecord::new(TOPIC).with_value(format!("reading {number}"));
        record.timestamp_ms = Some(CLAIMED_MS + number);
        deliveries.push(producer.send(record).await.expect("it is taken"));
    }
    let mut times = Vec::new();
    for delivery in deliveries {
        times.push(delivery.await.expect("it is written").timestamp_ms);
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_append_time_the_leaders_clock_counts_everywhere() {
    let cluster = Cluster::start(1).await;
    let create = ["topic", "create", TOPIC, "--partitions", "1", "--replicas", "1"];
    // Without a limit of age, so that records with timestamps of 2001 are kept.
    let create = [&create[..], &["-c", "retention.ms=-1"]].concat();
    cluster.cli(&create).await.expect(0);
    let mut expected = produce(&cluster, Codec::None).await;
    assert_eq!(expected, [CLAIMED_MS, CLAIMED_MS + 1, CLAIMED_MS + 2]);

    let alter = ["topic", "alter", TOPIC, "-c", "message.timestamp.type=LogAppendTime"];
    cluster.cli(&alter).await.expect(0);
    let changed_ms = now_ms();
    // The leader hears of it a moment later.
    loop {
        let told = produce(&cluster, Codec::None).await;
        expected.extend(&told);
        if told[0] >= changed_ms {
            break;
        }
        assert!(now_ms() - changed_ms < 60_000, "it is not taken up");
    }
    let first_of_ours = expected.iter().position(|time| *time >= changed_ms).expect("the last");
    let first_of_ours = i64::try_from(first_of_ours).expect("few");
    for compression in [Codec::None, Codec::Zstd] {
        let before = now_ms();
        let told = produce(&cluster, compression).await;
        let after = now_ms();
        for time in &told {
            assert!((before..=after).contains(time), "{time} is not in {before} to {after}");
        }
        expected.extend(told);
    }

    // Readers see what the producer was told.
    let client = cluster.client().await;
    let mut consumer = consumer_from_start(&client, TOPIC).await;
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let batch = tokio::time::timeout(WAIT, consumer.next_batch()).await;
        let batch = batch.expect("records come").expect("it is read");
        seen.extend(batch.into_iter().map(|record| record.timestamp_ms));
    }
    assert_eq!(seen, expected);
    let run = cluster
        .cli(&["consume", TOPIC, "--exit-at-end", "-f", r"%T\n"])
        .await
        .expect(0);
    let printed: Vec<i64> = run.text().lines().map(|line| line.parse().expect("a time")).collect();
    assert_eq!(printed, expected);
    let plain = cluster
        .cli(&["consume", TOPIC, "--exit-at-end", "-o", "jsonl"])
        .await
        .expect(0);
    let text = plain.text();
    let last = text.lines().next_back().expect("records");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["timestamp_ms"].as_i64(), expected.last().copied());

    // And so does the search by time.
    for (ms, offset) in [
        (CLAIMED_MS, Some(0)),
        (CLAIMED_MS + 2, Some(2)),
        (changed_ms, Some(first_of_ours)),
        (now_ms() + 1, None),
    ] {
        let found = client
            .list_offsets(TOPIC, 0, OffsetAt::Timestamp(ms))
            .await
            .expect("the leader answers");
        assert_eq!(found.offset, offset, "at {ms}");
    }
    let last_batch = expected[expected.len() - 3];
    let found = client
        .list_offsets(TOPIC, 0, OffsetAt::Timestamp(last_batch))
        .await
        .expect("the leader answers");
    let first_then = expected.iter().position(|time| *time >= last_batch);
    assert_eq!(found.offset, first_then.and_then(|at| i64::try_from(at).ok()));
}
