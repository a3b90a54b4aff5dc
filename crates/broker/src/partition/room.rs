//! Room for batches: bytes that were received count against their connection's share of the broker's budget, and against the
//! partition's from when it is known which, until Raft lets go of them.

use std::sync::Arc;

use jangada_types::Reason;

use super::inflight::{BUSY_RETRY, Full, InflightPart};
use super::{Partition, Shared};
use crate::error::RequestError;
use crate::quota::{Caller, Holding, Resource};

/// Part of the budgets: the broker's, and a partition's.
pub(crate) struct Room {
    of_broker: Holding,
    of_partition: Option<InflightPart>,
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
        match &mut room.of_partition {
            Some(part) => part.resize(bytes).map_err(|full| self.full(full))?,
            none => {
                let part = self.inflight.take(room.of_broker.caller(), bytes);
                *none = Some(part.map_err(|full| self.full(full))?);
            }
        }
        room.of_broker.resize(bytes).map_err(|error| self.or_no_quorum(error))?;
        Ok(room)
    }

    fn full(&self, full: Full) -> RequestError {
        let limit = self.shared.inflight_per_partition;
        let what = match full {
            Full::Connection { held } => format!(
                "{held} bytes of this connection wait for its quorum, which is the connection's share of {limit} \
                 (limits.produce_inflight_bytes_per_partition)"
            ),
            Full::Partition => "too many bytes wait for its quorum".to_owned(),
        };
        let message = format!(
            "partition {}: {what}; wait for acknowledgements before sending more",
            self.hosted.name
        );
        let busy = RequestError::new(Reason::PartitionBusy, message).with("limit", limit);
        self.or_no_quorum(busy.retry_after(BUSY_RETRY))
    }

    /// What waits for a quorum that does not answer may wait for long, and another broker may lead by now: who is told to
    /// try again should look there.
    fn or_no_quorum(&self, busy: RequestError) -> RequestError {
        if self.hosted.check_quorum.is_lost() {
            self.hosted.no_quorum()
        } else {
            busy
        }
    }
}
