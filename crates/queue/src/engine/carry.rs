//! What is carried, and when: the undone messages of the oldest part of a log that holds much more than they are.
//!
//! The host says how large the log is, part by part. When it is larger than [`CarryBounds`] allow, the messages of its oldest part that
//! are not done are appended again, a batch at a time, so that the part can be cut off. Of a key nothing is carried before everything
//! that is earlier. What is leased stays for a while, for most is settled soon; then it goes on with its lease, and its holder may name
//! it as before. A lease that ran out long ago is counted as a failure first, for nobody else would end it while nobody asks for messages.
//!
//! While a carry is under way its messages do not go out. What is said of them meanwhile may find them at their new places: it is said
//! again of these.

use jangada_machine::Now;

use crate::command::{Carry, Mark, Marks};
use crate::engine::acts::Act;
use crate::engine::ahead::MarksAhead;
use crate::engine::carrier::{CarryBounds, Plan};
use crate::engine::depth::{Scale, mul_div};
use crate::engine::desk::Desk;
use crate::engine::io::{LogPart, Output, ReadId, Rows, RowsWanted};
use crate::engine::outs::PASSED;
use crate::engine::part::Part;
use crate::engine::settle::failure;
use crate::engine::step::{Engine, Read};
use crate::engine::walk::{View, WALK_MAX};
use crate::ids::SlotId;
use crate::limits::{CARRY_LEASE_MS, SPAN_MAX};
use crate::runs::Runs;
use crate::state::{HeldState, MessageState, SlotKind, Slots};

/// Leased messages that stayed are forgotten, if they are not leased any more, when there are more than so many.
const STAYED_MAX: usize = 1_024;

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
                    plan.marks = MarksAhead::from(plan.next);
                }
            }
            // Not now: the next measure begins anew.
            None => self.carrier.plan = None,
        }
    }

    pub(super) fn carry_marks_read(&mut self, rows: Rows) {
        if let Some(plan) = &mut self.carrier.plan {
            plan.marks.read(rows);
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
        let is_idle = |plan: &mut Plan| !plan.marks.reads();
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
        // What is not decided would be at its new place.
        let until = plan.until.min(slots.stable(end));
        for _ in 0..WALK_MAX {
            let undone = slots.iter().map(|(_, slot)| slot.next_undone(plan.next)).min();
            plan.next = undone.unwrap_or(end).max(plan.next);
            if plan.next >= until || chosen.len() as u64 >= plan.batch {
                break;
            }
            if plan.next >= plan.marks.known_to() && plan.next < slots.marks_end() {
                break;
            }
            let offset = plan.next;
            let mark = plan.marks.mark(offset).cloned().unwrap_or_default();
            let stays =
                self.stays(slots, end, offset, now, wall_ms) || (mark.key != 0 && plan.stay.contains(&mark.key));
            if !stays {
                chosen.push((offset, mark));
            } else if mark.key != 0 {
                plan.stay.insert(mark.key);
            }
            plan.next = offset + 1;
        }
        let is_over = plan.next >= until;
        let is_blind = !is_over && plan.next >= plan.marks.known_to() && plan.next < slots.marks_end();
        if !chosen.is_empty() {
            self.carry(chosen, out);
        } else if is_over {
            return;
        } else if is_blind {
            let (from, limit) = (plan.next, plan.marks.look_up(slots.marks_end()));
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
            stays |= desk.busy.contains(&offset) || desk.elsewhere.has(offset);
            if let MessageState::Held(held) = slot.state(offset, end) {
                let view = View::new(id, slot, slots, end, now, wall_ms);
                stays |= match held.state {
                    HeldState::Leased => {
                        desk.end_lease(&view, offset, &mut self.acts);
                        desk.lease_stays(&view, offset, self.carrier.bounds.leased_ms)
                    }
                    HeldState::Moving | HeldState::Staged => true,
                    HeldState::Waiting | HeldState::Dead => false,
                };
            }
        }
        stays
    }
}

impl Desk {
    /// A lease that ran out long ago is a failure, though nobody asks for its message.
    fn end_lease(&mut self, view: &View<'_>, offset: u64, acts: &mut Vec<Act>) {
        let has_passed = self.out.get(offset).is_some_and(|out| out.deadline == PASSED);
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

impl Desk {
    /// Whether a leased message stays: until it has kept its part from being cut for so long. One whose lease has run out goes as a
    /// failure.
    fn lease_stays(&mut self, view: &View<'_>, offset: u64, leased_ms: u64) -> bool {
        let is_out = self.out.get(offset).is_some_and(|out| out.deadline != PASSED);
        let (Some(held), true) = (view.slot.held(offset), is_out) else {
            return true;
        };
        let now_ms = view.now.monotonic_ms;
        if self.stayed.len() > STAYED_MAX {
            self.stayed
                .retain(|offset, (lease, _)| view.slot.held(*offset).is_some_and(|held| held.lease == *lease));
        }
        let (lease, since_ms) = *self.stayed.entry(offset).or_insert((held.lease, now_ms));
        if lease != held.lease {
            self.stayed.insert(offset, (held.lease, now_ms));
            return leased_ms > 0;
        }
        now_ms.saturating_sub(since_ms) < leased_ms || self.busy.contains(&offset)
    }
}

impl Engine {
    /// Leased messages go on under new offsets. What the next command says of them says it of these; what one under way says comes again.
    pub(super) fn acts_carried(&mut self, slots: &Slots, end: u64, moves: &[(u64, u64)]) {
        let place_of = |id: SlotId, offset: u64| {
            let at = moves.binary_search_by_key(&offset, |(old, _)| *old).ok()?;
            let new = moves[at].1;
            let slot = slots.slot(id)?;
            let is_leased = matches!(slot.state(new, end), MessageState::Held(held) if held.state == HeldState::Leased);
            is_leased.then_some((slot, new))
        };
        for act in &mut self.acts {
            let Some((slot, new)) = place_of(act.slot, act.ready.offset) else {
                continue;
            };
            if let Some(desk) = self.desks.get_mut(&act.slot) {
                desk.busy.remove(&act.ready.offset);
                desk.busy.insert(new);
            }
            act.ready = Desk::ready_of(slot, new, slot.held(new));
        }
        for ((id, _), place) in &mut self.carried_acts {
            let Some((_, new)) = place_of(*id, *place) else {
                continue;
            };
            if let Some(desk) = self.desks.get_mut(id) {
                desk.busy.remove(place);
                desk.busy.insert(new);
            }
            *place = new;
        }
        for part in self.under_way.values().flatten() {
            let Part::Acts(id, _, acts) = part else { continue };
            for act in acts {
                if let (Some((_, new)), Some(desk)) = (place_of(*id, act.ready.offset), self.desks.get_mut(id)) {
                    desk.busy.insert(new);
                    self.carried_acts.insert((*id, act.ready.offset), new);
                }
            }
        }
    }

    /// What a command said of a message that had another place by then is said again by the next one. Says whether that is so.
    pub(super) fn comes_again(&mut self, slots: &Slots, id: SlotId, act: &Act) -> bool {
        let Some(new) = self.carried_acts.remove(&(id, act.ready.offset)) else {
            return false;
        };
        let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) else {
            return false;
        };
        desk.busy.remove(&act.ready.offset);
        desk.busy.insert(new);
        let ready = Desk::ready_of(slot, new, slot.held(new));
        self.acts.push(Act { ready, ..*act });
        true
    }
}

/// A log that a group reads has its records once.
fn may_carry(slots: &Slots) -> bool {
    slots.iter().all(|(_, slot)| slot.kind() != SlotKind::Group)
}
