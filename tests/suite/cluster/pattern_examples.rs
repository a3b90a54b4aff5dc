//! The examples of the patterns keep what they promise while their own processes are killed, and the brokers that lead are, too.
//!
//! Each example has a nemesis for its processes, and checks itself in the end. Here another one kills a broker that leads something, again
//! and again, and brings it back. 15 seconds of that by default, two minutes with `JANGADA_LONG=1`.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::binary;
use crate::harness::{Cluster, WAIT, eventually, is_long};

/// How long an example may take beside the time in which things are killed: to start, to come to an end, to check.
const BESIDE: Duration = Duration::from_secs(300);

/// Kills a broker that leads partitions every few seconds, one at a time, until the time is over. Returns how many.
async fn kill_leaders(cluster: &mut Cluster, chance: &mut StdRng, lasts: Duration) -> u32 {
    let (until, mut kills) = (Instant::now() + lasts, 0);
    while Instant::now() < until {
        let states = cluster
            .admin()
            .await
            .describe_partitions(None)
            .await
            .unwrap_or_default();
        let leaders: Vec<u32> = states
            .iter()
            .filter_map(|state| state.leader_id)
            .map(|id| id.get())
            .collect();
        if !leaders.is_empty() {
            let victim = leaders[chance.random_range(0..leaders.len())];
            cluster.kill(victim);
            kills += 1;
            // The moments are chance: that is what is tested.
            sleep(Duration::from_millis(chance.random_range(200..1_500))).await;
            cluster.restart(victim);
            cluster.healthy().await;
        }
        sleep(Duration::from_millis(chance.random_range(300..2_000))).await;
    }
    kills
}

/// Runs an example against a cluster of three whose leaders are killed meanwhile, and asserts that all of its claims hold.
async fn holds(name: &str) {
    let lasts = Duration::from_secs(if is_long() { 120 } else { 15 });
    let seed = rand::random_range(0..1_000_000_u64);
    println!("{name}: seed {seed}, {lasts:?}");
    let mut cluster = Cluster::start(3).await;
    let output = cluster.folder().join("output");
    let printed = File::create(&output).expect("the cluster's folder can be written");
    let example = Command::new(binary::example(name))
        .args(["--brokers", &cluster.brokers().join(",")])
        .arg("--dir")
        .arg(cluster.folder().join(name))
        .args(["--nemesis", &lasts.as_secs().to_string(), "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(printed.try_clone().expect("a file can be shared"))
        .stderr(printed)
        .kill_on_drop(true)
        .spawn();
    let mut example: Child = example.expect("the example was built");
    let told = || fs::read_to_string(&output).unwrap_or_default();
    // From then on it has its topics, and its processes run.
    eventually("the example has begun", WAIT, || async {
        told().contains("| run ").then_some(())
    })
    .await;
    let mut chance = StdRng::seed_from_u64(seed);
    let kills = kill_leaders(&mut cluster, &mut chance, lasts).await;
    let ended = timeout(BESIDE, example.wait()).await;
    let ended = ended.unwrap_or_else(|_| panic!("{name} does not end after {BESIDE:?}:\n{}", told()));
    let status = ended.expect("our own child can be waited for");
    println!("{kills} leaders were killed; what {name} told:\n{}", told());
    assert!(
        status.success(),
        "{name}, seed {seed}, ended with {status}:\n{}",
        told()
    );
    assert!(kills > 0, "no leader was killed: this shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_services_see_each_event_once_in_the_order_of_its_key() {
    holds("order-events").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_has_its_effect_once_and_bad_ones_are_dead_letters() {
    holds("job-queue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_has_what_the_outbox_has_once() {
    holds("payments").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_slows_its_sensor_down_and_loses_nothing() {
    holds("overload").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_log_are_counted_once_and_alerts_raised_once() {
    holds("log-pipeline").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_conserved_and_projections_are_what_a_rebuild_makes() {
    holds("bank").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_trip_is_booked_whole_or_compensated_whole() {
    holds("trip-saga").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trips_come_to_an_end_without_an_orchestrator() {
    holds("trip-choreography").await;
}
