//! Room for batches. Bytes that were received count against their connection's share of the broker's budget, and against the budget of
//! their partition as soon as it is known, until Raft lets go of them.

use std::sync::Arc;

use jangada_types::Reason;

use super::inflight::{BUSY_RETRY, Full, InflightPart};
use super::{Partition, Shared};
use crate::error::RequestError;
use crate::quota::{Caller, Holding, Resource};

/// A part of the broker's budget, and of a partition's.
pub(crate) struct Room {
    of_broker: Holding,
    of_partition: Option<InflightPart>,
}

impl Shared {
    /// Takes room for `bytes`, or refuses at once. A request with decoded records may have more bytes than the whole budget; it takes
    /// the whole budget then.
    pub fn room(&self, caller: &Arc<Caller>, bytes: usize) -> Result<Room, RequestError> {
        let bytes = bytes.min(self.inflight_per_partition);
        Ok(Room {
            of_broker: caller.try_take(Resource::Produce, bytes)?,
            of_partition: None,
        })
    }
}

impl Partition {
    /// Takes room for `bytes` of this partition, or refuses at once.
    pub fn room(&self, caller: &Arc<Caller>, bytes: usize) -> Result<Room, RequestError> {
        let room = self.shared.room(caller, bytes);
        self.fit(room.map_err(|error| self.or_no_quorum(error))?, bytes)
    }

    /// Grows or shrinks the room to `bytes` of this partition, at most its whole budget.
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

    pub(super) fn full(&self, full: Full) -> RequestError {
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

    /// The error that no quorum answers instead of `busy`, if so: a producer that only tries again here may wait for long, and should
    /// look for another leader.
    fn or_no_quorum(&self, busy: RequestError) -> RequestError {
        if self.hosted.check_quorum.is_lost() {
            self.hosted.no_quorum()
        } else {
            busy
        }
    }
}
