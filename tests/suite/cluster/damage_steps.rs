//! Damage to replicas of the metadata and the coordinator, and repairs that a crash cuts short.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Instant;

use super::bootstrap_steps::{dies, start_with_failpoint};
use super::damage::replace;
use super::damage_repair::{SCRUB, TOPIC, consumes, describe, files, fill, flip, options_with, repaired};
use crate::harness::{Cluster, WAIT, eventually};

/// Each log entry lies in a file of blobs, also small ones.
const ALL_IN_BLOBS: &str = "blob_bytes_min = 0\n";
/// The topic of the coordinator's shards.
const SHARDS: &str = "__groups";

/// Flips a bit in each place where these files have these bytes; returns the number of places.
fn flip_where(files: &[PathBuf], needle: &[u8]) -> usize {
    let mut count = 0;
    for path in files {
        // A node that runs may have let one go meanwhile.
        let (Ok(bytes), Ok(file)) = (fs::read(path), fs::File::options().write(true).open(path)) else {
            continue;
        };
        for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(needle)) {
            file.write_all_at(&[bytes[at] ^ 0x10], at as u64).expect("it is ours");
            count += 1;
        }
    }
    count
}

/// The metadata's leader is damaged: another one leads, everything goes on, and what an operator is told helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_of_the_metadata_hands_over_and_is_held_with_what_to_do() {
    let mut cluster = Cluster::start_with(3, options_with(SCRUB, ALL_IN_BLOBS)).await;
    cluster.create_topic("named-in-the-metadata", 1, 3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    let victim = describe(&cluster).await.and_then(|cluster| cluster.controller_id);
    let victim = victim.expect("the metadata has a leader").get();
    let count = flip_where(&files(&cluster, victim, "blob"), b"named-in-the-metadata");
    assert!(count > 0, "it was not flushed");
    eventually("it is held, and another one leads", WAIT, || async {
        let cluster = describe(&cluster).await?;
        let of_metadata = |replica: &&jangada_client::DamagedReplica| replica.topic.is_empty();
        let held = cluster.damaged_replicas.iter().find(of_metadata)?;
        let is_held = held.state == "held" && held.detail.contains("replace-broker");
        let leads = cluster.controller_id.is_some_and(|leader| leader.get() != victim);
        (is_held && leads).then_some(())
    })
    .await;
    let broker = format!("replace-broker {victim}");
    cluster
        .cli(&["cluster", "health"])
        .await
        .expect(3)
        .names(&["the metadata", &broker]);
    cluster.create_topic("later", 1, 3).await;
    consumes(&cluster, TOPIC, &lines).await;
    cluster.stop(victim).await;
    replace(&mut cluster, victim).await;
    repaired(&cluster, Instant::now()).await;
    consumes(&cluster, TOPIC, &lines).await;
}

/// Committed offsets are repaired like any other data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_of_the_coordinator_is_filled_again_and_no_offset_is_lost() {
    const GROUP: &str = "readers-of-orders";

    let mut options = options_with(SCRUB, ALL_IN_BLOBS);
    options.sections.push_str("[groups]\nshards = 1\n");
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let consume = ["consume", TOPIC, "--group", GROUP, "--exit-at-end"];
    cluster
        .cli_with(&["produce", TOPIC], b"one\ntwo\n".to_vec())
        .await
        .expect(0);
    cluster.cli(&consume).await.expect(0);
    let lines = fill(&cluster, TOPIC).await;
    cluster.healthy().await;
    let victim = cluster.leader(SHARDS, 0).await % 3 + 1;
    cluster.stop(victim).await;
    let count = flip_where(&files(&cluster, victim, "blob"), GROUP.as_bytes());
    assert!(count > 0, "it was not flushed");
    cluster.restart(victim);
    eventually("the shard's replica is filled again", WAIT, || async {
        let log = cluster.node(victim).log();
        let is_told = |line: &&str| line.contains("is filled again") && line.contains("__groups-0");
        log.lines().find(is_told).map(drop)
    })
    .await;
    repaired(&cluster, Instant::now()).await;
    // It leads now, and knows where the group is.
    let to = victim.to_string();
    cluster
        .cli(&["partition", "transfer-leader", SHARDS, "0", "--to", &to])
        .await
        .expect(0);
    let lag = cluster
        .cli(&["group", "lag", GROUP, "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(lag[0]["offset"], 2, "{lag}");
    let rest = cluster.cli(&consume).await.expect(0);
    assert!(rest.text() == lines, "{} lines", rest.text().lines().count());
}

/// The broker dies at each step of a repair, and goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_goes_on_after_a_crash_at_each_of_its_steps() {
    let mut cluster = Cluster::start_with(3, options_with(SCRUB, "")).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    let victim = cluster.leader(TOPIC, 0).await % 3 + 1;
    for step in ["repair.closed", "repair.given-up", "repair.deleted"] {
        eventually("there is something at rest", WAIT, || async {
            (files(&cluster, victim, "blob").len() > 1).then_some(())
        })
        .await;
        cluster.stop(victim).await;
        let filled = cluster.node(victim).log().matches("is filled again").count();
        flip(&files(&cluster, victim, "blob"));
        start_with_failpoint(&mut cluster, victim, step);
        dies(&mut cluster, victim, step).await;
        let since = Instant::now();
        cluster.restart(victim);
        eventually("it is filled again", WAIT, || async {
            let log = cluster.node(victim).log();
            (log.matches("is filled again").count() > filled).then_some(())
        })
        .await;
        repaired(&cluster, since).await;
    }
    let to = victim.to_string();
    cluster
        .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", &to])
        .await
        .expect(0);
    consumes(&cluster, TOPIC, &lines).await;
}
