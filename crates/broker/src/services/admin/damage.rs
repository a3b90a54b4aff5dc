//! The damaged replicas of the cluster: each broker knows its own.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Broker, RENEWAL_FEATURE_LEVEL};
use jangada_proto::v1::{DamagedReplica, DamagedStore, DescribeClusterRequest, DescribeClusterResponse};

use crate::forward::forward;
use crate::node::Node;

/// Calls to other brokers at once.
const PARALLEL: usize = 16;
/// How long a broker may take to tell of its damage.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// What another broker that asks is told: this broker's own damage, and nothing else.
pub(in crate::services) fn damage_here(node: &Node) -> DescribeClusterResponse {
    let broker = node.broker().get();
    let damaged = node.repairs.all().into_iter().map(|(_, case)| case.to_wire(broker));
    let store = node.store().damaged_file().map(|damage| DamagedStore {
        broker_id: broker,
        damage,
    });
    DescribeClusterResponse {
        damaged_replicas: damaged.collect(),
        damaged_stores: store.into_iter().collect(),
        ..DescribeClusterResponse::default()
    }
}

/// The damage of all brokers that are alive. One that does not answer in time is left out, as it is of an older version.
pub(super) async fn damage_everywhere(node: &Arc<Node>) -> (Vec<DamagedReplica>, Vec<DamagedStore>) {
    let image = node.metadata.image();
    let others = image.brokers().filter(|broker| {
        broker.id != node.broker()
            && broker.feature_level >= RENEWAL_FEATURE_LEVEL
            && node.registry().is_alive(broker.id)
    });
    let others: Vec<Broker> = others.cloned().collect();
    let asked = futures::stream::iter(others)
        .map(|broker| async move {
            let asked = forward(node.registry(), &broker, None, DescribeClusterRequest {}, TOLD_WITHIN);
            asked.await.ok()
        })
        .buffer_unordered(PARALLEL);
    let mut answers: Vec<DescribeClusterResponse> = asked.filter_map(std::future::ready).collect().await;
    answers.push(damage_here(node));
    let mut replicas: Vec<DamagedReplica> = Vec::new();
    let mut stores: Vec<DamagedStore> = Vec::new();
    for answer in answers {
        replicas.extend(answer.damaged_replicas);
        stores.extend(answer.damaged_stores);
    }
    replicas.sort_by(|a, b| (&a.topic, a.partition, a.broker_id).cmp(&(&b.topic, b.partition, b.broker_id)));
    stores.sort_by_key(|store| store.broker_id);
    (replicas, stores)
}
