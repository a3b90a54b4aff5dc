//! The commands that are replicated through a shard's log. A command carries results: what the leader decided (targets,
//! matches of patterns, expiry, time stamps). Each replica decides only what depends on the order of the log, from the
//! state and from numbers that are part of the format: whether the state that the command was decided from is still the
//! same, and whether there is room.
//!
//! Each command names the version of the state that it was decided from. If that has changed meanwhile the command is
//! `GROUP_CHANGED`, without an effect, and the leader decides again.
//!
//! The declaration is all that there is of a command's encoding; [`jangada_types::replicated`] says how to read it.

use std::sync::Arc;

use jangada_types::{TopicId, replicated};

use crate::image::{Epoch, MemberSpec, SubscribedTopic};
use crate::offset_commit::OffsetCommit;
use crate::partitions::PartitionSet;
use crate::removal::RemovalCause;
use crate::transaction::TransactionRef;
use crate::wire::command::{WireCommitter, WireMember, WireOffset, WireSetAway, WireTarget, WireTransaction};
use crate::wire::{WirePartitions, WireSpec, WireTopic};

replicated! {
    /// A change of one group.
    pub enum Command, CommandKind, "command" {
        /// A member joins, comes back, or changes what it says of itself. The first member creates the group.
        PutMember = 1 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The member's id, which the client chose.
            #[prost(string, tag = "2")]
            member: Arc<str> as String,
            /// The member whose place a static member takes; it is removed.
            #[prost(string, optional, tag = "3")]
            replaces: Option<Arc<str>> as Option<String>,
            /// The version of the member, or of the one that it replaces; 0 for a new one.
            #[prost(uint64, tag = "4")]
            version: u64,
            /// The member's own description of itself.
            #[prost(message, required, tag = "5")]
            spec: MemberSpec as WireSpec,
        },
        /// The target for the next assignment epoch.
        SetTarget = 2 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The epoch of this target: the group's, or the next one when no change of members asked for the target.
            #[prost(uint32, tag = "2")]
            epoch: Epoch as u32,
            /// The group's `changed_at` from which it was computed. After a later change the group still waits for
            /// another target.
            #[prost(uint64, tag = "3")]
            computed_at: u64,
            /// The topics over which it was computed, by name.
            #[prost(message, repeated, tag = "4")]
            topics: Arc<[SubscribedTopic]> as Vec<WireTopic>,
            /// The version of the metadata from which the topics came.
            #[prost(uint64, tag = "5")]
            topics_version: u64,
            /// What each member should own; one that is not named gets nothing.
            #[prost(message, repeated, tag = "6")]
            targets: Vec<(Arc<str>, PartitionSet)> as Vec<WireTarget>,
        } or SetTargetRemembering = 11 since 5 with {
            /// The group remembers how many partitions a topic had when the group began to read it
            /// ([`Group::is_added`](crate::Group::is_added)).
            remembers
        },
        /// A member goes a step towards its target.
        Progress = 3 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The member's id.
            #[prost(string, tag = "2")]
            member: Arc<str> as String,
            /// The version of the member.
            #[prost(uint64, tag = "3")]
            version: u64,
            /// The epoch of the target that it goes towards.
            #[prost(uint32, tag = "4")]
            assignment_epoch: Epoch as u32,
            /// The member's epoch from now on.
            #[prost(uint32, tag = "5")]
            epoch: Epoch as u32,
            /// The partitions that the member may keep or take up.
            #[prost(message, repeated, tag = "6")]
            assigned: PartitionSet as Vec<WirePartitions>,
            /// The partitions that the member must give up first.
            #[prost(message, repeated, tag = "7")]
            revoking: PartitionSet as Vec<WirePartitions>,
        },
        /// A static member leaves for a while and keeps its place until its session ends.
        SetAway = 4 since 2 as WireSetAway {
            /// The group's name.
            group: Arc<str>,
            /// The member's id.
            member: Arc<str>,
            /// The version of the member.
            version: u64,
        },
        /// Members leave, or are fenced. Members that have changed since their version stay.
        RemoveMembers = 5 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The ids of the members, with the version of each.
            #[prost(message, repeated, tag = "2")]
            members: Vec<(Arc<str>, u64)> as Vec<WireMember>,
            /// The reason for the removal.
            #[prost(uint32, tag = "3")]
            cause: RemovalCause as u32,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "4")]
            at_ms: u64,
        },
        /// Writes offsets, all or none.
        CommitOffsets = 6 since 2 {
            /// The group's name. A commit without a member creates the group when it does not exist.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The member that commits and its epoch; none only while the group has no members.
            #[prost(message, optional, tag = "2")]
            member: Option<(Arc<str>, Epoch)> as Option<WireCommitter>,
            /// The offsets; at least one, each partition once.
            #[prost(message, repeated, tag = "3")]
            offsets: Vec<OffsetCommit> as Vec<WireOffset>,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "4")]
            at_ms: u64,
            /// The version of the metadata that has the topics.
            #[prost(uint64, tag = "5")]
            topics_version: u64,
        },
        /// Deletes offsets of a group without members.
        DeleteOffsets = 7 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The partitions whose offsets are deleted; those without an offset are ignored.
            #[prost(message, repeated, tag = "2")]
            partitions: PartitionSet as Vec<WirePartitions>,
        },
        /// Deletes the offsets of topics that are gone.
        ForgetTopics = 8 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// Ids of topics that were deleted.
            #[prost(bytes = "vec", repeated, tag = "2")]
            topics: Vec<TopicId> as Vec<Vec<u8>>,
            /// The version of the metadata that no longer has them.
            #[prost(uint64, tag = "3")]
            topics_version: u64,
        },
        /// Deletes a group without members, and its offsets.
        DeleteGroup = 9 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
        },
        /// Deletes a group that has been empty for long, and its offsets.
        ExpireGroup = 10 since 2 {
            /// The group's name.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The time since which the group was empty when its expiry was decided, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "2")]
            empty_since_ms: u64,
        },
        /// Stages offsets of a transaction, all or none. The same again has the same effect.
        StageOffsets = 12 since 8 {
            /// The group's name. Staging without a member creates the group when it does not exist.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The member that commits and its epoch (KIP-447); none only while the group has no members.
            #[prost(message, optional, tag = "2")]
            member: Option<(Arc<str>, Epoch)> as Option<WireCommitter>,
            /// The transaction that the offsets are part of.
            #[prost(message, required, tag = "3")]
            transaction: TransactionRef as WireTransaction,
            /// The offsets; at least one, each partition once. One that the transaction has staged already is replaced.
            #[prost(message, repeated, tag = "4")]
            offsets: Vec<OffsetCommit> as Vec<WireOffset>,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "5")]
            at_ms: u64,
            /// The version of the metadata that has the topics.
            #[prost(uint64, tag = "6")]
            topics_version: u64,
        },
        /// Ends a transaction in a group: what it has staged is committed from here on, or dropped. Without an effect on offsets
        /// where the transaction has none, or no longer.
        EndStaged = 13 since 8 {
            /// The group's name. It need not exist.
            #[prost(string, tag = "1")]
            group: Arc<str> as String,
            /// The transaction, with the epoch that its end has given to the producer.
            #[prost(message, required, tag = "2")]
            transaction: TransactionRef as WireTransaction,
            /// Whether the transaction was committed; otherwise it was aborted.
            #[prost(bool, tag = "3")]
            is_commit: bool,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "4")]
            at_ms: u64,
        },
    }
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
            | Self::ExpireGroup { group, .. }
            | Self::StageOffsets { group, .. }
            | Self::EndStaged { group, .. } => group,
        }
    }
}
