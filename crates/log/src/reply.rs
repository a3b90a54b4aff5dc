//! What a command's proposer is told. It stays in the process: nothing of it is encoded.

use jangada_queue::{CarryRefused, EndedTransaction, OpsReply, ScheduleRefused};
use jangada_types::{Offset, ProducerEpoch, Sequence};

use crate::condition::ConditionFailed;
use crate::transactions::AbortedTransaction;

/// What applying a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionReply {
    /// The batch has its offsets.
    Appended {
        /// Offset of its first record.
        base_offset: Offset,
        /// Offset of its last record.
        last_offset: Offset,
        /// It was appended before, and had them already.
        duplicate: bool,
    },
    /// The batch was not appended, and nothing changed.
    Refused(Refusal),
    /// The log starts here now.
    LogStart(Offset),
    /// The log start has moved since the leader looked, and is here; nothing changed.
    LogStartMoved(Offset),
    /// A queue whose log this is needs the records from this offset on; nothing changed.
    LogStartHeld(Offset),
    /// What became of the sections of a queue command.
    Queue(OpsReply),
    /// The messages were not appended again, and nothing changed.
    CarryRefused(CarryRefused),
    /// The schedule is as it was to be, and no message was appended with it.
    Scheduled,
    /// Nothing became of the schedule, and nothing was appended.
    ScheduleRefused(ScheduleRefused),
    /// The transaction has ended.
    Ended {
        /// The offset of its control batch; none: no such transaction was open, and nothing was written.
        marker: Option<Offset>,
        /// What the readers are told, if it was aborted.
        aborted: Option<AbortedTransaction>,
        /// What its queues are told: the messages that were acknowledged in it.
        queues: EndedTransaction,
    },
    /// Tombstones below this offset may go now.
    Horizon(Offset),
}

impl PartitionReply {
    /// The same, naming no aborted transaction.
    pub(crate) fn without_aborted(mut self) -> Self {
        if let Self::Ended { aborted, .. } = &mut self {
            *aborted = None;
        }
        self
    }
}

/// Why a batch was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The batch was appended before, longer ago than offsets are remembered.
    TooOld,
    /// A batch of the producer is missing before this one.
    OutOfOrder {
        /// The producer's next sequence.
        expected: Sequence,
    },
    /// A newer epoch of the producer has written.
    Fenced {
        /// The newest epoch of the producer.
        current: ProducerEpoch,
    },
    /// The partition does not know the producer.
    UnknownProducer,
    /// The log is not what the batch expects.
    Condition(ConditionFailed),
    /// Another transaction of the producer is open: the batch belongs to another one, or to none, or the marker ends a later one.
    TransactionOpen {
        /// The one that is open.
        seq: u64,
    },
    /// The batch's transaction has ended.
    TransactionEnded,
    /// As many transactions are open as there may be producers, or the partition's queues have as much of them as they may.
    TooManyTransactions,
}

impl From<ConditionFailed> for Refusal {
    fn from(failed: ConditionFailed) -> Self {
        Self::Condition(failed)
    }
}

impl From<Refusal> for PartitionReply {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
