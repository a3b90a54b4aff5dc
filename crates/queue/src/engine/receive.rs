//! Receives: who asks once, who asks again because an answer was lost, and answers that could not be handed on.

use jangada_machine::Now;

use crate::engine::acts::Change;
use crate::engine::consumers::{Asks, Consumer, Granted, Waiter};
use crate::engine::desk::Desk;
use crate::engine::io::{Answer, Delivered, Output, RequestId};
use crate::engine::outs::PASSED;
use crate::engine::part::Part;
use crate::engine::step::{Engine, Receive, left};
use crate::ids::{AttemptId, CallId, LeaseId, SessionId, SlotId};
use crate::state::{Slot, Slots};

/// What an earlier try of a receive was granted.
enum Earlier {
    /// Nothing that is still its own.
    Nothing,
    /// What becomes of some of it is under way.
    Unclear,
    Granted(Vec<Delivered>),
}

impl Engine {
    pub(super) fn receive(&mut self, slots: &Slots, asks: Asks, now: Now, out: &mut Vec<Output>) {
        let Asks { request, slot: id, .. } = asks;
        let (true, Some(slot)) = (self.desks.contains_key(&id), slots.slot(id)) else {
            let answer = Answer::UnknownSlot;
            return out.push(Output::Answer { request, answer });
        };
        if self.hands_over {
            let answer = Answer::Moved;
            return out.push(Output::Answer { request, answer });
        }
        let attempt = (asks.consumer.session, asks.consumer.attempt);
        // One that only asks for what there was ends the first try, of which nobody wants anything more.
        let superseded = match asks.consumer.credit {
            0 => Answer::Received(Vec::new()),
            _ => Answer::Superseded,
        };
        if asks.gives_back && !self.is_of_one_call(id, attempt, asks.consumer.call) {
            let answer = Answer::Received(Vec::new());
            return out.push(Output::Answer { request, answer });
        }
        let desk = self.desks.get_mut(&id).expect("it is there");
        if attempt.1 != AttemptId(0) {
            let is_same = |known: &Asks| {
                let consumer = &known.consumer;
                known.slot == id && (consumer.session, consumer.attempt) == attempt
            };
            // The first try waits still, or its grant is under way: this one takes its place.
            if let Some(at) = self.asks.iter().position(is_same) {
                let first = self.asks.swap_remove(at).request;
                let answer = superseded;
                out.push(Output::Answer { request: first, answer });
            } else if let Some(first) = desk.consumers.of_attempt(attempt) {
                self.supersede(id, first, (request, asks.consumer.call), asks.until_ms);
                let answer = superseded;
                return out.push(Output::Answer { request: first, answer });
            }
            // Nobody waits for its grant any more, which is under way: this one is answered with it.
            let is_its = |part: &Part| match part {
                Part::Grant(grant) => grant.slot == id && (grant.session, grant.attempt) == attempt,
                _ => false,
            };
            let earlier = match self.under_way.values().flatten().any(is_its) {
                true => Earlier::Unclear,
                false => desk.earlier(slot, attempt, now),
            };
            match earlier {
                Earlier::Nothing => drop(desk.attempts.remove(&attempt)),
                Earlier::Unclear => return self.asks.push(asks),
                Earlier::Granted(messages) => {
                    // Its answer was lost: what it was granted is its still.
                    desk.hand_to(messages[0].offset, Waiter::Once(request));
                    desk.hand_to_call(attempt, asks.consumer.call);
                    let answer = Answer::Received(messages);
                    return out.push(Output::Answer { request, answer });
                }
            }
        }
        let (slot, until_ms) = (id, asks.until_ms);
        desk.consumers.insert(Waiter::Once(request), asks.consumer);
        self.begin_wait(request, Receive { slot, until_ms });
    }

    /// Whether nobody but this call can have what a receive was granted here, or is about to be.
    fn is_of_one_call(&self, id: SlotId, attempt: (SessionId, AttemptId), call: CallId) -> bool {
        let Some(desk) = self.desks.get(&id) else { return false };
        let asks = self
            .asks
            .iter()
            .filter(|asks| asks.slot == id)
            .map(|asks| &asks.consumer);
        let waits = desk.consumers.of_attempt(attempt).map(Waiter::Once);
        let waits = waits.and_then(|waiter| desk.consumers.get(waiter));
        let consumers = asks
            .chain(waits)
            .map(|consumer| (consumer.session, consumer.attempt, consumer.call));
        let grants = self.under_way.values().flatten().filter_map(|part| match part {
            Part::Grant(grant) if grant.slot == id => Some((grant.session, grant.attempt, grant.call)),
            _ => None,
        });
        let mut of_attempt = consumers.chain(grants).filter(|of| (of.0, of.1) == attempt);
        let granted = desk.attempts.get(&attempt);
        attempt.1 != AttemptId(0)
            && call != CallId(0)
            && of_attempt.all(|of| of.2 == call)
            && granted.is_none_or(|granted| granted.call == call)
    }

    fn begin_wait(&mut self, request: RequestId, receive: Receive) {
        self.waits.insert((receive.until_ms, request));
        self.receives.insert(request, receive);
    }

    pub(super) fn end_wait(&mut self, request: RequestId) -> Option<Receive> {
        let receive = self.receives.remove(&request)?;
        self.waits.remove(&(receive.until_ms, request));
        Some(receive)
    }

    /// What was under way may be known now: receives that waited for it are looked at again.
    pub(super) fn receive_again(&mut self, slots: &Slots, now: Now, out: &mut Vec<Output>) {
        for asks in std::mem::take(&mut self.asks) {
            self.receive(slots, asks, now, out);
        }
    }

    /// A receive takes the place of an earlier try of it.
    fn supersede(&mut self, id: SlotId, first: RequestId, (request, call): (RequestId, CallId), until_ms: u64) {
        let desk = self.desks.get_mut(&id).expect("it has a consumer");
        let mut consumer = desk.consumers.remove(Waiter::Once(first)).expect("it waits");
        consumer.call = call;
        desk.consumers.insert(Waiter::Once(request), consumer);
        self.end_wait(first);
        self.begin_wait(request, Receive { slot: id, until_ms });
        for part in self.under_way.values_mut().flatten() {
            if let Part::Grant(grant) = part
                && grant.waiter == Waiter::Once(first)
            {
                grant.waiter = Waiter::Once(request);
                grant.call = call;
            }
        }
    }

    /// Those of the messages that are with whom they were granted to, and not with somebody who asked again since: what an engine that has
    /// an end leaves to the next one, which cannot know it.
    pub fn still_with(&self, slot: SlotId, to: Waiter, mut messages: Vec<(u64, LeaseId)>) -> Vec<(u64, LeaseId)> {
        if let Some(desk) = self.desks.get(&slot) {
            messages.retain(|(offset, _)| desk.has(*offset, to));
        }
        messages
    }

    pub(super) fn end_receive(&mut self, request: RequestId) {
        if let Some(receive) = self.end_wait(request)
            && let Some(desk) = self.desks.get_mut(&receive.slot)
        {
            desk.consumers.remove(Waiter::Once(request));
        }
    }

    /// Messages did not reach whom they were for. Those that somebody else has since stay there.
    pub(super) fn unseen(
        &mut self,
        slots: &Slots,
        end: u64,
        (id, to, change): (SlotId, Waiter, Change),
        messages: &[(u64, LeaseId)],
    ) {
        let Some(slot) = slots.slot(id) else { return };
        for (offset, lease) in messages {
            let offset = slot.place(*offset);
            let desk = self.desks.get(&id);
            let is_theirs = desk.is_some_and(|desk| desk.has(offset, to));
            if is_theirs && slot.held(offset).is_some_and(|held| held.lease == *lease) {
                self.give_up(slots, end, id, offset, change);
            }
        }
    }
}

impl Desk {
    /// Whether a message was given to somebody last, or to nobody by this leader.
    fn has(&self, offset: u64, waiter: Waiter) -> bool {
        let out = self.out.get(offset);
        out.is_some_and(|out| out.waiter.is_none_or(|known| known == waiter))
    }

    /// A message, and what was granted together with it, is with another stream or receive of its session from now on.
    pub(super) fn hand_to(&mut self, offset: u64, waiter: Waiter) {
        let Some((before, messages)) = self.out.hand_to(offset, waiter) else {
            return;
        };
        self.handed(before, waiter, messages);
    }

    /// What a session has goes on with a stream that has just begun.
    pub(super) fn hand_all_to(&mut self, session: SessionId, waiter: Waiter) {
        for (before, messages) in self.out.hand_all_to(session, waiter) {
            self.handed(before.filter(|before| *before != waiter), waiter, messages);
        }
    }

    /// What a receive was granted goes to one more call of it.
    fn hand_to_call(&mut self, attempt: (SessionId, AttemptId), call: CallId) {
        if let Some(granted) = self.attempts.get_mut(&attempt)
            && granted.call != call
        {
            granted.call = CallId(0);
        }
    }

    fn handed(&mut self, before: Option<Waiter>, after: Waiter, messages: u32) {
        if let Some(before) = before {
            let has_less = |consumer: &mut Consumer| consumer.in_flight = consumer.in_flight.saturating_sub(messages);
            self.consumers.change(before, has_less);
        }
        self.consumers.change(after, |consumer| consumer.in_flight += messages);
    }

    /// What an earlier try of a receive was granted, as far as its lease is not over.
    fn earlier(&self, slot: &Slot, attempt: (SessionId, AttemptId), now: Now) -> Earlier {
        let Some(Granted { lease, .. }) = self.attempts.get(&attempt).copied() else {
            return Earlier::Nothing;
        };
        let mut left_of_lease = slot.lease(lease).map_or(0, |lease| lease.left);
        let mut messages = Vec::new();
        for (offset, known) in self.out.iter() {
            if left_of_lease == 0 {
                break;
            }
            if known.session != attempt.0 {
                continue;
            }
            let Some(held) = slot.held(offset).filter(|held| held.lease == lease) else {
                continue;
            };
            left_of_lease -= 1;
            if self.busy.contains(&offset) {
                return Earlier::Unclear;
            }
            if known.deadline != PASSED {
                messages.push(Delivered {
                    offset,
                    lease,
                    failures: held.failures,
                    deliveries: held.deliveries,
                    lease_left_ms: left(known.deadline, now),
                });
            }
        }
        match messages.is_empty() {
            true => Earlier::Nothing,
            false => Earlier::Granted(messages),
        }
    }
}
