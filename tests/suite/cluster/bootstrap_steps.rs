//! A broker dies at each step on its way into a cluster, one after the other, and comes back: there is one cluster, and it works. The
//! broker's failpoints name the steps; that it really died there its log tells.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;

use jangada_client::{Client, ClientConfig};
use rustix::process::Signal;

use crate::harness::{Cluster, Options};

/// Each step of forming a cluster, and a seed that takes it for certain. Seed 1 forms, the others adopt.
const STEPS: [(&str, u32); 14] = [
    ("bootstrap.directory-made", 1),
    ("bootstrap.directory-made", 2),
    ("bootstrap.probed", 1),
    ("bootstrap.bound", 1),
    ("bootstrap.store-made", 1),
    ("bootstrap.store-remembered", 1),
    ("bootstrap.one-adopted", 1),
    ("bootstrap.adopted", 2),
    ("bootstrap.adopted", 3),
    ("bootstrap.all-adopted", 1),
    ("bootstrap.initialized", 1),
    ("bootstrap.formed", 1),
    ("bootstrap.completed", 2),
    ("bootstrap.registered", 1),
];

/// The signal that `abort` ends a process with.
const ABORTED: i32 = Signal::ABORT.as_raw();

async fn stopped(nodes: u32, seeds: usize) -> Cluster {
    let options = Options {
        stopped: true,
        seeds,
        ..Options::default()
    };
    Cluster::start_with(nodes, options).await
}

/// Waits for the node's death at the step.
pub(super) async fn dies(cluster: &mut Cluster, id: u32, step: &str) {
    let status = cluster.ended(id).await;
    let log = cluster.node(id).log_tail();
    assert_eq!(
        status.signal(),
        Some(ABORTED),
        "{step}: node {id} ended otherwise:\n{log}"
    );
    // Other tasks may log between that line and the end. Of an earlier death another step is named.
    let mut lines = log.lines();
    assert!(
        lines.any(|line| line.contains("dying here") && line.contains(step)),
        "{step}: node {id} says\n{log}"
    );
}

pub(super) fn start_with_failpoint(cluster: &mut Cluster, id: u32, step: &str) {
    cluster.restart_with(id, &[("JANGADA_FAILPOINT", step)]);
}

/// Starts three seeds anew, of which one has died at the step.
async fn seed_dies(victim: u32, step: &str) -> Cluster {
    println!("{step}, node {victim}");
    let mut cluster = stopped(3, 3).await;
    start_with_failpoint(&mut cluster, victim, step);
    cluster.start_all();
    dies(&mut cluster, victim, step).await;
    cluster
}

/// Asserts that all nodes are of one cluster, by their directories and their answers, and that it takes records.
async fn is_one(cluster: &Cluster) {
    cluster.healthy().await;
    let mut ids = BTreeSet::new();
    for id in cluster.ids() {
        let identity = cluster.node(id).identity();
        assert_eq!(identity["broker_id"].as_integer(), Some(id.into()));
        assert_eq!(identity["incarnation"].as_integer(), Some(1));
        assert_eq!(identity["store"].as_bool(), Some(true));
        ids.insert(identity["cluster_id"].as_str().expect("it is bound").to_owned());
        let broker = cluster.node(id).addresses.public.clone();
        let client = Client::connect(ClientConfig::new([broker])).await.expect("it is ready");
        ids.insert(client.cluster_id());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let formed: usize = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.node(id).log().matches("forming a new cluster").count())
        .sum();
    assert_eq!(formed, 1, "a cluster was formed {formed} times");

    cluster.create_topic("orders", 3, 3).await;
    let lines: String = (0..30).map(|n| format!("{n}\n")).collect();
    let produce = ["produce", "orders"];
    cluster.cli_with(&produce, lines.into_bytes()).await.expect(0);
    let consume = ["consume", "orders", "--exit-at-end"];
    assert_eq!(cluster.cli(&consume).await.expect(0).text().lines().count(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_dies_at_any_step_comes_back_into_the_one_cluster() {
    for (step, victim) in STEPS {
        let mut cluster = seed_dies(victim, step).await;
        cluster.restart(victim);
        is_one(&cluster).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_seeds_are_killed_at_that_moment_too() {
    for (step, victim) in STEPS {
        let mut cluster = seed_dies(victim, step).await;
        cluster.kill_all();
        // The others are up first: they must not do without it what only all three may do.
        for id in cluster.ids().into_iter().filter(|id| *id != victim) {
            cluster.restart(id);
        }
        cluster.restart(victim);
        is_one(&cluster).await;
    }
}

/// A process that a supervisor restarts at once may die at the same step again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_may_die_at_every_step_one_after_the_other() {
    let mut cluster = stopped(3, 3).await;
    let steps = STEPS.into_iter().filter(|(_, victim)| *victim == 1);
    for (index, (step, victim)) in steps.enumerate() {
        println!("{step}, node {victim}");
        start_with_failpoint(&mut cluster, victim, step);
        if index == 0 {
            cluster.start_all();
        }
        dies(&mut cluster, victim, step).await;
    }
    cluster.restart(1);
    is_one(&cluster).await;
}

/// A broker that is no seed joins a cluster that is there; it dies, or the broker that lets it in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_joins_may_die_at_any_step() {
    let steps = [
        ("bootstrap.directory-made", 2),
        ("bootstrap.admitted", 1),
        ("bootstrap.joined", 2),
        ("bootstrap.join-bound", 2),
        ("bootstrap.store-made", 2),
        ("bootstrap.completed", 2),
        ("bootstrap.registered", 2),
    ];
    for (step, victim) in steps {
        println!("{step}, node {victim}");
        let mut cluster = stopped(2, 1).await;
        if victim == 1 {
            start_with_failpoint(&mut cluster, 1, step);
        } else {
            cluster.restart(1);
        }
        cluster.ready(1).await;
        if victim == 2 {
            start_with_failpoint(&mut cluster, 2, step);
        } else {
            cluster.restart(2);
        }
        dies(&mut cluster, victim, step).await;
        cluster.restart(victim);
        cluster.healthy().await;
        let [first, second] = [1, 2].map(|id| cluster.node(id).identity());
        assert_eq!(first["cluster_id"], second["cluster_id"]);
        // The one that it got before it died, not another one.
        assert_eq!(second["incarnation"].as_integer(), Some(1));
        cluster.create_topic("orders", 2, 2).await;
        let produce = ["produce", "orders"];
        cluster.cli_with(&produce, b"a\nb\n".to_vec()).await.expect(0);
    }
}
