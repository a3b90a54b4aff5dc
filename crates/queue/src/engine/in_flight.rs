//! The bounds on messages that are with consumers, and what a receive is told that they keep waiting.

use crate::engine::acts::Change;
use crate::engine::consumers::{Consumer, Waiter};
use crate::engine::desk::Desk;
use crate::engine::io::{Answer, ConsumerId, RequestId};
use crate::engine::step::Engine;
use crate::state::{Slot, Slots};

impl Engine {
    /// The bound on messages with consumers that keeps a stream with credit waiting; none: nothing does, or it has no credit.
    pub fn in_flight_full(&self, slots: &Slots, consumer: ConsumerId) -> Option<u64> {
        let id = self.streams.get(&consumer)?;
        let (desk, slot) = (self.desks.get(id)?, slots.slot(*id)?);
        let waiter = Waiter::Stream(consumer);
        let has_credit = desk.consumers.get(waiter).is_some_and(|known| known.credit > 0);
        desk.in_flight_full(slot, waiter).filter(|_| has_credit)
    }

    /// The answer to a receive that ends without messages.
    pub(super) fn without_messages(&mut self, slots: &Slots, request: RequestId) -> Answer {
        let Some(receive) = self.receives.get(&request) else {
            return Answer::Received(Vec::new());
        };
        let (Some(desk), Some(slot)) = (self.desks.get_mut(&receive.slot), slots.slot(receive.slot)) else {
            return Answer::Received(Vec::new());
        };
        match desk.in_flight_full(slot, Waiter::Once(request)) {
            Some(most) => {
                desk.tally.in_flight_full += 1;
                Answer::InFlightFull(most)
            }
            None => Answer::Received(Vec::new()),
        }
    }
}

impl Desk {
    /// A change of a message was applied: it is counted.
    pub(super) fn counts_change(&mut self, change: Change) {
        match change {
            Change::Dead { reason, .. } => self.tally.died(reason),
            Change::Done(cause) => self.tally.ended(cause),
            Change::Retry { .. } | Change::Release { .. } | Change::Extend { .. } | Change::Stage(_) => {}
        }
    }

    /// Messages that are with consumers, or on their way to them, or acknowledged in transactions that are not over. One whose lease has
    /// run out goes out again, and takes no other's place.
    pub(super) fn in_flight(&self, slot: &Slot) -> u64 {
        let run_out = self.out.run_out() as u64;
        (self.busy.len() as u64 + slot.counts().leased + slot.counts().staged).saturating_sub(run_out)
    }

    /// Whether a session may have another message.
    pub(super) fn has_room(&self, consumer: &Consumer) -> bool {
        let known = self.sessions.get(&consumer.session);
        let known = known.map_or(0, |session| session.in_flight);
        known.max(consumer.in_flight) < self.policy.session_in_flight_max
    }

    /// The bound on messages with consumers that keeps one waiting; none: it waits for messages.
    pub(super) fn in_flight_full(&self, slot: &Slot, waiter: Waiter) -> Option<u64> {
        if self.in_flight(slot) >= self.policy.in_flight_max {
            return Some(self.policy.in_flight_max);
        }
        let consumer = self.consumers.get(waiter)?;
        (!self.has_room(consumer)).then_some(self.policy.session_in_flight_max.into())
    }
}
