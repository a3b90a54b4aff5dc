//! The damaged replicas of the cluster: each broker knows its own.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::RENEWAL_FEATURE_LEVEL;
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::{DamagedReplica, DamagedStore, DescribeClusterRequest, DescribeClusterResponse};
use jangada_types::limits::RESPONSE_BYTES_MAX;

use crate::node::Node;
use crate::services::forward::{channel, forward};

/// Calls to other brokers at once.
const PARALLEL: usize = 16;
/// How long a broker may take to tell of its damage.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// What another broker that asks is told: this broker's own damage, and nothing else.
pub(super) fn damage_here(node: &Node) -> DescribeClusterResponse {
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
    let addresses: Vec<String> = others.map(|broker| broker.address.clone()).collect();
    let asked = futures::stream::iter(addresses)
        .map(|address| async move {
            let channel = channel(&address).ok()?;
            let mut client = AdminServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
            let call = client.describe_cluster(forward(DescribeClusterRequest {}));
            let answer = tokio::time::timeout(TOLD_WITHIN, call).await;
            Some(answer.ok()?.ok()?.into_inner())
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
