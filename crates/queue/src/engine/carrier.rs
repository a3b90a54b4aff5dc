//! What is carried, and when: the undone messages of the oldest part of a log that holds much more than they are.
//!
//! The host says how large the log is, part by part. When it is larger than [`CarryBounds`] allow, the messages of its oldest part that
//! are not done are appended again, a batch at a time, so that the part can be cut off. Of a key nothing is carried before everything
//! that is earlier. What is leased stays until it is settled; a lease that ran out long ago is counted as a failure first, for nobody
//! else would end it while nobody asks for messages.
//!
//! While a carry is under way its messages do not go out: a carry is refused as a whole if one of them is leased.

use std::collections::{BTreeSet, VecDeque};

use jangada_machine::Now;

use crate::command::{Carry, Mark, Marks};
use crate::engine::acts::Act;
use crate::engine::depth::{Scale, mul_div};
use crate::engine::desk::{Ahead, Desk, PASSED};
use crate::engine::io::{LogPart, Output, ReadId, Rows, RowsWanted};
use crate::engine::settle::failure;
use crate::engine::step::{Engine, Read};
use crate::engine::timers::TimerKey;
use crate::engine::walk::{View, WALK_MAX};
use crate::ids::SlotId;
use crate::limits::{CARRY_BATCH_BYTES, CARRY_FACTOR, CARRY_LEASE_MS, CARRY_SHARE, CARRY_SLACK_BYTES, SPAN_MAX};
use crate::runs::Runs;
use crate::state::{HeldState, MessageState, Slot, SlotKind, Slots};
use crate::tables::MarkRow;

/// Rows of marks that one look-up reads.
const ROWS: usize = 256;
/// Messages of one carry, at most, however small they are.
const MESSAGES_MAX: u64 = 16_384;

/// When messages are carried. The default is what queues ship with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarryBounds {
    /// The log may be so many times as large as its live records...
    pub factor: u64,
    /// ... and so many bytes larger.
    pub slack_bytes: u64,
    /// The records of one carry, bytes.
    pub batch_bytes: u64,
}

impl Default for CarryBounds {
    fn default() -> Self {
        Self {
            factor: CARRY_FACTOR,
            slack_bytes: CARRY_SLACK_BYTES,
            batch_bytes: CARRY_BATCH_BYTES,
        }
    }
}

/// The oldest part of the log, on its way to the end.
#[derive(Debug)]
struct Plan {
    /// All below was looked at.
    next: u64,
    /// The offset behind the part.
    until: u64,
    /// So many messages are about one batch.
    batch: u64,
    /// Keys of which a message stays, and so all later ones.
    stay: BTreeSet<u64>,
    marks: VecDeque<Ahead>,
    /// The marks of messages below it, from `next` on, are those in `marks`.
    known_to: u64,
    /// Marks are being looked up, and the end of all marks when it began.
    reads: Option<u64>,
}

/// What the leader knows of the size of its log, and the carry under way.
#[derive(Debug, Default)]
pub(super) struct Carrier {
    pub bounds: CarryBounds,
    plan: Option<Plan>,
    is_under_way: bool,
    /// The timers of the messages of the carry under way.
    timers: Vec<TimerKey>,
    /// Bytes that were written to the log when the engine was told first, and last.
    written: Option<(u64, u64)>,
    /// Bytes of the records that were carried since.
    carried: u64,
}

impl Plan {
    fn new(first: u64, part: &LogPart, messages: u64, bounds: &CarryBounds) -> Self {
        let mean = (part.record_bytes / messages).max(1);
        Self {
            next: first,
            until: part.end,
            batch: (bounds.batch_bytes / mean).clamp(1, MESSAGES_MAX),
            stay: BTreeSet::new(),
            marks: VecDeque::new(),
            known_to: first,
            reads: None,
        }
    }

    fn read(&mut self, rows: Rows) {
        let marks_end = self.reads.take().unwrap_or(0);
        for row in rows.rows {
            if let MarkRow::Batch { base, marks } = row {
                self.known_to = base + marks.0.len() as u64;
                self.marks.push_back(Ahead { base, marks });
            }
        }
        if rows.is_all {
            self.known_to = self.known_to.max(marks_end);
        }
    }

    /// The mark of a message below `known_to`. Offsets come in ascending order.
    fn mark(&mut self, offset: u64) -> Mark {
        let is_behind = |known: &Ahead| known.base + known.marks.0.len() as u64 <= offset;
        while self.marks.front().is_some_and(is_behind) {
            self.marks.pop_front();
        }
        match self.marks.front() {
            Some(known) if known.base <= offset => known.marks.0[(offset - known.base) as usize].clone(),
            _ => Mark::default(),
        }
    }
}

impl Carrier {
    /// Whether what was carried is more than its share of what is written.
    fn has_written_enough(&self) -> bool {
        let (first, last) = self.written.unwrap_or_default();
        let sent = (last - first).saturating_sub(self.carried);
        self.carried > sent / CARRY_SHARE + self.bounds.slack_bytes
    }
}

impl Engine {
    /// When messages are carried, if not as by default.
    pub fn set_carry_bounds(&mut self, bounds: CarryBounds) {
        self.carrier.bounds = bounds;
    }

    /// The host says how large the log is: whether its oldest part is to be carried.
    pub(super) fn measured(&mut self, slots: &Slots, end: u64, start: u64, parts: &[LogPart], written_bytes: u64) {
        let undone = |from, until| {
            slots
                .iter()
                .map(|(_, slot)| slot.undone_within(from, until))
                .sum::<u64>()
        };
        self.scale = Scale::of(start, parts, undone);
        let carrier = &mut self.carrier;
        let (first, _) = carrier.written.unwrap_or((written_bytes, 0));
        carrier.written = Some((first, written_bytes));
        let Some(floor) = slots.floor().filter(|_| carrier.plan.is_none() && may_carry(slots)) else {
            return;
        };
        let (mut log, mut live, mut from) = (0_u64, 0_u64, start);
        let mut oldest = None;
        for part in parts {
            let records = part.end.saturating_sub(from).max(1);
            log += part.bytes;
            live += mul_div(part.record_bytes, undone(from, part.end).min(records), records);
            if oldest.is_none() && part.end > floor {
                oldest = Some(Plan::new(from.max(floor), part, records, &carrier.bounds));
            }
            from = part.end;
        }
        let is_long = end.saturating_sub(floor) > SPAN_MAX / 2;
        let is_large = log > live.saturating_mul(carrier.bounds.factor) + carrier.bounds.slack_bytes;
        if is_long || is_large {
            carrier.plan = oldest;
        }
    }

    /// The batch of a carry has so many bytes.
    pub(super) fn carry_built(&mut self, bytes: u64) {
        self.carrier.carried += bytes;
    }

    /// What became of the carry under way: the last old offset that was carried; none was if there is no such. Its messages are not
    /// behind the cursor under their old offsets any more.
    pub(super) fn carry_ended(&mut self, last: Option<u64>) {
        if !std::mem::take(&mut self.carrier.is_under_way) {
            return;
        }
        let timers = std::mem::take(&mut self.carrier.timers);
        for desk in self.desks.values_mut() {
            desk.carrying.clear();
            let moved = timers
                .iter()
                .filter(|(_, offset)| last.is_some_and(|last| *offset <= last));
            for key in moved.filter(|(_, offset)| *offset < desk.cursor) {
                desk.timers.forget(*key);
            }
        }
        match last {
            // The host may have taken fewer than it was told to.
            Some(last) => {
                if let Some(plan) = &mut self.carrier.plan {
                    plan.next = last + 1;
                    plan.marks.clear();
                    plan.known_to = plan.next;
                }
            }
            // Not now: the next measure begins anew.
            None => self.carrier.plan = None,
        }
    }

    pub(super) fn carry_marks_read(&mut self, rows: Rows) {
        if let Some(plan) = &mut self.carrier.plan {
            plan.read(rows);
        }
    }

    /// The next carry, if there is one to make.
    pub(super) fn plan_carry(
        &mut self,
        slots: &Slots,
        end: u64,
        now: Now,
        wall_ms: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let is_idle = |plan: &mut Plan| plan.reads.is_none();
        if self.hands_over || self.carrier.is_under_way || !may_carry(slots) {
            return;
        }
        let Some(mut plan) = self.carrier.plan.take_if(is_idle) else {
            return;
        };
        if self.carrier.has_written_enough() {
            return;
        }
        let mut chosen = Vec::new();
        for _ in 0..WALK_MAX {
            let undone = slots.iter().map(|(_, slot)| slot.next_undone(plan.next)).min();
            plan.next = undone.unwrap_or(end).max(plan.next);
            if plan.next >= plan.until.min(end) || chosen.len() as u64 >= plan.batch {
                break;
            }
            if plan.next >= plan.known_to && plan.next < slots.marks_end() {
                break;
            }
            let offset = plan.next;
            let mark = plan.mark(offset);
            let stays =
                self.stays(slots, end, offset, now, wall_ms) || (mark.key != 0 && plan.stay.contains(&mark.key));
            if !stays {
                chosen.push((offset, mark));
            } else if mark.key != 0 {
                plan.stay.insert(mark.key);
            }
            plan.next = offset + 1;
        }
        let is_over = plan.next >= plan.until.min(end);
        let is_blind = !is_over && plan.next >= plan.known_to && plan.next < slots.marks_end();
        if !chosen.is_empty() {
            self.carry(chosen, out);
        } else if is_over {
            return;
        } else if is_blind {
            let (from, limit) = (plan.next, ROWS);
            plan.reads = Some(slots.marks_end());
            plan.marks.clear();
            let read = ReadId(self.next_id());
            self.reads.insert(read, (SlotId::default(), Read::Carry));
            let wanted = RowsWanted::Batches { from, limit };
            out.push(Output::Read { read, wanted });
        } else {
            self.is_walking = true;
        }
        self.carrier.plan = Some(plan);
    }

    fn carry(&mut self, chosen: Vec<(u64, Mark)>, out: &mut Vec<Output>) {
        let messages: Runs = chosen.iter().map(|(offset, _)| *offset).collect();
        for desk in self.desks.values_mut() {
            desk.carrying = messages.offsets().collect();
        }
        let timed = chosen.iter().filter(|(_, mark)| mark.deliver_at_ms != 0);
        self.carrier.timers = timed.map(|(offset, mark)| (mark.deliver_at_ms, *offset)).collect();
        let is_plain = chosen.iter().all(|(_, mark)| *mark == Mark::default());
        let marks = chosen.into_iter().map(|(_, mark)| mark);
        let carry = Carry {
            term: self.term,
            messages,
            marks: if is_plain {
                Marks::default()
            } else {
                Marks(marks.collect())
            },
        };
        self.carrier.is_under_way = true;
        let bytes_max = self.carrier.bounds.batch_bytes;
        out.push(Output::Carry { carry, bytes_max });
    }

    /// Whether a message cannot be carried now. One whose lease ran out long ago is made to fail meanwhile.
    fn stays(&mut self, slots: &Slots, end: u64, offset: u64, now: Now, wall_ms: Option<u64>) -> bool {
        let mut stays = false;
        for (id, slot) in slots.iter() {
            let Some(desk) = self.desks.get_mut(&id) else {
                // Nothing is known of what goes on with it.
                stays |= slot.state(offset, end) != MessageState::Done;
                continue;
            };
            stays |= desk.busy.contains(&offset);
            if let MessageState::Held(held) = slot.state(offset, end) {
                let view = View {
                    id,
                    slot,
                    slots,
                    end,
                    now,
                    wall_ms,
                };
                stays |= matches!(held.state, HeldState::Leased | HeldState::Moving);
                if held.state == HeldState::Leased {
                    desk.end_lease(&view, offset, &mut self.acts);
                }
            }
        }
        stays
    }
}

impl Desk {
    /// A lease that ran out long ago is a failure, though nobody asks for its message.
    fn end_lease(&mut self, view: &View<'_>, offset: u64, acts: &mut Vec<Act>) {
        let has_passed = self.out.get(&offset).is_some_and(|out| out.deadline == PASSED);
        let MessageState::Held(held) = view.state(offset) else {
            return;
        };
        let since_ms = view.now.wall_ms.saturating_sub(held.at_ms);
        if has_passed && since_ms >= CARRY_LEASE_MS {
            let (change, delay_ms) = failure(&self.policy, held, offset, Some(0));
            self.change(view, offset, held, change, delay_ms, acts);
        }
    }
}

impl Slot {
    /// How many messages of a range are not done.
    pub(super) fn undone_within(&self, from: u64, until: u64) -> u64 {
        let from = from.max(self.floor);
        match until > from {
            true => until - from - self.done.count(from, until - 1),
            false => 0,
        }
    }
}

/// A log that a group reads has its records once.
fn may_carry(slots: &Slots) -> bool {
    slots.iter().all(|(_, slot)| slot.kind() != SlotKind::Group)
}
