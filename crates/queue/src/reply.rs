//! What the proposer of a [`QueueOps`](crate::QueueOps) is told. It stays in the process: nothing of it is encoded.

use crate::ids::SlotId;
use crate::runs::Runs;

/// What applying a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpsReply {
    /// Of each section what it came to, in their order.
    Applied(Vec<SectionReply>),
    /// The entry is of another term than the one in which it was decided. Nothing changed.
    LeaderChanged,
}

/// What a section came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SectionReply {
    /// The new slot has this number.
    Opened(SlotId),
    /// All but these messages are as the section says. Normally these are none: they were not as the leader saw them.
    Taken {
        /// Messages that were left as they were.
        refused: Runs,
    },
    /// The section had no effect.
    Refused(SectionRefused),
}

/// Why a section had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionRefused {
    /// There is no slot with the number, or no longer.
    UnknownSlot,
    /// The queue has a slot here already.
    SlotExists(SlotId),
    /// The partition has as many slots as it may.
    TooManySlots,
    /// The state of the partition's slots is as large as it may be.
    StateFull,
    /// The transaction has ended, or another one of its producer has not.
    TransactionOver,
    /// Nothing is on its way to another topic, or something else is.
    NotMoving,
}
