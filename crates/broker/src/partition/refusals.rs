//! Why a partition refused a batch, in words: what its state machine answered.

use jangada_log::{ConditionFailed, Refusal};
use jangada_types::Reason;
use jangada_types::limits::PRODUCERS_PER_PARTITION_MAX;

use super::Partition;
use super::inflight::BUSY_RETRY;
use crate::error::RequestError;
use crate::replica::LEADER_RETRY;

impl Partition {
    /// Says in an error which partition it is about.
    pub fn refuse(&self, mut error: RequestError) -> RequestError {
        error.message = format!("partition {}: {}", self.hosted.name, error.message);
        error
    }

    pub(super) fn refused(&self, refusal: Refusal) -> RequestError {
        let name = &self.hosted.name;
        match refusal {
            Refusal::OutOfOrder { expected } => RequestError::new(
                Reason::OutOfOrderSequence,
                format!(
                    "partition {name}: the producer's next sequence is {expected}; a batch before this one is missing"
                ),
            )
            .with("expected", expected),
            Refusal::Fenced { current } => RequestError::new(
                Reason::ProducerFenced,
                format!(
                    "partition {name}: epoch {current} of this producer has written; this is an older one and must stop"
                ),
            )
            .with("expected", current),
            Refusal::TooOld => RequestError::new(
                Reason::DuplicateSequence,
                format!("partition {name}: the batch was appended before, but its offsets are no longer remembered"),
            ),
            Refusal::UnknownProducer => RequestError::new(
                Reason::UnknownProducer,
                format!(
                    "partition {name}: nothing is remembered of this producer: it was silent for too long, or \
                     {PRODUCERS_PER_PARTITION_MAX} others have written since; begin again with a new epoch and sequence 0"
                ),
            ),
            Refusal::Condition(ConditionFailed::EndOffsetDiffers { expected, actual }) => RequestError::new(
                Reason::ConditionFailed,
                format!("partition {name}: the batch expects to begin at offset {expected}; the log ends at {actual}"),
            )
            .with("expected", expected)
            .with("actual", actual),
            Refusal::Condition(ConditionFailed::KeyOffsetDiffers { expected, actual }) => RequestError::new(
                Reason::ConditionFailed,
                format!(
                    "partition {name}: the batch expects its key's last record at offset {expected}; it is at {actual} \
                     (-1: there is none)"
                ),
            )
            .with("expected", expected)
            .with("actual", actual),
            Refusal::Condition(ConditionFailed::LeaderChanged) => RequestError::new(
                Reason::LeaderNotAvailable,
                format!("partition {name}: its leader changed while the key was looked up; nothing was appended"),
            )
            .retry_after(LEADER_RETRY),
            Refusal::TransactionOpen { .. } => RequestError::new(
                Reason::InvalidTransactionState,
                format!("partition {name}: another transaction of the producer is open here; and the batch is not part of it"),
            ),
            Refusal::TransactionEnded => RequestError::new(
                Reason::InvalidTransactionState,
                format!("partition {name}: the batch's transaction has ended, and nothing was appended"),
            ),
            Refusal::TooManyTransactions => RequestError::new(
                Reason::PartitionBusy,
                format!(
                    "partition {name}: {PRODUCERS_PER_PARTITION_MAX} producers have open transactions here, which is as many as it \
                     remembers"
                ),
            )
            .with("limit", PRODUCERS_PER_PARTITION_MAX)
            .retry_after(BUSY_RETRY),
        }
    }
}
