//! The kinds of a partition's commands, and the feature levels that know them.

use jangada_types::FEATURE_LEVEL;
use jangada_types::feature_level::COMPACTION_FEATURE_LEVEL;

/// The kinds of [`PartitionCommand`](crate::PartitionCommand), with the byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartitionCommandKind {
    /// Appends a batch without conditions.
    Append = 1,
    /// Moves the log start.
    AdvanceLogStart = 2,
    /// Appends a batch with conditions, which stand behind its head. A batch without any keeps the kind that all versions read.
    ConditionalAppend = 3,
    /// Changes the slots of the partition's queues.
    QueueOps = 4,
    /// Appends a batch whose records have marks for the partition's queues.
    AppendMarked = 5,
    /// Appends messages of queues again, whose old places are done then.
    Carry = 6,
    /// Puts or deletes a schedule of a queue, or sends the message of one of its occurrences.
    Schedule = 7,
    /// Appends a batch of a transaction.
    TxnAppend = 8,
    /// Ends a transaction.
    Marker = 9,
    /// An append of whose batch compaction has left some records.
    CompactedAppend = 10,
    /// An append, or a marker, of whose batch compaction has left no record.
    EmptiedAppend = 11,
    /// Lets tombstones below an offset go.
    AdvanceHorizon = 12,
    /// Appends a batch of a transaction whose records have marks for the partition's queues.
    TxnAppendMarked = 13,
}

impl PartitionCommandKind {
    /// All kinds, by rising byte.
    pub const ALL: [Self; 13] = [
        Self::Append,
        Self::AdvanceLogStart,
        Self::ConditionalAppend,
        Self::QueueOps,
        Self::AppendMarked,
        Self::Carry,
        Self::Schedule,
        Self::TxnAppend,
        Self::Marker,
        Self::CompactedAppend,
        Self::EmptiedAppend,
        Self::AdvanceHorizon,
        Self::TxnAppendMarked,
    ];

    /// The kind's byte in the head.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The first feature level that knows the kind.
    pub const fn since(self) -> u32 {
        match self {
            Self::Append | Self::AdvanceLogStart => 1,
            Self::ConditionalAppend => 3,
            Self::QueueOps | Self::AppendMarked | Self::Carry | Self::Schedule => 7,
            Self::TxnAppend | Self::Marker | Self::TxnAppendMarked => 8,
            Self::CompactedAppend | Self::EmptiedAppend | Self::AdvanceHorizon => COMPACTION_FEATURE_LEVEL,
        }
    }

    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

// What a partition replicates must be within what the build says that it understands.
const _: () = {
    let mut at = 0;
    while at < PartitionCommandKind::ALL.len() {
        assert!(PartitionCommandKind::ALL[at].since() <= FEATURE_LEVEL);
        at += 1;
    }
};
