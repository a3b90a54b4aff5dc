//! The state as bytes, in the partition's saved state and checkpoints.
//!
//! ```text
//! version u8 | last slot | marks end | carried end | slots | from version 2 on: schedules | from version 3 on: aliases |
//!            from version 4 on: voids | transactions
//! slot       number | queue 16 | kind | order | start | floor | settled by cause | forwarding | done | held | leases | origins
//! done       chunks, each: distance of its number | runs n, then n pairs of (distance, length - 1); or BITMAP and 512 bytes
//! origins    n, each: distance of its offset | origin | key 8 | deliver-at | lane u8
//! aliases    slots n, each: its number | n, then n pairs of (distance of the offset, distance of its place from it)
//! voids      slots n, each: its number | how many of its offsets never were messages
//! held       n, each: distance of its offset | state u8 | lane u8 | reason u8 | failures | deliveries | at | key 8 | lease
//! ```
//!
//! Numbers are LEB128 of up to ten bytes unless a size is given. What follows from something else (counts of messages, the
//! messages left of a lease, bytes) is not written. The same state gives the same bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_machine::RestoreError;

use super::done::{CHUNK, Chunk, DoneSet, RUNS_MAX};
use super::held::{DeadReason, DoneCause, Held, HeldState, KeepsOrder, Lease, Origin, SlotKind};
use super::schedules::{Schedule, get_string, put_bytes};
use super::slot::{Forwarding, Slot, index_of};
use super::slots::Slots;
use super::transactions::UndecidedSet;
use crate::ids::{AttemptId, LeaseId, QueueId, SessionId, SlotId};
use crate::varint::{get_varint, put_varint};

/// Of a state without schedules.
const VERSION: u8 = 1;
/// Of a state with schedules behind the slots: `n | each: number of the slot | name | schedule`.
const VERSION_SCHEDULES: u8 = 2;
/// Of a state with leased messages that were appended again. It has as many schedules as there are, perhaps none.
const VERSION_ALIASES: u8 = 3;
/// Of a state that has, or had, transactions. It has as many schedules and aliases as there are, perhaps none.
const VERSION_TRANSACTIONS: u8 = 4;
/// The causes that stand with a slot in each version; that of what never was a message stands apart.
const CAUSES: usize = index_of(DoneCause::Void);
/// In place of a number of runs: a bitmap.
const BITMAP: u64 = RUNS_MAX as u64 + 1;
/// Offsets lie below it.
const OFFSET_END: u64 = 1 << 60;

impl Slots {
    /// The state as bytes. An unused one has none, so that the state of a partition without queues is as it always was.
    pub fn encode(&self, out: &mut BytesMut) {
        if self.is_unused() {
            return;
        }
        // What is counted is more than what is written: memory that is not used is not resident, and a copy would be.
        out.reserve(self.bytes);
        let with_aliases = self.slots.iter().filter(|(_, slot)| slot.aliases.len() > 0);
        let with_aliases: Vec<_> = with_aliases.collect();
        let with_voids = self.slots.iter().filter(|(_, slot)| slot.settled(DoneCause::Void) > 0);
        let with_voids: Vec<_> = with_voids.collect();
        let has_transactions = !with_voids.is_empty() || !self.undecided.is_empty();
        let version = match (self.schedules.is_empty(), with_aliases.is_empty()) {
            _ if has_transactions => VERSION_TRANSACTIONS,
            (_, false) => VERSION_ALIASES,
            (false, true) => VERSION_SCHEDULES,
            (true, true) => VERSION,
        };
        out.put_u8(version);
        put_varint(out, u64::from(self.last_slot));
        put_varint(out, self.marks_end);
        put_varint(out, self.carried_end);
        put_varint(out, self.slots.len() as u64);
        for (id, slot) in &self.slots {
            put_varint(out, u64::from(id.get()));
            slot.encode(out);
        }
        if version >= VERSION_SCHEDULES {
            put_varint(out, self.schedules.len() as u64);
            for ((slot, name), schedule) in &self.schedules {
                put_varint(out, u64::from(slot.get()));
                put_bytes(out, name.as_bytes());
                schedule.encode(out);
            }
        }
        if version >= VERSION_ALIASES {
            put_varint(out, with_aliases.len() as u64);
            for (id, slot) in with_aliases {
                put_varint(out, u64::from(id.get()));
                slot.encode_aliases(out);
            }
        }
        if version >= VERSION_TRANSACTIONS {
            put_varint(out, with_voids.len() as u64);
            for (id, slot) in with_voids {
                put_varint(out, u64::from(id.get()));
                put_varint(out, slot.settled(DoneCause::Void));
            }
            self.undecided.encode(out);
        }
    }

    /// [`Slots::encode`] as bytes of its own.
    pub fn snapshot(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// The reverse of [`Slots::encode`]; `input` ends where the state ends. `next` is the partition's next offset.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged.
    pub fn restore(input: &[u8], log_start: u64, next: u64) -> Result<Self, RestoreError> {
        match input.first() {
            None => Ok(Self::default()),
            Some(version @ &(VERSION..=VERSION_TRANSACTIONS)) => {
                let mut rest = &input[1..];
                let read = Self::read(&mut rest, next, *version).filter(|_| rest.is_empty());
                let slots = read.ok_or_else(|| RestoreError("the state of a partition's queues is damaged".into()))?;
                let damaged = |error| RestoreError(format!("the state of a partition's queues is damaged: {error}"));
                slots.check(log_start, next).map_err(damaged)?;
                Ok(slots)
            }
            Some(version) => Err(RestoreError(format!(
                "the state of a partition's queues has version {version}; this build reads up to {VERSION_TRANSACTIONS}"
            ))),
        }
    }

    fn read(input: &mut &[u8], next: u64, version: u8) -> Option<Self> {
        let mut slots = Self {
            last_slot: u32::try_from(get_varint(input)?).ok()?,
            marks_end: get_varint(input)?,
            carried_end: get_varint(input)?,
            ..Self::default()
        };
        for _ in 0..get_varint(input)? {
            let id = SlotId(u32::try_from(get_varint(input)?).ok()?);
            let slot = Slot::read(input, next)?;
            slots.bytes += slot.state_bytes();
            if slots.slots.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return None;
            }
            slots.slots.insert(id, slot);
        }
        let schedules = match version {
            VERSION => 0,
            VERSION_SCHEDULES => get_varint(input).filter(|count| *count > 0)?,
            _ => get_varint(input)?,
        };
        for _ in 0..schedules {
            let key = (SlotId(u32::try_from(get_varint(input)?).ok()?), get_string(input)?);
            let schedule = Schedule::read(input)?;
            if slots.schedules.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return None;
            }
            slots.schedules.insert(key, schedule);
        }
        if version >= VERSION_ALIASES {
            let mut last = SlotId(0);
            let aliases = get_varint(input).filter(|count| *count > 0 || version > VERSION_ALIASES)?;
            for _ in 0..aliases {
                let id = SlotId(u32::try_from(get_varint(input)?).ok()?);
                let before = std::mem::replace(&mut last, id);
                let read = slots.change(id, |slot| slot.read_aliases(input).filter(|_| id > before));
                read.flatten()?;
            }
        }
        if version >= VERSION_TRANSACTIONS {
            let (mut last, voids) = (SlotId(0), get_varint(input)?);
            for _ in 0..voids {
                let id = SlotId(u32::try_from(get_varint(input)?).ok()?);
                let before = std::mem::replace(&mut last, id);
                let count = get_varint(input).filter(|count| *count > 0 && id > before)?;
                slots.slots.get_mut(&id)?.settled[index_of(DoneCause::Void)] = count;
            }
            slots.undecided = UndecidedSet::read(input)?;
            slots.bytes += slots.undecided.bytes();
            // What is said to be there is used, so each state has one form.
            (voids > 0 || !slots.undecided.is_empty()).then_some(())?;
        }
        Some(slots)
    }
}

impl Slot {
    fn encode_aliases(&self, out: &mut BytesMut) {
        put_varint(out, self.aliases.len() as u64);
        let mut end = 0;
        for (offset, place) in self.aliases.iter() {
            put_varint(out, offset - end);
            put_varint(out, place - offset);
            end = offset + 1;
        }
    }

    fn read_aliases(&mut self, input: &mut &[u8]) -> Option<()> {
        let mut end = 0_u64;
        for _ in 0..get_varint(input).filter(|count| *count > 0)? {
            let offset = end
                .checked_add(get_varint(input)?)
                .filter(|offset| *offset < OFFSET_END)?;
            self.aliases.insert(offset, offset.checked_add(get_varint(input)?)?);
            end = offset + 1;
        }
        Some(())
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u128(self.queue.0);
        out.put_u8(self.kind as u8);
        out.put_u8(self.order as u8);
        put_varint(out, self.start);
        put_varint(out, self.floor);
        self.settled[..CAUSES].iter().for_each(|count| put_varint(out, *count));
        match self.forwarding {
            None => out.put_u8(0),
            Some(Forwarding { producer, sequence }) => {
                out.put_u8(1);
                out.put_i64(producer);
                out.put_u32(sequence);
            }
        }
        self.done.encode(out);
        put_varint(out, self.held.len() as u64);
        let mut end = self.floor;
        for (offset, held) in self.held.iter() {
            put_varint(out, offset - end);
            end = offset + 1;
            held.encode(out);
        }
        put_varint(out, self.leases.len() as u64);
        let mut last = 0;
        for (id, lease) in self.leases.iter() {
            put_varint(out, id - last);
            last = id;
            out.put_u64(lease.session.get());
            out.put_u64(lease.attempt.get());
            put_varint(out, lease.duration_ms);
        }
        put_varint(out, self.origins.len() as u64);
        let mut end = self.floor;
        for (offset, origin) in self.origins.iter() {
            put_varint(out, offset - end);
            end = offset + 1;
            put_varint(out, origin.origin);
            out.put_u64(origin.key);
            put_varint(out, origin.deliver_at_ms);
            out.put_u8(origin.lane);
        }
    }

    fn read(input: &mut &[u8], next: u64) -> Option<Self> {
        let queue = QueueId(input.try_get_u128().ok()?);
        let kind = SlotKind::of_byte(input.try_get_u8().ok()?)?;
        let order = KeepsOrder::of_byte(input.try_get_u8().ok()?)?;
        let mut slot = Self::new(queue, kind, order, get_varint(input)?);
        slot.floor = get_varint(input)?;
        for count in &mut slot.settled[..CAUSES] {
            *count = get_varint(input)?;
        }
        slot.forwarding = match input.try_get_u8().ok()? {
            0 => None,
            1 => Some(Forwarding {
                producer: input.try_get_i64().ok()?,
                sequence: input.try_get_u32().ok()?,
            }),
            _ => return None,
        };
        slot.done = DoneSet::read(input, next)?;
        let mut leased = Vec::new();
        let mut end = slot.floor;
        for _ in 0..get_varint(input)? {
            let offset = end.checked_add(get_varint(input)?).filter(|offset| *offset < next)?;
            end = offset + 1;
            let held = Held::read(input)?;
            if held.state == HeldState::Leased {
                leased.push(held.lease);
            }
            slot.hold(offset, held);
        }
        let mut last = 0_u64;
        for _ in 0..get_varint(input)? {
            last = last.checked_add(get_varint(input)?)?;
            let lease = Lease {
                session: SessionId(input.try_get_u64().ok()?),
                attempt: AttemptId(input.try_get_u64().ok()?),
                duration_ms: get_varint(input)?,
                left: 0,
            };
            if slot.leases.insert(last, lease).is_some() {
                return None;
            }
        }
        for lease in leased {
            slot.leases.get_mut(lease.get())?.left += 1;
        }
        let mut end = slot.floor;
        for _ in 0..get_varint(input)? {
            let offset = end.checked_add(get_varint(input)?).filter(|offset| *offset < next)?;
            end = offset + 1;
            let origin = Origin {
                origin: get_varint(input)?,
                key: input.try_get_u64().ok()?,
                deliver_at_ms: get_varint(input)?,
                lane: input.try_get_u8().ok()?,
            };
            slot.origins.insert(offset, origin);
        }
        Some(slot)
    }
}

impl Held {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.state as u8);
        out.put_u8(self.lane);
        out.put_u8(self.reason.map_or(0, |reason| reason as u8));
        put_varint(out, u64::from(self.failures));
        put_varint(out, u64::from(self.deliveries));
        put_varint(out, self.at_ms);
        out.put_u64(self.key);
        put_varint(out, self.lease.get());
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        let state = HeldState::of_byte(input.try_get_u8().ok()?)?;
        let lane = input.try_get_u8().ok()?;
        let reason = match input.try_get_u8().ok()? {
            0 => None,
            byte => Some(DeadReason::of_byte(byte)?),
        };
        Some(Self {
            state,
            lane,
            reason,
            failures: u16::try_from(get_varint(input)?).ok()?,
            deliveries: u16::try_from(get_varint(input)?).ok()?,
            at_ms: get_varint(input)?,
            key: input.try_get_u64().ok()?,
            lease: LeaseId(get_varint(input)?),
        })
    }
}

impl DoneSet {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.chunks().len() as u64);
        let mut last = 0;
        for (number, chunk) in self.chunks() {
            put_varint(out, number - last);
            last = number;
            match chunk {
                Chunk::Runs(runs) => {
                    put_varint(out, runs.len() as u64);
                    let mut end = 0;
                    for (first, last) in &**runs {
                        put_varint(out, u64::from(first - end));
                        put_varint(out, u64::from(last - first));
                        end = last + 1;
                    }
                }
                Chunk::Bits(words) => {
                    put_varint(out, BITMAP);
                    words.iter().for_each(|word| out.put_u64_le(*word));
                }
            }
        }
    }

    fn read(input: &mut &[u8], next: u64) -> Option<Self> {
        let mut set = Self::default();
        let mut number = 0_u64;
        for _ in 0..get_varint(input)? {
            number = number.checked_add(get_varint(input)?)?;
            let base = number
                .checked_mul(CHUNK)
                .filter(|base| *base < next && *base < OFFSET_END)?;
            let count = get_varint(input)?;
            if count == BITMAP {
                for word in 0..CHUNK / 64 {
                    let mut bits = input.try_get_u64_le().ok()?;
                    let mut at = base + word * 64;
                    // Runs of ones, so that a full word is one step.
                    while bits != 0 {
                        let skip = bits.trailing_zeros();
                        let ones = (bits >> skip).trailing_ones();
                        set.insert(at + u64::from(skip), at + u64::from(skip + ones) - 1);
                        if skip + ones == 64 {
                            break;
                        }
                        bits >>= skip + ones;
                        at += u64::from(skip + ones);
                    }
                }
                continue;
            }
            if count > BITMAP || count == 0 {
                return None;
            }
            let mut end = 0;
            for _ in 0..count {
                let first = get_varint(input)?.checked_add(end)?;
                let last = get_varint(input)?.checked_add(first).filter(|last| *last < CHUNK)?;
                set.insert(base + first, base + last);
                end = last + 1;
            }
        }
        Some(set)
    }
}
