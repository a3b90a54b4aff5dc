//! The limits of a queue: whether it takes messages, and how many.

use std::sync::Arc;

use jangada_queue::engine::{Full, Input, Limit, Room};
use jangada_queue::{QueueId, SlotId, SlotKind};
use jangada_types::Reason;

use super::desk::{BUSY_RETRY, Desk};
use super::spec::QueueSpec;
use crate::error::RequestError;
use crate::replica::LEADER_RETRY;

/// Messages on their way into a queue. The engine counts them until this is dropped.
pub(crate) struct Reserved {
    desk: Arc<Desk>,
    slot: SlotId,
    messages: u64,
    bytes: u64,
    /// They are in the log.
    pub is_appended: bool,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.desk.put(Input::Sent {
            slot: self.slot,
            messages: self.messages,
            bytes: self.bytes,
            is_appended: self.is_appended,
        });
    }
}

impl Desk {
    /// Asks whether the queue whose log this is takes messages. `is_limited`: it refuses what is sent to it when it is full, so that all
    /// has to be counted.
    ///
    /// # Errors
    /// QUEUE_FULL; RECORD_TOO_LARGE for a message that is larger than all that the queue may have; NOT_READY while a queue that is limited
    /// has no slot here.
    pub fn reserve(
        self: &Arc<Self>,
        (messages, bytes): (u64, u64),
        is_limited: bool,
    ) -> Result<Option<Reserved>, RequestError> {
        let owned = {
            let slots = self.slots.read();
            let mut owned = slots.values().filter(|(_, spec)| spec.kind == SlotKind::Owned);
            let owned = owned.next();
            owned.map(|(_, spec)| self.check_not_held(spec)).transpose()?;
            owned.map(|(slot, spec)| (*slot, spec.name.clone()))
        };
        let Some((slot, name)) = owned else {
            return match is_limited {
                true => Err(self.not_open()),
                false => Ok(None),
            };
        };
        let admitted = self.with_state(|state| {
            let end = state.next_offset().get().unsigned_abs();
            let mut engine = self.engine.lock();
            match is_limited && !engine.is_configured(slot) {
                true => Err(self.not_open()),
                false => Ok(engine.admits(state.slots(), end, slot, messages, bytes)),
            }
        });
        match admitted? {
            Ok(()) => Ok(Some(Reserved {
                desk: self.clone(),
                slot,
                messages,
                bytes,
                is_appended: false,
            })),
            Err(Full {
                limit: Limit::Bytes,
                most,
                ..
            }) if messages == 1 && bytes > most => Err(self.never_fits(&name, bytes, most)),
            Err(full) => Err(self.full(&name, &full)),
        }
    }

    /// What a queue takes here still, about; none: any number.
    pub fn room(&self, queue: QueueId) -> Option<Room> {
        let id = self.slots.read().get(&queue)?.0;
        self.with_state(|state| {
            let end = state.next_offset().get().unsigned_abs();
            self.engine.lock().room(state.slots(), end, id)
        })
    }

    /// Whether the queue has a slot here.
    ///
    /// # Errors
    /// NOT_READY.
    pub fn check_open(&self, queue: QueueId) -> Result<(), RequestError> {
        self.slot(queue).map(drop)
    }

    pub(super) fn not_open(&self) -> RequestError {
        let message = format!(
            "{}: the queue is not open here yet: try again after a moment",
            self.hosted.title
        );
        RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY)
    }

    fn never_fits(&self, name: &str, bytes: u64, most: u64) -> RequestError {
        let message = format!(
            "{}: the message takes {bytes} bytes, and queue {name:?} may have {most} here at most (queue.max.bytes, an equal part for \
             each partition): send less, or raise the limit",
            self.hosted.title
        );
        RequestError::new(Reason::RecordTooLarge, message)
            .with("limit", most)
            .with("actual", bytes)
    }

    fn full(&self, name: &str, full: &Full) -> RequestError {
        let (setting, of) = match full.limit {
            Limit::Messages => ("queue.max.messages", "messages"),
            Limit::Bytes => ("queue.max.bytes", "bytes"),
        };
        let Full { most, actual, .. } = full;
        let message = format!(
            "{}: queue {name:?} has {actual} {of} here, and may have {most} ({setting}, an equal part for each partition): try again when \
             consumers have acknowledged some",
            self.hosted.title
        );
        RequestError::new(Reason::QueueFull, message)
            .with("limit", most)
            .with("actual", actual)
            .retry_after(BUSY_RETRY)
    }
}

impl QueueSpec {
    /// Whether the queue refuses what is sent to it when it is full.
    pub fn is_limited(&self) -> bool {
        self.kind == SlotKind::Owned && self.policy.refuses_when_full()
    }
}
