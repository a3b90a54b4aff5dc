//! Clusters of one, three and five nodes, and what they hold after all of their nodes died.

use std::path::Path;
use std::time::{Duration, Instant};

use jangada_client::{ProducerConfig, ProducerRecord};

use crate::harness::{Cluster, Options, is_too_long};

/// Produces these lines; expects success.
async fn produce(cluster: &Cluster, topic: &str, lines: &str) {
    cluster
        .cli_with(&["produce", topic], lines.as_bytes().to_vec())
        .await
        .expect(0);
}

async fn consume(cluster: &Cluster, topic: &str) -> String {
    cluster.cli(&["consume", topic, "--exit-at-end"]).await.expect(0).text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_come_back_in_any_order() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic("orders", 1, 3).await;
    let mut expected = String::new();
    for (round, order) in [[3, 1, 2], [2, 3, 1]].into_iter().enumerate() {
        let line = format!("round {round}\n");
        produce(&cluster, "orders", &line).await;
        expected.push_str(&line);
        cluster.kill_all();
        for id in order {
            cluster.restart(id);
        }
        cluster.healthy().await;
        assert_eq!(consume(&cluster, "orders").await, expected);
    }
    produce(&cluster, "orders", "after\n").await;
    assert_eq!(consume(&cluster, "orders").await, expected + "after\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() {
    let mut cluster = Cluster::start(1).await;
    cluster.create_topic("orders", 2, 1).await;
    produce(&cluster, "orders", "a\n").await;
    cluster.kill(1);
    cluster.restart(1);
    cluster.healthy().await;
    assert_eq!(consume(&cluster, "orders").await, "a\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_survive_the_death_of_two() {
    let mut cluster = Cluster::start(5).await;
    cluster.create_topic("orders", 5, 5).await;
    let brokers = cluster
        .admin()
        .await
        .describe_cluster()
        .await
        .expect("a broker answers")
        .brokers;
    let voters = brokers.iter().filter(|broker| broker.metadata_role.as_str() == "voter");
    assert_eq!(voters.count(), 5);
    assert_eq!(
        brokers.iter().map(|broker| broker.leaders).collect::<Vec<_>>(),
        [1; 5],
        "leaders are not spread"
    );
    cluster.kill(1);
    cluster.kill(4);
    let lines: String = (0..50).map(|number| format!("key {number}\t{number}\n")).collect();
    cluster
        .cli_with(&["produce", "orders", "--key-separator", "\\t"], lines.into_bytes())
        .await
        .expect(0);
    assert_eq!(consume(&cluster, "orders").await.lines().count(), 50);
    cluster.start_all();
    cluster.healthy().await;
    assert_eq!(consume(&cluster, "orders").await.lines().count(), 50);
}

/// Bytes in the write-ahead log of a node in this test.
const UNFLUSHED_BYTES: u64 = 1 << 30;

/// A cluster serves again within this time after a crash with that much in the log.
const READY_MAX: Duration = Duration::from_secs(10);

/// The files with this ending in a folder: number and bytes.
fn files(folder: &Path, ending: &str) -> (usize, u64) {
    let files = std::fs::read_dir(folder).expect("the node made it").flatten();
    let files = files.filter(|file| file.path().extension().is_some_and(|found| found == ending));
    let sizes: Vec<u64> = files
        .map(|file| file.metadata().map_or(0, |metadata| metadata.len()))
        .collect();
    (sizes.len(), sizes.iter().sum())
}

/// With `JANGADA_LONG=1` only: it writes some GiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gib_of_unflushed_records_is_replayed_in_time() {
    if is_too_long("a restart with a GiB of unflushed records") {
        return;
    }
    let sections = "[storage]\nmemtable_bytes = 2147483648\nmemtables_bytes = 8589934592\nwal_bytes = 8589934592\n\
                    tail_bytes = 16777216\ndisk_reserve_bytes = 0\n";
    let options = Options {
        alone: true,
        sections: sections.to_owned(),
        plain_storage: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic("orders", 6, 3).await;
    let client = cluster.client().await;
    let producer = client.producer(ProducerConfig::default());
    let producer = producer.expect("the defaults are valid");
    let value = vec![7; 8 * 1024];
    let count = UNFLUSHED_BYTES / value.len() as u64;
    let mut deliveries = Vec::new();
    for number in 0..count {
        let record = ProducerRecord::new("orders")
            .with_partition((number % 6) as u32)
            .with_value(value.clone());
        deliveries.push(producer.send(record).await.expect("it is taken"));
    }
    for delivery in deliveries {
        delivery.await.expect("it is written");
    }
    cluster.healthy().await;
    cluster.kill_all();
    for id in cluster.ids() {
        let rocksdb = cluster.node(id).data().join("store/rocksdb");
        let (blobs, _) = files(&rocksdb, "blob");
        let (logs, bytes) = files(&rocksdb, "log");
        println!("node {id}: {logs} files of the write-ahead log with {bytes} bytes, {blobs} blob files");
        assert!(bytes >= UNFLUSHED_BYTES, "{bytes} bytes to replay");
        assert_eq!(blobs, 0, "records were flushed");
    }
    let start = Instant::now();
    cluster.start_all();
    let mut ready = Vec::new();
    for id in cluster.ids() {
        cluster.ready(id).await;
        ready.push(start.elapsed());
    }
    cluster.cli(&["cluster", "health", "--wait", "60"]).await.expect(0);
    let healthy = start.elapsed();
    println!("nodes ready after {ready:?}, the cluster is healthy after {healthy:?}");
    for partition in 0..6 {
        let state = cluster.partition("orders", partition).await;
        let expected = count / 6 + u64::from(u64::from(partition) < count % 6);
        assert_eq!(state.high_watermark, i64::try_from(expected).ok());
    }
    assert!(healthy < READY_MAX, "{healthy:?}");
}
