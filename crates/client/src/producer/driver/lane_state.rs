//! What the driver knows of one lane: where its batches are under way, and what it waits for.

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
    /// No attempt before this.
    pub blocked_until: Option<Instant>,
    /// The newest leader epoch when it was blocked: a newer one ends that.
    pub blocked_epoch: u32,
    /// In the waiting list of this link.
    pub parked: Option<LinkId>,
    /// Where its attempts were sent; all that are under way are on one link.
    pub link: Option<LinkId>,
    /// Of the leader that they were sent to.
    pub sent_epoch: u32,
    /// When it last sent with nothing under way, or got an answer.
    pub progress: Instant,
    /// A timer runs for the oldest batch's delivery.
    pub deadline_armed: bool,
    /// What a batch is told whose time is over.
    pub last_failure: Option<Failure>,
    /// Producing to the partition, while it fails.
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
