//! Who waits for messages of a slot.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::engine::io::{ConsumerId, RequestId};
use crate::ids::{AttemptId, CallId, LeaseId, SessionId, SlotId};

/// Who gets messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiter {
    /// A stream, which gets messages while it has credit.
    Stream(ConsumerId),
    /// A receive, which is answered once.
    Once(RequestId),
}

/// A receive, as it was asked for.
#[derive(Debug)]
pub(super) struct Asks {
    pub request: RequestId,
    pub slot: SlotId,
    pub consumer: Consumer,
    /// On the monotonic clock, milliseconds.
    pub until_ms: u64,
    /// It wants nothing for itself: what its call was granted is given back.
    pub gives_back: bool,
}

/// What a receive was granted, and whom that was answered to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub lease: LeaseId,
    /// The only call that may have handed it on; 0: several, or it is not known.
    pub call: CallId,
}

/// A consumer: it gets messages while it has credit.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub session: SessionId,
    pub attempt: AttemptId,
    /// The call that gets what it is granted.
    pub call: CallId,
    pub lease_ms: u64,
    /// So many messages it may still get.
    pub credit: u32,
    /// So many messages are on their way to it, or with it.
    pub in_flight: u32,
    /// It gets nothing until it has nothing: then a message goes to it alone.
    pub drains: bool,
    /// It has a message that goes alone, and gets nothing else until it has nothing.
    pub is_alone: bool,
    /// When it was served last.
    turn: u64,
}

impl Consumer {
    pub(super) fn new(session: SessionId, (attempt, call): (AttemptId, CallId), lease_ms: u64, credit: u32) -> Self {
        Self {
            session,
            attempt,
            call,
            lease_ms,
            credit,
            in_flight: 0,
            drains: false,
            is_alone: false,
            turn: 0,
        }
    }
}

/// The consumers of a slot. The one with the most credit is next; of equal ones the one that was served longest ago.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    all: BTreeMap<Waiter, Consumer>,
    waiting: BTreeSet<(Reverse<u32>, u64, Waiter)>,
    /// The receives that may be sent again.
    attempts: BTreeMap<(SessionId, AttemptId), RequestId>,
    /// So many of them drain.
    draining: usize,
    turn: u64,
}

impl Consumers {
    pub(super) fn get(&self, waiter: Waiter) -> Option<&Consumer> {
        self.all.get(&waiter)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Waiter, &Consumer)> {
        self.all.iter().map(|(waiter, consumer)| (*waiter, consumer))
    }

    pub(super) fn insert(&mut self, waiter: Waiter, consumer: Consumer) {
        self.remove(waiter);
        if let (Waiter::Once(request), true) = (waiter, consumer.attempt != AttemptId(0)) {
            self.attempts.insert((consumer.session, consumer.attempt), request);
        }
        self.draining += usize::from(consumer.drains);
        self.all.insert(waiter, consumer);
        self.change(waiter, |_| {});
    }

    pub(super) fn remove(&mut self, waiter: Waiter) -> Option<Consumer> {
        let consumer = self.all.remove(&waiter)?;
        self.waiting.remove(&(Reverse(consumer.credit), consumer.turn, waiter));
        self.draining -= usize::from(consumer.drains);
        let attempt = (consumer.session, consumer.attempt);
        if let Waiter::Once(request) = waiter
            && self.attempts.get(&attempt) == Some(&request)
        {
            self.attempts.remove(&attempt);
        }
        Some(consumer)
    }

    /// The receive that waits with this attempt.
    pub(super) fn of_attempt(&self, attempt: (SessionId, AttemptId)) -> Option<RequestId> {
        self.attempts.get(&attempt).copied()
    }

    /// Changes a consumer, and where it stands.
    pub(super) fn change(&mut self, waiter: Waiter, change: impl FnOnce(&mut Consumer)) {
        let Some(consumer) = self.all.get_mut(&waiter) else {
            return;
        };
        self.waiting.remove(&(Reverse(consumer.credit), consumer.turn, waiter));
        self.draining -= usize::from(consumer.drains);
        change(consumer);
        self.draining += usize::from(consumer.drains);
        if consumer.in_flight == 0 {
            consumer.is_alone = false;
        }
        if consumer.credit > 0 && !consumer.drains && !consumer.is_alone {
            self.waiting.insert((Reverse(consumer.credit), consumer.turn, waiter));
        }
    }

    /// It was served, and comes behind others with the same credit.
    pub(super) fn served(&mut self, waiter: Waiter, messages: u32) {
        self.turn += 1;
        let turn = self.turn;
        self.change(waiter, |consumer| {
            consumer.credit = consumer.credit.saturating_sub(messages);
            consumer.in_flight += messages;
            consumer.turn = turn;
        });
    }

    /// The next one that may get a message.
    pub(super) fn next(&self, is_free: impl Fn(&Consumer) -> bool) -> Option<Waiter> {
        let mut waiting = self.waiting.iter().map(|(_, _, waiter)| *waiter);
        waiting.find(|waiter| is_free(&self.all[waiter]))
    }

    /// One that has nothing, for a message that goes out alone. If all have something, one of them gets no more until it has nothing.
    pub(super) fn next_alone(&mut self) -> Option<Waiter> {
        let ready = self
            .all
            .iter()
            .filter(|(_, consumer)| consumer.credit > 0 && consumer.in_flight == 0);
        if let Some((waiter, _)) = ready.min_by_key(|(_, consumer)| consumer.turn) {
            return Some(*waiter);
        }
        let drains = self.all.values().any(|consumer| consumer.drains && consumer.credit > 0);
        let least = self
            .waiting
            .iter()
            .min_by_key(|(_, _, waiter)| self.all[waiter].in_flight);
        if let (false, Some((_, _, waiter))) = (drains, least.copied()) {
            self.change(waiter, |consumer| consumer.drains = true);
        }
        None
    }

    /// Nobody waits for a message that goes out alone any more.
    pub(super) fn stop_draining(&mut self) {
        if self.draining == 0 {
            return;
        }
        let draining: Vec<Waiter> = self
            .iter()
            .filter(|(_, consumer)| consumer.drains)
            .map(|(waiter, _)| waiter)
            .collect();
        for waiter in draining {
            self.change(waiter, |consumer| consumer.drains = false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_credit(credits: &[u32]) -> Consumers {
        let mut consumers = Consumers::default();
        for (at, credit) in credits.iter().enumerate() {
            let consumer = Consumer::new(SessionId(at as u64), Default::default(), 1_000, *credit);
            consumers.insert(Waiter::Stream(ConsumerId(at as u64)), consumer);
        }
        consumers
    }

    #[test]
    fn equal_consumers_get_equal_shares() {
        let mut consumers = with_credit(&[100, 100, 100, 0]);
        let mut got = [0; 4];
        for _ in 0..18 {
            let waiter = consumers.next(|_| true).expect("three wait");
            consumers.served(waiter, 16);
            let Waiter::Stream(ConsumerId(at)) = waiter else {
                panic!("{waiter:?}")
            };
            got[at as usize] += 16;
        }
        assert_eq!(got, [96, 96, 96, 0]);
    }

    #[test]
    fn a_message_that_goes_alone_finds_a_consumer_that_is_never_idle() {
        let mut consumers = with_credit(&[8, 8]);
        for at in 0..2 {
            consumers.served(Waiter::Stream(ConsumerId(at)), 4);
        }
        assert_eq!(consumers.next_alone(), None);
        let waiter = consumers.next(|_| true).expect("the other one");
        assert_eq!(consumers.iter().filter(|(_, consumer)| consumer.drains).count(), 1);
        consumers.served(waiter, 4);
        assert_eq!(consumers.next(|_| true), None, "one has no credit, the other drains");
        let drains = consumers
            .iter()
            .find(|(_, consumer)| consumer.drains)
            .expect("one does")
            .0;
        consumers.change(drains, |consumer| consumer.in_flight = 0);
        assert_eq!(consumers.next_alone(), Some(drains));
    }
}
