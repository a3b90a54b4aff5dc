//! Disks of followers that are down to their reserve: the leader refuses records that no quorum could store.

use crate::harness::node::ready;
use crate::harness::{Cluster, Options, WAIT, eventually, raw};

const TOPIC: &str = "orders";

/// A reserve that no disk has.
const NO_SPACE: &str = "disk_reserve_bytes = 1099511627776";
const SPACE: &str = "disk_reserve_bytes = 0";

/// Rewrites a node's settings, which take effect at its next start.
fn set_disk(cluster: &Cluster, id: u32, from: &str, to: &str) {
    let file = cluster.node(id).settings_file();
    let settings = std::fs::read_to_string(&file).expect("the node has settings");
    assert!(settings.contains(from), "{settings}");
    std::fs::write(&file, settings.replace(from, to)).expect("the settings are ours");
}

/// Produces a batch to the leader, node 1; returns its answer.
async fn produce(cluster: &Cluster) -> Result<i64, tonic::Status> {
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let produced = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"a"])).await;
    produced.map(|response| response.base_offset)
}

async fn lead_by_node_1(cluster: &Cluster) {
    let args = ["partition", "transfer-leader", TOPIC, "0", "--to", "1"];
    eventually("node 1 leads", WAIT, || async {
        (cluster.cli(&args).await.code == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_refuses_what_a_quorum_could_store_only_on_a_full_disk() {
    // Leaderships stay where the test puts them.
    let options = Options {
        sections: "[cluster]\npreferred_leader_after_ms = 0".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, 1, 3).await;

    // One full disk of three: the other two are a quorum.
    set_disk(&cluster, 3, SPACE, NO_SPACE);
    cluster.stop(3).await;
    cluster.restart(3);
    cluster.in_sync().await;
    lead_by_node_1(&cluster).await;
    eventually("node 1 has heard of the full disk", WAIT, || async {
        cluster
            .node(1)
            .log()
            .contains("disk is down to its reserve")
            .then_some(())
    })
    .await;
    eventually("node 3 is not ready, for its disk", WAIT, || async {
        let why = ready(&cluster.node(3).addresses.http).await.err()?;
        why.contains("reserve").then_some(())
    })
    .await;
    eventually("health names the disk", WAIT, || async {
        let health = cluster.cli(&["cluster", "health"]).await;
        let is_named = health.stderr.contains("disk of broker 3 is down to its reserve");
        (health.code == Some(3) && is_named).then_some(())
    })
    .await;
    assert_eq!(produce(&cluster).await.expect("two of three have space"), 0);

    // A dead broker can take nothing: now the quorum would need the full disk.
    cluster.kill(2);
    let refused = eventually("produce is refused", WAIT, || async {
        let refused = produce(&cluster).await.err()?;
        (raw::reason(&refused) == "DISK_FULL").then_some(refused)
    })
    .await;
    assert!(refused.message().contains("broker 3"), "{refused:?}");
    assert_eq!(raw::detail(&refused, "broker").as_deref(), Some("3"));
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert!(consumed.text().lines().count() >= 1, "reading goes on");

    // With space it comes back by itself.
    cluster.restart(2);
    cluster.ready(2).await;
    set_disk(&cluster, 3, NO_SPACE, SPACE);
    cluster.stop(3).await;
    cluster.restart(3);
    cluster.healthy().await;
    eventually("produce is taken again", WAIT, || async {
        produce(&cluster).await.ok()
    })
    .await;
    cluster.kill(2);
    lead_by_node_1(&cluster).await;
    eventually("produce is taken by nodes 1 and 3", WAIT, || async {
        produce(&cluster).await.ok()
    })
    .await;
    cluster.restart(2);
    cluster.healthy().await;
}
