//! Why a partition did not do what was asked, in words: who leads instead, what the state machine answered, what became
//! of a proposal or of a read.

use std::time::Duration;

use jangada_replication::{ProposeError, ReadError};
use jangada_types::Reason;
use jangada_types::limits::PRODUCERS_PER_PARTITION_MAX;

use super::Partition;
use super::command::PartitionReply;
use crate::error::RequestError;

/// After this time a client should look for the new leader.
pub(super) const LEADER_RETRY: Duration = Duration::from_millis(50);

impl Partition {
    /// Says in an error which partition it is about.
    pub fn refuse(&self, mut error: RequestError) -> RequestError {
        error.message = format!("partition {}: {}", self.name, error.message);
        error
    }

    pub(super) fn not_leader(&self) -> RequestError {
        let status = self.group.status();
        match status.leader {
            Some(leader) if leader == self.group.replica() => self.no_quorum(),
            Some(leader) => RequestError::new(
                Reason::NotLeader,
                format!("partition {}: broker {} leads it", self.name, leader.broker),
            )
            .with("leader_id", leader.broker)
            .with("leader_epoch", status.term)
            .retry_after(LEADER_RETRY),
            None => RequestError::new(
                Reason::LeaderNotAvailable,
                format!(
                    "partition {}: no leader is known; an election may be under way",
                    self.name
                ),
            )
            .retry_after(LEADER_RETRY),
        }
    }

    /// This broker believes that it leads, and nobody says so.
    pub fn no_quorum(&self) -> RequestError {
        let message = format!(
            "partition {}: no quorum answers this broker; another one may lead it by now",
            self.name
        );
        RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
    }

    pub(super) fn refused(&self, reply: PartitionReply) -> RequestError {
        let name = &self.name;
        match reply {
            PartitionReply::OutOfOrder { expected } => RequestError::new(
                Reason::OutOfOrderSequence,
                format!(
                    "partition {name}: the producer's next sequence is {expected}; a batch before this one is missing"
                ),
            )
            .with("expected", expected),
            PartitionReply::Fenced { current } => RequestError::new(
                Reason::ProducerFenced,
                format!(
                    "partition {name}: epoch {current} of this producer has written; this is an older one and must stop"
                ),
            )
            .with("expected", current),
            PartitionReply::TooOld => RequestError::new(
                Reason::DuplicateSequence,
                format!("partition {name}: the batch was appended before, but its offsets are no longer remembered"),
            ),
            PartitionReply::UnknownProducer => RequestError::new(
                Reason::UnknownProducer,
                format!(
                    "partition {name}: nothing is remembered of this producer: it was silent for too long, or \
                     {PRODUCERS_PER_PARTITION_MAX} others have written since; begin again with a new epoch and sequence 0"
                ),
            ),
            PartitionReply::EndOffsetDiffers { expected, actual } => RequestError::new(
                Reason::ConditionFailed,
                format!("partition {name}: the batch expects to begin at offset {expected}; the log ends at {actual}"),
            )
            .with("expected", expected)
            .with("actual", actual),
            PartitionReply::KeyOffsetDiffers { expected, actual } => RequestError::new(
                Reason::ConditionFailed,
                format!(
                    "partition {name}: the batch expects its key's last record at offset {expected}; it is at {actual} \
                     (-1: there is none)"
                ),
            )
            .with("expected", expected)
            .with("actual", actual),
            PartitionReply::LeaderChanged => RequestError::new(
                Reason::LeaderNotAvailable,
                format!("partition {name}: its leader changed while the key was looked up; nothing was appended"),
            )
            .retry_after(LEADER_RETRY),
            PartitionReply::Appended { .. } | PartitionReply::LogStart(_) | PartitionReply::LogStartMoved(_) => {
                unreachable!("not the reply to a refused batch")
            }
        }
    }

    pub(super) fn propose_error(&self, error: ProposeError) -> RequestError {
        match error {
            ProposeError::NotLeader(_) => {
                if self.group.status().leading {
                    self.quorum.refused();
                }
                self.not_leader()
            }
            ProposeError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!(
                    "partition {}: no quorum answered within the time given; the outcome is unknown",
                    self.name
                ),
            )
            .unknown(),
            ProposeError::Discarded | ProposeError::Refused(_) | ProposeError::Stopped(_) => {
                RequestError::new(Reason::LeaderNotAvailable, format!("partition {}: {error}", self.name))
                    .unknown()
                    .retry_after(LEADER_RETRY)
            }
        }
    }

    pub(super) fn read_error(&self, error: ReadError) -> RequestError {
        match error {
            ReadError::NotLeader(_) => self.not_leader(),
            ReadError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!("partition {}: no quorum confirmed the read", self.name),
            )
            .retry_after(LEADER_RETRY),
        }
    }
}
