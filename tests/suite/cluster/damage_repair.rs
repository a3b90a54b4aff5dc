//! Bits flip on the disk of one broker: its damaged replicas are given up and filled again from the others by themselves,
//! nothing acknowledged is lost, and the last copy is never given up.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jangada_client::{ClusterDescription, NewTopic};

use crate::harness::{Cluster, Load, Options, WAIT, eventually, node};

pub(super) const TOPIC: &str = "orders";
/// A damaged replica is sound again within this time.
const REPAIRED_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of records of one fill, and below their size: more than the memory tables hold, so that most of it is in
/// files.
const LINES: usize = 6_000;
const LINE_BYTES: usize = 2_000;

/// Small tables and little memory, so that data is soon flushed to files.
fn options(repair: &str) -> Options {
    options_with(repair, "")
}

/// Values go into tables, not into files of blobs.
const IN_TABLES: &str = "blob_bytes_min = 1048576\n";

pub(super) fn options_with(repair: &str, storage: &str) -> Options {
    let small = "[storage]\nmemtable_bytes = 1048576\nmemtables_bytes = 4194304\nwal_bytes = 4194304\n\
                   tail_bytes = 1048576\nblock_cache_bytes = 1048576\nblob_file_bytes = 1048576\n\
                   reclaim_interval_ms = 500\ndisk_reserve_bytes = 0\n";
    Options {
        sections: format!("{small}{storage}[repair]\n{repair}\n"),
        plain_storage: true,
        ..Options::default()
    }
}

pub(super) const SCRUB: &str = "scrub_bytes_per_second = 1073741824\nscrub_interval_ms = 1000";
const NO_SCRUB: &str = "scrub_bytes_per_second = 0";

pub(super) async fn fill(cluster: &Cluster, topic: &str) -> String {
    let line = |number: usize| format!("{number:0width$}\n", width = LINE_BYTES - 1);
    let lines: String = (0..LINES).map(line).collect();
    let input = lines.clone().into_bytes();
    cluster.cli_with(&["produce", topic], input).await.expect(0);
    lines
}

/// The files of a node's store with this ending, largest first.
pub(super) fn files(cluster: &Cluster, id: u32, ending: &str) -> Vec<PathBuf> {
    let folder = cluster.node(id).data().join("store").join("rocksdb");
    let files = fs::read_dir(&folder).expect("the store is there");
    let mut files: Vec<PathBuf> = files
        .map(|file| file.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        // One that is being begun has nothing in it yet.
        .filter(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0))
        .collect();
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |file| file.len())));
    files
}

/// Flips bits in the first half of each file: rows and values lie there, and what describes the file at its end.
pub(super) fn flip(files: &[PathBuf]) {
    flip_at(files, [(1, 5), (1, 3)]);
}

/// Flips a bit at each of these fractions of each file.
fn flip_at(files: &[PathBuf], fractions: [(u64, u64); 2]) {
    for path in files {
        let mut file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("the file is ours");
        let length = file.metadata().expect("it is a file").len();
        for (part, of) in fractions {
            let at = length * part / of;
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).expect("within the file");
            file.read_exact(&mut byte).expect("within the file");
            file.seek(SeekFrom::Start(at)).expect("within the file");
            file.write_all(&[byte[0] ^ 0x10]).expect("the file is ours");
        }
    }
}

pub(super) async fn describe(cluster: &Cluster) -> Option<ClusterDescription> {
    cluster.client().await.admin().describe_cluster().await.ok()
}

/// Waits until nothing is damaged and everything is in sync; returns the most replicas that were refilled at once.
pub(super) async fn repaired(cluster: &Cluster, since: Instant) -> usize {
    let client = cluster.client().await;
    let mut most = 0;
    loop {
        let described = client.admin().describe_cluster().await.ok();
        if let Some(cluster) = &described {
            let refilling = cluster
                .damaged_replicas
                .iter()
                .filter(|replica| replica.state == "refilling");
            most = most.max(refilling.count());
            if cluster.damaged_replicas.is_empty()
                && cluster.leaderless_partitions == 0
                && cluster.under_replicated_partitions == 0
            {
                return most;
            }
        }
        assert!(since.elapsed() < REPAIRED_TIMEOUT, "not repaired: {described:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn has_found(cluster: &Cluster, id: u32) -> bool {
    cluster.node(id).log().contains("a replica here is damaged")
}

async fn found(cluster: &Cluster, id: u32) {
    eventually("the damage is found", WAIT, || async {
        has_found(cluster, id).then_some(())
    })
    .await;
}

pub(super) async fn consumes(cluster: &Cluster, topic: &str, lines: &str) {
    let run = cluster.cli(&["consume", topic, "--exit-at-end"]).await.expect(0);
    let count = run.text().lines().count();
    assert!(run.text() == lines, "{count} of {LINES} lines");
}

/// Waits until a node is ready and has found its damage. A compaction that meets a damaged table before the scrub does ends the process,
/// once: what watches over it starts it again, and from then on nothing is compacted there.
async fn found_if_started_again(cluster: &mut Cluster, id: u32) {
    let http = cluster.node(id).addresses.http.clone();
    let deadline = Instant::now() + WAIT;
    let mut is_started_again = false;
    while node::ready(&http).await.is_err() || !has_found(cluster, id) {
        assert!(
            Instant::now() < deadline,
            "node {id} is not ready, or has not found the damage"
        );
        if !cluster.is_running(id) {
            let tail = cluster.node(id).log_tail();
            assert!(!is_started_again, "node {id} ended twice: {tail}");
            assert!(tail.contains("no compaction will read it again"), "{tail}");
            is_started_again = true;
            cluster.restart(id);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A follower's files are damaged while it is down; nothing is read there, so only the scrub can find it.
async fn damage_at_rest_is_mended(ending: &str, storage: &str, fractions: [(u64, u64); 2]) {
    let mut cluster = Cluster::start_with(3, options_with(SCRUB, storage)).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    cluster.create_topic("busy", 2, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    let load = Load::start(&cluster, "busy", 2, 10, 4_000).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let victim = leader % 3 + 1;
    cluster.stop(victim).await;
    flip_at(&files(&cluster, victim, ending)[..2], fractions);
    let since = Instant::now();
    cluster.restart(victim);
    found_if_started_again(&mut cluster, victim).await;
    repaired(&cluster, since).await;
    let log = cluster.node(victim).log();
    assert!(
        log.contains("is given up") && log.contains("is filled again"),
        "{ending}"
    );
    load.finish(&cluster).await.check();
    // The repaired replica has the whole log: as leader it serves all records.
    let to = victim.to_string();
    cluster
        .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", &to])
        .await
        .expect(0);
    consumes(&cluster, TOPIC, &lines).await;
    // Topics can be created while another replica is damaged.
    cluster.create_topic("later", 3, 3).await;
    let said = "one line\n";
    cluster.cli_with(&["produce", "later"], said.into()).await.expect(0);
    repaired(&cluster, Instant::now()).await;
    // And a restart finds it sound.
    cluster.stop(victim).await;
    cluster.restart(victim);
    cluster.healthy().await;
    repaired(&cluster, Instant::now()).await;
    let read = cluster.cli(&["consume", "later", "--exit-at-end"]).await.expect(0);
    assert_eq!(read.text(), said);
    consumes(&cluster, TOPIC, &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_flipped_in_a_followers_blobs_are_found_by_the_scrub_and_mended() {
    damage_at_rest_is_mended("blob", "", [(1, 5), (1, 3)]).await;
}

/// A table begins with the rows of the metadata's group, whose replica is not repaired: what is damaged lies behind its block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_flipped_in_a_followers_tables_are_found_and_mended() {
    damage_at_rest_is_mended("sst", IN_TABLES, [(1, 2), (3, 5)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_opened_says_what_to_do_and_that_helps() {
    let mut cluster = Cluster::start_with(3, options(SCRUB)).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    cluster.stop(2).await;
    let folder = cluster.node(2).data().join("store").join("rocksdb");
    let manifests = fs::read_dir(&folder).expect("the store is there");
    let manifests = manifests.map(|file| file.expect("the folder can be read").path());
    let manifests: Vec<PathBuf> = manifests
        .filter(|path| path.to_string_lossy().contains("MANIFEST-"))
        .collect();
    flip(&manifests);
    cluster.restart(2);
    assert_eq!(cluster.ended(2).await.code(), Some(1));
    let log = cluster.node(2).log_tail();
    assert!(log.contains("is damaged") && log.contains("replace-broker 2"), "{log}");
    let replaced = eventually("it is not heard of", WAIT, || async {
        let run = cluster.cli(&["cluster", "replace-broker", "2", "--yes"]).await;
        (run.code == Some(0)).then_some(())
    });
    replaced.await;
    fs::remove_dir_all(cluster.node(2).data()).expect("it is ours");
    cluster.restart(2);
    cluster.healthy().await;
    cluster
        .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", "2"])
        .await
        .expect(0);
    consumes(&cluster, TOPIC, &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_read_fails_hands_over_and_its_consumer_goes_on() {
    let cluster = Cluster::start_with(3, options(NO_SCRUB)).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    let leader = cluster.leader(TOPIC, 0).await;
    flip(&files(&cluster, leader, "blob"));
    let since = Instant::now();
    consumes(&cluster, TOPIC, &lines).await;
    assert_ne!(cluster.leader(TOPIC, 0).await, leader);
    repaired(&cluster, since).await;
    let log = cluster.node(leader).log();
    assert!(log.contains("handed its leadership over"), "{log}");
    assert!(log.contains("is filled again"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_copy_is_never_given_up() {
    let cluster = Cluster::start_with(3, options(SCRUB)).await;
    for (topic, replicas) in [("one", 1), ("two", 2)] {
        let mut topic = NewTopic::new(topic, 1, replicas);
        topic.config.insert("retention.ms".to_owned(), "86400000".to_owned());
        cluster.create(topic).await;
    }
    fill(&cluster, "one").await;
    let lines = fill(&cluster, "two").await;
    let alone = cluster.leader("one", 0).await;
    let leader = cluster.leader("two", 0).await;
    // One broker may lead both: a bit that is flipped twice is as it was.
    for id in BTreeSet::from([alone, leader]) {
        flip(&files(&cluster, id, "blob"));
    }
    let held = eventually("both are held", WAIT, || async {
        let described = describe(&cluster).await?;
        let held = described
            .damaged_replicas
            .iter()
            .filter(|replica| replica.state == "held");
        let topics: Vec<&str> = held.map(|replica| replica.topic.as_str()).collect();
        (topics.contains(&"one") && topics.contains(&"two")).then_some(described)
    })
    .await;
    for replica in &held.damaged_replicas {
        assert!(replica.detail.contains("no majority"), "{replica:?}");
    }
    cluster
        .cli(&["cluster", "health"])
        .await
        .expect(3)
        .names(&["one-0", "two-0", "no majority"]);
    let json = cluster.cli(&["cluster", "health", "-o", "json"]).await.json();
    assert_eq!(json["damaged_replicas"][0]["state"], "held", "{json}");
    // The other one of two has everything, unless both are on the same damaged disk.
    if alone == leader
        || !cluster
            .partition("two", 0)
            .await
            .replicas
            .iter()
            .any(|id| id.get() == alone)
    {
        consumes(&cluster, "two", &lines).await;
    }
    for id in [alone, leader] {
        let log = cluster.node(id).log();
        assert!(!log.contains("is given up;"), "{log}");
    }
}

/// With two replicas a damaged one is only held. Neither the balancer, whose turn comes at once, nor an operator hands
/// it the leadership back: it would stop as leader, and the partition would have no leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_leader_that_is_damaged_and_held_is_not_handed_the_leadership_back() {
    let mut options = options(NO_SCRUB);
    options
        .sections
        .push_str("[cluster]\npreferred_leader_after_ms = 200\n");
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic("two", 1, 2).await;
    let lines = fill(&cluster, "two").await;
    let preferred = cluster.partition("two", 0).await.replicas[0].get();
    eventually("the preferred replica leads", WAIT, || async {
        (cluster.leader("two", 0).await == preferred).then_some(())
    })
    .await;
    flip(&files(&cluster, preferred, "blob"));
    // The read meets the damage, and goes on with the other replica.
    consumes(&cluster, "two", &lines).await;
    let other = eventually("the other replica leads", WAIT, || async {
        let leader = cluster.leader("two", 0).await;
        (leader != preferred).then_some(leader)
    })
    .await;
    let to = preferred.to_string();
    eventually("an operator's transfer is refused with the reason", WAIT, || async {
        let run = cluster
            .cli(&["partition", "transfer-leader", "two", "0", "--to", &to])
            .await;
        let said = format!("{run:?}");
        (run.code != Some(0) && said.contains("is damaged and leads only if no other can")).then_some(())
    })
    .await;
    // The balancer looks each 100 ms.
    let until = Instant::now() + Duration::from_secs(3);
    let mut taken = 0;
    while Instant::now() < until {
        cluster
            .cli_with(&["produce", "two"], b"more\n".to_vec())
            .await
            .expect(0);
        taken += 1;
        assert_eq!(cluster.leader("two", 0).await, other, "after {taken} writes");
    }
    let lines = format!("{lines}{}", "more\n".repeat(taken));
    consumes(&cluster, "two", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_replicas_are_in_repair_at_once_than_is_set() {
    let repair = format!("{SCRUB}\nreplicas_max = 1");
    let mut cluster = Cluster::start_with(3, options(&repair)).await;
    cluster.create_topic(TOPIC, 4, 3).await;
    fill(&cluster, TOPIC).await;
    let victim = 3;
    cluster.stop(victim).await;
    flip(&files(&cluster, victim, "blob"));
    let since = Instant::now();
    cluster.restart(victim);
    cluster.ready(victim).await;
    found(&cluster, victim).await;
    let most = repaired(&cluster, since).await;
    assert!(most <= 1, "{most} at once");
    let refilled = cluster.node(victim).log().matches("is filled again").count();
    assert!(refilled >= 2, "{refilled} replicas were filled again");
}

async fn is_written(cluster: &Cluster, what: &str) -> usize {
    let begun = Instant::now();
    eventually(what, WAIT, || async {
        let run = cluster.cli_with(&["produce", TOPIC], b"more\n".to_vec()).await;
        (run.code == Some(0)).then_some(())
    })
    .await;
    println!("{what}: after {:?}", begun.elapsed());
    1
}

/// A leader reads its whole log to fill another replica, also old records that no consumer has read for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_meets_damage_while_it_fills_a_replica_makes_room_for_another_leader() {
    let mut cluster = Cluster::start_with(3, options(NO_SCRUB)).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let empty = leader % 3 + 1;
    cluster.stop(empty).await;
    flip(&files(&cluster, leader, "blob"));
    let id = empty.to_string();
    eventually("it is not heard of", WAIT, || async {
        let run = cluster.cli(&["cluster", "replace-broker", &id, "--yes"]).await;
        (run.code == Some(0)).then_some(())
    })
    .await;
    fs::remove_dir_all(cluster.node(empty).data()).expect("it is ours");
    cluster.restart(empty);
    found(&cluster, leader).await;
    let since = Instant::now();
    eventually("another replica leads", WAIT, || async {
        let described = cluster.partition(TOPIC, 0).await;
        described.leader_id.filter(|now| now.get() != leader).map(drop)
    })
    .await;
    let more = is_written(&cluster, "another leader takes writes").await;
    repaired(&cluster, since).await;
    let log = cluster.node(leader).log();
    assert!(!log.contains("has stopped by itself"), "{log}");
    consumes(&cluster, TOPIC, &format!("{lines}{}", "more\n".repeat(more))).await;
}

/// A replica that is given up keeps its vote until the others have everything, also when the broker died between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_given_up_half_way_votes_on_while_another_one_is_down() {
    let mut cluster = Cluster::start_with(3, options(SCRUB)).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let lines = fill(&cluster, TOPIC).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let (victim, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(victim).await;
    let damaged = files(&cluster, victim, "blob");
    flip(&damaged);
    cluster.restart_with(victim, &[("JANGADA_FAILPOINT", "repair.given-up")]);
    cluster.ended(victim).await;
    let log = cluster.node(victim).log_tail();
    assert!(log.contains("as JANGADA_FAILPOINT says"), "{log}");
    // With so little data a start applies the whole log again and meets the damage, as it would meet damage in recent records.
    flip(&damaged);
    cluster.stop(other).await;
    cluster.restart(victim);
    let more = is_written(&cluster, "the leader has a majority").await;
    let log = cluster.node(victim).log();
    assert!(!log.contains("is filled again"), "{log}");
    cluster.restart(other);
    repaired(&cluster, Instant::now()).await;
    eventually("the new one has its vote", WAIT, || async {
        cluster.node(victim).log().contains("is filled again").then_some(())
    })
    .await;
    let to = victim.to_string();
    cluster
        .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", &to])
        .await
        .expect(0);
    consumes(&cluster, TOPIC, &format!("{lines}{}", "more\n".repeat(more))).await;
}
