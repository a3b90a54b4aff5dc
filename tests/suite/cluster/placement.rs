//! The placement of replicas: apart by rack, and equally many on each broker.

use std::collections::BTreeMap;

use crate::harness::{Cluster, Options};

const RACK_VARIABLE: &str = "JANGADA__RACK";
/// The racks of nodes 1 to 4.
const RACKS: [&str; 4] = ["east", "east", "west", "west"];
const PARTITIONS: u32 = 8;

fn rack_of(broker: u32) -> &'static str {
    RACKS[broker as usize - 1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_partition_are_on_different_racks() {
    let options = Options {
        stopped: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(4, options).await;
    for id in cluster.ids() {
        cluster.restart_with(id, &[(RACK_VARIABLE, rack_of(id))]);
    }
    cluster.healthy().await;
    let admin = cluster.admin().await;
    let brokers = admin.describe_cluster().await.expect("a broker answers").brokers;
    let racks: Vec<&str> = brokers.iter().map(|broker| &*broker.rack).collect();
    assert_eq!(racks, RACKS);

    cluster.create_topic("orders", PARTITIONS, 2).await;
    let states = admin.describe_partitions(Some("orders")).await;
    let mut replicas = BTreeMap::<u32, u32>::new();
    let mut preferred = BTreeMap::<u32, u32>::new();
    for state in states.expect("a broker answers") {
        let brokers: Vec<u32> = state.replicas.iter().map(|id| id.get()).collect();
        let [first, second] = brokers[..] else {
            panic!("partition {} has not two replicas: {brokers:?}", state.partition)
        };
        assert_ne!(
            rack_of(first),
            rack_of(second),
            "partition {}: {brokers:?}",
            state.partition
        );
        *preferred.entry(first).or_default() += 1;
        for broker in brokers {
            *replicas.entry(broker).or_default() += 1;
        }
    }
    assert_eq!(replicas, BTreeMap::from([(1, 4), (2, 4), (3, 4), (4, 4)]));
    assert_eq!(preferred, BTreeMap::from([(1, 2), (2, 2), (3, 2), (4, 2)]));

    let lines: String = (0..100).map(|number| format!("key {number}:{number}\n")).collect();
    let produce = ["produce", "orders", "--key-separator", ":"];
    cluster.cli_with(&produce, lines.into_bytes()).await.expect(0);
    let consumed = cluster.cli(&["consume", "orders", "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text().lines().count(), 100);
}
