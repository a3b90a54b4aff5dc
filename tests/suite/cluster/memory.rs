//! What a broker's memory is made of when there are many partitions.

use crate::harness::Cluster;

const TOPIC: &str = "many";
const PARTITIONS: u32 = 200;

/// Room for one replica. Its Raft group takes 0.15 MiB; with openraft's own queue sizes (`.cargo/rustc`) it is 1.7 MiB,
/// all of which is resident after a while.
const REPLICA_BYTES_MAX: usize = 512 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_little_memory() {
    let cluster = Cluster::start(1).await;
    let before = cluster.node(1).memory("VmData");
    cluster.create_topic(TOPIC, PARTITIONS, 1).await;
    // What was allocated, touched or not: it is all touched one day.
    let growth = cluster.node(1).memory("VmData").saturating_sub(before);
    let each = growth / PARTITIONS as usize;
    println!("{} KiB for each replica", each >> 10);
    assert!(each < REPLICA_BYTES_MAX, "{each} bytes for each replica");
}
