//! A consumer's stream at a desk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jangada_queue::LeaseId;
use jangada_queue::SlotId;
use jangada_queue::engine::{ConsumerId, Delivered, Input, Waiter};
use tokio::sync::mpsc;

use super::desk::Desk;

/// What a stream hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AttachedEvent {
    /// The first that it hears: its desk knows it, and hands out messages for credit from now on. With messages that its session has
    /// already, and may have in hand, beside what it said it holds.
    Begun(Vec<Delivered>),
    /// Messages for its credit, in the order in which they go out.
    Deliveries(Vec<Delivered>),
    /// Leadership goes to another broker.
    Moved,
    /// The partition is not led here any more.
    Ended,
}

/// A consumer's stream. When it is dropped, its connection broke: its messages wait for its session to come back.
pub(crate) struct Attached {
    desk: Arc<Desk>,
    consumer: ConsumerId,
    slot: SlotId,
    events: mpsc::Receiver<AttachedEvent>,
    /// Credit for messages that found no room among the events, and went back.
    owed: Arc<AtomicU32>,
    is_orderly: bool,
}

impl Attached {
    pub(super) fn new(
        desk: Arc<Desk>,
        (consumer, slot): (ConsumerId, SlotId),
        events: mpsc::Receiver<AttachedEvent>,
        owed: Arc<AtomicU32>,
    ) -> Self {
        Self {
            desk,
            consumer,
            slot,
            events,
            owed,
            is_orderly: false,
        }
    }

    /// The next event. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> AttachedEvent {
        let event = self.events.recv().await.unwrap_or(AttachedEvent::Ended);
        self.desk
            .give_credit(self.consumer, self.owed.swap(0, Ordering::SeqCst));
        event
    }

    /// The consumer may get so many messages more.
    pub fn credit(&self, messages: u32) {
        self.desk.give_credit(self.consumer, messages);
    }

    /// So many messages consumers have, as many as they may, so that this one gets none although it has credit; 0: it is not so.
    pub fn in_flight_full(&self) -> u64 {
        let full = self
            .desk
            .with_state(|state| self.desk.engine.lock().in_flight_full(state.slots(), self.consumer));
        full.unwrap_or(0)
    }

    /// Credit for messages that went back.
    #[cfg(test)]
    pub fn owed(&self) -> u32 {
        self.owed.load(Ordering::SeqCst)
    }

    /// Messages could not be handed on: nobody saw them.
    pub fn undelivered(&self, messages: Vec<(u64, LeaseId)>) {
        let (slot, to) = (self.slot, Waiter::Stream(self.consumer));
        self.desk.put(Input::Undelivered { slot, to, messages });
    }

    /// The stream ends. Orderly: its messages are given back at once, and count no failure.
    pub fn detach(mut self, orderly: bool) {
        self.is_orderly = orderly;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.events.close();
        // After the desk has ended they wait for the session to come back.
        while let Ok(event) = self.events.try_recv() {
            if let AttachedEvent::Deliveries(messages) = event
                && !self.desk.has_ended()
            {
                self.undelivered(messages.iter().map(|message| (message.offset, message.lease)).collect());
            }
        }
        self.desk.detach(self.consumer, self.is_orderly);
    }
}
