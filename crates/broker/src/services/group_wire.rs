//! Consumer groups between the contract's messages and the coordinator's types.

use std::sync::Arc;

use jangada_controller::Image;
use jangada_coordinator::{
    Assignor, Committed, Group, HeartbeatRequest, Member, OffsetCommit, PartitionSet, Subscription, TopicPartition,
};
use jangada_proto::v1;
use jangada_types::{LeaderEpoch, Offset, PartitionIndex, Reason, TopicId};

use crate::api::resolve::{self, TopicRef};
use crate::error::RequestError;

fn invalid(message: impl Into<String>) -> RequestError {
    RequestError::new(Reason::InvalidRequest, message)
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, RequestError> {
    TopicId::from_slice(bytes).ok_or_else(|| {
        invalid(format!(
            "a topic id has 16 bytes, this one has {}: send the id that the metadata names",
            bytes.len()
        ))
    })
}

fn text(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| Arc::from(text))
}

/// A partition by its topic's id or, for tools, by its name. Whether the id is known is for the coordinator to say.
pub(crate) fn partition(image: &Image, wanted: Option<&v1::TopicPartition>) -> Result<TopicPartition, RequestError> {
    let wanted = wanted.ok_or_else(|| invalid("a partition is missing: set `partition`"))?;
    let id = if wanted.topic_id.is_empty() {
        resolve::topic(image, &TopicRef::Name(wanted.topic.clone()))?.id
    } else {
        topic_id(&wanted.topic_id)?
    };
    Ok(TopicPartition::new(id, wanted.partition))
}

fn set_of(set: &v1::PartitionSet) -> Result<PartitionSet, RequestError> {
    let mut partitions = Vec::new();
    for topic in &set.topics {
        let id = topic_id(&topic.topic_id)?;
        partitions.extend(topic.partitions.iter().map(|index| TopicPartition::new(id, *index)));
    }
    Ok(partitions.into_iter().collect())
}

pub(crate) fn set_to(image: &Image, set: &PartitionSet) -> v1::PartitionSet {
    let topics = set.by_topic().map(|(id, partitions)| v1::TopicPartitions {
        topic_id: id.as_bytes().to_vec().into(),
        topic: name_of(image, id),
        partitions: partitions.iter().map(|partition| partition.partition.get()).collect(),
    });
    v1::PartitionSet {
        topics: topics.collect(),
    }
}

/// Empty when it is gone.
fn name_of(image: &Image, id: TopicId) -> String {
    image.topic(id).map_or(String::new(), |topic| topic.name.to_string())
}

fn partition_to(image: &Image, partition: TopicPartition) -> v1::TopicPartition {
    v1::TopicPartition {
        topic_id: partition.topic.as_bytes().to_vec().into(),
        topic: name_of(image, partition.topic),
        partition: partition.partition.get(),
    }
}

fn assignor_of(value: i32) -> Result<Option<Assignor>, RequestError> {
    match v1::Assignor::try_from(value) {
        Ok(v1::Assignor::Unspecified) => Ok(None),
        Ok(v1::Assignor::Uniform) => Ok(Some(Assignor::Uniform)),
        Ok(v1::Assignor::Range) => Ok(Some(Assignor::Range)),
        Err(_) => Err(invalid(format!(
            "assignor {value} is not known: use ASSIGNOR_UNIFORM or ASSIGNOR_RANGE"
        ))),
    }
}

pub(crate) fn heartbeat_of(
    request: v1::HeartbeatRequest,
    client_host: Arc<str>,
) -> Result<HeartbeatRequest, RequestError> {
    let subscription = request.subscription.map(|subscription| {
        let pattern = (!subscription.pattern.is_empty()).then_some(subscription.pattern.as_str());
        Subscription::new(subscription.topics.iter().map(String::as_str), pattern)
    });
    Ok(HeartbeatRequest {
        group: request.group.into(),
        member: request.member_id.into(),
        epoch: request.member_epoch,
        assignment_version: request.assignment_version,
        owned: request.owned.as_ref().map(set_of).transpose()?,
        instance_id: text(&request.instance_id),
        client_id: request.client_id.into(),
        client_host,
        rack: text(&request.rack),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        subscription,
        assignor: assignor_of(request.assignor)?,
    })
}

pub(crate) fn commit_of(image: &Image, offset: v1::PartitionOffset) -> Result<OffsetCommit, RequestError> {
    Ok(OffsetCommit {
        partition: partition(image, offset.partition.as_ref())?,
        offset: Offset(offset.offset),
        leader_epoch: offset.leader_epoch.map(LeaderEpoch),
        metadata: offset.metadata.into(),
    })
}

/// An offset; `added` as in the contract.
pub(crate) fn offset_to(
    image: &Image,
    partition: TopicPartition,
    committed: Option<&Committed>,
    added: bool,
) -> v1::PartitionOffset {
    v1::PartitionOffset {
        added,
        partition: Some(partition_to(image, partition)),
        offset: committed.map_or(-1, |committed| committed.offset.get()),
        leader_epoch: committed
            .and_then(|committed| committed.leader_epoch)
            .map(LeaderEpoch::get),
        metadata: committed.map_or(String::new(), |committed| committed.metadata.to_string()),
        committed_at_ms: committed.map_or(0, |committed| {
            i64::try_from(committed.committed_at_ms).unwrap_or(i64::MAX)
        }),
    }
}

/// Offsets of a group: those that are asked for, in their order, or all.
pub(crate) fn offsets_to(image: &Image, group: Option<&Group>, wanted: &[TopicPartition]) -> Vec<v1::PartitionOffset> {
    if wanted.is_empty() {
        let all = group.into_iter().flat_map(|group| &group.offsets);
        return all
            .map(|(partition, committed)| offset_to(image, *partition, Some(committed), false))
            .collect();
    }
    let committed = |partition: &TopicPartition| {
        let index: PartitionIndex = partition.partition;
        group.and_then(|group| group.committed(partition.topic, index))
    };
    let offset = |partition: &TopicPartition| {
        let committed = committed(partition);
        let added = committed.is_none() && group.is_some_and(|group| group.is_added(*partition));
        offset_to(image, *partition, committed, added)
    };
    wanted.iter().map(offset).collect()
}

pub(crate) fn member_to(image: &Image, group: &Group, id: &str, member: &Member) -> v1::GroupMember {
    let spec = &member.spec;
    let owned = member.holdings.iter().map(|holding| v1::OwnedPartition {
        partition: Some(partition_to(image, holding.partition)),
        since_epoch: holding.since.get(),
        revoking: holding.is_revoking,
    });
    let assignor = match spec.assignor {
        None => v1::Assignor::Unspecified,
        Some(Assignor::Uniform) => v1::Assignor::Uniform,
        Some(Assignor::Range) => v1::Assignor::Range,
    };
    v1::GroupMember {
        member_id: id.to_owned(),
        instance_id: spec.instance_id.as_deref().unwrap_or_default().to_owned(),
        client_id: spec.client_id.to_string(),
        client_host: spec.client_host.to_string(),
        rack: spec.rack.to_string(),
        state: group.member_state(member).as_str().to_owned(),
        epoch: member.epoch.get(),
        subscription: Some(v1::Subscription {
            topics: spec.subscription.topics.iter().map(|name| name.to_string()).collect(),
            pattern: spec.subscription.pattern.as_deref().unwrap_or_default().to_owned(),
        }),
        owned: owned.collect(),
        target: Some(set_to(image, &member.target)),
        session_timeout_ms: spec.session_timeout_ms,
        rebalance_timeout_ms: spec.rebalance_timeout_ms,
        assignor: assignor.into(),
    }
}
