//! The cluster as a whole, and a topic's settings, as tools show them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::{Topic, TopicKind};
use jangada_proto::v1::{BrokerState, ConfigEntry, DescribeClusterResponse, PartitionState, WriteRefusal};
use jangada_storage::StoreCondition;
use jangada_types::GroupId;
use jangada_types::topic_config::{ConfigKey, KEYS};

use super::damage::damage_everywhere;
use super::fields::count;
use super::states::partition_states;
use crate::node::Node;

pub(super) async fn describe_cluster(node: &Arc<Node>) -> DescribeClusterResponse {
    let image = node.metadata.image();
    let topics: Vec<Arc<Topic>> = image.topics_by_name().cloned().collect();
    let partitions = partition_states(node, &image, &topics, false).await;
    let (damaged_replicas, damaged_stores) = damage_everywhere(node).await;
    let members = node.metadata.hosted.group.members();
    let low_disks = node.registry().low_disks();
    let is_low_here = matches!(node.store().condition(), StoreCondition::DiskLow { .. });
    let brokers = image.brokers().map(|broker| {
        let replica = broker.replica();
        let role = if members.voters.contains(&replica) {
            "voter"
        } else if members.learners.contains(&replica) {
            "learner"
        } else {
            "none"
        };
        let id = broker.id.get();
        BrokerState {
            broker_id: id,
            address: broker.address.clone(),
            internal_address: broker.internal_address.clone(),
            rack: broker.rack.clone(),
            alive: node.registry().is_alive(broker.id),
            metadata_role: role.to_owned(),
            leaders: count(partitions.iter().filter(|state| state.leader_id == id).count()),
            replicas: count(partitions.iter().filter(|state| state.replicas.contains(&id)).count()),
            incarnation: broker.incarnation.get(),
            disk_low: match broker.id == node.broker() {
                true => is_low_here,
                false => low_disks.contains(&broker.id),
            },
        }
    });
    DescribeClusterResponse {
        cluster_id: node.registry().identity().cluster_id.clone(),
        version: image.version(),
        controller_id: node
            .replicas
            .live_leader_of(GroupId::METADATA)
            .map_or(0, |(broker, _)| broker.get()),
        brokers: brokers.collect(),
        topics: count(topics.iter().filter(|topic| topic.kind == TopicKind::Log).count()),
        partitions: count(partitions.len()),
        leaderless_partitions: count(partitions.iter().filter(|state| state.leader_id == 0).count()),
        under_replicated_partitions: count(
            partitions
                .iter()
                .filter(|state| state.in_sync.len() < state.replicas.len())
                .count(),
        ),
        write_refusals: write_refusals(&partitions),
        damaged_replicas,
        damaged_stores,
    }
}

/// Why partitions refuse records: one for each reason and leader, with the first partition's message.
fn write_refusals(partitions: &[PartitionState]) -> Vec<WriteRefusal> {
    let mut refusals: BTreeMap<(u32, &str), WriteRefusal> = BTreeMap::new();
    for state in partitions {
        if let Some(refusal) = &state.write_refusal {
            let all = refusals.entry((state.leader_id, &refusal.reason));
            let all = all.or_insert_with(|| WriteRefusal {
                partitions: 0,
                ..refusal.clone()
            });
            all.partitions += 1;
        }
    }
    refusals.into_values().collect()
}

pub(super) fn config_entries(topic: &Topic) -> Vec<ConfigEntry> {
    let entry = |key: &ConfigKey| {
        let set = topic.config.get(key.name);
        ConfigEntry {
            key: key.name.to_owned(),
            value: set.cloned().unwrap_or_else(|| key.default.to_owned()),
            is_set: set.is_some(),
            default_value: key.default.to_owned(),
            documentation: format!("{} Allowed: {}.", key.documentation, key.allowed),
        }
    };
    KEYS.iter().map(entry).collect()
}
