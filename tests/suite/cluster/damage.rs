//! Files of one node of three are damaged: every damage is noticed before it is served or voted on, or does no harm.

use std::fs;
use std::time::{Duration, Instant};

use jangada_client::{Client, ClientError, ConsumerConfig, Reason, StartAt};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::harm::{Harm, Target, copy_folder};
use crate::harness::{Cluster, Load, Options, WAIT, eventually, is_long, node};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 2;
/// One in this many records of a partition is large, and goes to a blob file.
const LARGE_EVERY: u64 = 10;
const LARGE_BYTES: usize = 16 * 1024;

/// Memory tables and log files of 1 MiB, so that there are many files of each kind.
const TINY_STORAGE: &str = "[storage]
memtable_bytes = 1048576
memtables_bytes = 4194304
wal_bytes = 3145728
tail_bytes = 1048576
block_cache_bytes = 1048576
blob_file_bytes = 1048576
reclaim_interval_ms = 500
disk_reserve_bytes = 0
[repair]
scrub_bytes_per_second = 1073741824
scrub_interval_ms = 1000
";

async fn cluster() -> Cluster {
    let options = Options {
        sections: TINY_STORAGE.to_owned(),
        plain_storage: true,
        ..Options::default()
    };
    Cluster::start_with(3, options).await
}

/// The outcome of a start with damaged files.
enum Start {
    Refused,
    Ready,
    /// The node runs without a replica whose data is damaged, and says so.
    Told,
}

/// How long a node must be ready although it reported damage.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// Starts a node whose files were damaged.
async fn start(cluster: &mut Cluster, id: u32) -> Start {
    let before = cluster.node(id).log().len();
    cluster.restart(id);
    let started = Instant::now();
    let mut told = None;
    loop {
        assert!(
            started.elapsed() < WAIT,
            "node {id} is neither ready nor refused after {WAIT:?}"
        );
        if !cluster.is_running(id) {
            assert_clear(cluster, id, before);
            return Start::Refused;
        }
        if node::ready(&cluster.node(id).addresses.http).await.is_ok() {
            return Start::Ready;
        }
        if cluster.node(id).log()[before..].contains("a replica's data is damaged") {
            let since = *told.get_or_insert_with(Instant::now);
            if since.elapsed() > TOLD_FOR {
                return Start::Told;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asserts that the refusal says what is wrong and where; `before` is the length of the log before.
fn assert_clear(cluster: &Cluster, id: u32, before: usize) {
    let log = &cluster.node(id).log()[before..];
    let last = log
        .lines()
        .rfind(|line| line.starts_with("error: "))
        .unwrap_or_default();
    let is_clear = ["of its write-ahead log", "damaged data", "RocksDB", "store"]
        .iter()
        .any(|part| last.contains(part));
    assert!(is_clear && !log.contains("panicked"), "{}", cluster.node(id).log_tail());
}

/// Replaces the node as an operator would: its replicas are filled again from the others.
pub(super) async fn replace(cluster: &mut Cluster, id: u32) {
    let number = id.to_string();
    let replace = ["cluster", "replace-broker", &number, "--yes"];
    eventually("the broker is given up", WAIT, || async {
        (cluster.cli(&replace).await.code == Some(0)).then_some(())
    })
    .await;
    fs::remove_dir_all(cluster.node(id).data()).expect("it is ours");
    cluster.restart(id);
    cluster.healthy().await;
}

/// Number of lines that [`filled`] writes.
const FILLED_LINES: usize = 1500;

/// Lets several runs of a node write, each to a file of the log of its own. It is too little for a memory table, so a start
/// flushes nothing and every file is needed.
async fn filled() -> Cluster {
    const ROUNDS_MAX: usize = 10;

    let mut cluster = cluster().await;
    cluster.create_topic(TOPIC, 1, 3).await;
    for run in 0..ROUNDS_MAX {
        if run < 3 {
            let lines: String = (0..FILLED_LINES / 3)
                .map(|number| format!("{run} {number:0300}\n"))
                .collect();
            cluster
                .cli_with(&["produce", TOPIC], lines.into_bytes())
                .await
                .expect(0);
        }
        cluster.kill(3);
        // The first files of the write-ahead log are no longer needed once their entries are flushed, so several restarts are needed.
        if run >= 3 && Target::Wal.files(&cluster.node(3).data()).len() > 1 {
            return cluster;
        }
        cluster.restart(3);
        cluster.healthy().await;
    }
    panic!("there is never more than one file of the log");
}

/// The attack: one broker is stopped, a file of its log that is not the last is deleted, emptied or zeroed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_a_file_from_the_middle_of_its_log_does_not_start() {
    let mut cluster = filled().await;
    let data = cluster.node(3).data();
    let sound = cluster.folder().join("sound");
    copy_folder(&data, &sound);
    let mut random = StdRng::seed_from_u64(1);
    let count = Target::Wal.files(&data).len();
    assert!(count >= 2, "{count} files");
    let mut refused = 0;
    for harm in [Harm::Delete, Harm::Empty, Harm::Zero] {
        // The last but one: what is older may have been flushed.
        let wal = Target::Wal.files(&data)[count - 2].clone();
        harm.to(&wal, &mut random);
        match start(&mut cluster, 3).await {
            Start::Refused => {}
            Start::Ready | Start::Told => panic!("{harm:?} of {}: it started", wal.display()),
        }
        refused += usize::from(cluster.node(3).log().contains("lost a part of its write-ahead log"));
        fs::remove_dir_all(&data).expect("it is ours");
        copy_folder(&sound, &data);
    }
    assert!(refused > 0, "{}", cluster.node(3).log_tail());
    cluster.restart(3);
    cluster.healthy().await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text().lines().count(), FILLED_LINES);
}

/// The case of an operator who must go on without the other nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_the_operator_accepts_is_told_and_never_served_as_if_nothing_were_missing() {
    let mut cluster = filled().await;
    let data = cluster.node(3).data();
    let wals = Target::Wal.files(&data);
    fs::remove_file(&wals[wals.len() - 2]).expect("it is ours");
    assert!(matches!(start(&mut cluster, 3).await, Start::Refused));
    let settings = cluster.node(3).settings_file().display().to_string();
    let confirm = ["server", "confirm-tail", "--config", &settings];
    cluster
        .cli(&confirm)
        .await
        .expect(2)
        .names(&["are missing from its middle", "--yes", "replace-broker 3"]);
    let yes = [&confirm[..], &["--yes"]].concat();
    cluster.cli(&yes).await.expect(0).names(&["are missing", "accepted"]);
    // It may start now, and its log has a hole: whatever it can serve, a reader gets all or an error.
    if !matches!(start(&mut cluster, 3).await, Start::Refused) {
        let _ = cluster
            .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", "3"])
            .await;
    }
    let mut config = cluster.client_config();
    config.retry_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.expect("a broker answers");
    match read(&client, 1).await {
        Outcome::Whole(records) => assert_eq!(records, FILLED_LINES as u64),
        Outcome::Damaged(error) => println!("a reader was told: {error}"),
    }
}

/// The outcome of reading everything.
#[derive(Debug)]
enum Outcome {
    Whole(u64),
    Damaged(String),
}

/// Reads all records. A gap that a broker served fails the test.
async fn read(client: &Client, partitions: u32) -> Outcome {
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("good settings");
    let wanted = (0..partitions)
        .map(|partition| (TOPIC, partition, StartAt::Earliest))
        .collect();
    let attempt = async {
        consumer.assign(wanted).await?;
        let ends = consumer.end_offsets().await?;
        let mut records = 0;
        while !consumer.reached(&ends) {
            records += consumer.next_batch().await?.len() as u64;
        }
        Ok::<_, ClientError>(records)
    };
    match attempt.await {
        Ok(records) => Outcome::Whole(records),
        Err(error @ ClientError::Gap { .. }) => panic!("{error}"),
        Err(error) => {
            let is_told = matches!(
                error.reason(),
                Some(Reason::DataCorrupted | Reason::LeaderNotAvailable | Reason::NotLeader | Reason::Internal)
            );
            assert!(is_told, "{error}");
            Outcome::Damaged(error.to_string())
        }
    }
}

/// Makes the node lead, and asserts that it serves everything or reports what it cannot serve.
async fn serves_all_or_says_so(cluster: &Cluster, id: u32) -> Outcome {
    for partition in 0..PARTITIONS {
        let (partition, id) = (partition.to_string(), id.to_string());
        let transfer = ["partition", "transfer-leader", TOPIC, &partition, "--to", &id];
        let _ = cluster.cli(&transfer).await;
    }
    let mut config = cluster.client_config();
    config.retry_timeout = Duration::from_secs(3);
    let client = Client::connect(config).await.expect("a broker answers");
    read(&client, PARTITIONS).await
}

/// A damaged node is repaired within this time, or says what an operator is to do.
const MENDED_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of scrub rounds that read everything after the node was ready.
const SCRUBS: usize = 2;

/// The outcome of a damage.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// The node refuses to start, with what is wrong and what to do.
    Refused,
    /// The replica was filled again from the others, automatically, in this time after the start.
    Repaired(Duration),
    /// The damage is not repaired automatically; the cluster's health reports it, and says what to do.
    Held,
    /// The damaged bytes are not needed.
    Harmless,
}

/// Whether each replica is there, in sync and sound; if one is not, what an operator is to do, once the cluster says
/// so.
async fn is_mended(cluster: &Cluster, client: &Client, id: u32) -> Result<(), Option<String>> {
    let described = client.admin().describe_cluster().await.map_err(|_| None)?;
    let held = described.damaged_replicas.iter().find(|replica| {
        let is_told = replica.detail.contains("replace-broker");
        replica.broker_id.get() == id && replica.state == "held" && is_told
    });
    if let Some(held) = held {
        return Err(Some(held.detail.clone()));
    }
    let is_sound = described.damaged_replicas.is_empty()
        && described.leaderless_partitions == 0
        && described.under_replicated_partitions == 0
        && described.brokers.len() == cluster.ids().len()
        && described.brokers.iter().all(|broker| broker.alive);
    let is_ready = node::ready(&cluster.node(id).addresses.http).await.is_ok();
    if is_sound && is_ready { Ok(()) } else { Err(None) }
}

/// Waits for the outcome on a node that runs with a damaged file. `before` is the length of its log before.
async fn settled(cluster: &mut Cluster, client: &Client, id: u32, before: usize, since: Instant) -> Verdict {
    let mut is_started_again = false;
    let mut ready_at = None;
    loop {
        let log = cluster.node(id).log()[before..].to_owned();
        if !cluster.is_running(id) {
            assert_clear(cluster, id, before);
            // A compaction that reads a damaged table ends the process once; what watches over it starts it again.
            if is_started_again || !log.contains("no compaction will read it again") {
                return Verdict::Refused;
            }
            is_started_again = true;
            cluster.restart(id);
        }
        match is_mended(cluster, client, id).await {
            Err(Some(_)) => return Verdict::Held,
            Err(None) => ready_at = None,
            Ok(()) => {
                let scrubbed = log.matches("everything on the disk was read through").count();
                let (at, scrubbed_before) = *ready_at.get_or_insert((since.elapsed(), scrubbed));
                if scrubbed >= scrubbed_before + SCRUBS {
                    let is_found = log.contains("a replica's data is damaged");
                    return if is_found {
                        Verdict::Repaired(at)
                    } else {
                        Verdict::Harmless
                    };
                }
            }
        }
        if since.elapsed() > MENDED_TIMEOUT {
            let described = client.admin().describe_cluster().await;
            panic!("node {id} is neither mended nor refused: {described:#?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The course of one damage from the restart of the node until everything is sound again.
async fn survive(cluster: &mut Cluster, client: &Client, id: u32) -> Verdict {
    let before = cluster.node(id).log().len();
    let since = Instant::now();
    let mut verdict = match start(cluster, id).await {
        Start::Refused => Verdict::Refused,
        Start::Ready | Start::Told => {
            // At once, before anything is mended: a reader gets everything or is told.
            serves_all_or_says_so(cluster, id).await;
            settled(cluster, client, id, before, since).await
        }
    };
    if matches!(verdict, Verdict::Repaired(_) | Verdict::Harmless)
        && let Outcome::Damaged(error) = serves_all_or_says_so(cluster, id).await
    {
        // Damage that only a reader met is repaired as well.
        println!("  a reader was told: {error}");
        let since = Instant::now();
        verdict = settled(cluster, client, id, before, since).await;
        if matches!(verdict, Verdict::Repaired(_) | Verdict::Harmless) {
            let served = serves_all_or_says_so(cluster, id).await;
            assert!(matches!(served, Outcome::Whole(_)), "{verdict:?}, and then {served:?}");
        }
    }
    if matches!(verdict, Verdict::Refused | Verdict::Held) {
        if cluster.is_running(id) {
            cluster.kill(id);
        }
        replace(cluster, id).await;
        eventually("all replicas are sound again", MENDED_TIMEOUT, || async {
            is_mended(cluster, client, id).await.ok()
        })
        .await;
    }
    verdict
}

/// Number of damages in all, and of one cluster: a log that is filled again and again must not grow too long.
fn damages() -> (usize, usize) {
    if is_long() { (100, 10) } else { (5, 5) }
}

/// The outcomes of the damages of one kind of file, as a line.
fn told(target: Target, verdicts: &[(Target, Harm, Verdict)]) -> String {
    let of_target = || verdicts.iter().filter(|(found, ..)| *found == target);
    let count = |wanted: Verdict| of_target().filter(|(.., verdict)| *verdict == wanted).count();
    let mut times: Vec<Duration> = of_target()
        .filter_map(|(.., verdict)| match verdict {
            Verdict::Repaired(time) => Some(*time),
            _ => None,
        })
        .collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let longest = times.last().copied().unwrap_or_default();
    let harms = Harm::ALL.map(|harm| {
        let of_harm: Vec<String> = of_target()
            .filter(|(_, found, _)| *found == harm)
            .map(|(.., verdict)| format!("{verdict:?}"))
            .map(|verdict| verdict.chars().take(3).collect())
            .collect();
        format!("{harm:?} {}", of_harm.join(","))
    });
    format!(
        "{target:?}: {} damages: {} refused to start, {} repaired (median {median:.1?}, longest {longest:.1?}), {} held with what \
         to do, {} did no harm; {}",
        of_target().count(),
        count(Verdict::Refused),
        times.len(),
        count(Verdict::Held),
        count(Verdict::Harmless),
        harms.join("; "),
    )
}

/// One node is killed, a file of it is damaged, it starts again, all under load. Each damage is repaired within a minute, refused or
/// held with what to do, or does no harm; and nothing that was acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_damage_to_one_node_is_found_or_does_no_harm() {
    let seed = std::env::var("JANGADA_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(11);
    println!("JANGADA_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (all, of_a_cluster) = damages();
    let mut verdicts = Vec::new();
    let mut acknowledged = 0;
    while verdicts.len() < all {
        let mut cluster = cluster().await;
        cluster.create_topic(TOPIC, PARTITIONS, 3).await;
        let client = cluster.client().await;
        let load = Load::start(&cluster, TOPIC, PARTITIONS, LARGE_EVERY, LARGE_BYTES).await;
        for _ in 0..of_a_cluster {
            let now = Instant::now();
            for partition in 0..PARTITIONS {
                load.takes_writes(partition, now).await;
            }
            let victim = random.random_range(1..=3);
            let data = cluster.node(victim).data();
            let target = Target::ALL[verdicts.len() % Target::ALL.len()];
            // A blob or a table may have to be written first.
            eventually("there is such a file", WAIT, || async {
                (!target.files(&data).is_empty()).then_some(())
            })
            .await;
            cluster.kill(victim);
            let files = target.files(&data);
            let file = &files[random.random_range(0..files.len())];
            let harm = Harm::ALL[random.random_range(0..Harm::ALL.len())];
            harm.to(file, &mut random);
            let verdict = survive(&mut cluster, &client, victim).await;
            println!(
                "{}: {harm:?} of {} of node {victim}: {verdict:?}",
                verdicts.len(),
                file.display()
            );
            verdicts.push((target, harm, verdict));
        }
        acknowledged += load.finish(&cluster).await.check();
    }
    for target in Target::ALL {
        println!("{}", told(target, &verdicts));
    }
    println!("{acknowledged} acknowledged records are there");
}

/// Small memory tables and files that are written over, killed again and again: nothing of it looks like damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unharmed_broker_that_is_killed_is_never_refused() {
    let rounds = if is_long() { 60 } else { 4 };
    let mut cluster = cluster().await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let load = Load::start(&cluster, TOPIC, PARTITIONS, LARGE_EVERY, LARGE_BYTES).await;
    for round in 0..rounds {
        let now = Instant::now();
        for partition in 0..PARTITIONS {
            load.takes_writes(partition, now).await;
        }
        let victim = round % 3 + 1;
        cluster.kill(victim);
        let started = start(&mut cluster, victim).await;
        assert!(matches!(started, Start::Ready), "{}", cluster.node(victim).log_tail());
    }
    cluster.healthy().await;
    let acknowledged = load.finish(&cluster).await.check();
    println!("{rounds} kills: {acknowledged} acknowledged records are there");
}
