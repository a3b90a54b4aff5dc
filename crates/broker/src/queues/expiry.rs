//! The end of a queue that nobody uses: the leader of each partition says so once, and the last one to say so has the queue deleted.
//!
//! ```text
//!   Output::Unused -> BeyondDesk::expire: look, then hold, then hold again at the leaders of all partitions -> ExpireQueue in the metadata
//! ```
//!
//! Nobody can begin to use a queue that is held; who tries is told to come again, and then finds it deleted, or as it was. The second
//! hold finds whoever began just before the first one. A leader that begins counts from then on: a restart never deletes a queue early.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_queue::{QueueId, SlotId};
use jangada_types::Reason;

use super::desk::Desk;
use super::spec::QueueSpec;
use crate::error::RequestError;
use crate::partition::Partition;
use crate::replica::LEADER_RETRY;

/// What could not be found out is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What a leader is asked about a queue that may have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpiryStep {
    /// Whether nobody uses it.
    Look,
    /// Whether nobody does; and from now on nobody is to begin.
    Hold,
    /// The queue stays as it is.
    Release,
}

/// Deletes the queue of a slot if nobody uses it anywhere. Called when nobody has used it here for long enough.
pub(super) async fn expire(desk: Arc<Desk>, partition: Weak<Partition>, slot: SlotId) {
    while !desk.has_ended() {
        let beyond = partition.upgrade().and_then(|partition| partition.beyond_desks());
        let (Some(beyond), Some(spec)) = (beyond, desk.spec_of(slot)) else {
            return;
        };
        let Some(expires_ms) = spec.policy.unused_max_ms.filter(|_| desk.is_unused(spec.id)) else {
            return;
        };
        if beyond.expire(spec.id, expires_ms).await {
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

impl Desk {
    /// Takes a step towards the end of a queue. Whether nobody uses it here.
    pub fn step_to_expiry(&self, queue: QueueId, step: ExpiryStep) -> bool {
        match step {
            ExpiryStep::Look => {}
            ExpiryStep::Hold => self.holds.hold(queue),
            ExpiryStep::Release => self.holds.release(queue),
        }
        self.is_unused(queue)
    }

    /// Nobody has used a queue here for as long as its setting says.
    pub(super) fn is_unused(&self, queue: QueueId) -> bool {
        let slot = self.slots.read().get(&queue).map(|(slot, _)| *slot);
        slot.is_some_and(|slot| self.with_state(|state| self.engine.lock().is_unused(state.slots(), slot)))
    }

    /// Refuses what begins to use a queue that is about to be deleted.
    ///
    /// # Errors
    /// NOT_READY.
    pub(super) fn check_not_held(&self, spec: &QueueSpec) -> Result<(), RequestError> {
        if !self.holds.is_held(spec.id) {
            return Ok(());
        }
        let message = format!(
            "{}: queue {:?} is about to be deleted, as nobody used it for as long as queue.expires.ms says: try again after a moment",
            self.hosted.title, spec.name
        );
        Err(RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY))
    }
}
