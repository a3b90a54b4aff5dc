//! The engine of a partition's queues, and what each input does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_machine::Now;

use crate::command::{Marks, Section};
use crate::engine::acts::{Act, Change};
use crate::engine::carrier::Carrier;
use crate::engine::consumers::{Asks, Consumer, Waiter};
use crate::engine::depth::{Amount, Scale};
use crate::engine::desk::{Desk, Ready};
use crate::engine::firing::Firing;
use crate::engine::io::{
    Answer, ConsumerId, Delivered, Input, Output, ReadId, RequestId, SettleItem, Settled, Settlement, Ticket,
};
use crate::engine::outs::PASSED;
use crate::engine::part::Part;
use crate::engine::policy::Policy;
use crate::ids::{LeaseId, SessionId, SlotId};
use crate::limits::SESSION_GRACE_MS;
use crate::reply::SectionReply;
use crate::state::{DoneCause, HeldState, MessageState, Slots};

/// After a step of the wall clock timers wait until it was steady for so long, milliseconds.
const STEADY_MS: u64 = 2_000;
/// They wait no longer than so long: a clock that never is steady must not keep them for ever.
const UNSTEADY_MS_MAX: u64 = 60_000;

/// Nobody waits for what becomes of it.
const NOBODY: RequestId = RequestId(u64::MAX);

/// What a look-up of rows is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    Batches,
    Timers,
    Lane(u8),
    Key(u64),
    Origin(Waiting),
    /// The time to live of a message that came back.
    Expiry(u64),
    /// Marks of what is to be carried.
    Carry,
}

/// A message to settle, and who waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub item: SettleItem,
    pub request: RequestId,
    pub place: usize,
}

/// A request to settle messages, some of which are under way.
#[derive(Debug)]
pub(super) struct Settling {
    pub results: Vec<Settled>,
    pub left: usize,
}

/// A receive that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    pub slot: SlotId,
    /// On the monotonic clock, milliseconds.
    pub until_ms: u64,
}

/// The leader's side of a partition's queues, for one term.
#[derive(Debug)]
pub struct Engine {
    pub(super) term: u64,
    pub(super) desks: BTreeMap<SlotId, Desk>,
    /// Which slot a stream is of.
    pub(super) streams: BTreeMap<ConsumerId, SlotId>,
    pub(super) receives: BTreeMap<RequestId, Receive>,
    /// The same, by when they are over.
    pub(super) waits: BTreeSet<(u64, RequestId)>,
    /// What the consumers of slots that were closed are told by the next step.
    pub(super) closed: Vec<Output>,
    /// Receives that were sent again, while a command about what they are answered with is under way.
    pub(super) asks: Vec<Asks>,
    pub(super) settling: BTreeMap<RequestId, Settling>,
    /// Changes for the next command.
    pub(super) acts: Vec<Act>,
    /// Messages that were appended again while a command about them was under way: where they are now. It is refused, and comes again.
    pub(super) carried_acts: BTreeMap<(SlotId, u64), u64>,
    /// Messages to settle of which a command is under way.
    pub(super) deferred: Vec<(SlotId, Waiting)>,
    pub(super) administered: Vec<(RequestId, Section)>,
    /// The commands under way: what each section is about.
    pub(super) under_way: BTreeMap<Ticket, Vec<Part>>,
    pub(super) reads: BTreeMap<ReadId, (SlotId, Read)>,
    pub(super) carrier: Carrier,
    pub(super) scale: Scale,
    pub(super) firing: Firing,
    pub(super) last_id: u64,
    /// What came out of inputs that were noted.
    pub(super) noted: Vec<Output>,
    /// When, on the monotonic clock.
    pub(super) noted_ms: u64,
    /// The end of the log when this began, and how many messages had been carried.
    pub(super) began_at: Option<(u64, u64)>,
    /// The end of all marks, as of the last step.
    pub(super) marks_end: u64,
    pub(super) hands_over: bool,
    /// The walk has stopped in the middle: the next step is due at once.
    pub(super) is_walking: bool,
    pub(super) unsteady_since: Option<u64>,
    /// When the last step was.
    pub(super) pumped: Now,
}

impl Engine {
    /// The engine of the leader of a term, over the slots as they are now. It hands out messages of the slots that it is given the
    /// settings of.
    pub fn begin(term: u64, slots: &Slots) -> Self {
        Self {
            term,
            desks: BTreeMap::new(),
            streams: BTreeMap::new(),
            receives: BTreeMap::new(),
            waits: BTreeSet::new(),
            closed: Vec::new(),
            asks: Vec::new(),
            settling: BTreeMap::new(),
            acts: Vec::new(),
            carried_acts: BTreeMap::new(),
            deferred: Vec::new(),
            administered: Vec::new(),
            under_way: BTreeMap::new(),
            reads: BTreeMap::new(),
            carrier: Carrier::default(),
            scale: Scale::default(),
            firing: Firing::default(),
            last_id: 0,
            noted: Vec::new(),
            noted_ms: 0,
            began_at: None,
            marks_end: slots.marks_end(),
            hands_over: false,
            is_walking: false,
            unsteady_since: None,
            pumped: Now {
                monotonic_ms: 0,
                wall_ms: 0,
                steady_since_ms: 0,
            },
        }
    }

    /// Numbers tickets from this number on: a host that begins a second engine in one term keeps them apart by it.
    pub fn count_from(&mut self, number: u64) {
        self.last_id = number;
    }

    /// Takes an input, and does what is possible now. `end` is the partition's next offset.
    pub fn step(&mut self, slots: &Slots, end: u64, input: Input, now: Now) -> Vec<Output> {
        let mut out = self.take_noted(now);
        self.begins_to_count(slots, end);
        let wall_ms = self.wall_ms(now);
        for desk in self.desks.values_mut() {
            (desk.marks_end, desk.wall_ms) = (slots.marks_end(), wall_ms);
        }
        self.take(slots, end, input, now, wall_ms, &mut out);
        self.marks_end = slots.marks_end();
        self.pump(slots, end, now, wall_ms, &mut out);
        out
    }

    /// The wall clock, while it is to be trusted.
    pub(super) fn wall_ms(&mut self, now: Now) -> Option<u64> {
        if now.monotonic_ms.saturating_sub(now.steady_since_ms) >= STEADY_MS {
            self.unsteady_since = None;
            return Some(now.wall_ms);
        }
        let since = *self.unsteady_since.get_or_insert(now.monotonic_ms);
        (now.monotonic_ms - since >= UNSTEADY_MS_MAX).then_some(now.wall_ms)
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn take(
        &mut self,
        slots: &Slots,
        end: u64,
        input: Input,
        now: Now,
        wall_ms: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        self.note_use(&input, now);
        match input {
            Input::Tick => {}
            Input::CutOff => self.cut_off(slots),
            Input::Configure { slot, policy } => self.configure(slots, end, slot, policy, now),
            Input::Appended { marks } => self.appended(marks),
            Input::Attach {
                consumer,
                slot,
                session,
                lease_ms,
                holds,
            } => self.attach(slots, (consumer, slot, session, lease_ms), &holds, now, out),
            Input::Credit { consumer, messages } => {
                if let Some(desk) = self.streams.get(&consumer).and_then(|slot| self.desks.get_mut(slot)) {
                    let add = |consumer: &mut Consumer| consumer.credit = consumer.credit.saturating_add(messages);
                    desk.consumers.change(Waiter::Stream(consumer), add);
                }
            }
            Input::Detach { consumer, orderly } => self.detach(slots, end, (consumer, orderly), now, out),
            Input::Receive {
                request,
                slot,
                session,
                attempt,
                call,
                messages,
                lease_ms,
                wait_ms,
            } => {
                let asks = Asks {
                    request,
                    slot,
                    consumer: Consumer::new(session, (attempt, call), lease_ms, messages),
                    until_ms: now.monotonic_ms.saturating_add(wait_ms),
                    gives_back: false,
                };
                self.receive(slots, asks, now, out);
            }
            Input::TakeBack {
                request,
                slot,
                session,
                attempt,
                call,
            } => {
                let asks = Asks {
                    request,
                    slot,
                    consumer: Consumer::new(session, (attempt, call), 0, 0),
                    until_ms: now.monotonic_ms,
                    gives_back: true,
                };
                self.receive(slots, asks, now, out);
            }
            Input::CancelReceive { request } => {
                self.asks.retain(|asks| asks.request != request);
                self.end_receive(request);
            }
            Input::Undelivered { slot, to, messages } => {
                let change = Change::Release { unseen: true };
                self.unseen(slots, end, (slot, to, change), &messages);
            }
            Input::Void { slot, to, messages } => {
                let change = Change::Done(DoneCause::Void);
                self.unseen(slots, end, (slot, to, change), &messages);
            }
            Input::Ended(ended) => self.transaction_ended(slots, end, &ended, now),
            Input::Settle { request, slot, items } => {
                self.settle(slots, end, request, slot, &items, out);
            }
            Input::Administer { request, section } => self.administer(request, section, out),
            Input::Rows { read, rows } => self.rows(slots, end, read, rows, now, wall_ms, out),
            Input::Applied { ticket, reply } => self.applied(slots, end, ticket, reply, now, out),
            Input::LogSizes {
                start,
                parts,
                written_bytes,
            } => self.measured(slots, end, start, &parts, written_bytes),
            Input::Sent {
                slot,
                messages,
                bytes,
                is_appended,
            } => self.sent(slot, Amount { messages, bytes }, is_appended),
            Input::Producer { .. } | Input::Forwarded { .. } => {
                self.forward_input(&input, now.monotonic_ms, now.wall_ms);
            }
            Input::Scheduled { key, is_applied } => self.scheduled(slots, key, is_applied, now),
            Input::CarryBuilt { bytes } => self.carry_built(bytes),
            Input::Carried { moves } => {
                out.iter_mut().for_each(|output| output.carried(&moves));
                self.acts_carried(slots, end, &moves);
                self.carried(slots, end, &moves, now, wall_ms);
                self.carry_ended(moves.last().map(|(old, _)| *old));
            }
            Input::HandOver => {
                self.hands_over = true;
                let asks = std::mem::take(&mut self.asks);
                let asks = asks.into_iter().map(|asks| asks.request);
                let receives: Vec<RequestId> = self.receives.keys().copied().chain(asks).collect();
                for request in receives {
                    self.end_receive(request);
                    let answer = Answer::Moved;
                    out.push(Output::Answer { request, answer });
                }
                out.extend(
                    self.streams
                        .keys()
                        .map(|consumer| Output::Moved { consumer: *consumer }),
                );
            }
        }
    }

    /// Takes a section for a command. One that no replica could read again names messages that are not there.
    fn administer(&mut self, request: RequestId, section: Section, out: &mut Vec<Output>) {
        match section.messages().filter(|messages| !messages.are_readable()) {
            None => self.administered.push((request, section)),
            Some(messages) => {
                let refused = messages.clone();
                let answer = Answer::Administered(SectionReply::Taken { refused });
                out.push(Output::Answer { request, answer });
            }
        }
    }

    fn configure(&mut self, slots: &Slots, end: u64, id: SlotId, policy: Policy, now: Now) {
        let Some(slot) = slots.slot(id) else { return };
        match self.desks.get_mut(&id) {
            // What the settings decide about each message was decided with the old ones; begin anew with these.
            Some(desk) if desk.policy != policy => {
                desk.used(now.monotonic_ms);
                self.restart(slots, end, id, policy, now);
            }
            Some(_) => {}
            None => {
                self.desks.insert(id, Desk::begin(policy, (slots, slot, end), &[], now));
            }
        }
    }

    /// Begins a desk anew, with the consumers that are there.
    pub(super) fn restart(&mut self, slots: &Slots, end: u64, id: SlotId, policy: Policy, now: Now) {
        let Some(old) = self.desks.remove(&id) else { return };
        self.reads
            .retain(|_, (slot, read)| *slot != id || matches!(read, Read::Origin(_) | Read::Carry));
        let Some(slot) = slots.slot(id) else {
            for (waiter, _) in old.consumers.iter() {
                match waiter {
                    Waiter::Stream(consumer) => {
                        self.streams.remove(&consumer);
                        self.closed.push(Output::Moved { consumer });
                    }
                    Waiter::Once(request) => {
                        self.end_wait(request);
                        let answer = Answer::UnknownSlot;
                        self.closed.push(Output::Answer { request, answer });
                    }
                }
            }
            return;
        };
        let mut desk = Desk::begin(policy, (slots, slot, end), &self.on_their_way(id), now);
        desk.busy = old.busy;
        desk.carrying = old.carrying;
        desk.sending = old.sending;
        desk.breaker = old.breaker;
        let moving = std::mem::take(&mut desk.forwarder.moving);
        desk.forwarder = old.forwarder;
        desk.forwarder.moving = moving;
        desk.purging = old.purging;
        (desk.used_at_ms, desk.is_told_unused) = (old.used_at_ms, old.is_told_unused);
        desk.tally = old.tally;
        desk.consumers = old.consumers;
        for (attempt, before) in old.attempts {
            if let Some(granted) = desk
                .attempts
                .get_mut(&attempt)
                .filter(|granted| granted.lease == before.lease)
            {
                granted.call = before.call;
            }
        }
        let waiters: Vec<Waiter> = desk.consumers.iter().map(|(waiter, _)| waiter).collect();
        let alone = desk.consumers.iter().filter(|(_, consumer)| consumer.is_alone);
        let alone: Vec<Waiter> = alone.map(|(waiter, _)| waiter).collect();
        for waiter in waiters {
            let grants = self.under_way.values().flatten().map(|part| match part {
                Part::Grant(grant) if grant.waiter == waiter => grant.messages.len() as u32,
                _ => 0,
            });
            let under_way = grants.sum();
            desk.consumers.change(waiter, |consumer| consumer.in_flight = under_way);
        }
        // Whose messages they are, and until when, is as it was.
        for (offset, before) in old.out.iter() {
            let Some(out) = desk.out.get(offset) else { continue };
            if before.deadline != PASSED {
                desk.out.set_deadline(offset, before.deadline);
            }
            // All that was granted together is handed over with its first message.
            if let Some(waiter) = before
                .waiter
                .filter(|_| before.session == out.session && out.waiter.is_none())
            {
                desk.hand_to(offset, waiter);
            }
        }
        for waiter in alone {
            desk.consumers.change(waiter, |consumer| consumer.is_alone = true);
        }
        for (session, before) in old.sessions {
            if before.lost.is_some() {
                desk.lose(session, before.lost);
            }
        }
        self.desks.insert(id, desk);
    }

    /// Messages of a slot that a command under way, or the next one, is about.
    fn on_their_way(&self, id: SlotId) -> Vec<Ready> {
        let of_part = |part: &Part| match part {
            Part::Grant(grant) if grant.slot == id => grant.messages.clone(),
            Part::Acts(slot, _, acts) if *slot == id => acts.iter().map(|act| act.ready).collect(),
            _ => Vec::new(),
        };
        let acts = self.acts.iter().filter(|act| act.slot == id).map(|act| act.ready);
        self.under_way
            .values()
            .flatten()
            .flat_map(of_part)
            .chain(acts)
            .collect()
    }

    fn appended(&mut self, marks: Option<(u64, Marks)>) {
        let Some((base, marks)) = marks else { return };
        // There may be a thousand desks.
        let marks = Arc::new(marks);
        let before = self.marks_end;
        for desk in self.desks.values_mut() {
            desk.ahead.appended(before, base, &marks);
            for (at, mark) in marks.0.iter().enumerate().filter(|(_, mark)| mark.lane > 0) {
                if let Some(lane) = desk.lanes.get_mut(&mark.lane) {
                    lane.appended(base + at as u64, mark);
                }
            }
        }
    }

    fn attach(
        &mut self,
        slots: &Slots,
        (consumer, id, session, lease_ms): (ConsumerId, SlotId, SessionId, u64),
        holds: &[(u64, LeaseId)],
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) else {
            return out.push(Output::Moved { consumer });
        };
        if self.hands_over {
            return out.push(Output::Moved { consumer });
        }
        self.streams.insert(consumer, id);
        let waiter = Waiter::Stream(consumer);
        desk.consumers
            .insert(waiter, Consumer::new(session, Default::default(), lease_ms, 0));
        // What the session has goes on with this stream. What it did not get, as its predecessor broke, is sent again.
        let mut again = Vec::new();
        let holds = holds.iter().map(|(offset, lease)| (slot.place(*offset), *lease));
        let holds: BTreeSet<(u64, LeaseId)> = holds.collect();
        desk.hand_all_to(session, waiter);
        for offset in desk.of_session(session) {
            if desk.busy.contains(&offset) {
                continue;
            }
            if let Some(held) = slot.held(offset)
                && held.state == HeldState::Leased
                && !holds.contains(&(offset, held.lease))
            {
                again.push(Delivered {
                    offset,
                    lease: held.lease,
                    failures: held.failures,
                    deliveries: held.deliveries,
                    lease_left_ms: left(desk.out.get(offset).map_or(PASSED, |out| out.deadline), now),
                });
            }
        }
        desk.lose(session, None);
        out.push(Output::Attached {
            consumer,
            messages: again,
        });
    }

    fn detach(
        &mut self,
        slots: &Slots,
        end: u64,
        (consumer, orderly): (ConsumerId, bool),
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let Some(id) = self.streams.remove(&consumer) else {
            return;
        };
        let is_its = |output: &Output| match output {
            Output::Attached { consumer: to, .. } | Output::Deliver { consumer: to, .. } => *to == consumer,
            _ => false,
        };
        self.give_up_noted(slots, end, id, out, is_its);
        let Some(desk) = self.desks.get_mut(&id) else { return };
        let waiter = Waiter::Stream(consumer);
        let Some(gone) = desk.consumers.remove(waiter) else {
            return;
        };
        if !orderly {
            return desk.lose(gone.session, Some((consumer, now.monotonic_ms + SESSION_GRACE_MS)));
        }
        let has = |offset: &u64| desk.out.get(*offset).is_some_and(|out| out.waiter == Some(waiter));
        let theirs: Vec<u64> = desk.of_session(gone.session).into_iter().filter(has).collect();
        // What becomes of a message by a command that is under way comes first.
        let lease_of = |offset: &u64| {
            let held = slots.slot(id)?.held(*offset)?;
            Some((*offset, held.lease))
        };
        let is_busy = |offset: &&u64| desk.busy.contains(*offset);
        let busy: Vec<(u64, LeaseId)> = theirs.iter().filter(is_busy).filter_map(lease_of).collect();
        for offset in theirs {
            self.give_up(slots, end, id, offset, Change::Release { unseen: false });
        }
        for (offset, lease) in busy {
            let item = SettleItem {
                offset,
                lease,
                settlement: Settlement::Release,
            };
            let (request, place) = (NOBODY, 0);
            self.deferred.push((id, Waiting { item, request, place }));
        }
    }

    /// A message that is leased is to be another way, without anybody who waits for it.
    pub(super) fn give_up(&mut self, slots: &Slots, end: u64, id: SlotId, offset: u64, change: Change) {
        let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) else {
            return;
        };
        let offset = slot.place(offset);
        let MessageState::Held(held) = slot.state(offset, end) else {
            return;
        };
        if held.state != HeldState::Leased || !desk.busy.insert(offset) {
            return;
        }
        let ready = Desk::ready_of(slot, offset, Some(held));
        desk.withhold(&ready);
        self.acts.push(Act {
            slot: id,
            ready,
            change,
            delay_ms: 0,
            waits: None,
        });
    }
}

/// What is left of a lease, milliseconds.
pub(super) fn left(deadline: u64, now: Now) -> u64 {
    match deadline {
        PASSED => 0,
        deadline => deadline.saturating_sub(now.monotonic_ms),
    }
}
