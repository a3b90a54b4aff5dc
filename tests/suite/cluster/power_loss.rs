//! Nodes lose power: acknowledged records are there, once, in order, and every node starts again.
//!
//! Each data directory is an ext4 of its own that stops without writing anything more; see [`crate::harness::Disk`]. That takes root: where
//! it is not to be had these tests say that they were not run.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use crate::harness::{Cluster, Disk, Load, Options, can_mount, cli, is_long, skipped, strace};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;

/// Size of each node's disk.
const DISK_BYTES: u64 = 1 << 30;

/// One in this many records of a partition is large, and goes to a blob file.
const LARGE_EVERY: u64 = 40;
const LARGE_BYTES: usize = 64 * 1024;

/// Nodes with disks that can lose power, for this test; none where it cannot be run, which is said.
async fn cluster(test: &str, nodes: u32) -> Option<Cluster> {
    if let Err(why) = can_mount() {
        skipped(test, &why);
        return None;
    }
    let options = Options {
        disk_bytes: Some(DISK_BYTES),
        ..Options::default()
    };
    Some(Cluster::start_with(nodes, options).await)
}

fn rounds() -> usize {
    if is_long() { 12 } else { 3 }
}

/// Waits for a write to every partition.
async fn written(load: &Load) {
    let now = Instant::now();
    for partition in 0..PARTITIONS {
        load.takes_writes(partition, now).await;
    }
}

fn assert_no_tail_was_lost(cluster: &Cluster) {
    for id in cluster.ids() {
        let log = cluster.node(id).log();
        assert!(!log.contains("of its write-ahead log ("), "node {id}:\n{log}");
    }
}

/// The rig tells: what was not synced is gone, what was synced is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_power_forgets_what_was_not_synced() {
    if let Err(why) = can_mount() {
        return skipped("a_disk_without_power_forgets_what_was_not_synced", &why);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let mut disk = Disk::new(path.join("disk"), path.join("mount"), DISK_BYTES);
    let bytes = vec![7; 1 << 20];
    let [synced, unsynced] = ["synced", "unsynced"].map(|name| disk.path().join(name));
    fs::write(&synced, &bytes).expect("it is mounted");
    let synced_file = fs::File::open(&synced).expect("it was written");
    synced_file.sync_all().expect("it can be synced");
    drop(synced_file);
    fs::write(&unsynced, &bytes).expect("it is mounted");
    disk.lose_power();
    assert!(
        fs::read(&synced).is_ok_and(|found| found == bytes),
        "a synced file is gone"
    );
    assert!(
        fs::read(&unsynced).is_ok_and(|found| found != bytes) || !unsynced.exists(),
        "an unsynced file is there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_all_nodes_lose_power() {
    let Some(mut cluster) = cluster("nothing_acknowledged_is_lost_when_all_nodes_lose_power", 3).await else {
        return;
    };
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let load = Load::start(&cluster, TOPIC, PARTITIONS, LARGE_EVERY, LARGE_BYTES).await;
    for round in 0..rounds() {
        written(&load).await;
        // Metadata that is as new as can be, with one record.
        let topic = format!("round-{round}");
        cluster.create_topic(&topic, 1, 3).await;
        let run = cluster.cli_with(&["produce", &topic], b"one\n".to_vec()).await;
        run.expect(0);
        let alter = [
            "topic",
            "alter",
            TOPIC,
            "-c",
            &format!("retention.ms={}", 86_400_000 + round),
        ];
        cluster.cli(&alter).await.expect(0);
        cluster.lose_power(&cluster.ids());
        cluster.start_all();
        cluster.healthy().await;
        let consumed = cluster.cli(&["consume", &topic, "--exit-at-end"]).await.expect(0);
        assert_eq!(consumed.text(), "one\n");
        let describe = cluster.cli(&["topic", "describe", TOPIC, "-o", "json"]).await.expect(0);
        assert!(
            describe.text().contains(&(86_400_000 + round).to_string()),
            "{}",
            describe.text()
        );
    }
    let acknowledged = load.finish(&cluster).await.check();
    assert_no_tail_was_lost(&cluster);
    println!(
        "{} times all nodes lost power: {acknowledged} acknowledged records are there",
        rounds()
    );
}

/// Bytes that a killed process had written but not synced are replayed from the page cache and built upon. They must be
/// on the disk before that, or a power failure takes them from the middle of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restart_replays_outlives_a_power_failure() {
    let test = "what_a_restart_replays_outlives_a_power_failure";
    let Some(mut cluster) = cluster(test, 1).await else {
        return;
    };
    if let Err(why) = strace::works_in(&cluster.folder()) {
        return skipped(test, &why);
    }
    cluster.create_topic(TOPIC, 1, 1).await;
    let produce = async |cluster: &Cluster, lines: &[u8]| {
        let run = cluster.cli_with(&["produce", TOPIC], lines.to_vec()).await;
        run.expect(0);
    };
    produce(&cluster, b"before\n").await;

    // It dies in the sync of a commit of many pages.
    let deadly = strace::kill_at_sync(cluster.node(1).pid(), &newest_wal(&cluster)).await;
    let large = [vec![b'x'; 400 * 1024], b"\n".to_vec()].concat();
    let brokers = cluster.brokers();
    let producer = tokio::spawn(async move { cli::run(&brokers, &["produce", TOPIC], large).await });
    cluster.ended(1).await;
    drop(deadly);
    cluster.restart(1);
    cluster.healthy().await;
    // The client sends it again if it was lost; it was not, and is not there twice.
    producer.await.expect("the producer ran").expect(0);
    produce(&cluster, b"after-1\nafter-2\n").await;
    cluster.lose_power(&[1]);
    cluster.restart(1);
    cluster.healthy().await;
    produce(&cluster, b"last\n").await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    let lines: Vec<usize> = consumed.text().lines().map(str::len).collect();
    assert_eq!(lines, [6, 400 * 1024, 7, 7, 4]);
    assert_no_tail_was_lost(&cluster);
}

/// The file of the write-ahead log that node 1 writes to.
fn newest_wal(cluster: &Cluster) -> PathBuf {
    let files = fs::read_dir(cluster.node(1).data().join("store/rocksdb")).expect("the store is there");
    let wals = files.map(|file| file.expect("it can be listed").path());
    let wals = wals.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    // The numbers in their names have one length.
    wals.max().expect("the store has a write-ahead log")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_loses_power_while_the_others_go_on() {
    let Some(mut cluster) = cluster("one_node_loses_power_while_the_others_go_on", 3).await else {
        return;
    };
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let load = Load::start(&cluster, TOPIC, PARTITIONS, LARGE_EVERY, LARGE_BYTES).await;
    for round in 0..rounds() {
        written(&load).await;
        let victim = cluster.leader(TOPIC, round as u32 % PARTITIONS).await;
        cluster.lose_power(&[victim]);
        // The others go on; after it the one is behind, and has to catch up.
        written(&load).await;
        cluster.restart(victim);
        cluster.healthy().await;
    }
    // The brokers that lost power have synced what their peers sent them again, so nothing is missing when all lose power at once.
    written(&load).await;
    cluster.lose_power(&cluster.ids());
    cluster.start_all();
    cluster.healthy().await;
    let acknowledged = load.finish(&cluster).await.check();
    assert_no_tail_was_lost(&cluster);
    println!(
        "{} times one node lost power: {acknowledged} acknowledged records are there",
        rounds()
    );
}
