//! Space comes back: topics are deleted and trimmed beside topics that stay, all written at once so that their records lie mixed on disk.
//!
//! `JANGADA_LONG=1` takes three times as much.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use jangada_client::{ProducerConfig, ProducerRecord};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Cluster, eventually, is_long};

/// Written to each of the four topics.
const TOPIC_BYTES: u64 = 160 << 20;

const RECORD_BYTES: usize = 8 * 1024;
const PARTITIONS: u32 = 2;

/// The space is back within this.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Bytes that a folder takes on disk.
fn disk_use(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_use(&entry.path()),
        // Of blocks: files that are to be written over, and holes, count as what they take.
        Ok(metadata) => metadata.blocks() * 512,
        // It has just gone.
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// The bytes of a topic's records, all replicas of one partition counted once.
async fn live_bytes(cluster: &Cluster, topic: &str) -> u64 {
    let states = cluster.admin().await.describe_partitions(Some(topic)).await;
    states
        .expect("the leaders answer")
        .iter()
        .filter_map(|state| state.size_bytes)
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "alone it takes 7 s; beside the whole suite the space was not back after 60 s, and why is not known"]
async fn space_of_deleted_and_trimmed_topics_comes_back() {
    let cluster = Cluster::start(3).await;
    let times = if is_long() { 3 } else { 1 };
    let topics = ["stays", "stays-too", "deleted", "trimmed"];
    for topic in topics {
        cluster.create_topic(topic, PARTITIONS, 3).await;
    }
    let client = cluster.client().await;
    let producer = client.producer(ProducerConfig::default());
    let producer = producer.expect("the defaults are valid");
    let mut random = StdRng::seed_from_u64(7);
    let mut deliveries = Vec::new();
    for number in 0..TOPIC_BYTES * times / RECORD_BYTES as u64 {
        for topic in topics {
            let mut value = vec![0; RECORD_BYTES];
            random.fill_bytes(&mut value);
            let record = ProducerRecord::new(topic)
                .with_partition((number % u64::from(PARTITIONS)) as u32)
                .with_value(value);
            deliveries.push(producer.send(record).await.expect("it is taken"));
        }
    }
    for delivery in deliveries {
        delivery.await.expect("it is written");
    }
    cluster.healthy().await;
    let live = live_bytes(&cluster, "stays").await + live_bytes(&cluster, "stays-too").await;
    assert!(live >= 2 * TOPIC_BYTES * times, "{live} bytes");
    let total = |cluster: &Cluster| -> Vec<u64> {
        let ids = cluster.ids().into_iter();
        ids.map(|id| disk_use(&cluster.node(id).data())).collect()
    };
    println!(
        "{live} bytes are to stay on each node, which take {:?} before",
        total(&cluster)
    );

    cluster.cli(&["topic", "rm", "deleted", "--yes"]).await.expect(0);
    cluster
        .cli(&["topic", "trim", "trimmed", "--before", "latest"])
        .await
        .expect(0);
    let gone = Instant::now();
    let enough = live + live / 2;
    eventually("the space comes back", BACK_WITHIN, || async {
        total(&cluster).into_iter().all(|bytes| bytes <= enough).then_some(())
    })
    .await;
    let took = gone.elapsed();
    println!("{:?} after {took:?}, {enough} are allowed", total(&cluster));
    // And nothing else went.
    for topic in ["stays", "stays-too"] {
        for partition in 0..PARTITIONS {
            let state = cluster.partition(topic, partition).await;
            let records = TOPIC_BYTES * times / RECORD_BYTES as u64 / u64::from(PARTITIONS);
            assert_eq!(state.log_start_offset, Some(0));
            assert_eq!(state.high_watermark, i64::try_from(records).ok());
        }
    }
    let consume = ["consume", "stays", "--exit-at-end", "-f", "%p %o\\n"];
    let consumed = cluster.cli(&consume).await.expect(0);
    let records = TOPIC_BYTES * times / RECORD_BYTES as u64;
    assert_eq!(consumed.text().lines().count() as u64, records);
}
