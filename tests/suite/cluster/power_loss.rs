//! Nodes lose power: what was acknowledged is there, once, in order, and every node starts again.
//!
//! Each data directory is an ext4 of its own that stops without writing anything more; see [`crate::harness::Disk`]. That takes root: where
//! it is not to be had these tests say that they were not run.

use std::fs;
use std::time::Instant;

use crate::harness::{Cluster, Load, Options, can_mount};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;

/// Of each node's disk.
const DISK_BYTES: u64 = 1 << 30;

/// Every so many records of a partition one is large, and goes to a blob file.
const LARGE_EVERY: u64 = 40;
const LARGE_BYTES: usize = 64 * 1024;

/// `Err` was printed.
async fn cluster() -> Result<Cluster, ()> {
    if let Err(why) = can_mount() {
        println!("not run: {why}");
        return Err(());
    }
    let options = Options {
        disk_bytes: Some(DISK_BYTES),
        ..Options::default()
    };
    Ok(Cluster::start_with(3, options).await)
}

fn rounds() -> usize {
    if std::env::var_os("JANGADA_LONG").is_some() {
        12
    } else {
        3
    }
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
        assert!(
            !log.contains("lost the end of its write-ahead log"),
            "node {id}:\n{log}"
        );
    }
}

/// The rig tells: what was not synced is gone, what was synced is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_power_forgets_what_was_not_synced() {
    if let Err(why) = can_mount() {
        println!("not run: {why}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let mut disk = crate::harness::Disk::new(path.join("disk"), path.join("mount"), DISK_BYTES);
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
    let Ok(mut cluster) = cluster().await else { return };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_loses_power_while_the_others_go_on() {
    let Ok(mut cluster) = cluster().await else { return };
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
    // What the ones that lost power were sent again is on them, too: it is all there without the others' memory.
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
