//! Messages that wait to be sent on one connection: those of the metadata group first.
//!
//! Without the metadata nothing can be created, changed or deleted, so its messages wait for no other group's. They are
//! few and small. Messages of one group keep their order.

use std::future::poll_fn;
use std::task::Poll;

use jangada_proto::internal::Message;
use jangada_types::GroupId;
use tokio::sync::mpsc;

/// The sending end. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Sender {
    first: mpsc::Sender<Message>,
    rest: mpsc::Sender<Message>,
}

/// The receiving end.
pub(crate) struct Receiver {
    first: mpsc::Receiver<Message>,
    rest: mpsc::Receiver<Message>,
}

/// The message was not taken: the receiver is gone, or there is no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotSent;

/// A queue with room for so many messages of each kind.
pub(crate) fn queue(capacity: usize) -> (Sender, Receiver) {
    let (to_first, first) = mpsc::channel(capacity);
    let (to_rest, rest) = mpsc::channel(capacity);
    let sender = Sender {
        first: to_first,
        rest: to_rest,
    };
    (sender, Receiver { first, rest })
}

impl Sender {
    /// Announcements and signs of life belong to no group, and go with the metadata.
    fn of(&self, message: &Message) -> &mpsc::Sender<Message> {
        match GroupId::from(message.group_id) == GroupId::METADATA {
            true => &self.first,
            false => &self.rest,
        }
    }

    /// Waits for room.
    pub async fn send(&self, message: Message) -> Result<(), NotSent> {
        self.of(&message).send(message).await.map_err(|_| NotSent)
    }

    /// Does not wait for room.
    pub fn try_send(&self, message: Message) -> Result<(), NotSent> {
        self.of(&message).try_send(message).map_err(|_| NotSent)
    }
}

impl Receiver {
    /// The next message; `None`: no sender is left.
    pub async fn recv(&mut self) -> Option<Message> {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one, 1).await;
        one.pop()
    }

    /// Waits for messages and appends at most so many of them; 0: no sender is left.
    pub async fn recv_many(&mut self, buffer: &mut Vec<Message>, limit: usize) -> usize {
        poll_fn(|cx| {
            let first = self.first.poll_recv_many(cx, buffer, limit);
            let taken = if let Poll::Ready(taken) = first { taken } else { 0 };
            if taken == limit {
                return first;
            }
            match (first, self.rest.poll_recv_many(cx, buffer, limit - taken)) {
                // A channel that gives nothing has no sender; those of both go together.
                (Poll::Ready(0), Poll::Ready(0)) => Poll::Ready(0),
                (Poll::Pending | Poll::Ready(0), Poll::Pending | Poll::Ready(0)) => Poll::Pending,
                (_, Poll::Pending) => Poll::Ready(taken),
                (_, Poll::Ready(more)) => Poll::Ready(taken + more),
            }
        })
        .await
    }

    /// A message that is there.
    #[cfg(test)]
    pub fn try_recv(&mut self) -> Result<Message, mpsc::error::TryRecvError> {
        self.first.try_recv().or_else(|_| self.rest.try_recv())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(group_id: u64, call_id: u64) -> Message {
        Message {
            group_id,
            call_id,
            ..Message::default()
        }
    }

    #[tokio::test]
    async fn the_metadata_overtakes_all_other_groups_and_each_group_keeps_its_order() {
        let (sender, mut receiver) = queue(16);
        for call_id in 0..4 {
            sender.send(message(7, call_id)).await.expect("there is room");
        }
        for call_id in 4..6 {
            sender.send(message(0, call_id)).await.expect("there is room");
        }
        let mut received = Vec::new();
        assert_eq!(receiver.recv_many(&mut received, 3).await, 3);
        drop(sender);
        while let Some(message) = receiver.recv().await {
            received.push(message);
        }
        let order: Vec<u64> = received.iter().map(|message| message.call_id).collect();
        assert_eq!(order, [4, 5, 0, 1, 2, 3]);
        assert_eq!(receiver.recv_many(&mut received, 3).await, 0);
    }
}
