//! Positions in a group's replicated log, and the rows of a partition's offset index.

use crate::ids::{LeaderEpoch, Offset};

/// A Raft log id: the position of an entry in a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogPosition {
    /// The Raft term of the entry.
    pub term: u64,
    /// The Raft index of the entry.
    pub index: u64,
}

/// One row of a partition's offset index: where the batch that ends at `last_offset` lies in the Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the batch's last record, the key of the row.
    pub last_offset: Offset,
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Raft index of the entry that holds the batch.
    pub raft_index: u64,
    /// Leader epoch (the Raft term) in which it was proposed.
    pub epoch: LeaderEpoch,
    /// Largest timestamp in the batch, in milliseconds since 1970.
    pub max_timestamp_ms: i64,
    /// Largest timestamp in this and all earlier batches: it never falls, so it can be searched by halving.
    pub running_max_timestamp_ms: i64,
    /// Size of the batch in bytes.
    pub size_bytes: u32,
}
