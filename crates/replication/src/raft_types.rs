//! openraft's types as Jangada uses them. Nothing outside this crate names openraft.
//!
//! Standard Raft: at most one leader in a term (`leader_id_std`), so that a term is a leader epoch and a log id is
//! (term, index).

use jangada_machine::EncodedCommand;
use jangada_types::ReplicaId;

use crate::state_machine::Reply;

/// Version of the entry encoding, the first byte of every entry's head on disk and on the wire.
pub(crate) const ENTRY_VERSION: u8 = 1;

/// What an entry is; the second byte of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EntryKind {
    /// A new leader's first entry.
    Blank = 0,
    /// A command for the group's state machine.
    Command = 1,
    /// A membership of the group; its encoding is the body.
    Membership = 2,
}

// A command has its prefix from where it is made, so that nothing is copied on its way to the log.
const _: () = assert!(
    EncodedCommand::PREFIX[0] == ENTRY_VERSION && EncodedCommand::PREFIX[1] == EntryKind::Command as u8,
    "a command's prefix is that of an entry of the log"
);

openraft::declare_raft_types!(
    /// One configuration for the groups of all kinds: they differ in their state machine only.
    pub(crate) TypeConfig:
        D = EncodedCommand,
        R = Reply,
        NodeId = ReplicaId,
        Node = (),
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<ReplicaId, ()>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// The log id (term, index).
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: CommittedLeaderId::new(term),
        index,
    }
}

/// The index after this one; that of a log that is empty is 0.
pub(crate) fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}
