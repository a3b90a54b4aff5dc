//! A data directory is put back to an older state: its broker must not vote with what it forgot. Peers remember how far
//! they have seen it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Cluster, cli, is_long};

const TOPIC: &str = "orders";
/// Records before the copy is made, and below those that the copy lacks.
const BEFORE: u32 = 40;
const AFTER: u32 = 60;
/// Words in the refusal of a broker whose directory was put back.
const SEEN: &str = "which other brokers have seen";

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

async fn produce(cluster: &Cluster, numbers: std::ops::Range<u32>) {
    let input = lines(numbers).into_bytes();
    cluster.cli_with(&["produce", TOPIC], input).await.expect(0);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it has a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

/// Copies the data directory of a node that is down.
fn set_aside(cluster: &Cluster, id: u32) -> PathBuf {
    let aside = cluster.folder().join(format!("aside-{id}"));
    copy(&cluster.node(id).data(), &aside);
    aside
}

fn put_back(cluster: &Cluster, id: u32, aside: &Path) {
    fs::remove_dir_all(cluster.node(id).data()).expect("it is ours");
    copy(aside, &cluster.node(id).data());
}

/// Asserts that the node ends by itself, and says what is missing and what to do.
async fn is_refused(cluster: &mut Cluster, id: u32) {
    let status = cluster.ended(id).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.node(id).log_tail());
    let log = cluster.node(id).log();
    for part in [
        SEEN,
        "put back to an older state",
        &format!("replace-broker {id}"),
        "confirm-tail",
    ] {
        assert!(log.contains(part), "{part}: {}", cluster.node(id).log_tail());
    }
    assert!(!log.contains("panicked"), "{}", cluster.node(id).log_tail());
}

async fn confirm(cluster: &Cluster, id: u32) {
    let file = cluster.node(id).settings_file().display().to_string();
    let confirm = ["server", "confirm-tail", "--config", &file];
    cli::run(&[], &confirm, Vec::new()).await.expect(2).names(&[SEEN]);
    let confirm = [&confirm[..], &["--yes"]].concat();
    cli::run(&[], &confirm, Vec::new()).await.expect(0).names(&["accepted"]);
}

async fn has_all(cluster: &Cluster, count: u32) {
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), lines(0..count));
}

/// The third is dead, so the two that are left would be a quorum: the one that remembers does without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_put_back_does_not_vote_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    produce(&cluster, 0..BEFORE).await;
    cluster.kill(2);
    let aside = set_aside(&cluster, 2);
    cluster.restart(2);
    cluster.healthy().await;
    produce(&cluster, BEFORE..BEFORE + AFTER).await;
    // The memory of a peer outlives its process.
    assert!(cluster.stop(1).await.success());
    cluster.kill(2);
    cluster.kill(3);
    put_back(&cluster, 2, &aside);
    let before = cluster.node(1).log().len();
    cluster.restart(1);
    cluster.restart(2);
    is_refused(&mut cluster, 2).await;
    let log = cluster.node(1).log();
    assert!(!log[before..].contains("leading group"), "a quorum with it: {log}");
    // It stays refused, also when no peer tells it again.
    cluster.kill(1);
    cluster.restart(2);
    is_refused(&mut cluster, 2).await;

    // The two that never forgot have everything, and take more.
    cluster.restart(1);
    cluster.restart(3);
    for id in [1, 3] {
        cluster.ready(id).await;
    }
    has_all(&cluster, BEFORE + AFTER).await;
    produce(&cluster, BEFORE + AFTER..BEFORE + AFTER + 1).await;

    // The operator takes the loss, and the peers are told.
    confirm(&cluster, 2).await;
    cluster.restart(2);
    cluster.healthy().await;
    has_all(&cluster, BEFORE + AFTER + 1).await;
    // An accepted loss does not excuse a later one.
    cluster.kill(2);
    put_back(&cluster, 2, &aside);
    cluster.restart(2);
    is_refused(&mut cluster, 2).await;
}

/// The two that forgot would be a quorum of their own; the third one stops them, and none of it is overwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_that_were_put_back_are_stopped_by_the_third() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    produce(&cluster, 0..BEFORE).await;
    let put = [1, 2];
    for id in put {
        cluster.kill(id);
    }
    let asides = put.map(|id| (id, set_aside(&cluster, id)));
    for id in put {
        cluster.restart(id);
    }
    cluster.healthy().await;
    produce(&cluster, BEFORE..BEFORE + AFTER).await;
    for (id, aside) in &asides {
        cluster.kill(*id);
        put_back(&cluster, *id, aside);
    }
    for id in put {
        cluster.restart(id);
    }
    for id in put {
        is_refused(&mut cluster, id).await;
    }
    // All that is left is on the third. They leave it the election, though they were a majority without it.
    for id in put {
        confirm(&cluster, id).await;
    }
    for id in put {
        cluster.restart(id);
    }
    cluster.healthy().await;
    has_all(&cluster, BEFORE + AFTER).await;
}

/// Ordinary deaths, again and again: no peer takes them for a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_only_killed_is_never_refused() {
    let rounds = if is_long() { 100 } else { 6 };
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    for round in 0..rounds {
        produce(&cluster, round..round + 1).await;
        let id = round % 3 + 1;
        cluster.kill(id);
        if round % 4 == 3 {
            cluster.kill(id % 3 + 1);
        }
        cluster.start_all();
        cluster.healthy().await;
    }
    has_all(&cluster, rounds).await;
    for id in cluster.ids() {
        let log = cluster.node(id).log();
        for wrong in [SEEN, "PUT_BACK", "is not talked to"] {
            assert!(!log.contains(wrong), "{wrong}: {}", cluster.node(id).log_tail());
        }
    }
}
