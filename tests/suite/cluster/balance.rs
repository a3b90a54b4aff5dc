//! After a node was away its leaderships come back to it, without an error for producers.

use tokio::io::AsyncWriteExt as _;

use crate::harness::groups::Coordinator;
use crate::harness::{Cluster, Options, WAIT, cli, eventually};

const TOPIC: &str = "orders";
/// The topic of the coordinator's shards.
const SHARDS: &str = "__groups";
const PARTITIONS: u32 = 6;

/// Leader and preferred leader of each partition.
async fn leaders(cluster: &Cluster, topic: &str) -> Vec<(Option<u32>, u32)> {
    let states = cluster.admin().await.describe_partitions(Some(topic)).await;
    let states = states.expect("a node answers");
    let of = |state: &jangada_client::PartitionState| (state.leader_id.map(|id| id.get()), state.replicas[0].get());
    states.iter().map(of).collect()
}

async fn all_are_preferred(cluster: &Cluster, topic: &str) {
    eventually("each partition is led by its first replica", WAIT, || async {
        let leaders = leaders(cluster, topic).await;
        leaders
            .iter()
            .all(|(leader, preferred)| *leader == Some(*preferred))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaderships_come_back_to_a_node_that_was_killed() {
    let options = Options {
        sections: "[cluster]\npreferred_leader_after_ms = 1000".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    Coordinator::new(cluster.brokers(), "billing").find().await;
    for topic in [TOPIC, SHARDS] {
        all_are_preferred(&cluster, topic).await;
    }
    let per_node =
        |leaders: &[(Option<u32>, u32)], id| leaders.iter().filter(|(leader, _)| *leader == Some(id)).count();
    let before = leaders(&cluster, TOPIC).await;
    for id in cluster.ids() {
        assert_eq!(per_node(&before, id), 2, "placement is even: {before:?}");
    }

    cluster.kill(2);
    eventually("the others lead everything", WAIT, || async {
        let mut leaders = leaders(&cluster, TOPIC).await;
        leaders.extend(self::leaders(&cluster, SHARDS).await);
        leaders
            .iter()
            .all(|(leader, _)| leader.is_some_and(|id| id != 2))
            .then_some(())
    })
    .await;

    // Records stream while it comes back and takes over.
    let mut producer = cli::start(&cluster.brokers(), &["produce", TOPIC, "--key-separator", "\\t"]);
    let mut stdin = producer.stdin.take().expect("stdin is a pipe");
    cluster.restart(2);
    let feed = tokio::spawn(async move {
        let mut sent = 0_u32;
        loop {
            let line = format!("key {}\t{sent}\n", sent % 60);
            stdin.write_all(line.as_bytes()).await.expect("the producer reads");
            sent += 1;
            tokio::task::yield_now().await;
            if STOP.load(std::sync::atomic::Ordering::Relaxed) {
                return sent;
            }
        }
    });
    for topic in [TOPIC, SHARDS] {
        all_are_preferred(&cluster, topic).await;
    }
    STOP.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = feed.await.expect("all is fed");
    let produced = cli::end(producer, "produce").await.expect(0);
    assert!(
        produced.stderr.lines().all(|line| !line.contains("error")),
        "{}",
        produced.stderr
    );
    assert!(
        cluster
            .ids()
            .iter()
            .any(|id| cluster.node(*id).log().contains("gave the leadership back"))
    );

    let consumed = cluster
        .cli(&["consume", TOPIC, "--exit-at-end", "-f", "%k\\t%v\\n"])
        .await
        .expect(0);
    // Each key's records once and in order.
    let text = consumed.text();
    let mut seen = vec![Vec::new(); 60];
    for line in text.lines() {
        let (key, value) = line
            .strip_prefix("key ")
            .and_then(|line| line.split_once('\t'))
            .expect("as sent");
        seen[key.parse::<usize>().expect("a number")].push(value.parse::<u32>().expect("a number"));
    }
    for (key, values) in (0_u32..).zip(seen) {
        assert!(
            values == (key..sent).step_by(60).collect::<Vec<_>>(),
            "key {key}: {} values",
            values.len()
        );
    }
}

static STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leadership_that_an_operator_moved_goes_back_only_after_the_time() {
    let options = Options {
        sections: "[cluster]\npreferred_leader_after_ms = 3000".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    all_are_preferred(&cluster, TOPIC).await;
    let preferred = leaders(&cluster, TOPIC).await[0].1;
    let other = cluster
        .ids()
        .into_iter()
        .find(|id| *id != preferred)
        .expect("three nodes");
    let moved = std::time::Instant::now();
    cluster
        .cli(&["partition", "transfer-leader", TOPIC, "0", "--to", &other.to_string()])
        .await
        .expect(0);
    all_are_preferred(&cluster, TOPIC).await;
    assert!(
        moved.elapsed() >= std::time::Duration::from_secs(3),
        "{:?}",
        moved.elapsed()
    );
}
