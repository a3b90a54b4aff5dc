//! Messages on their way from a desk to a consumer, and what a stream asks of the desk for it.

use jangada_queue::LeaseId;
use jangada_queue::engine::Delivered;
use tokio::sync::mpsc;

/// What the task of a partition is told.
#[derive(Debug)]
pub(super) enum Order {
    Credit(u32),
    /// Gives messages back that nobody has seen.
    Undelivered(Vec<(u64, LeaseId)>),
    /// The consumer takes leave: what it has goes back at once.
    Leave,
}

/// Messages that a consumer was not sent yet. Those that are left when this is dropped are given back, and it counts neither as a failure
/// nor as a delivery.
#[derive(Debug)]
pub(crate) struct Unseen {
    messages: Vec<Delivered>,
    /// None: their session had them before, and may have them in hand. They wait for it to come back.
    orders: Option<mpsc::UnboundedSender<Order>>,
}

impl Unseen {
    pub(super) fn new(messages: Vec<Delivered>, orders: Option<mpsc::UnboundedSender<Order>>) -> Self {
        Self { messages, orders }
    }

    pub(super) fn messages(&self) -> &[Delivered] {
        &self.messages
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Takes the messages for which `is_theirs` is true out of these, in their order.
    pub(super) fn take(&mut self, mut is_theirs: impl FnMut(&Delivered) -> bool) -> Self {
        let taken = self.messages.extract_if(.., |message| is_theirs(message)).collect();
        Self::new(taken, self.orders.clone())
    }

    /// Takes those beyond so many.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        Self::new(self.messages.split_off(at), self.orders.clone())
    }

    /// They go to the client now, or something else becomes of them.
    pub(crate) fn seen(mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.messages)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let (false, Some(orders)) = (self.messages.is_empty(), &self.orders) {
            let messages = self.messages.iter().map(|message| (message.offset, message.lease));
            // If the partition's task has ended, its desk has, too: the next leader sends them to the session again.
            let _ = orders.send(Order::Undelivered(messages.collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(offset: u64) -> Delivered {
        Delivered {
            offset,
            lease: LeaseId(1),
            failures: 0,
            deliveries: 1,
            lease_left_ms: 30_000,
        }
    }

    fn given_back(orders: &mut mpsc::UnboundedReceiver<Order>) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Ok(order) = orders.try_recv() {
            let Order::Undelivered(messages) = order else {
                panic!("{order:?}")
            };
            offsets.extend(messages.iter().map(|(offset, _)| *offset));
        }
        offsets
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test reads what it sends")]
    fn what_no_consumer_was_sent_is_given_back_and_the_rest_is_not() {
        let (orders, mut told) = mpsc::unbounded_channel();
        let mut unseen = Unseen::new((0..6).map(delivered).collect(), Some(orders));
        let beyond = unseen.split_off(5);
        let sent = unseen.take(|message| message.offset % 2 == 0);
        assert_eq!(sent.seen().len(), 3);
        assert!(given_back(&mut told).is_empty());
        drop(beyond);
        assert_eq!(given_back(&mut told), [5]);
        drop(unseen);
        assert_eq!(given_back(&mut told), [1, 3]);
    }

    #[test]
    fn what_the_consumer_may_have_in_hand_is_not_given_back() {
        // There is nobody whom it could be given back to.
        drop(Unseen::new(vec![delivered(1)], None));
    }
}
