//! What is due, the rows that are needed, and the next command.

use std::collections::BTreeMap;

use jangada_machine::Now;
use jangada_types::planted::{self, Bug};

use crate::command::{QueueOps, Section};
use crate::engine::acts::{ACT_BYTES, ACTS_MAX, Act, Change, grouped};
use crate::engine::applied::named_by;
use crate::engine::consumers::Waiter;
use crate::engine::depth::{Scale, decided_depth};
use crate::engine::desk::{Desk, Ready};
use crate::engine::io::{Output, ReadId, RequestId, RowsWanted, Ticket};
use crate::engine::part::{Grant, Part};
use crate::engine::policy::{Expired, Policy};
use crate::engine::settle::failure;
use crate::engine::step::{Engine, Read};
use crate::engine::walk::{Head, Source, View};
use crate::ids::SlotId;
use crate::limits::{OPS_BYTES, OPS_UNDER_WAY_MAX, SPAN_MAX, TIMER_WINDOW, TURN_MESSAGES};
use crate::state::{DeadReason, DoneCause, Held, HeldState, MessageState, Slots};

/// Receives whose leases are over are forgotten when there are more than so many, or twice those whose leases are not.
const ATTEMPTS_KEPT: usize = 64;
/// Rows of a look-up.
const ROWS: usize = 256;
/// Rows of a look-up of timers.
const TIMER_ROWS: usize = TIMER_WINDOW / 2;
/// What a message takes in a grant, bytes, at most: its run, key and lane.
const GRANT_BYTES: usize = 16;
/// Messages of one step that expire, or go because the queue is full.
const EXPIRE_MAX: usize = 1_000;
/// Retries of a slot that was taken over which one step puts into their order.
const RETRIES_OF_STEP: usize = 32_768;
/// Whoever waits for a time on the wall clock looks at it so often, milliseconds: it may be stepped meanwhile.
const WALL_ASK_MS: u64 = 1_000;
/// While the wall clock is not steady, timers ask again after so long, milliseconds.
const UNSTEADY_ASK_MS: u64 = 100;

/// A receive whose time is over waits so much longer for messages that could not be granted yet, milliseconds.
const UNCLEAR_WAIT_MS: u64 = 500;

impl Engine {
    /// When the next step is due at the latest, on the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let Now {
            monotonic_ms, wall_ms, ..
        } = self.pumped;
        if self.is_walking {
            return Some(monotonic_ms);
        }
        // What was due at the last step was done then, as far as it could be; what could not waits for another input.
        let is_later = |at: &u64| *at > monotonic_ms;
        let ask_ms = match self.unsteady_since {
            Some(_) => UNSTEADY_ASK_MS,
            None => WALL_ASK_MS,
        };
        let latest = monotonic_ms + ask_ms;
        let of_wall = |at_ms: u64| match at_ms.checked_sub(wall_ms).filter(|left| *left > 0) {
            Some(left) if self.unsteady_since.is_none() => latest.min(monotonic_ms.saturating_add(left)),
            _ => latest,
        };
        let of_desk = |desk: &Desk| {
            let lost = desk.lost.first().map(|(at, _)| *at);
            let held_back = Some(desk.held_back_until).filter(|until| *until > monotonic_ms);
            let times = [
                desk.out.next_ms(),
                desk.retries.first().map(|(at, _)| *at),
                desk.timers.next_ms().map(of_wall),
                desk.head_at_ms.map(of_wall),
                lost,
                held_back,
                desk.breaker.next_ms(),
                desk.elsewhere.due_ms(),
                desk.forwarder.next_ms(),
                desk.sweep_at_ms,
                desk.unused_at_ms(),
            ];
            times.into_iter().flatten().filter(is_later).min()
        };
        let desks = self.desks.values().filter_map(of_desk);
        let later = (monotonic_ms.saturating_add(1), RequestId(0));
        let waits = self.waits.range(later..).next().map(|(until_ms, _)| *until_ms);
        // While the wall clock is not steady, one that is due by it waits, too.
        let fires = match self.unsteady_since {
            Some(_) => self.firing.is_awaited().then_some(latest),
            None => self.firing.next_wall_ms(wall_ms).map(of_wall),
        };
        let fires = fires.into_iter().chain(self.firing.next_ms());
        desks.chain(waits).chain(fires).filter(is_later).min()
    }

    pub(super) fn pump(&mut self, slots: &Slots, end: u64, now: Now, wall_ms: Option<u64>, out: &mut Vec<Output>) {
        self.is_walking = false;
        self.pumped = now;
        out.append(&mut self.closed);
        let ids: Vec<SlotId> = self.desks.keys().copied().collect();
        for id in &ids {
            let Some(slot) = slots.slot(*id) else { continue };
            let view = View::new(*id, slot, slots, end, now, wall_ms);
            let desk = self.desks.get_mut(id).expect("its number was listed");
            desk.due(&view, &mut self.acts);
            self.is_walking |= !desk.retries_left.is_empty();
            if !self.hands_over {
                self.is_walking |= desk.expire(&view, self.scale, &mut self.acts);
                self.is_walking |= desk.sweep(&view, &mut self.acts);
                desk.tell_unused(&view, out);
                desk.forward(&view, out);
            }
        }
        self.fire(slots, now, wall_ms, out);
        self.plan_carry(slots, end, now, wall_ms, out);
        while self.under_way.len() < OPS_UNDER_WAY_MAX {
            if !self.propose(slots, end, now, wall_ms, out) {
                break;
            }
        }
        for id in &ids {
            self.look_up(slots, *id, out);
        }
        self.end_waits(slots, now, out);
    }

    /// Answers the receives whose time is over. A moment later while messages may be there that could not be granted yet; under load
    /// that is always so.
    fn end_waits(&mut self, slots: &Slots, now: Now, out: &mut Vec<Output>) {
        let is_unclear = self.under_way.len() == OPS_UNDER_WAY_MAX || self.is_walking;
        let waits_more_ms = if is_unclear { UNCLEAR_WAIT_MS } else { 0 };
        let looks = |slot: SlotId| {
            let is_carried = self.desks.get(&slot).is_some_and(|desk| !desk.carrying.is_empty());
            let mut of_slot = self.reads.values().filter(|(known, _)| *known == slot);
            is_carried
                || of_slot
                    .any(|(_, read)| matches!(read, Read::Batches | Read::Lane(_) | Read::Key(_) | Read::Expiry(_)))
        };
        let over = self
            .waits
            .iter()
            .take_while(|(until_ms, _)| until_ms.saturating_add(waits_more_ms) <= now.monotonic_ms);
        let over = over.map(|(_, request)| *request);
        let over: Vec<RequestId> = over.filter(|request| !looks(self.receives[request].slot)).collect();
        for request in over {
            // One whose grant is under way gets that.
            let waits = |part: &Part| matches!(part, Part::Grant(grant) if grant.waiter == Waiter::Once(request));
            if self.under_way.values().flatten().any(waits) {
                continue;
            }
            let answer = self.without_messages(slots, request);
            self.end_receive(request);
            out.push(Output::Answer { request, answer });
        }
    }

    /// Proposes the next command, if there is anything to say.
    fn propose(&mut self, slots: &Slots, end: u64, now: Now, wall_ms: Option<u64>, out: &mut Vec<Output>) -> bool {
        let mut parts: Vec<Part> = Vec::new();
        let mut sections = Vec::new();
        let mut bytes = 0;
        let fits = |(_, section): &&(RequestId, Section)| {
            let has_room = bytes < OPS_BYTES;
            bytes += GRANT_BYTES * (1 + section.messages().map_or(0, |messages| messages.runs().len()));
            has_room
        };
        let fit = self.administered.iter().take_while(fits).count();
        for (request, section) in self.administered.drain(..fit).collect::<Vec<_>>() {
            let named = named_by(&section, slots, end);
            sections.push(section.clone());
            parts.push(Part::Administered(request, section, named));
        }
        let most = (OPS_BYTES / ACT_BYTES).min(self.acts.len());
        let acts: Vec<Act> = self.acts.drain(..most).collect();
        let mut room = OPS_BYTES.saturating_sub(acts.len() * ACT_BYTES) / GRANT_BYTES;
        for group in grouped(acts) {
            sections.push(group.section());
            parts.push(group.into());
        }
        if !self.hands_over {
            let ids: Vec<SlotId> = self.desks.keys().copied().collect();
            for id in ids {
                let Some(slot) = slots.slot(id) else { continue };
                let view = View::new(id, slot, slots, end, now, wall_ms);
                let desk = self.desks.get_mut(&id).expect("its number was listed");
                if let Some(section) = desk.forward_section(&view) {
                    parts.push(Part::Forward(section.clone(), desk.moving(slot)));
                    sections.push(section);
                }
                let (grants, pauses) = desk.grants(&view, &mut room, &mut self.acts);
                self.is_walking |= pauses;
                for grant in grants {
                    if planted::is(Bug::LeaseBeforeApplied) {
                        out.extend(grant.unapplied());
                    }
                    sections.push(grant.section());
                    parts.push(Part::Grant(grant));
                }
            }
        }
        self.tell_elsewhere(&mut parts, &mut sections, room, now);
        if sections.is_empty() {
            // What must not go out was found while granting, and is the next command.
            return !self.acts.is_empty();
        }
        let ticket = Ticket(self.next_id());
        self.under_way.insert(ticket, parts);
        let ops = QueueOps {
            term: self.term,
            now_ms: now.wall_ms,
            ticket: ticket.0,
            sections,
        };
        out.push(Output::Propose { ticket, ops });
        true
    }

    /// Asks for the rows that a slot needs.
    fn look_up(&mut self, slots: &Slots, id: SlotId, out: &mut Vec<Output>) {
        let desk = self.desks.get_mut(&id).expect("its number was listed");
        let has_demand = desk.consumers.iter().any(|(_, consumer)| consumer.credit > 0);
        let looks = has_demand || desk.policy.expired.is_some() || !desk.policy.has_lanes;
        let mut wanted = Vec::new();
        for (key, after) in std::mem::take(&mut desk.seeks) {
            let limit = ROWS;
            wanted.push((Read::Key(key), RowsWanted::Key { key, after, limit }));
        }
        while let Some(offset) = desk.expiries.wants() {
            let (from, limit) = (offset, 1);
            wanted.push((Read::Expiry(offset), RowsWanted::Batches { from, limit }));
        }
        // Those that the walk comes to are rows, too: they are looked up when it has come to a message that may go out, or to the end.
        if !(desk.timers.is_unread() && desk.walks)
            && let Some(after) = desk.timers.wants(slots.marks_end())
        {
            let limit = TIMER_ROWS;
            wanted.push((Read::Timers, RowsWanted::Timers { after, limit }));
        }
        for (number, lane) in desk.lanes.iter_mut().filter(|_| looks) {
            if let Some(from) = lane.wants() {
                let (lane, limit) = (*number, ROWS);
                wanted.push((Read::Lane(lane), RowsWanted::Lane { lane, from, limit }));
            }
        }
        let is_blind = desk.ahead.known_to() < slots.marks_end() && desk.cursor >= desk.ahead.known_to();
        if looks && is_blind && !desk.ahead.reads() {
            let (from, limit) = (desk.cursor, desk.ahead.look_up(slots.marks_end()));
            wanted.push((Read::Batches, RowsWanted::Batches { from, limit }));
        }
        for (purpose, wanted) in wanted {
            let read = ReadId(self.next_id());
            self.reads.insert(read, (id, purpose));
            out.push(Output::Read { read, wanted });
        }
    }
}

impl Desk {
    /// What is due by now: leases that have run out, retries, timers, sessions that did not come back.
    fn due(&mut self, view: &View<'_>, acts: &mut Vec<Act>) {
        let monotonic_ms = view.now.monotonic_ms;
        if self.attempts.len() > self.attempts_max {
            self.attempts.retain(|_, known| view.slot.lease(known.lease).is_some());
            self.attempts_max = ATTEMPTS_KEPT.max(2 * self.attempts.len());
        }
        for offset in self.out.run_out_by(monotonic_ms) {
            if let Some(held) = held_at(view, offset, HeldState::Leased) {
                self.ran_out(view, offset, held, acts);
            }
        }
        self.take_retries(RETRIES_OF_STEP);
        while let Some((at, offset)) = self.retries.first().copied().filter(|(at, _)| *at <= monotonic_ms) {
            self.retries.remove(&(at, offset));
            if let Some(held) = held_at(view, offset, HeldState::Waiting) {
                self.give_back(Self::ready_of(view.slot, offset, Some(held)));
            }
        }
        while let Some(wall_ms) = view.wall_ms.filter(|_| self.returned.len() < TIMER_WINDOW)
            && let Some((offset, due)) = self.timers.pop_due(wall_ms)
        {
            if view.state(offset) != MessageState::Free || self.busy.contains(&offset) || self.elsewhere.has(offset) {
                continue;
            }
            let carried = view.slot.carried(offset);
            let ready = Ready {
                offset,
                origin: view.slot.origin(offset),
                key: carried.map_or(due.key, |origin| origin.key),
                lane: due.lane,
                expires_at_ms: due.expires_at_ms,
            };
            if self.is_returned(ready.origin, ready.lane) {
                continue;
            }
            let has_key = self.policy.is_keyed() && ready.key != 0;
            if has_key && self.keys.is_kept_by(ready.key, ready.origin) {
                // While rows are looked up for what is next, what kept the key busy before is named still.
                if !self.keys.seeks(ready.key) {
                    self.put_back(ready);
                }
            } else if !has_key {
                // Its timer says what its time to live is.
                self.put_back(ready);
            } else if !self.keys.is_busy(ready.key) {
                // One whose key is busy is found when the key is free.
                self.place(view, ready, 0);
            }
        }
        while let Some((at, session)) = self.lost.first().copied().filter(|(at, _)| *at <= monotonic_ms) {
            self.lost.remove(&(at, session));
            let lost = self.sessions.get(&session).and_then(|known| known.lost);
            let waiter = lost.map(|(consumer, _)| Waiter::Stream(consumer));
            for offset in self.of_session(session) {
                if self.out.get(offset).is_some_and(|out| out.waiter == waiter)
                    && let Some(held) = held_at(view, offset, HeldState::Leased)
                {
                    let (change, delay_ms) = failure(&self.policy, held, offset, None);
                    self.change(view, offset, held, change, delay_ms, acts);
                }
            }
            self.lose(session, None);
        }
    }

    /// What became of a message that was out.
    pub(super) fn outcome(&mut self, view: &View<'_>, has_failed: bool) {
        if self.policy.has_breaker {
            self.breaker.outcome(has_failed, view.slot.counts().waiting, view.now);
        }
    }

    /// A lease has run out: its message goes out again, or is dead.
    fn ran_out(&mut self, view: &View<'_>, offset: u64, held: &Held, acts: &mut Vec<Act>) {
        match failure(&self.policy, held, offset, None).0 {
            dead @ Change::Dead { .. } => self.change(view, offset, held, dead, 0, acts),
            _ if self.busy.contains(&offset) => {}
            _ => {
                self.outcome(view, true);
                self.give_back(Self::ready_of(view.slot, offset, Some(held)));
            }
        }
    }

    pub(super) fn change(
        &mut self,
        view: &View<'_>,
        offset: u64,
        held: &Held,
        change: Change,
        delay_ms: u64,
        acts: &mut Vec<Act>,
    ) {
        if !self.busy.insert(offset) {
            return;
        }
        let ready = Self::ready_of(view.slot, offset, Some(held));
        self.withhold(&ready);
        acts.push(Act {
            slot: view.id,
            ready,
            change,
            delay_ms,
            waits: None,
        });
    }

    /// What the message that is next becomes instead of going out, if it must not.
    pub(super) fn verdict(&self, view: &View<'_>, ready: &Ready) -> Option<Change> {
        let held = match view.state(ready.offset) {
            MessageState::Held(held) => Some(held),
            _ => None,
        };
        // It may have been a dead letter for that before.
        let has_ttl = ready.expires_at_ms != 0 && held.is_none_or(|held| held.reason.is_none());
        let is_over = has_ttl && view.wall_ms.is_some_and(|wall_ms| ready.expires_at_ms <= wall_ms);
        let is_leased = held.is_some_and(|held| held.state == HeldState::Leased);
        match self.policy.expired {
            Some(Expired::Drop) if is_over => return Some(Change::Done(DoneCause::Expired)),
            Some(Expired::Dead) if is_over => {
                let reason = DeadReason::Expired;
                return Some(Change::Dead { reason, failed: false });
            }
            _ => {}
        }
        let (failures, deliveries) = attempts(held);
        self.policy.is_spent(failures, deliveries).then_some(Change::Dead {
            reason: DeadReason::Attempts,
            failed: is_leased,
        })
    }

    fn dispose(&mut self, view: &View<'_>, source: Source, ready: Ready, change: Change, acts: &mut Vec<Act>) {
        self.take(source, &ready);
        self.turn_into(view, ready, change, acts);
    }

    /// A message becomes something else by the next command, and nobody waits for that.
    pub(super) fn turn_into(&mut self, view: &View<'_>, ready: Ready, change: Change, acts: &mut Vec<Act>) {
        self.busy.insert(ready.offset);
        acts.push(Act {
            slot: view.id,
            ready,
            change,
            delay_ms: 0,
            waits: None,
        });
    }

    /// Messages that nobody asks for expire all the same, and go when the queue is full. Says whether the walk has to go on.
    fn expire(&mut self, view: &View<'_>, scale: Scale, acts: &mut Vec<Act>) -> bool {
        let mut walked = 0;
        // What commands under way are about may be gone with them.
        let stays = decided_depth(view.slot, (view.stable, view.end)).saturating_sub(self.busy.len() as u64);
        let mut over = scale.over(&self.policy, stays);
        if over == 0 && self.policy.expired.is_none() {
            // What is not due is passed and counted, though nobody asks.
            return self.cursor < view.slots.marks_end()
                && !self.policy.has_lanes
                && self.head(view, &mut walked) == Head::Pause;
        }
        self.expire_alone(view, acts);
        for _ in 0..EXPIRE_MAX {
            if acts.len() >= ACTS_MAX {
                // The next command is under way by then.
                return false;
            }
            let (source, ready) = match self.head(view, &mut walked) {
                Head::Ready(source, ready) => (source, ready),
                Head::Pause => return true,
                Head::Empty | Head::Rows => return false,
            };
            let held = matches!(view.state(ready.offset), MessageState::Held(held) if held.state == HeldState::Leased);
            let change = match self.verdict(view, &ready) {
                Some(change) => change,
                None if over > 0 && !held => {
                    over -= 1;
                    let reason = DeadReason::Length;
                    Change::Dead { reason, failed: false }
                }
                None => return false,
            };
            self.dispose(view, source, ready, change, acts);
        }
        true
    }

    /// Grants for the consumers that wait, as far as there is room for messages in the command. Says whether the walk has to go on.
    fn grants(&mut self, view: &View<'_>, room: &mut usize, acts: &mut Vec<Act>) -> (Vec<Grant>, bool) {
        let mut grants: Vec<Grant> = Vec::new();
        let (mut walked, mut pauses) = (0, false);
        if self.policy.is_paused || view.now.monotonic_ms < self.held_back_until {
            return (grants, false);
        }
        let free = self.policy.in_flight_max.saturating_sub(self.in_flight(view.slot));
        let most = (*room as u64).min(free) as u32;
        let mut left = most.min(self.breaker.allowed(view.now.monotonic_ms));
        let begun = left;
        self.grant_alone(view, &mut left, &mut grants);
        // Where the grant of each is that is not of a message alone.
        let mut of_waiter: BTreeMap<Waiter, usize> = BTreeMap::new();
        while left > 0 {
            let Some(waiter) = self.consumers.next(|consumer| self.has_room(consumer)) else {
                break;
            };
            let consumer = self.consumers.get(waiter).expect("it waits");
            let most = consumer.credit.min(TURN_MESSAGES).min(left);
            let mut grant = Grant::to((waiter, consumer), view.id, Vec::new());
            let (messages, blocked) = self.turn(view, most, &mut walked, acts);
            let given = messages.len() as u32;
            left -= given;
            if given > 0 {
                self.consumers.served(waiter, given);
                match of_waiter.get(&waiter) {
                    Some(at) => grants[*at].messages.extend(messages),
                    None => {
                        of_waiter.insert(waiter, grants.len());
                        grant.messages = messages;
                        grants.push(grant);
                    }
                }
            }
            if let Some(head) = blocked {
                pauses = head == Head::Pause;
                break;
            }
        }
        self.grant_alone(view, &mut left, &mut grants);
        *room -= (begun - left) as usize;
        self.breaker.sent(begun - left, view.now.monotonic_ms);
        // A receive is answered with what it gets first.
        for grant in &grants {
            if let Waiter::Once(_) = grant.waiter {
                self.consumers.change(grant.waiter, |consumer| consumer.credit = 0);
            }
        }
        (grants, pauses)
    }

    /// The next messages for one consumer; and why there are no more, if there are none.
    fn turn(
        &mut self,
        view: &View<'_>,
        most: u32,
        walked: &mut u32,
        acts: &mut Vec<Act>,
    ) -> (Vec<Ready>, Option<Head>) {
        let mut messages = Vec::new();
        while messages.len() < most as usize {
            let (source, ready) = match self.head(view, walked) {
                Head::Ready(source, ready) => (source, ready),
                blocked => return (messages, Some(blocked)),
            };
            if let Some(change) = self.verdict(view, &ready) {
                if acts.len() >= ACTS_MAX {
                    return (messages, Some(Head::Empty));
                }
                self.dispose(view, source, ready, change, acts);
                continue;
            }
            if ready.offset.saturating_sub(view.slot.floor()) >= SPAN_MAX {
                // Its grant would be refused. It goes out when what is stuck at the floor is done.
                return (messages, Some(Head::Empty));
            }
            self.take(source, &ready);
            if is_last(&self.policy, view, &ready) {
                self.alone.insert(ready.origin, ready);
                continue;
            }
            self.count_share();
            self.busy.insert(ready.offset);
            if self.policy.expired.is_some() {
                self.expiries.learn(ready.offset, ready.expires_at_ms);
            }
            messages.push(ready);
        }
        (messages, None)
    }

    /// Messages that go out for the last time go to consumers that have nothing else.
    fn grant_alone(&mut self, view: &View<'_>, left: &mut u32, grants: &mut Vec<Grant>) {
        while let Some((origin, ready)) = self.first_alone(view)
            && *left > 0
            && !self.carrying.contains(&ready.offset)
        {
            let Some(waiter) = self.consumers.next_alone() else {
                return;
            };
            self.alone.remove(&origin);
            let consumer = self.consumers.get(waiter).expect("it waits");
            grants.push(Grant::to((waiter, consumer), view.id, vec![ready]));
            self.busy.insert(ready.offset);
            *left -= 1;
            self.consumers.served(waiter, 1);
            // It gets nothing else until this one is settled.
            self.consumers.change(waiter, |consumer| consumer.is_alone = true);
        }
        if self.alone.is_empty() {
            self.consumers.stop_draining();
        }
    }

    /// The first message that goes out alone, if it still goes out.
    fn first_alone(&mut self, view: &View<'_>) -> Option<(u64, Ready)> {
        loop {
            let (origin, ready) = self.alone.first_key_value().map(|(origin, ready)| (*origin, *ready))?;
            if self.is_ready(view, &ready) {
                return Some((origin, ready));
            }
        }
    }
}

fn held_at<'a>(view: &View<'a>, offset: u64, state: HeldState) -> Option<&'a Held> {
    view.slot.held(offset).filter(|held| held.state == state)
}

/// How often a message has failed, and was delivered: a lease that has run out is a failure that no command has counted yet.
fn attempts(held: Option<&Held>) -> (u16, u16) {
    held.map_or((0, 0), |held| {
        let ran_out = u16::from(held.state == HeldState::Leased);
        (held.failures.saturating_add(ran_out), held.deliveries)
    })
}

fn is_last(policy: &Policy, view: &View<'_>, ready: &Ready) -> bool {
    let held = match view.state(ready.offset) {
        MessageState::Held(held) => Some(held),
        _ => None,
    };
    let (failures, deliveries) = attempts(held);
    policy.is_last(failures, deliveries)
}
