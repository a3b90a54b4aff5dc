//! Leaders die while records stream: everything acknowledged is there once, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;

use crate::harness::{Cluster, MURMUR2, WAIT, awkward_lines, cli, eventually, partition_of};

const TOPIC: &str = "orders";

/// Bytes that are written to the producer in one piece.
const PIECE_BYTES: usize = 8 * 1024;

/// Number of partitions of the topic whose records have keys.
const PARTITIONS: u32 = 5;

/// Interval between two rounds, each of which writes a record of every key.
const ROUND_INTERVAL: Duration = Duration::from_millis(2);

/// Number of records that a partition takes before its leader dies, and then from the next one.
const GROWTH: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_file_survives_its_leaders_death_while_it_streams() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let file = awkward_lines(6_000);
    let mut producer = cli::start(&cluster.brokers(), &["produce", TOPIC]);
    let mut stdin = producer.stdin.take().expect("stdin is a pipe");

    let (first, rest) = file.split_at(file.len() / 3);
    stdin.write_all(first).await.expect("the producer reads");
    cluster.grown(TOPIC, 0, 500).await;
    let victim = cluster.leader(TOPIC, 0).await;
    // Records stream on while the leader dies and another is elected.
    let rest = rest.to_vec();
    let feed = tokio::spawn(async move {
        for piece in rest.chunks(PIECE_BYTES) {
            stdin.write_all(piece).await.expect("the producer reads");
            tokio::task::yield_now().await;
        }
    });
    cluster.kill(victim);
    feed.await.expect("all is fed");
    cli::end(producer, "produce").await.expect(0);

    let after = cluster.leader(TOPIC, 0).await;
    assert_ne!(after, victim, "the dead node leads");
    let consume = ["consume", TOPIC, "--exit-at-end"];
    let survivors: Vec<String> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != victim)
        .map(|id| cluster.node(id).addresses.public.clone())
        .collect();
    let consumed = cli::run(&survivors, &consume, Vec::new()).await.expect(0);
    assert!(
        consumed.stdout == file,
        "{} of {} bytes came out",
        consumed.stdout.len(),
        file.len()
    );

    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    let consumed = cluster.cli(&consume).await.expect(0);
    assert!(
        consumed.stdout == file,
        "after the death of all three nodes it is another file"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_keys_records_survive_a_leaders_death_while_they_stream() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let mut producer = cli::start(&cluster.brokers(), &["produce", TOPIC, "--key-separator", ":"]);
    let stdin = producer.stdin.take().expect("stdin is a pipe");
    let stop = Arc::new(AtomicBool::new(false));
    let feed = tokio::spawn(feed(stdin, stop.clone()));

    for partition in 0..PARTITIONS {
        cluster.grown(TOPIC, partition, GROWTH).await;
    }
    let victim = cluster.leader(TOPIC, 0).await;
    cluster.kill(victim);
    eventually("another node leads", WAIT, || async {
        (cluster.leader(TOPIC, 0).await != victim).then_some(())
    })
    .await;
    let end = cluster.high_watermark(TOPIC, 0).await;
    cluster.grown(TOPIC, 0, end + GROWTH).await;
    stop.store(true, Ordering::Relaxed);
    let rounds = feed.await.expect("all is fed");
    cli::end(producer, "produce").await.expect(0);
    assert_each_key_is_whole(&cluster, rounds).await;

    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    assert_each_key_is_whole(&cluster, rounds).await;
}

/// Writes rounds of lines until it is told to stop; returns their number. The value of a record is the number of its
/// round.
async fn feed(mut stdin: ChildStdin, stop: Arc<AtomicBool>) -> usize {
    let mut ticks = tokio::time::interval(ROUND_INTERVAL);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let lines: String = MURMUR2.iter().map(|(key, _)| format!("{key}:{rounds}\n")).collect();
        stdin.write_all(lines.as_bytes()).await.expect("the producer reads");
        rounds += 1;
    }
    rounds
}

/// Each key has a record of every round, once, in order, on the partition that is the key's.
async fn assert_each_key_is_whole(cluster: &Cluster, rounds: usize) {
    let consume = ["consume", TOPIC, "--exit-at-end", "-f", "%k|%p|%v\\n"];
    let consumed = cluster.cli(&consume).await.expect(0).text();
    for (key, hash) in MURMUR2 {
        let prefix = format!("{key}|");
        let found = consumed.lines().filter_map(|line| line.strip_prefix(prefix.as_str()));
        let found: Vec<&str> = found.collect();
        let partition = partition_of(hash, PARTITIONS);
        let expected: Vec<String> = (0..rounds).map(|round| format!("{partition}|{round}")).collect();
        let odd = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!(odd, None, "the records of key {key:?}");
        assert_eq!(found.len(), rounds, "the records of key {key:?}");
    }
    assert_eq!(consumed.lines().count(), rounds * MURMUR2.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_live_seed_is_enough() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 3, 3).await;
    cluster.kill(1);
    let run = cluster
        .cli_with(&["produce", TOPIC], b"a\nb\n".to_vec())
        .await
        .expect(0);
    assert!(run.stdout.is_empty(), "data only: {}", run.text());
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text().lines().count(), 2);
}
