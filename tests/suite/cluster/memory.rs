//! The memory of a broker with many partitions: for each of them, and at most under faults.

use std::sync::Arc;

use bytes::Bytes;
use jangada_client::{Client, PartitionState, ProducerConfig, ProducerRecord};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::{Cluster, Options, WAIT, eventually, is_too_long, raw};

const TOPIC: &str = "many";
const PARTITIONS: u32 = 200;

/// Bound of the bytes for one replica, with its share of what is counted beside it. Its Raft group takes 0.15 MiB; with
/// openraft's own queue sizes (`.cargo/rustc`) it is 1.5 MiB more, all of which is resident after a while.
const REPLICA_BYTES_MAX: usize = 1024 * 1024;

/// Rust's default for a thread's stack.
const STACK_BYTES: usize = 2 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_little_memory() {
    let cluster = Cluster::start_alone(1).await;
    let allocated = || {
        let node = cluster.node(1);
        node.memory("VmData").saturating_sub(node.threads() * STACK_BYTES)
    };
    let before = allocated();
    cluster.create_topic(TOPIC, PARTITIONS, 1).await;
    // Allocated bytes, whether their pages are touched yet or not: a queue touches all of its pages in time.
    let growth = allocated().saturating_sub(before);
    let each = growth / PARTITIONS as usize;
    println!("{} KiB for each replica", each >> 10);
    assert!(
        each < REPLICA_BYTES_MAX,
        "{each} bytes for each replica; was openraft compiled without .cargo/rustc?"
    );
}

/// Topics of the crowded cluster, and below the partitions of each.
const TOPICS: [&str; 5] = ["many-0", "many-1", "many-2", "many-3", "many-4"];
const CROWD: usize = TOPICS.len() * PARTITIONS as usize;
const _: () = assert!(CROWD == 1_000);

const STALLED: usize = 200;
const RESPONSE_BYTES: u32 = 1 << 20;

/// Bytes that are written while all nodes live, and below those after one has died.
const BYTES_BEFORE: usize = 512 << 20;
const BYTES_AFTER: usize = 1 << 30;
const VALUE_BYTES: usize = 1024;

/// Bytes of the buffer that values are cut from, and below the distance between two of them: a prime, so that they
/// repeat late.
const NOISE_BYTES: usize = 8 << 20;
const STRIDE: usize = 4_099;

/// Bound of the resident memory of each node.
const RESIDENT_BYTES_MAX: usize = 1 << 30;

/// The default interval of retention, twenty times as long as in other tests.
const AS_BY_DEFAULT: [(&str, &str); 1] = [("JANGADA__RETENTION__CHECK_INTERVAL_MS", "5000")];

/// Writes `bytes` bytes, a batch to each partition in turn.
async fn write(client: &Client, bytes: usize) {
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the defaults are valid");
    let topics = TOPICS.map(Arc::<str>::from);
    let mut noise = vec![0u8; NOISE_BYTES];
    StdRng::seed_from_u64(7).fill(noise.as_mut_slice());
    let noise = Bytes::from(noise);
    let mut deliveries = Vec::new();
    for number in 0..bytes / VALUE_BYTES {
        let at = number * STRIDE % (NOISE_BYTES - VALUE_BYTES);
        let topic = topics[number % topics.len()].clone();
        let record = ProducerRecord::new(topic).with_value(noise.slice(at..at + VALUE_BYTES));
        deliveries.push(producer.send(record).await.expect("it is taken"));
    }
    for delivery in deliveries {
        delivery.await.expect("it is written");
    }
}

/// The most that each of these nodes ever had resident, bytes.
fn peaks(cluster: &Cluster, ids: &[u32], when: &str) -> Vec<usize> {
    let peaks = ids.iter().map(|id| cluster.node(*id).memory("VmHWM"));
    let peaks: Vec<usize> = peaks.collect();
    let mib: Vec<usize> = peaks.iter().map(|bytes| bytes >> 20).collect();
    println!("{when}: nodes {ids:?} had {mib:?} MiB at most");
    peaks
}

/// With `JANGADA_LONG=1` only: it writes some GiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_partitions_with_a_dead_follower_and_stalled_consumers_fit_into_a_gib() {
    if is_too_long("memory with a thousand partitions") {
        return;
    }
    let options = Options {
        alone: true,
        plain_storage: true,
        stopped: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    let all = cluster.ids();
    for &id in &all {
        cluster.restart_with(id, &AS_BY_DEFAULT);
    }
    cluster.healthy().await;
    for topic in TOPICS {
        cluster.create_topic(topic, PARTITIONS, 3).await;
    }
    cluster.healthy().await;
    peaks(&cluster, &all, "without records");
    let client = cluster.client().await;
    write(&client, BYTES_BEFORE).await;
    peaks(&cluster, &all, "while all lived");

    let (dead, living) = all.split_last().expect("there are three");
    cluster.kill(*dead);
    let admin = client.admin();
    let led = eventually("the living lead every partition", WAIT, || async {
        let states = admin.describe_partitions(None).await.ok()?;
        let is_led = |state: &PartitionState| {
            let is_living = state.leader_id.is_some_and(|leader| leader.get() != *dead);
            is_living && state.high_watermark.is_some()
        };
        states.iter().all(is_led).then_some(states)
    })
    .await;
    assert_eq!(led.len(), CROWD);
    let mut streams = Vec::new();
    for state in led.iter().step_by(CROWD / STALLED) {
        let leader = state.leader_id.expect("it is led").get();
        let address = &cluster.node(leader).addresses.public;
        let partition = raw::partition(&state.topic, state.partition);
        streams.push(raw::stalled(address, partition, RESPONSE_BYTES).await);
    }
    assert_eq!(streams.len(), STALLED);
    write(&client, BYTES_AFTER).await;
    let most = peaks(&cluster, living, "with a dead follower and stalled consumers");

    drop(streams);
    cluster.restart_with(*dead, &AS_BY_DEFAULT);
    cluster.healthy().await;
    peaks(&cluster, &all, "with the dead one back");
    for (id, bytes) in living.iter().zip(most) {
        assert!(bytes < RESIDENT_BYTES_MAX, "node {id} had {bytes} bytes");
    }
}
