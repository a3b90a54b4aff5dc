//! Consumer groups, at the broker that coordinates them.

use std::sync::Arc;

use jangada_coordinator::{
    Assignor, CommitRequest, Committed, Epoch, GroupState, HeartbeatRequest, Holding, MemberState, PartitionSet,
    Subscription, TopicPartition,
};
use jangada_transactions::Producer;
use jangada_types::BrokerId;

/// A member says that it is alive, joins, or leaves. The answer to one that has left is none.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub request: HeartbeatRequest,
    /// The coordinator answers when its metadata have this version; 0: at once.
    pub min_metadata_version: u64,
    /// What the request takes in memory until Raft lets go of its command, bytes.
    pub bytes: usize,
}

/// Commits offsets of a group.
#[derive(Debug)]
pub(crate) struct Commit {
    pub request: CommitRequest,
    /// The offsets are part of the open transaction of this id, whose producer has this epoch.
    pub transaction: Option<(Arc<str>, Producer)>,
    /// What the request takes in memory until Raft lets go of its command, bytes.
    pub bytes: usize,
}

/// Asks for the offsets of a group.
#[derive(Debug)]
pub(crate) struct ReadOffsets {
    pub group: Arc<str>,
    /// The partitions that are asked for, in the order of the answer; none: all that have an offset.
    pub partitions: Vec<TopicPartition>,
    /// Refuse instead of giving offsets that an open transaction may replace.
    pub require_stable: bool,
}

/// The offset of a group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionOffset {
    pub partition: TopicPartition,
    /// None: nothing was committed.
    pub committed: Option<Committed>,
    /// Nothing was committed, and the partition was added to its topic after the group began to read it.
    pub added: bool,
}

/// Asks for the state of a group and its members.
#[derive(Debug)]
pub(crate) struct DescribeGroup {
    pub group: Arc<str>,
}

/// The state of a group and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDescription {
    pub state: GroupState,
    pub coordinator: BrokerId,
    pub epoch: Epoch,
    pub assignment_epoch: Epoch,
    pub members: Vec<MemberDescription>,
}

/// The state of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    pub id: Arc<str>,
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rack: Arc<str>,
    pub state: MemberState,
    pub epoch: Epoch,
    pub subscription: Arc<Subscription>,
    pub owned: Box<[Holding]>,
    /// What the member is to own when all others have let go of it.
    pub target: PartitionSet,
    pub session_timeout_ms: u32,
    pub rebalance_timeout_ms: u32,
    pub assignor: Option<Assignor>,
}

/// Deletes a group without members. Answered with the number of its offsets.
#[derive(Debug)]
pub(crate) struct DeleteGroup {
    pub group: Arc<str>,
}

/// Deletes a group's offsets of some partitions. Answered with how many had one.
#[derive(Debug)]
pub(crate) struct DeleteOffsets {
    pub group: Arc<str>,
    pub partitions: PartitionSet,
    /// What the request takes in memory until Raft lets go of its command, bytes.
    pub bytes: usize,
}
