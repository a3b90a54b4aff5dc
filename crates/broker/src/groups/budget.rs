//! What the shards take at once, in bytes: commits and heartbeats count from when they come in until Raft lets go of
//! their commands (see [`crate::proposed`]).

use std::sync::Arc;
use std::time::Duration;

use jangada_types::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::RequestError;

/// Of all commits, and deletions of offsets.
const COMMITS_BYTES_MAX: usize = 64 << 20;
/// Of all heartbeats. Apart: they must not wait for commits, or members would be thrown out.
const HEARTBEATS_BYTES_MAX: usize = 64 << 20;
/// A row takes more in memory than in its message.
const BYTES_PER_WIRE_BYTE: usize = 2;
/// And a request something at least.
const REQUEST_BYTES: usize = 512;
/// After this time a client that was turned away should try again.
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// See the module text.
pub(crate) struct Budget {
    what: &'static str,
    bytes_max: usize,
    bytes: Arc<Semaphore>,
}

/// A request's part of a budget.
pub(crate) struct Room {
    _bytes: OwnedSemaphorePermit,
}

impl Budget {
    pub fn of_commits() -> Self {
        Self::new("commits", COMMITS_BYTES_MAX)
    }

    pub fn of_heartbeats() -> Self {
        Self::new("heartbeats", HEARTBEATS_BYTES_MAX)
    }

    fn new(what: &'static str, bytes_max: usize) -> Self {
        Self {
            what,
            bytes_max,
            bytes: Arc::new(Semaphore::new(bytes_max)),
        }
    }

    /// Room for a request of so many bytes, or BROKER_BUSY at once. One request never needs more than there is.
    pub fn take(&self, wire_bytes: usize) -> Result<Room, RequestError> {
        let bytes = wire_bytes.saturating_mul(BYTES_PER_WIRE_BYTE) + REQUEST_BYTES;
        let permits = u32::try_from(bytes.min(self.bytes_max)).expect("a budget is a few MiB");
        let room = self.bytes.clone().try_acquire_many_owned(permits);
        room.map(|bytes| Room { _bytes: bytes }).map_err(|_| {
            let message = format!(
                "too many {} wait for their quorums: try again after a moment",
                self.what
            );
            RequestError::new(Reason::BrokerBusy, message).retry_after(BUSY_RETRY)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_when_there_is_no_room_is_told_to_try_again() {
        let budget = Budget::new("commits", 10_000);
        let first = budget.take(2_000).expect("there is room");
        let error = budget.take(3_000).err().expect("there is none");
        assert_eq!(error.reason, Reason::BrokerBusy);
        assert!(error.definite && error.retry_delay.is_some() && error.message.contains("commits"));
        drop(budget.take(1_000).expect("less fits"));
        drop(first);
        // More than all there is: then it has it for itself.
        let all = budget.take(1 << 30).expect("there is room");
        assert!(budget.take(0).is_err());
        drop(all);
        budget.take(0).expect("there is room again");
    }
}
