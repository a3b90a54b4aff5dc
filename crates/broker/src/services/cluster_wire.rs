//! The state of the cluster between the contract's messages and the api's structs.

use std::sync::Arc;

use jangada_controller::Topic;
use jangada_proto::v1;
use jangada_types::topic_config::{ConfigKey, KEYS};
use jangada_types::{BrokerId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ReplicaId, TopicId};

use super::record_wire::invalid;
use crate::api::call::cluster::{
    Damage, DamagedReplica, DamagedStore, GroupList, GroupSummary, LeadersView, PartitionState, Voter, WriteRefusal,
};
use crate::api::cluster::{BrokerDescription, ClusterDescription, MetadataRole};
use crate::api::metadata::{Metadata, TopicMetadata};
use crate::error::RequestError;
use crate::listener::Protocol;

/// What stands for an offset that there is not: the leader does not answer.
const NONE: i64 = -1;

/// A topic's id in a message.
pub(super) fn topic_id(id: TopicId) -> bytes::Bytes {
    id.as_bytes().to_vec().into()
}

/// The broker that leads, 0 for none, and its epoch.
fn leader_to(leader: Option<(BrokerId, LeaderEpoch)>) -> (u32, u32) {
    leader.map_or((0, 0), |(broker, epoch)| (broker.get(), epoch.get()))
}

pub(super) fn partition_to(state: PartitionState) -> v1::PartitionState {
    let (leader_id, leader_epoch) = leader_to(state.leader);
    let bare = v1::PartitionState {
        topic: state.topic.to_string(),
        topic_id: topic_id(state.topic_id),
        partition: state.partition.get(),
        leader_id,
        leader_epoch,
        replicas: state.replicas.into_iter().map(BrokerId::get).collect(),
        high_watermark: NONE,
        log_start_offset: NONE,
        ..v1::PartitionState::default()
    };
    let Some(seen) = state.seen else { return bare };
    let voters = seen.voters.into_iter().map(|voter| v1::PartitionVoter {
        broker_id: voter.replica.broker.get(),
        incarnation: voter.replica.incarnation.get(),
        in_sync: voter.in_sync,
        damaged: voter.is_damaged,
    });
    v1::PartitionState {
        in_sync: seen.in_sync.into_iter().map(BrokerId::get).collect(),
        high_watermark: seen.high_watermark.get(),
        log_start_offset: seen.log_start.get(),
        size_bytes: seen.size_bytes,
        write_refusal: seen.write_refusal.map(refusal_to),
        voters: voters.collect(),
        ..bare
    }
}

pub(super) fn partition_of(state: v1::PartitionState) -> Result<PartitionState, RequestError> {
    let id = TopicId::from_slice(&state.topic_id).ok_or_else(|| invalid("the state of a partition has no topic id"))?;
    let leader = (BrokerId(state.leader_id), LeaderEpoch(state.leader_epoch));
    let voters = state.voters.into_iter().map(|voter| Voter {
        replica: ReplicaId::new(BrokerId(voter.broker_id), Incarnation(voter.incarnation)),
        in_sync: voter.in_sync,
        is_damaged: voter.damaged,
    });
    let seen = LeadersView {
        in_sync: state.in_sync.into_iter().map(BrokerId).collect(),
        voters: voters.collect(),
        high_watermark: Offset(state.high_watermark),
        log_start: Offset(state.log_start_offset),
        size_bytes: state.size_bytes,
        write_refusal: state.write_refusal.map(refusal_of),
    };
    Ok(PartitionState {
        topic: state.topic.into(),
        topic_id: id,
        partition: PartitionIndex(state.partition),
        leader: (state.leader_id != 0).then_some(leader),
        replicas: state.replicas.into_iter().map(BrokerId).collect(),
        seen: (state.high_watermark != NONE).then_some(seen),
    })
}

pub(super) fn partitions_to(states: Arc<Vec<PartitionState>>) -> Vec<v1::PartitionState> {
    Arc::unwrap_or_clone(states).into_iter().map(partition_to).collect()
}

fn refusal_to(refusal: WriteRefusal) -> v1::WriteRefusal {
    let WriteRefusal {
        reason,
        message,
        partitions,
    } = refusal;
    v1::WriteRefusal {
        reason,
        message,
        partitions,
    }
}

fn refusal_of(refusal: v1::WriteRefusal) -> WriteRefusal {
    let v1::WriteRefusal {
        reason,
        message,
        partitions,
    } = refusal;
    WriteRefusal {
        reason,
        message,
        partitions,
    }
}

/// The damage alone, as one broker tells another of its own.
pub(super) fn damage_to(damage: Damage) -> v1::DescribeClusterResponse {
    let replicas = damage.replicas.into_iter().map(|damaged| v1::DamagedReplica {
        topic: damaged.topic,
        partition: damaged.partition.get(),
        broker_id: damaged.broker.get(),
        damage: damaged.damage,
        state: damaged.state,
        detail: damaged.detail,
    });
    let stores = damage.stores.into_iter().map(|damaged| v1::DamagedStore {
        broker_id: damaged.broker.get(),
        damage: damaged.damage,
    });
    v1::DescribeClusterResponse {
        damaged_replicas: replicas.collect(),
        damaged_stores: stores.collect(),
        ..v1::DescribeClusterResponse::default()
    }
}

pub(super) fn damage_of(response: v1::DescribeClusterResponse) -> Damage {
    let replicas = response.damaged_replicas.into_iter().map(|damaged| DamagedReplica {
        topic: damaged.topic,
        partition: PartitionIndex(damaged.partition),
        broker: BrokerId(damaged.broker_id),
        damage: damaged.damage,
        state: damaged.state,
        detail: damaged.detail,
    });
    let stores = response.damaged_stores.into_iter().map(|damaged| DamagedStore {
        broker: BrokerId(damaged.broker_id),
        damage: damaged.damage,
    });
    Damage {
        replicas: replicas.collect(),
        stores: stores.collect(),
    }
}

/// The cluster, for a client that came by this listener.
pub(super) fn cluster_to(cluster: ClusterDescription, listener: &str) -> v1::DescribeClusterResponse {
    let brokers = cluster.brokers.into_iter().map(|broker| broker_to(broker, listener));
    v1::DescribeClusterResponse {
        cluster_id: cluster.cluster_id,
        version: cluster.version,
        controller_id: cluster.controller.map_or(0, BrokerId::get),
        brokers: brokers.collect(),
        topics: cluster.topics,
        partitions: cluster.partitions,
        leaderless_partitions: cluster.leaderless_partitions,
        under_replicated_partitions: cluster.under_replicated_partitions,
        write_refusals: cluster.write_refusals.into_iter().map(refusal_to).collect(),
        ..damage_to(cluster.damage)
    }
}

fn broker_to(described: BrokerDescription, listener: &str) -> v1::BrokerState {
    let broker = described.broker;
    let role = match described.metadata_role {
        MetadataRole::Voter => "voter",
        MetadataRole::Learner => "learner",
        MetadataRole::None => "none",
    };
    v1::BrokerState {
        broker_id: broker.id.get(),
        address: broker.address_at(listener, Protocol::Grpc.name()).to_owned(),
        internal_address: broker.internal_address.clone(),
        rack: broker.rack.clone(),
        alive: described.is_alive,
        metadata_role: role.to_owned(),
        leaders: described.leaders,
        replicas: described.replicas,
        incarnation: broker.incarnation.get(),
        disk_low: described.is_disk_low,
    }
}

pub(super) fn groups_to(list: GroupList) -> v1::ListGroupsResponse {
    let groups = list.groups.into_iter().map(|group| v1::GroupSummary {
        group: group.group,
        state: group.state,
        members: group.members,
        coordinator_id: group.coordinator.get(),
        epoch: group.epoch,
    });
    v1::ListGroupsResponse {
        groups: groups.collect(),
        missing_shards: list.missing_shards.into_iter().map(PartitionIndex::get).collect(),
    }
}

pub(super) fn groups_of(response: v1::ListGroupsResponse) -> GroupList {
    let groups = response.groups.into_iter().map(|group| GroupSummary {
        group: group.group,
        state: group.state,
        members: group.members,
        coordinator: BrokerId(group.coordinator_id),
        epoch: group.epoch,
    });
    GroupList {
        groups: groups.collect(),
        missing_shards: response.missing_shards.into_iter().map(PartitionIndex).collect(),
    }
}

/// The metadata, for a client that came by this listener.
pub(super) fn metadata_to(metadata: Metadata, listener: &str) -> v1::GetMetadataResponse {
    let brokers = metadata.brokers.into_iter().map(|(broker, alive)| v1::Broker {
        broker_id: broker.id.get(),
        address: broker.address_at(listener, Protocol::Grpc.name()).to_owned(),
        rack: broker.rack.clone(),
        alive,
    });
    v1::GetMetadataResponse {
        cluster_id: metadata.cluster_id,
        version: metadata.version,
        brokers: brokers.collect(),
        topics: metadata.topics.into_iter().map(topic_to).collect(),
        controller_id: metadata.controller.map_or(0, BrokerId::get),
    }
}

fn topic_to(described: TopicMetadata) -> v1::Topic {
    let TopicMetadata { topic, leaders } = described;
    let partitions = topic.indexed().zip(leaders).map(|((index, partition), leader)| {
        let (leader_id, leader_epoch) = leader_to(leader);
        v1::Partition {
            partition: index.get(),
            leader_id,
            leader_epoch,
            replicas: partition.replicas.iter().map(|replica| replica.broker.get()).collect(),
        }
    });
    v1::Topic {
        name: topic.name.to_string(),
        topic_id: topic_id(topic.id),
        partitions: partitions.collect(),
        config: topic.config.clone().into_iter().collect(),
    }
}

/// A topic's settings, with what they mean.
pub(super) fn config_entries(topic: &Topic) -> Vec<v1::ConfigEntry> {
    let entry = |key: &ConfigKey| {
        let set = topic.config.get(key.name);
        v1::ConfigEntry {
            key: key.name.to_owned(),
            value: set.cloned().unwrap_or_else(|| key.default.to_owned()),
            is_set: set.is_some(),
            default_value: key.default.to_owned(),
            documentation: format!("{} Allowed: {}.", key.documentation, key.allowed),
        }
    };
    KEYS.iter().map(entry).collect()
}
