//! Leaders die while records stream: everything acknowledged is there once, in order.

use tokio::io::AsyncWriteExt as _;

use crate::harness::{Cluster, awkward_lines, cli};

const TOPIC: &str = "orders";

/// Bytes that are written to the producer at once.
const PIECE_BYTES: usize = 8 * 1024;

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
