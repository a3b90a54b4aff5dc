//! What a broker's memory is made of when there are many partitions.

use crate::harness::Cluster;

const TOPIC: &str = "many";
const PARTITIONS: u32 = 200;

/// Room for one replica, and its share of what is counted beside. Its Raft group takes 0.15 MiB; with openraft's own queue
/// sizes (`.cargo/rustc`) it is 1.5 MiB more, and all of that is resident after a while.
const REPLICA_BYTES_MAX: usize = 1024 * 1024;

/// Rust's default for a thread's stack.
const STACK_BYTES: usize = 2 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_little_memory() {
    let cluster = Cluster::start(1).await;
    let allocated = || {
        let node = cluster.node(1);
        node.memory("VmData").saturating_sub(node.threads() * STACK_BYTES)
    };
    let before = allocated();
    cluster.create_topic(TOPIC, PARTITIONS, 1).await;
    // What was allocated, touched or not: a queue is all touched one day.
    let growth = allocated().saturating_sub(before);
    let each = growth / PARTITIONS as usize;
    println!("{} KiB for each replica", each >> 10);
    assert!(
        each < REPLICA_BYTES_MAX,
        "{each} bytes for each replica; was openraft compiled without .cargo/rustc?"
    );
}
