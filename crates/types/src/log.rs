//! Positions in a group's replicated log.

/// A Raft log id: the position of an entry in a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogPosition {
    /// The Raft term of the entry.
    pub term: u64,
    /// The Raft index of the entry.
    pub index: u64,
}
