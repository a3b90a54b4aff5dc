//! Room for batches: bytes that were received count against their connection's share of the broker's budget, and against the
//! partition's from when it is known which, until Raft lets go of them.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Partition, Shared};
use crate::admission::{Caller, Holding, Resource};
use crate::error::RequestError;

/// After this time a producer that was turned away for lack of room should try again.
pub(super) const BUSY_RETRY: Duration = Duration::from_millis(25);

/// Part of the budgets: the broker's, and a partition's.
pub(crate) struct Room {
    of_broker: Holding,
    of_partition: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Takes room for so many bytes, or refuses at once. Those of a request in the plain form may be more than a budget
    /// has; such a request has the budget for itself.
    pub fn room(&self, caller: &Arc<Caller>, bytes: usize) -> Result<Room, RequestError> {
        let bytes = bytes.min(self.inflight_per_partition);
        Ok(Room {
            of_broker: caller.try_take(Resource::Produce, bytes)?,
            of_partition: None,
        })
    }
}

impl Partition {
    /// Takes room for so many bytes of this partition, or refuses at once.
    pub fn room(&self, caller: &Arc<Caller>, bytes: usize) -> Result<Room, RequestError> {
        let room = self.shared.room(caller, bytes);
        self.fit(room.map_err(|error| self.or_no_quorum(error))?, bytes)
    }

    /// The room as it is for so many bytes of this partition: the rest is given back, or what is missing taken. As above,
    /// one request never needs more than there is.
    pub fn fit(&self, mut room: Room, bytes: usize) -> Result<Room, RequestError> {
        let bytes = bytes.min(self.shared.inflight_per_partition);
        let of_partition = match room.of_partition.take() {
            Some(permit) => resized(permit, &self.inflight, bytes),
            None => take(&self.inflight, bytes),
        };
        room.of_partition = Some(of_partition.ok_or_else(|| {
            let message = format!("partition {}: too many bytes wait for its quorum", self.name);
            self.or_no_quorum(RequestError::new(Reason::PartitionBusy, message).retry_after(BUSY_RETRY))
        })?);
        room.of_broker.resize(bytes).map_err(|error| self.or_no_quorum(error))?;
        Ok(room)
    }

    /// What waits for a quorum that does not answer may wait for long, and another broker may lead by now: who is told to
    /// try again should look there.
    fn or_no_quorum(&self, busy: RequestError) -> RequestError {
        if self.quorum.is_lost() { self.no_quorum() } else { busy }
    }
}

fn take(budget: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let permits = u32::try_from(bytes).expect("a budget's part is at most 1 GiB");
    budget.clone().try_acquire_many_owned(permits).ok()
}

fn resized(mut permit: OwnedSemaphorePermit, budget: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let has = permit.num_permits();
    if bytes > has {
        permit.merge(take(budget, bytes - has)?);
    } else if bytes < has {
        drop(permit.split(has - bytes));
    }
    Some(permit)
}
