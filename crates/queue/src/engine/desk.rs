//! What the leader knows of one slot beside what is replicated.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jangada_machine::Now;
use jangada_types::planted::{self, Bug};

use crate::engine::ahead::MarksAhead;
use crate::engine::breaker::Breaker;
use crate::engine::consumers::{Consumers, Granted, Waiter};
use crate::engine::depth::Amount;
use crate::engine::elsewhere::Elsewhere;
use crate::engine::expiries::Expiries;
use crate::engine::forwarder::Forwarder;
use crate::engine::io::ConsumerId;
use crate::engine::keys::{Keys, Next, Place};
use crate::engine::lanes::Lane;
use crate::engine::outs::{GrantId, Outs, PASSED};
use crate::engine::policy::{OnDead, Order, Policy};
use crate::engine::tally::Tally;
use crate::engine::timers::{Due, Timers};
use crate::ids::{AttemptId, CallId, LeaseId, SessionId};
use crate::limits::{LANES, LEASE_MS_AFTER_FAILOVER, LEASE_MS_MAX};
use crate::state::{Held, HeldState, MessageState, Slot, Slots};

/// A message that may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub offset: u64,
    /// Its place in the order.
    pub origin: u64,
    pub key: u64,
    pub lane: u8,
    /// Not after this time; 0: at any time.
    pub expires_at_ms: u64,
}

/// What is known of a session besides what it has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    /// So many messages are with it, or on their way.
    pub in_flight: u32,
    /// Its stream is broken: what it has fails at this time, on the monotonic clock, unless it comes back.
    pub lost: Option<(ConsumerId, u64)>,
}

/// A slot on the leader's side.
#[derive(Debug)]
pub(super) struct Desk {
    pub policy: Policy,
    /// All below was looked at: it was handed out, or is in one of the lists here, or not due, or its key is busy, or it is for others.
    pub cursor: u64,
    pub ahead: MarksAhead,
    pub lanes: BTreeMap<u8, Lane>,
    /// Messages behind the cursor that may go out, by lane and place in the order.
    pub returned: BTreeMap<(Reverse<u8>, u64), Ready>,
    /// Messages one failure before their last, by place in the order: each goes out alone.
    pub alone: BTreeMap<u64, Ready>,
    pub out: Outs,
    /// Waiting messages, by the time on the monotonic clock.
    pub retries: BTreeSet<(u64, u64)>,
    /// Those of a slot that was taken over which are not in `retries` yet: there may be a million, and messages go out meanwhile.
    pub retries_left: Vec<(u64, u64)>,
    pub timers: Timers,
    /// The cursor has stopped for rows, or for the next step.
    pub walks: bool,
    pub keys: Keys,
    /// Messages behind the cursor that are for other slots.
    pub elsewhere: Elsewhere,
    /// Messages that a command under way, or the next one, is about.
    pub busy: BTreeSet<u64>,
    /// Messages that a carry under way is about: they do not go out before it is applied.
    pub carrying: BTreeSet<u64>,
    /// Leased messages that were to be carried and stayed, with their leases, and since when, on the monotonic clock.
    pub stayed: BTreeMap<u64, (LeaseId, u64)>,
    /// What was admitted, and is being appended.
    pub sending: Amount,
    pub breaker: Breaker,
    pub forwarder: Forwarder,
    pub expiries: Expiries,
    /// The end of all marks.
    pub marks_end: u64,
    /// The wall clock, while it is to be trusted.
    pub wall_ms: Option<u64>,
    /// Dead messages that a command under way, or the next one, purges for their age or number.
    pub purging: usize,
    /// When dead messages are looked at again, on the monotonic clock, and from which on.
    pub sweep_at_ms: Option<u64>,
    pub sweep_from: u64,
    /// The same, while there are more of them than may be.
    pub sweep_over_from: u64,
    /// When somebody used the queue last, on the monotonic clock, and whether it was said that nobody does.
    pub used_at_ms: u64,
    pub is_told_unused: bool,
    pub sessions: BTreeMap<SessionId, Session>,
    /// The sessions whose streams are broken, by when what they have fails.
    pub lost: BTreeSet<(u64, SessionId)>,
    pub attempts: BTreeMap<(SessionId, AttemptId), Granted>,
    /// Beyond so many it is looked which of their leases are over.
    pub attempts_max: usize,
    pub consumers: Consumers,
    /// Deliveries since a lower lane had its share.
    pub shares: u32,
    /// Nothing is granted before this time, on the monotonic clock: the state was full.
    pub held_back_until: u64,
    /// When the message at the cursor is due, or expires: on the wall clock.
    pub head_at_ms: Option<u64>,
    /// Keys whose rows are to be looked up, from which place on.
    pub seeks: Vec<(u64, u64)>,
    pub tally: Tally,
}

impl Desk {
    /// The desk of a new leader: all from the slot. Commands about these messages are `on_their_way`: they keep their keys busy.
    pub(super) fn begin(
        policy: Policy,
        (slots, slot, end): (&Slots, &Slot, u64),
        on_their_way: &[Ready],
        now: Now,
    ) -> Self {
        let floor = slot.floor();
        let mut desk = Self {
            policy,
            cursor: floor,
            ahead: MarksAhead::from(floor),
            lanes: BTreeMap::new(),
            returned: BTreeMap::new(),
            alone: BTreeMap::new(),
            out: Outs::default(),
            retries: BTreeSet::new(),
            retries_left: Vec::new(),
            timers: match policy.has_lanes || policy.is_keyed() || slots.marks_end() <= floor {
                true => Timers::default(),
                false => Timers::unread(),
            },
            walks: true,
            keys: Keys::default(),
            elsewhere: Elsewhere::default(),
            busy: BTreeSet::new(),
            carrying: BTreeSet::new(),
            stayed: BTreeMap::new(),
            sending: Amount::default(),
            breaker: Breaker::default(),
            forwarder: Forwarder::default(),
            expiries: Expiries::default(),
            marks_end: slots.marks_end(),
            wall_ms: Some(now.wall_ms),
            purging: 0,
            sweep_at_ms: None,
            sweep_from: 0,
            sweep_over_from: 0,
            used_at_ms: now.monotonic_ms,
            is_told_unused: false,
            sessions: BTreeMap::new(),
            lost: BTreeSet::new(),
            attempts: BTreeMap::new(),
            attempts_max: 0,
            consumers: Consumers::default(),
            shares: 0,
            held_back_until: 0,
            head_at_ms: None,
            seeks: Vec::new(),
            tally: Tally::default(),
        };
        if policy.has_lanes {
            let lane = match slots.marks_end() > floor {
                true => Lane::unknown,
                false => Lane::empty,
            };
            desk.lanes = (1..LANES).map(|number| (number, lane(floor))).collect();
        }
        for (id, lease) in slot.leases().filter(|(_, lease)| lease.attempt != AttemptId(0)) {
            // Which calls an earlier leader answered with it is not known.
            let granted = Granted {
                lease: id,
                call: CallId(0),
            };
            desk.attempts.insert((lease.session, lease.attempt), granted);
        }
        desk.take_over(slot, now);
        if policy.is_keyed() {
            for ready in on_their_way.iter().filter(|ready| ready.key != 0) {
                desk.keys.take(ready.key, ready.origin);
            }
        }
        for (offset, origin) in slot.origins() {
            if slot.state(offset, end) != MessageState::Free {
                continue;
            }
            let ready = Ready {
                offset,
                origin: origin.origin,
                key: origin.key,
                lane: if policy.has_lanes { origin.lane } else { 0 },
                expires_at_ms: 0,
            };
            if desk.policy.is_keyed() && origin.key != 0 {
                let place = Place {
                    origin: origin.origin,
                    offset,
                    deliver_at_ms: origin.deliver_at_ms,
                };
                desk.keys.park(origin.key, place);
            } else if origin.deliver_at_ms > now.wall_ms {
                let due = Due {
                    lane: ready.lane,
                    ..Due::default()
                };
                desk.timers.pass((origin.deliver_at_ms, offset), due);
            } else {
                desk.give_back(ready);
            }
        }
        for key in desk.keys.idle_parked() {
            desk.free_key(slot, key, 0);
        }
        desk
    }

    /// Takes what is held from the slot.
    fn take_over(&mut self, slot: &Slot, now: Now) {
        let mut grants: BTreeMap<LeaseId, GrantId> = BTreeMap::new();
        let blocks = self.policy.order == Order::ByKey(OnDead::Block);
        for (offset, held) in slot.held_from(0) {
            let keeps_busy = match held.state {
                HeldState::Leased => {
                    let lease = slot.lease(held.lease).expect("a leased message has a lease");
                    // The holder needs the time to find this leader. A clock that was ahead must not keep the message for longer
                    // than a lease can be.
                    let least = lease.duration_ms.min(LEASE_MS_AFTER_FAILOVER);
                    let left = held
                        .at_ms
                        .saturating_sub(now.wall_ms)
                        .clamp(least, LEASE_MS_MAX.max(least));
                    let give = || self.out.give(lease.session, None);
                    let grant = *grants.entry(held.lease).or_insert_with(give);
                    self.sessions.entry(lease.session).or_default().in_flight += 1;
                    self.out.insert(offset, now.monotonic_ms.saturating_add(left), grant);
                    true
                }
                HeldState::Waiting => {
                    let left = held.at_ms.saturating_sub(now.wall_ms);
                    self.retries_left.push((now.monotonic_ms.saturating_add(left), offset));
                    true
                }
                HeldState::Moving => {
                    self.forwarder.moving.push(offset);
                    blocks
                }
                HeldState::Dead => blocks,
                // Nobody has it, and it may come back.
                HeldState::Staged => true,
            };
            let is_known = held.state != HeldState::Leased || !planted::is(Bug::KeyFreeAtFailover);
            if keeps_busy && is_known && self.policy.is_keyed() && held.key != 0 {
                self.keys.take(held.key, slot.origin(offset));
            }
        }
    }

    /// Takes so many of the retries that were taken over, at most.
    pub(super) fn take_retries(&mut self, most: usize) {
        let from = self.retries_left.len().saturating_sub(most);
        self.retries.extend(self.retries_left.drain(from..));
        if self.retries_left.is_empty() {
            self.retries_left = Vec::new();
        }
    }

    /// What is known of a held message, to give it out again.
    pub(super) fn ready_of(slot: &Slot, offset: u64, held: Option<&Held>) -> Ready {
        Ready {
            offset,
            origin: slot.origin(offset),
            key: held.map_or(0, |held| held.key),
            lane: held.map_or(0, |held| held.lane),
            expires_at_ms: 0,
        }
    }

    /// A message is with a session, together with those that `grant` was given with.
    pub(super) fn lend(
        &mut self,
        offset: u64,
        deadline: u64,
        (waiter, session): (Waiter, SessionId),
        grant: &mut Option<GrantId>,
    ) {
        self.take_back(offset, false);
        self.sessions.entry(session).or_default().in_flight += 1;
        let grant = *grant.get_or_insert_with(|| self.out.give(session, Some(waiter)));
        self.out.insert(offset, deadline, grant);
    }

    /// A message is with nobody any more. `frees`: whoever had it has one less.
    pub(super) fn take_back(&mut self, offset: u64, frees: bool) {
        let Some(out) = self.out.remove(offset) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&out.session) {
            session.in_flight = session.in_flight.saturating_sub(1);
            if session.in_flight == 0 && session.lost.is_none() {
                self.sessions.remove(&out.session);
            }
        }
        let waiter = out.waiter.filter(|_| frees || out.deadline == PASSED);
        if let Some(waiter) = waiter {
            self.consumers.change(waiter, |consumer| {
                consumer.in_flight = consumer.in_flight.saturating_sub(1)
            });
        }
    }

    /// The stream of a session is broken; none: it has one again.
    pub(super) fn lose(&mut self, session: SessionId, lost: Option<(ConsumerId, u64)>) {
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        if let Some((_, at)) = std::mem::replace(&mut known.lost, lost) {
            self.lost.remove(&(at, session));
        }
        if let Some((_, at)) = lost {
            self.lost.insert((at, session));
        } else if known.in_flight == 0 {
            self.sessions.remove(&session);
        }
    }

    /// The messages of a session, in ascending order.
    pub(super) fn of_session(&self, session: SessionId) -> Vec<u64> {
        let count = self.sessions.get(&session).map_or(0, |known| known.in_flight as usize);
        let theirs = self.out.iter().filter(|(_, out)| out.session == session);
        // Most have none, or few.
        theirs.map(|(offset, _)| offset).take(count).collect()
    }

    /// The leased messages below an offset.
    pub(super) fn out_below(&self, floor: u64) -> Vec<u64> {
        let offsets = self.out.iter().map(|(offset, _)| offset);
        offsets.take_while(|offset| *offset < floor).collect()
    }

    /// A message goes out again, in its place.
    pub(super) fn give_back(&mut self, mut ready: Ready) {
        if self.policy.expired.is_some() && ready.expires_at_ms == 0 {
            let known = self.expiries.ask(ready.offset, self.marks_end);
            ready.expires_at_ms = known.unwrap_or(0);
        }
        self.put_back(ready);
    }

    /// Like [`Desk::give_back`], when it is known whether the message expires.
    pub(super) fn put_back(&mut self, ready: Ready) {
        self.returned.insert((Reverse(ready.lane), ready.origin), ready);
    }

    /// A message does not go out again: it was settled late.
    pub(super) fn withhold(&mut self, ready: &Ready) {
        self.returned.remove(&(Reverse(ready.lane), ready.origin));
        self.alone.remove(&ready.origin);
    }

    pub(super) fn is_returned(&self, origin: u64, lane: u8) -> bool {
        self.returned.contains_key(&(Reverse(lane), origin)) || self.alone.contains_key(&origin)
    }

    /// A message of the key is done, or dead and does not block: the next one goes out, if it was this one that kept the key busy.
    pub(super) fn free_key(&mut self, slot: &Slot, key: u64, origin: u64) {
        if key == 0 || !self.policy.is_keyed() || self.keys.seeks(key) {
            return;
        }
        let next = self.keys.freed(key, origin);
        self.go_on(slot, key, next);
    }

    pub(super) fn go_on(&mut self, slot: &Slot, key: u64, next: Next) {
        match next {
            Next::Idle => {}
            Next::Seek(after) => self.seeks.push((key, after)),
            Next::Message(place) => self.is_next(slot, key, place),
        }
    }
    /// A message keeps its key busy from now on: it goes out, or waits for its time.
    pub(super) fn is_next(&mut self, slot: &Slot, key: u64, place: Place) {
        let Place {
            origin,
            offset,
            deliver_at_ms,
        } = place;
        // One that is done is passed over when it is next.
        let is_done = slot.next_undone(offset) != offset;
        if !is_done && deliver_at_ms > self.wall_ms.unwrap_or(0) {
            let due = Due { key, ..Due::default() };
            return self.timers.again((deliver_at_ms, offset), due);
        }
        self.give_back(Ready {
            offset,
            origin,
            key,
            lane: 0,
            expires_at_ms: 0,
        });
    }
}
