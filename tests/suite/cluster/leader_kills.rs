//! Leaders are lost again and again under load, by SIGKILL or by being cut off without a reset: every acknowledged record is there exactly
//! once, in order; and how soon their partitions take writes again.
//!
//! Half a minute of kills and a few cuts by default. `JANGADA_LONG=1` makes it five minutes of kills and fifty cuts.

use std::time::{Duration, Instant};

use jangada_client::{ProducerConfig, ProducerRecord};
use jangada_proto::v1::GetMetadataRequest;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use rand::RngExt as _;

use crate::harness::{Cluster, Load, Options, WAIT, eventually, is_long};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;

/// A partition takes writes again within this, in 99 of 100 faults, at default settings.
const FAILOVER_P99: Duration = Duration::from_secs(3);

/// Fewer faults than this say nothing about one in a hundred.
const FAULTS_FOR_P99: usize = 50;

/// No fault may take longer, even on a machine that does other work.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// The way in which a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    CutOff,
}

/// One fault: its time, and the leader that it took.
struct Lost {
    at: Instant,
    partitions: Vec<u32>,
}

/// Loses one leader, waits until its partitions take writes again, and brings it back.
async fn lose_a_leader(cluster: &mut Cluster, load: &Load, fault: Fault, partition: u32) -> Lost {
    let victim = cluster.leader(TOPIC, partition).await;
    let states = cluster.admin().await.describe_partitions(Some(TOPIC)).await;
    let states = states.expect("a broker answers");
    let led = states
        .iter()
        .filter(|state| state.leader_id.is_some_and(|id| id.get() == victim));
    let led: Vec<u32> = led.map(|state| state.partition).collect();
    let pause = Duration::from_millis(rand::rng().random_range(0..200));
    // A random moment is what is tested.
    tokio::time::sleep(pause).await;
    let at = Instant::now();
    match fault {
        Fault::Kill => cluster.kill(victim),
        Fault::CutOff => cluster.cut_off(victim),
    }
    for &partition in &led {
        load.takes_writes(partition, at).await;
    }
    match fault {
        Fault::Kill => cluster.restart(victim),
        Fault::CutOff => cluster.heal(),
    }
    cluster.healthy().await;
    Lost { at, partitions: led }
}

/// Loses leaders until `enough`, and checks everything.
async fn lose_leaders(fault: Fault, enough: impl Fn(usize, Duration) -> bool) {
    let options = Options {
        alone: true,
        network: fault == Fault::CutOff,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let load = Load::start(&cluster, TOPIC, PARTITIONS, 100, 10_000).await;
    let mut faults: Vec<Lost> = Vec::new();
    let start = Instant::now();
    while !enough(faults.len(), start.elapsed()) {
        let partition = faults.len() as u32 % PARTITIONS;
        faults.push(lose_a_leader(&mut cluster, &load, fault, partition).await);
    }
    let ran = load.finish(&cluster).await;
    let mut took = Vec::new();
    for lost in &faults {
        for &partition in &lost.partitions {
            let again = ran.writes_again_after(partition, lost.at);
            if again > FAILOVER_P99 {
                let after = lost.at.duration_since(start);
                println!("slow: partition {partition}, lost its leader {after:?} after the start: {again:?}");
            }
            took.push(again);
        }
    }
    took.sort_unstable();
    if took.last().is_some_and(|slowest| *slowest > FAILOVER_P99) {
        show_elections(&cluster);
    }
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!(
        "{} times {fault:?}, {} partitions lost their leader, {} records acknowledged; writes again after p50 {:?}, p99 {:?}, max {:?}",
        faults.len(),
        took.len(),
        ran.check(),
        at(50),
        at(99),
        at(100),
    );
    assert!(at(100) < FAILOVER_MAX, "a partition took no writes for {:?}", at(100));
    if took.len() >= FAULTS_FOR_P99 {
        assert!(at(99) < FAILOVER_P99, "p99 is {:?}", at(99));
    }
}

/// Shows the elections that the nodes logged.
fn show_elections(cluster: &Cluster) {
    for id in cluster.ids() {
        let log = cluster.node(id).log();
        let elections = log
            .lines()
            .filter(|line| line.contains("leading") || line.contains("elected"));
        let elections: Vec<&str> = elections.collect();
        println!("elections that node {id} saw:\n{}", elections.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_record_is_there_exactly_once_in_order() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 25 });
    lose_leaders(Fault::Kill, |_, elapsed| elapsed > duration).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_cut_off_are_replaced_and_lose_nothing() {
    let count = if is_long() { 50 } else { 4 };
    lose_leaders(Fault::CutOff, |faults, _| faults == count).await;
}

/// A leader that stands still: its connections stay, nothing comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_leader_is_replaced() {
    let cluster = Cluster::start_alone(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the defaults are valid");
    let record = |value: &'static str| ProducerRecord::new(TOPIC).with_value(value);
    let before = producer.send(record("before")).await.expect("it is taken");
    before.await.expect("it is written");

    let victim = cluster.leader(TOPIC, 0).await;
    let survivor = cluster
        .ids()
        .into_iter()
        .find(|id| *id != victim)
        .expect("there are three");
    let address = cluster.node(survivor).addresses.public.clone();
    let metadata = MetadataServiceClient::connect(format!("http://{address}"))
        .await
        .expect("it is alive");
    cluster.pause(victim);
    let paused = Instant::now();
    // One that is in doubt with the silent leader, and goes to the next one.
    let delivery = producer.send(record("after")).await.expect("it is taken");
    let led = eventually("another leads", WAIT, || async {
        let metadata = metadata
            .clone()
            .get_metadata(GetMetadataRequest::default())
            .await
            .ok()?
            .into_inner();
        let leader = metadata.topics.first()?.partitions.first()?.leader_id;
        (leader != 0 && leader != victim).then(|| paused.elapsed())
    })
    .await;
    delivery.await.expect("it is written");
    let acknowledged = paused.elapsed();
    println!("a silent leader: another leads after {led:?}, the record is acknowledged after {acknowledged:?}");
    assert!(led < FAILOVER_MAX && acknowledged < FAILOVER_MAX);

    // When it wakes up it still believes to lead, and must find out before it answers anything.
    cluster.resume(victim);
    cluster.healthy().await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), "before\nafter\n");
}
