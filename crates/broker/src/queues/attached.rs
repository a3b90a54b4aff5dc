//! A consumer's stream at a desk.

use std::sync::Arc;

use jangada_queue::LeaseId;
use jangada_queue::SlotId;
use jangada_queue::engine::{ConsumerId, Delivered, Input};
use tokio::sync::mpsc;

use super::desk::Desk;

/// What a stream hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AttachedEvent {
    /// Messages for it, in the order in which they go out.
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
    is_orderly: bool,
}

impl Attached {
    pub(super) fn new(
        desk: Arc<Desk>,
        (consumer, slot): (ConsumerId, SlotId),
        events: mpsc::Receiver<AttachedEvent>,
    ) -> Self {
        Self {
            desk,
            consumer,
            slot,
            events,
            is_orderly: false,
        }
    }

    /// The next event. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> AttachedEvent {
        self.events.recv().await.unwrap_or(AttachedEvent::Ended)
    }

    /// The consumer may get so many messages more.
    pub fn credit(&self, messages: u32) {
        let consumer = self.consumer;
        self.desk.put(Input::Credit { consumer, messages });
    }

    /// Messages could not be handed on: nobody saw them.
    pub fn undelivered(&self, messages: Vec<(u64, LeaseId)>) {
        let slot = self.slot;
        self.desk.put(Input::Undelivered { slot, messages });
    }

    /// The stream ends. Orderly: its messages are given back at once, and count no failure.
    pub fn detach(mut self, orderly: bool) {
        self.is_orderly = orderly;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.events.close();
        while let Ok(event) = self.events.try_recv() {
            if let AttachedEvent::Deliveries(messages) = event {
                self.undelivered(messages.iter().map(|message| (message.offset, message.lease)).collect());
            }
        }
        self.desk.detach(self.consumer, self.is_orderly);
    }
}
