//! Appends, reads, and offsets of one partition.

use std::time::Duration;

use bytes::Bytes;
use jangada_types::{LeaderEpoch, Offset};

use crate::api::resolve::PartitionRef;
use crate::partition::{Appended, Expectation, InTransaction, Isolation, Reading};

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// The answer comes when a quorum has the batch on disk and it is applied.
    Quorum,
    /// The answer comes on admission.
    None,
}

/// Appends a batch.
#[derive(Debug)]
pub(crate) struct AppendBatch {
    pub partition: PartitionRef,
    /// One record batch, version 2.
    pub batch: Bytes,
    pub expected: Expectation,
    /// The transaction that the batch belongs to.
    pub transaction: Option<InTransaction>,
    pub acks: Acks,
    /// How long the leader waits for the quorum.
    pub timeout: Duration,
}

/// What became of an append.
pub(crate) enum Produced {
    /// The batch is in the log.
    Appended(Appended),
    /// The leader has taken the batch, and nobody hears more of it.
    Taken { log_start: Offset },
}

/// Reads at once what there is.
#[derive(Debug)]
pub(crate) struct ReadBatches {
    pub partition: PartitionRef,
    pub offset: Offset,
    /// At most so much, but at least one batch.
    pub max_bytes: usize,
    pub reading: Reading,
    /// The leader epoch that the client knows, if it is to be compared.
    pub leader_epoch: Option<u32>,
}

/// Waits until so many bytes can be read. Answered without any: what was waited for is read by another call, when there is room.
#[derive(Debug)]
pub(crate) struct AwaitBytes {
    pub partition: PartitionRef,
    pub offset: Offset,
    pub min_bytes: usize,
    pub max_wait: Duration,
    pub isolation: Isolation,
    /// The leader epoch that the client knows, if it is to be compared.
    pub leader_epoch: Option<u32>,
}

/// Finds an offset of a partition.
#[derive(Debug)]
pub(crate) struct FindOffset {
    pub partition: PartitionRef,
    pub position: Position,
    pub isolation: Isolation,
}

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The log start offset.
    Earliest,
    /// The end of what the isolation lets one read.
    Latest,
    /// That of the first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// The offset that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundOffset {
    /// None: no record has such a time.
    pub offset: Option<Offset>,
    /// The record's time, when it was looked for by time.
    pub timestamp_ms: Option<i64>,
    pub leader_epoch: LeaderEpoch,
}
