//! openraft's types as Jangada uses them. Nothing outside this crate names openraft.
//!
//! Standard Raft: at most one leader in a term (`leader_id_std`), so that a term is a leader epoch and a log id is
//! (term, index).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use jangada_types::ReplicaId;

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

/// Bytes before a command's own head: version and kind.
const PREFIX_LEN: usize = 2;

/// A command for a group's state machine: a small head of fixed meaning, and a body that is shared and never copied
/// in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Version, kind, then the state machine's own head: as it goes to disk and to the wire.
    encoded_head: Bytes,
    body: Bytes,
}

impl Command {
    /// A command with the state machine's `head` (its first byte is its version by convention) and `body`.
    pub fn new(head: &[u8], body: Bytes) -> Self {
        let mut encoded = BytesMut::with_capacity(PREFIX_LEN + head.len());
        encoded.put_u8(ENTRY_VERSION);
        encoded.put_u8(EntryKind::Command as u8);
        encoded.put_slice(head);
        Self {
            encoded_head: encoded.freeze(),
            body,
        }
    }

    /// From an entry's head, whose prefix the caller has checked.
    pub(crate) fn from_encoded(encoded_head: Bytes, body: Bytes) -> Self {
        debug_assert!(
            encoded_head.len() >= PREFIX_LEN,
            "an entry's head begins with version and kind"
        );
        Self { encoded_head, body }
    }

    pub(crate) fn into_encoded(self) -> (Bytes, Bytes) {
        (self.encoded_head, self.body)
    }

    /// The state machine's head.
    pub fn head(&self) -> &[u8] {
        &self.encoded_head[PREFIX_LEN..]
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes that it takes in the log.
    pub fn size(&self) -> usize {
        self.encoded_head.len() + self.body.len()
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} + {} bytes", self.head().len(), self.body.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    /// One configuration for the groups of all kinds: they differ in their state machine only.
    pub(crate) TypeConfig:
        D = Command,
        R = Bytes,
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
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, ReplicaId, (), Bytes>;

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
