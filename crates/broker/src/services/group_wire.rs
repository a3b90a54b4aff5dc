//! Consumer groups between the contract's messages and the coordinator's types.

use std::sync::Arc;

use jangada_controller::Image;
use jangada_coordinator::{
    Assignor, CommitRequest, Committed, Epoch, GroupState, HeartbeatRequest, HeartbeatResponse, Holding, MemberState,
    OffsetCommit, PartitionSet, Subscription, TopicPartition,
};
use jangada_proto::v1;
use jangada_transactions::Producer;
use jangada_types::{BrokerId, LeaderEpoch, Offset, Reason, TopicId};

use super::transaction_wire::producer_of;
use crate::api::call::groups::{Commit, GroupDescription, Heartbeat, MemberDescription, PartitionOffset};
use crate::api::resolve::{self, TopicRef};
use crate::error::RequestError;

/// A transactional id, and its producer at the epoch of the transaction.
type OfTransaction = (Arc<str>, Producer);

/// What stands for the offset of a partition in which nothing was committed.
const NO_OFFSET: i64 = -1;
const GROUP_STATES: [GroupState; 5] = [
    GroupState::Empty,
    GroupState::Assigning,
    GroupState::Reconciling,
    GroupState::Stable,
    GroupState::Dead,
];
const MEMBER_STATES: [MemberState; 5] = [
    MemberState::Stable,
    MemberState::Behind,
    MemberState::Revoking,
    MemberState::Waiting,
    MemberState::Away,
];
/// A row of a request takes more in memory than in its message.
const BYTES_PER_WIRE_BYTE: usize = 2;
/// And a request something at least.
const REQUEST_BYTES: usize = 512;

/// What a request takes until Raft lets go of its command, bytes.
pub(crate) fn room_for(request: &impl prost::Message) -> usize {
    request.encoded_len() * BYTES_PER_WIRE_BYTE + REQUEST_BYTES
}

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

/// The partitions that a request names, in its order.
pub(crate) fn partitions_of(
    image: &Image,
    named: &[v1::TopicPartition],
) -> impl Iterator<Item = Result<TopicPartition, RequestError>> {
    named.iter().map(|wanted| partition(image, Some(wanted)))
}

pub(crate) fn partitions_to(
    image: &Image,
    partitions: impl IntoIterator<Item = TopicPartition>,
) -> Vec<v1::TopicPartition> {
    let partitions = partitions.into_iter();
    partitions.map(|partition| partition_to(image, partition)).collect()
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

fn assignor_to(assignor: Option<Assignor>) -> v1::Assignor {
    match assignor {
        None => v1::Assignor::Unspecified,
        Some(Assignor::Uniform) => v1::Assignor::Uniform,
        Some(Assignor::Range) => v1::Assignor::Range,
    }
}

pub(crate) fn heartbeat_of(request: v1::HeartbeatRequest, client_host: Arc<str>) -> Result<Heartbeat, RequestError> {
    let bytes = room_for(&request);
    let min_metadata_version = request.min_metadata_version;
    let subscription = request.subscription.as_ref().map(subscription_of);
    let request = HeartbeatRequest {
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
    };
    Ok(Heartbeat {
        request,
        min_metadata_version,
        bytes,
    })
}

/// The client's host is that of the context.
pub(crate) fn heartbeat_to(image: &Image, heartbeat: Heartbeat) -> v1::HeartbeatRequest {
    let Heartbeat {
        request,
        min_metadata_version,
        bytes: _,
    } = heartbeat;
    v1::HeartbeatRequest {
        group: request.group.to_string(),
        member_id: request.member.to_string(),
        member_epoch: request.epoch,
        assignment_version: request.assignment_version,
        owned: request.owned.map(|set| set_to(image, &set)),
        instance_id: text_to(request.instance_id.as_deref()),
        client_id: request.client_id.to_string(),
        rack: text_to(request.rack.as_deref()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        subscription: request.subscription.as_ref().map(subscription_to),
        assignor: assignor_to(request.assignor).into(),
        min_metadata_version,
    }
}

/// What a member is answered; one that has left is answered nothing.
pub(crate) fn heartbeat_answer_to(image: &Image, answer: Option<HeartbeatResponse>) -> v1::HeartbeatResponse {
    let Some(answer) = answer else {
        return v1::HeartbeatResponse::default();
    };
    v1::HeartbeatResponse {
        member_epoch: answer.epoch.get().into(),
        heartbeat_interval_ms: answer.heartbeat_interval_ms,
        assignment_version: answer.assignment_version,
        assignment: answer.assignment.map(|set| set_to(image, &set)),
    }
}

pub(crate) fn heartbeat_answer_of(response: &v1::HeartbeatResponse) -> Result<Option<HeartbeatResponse>, RequestError> {
    // The first epoch is 1.
    if response.member_epoch == 0 {
        return Ok(None);
    }
    let epoch = u32::try_from(response.member_epoch);
    Ok(Some(HeartbeatResponse {
        epoch: Epoch(epoch.map_err(|_| invalid(format!("member epoch {}", response.member_epoch)))?),
        heartbeat_interval_ms: response.heartbeat_interval_ms,
        assignment_version: response.assignment_version,
        assignment: response.assignment.as_ref().map(set_of).transpose()?,
    }))
}

fn text_to(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn subscription_to(subscription: &Subscription) -> v1::Subscription {
    v1::Subscription {
        topics: subscription.topics.iter().map(|name| name.to_string()).collect(),
        pattern: text_to(subscription.pattern.as_deref()),
    }
}

fn subscription_of(subscription: &v1::Subscription) -> Subscription {
    let pattern = (!subscription.pattern.is_empty()).then_some(subscription.pattern.as_str());
    Subscription::new(subscription.topics.iter().map(String::as_str), pattern)
}

/// A commit, and the transaction that it is part of.
pub(crate) fn commit_of(
    image: &Image,
    request: v1::CommitOffsetsRequest,
) -> Result<(CommitRequest, Option<OfTransaction>), RequestError> {
    let transaction = request.transaction.map(transaction_of).transpose()?;
    let offsets = request.offsets.into_iter().map(|offset| {
        Ok(OffsetCommit {
            partition: partition(image, offset.partition.as_ref())?,
            offset: Offset(offset.offset),
            leader_epoch: offset.leader_epoch.map(LeaderEpoch),
            metadata: offset.metadata.into(),
        })
    });
    let commit = CommitRequest {
        group: request.group.into(),
        member: (!request.member_id.is_empty()).then(|| (request.member_id.into(), request.member_epoch)),
        offsets: offsets.collect::<Result<_, RequestError>>()?,
    };
    Ok((commit, transaction))
}

fn transaction_of(transaction: v1::OffsetsTransaction) -> Result<OfTransaction, RequestError> {
    let producer = producer_of(transaction.producer_id, transaction.producer_epoch)?;
    Ok((transaction.transactional_id.into(), producer))
}

fn transaction_to((id, producer): OfTransaction) -> v1::OffsetsTransaction {
    v1::OffsetsTransaction {
        transactional_id: id.to_string(),
        producer_id: producer.id.get(),
        producer_epoch: producer.epoch.get().into(),
    }
}

pub(crate) fn commit_to(image: &Image, commit: Commit) -> v1::CommitOffsetsRequest {
    let Commit {
        request: commit,
        transaction,
        bytes: _,
    } = commit;
    let offsets = commit.offsets.into_iter().map(|offset| v1::PartitionOffset {
        partition: Some(partition_to(image, offset.partition)),
        offset: offset.offset.get(),
        leader_epoch: offset.leader_epoch.map(LeaderEpoch::get),
        metadata: offset.metadata.into(),
        ..v1::PartitionOffset::default()
    });
    let (member_id, member_epoch) = commit.member.unwrap_or_default();
    v1::CommitOffsetsRequest {
        group: commit.group.to_string(),
        member_id: member_id.to_string(),
        member_epoch,
        offsets: offsets.collect(),
        transaction: transaction.map(transaction_to),
    }
}

pub(crate) fn offsets_to(image: &Image, offsets: Vec<PartitionOffset>) -> v1::FetchOffsetsResponse {
    let offsets = offsets.into_iter().map(|offset| {
        let partition = Some(partition_to(image, offset.partition));
        let Some(committed) = offset.committed else {
            return v1::PartitionOffset {
                partition,
                offset: NO_OFFSET,
                added: offset.added,
                ..v1::PartitionOffset::default()
            };
        };
        v1::PartitionOffset {
            partition,
            offset: committed.offset.get(),
            leader_epoch: committed.leader_epoch.map(LeaderEpoch::get),
            metadata: committed.metadata.into(),
            committed_at_ms: i64::try_from(committed.committed_at_ms).unwrap_or(i64::MAX),
            added: offset.added,
        }
    });
    v1::FetchOffsetsResponse {
        offsets: offsets.collect(),
    }
}

pub(crate) fn offsets_of(response: v1::FetchOffsetsResponse) -> Result<Vec<PartitionOffset>, RequestError> {
    let offsets = response.offsets.into_iter().map(|offset| {
        Ok(PartitionOffset {
            partition: partition_of(offset.partition.as_ref())?,
            added: offset.added,
            committed: (offset.offset != NO_OFFSET).then(|| Committed {
                offset: Offset(offset.offset),
                leader_epoch: offset.leader_epoch.map(LeaderEpoch),
                metadata: offset.metadata.into(),
                committed_at_ms: u64::try_from(offset.committed_at_ms).unwrap_or_default(),
            }),
        })
    });
    offsets.collect()
}

pub(crate) fn description_to(image: &Image, group: &str, described: GroupDescription) -> v1::DescribeGroupResponse {
    let members = described.members.into_iter().map(|member| member_to(image, member));
    v1::DescribeGroupResponse {
        group: group.to_owned(),
        state: described.state.as_str().to_owned(),
        coordinator_id: described.coordinator.get(),
        epoch: described.epoch.get(),
        assignment_epoch: described.assignment_epoch.get(),
        members: members.collect(),
    }
}

pub(crate) fn description_of(response: v1::DescribeGroupResponse) -> Result<GroupDescription, RequestError> {
    let state = GROUP_STATES.into_iter().find(|state| state.as_str() == response.state);
    Ok(GroupDescription {
        state: state.ok_or_else(|| invalid(format!("group state {:?} is not known", response.state)))?,
        coordinator: BrokerId(response.coordinator_id),
        epoch: Epoch(response.epoch),
        assignment_epoch: Epoch(response.assignment_epoch),
        members: response.members.into_iter().map(member_of).collect::<Result<_, _>>()?,
    })
}

fn member_to(image: &Image, member: MemberDescription) -> v1::GroupMember {
    let owned = member.owned.iter().map(|holding| v1::OwnedPartition {
        partition: Some(partition_to(image, holding.partition)),
        since_epoch: holding.since.get(),
        revoking: holding.is_revoking,
    });
    v1::GroupMember {
        member_id: member.id.to_string(),
        instance_id: text_to(member.instance_id.as_deref()),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        rack: member.rack.to_string(),
        state: member.state.as_str().to_owned(),
        epoch: member.epoch.get(),
        subscription: Some(subscription_to(&member.subscription)),
        owned: owned.collect(),
        target: Some(set_to(image, &member.target)),
        session_timeout_ms: member.session_timeout_ms,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        assignor: assignor_to(member.assignor).into(),
    }
}

fn member_of(member: v1::GroupMember) -> Result<MemberDescription, RequestError> {
    let state = MEMBER_STATES.into_iter().find(|state| state.as_str() == member.state);
    let owned = member.owned.iter().map(|owned| {
        Ok(Holding {
            partition: partition_of(owned.partition.as_ref())?,
            since: Epoch(owned.since_epoch),
            is_revoking: owned.revoking,
        })
    });
    Ok(MemberDescription {
        state: state.ok_or_else(|| invalid(format!("member state {:?} is not known", member.state)))?,
        epoch: Epoch(member.epoch),
        subscription: Arc::new(member.subscription.as_ref().map(subscription_of).unwrap_or_default()),
        owned: owned.collect::<Result<_, RequestError>>()?,
        target: member.target.as_ref().map(set_of).transpose()?.unwrap_or_default(),
        session_timeout_ms: member.session_timeout_ms,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        assignor: assignor_of(member.assignor)?,
        id: member.member_id.into(),
        instance_id: text(&member.instance_id),
        client_id: member.client_id.into(),
        client_host: member.client_host.into(),
        rack: member.rack.into(),
    })
}

/// A partition in an answer of another broker, which names it by its topic's id.
pub(super) fn partition_of(partition: Option<&v1::TopicPartition>) -> Result<TopicPartition, RequestError> {
    let partition = partition.ok_or_else(|| invalid("a partition is missing"))?;
    Ok(TopicPartition::new(topic_id(&partition.topic_id)?, partition.partition))
}
