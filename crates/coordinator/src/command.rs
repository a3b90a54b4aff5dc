//! What is replicated through a shard's log. A command carries results: what the leader decided (targets, matches of
//! patterns, expiry, time stamps). Each replica decides only what depends on the order of the log, from the state and
//! from numbers that are part of the format: whether what the command was decided from is still so, and whether there
//! is room.
//!
//! Each names the version of what it was decided from. What has changed meanwhile makes it `GROUP_CHANGED`, without an
//! effect, and the leader decides again.
//!
//! Encoding: version byte, kind byte, prost fields.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::{CodecError, LeaderEpoch, Offset, TopicId};

use crate::image::{Epoch, MemberSpec, SubscribedTopic};
use crate::partitions::{PartitionSet, TopicPartition};
use crate::wire;

/// A change of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A member joins, comes back, or changes what it says of itself. The first makes the group.
    PutMember {
        /// The group's name.
        group: Arc<str>,
        /// The member's id, which the client chose.
        member: Arc<str>,
        /// The member whose place a static member takes: it is gone afterwards.
        replaces: Option<Arc<str>>,
        /// The version of the member, or of the one that it replaces; 0 for a new one.
        version: u64,
        /// All that the member says of itself.
        spec: MemberSpec,
    },
    /// The target for the next assignment epoch.
    SetTarget {
        /// The group's name.
        group: Arc<str>,
        /// The epoch of this target: the group's, or the one after when no change of members asked for it.
        epoch: Epoch,
        /// The group's `changed_at` from which it was computed. After a later change the group goes on to wait.
        computed_at: u64,
        /// The topics over which it was computed, by name.
        topics: Arc<[SubscribedTopic]>,
        /// The version of the metadata from which the topics came.
        topics_version: u64,
        /// What each member should own; one that is not named gets nothing.
        targets: Vec<(Arc<str>, PartitionSet)>,
        /// The group remembers how many partitions a topic had when the group began to read it
        /// ([`Group::is_added`](crate::Group::is_added)). A kind of its own in the log, which brokers below feature level 5
        /// do not know.
        remembers: bool,
    },
    /// A member goes a step towards its target.
    Progress {
        /// The group's name.
        group: Arc<str>,
        /// Who.
        member: Arc<str>,
        /// The version of the member.
        version: u64,
        /// The epoch of the target that it goes towards.
        assignment_epoch: Epoch,
        /// The member's epoch from now on.
        epoch: Epoch,
        /// What it may go on with or take up.
        assigned: PartitionSet,
        /// What it must give up first.
        revoking: PartitionSet,
    },
    /// A static member leaves for a while and keeps its place until its session ends.
    SetAway {
        /// The group's name.
        group: Arc<str>,
        /// Who.
        member: Arc<str>,
        /// The version of the member.
        version: u64,
    },
    /// Members leave, or are fenced. Those that changed meanwhile stay.
    RemoveMembers {
        /// The group's name.
        group: Arc<str>,
        /// Who, with the version of each.
        members: Vec<(Arc<str>, u64)>,
        /// Why.
        cause: RemovalCause,
        /// The leader's clock, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Writes offsets, all or none.
    CommitOffsets {
        /// The group's name. Without a member it is made when it does not exist.
        group: Arc<str>,
        /// Who, and at which epoch; none only while the group has no members.
        member: Option<(Arc<str>, Epoch)>,
        /// At least one, each partition once.
        offsets: Vec<OffsetCommit>,
        /// The leader's clock, milliseconds since the Unix epoch.
        at_ms: u64,
        /// The version of the metadata that has the topics.
        topics_version: u64,
    },
    /// Deletes offsets of a group without members.
    DeleteOffsets {
        /// The group's name.
        group: Arc<str>,
        /// Those without an offset are ignored.
        partitions: PartitionSet,
    },
    /// Deletes the offsets of topics that are gone.
    ForgetTopics {
        /// The group's name.
        group: Arc<str>,
        /// Ids of topics that were deleted.
        topics: Vec<TopicId>,
        /// The version of the metadata that no longer has them.
        topics_version: u64,
    },
    /// Deletes a group without members, and its offsets.
    DeleteGroup {
        /// The group's name.
        group: Arc<str>,
    },
    /// Deletes a group that has been empty for long, and its offsets.
    ExpireGroup {
        /// The group's name.
        group: Arc<str>,
        /// Since when it was empty.
        empty_since_ms: u64,
    },
}

/// Why a member is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// It said so.
    Left,
    /// It was silent for its session.
    SessionExpired,
    /// It did not give up partitions in time.
    RebalanceTimedOut,
}

impl RemovalCause {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Left, Self::SessionExpired, Self::RebalanceTimedOut];

    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::SessionExpired => "session_expired",
            Self::RebalanceTimedOut => "rebalance_timed_out",
        }
    }
}

/// The offset of one partition in a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Which.
    pub partition: TopicPartition,
    /// The next record to read.
    pub offset: Offset,
    /// The leader epoch of the last record that was read, when known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The consumer's own text.
    pub metadata: Box<str>,
}

impl Command {
    /// The group that it changes.
    pub fn group(&self) -> &Arc<str> {
        match self {
            Self::PutMember { group, .. }
            | Self::SetTarget { group, .. }
            | Self::Progress { group, .. }
            | Self::SetAway { group, .. }
            | Self::RemoveMembers { group, .. }
            | Self::CommitOffsets { group, .. }
            | Self::DeleteOffsets { group, .. }
            | Self::ForgetTopics { group, .. }
            | Self::DeleteGroup { group }
            | Self::ExpireGroup { group, .. } => group,
        }
    }

    /// What goes into the shard's log.
    pub fn encode(&self) -> Bytes {
        wire::command::encode(self)
    }

    /// Reads what [`Command::encode`] wrote. An error means that a newer build wrote it, or that it is damaged: a
    /// replica that can't read a committed command must stop, for skipping it would part its state from the
    /// others'.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        wire::command::decode(bytes)
    }
}
