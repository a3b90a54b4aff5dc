//! The driver's state of one lane: where its batches are under way, and what it waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::accumulator::Batch;
use super::super::lane::Lane;
use super::super::partitions::PartitionQueue;
use super::super::stream::LinkId;
use crate::backoff::Backoff;
use crate::notice::{Next, Trouble};
use crate::wire_error::Failure;

pub(super) struct LaneState {
    pub queue: Arc<PartitionQueue>,
    pub lane: Lane<Batch>,
    pub backoff: Backoff,
    /// The earliest time of the next attempt.
    pub blocked_until: Option<Instant>,
    /// The newest leader epoch when it was blocked: a newer one ends that.
    pub blocked_epoch: u32,
    /// The link in whose waiting list the lane is.
    pub parked: Option<LinkId>,
    /// The link that its attempts were sent on; all that are under way are on one link.
    pub link: Option<LinkId>,
    /// The epoch of the leader that they were sent to.
    pub sent_epoch: u32,
    /// The time when the lane last sent with nothing under way, or got an answer.
    pub progress: Instant,
    /// Whether a timer runs for the oldest batch's delivery timeout.
    pub deadline_armed: bool,
    /// The failure that a batch is given when its time is over.
    pub last_failure: Option<Failure>,
    /// Bytes that may be unanswered, as the leader said last; `None`: it says nothing of that.
    pub credit_bytes: Option<u64>,
    /// The trouble "producing to the partition fails", open while it does.
    pub trouble: Trouble,
}

impl LaneState {
    /// What comes after a failed attempt: another one, until the time of the oldest batch is over.
    pub fn next(&self, delivery_timeout: Duration, next_try: Duration, now: Instant) -> Next {
        let oldest = self.lane.batches().map(|batch| batch.opened).next();
        let oldest = oldest.or_else(|| self.queue.lock().batches().map(|batch| batch.opened).next());
        Next {
            next_try,
            gives_up_in: oldest.map(|opened| (opened + delivery_timeout).saturating_duration_since(now)),
            at_once: false,
        }
    }

    /// Whether the next batch may leave as far as the leader's credit goes. One alone always may: a leader that has no room refuses it,
    /// and says when to try again.
    pub fn has_credit(&self) -> bool {
        has_credit(self.credit_bytes, self.lane.in_flight().map(Batch::sent_bytes))
    }

    /// Whether the next batch may leave as far as conditions go: a conditional one is the only one under way.
    pub fn has_turn(&self, new: bool, linger: Duration, now: Instant) -> bool {
        let (conditional, alone) = match new {
            true => (self.queue.lock().is_conditional(linger, now), self.lane.is_empty()),
            false => self.lane.next_requeued(|batch| batch.condition.is_some()),
        };
        let before = self.lane.numbered().any(|batch| batch.condition.is_some());
        !before && (!conditional || alone)
    }
}

fn has_credit(credit_bytes: Option<u64>, in_flight: impl Iterator<Item = usize>) -> bool {
    let Some(credit) = credit_bytes else { return true };
    let in_flight: usize = in_flight.sum();
    in_flight == 0 || (in_flight as u64) < credit
}

#[cfg(test)]
mod tests {
    use super::has_credit;

    #[test]
    fn one_batch_may_always_leave_and_others_while_there_is_credit() {
        let may = |credit, in_flight: &[usize]| has_credit(credit, in_flight.iter().copied());
        assert!(
            may(None, &[1_000_000]) && may(Some(0), &[]),
            "no credit is known; it is alone"
        );
        assert!(may(Some(300), &[100, 199]) && !may(Some(300), &[100, 200]));
        assert!(!may(Some(0), &[1]));
    }
}
