//! What became of a command of the engine.

use jangada_machine::Now;

use crate::command::Section;
use crate::engine::acts::{Act, Change, Group, unless_all_are};
use crate::engine::consumers::{Granted, Waiter};
use crate::engine::desk::{Desk, Ready};
use crate::engine::io::{Answer, Delivered, Output, Settled, Ticket};
use crate::engine::part::{Grant, Part};
use crate::engine::policy::{OnDead, Order};
use crate::engine::step::Engine;
use crate::engine::transactions::refusal;
use crate::engine::walk::View;
use crate::ids::{AttemptId, LeaseId, SlotId};
use crate::reply::{OpsReply, SectionRefused, SectionReply};
use crate::runs::Runs;
use crate::state::{DeadReason, DoneCause, HeldState, MessageState, Origin, Slot, Slots};

/// Nothing is granted for so long after the state was full, milliseconds.
const HOLD_BACK_MS: u64 = 1_000;

impl Engine {
    pub(super) fn applied(
        &mut self,
        slots: &Slots,
        end: u64,
        ticket: Ticket,
        reply: OpsReply,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let Some(parts) = self.under_way.remove(&ticket) else {
            // One of an engine that this term had before: it changed slots in a way that is not known here.
            if let OpsReply::Applied(_) = reply {
                self.restart_all(slots, end, now);
            }
            return;
        };
        let OpsReply::Applied(replies) = reply else {
            // The term is over: whoever leads now begins anew, and nothing of this engine counts.
            return;
        };
        for (part, reply) in parts.into_iter().zip(replies) {
            match part {
                Part::Acts(slot, change, acts) => self.acts_applied(slots, end, (slot, change), acts, &reply, now, out),
                Part::Forward(section, before) => self.forward_replied(slots, end, (&section, &before), &reply, now),
                Part::Grant(grant) => self.granted(slots, end, grant, &reply, now, out),
                // What was refused is done already.
                Part::Elsewhere(id, messages) => {
                    if let Some(desk) = self.desks.get_mut(&id) {
                        let runs = messages.runs().iter();
                        runs.for_each(|run| desk.elsewhere.done(run.first, run.last));
                    }
                }
                Part::Administered(request, section, messages) => {
                    self.administered(slots, end, (&section, &messages), &reply, now);
                    let answer = Answer::Administered(reply);
                    out.push(Output::Answer { request, answer });
                }
            }
        }
        for (slot, waiting) in std::mem::take(&mut self.deferred) {
            self.judge(slots, end, slot, waiting, out);
        }
        self.receive_again(slots, now, out);
    }

    fn restart_all(&mut self, slots: &Slots, end: u64, now: Now) {
        let policies: Vec<_> = self.desks.iter().map(|(id, desk)| (*id, desk.policy)).collect();
        for (id, policy) in policies {
            self.restart(slots, end, id, policy, now);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a step's surroundings, and what was applied")]
    fn acts_applied(
        &mut self,
        slots: &Slots,
        end: u64,
        (id, change): (SlotId, Change),
        acts: Vec<Act>,
        reply: &SectionReply,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let refused = refused_by(reply, &acts);
        for act in acts {
            let is_refused = refused.binary_search(&act.ready.offset).is_ok();
            if self.comes_again(slots, id, &act) {
                continue;
            }
            if let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) {
                desk.busy.remove(&act.ready.offset);
                desk.purged(change);
                if is_refused && act.waits.is_none() {
                    desk.refused(slot, &act.ready, end);
                } else if is_refused && matches!(change, Change::Stage(_)) {
                    desk.not_staged(slot, &act.ready);
                }
                if !is_refused {
                    desk.counts_change(change);
                    let view = View::new(id, slot, slots, end, now, None);
                    desk.act_applied(&view, &act, change);
                }
            }
            if let Some((request, place)) = act.waits {
                let settled = if is_refused {
                    refusal(change, reply)
                } else {
                    Settled::Done
                };
                self.settled(request, place, settled, out);
            }
        }
    }

    fn granted(
        &mut self,
        slots: &Slots,
        end: u64,
        grant: Grant,
        reply: &SectionReply,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let (Some(desk), Some(slot)) = (self.desks.get_mut(&grant.slot), slots.slot(grant.slot)) else {
            return;
        };
        if *reply == SectionReply::Refused(SectionRefused::StateFull) {
            desk.held_back_until = now.monotonic_ms + HOLD_BACK_MS;
        }
        let refused = match reply {
            SectionReply::Taken { refused } => refused.clone(),
            SectionReply::Opened(_) | SectionReply::Refused(_) => {
                grant.messages.iter().map(|ready| ready.offset).collect()
            }
        };
        let refused: Vec<u64> = refused.offsets().collect();
        let mut messages = Vec::with_capacity(grant.messages.len());
        let (mut lease, mut given) = (LeaseId::NONE, None);
        for ready in &grant.messages {
            desk.busy.remove(&ready.offset);
            if refused.binary_search(&ready.offset).is_ok() {
                desk.consumers.change(grant.waiter, |consumer| {
                    consumer.in_flight = consumer.in_flight.saturating_sub(1);
                    consumer.credit += 1;
                });
                desk.refused(slot, ready, end);
                continue;
            }
            let MessageState::Held(held) = slot.state(ready.offset, end) else {
                continue;
            };
            debug_assert_eq!(held.state, HeldState::Leased, "it was granted just now");
            lease = held.lease;
            desk.tally.delivered(held.deliveries);
            desk.lend(
                ready.offset,
                now.monotonic_ms.saturating_add(grant.lease_ms),
                (grant.waiter, grant.session),
                &mut given,
            );
            messages.push(Delivered {
                offset: ready.offset,
                lease: held.lease,
                failures: held.failures,
                deliveries: held.deliveries,
                lease_left_ms: grant.lease_ms,
            });
        }
        if messages.is_empty() {
            return;
        }
        if grant.attempt != AttemptId(0) {
            let call = grant.call;
            desk.attempts
                .insert((grant.session, grant.attempt), Granted { lease, call });
        }
        match grant.waiter {
            Waiter::Stream(consumer) if desk.consumers.get(grant.waiter).is_some() => {
                out.push(Output::Deliver { consumer, messages });
            }
            Waiter::Once(request) if desk.consumers.get(grant.waiter).is_some() => {
                self.end_receive(request);
                let answer = Answer::Received(messages);
                out.push(Output::Answer { request, answer });
            }
            // Whoever it was for is gone, and never saw them. A receive that may be sent again will be answered with them.
            Waiter::Once(_) if grant.attempt != AttemptId(0) => {}
            Waiter::Stream(_) | Waiter::Once(_) => {
                for message in messages {
                    self.give_up(slots, end, grant.slot, message.offset, Change::Release { unseen: true });
                }
            }
        }
    }

    fn forward_replied(
        &mut self,
        slots: &Slots,
        end: u64,
        (section, before): (&Section, &[Ready]),
        reply: &SectionReply,
        now: Now,
    ) {
        let id = section.slot().unwrap_or_default();
        if let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) {
            let view = View::new(id, slot, slots, end, now, None);
            desk.forward_applied(&view, section, before, reply);
        }
    }

    fn administered(
        &mut self,
        slots: &Slots,
        end: u64,
        (section, messages): (&Section, &[Ready]),
        reply: &SectionReply,
        now: Now,
    ) {
        let SectionReply::Taken { refused } = reply else {
            return;
        };
        let Some(id) = section.slot() else { return };
        match section {
            Section::Seek { .. } | Section::Purge { .. } | Section::Close { .. } => {
                if let Some(policy) = self.desks.get(&id).map(|desk| desk.policy) {
                    self.restart(slots, end, id, policy, now);
                }
            }
            Section::Done {
                cause: DoneCause::Cancelled,
                ..
            } => {
                // A message that is not due keeps its key busy, and nobody would look at it before its time.
                let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) else {
                    return;
                };
                let is_done = |ready: &&Ready| slot.state(ready.offset, end) == MessageState::Done;
                let origins = messages.iter().filter(is_done).map(|ready| ready.origin).collect();
                for (key, origin) in desk.keys.kept_by(&origins) {
                    desk.free_key(slot, key, origin);
                }
            }
            Section::Redrive { .. } | Section::Done { .. } => {
                let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) else {
                    return;
                };
                let refused: Vec<u64> = refused.offsets().collect();
                let blocks = desk.policy.order == Order::ByKey(OnDead::Block);
                let taken = messages
                    .iter()
                    .filter(|ready| refused.binary_search(&ready.offset).is_err());
                for ready in taken {
                    let view = View::new(id, slot, slots, end, now, None);
                    match section {
                        // It may be what kept its key busy, and goes on doing so.
                        Section::Redrive { .. } if desk.keys.is_kept_by(ready.key, ready.origin) => {
                            desk.give_back(*ready);
                        }
                        Section::Redrive { .. } => desk.place(&view, *ready, 0),
                        _ if blocks => desk.free_key(slot, ready.key, ready.origin),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

impl Desk {
    /// A message was not as the engine saw it: it was cancelled, or carried. If it may still go out, that is asked when it is next.
    fn refused(&mut self, slot: &Slot, ready: &Ready, end: u64) {
        if slot.state(ready.offset, end) != MessageState::Done {
            self.give_back(*ready);
        } else if self.policy.is_keyed() {
            // One that was carried keeps its key busy from its new place.
            let is_it = |(_, origin): &(u64, &Origin)| origin.origin == ready.origin;
            if !slot.origins().any(|moved| is_it(&moved)) {
                self.free_key(slot, ready.key, ready.origin);
            }
        }
    }

    /// The change of a message is done.
    fn act_applied(&mut self, view: &View<'_>, act: &Act, change: Change) {
        let ready = &act.ready;
        match change {
            Change::Done(DoneCause::Acked) => self.outcome(view, false),
            Change::Retry { failed: true } => self.outcome(view, true),
            Change::Dead {
                reason: DeadReason::Attempts | DeadReason::Rejected,
                ..
            } => self.outcome(view, true),
            _ => {}
        }
        let monotonic_ms = view.now.monotonic_ms;
        match change {
            Change::Extend { duration_ms } => {
                return self
                    .out
                    .set_deadline(ready.offset, monotonic_ms.saturating_add(duration_ms));
            }
            Change::Retry { .. } => {
                let due = monotonic_ms.saturating_add(act.delay_ms);
                self.retries.insert((due, ready.offset));
            }
            Change::Release { .. } => self.give_back(*ready),
            // What becomes of it is said by the end of its transaction.
            Change::Stage(_) => {}
            Change::Done(_) => self.free_key(view.slot, ready.key, ready.origin),
            Change::Dead { .. } => {
                if self.policy.order != Order::ByKey(OnDead::Block) {
                    self.free_key(view.slot, ready.key, ready.origin);
                }
            }
        }
        self.take_back(ready.offset, true);
    }
}

/// The messages of acts that were refused, in ascending order.
fn refused_by(reply: &SectionReply, acts: &[Act]) -> Vec<u64> {
    match reply {
        SectionReply::Taken { refused } => refused.offsets().collect(),
        SectionReply::Opened(_) | SectionReply::Refused(_) => acts.iter().map(|act| act.ready.offset).collect(),
    }
}

/// What is known of the messages that an administrator's section names.
pub(super) fn named_by(section: &Section, slots: &Slots, end: u64) -> Vec<Ready> {
    let is_about_dead = match section {
        Section::Redrive { .. } => true,
        Section::Done { cause, .. } => *cause == DoneCause::Purged,
        _ => false,
    };
    let slot = section.slot().and_then(|id| slots.slot(id));
    if let (
        Section::Done {
            cause: DoneCause::Cancelled,
            messages,
            ..
        },
        Some(slot),
    ) = (section, slot)
    {
        let of_message = |offset| Desk::ready_of(slot, offset, slot.held(offset));
        return messages.offsets().map(of_message).collect();
    }
    let (true, Some(slot), Some(messages)) = (is_about_dead, slot, section.messages()) else {
        return Vec::new();
    };
    let of_message = |offset| match slot.state(offset, end) {
        MessageState::Held(held) if held.state == HeldState::Dead => Some(Desk::ready_of(slot, offset, Some(held))),
        _ => None,
    };
    messages.offsets().filter_map(of_message).collect()
}

impl From<Group> for Part {
    fn from(group: Group) -> Self {
        Self::Acts(group.slot, group.change, group.acts)
    }
}

impl Grant {
    /// The section, whose messages are in ascending order.
    pub(super) fn section(&self) -> Section {
        let mut sorted: Vec<&Ready> = self.messages.iter().collect();
        sorted.sort_unstable_by_key(|ready| ready.offset);
        let messages: Runs = sorted.iter().map(|ready| ready.offset).collect();
        Section::Grant {
            slot: self.slot,
            session: self.session,
            attempt: self.attempt,
            duration_ms: self.lease_ms,
            messages,
            keys: unless_all_are(0, sorted.iter().map(|ready| ready.key)),
            lanes: unless_all_are(0, sorted.iter().map(|ready| u32::from(ready.lane))),
        }
    }
}
