//! Very many partitions: they are created and led within seconds, keep their leaders, leave the metadata alone, and can be
//! deleted. A topic that would be too many is refused, and nothing happens.
//!
//! 300 partitions by default. `JANGADA_LONG=1` makes it 3,000, which must be healthy within 15 s on two processors that do
//! nothing else, and prints what they cost.

use std::time::{Duration, Instant};

use jangada_client::{Admin, ClusterDescription, NewTopic};

use crate::harness::{Cluster, WAIT, eventually, is_long, node};

const TOPIC: &str = "many";

/// The most partitions that a topic may have. With three replicas on three brokers each broker would have as many
/// replicas.
const TOO_MANY: u32 = 10_000;

/// The bound from the call to health, in the long form.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(15);

async fn described(admin: &Admin) -> ClusterDescription {
    eventually("the cluster is described", WAIT, || async {
        admin.describe_cluster().await.ok()
    })
    .await
}

/// Number of log lines that report a lost leadership.
fn lost(cluster: &Cluster) -> usize {
    let count = |id| cluster.node(id).log().matches("not leading any more").count();
    cluster.ids().into_iter().map(count).sum()
}

/// Number of replicas that a node has open, the metadata's included.
async fn hosted(cluster: &Cluster, id: u32) -> Option<u64> {
    let metrics = node::get(&cluster.node(id).addresses.http, "/metrics").await.ok()?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("jangada_replicas "))?;
    line.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_partitions_come_to_rest_and_too_many_are_refused() {
    let (partitions, calm_for) = match is_long() {
        true => (3_000, Duration::from_secs(60)),
        false => (300, Duration::from_secs(3)),
    };
    let cluster = Cluster::start_alone(3).await;
    let admin = cluster.admin().await;
    let controller = described(&admin).await.controller_id;
    let lost_before = lost(&cluster);

    let started = Instant::now();
    let created = admin.create_topic(NewTopic::new(TOPIC, partitions, 3)).await;
    let created_in = started.elapsed();
    created.expect("it is created");
    cluster.healthy().await;
    let healthy_in = started.elapsed();
    let lost_meanwhile = lost(&cluster) - lost_before;

    // Calm.
    let lost_before = lost(&cluster);
    let cpu = |id| cluster.node(id).cpu();
    let before: Vec<Duration> = cluster.ids().into_iter().map(cpu).collect();
    tokio::time::sleep(calm_for).await;
    let used = cluster
        .ids()
        .into_iter()
        .zip(&before)
        .map(|(id, before)| cpu(id) - *before);
    let cores: Vec<f64> = used.map(|used| used.as_secs_f64() / calm_for.as_secs_f64()).collect();
    let memory = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.node(id).memory("VmRSS") >> 20);
    let memory: Vec<usize> = memory.collect();
    let lost_at_rest = lost(&cluster) - lost_before;
    println!(
        "{partitions} partitions, 3 replicas: created in {created_in:?}, healthy in {healthy_in:?}, {lost_meanwhile} leaderships \
         lost meanwhile; at rest {lost_at_rest} lost in {calm_for:?}, cores {cores:.3?}, MiB {memory:?}"
    );
    assert_eq!(
        described(&admin).await.controller_id,
        controller,
        "the metadata has another leader"
    );
    if is_long() {
        assert!(healthy_in <= HEALTHY_TIMEOUT, "healthy after {healthy_in:?}");
        assert_eq!(lost_at_rest, 0, "leaderships were lost at rest");
    }

    // Too many.
    let asked = Instant::now();
    let too_many = TOO_MANY.to_string();
    let create = ["topic", "create", "more", "--partitions", &too_many, "--replicas", "3"];
    let refused = cluster.cli(&create).await;
    assert_ne!(refused.code, Some(0));
    refused.names(&["broker ", "cluster.replicas_per_broker_max", "delete topics"]);
    let grow = ["topic", "alter", TOPIC, "--partitions", &too_many];
    let refused = cluster.cli(&grow).await;
    assert_ne!(refused.code, Some(0));
    refused.names(&["cluster.replicas_per_broker_max"]);
    cluster.healthy().await;
    let after = described(&admin).await;
    assert_eq!((after.partitions, after.controller_id), (partitions, controller));

    println!("refused twice in {:?}", asked.elapsed());

    // And away again.
    let asked = Instant::now();
    admin.delete_topic(TOPIC).await.expect("it is deleted");
    for id in cluster.ids() {
        eventually("only the metadata's replica is left", WAIT, || async {
            (hosted(&cluster, id).await? == 1).then_some(())
        })
        .await;
    }
    println!("deleted in {:?}", asked.elapsed());
    cluster.create_topic("next", 1, 3).await;
}
