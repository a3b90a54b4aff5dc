//! Room for batches: bytes that were taken and not answered count against the partition's budget and the broker's.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Partition;
use crate::error::RequestError;

/// After this time a producer that was turned away for lack of room should try again.
pub(super) const BUSY_RETRY: Duration = Duration::from_millis(25);

/// Part of the budgets for bytes that were taken and not answered: the partition's and the broker's.
pub(crate) struct Room([OwnedSemaphorePermit; 2]);

impl Partition {
    /// Takes room for so many bytes, or refuses at once. Those of a request in the plain form may be more than a budget
    /// has; such a request has the budget for itself.
    pub fn room(&self, bytes: usize) -> Result<Room, RequestError> {
        let for_partition = bytes.min(self.shared.inflight_per_partition);
        Ok(Room([
            self.reserve(&self.inflight, for_partition, Reason::PartitionBusy)?,
            self.reserve(&self.shared.inflight, for_partition, Reason::BrokerBusy)?,
        ]))
    }

    /// The room as it is for so many bytes: the rest is given back, or what is missing taken. As above, one request never
    /// needs more than there is.
    pub(super) fn fit(&self, Room(mut permits): Room, bytes: usize) -> Result<Room, RequestError> {
        let bytes = bytes.min(self.shared.inflight_per_partition);
        let has = permits[0].num_permits();
        if bytes > has {
            let Room(more) = self.room(bytes - has)?;
            permits
                .iter_mut()
                .zip(more)
                .for_each(|(permit, more)| permit.merge(more));
        } else {
            permits.iter_mut().for_each(|permit| drop(permit.split(has - bytes)));
        }
        Ok(Room(permits))
    }

    fn reserve(
        &self,
        budget: &Arc<Semaphore>,
        bytes: usize,
        reason: Reason,
    ) -> Result<OwnedSemaphorePermit, RequestError> {
        let permits = u32::try_from(bytes).expect("a budget's part is at most 1 GiB");
        budget.clone().try_acquire_many_owned(permits).map_err(|_| {
            let message = match reason {
                Reason::PartitionBusy => format!("partition {}: too many bytes wait for its quorum", self.name),
                _ => "the broker has too many bytes waiting for their quorums".to_owned(),
            };
            RequestError::new(reason, message).retry_after(BUSY_RETRY)
        })
    }
}
