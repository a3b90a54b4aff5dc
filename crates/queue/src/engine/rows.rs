//! Rows that were looked up, and messages that were carried: where they go on a desk.

use std::collections::BTreeMap;

use jangada_machine::Now;

use crate::engine::desk::{Desk, Ready};
use crate::engine::io::{Output, ReadId, Rows, Settled};
use crate::engine::keys::Place;
use crate::engine::outs::PASSED;
use crate::engine::step::{Engine, Read};
use crate::engine::timers::Due;
use crate::engine::walk::View;
use crate::state::{HeldState, MessageState, Slots};
use crate::tables::MarkRow;

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "a step's surroundings, and what was read")]
    pub(super) fn rows(
        &mut self,
        slots: &Slots,
        end: u64,
        read: ReadId,
        rows: Rows,
        now: Now,
        wall_ms: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let Some((id, read)) = self.reads.remove(&read) else {
            return;
        };
        if let Read::Carry = read {
            return self.carry_marks_read(rows);
        }
        let Some(slot) = slots.slot(id) else { return };
        let view = View::new(id, slot, slots, end, now, wall_ms);
        if let Read::Origin(mut waiting) = read {
            if let Some(MarkRow::Origin { new, .. }) = rows.rows.first() {
                waiting.item.offset = *new;
                return self.judge(slots, end, id, waiting, out);
            }
            return self.settled(waiting.request, waiting.place, Settled::AlreadySettled, out);
        }
        let Some(desk) = self.desks.get_mut(&id) else { return };
        match read {
            Read::Batches => desk.ahead.read(rows),
            Read::Timers => desk.timers_read(&view, rows),
            Read::Lane(lane) => desk.lane_read(lane, rows),
            Read::Key(key) => desk.key_read(&view, key, &rows),
            Read::Expiry(offset) => desk.expiry_read(slot, offset, &rows),
            Read::Origin(_) | Read::Carry => unreachable!("it was taken above"),
        }
    }

    /// Messages were appended again.
    pub(super) fn carried(&mut self, slots: &Slots, end: u64, moves: &[(u64, u64)], now: Now, wall_ms: Option<u64>) {
        for (id, desk) in &mut self.desks {
            let Some(slot) = slots.slot(*id) else { continue };
            let view = View::new(*id, slot, slots, end, now, wall_ms);
            // Those that wait for a retry, by their old offsets.
            desk.take_retries(usize::MAX);
            let place_of = |offset: &u64| moves.binary_search_by_key(offset, |(old, _)| *old);
            let waits = desk.retries.iter().filter(|(_, offset)| place_of(offset).is_ok());
            let waits: BTreeMap<u64, u64> = waits.map(|(at, offset)| (*offset, *at)).collect();
            for (old, new) in moves {
                desk.moved(&view, (*old, *new), waits.get(old).copied());
            }
        }
    }
}

impl Desk {
    fn timers_read(&mut self, view: &View<'_>, rows: Rows) {
        let (has_lanes, is_keyed) = (self.policy.has_lanes, self.policy.is_keyed());
        let of_row = |row: &MarkRow| match row {
            MarkRow::Timer {
                deliver_at_ms,
                offset,
                lane,
                expires_at_ms,
                message_key,
            } => {
                let due = Due {
                    lane: if has_lanes { *lane } else { 0 },
                    key: if is_keyed { *message_key } else { 0 },
                    expires_at_ms: *expires_at_ms,
                };
                Some(((*deliver_at_ms, *offset), due))
            }
            _ => None,
        };
        let timers: Vec<_> = rows.rows.iter().filter_map(of_row).collect();
        let cursor = self.cursor;
        // With lanes any message may have been passed; one that was not is found twice, and goes out once.
        // The cursor leaves out what was carried, where it keeps its place: that is behind it from the beginning.
        let is_behind = |offset| has_lanes || offset < cursor || view.slot.carried(offset).is_some();
        let elsewhere = &self.elsewhere;
        let is_passed =
            |offset| is_behind(offset) && view.state(offset) == MessageState::Free && !elsewhere.has(offset);
        self.timers.rows(&timers, rows.is_all, is_passed);
    }

    fn lane_read(&mut self, number: u8, rows: Rows) {
        let messages = rows.rows.into_iter().filter_map(|row| match row {
            MarkRow::Lane { messages, .. } => Some(messages),
            _ => None,
        });
        if let Some(lane) = self.lanes.get_mut(&number) {
            lane.rows(messages.flatten(), rows.is_all);
        }
    }

    fn key_read(&mut self, view: &View<'_>, key: u64, rows: &Rows) {
        let mut places = Vec::new();
        let (mut last, mut is_all) = (None, rows.is_all);
        for row in &rows.rows {
            let MarkRow::Key {
                origin,
                offset,
                deliver_at_ms,
                ..
            } = row
            else {
                continue;
            };
            last = Some(*origin);
            if origin == offset && *offset >= self.cursor {
                // From here on the cursor finds them.
                is_all = true;
                break;
            }
            let is_free = view.state(*offset) == MessageState::Free
                && !self.busy.contains(offset)
                && !self.elsewhere.has(*offset);
            if is_free && origin == offset && !self.is_returned(*origin, 0) {
                places.push(Place {
                    origin: *origin,
                    offset: *offset,
                    deliver_at_ms: *deliver_at_ms,
                });
            }
        }
        let next = self.keys.found(key, &places, last, is_all);
        self.go_on(view.slot, key, next);
    }

    /// A message goes on under a new offset: what is known of it here, too.
    fn moved(&mut self, view: &View<'_>, (old, new): (u64, u64), waits: Option<u64>) {
        if let Some(at) = waits {
            self.retries.remove(&(at, old));
            self.retries.insert((at, new));
        }
        let held = match view.state(new) {
            MessageState::Free => None,
            MessageState::Held(held) if held.state == HeldState::Leased => {
                return self.moved_with_lease(view, old, new);
            }
            MessageState::Held(held) if held.state == HeldState::Waiting => Some(*held),
            MessageState::Held(_) | MessageState::Done | MessageState::Beyond => return,
        };
        let Some(origin) = view.slot.carried(new).copied() else {
            // Without an order it stands where it is now. One that is free is found there by the cursor.
            let before = Ready {
                origin: old,
                ..Self::ready_of(view.slot, new, held.as_ref())
            };
            if held.is_some() && waits.is_none() {
                self.withhold(&before);
                self.give_back(Ready { origin: new, ..before });
            }
            return;
        };
        let ready = Ready {
            offset: new,
            origin: origin.origin,
            key: origin.key,
            lane: if self.policy.has_lanes { origin.lane } else { 0 },
            expires_at_ms: 0,
        };
        if self.is_returned(ready.origin, ready.lane) {
            self.withhold(&ready);
            return self.give_back(ready);
        }
        if held.is_some() {
            // It waits for its time, or its grant was under way, which finds nothing at the old place.
            if waits.is_none() {
                self.give_back(ready);
            }
            return;
        }
        if self.busy.contains(&old) {
            // It was to be the next of its key, and is.
            return self.give_back(ready);
        }
        let place = Place {
            origin: ready.origin,
            offset: new,
            deliver_at_ms: origin.deliver_at_ms,
        };
        if self.keys.is_kept_by(ready.key, ready.origin) && !self.keys.seeks(ready.key) {
            // It is the next of its key, and is not due.
            return self.is_next(view.slot, ready.key, place);
        }
        self.keys.unpark(ready.key, ready.origin);
        self.place(view, ready, origin.deliver_at_ms);
    }

    /// A message that is leased goes on under a new offset, with its lease.
    fn moved_with_lease(&mut self, view: &View<'_>, old: u64, new: u64) {
        let ready = Self::ready_of(view.slot, new, view.slot.held(new));
        let before = Ready {
            offset: old,
            // Without an order it stood where it was.
            origin: view.slot.carried(new).map_or(old, |origin| origin.origin),
            ..ready
        };
        self.withhold(&before);
        self.out.carry(old, new);
        self.expiries.carry(old, new);
        // What a command about it is refused for comes again; if a grant is refused, or it waited to go out, it waits here.
        let has_run_out = self.out.get(new).is_none_or(|out| out.deadline == PASSED);
        if has_run_out && !self.busy.contains(&new) {
            self.give_back(ready);
        }
    }

    /// Puts a free message behind the cursor to where it is found: it goes out, or is not due, or its key is busy.
    pub(super) fn place(&mut self, view: &View<'_>, ready: Ready, deliver_at_ms: u64) {
        if self.policy.is_keyed() && ready.key != 0 {
            let place = Place {
                origin: ready.origin,
                offset: ready.offset,
                deliver_at_ms,
            };
            self.keys.park(ready.key, place);
            if !self.keys.is_busy(ready.key) {
                self.free_key(view.slot, ready.key, ready.origin);
            }
        } else if deliver_at_ms > view.wall_ms.unwrap_or(0) {
            let due = Due {
                lane: ready.lane,
                key: 0,
                expires_at_ms: ready.expires_at_ms,
            };
            self.timers.pass((deliver_at_ms, ready.offset), due);
        } else {
            self.give_back(ready);
        }
    }
}
