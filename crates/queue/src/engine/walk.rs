//! The next message of a slot.

use std::cmp::Reverse;

use jangada_machine::Now;
use jangada_types::planted::{self, Bug};

use crate::command::Mark;
use crate::engine::desk::{Desk, Ready};
use crate::engine::keys::Place;
use crate::engine::outs::PASSED;
use crate::engine::timers::Due;
use crate::ids::SlotId;
use crate::limits::BUSY_KEYS_MAX;
use crate::state::{HeldState, MessageState, Slot, Slots};

/// Offsets that one step looks at, at most. The walk goes on in the next one.
pub(super) const WALK_MAX: u32 = 100_000;

/// Held messages that the walk passes at once, and how many of them count as one offset: they are in the lists already.
const HELD_MAX: u32 = 65_536;
const HELD_OF_WALK: u32 = 16;

/// A batch that is passed at once counts as so many offsets.
const BATCH_OF_WALK: u32 = 8;

/// A slot as a step sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub id: SlotId,
    pub slot: &'a Slot,
    pub slots: &'a Slots,
    /// The partition's next offset.
    pub end: u64,
    /// Nothing from here on is decided: a transaction may be open that it belongs to, or that lies before it.
    pub stable: u64,
    pub now: Now,
    /// The wall clock, while it is to be trusted.
    pub wall_ms: Option<u64>,
}

impl<'a> View<'a> {
    pub(super) fn new(id: SlotId, slot: &'a Slot, slots: &'a Slots, end: u64, now: Now, wall_ms: Option<u64>) -> Self {
        Self {
            id,
            slot,
            slots,
            end,
            stable: if planted::is(Bug::UndecidedHandedOut) {
                end
            } else {
                slots.stable(end)
            },
            now,
            wall_ms,
        }
    }

    /// The state of a message. One that is not decided is not there yet.
    pub(super) fn state(&self, offset: u64) -> MessageState<'_> {
        self.slot.decided_state(offset, (self.stable, self.end))
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Returned,
    Lane(u8),
    Cursor,
}

/// What the next message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Ready(Source, Ready),
    /// There is none.
    Empty,
    /// Rows have to be looked up first.
    Rows,
    /// The walk goes on in the next step.
    Pause,
}

enum Known {
    Plain,
    Mark(Mark),
    Unknown,
}

impl Desk {
    fn mark_of(&mut self, view: &View<'_>, offset: u64) -> Known {
        if offset >= view.slots.marks_end() {
            return Known::Plain;
        }
        let known_to = self.ahead.known_to();
        match self.ahead.mark(offset) {
            Some(mark) => Known::Mark(mark.clone()),
            None if offset < known_to => Known::Plain,
            None => Known::Unknown,
        }
    }

    /// The message at the cursor, which it leaves there.
    fn at_cursor(&mut self, view: &View<'_>, walked: &mut u32) -> Head {
        let head = self.walk(view, walked);
        self.walks = matches!(head, Head::Rows | Head::Pause);
        head
    }

    /// Passes the batch of a message at once, where none of it is due, and all of it is found by rows of timers.
    fn pass_batch(&mut self, view: &View<'_>, offset: u64) -> bool {
        if self.policy.has_lanes || self.policy.is_keyed() || view.slot.keeps_order() {
            return false;
        }
        let now_ms = view.wall_ms.unwrap_or(0);
        let Some((end, not_before_ms)) = self.ahead.not_before(offset).filter(|(_, at)| *at > now_ms) else {
            return false;
        };
        let count = view.slot.free_within(offset, end);
        let passes = self.timers.pass_all(not_before_ms, end, count);
        self.cursor = if passes { end } else { self.cursor };
        passes
    }

    fn walk(&mut self, view: &View<'_>, walked: &mut u32) -> Head {
        self.head_at_ms = None;
        loop {
            let (offset, held) = view.slot.next_free(self.cursor, HELD_MAX);
            *walked += held / HELD_OF_WALK;
            self.cursor = self.cursor.max(offset.min(view.stable));
            if offset >= view.stable {
                return Head::Empty;
            }
            if *walked >= WALK_MAX {
                return Head::Pause;
            }
            *walked += 1;
            if self.pass_batch(view, offset) {
                *walked += BATCH_OF_WALK;
                continue;
            }
            let is_free = view.state(offset) == MessageState::Free && !self.busy.contains(&offset);
            let origin = view.slot.origin(offset);
            // A carried message is in one of the lists from the beginning.
            if !is_free || origin != offset {
                self.cursor = offset + 1;
                continue;
            }
            let mut mark = match self.mark_of(view, offset) {
                Known::Unknown => return Head::Rows,
                Known::Plain => Mark::default(),
                Known::Mark(mark) => mark,
            };
            if !self.policy.has_lanes {
                mark.lane = 0;
            }
            if !mark.slots.has(view.id) {
                if !self.elsewhere.has(offset) {
                    self.elsewhere.pass(offset, view.now.monotonic_ms);
                }
                self.cursor = offset + 1;
                continue;
            }
            let is_in_lane = self.policy.has_lanes && mark.lane > 0;
            if is_in_lane || self.is_returned(origin, mark.lane) {
                self.cursor = offset + 1;
                continue;
            }
            let is_due = mark.deliver_at_ms <= view.wall_ms.unwrap_or(0);
            let has_key = self.policy.is_keyed() && mark.key != 0;
            let is_busy = has_key && self.keys.is_busy(mark.key);
            if has_key && !is_due && !is_busy {
                if self.keys.len() >= BUSY_KEYS_MAX {
                    self.head_at_ms = Some(mark.deliver_at_ms);
                    return Head::Empty;
                }
                // It holds up what has the same key, and nothing else.
                self.keys.take(mark.key, origin);
            }
            if is_busy {
                let deliver_at_ms = mark.deliver_at_ms;
                let place = Place {
                    origin,
                    offset,
                    deliver_at_ms,
                };
                self.keys.pass(mark.key, place);
            }
            if !is_due {
                self.pass_timer(offset, &mark);
            }
            if !is_due || is_busy {
                self.cursor = offset + 1;
                continue;
            }
            self.head_at_ms = Some(mark.expires_at_ms).filter(|at| *at != 0 && self.policy.expired.is_some());
            return Head::Ready(Source::Cursor, ready(offset, &mark));
        }
    }

    fn pass_timer(&mut self, offset: u64, mark: &Mark) {
        let due = Due {
            lane: mark.lane,
            key: if self.policy.is_keyed() { mark.key } else { 0 },
            expires_at_ms: mark.expires_at_ms,
        };
        self.timers.pass((mark.deliver_at_ms, offset), due);
    }

    /// Whether a message that was returned may still go out. One that may not is taken out.
    pub(super) fn is_ready(&mut self, view: &View<'_>, ready: &Ready) -> bool {
        let is_ready = !self.busy.contains(&ready.offset)
            && match view.state(ready.offset) {
                MessageState::Free => true,
                MessageState::Held(held) => match held.state {
                    HeldState::Waiting => true,
                    HeldState::Leased => self.out.get(ready.offset).is_some_and(|out| out.deadline == PASSED),
                    HeldState::Dead | HeldState::Moving | HeldState::Staged => false,
                },
                MessageState::Beyond | MessageState::Done => false,
            };
        if !is_ready {
            self.withhold(ready);
            // Whoever made it done, a cancellation say, did not know its key.
            if !self.busy.contains(&ready.offset) && view.state(ready.offset) == MessageState::Done {
                self.free_key(view.slot, ready.key, ready.origin);
            }
        }
        is_ready
    }

    fn first_returned(&mut self, view: &View<'_>) -> Option<Ready> {
        loop {
            let ready = *self.returned.first_key_value()?.1;
            if self.is_ready(view, &ready) {
                return Some(ready);
            }
        }
    }

    /// The first message of a lane; whether it may have one that is not known.
    fn first_in_lane(&mut self, view: &View<'_>, number: u8) -> (Option<Ready>, bool) {
        loop {
            let lane = self.lanes.get(&number).expect("all lanes are there");
            let Some((offset, mark)) = lane.front().cloned() else {
                return (None, lane.is_blind());
            };
            if offset >= view.stable {
                return (None, false);
            }
            let is_free = view.state(offset) == MessageState::Free && !self.busy.contains(&offset);
            let is_elsewhere = !mark.slots.has(view.id);
            let is_carried = view.slot.origin(offset) != offset;
            let is_due = mark.deliver_at_ms <= view.wall_ms.unwrap_or(0);
            if is_free && !is_elsewhere && !is_carried && !self.is_returned(offset, mark.lane) {
                if is_due {
                    return (Some(ready(offset, &mark)), false);
                }
                self.pass_timer(offset, &mark);
            }
            self.lanes.get_mut(&number).expect("all lanes are there").pop();
        }
    }

    /// The next message to go out, which stays where it is.
    pub(super) fn head(&mut self, view: &View<'_>, walked: &mut u32) -> Head {
        match self.found(view, walked) {
            // It goes out from its new place, in a moment.
            Head::Ready(_, ready) if self.carrying.contains(&ready.offset) => Head::Empty,
            Head::Ready(Source::Returned, ready) if self.expiries.is_unknown(ready.offset) => Head::Rows,
            head => head,
        }
    }

    fn found(&mut self, view: &View<'_>, walked: &mut u32) -> Head {
        if self.policy.has_lanes {
            return self.head_of_lanes(view, walked);
        }
        let returned = self.first_returned(view);
        match (returned, self.at_cursor(view, walked)) {
            (Some(ready), Head::Ready(_, at_cursor)) if at_cursor.origin < ready.origin => {
                Head::Ready(Source::Cursor, at_cursor)
            }
            (Some(ready), _) => Head::Ready(Source::Returned, ready),
            (None, head) => head,
        }
    }

    fn head_of_lanes(&mut self, view: &View<'_>, walked: &mut u32) -> Head {
        let share = match self.policy.min_share {
            0 => u32::MAX,
            share => 100 / u32::from(share),
        };
        let gives_share = self.shares + 1 >= share;
        // Of each lane its first message, the highest lane first.
        let mut best: Option<(Source, Ready)> = None;
        let mut oldest_below: Option<(Source, Ready)> = None;
        let numbers: Vec<u8> = self.lanes.keys().rev().copied().chain([0]).collect();
        for number in numbers {
            let returned = self.first_of_lane_returned(view, number);
            let (at_front, is_blind) = match number {
                0 => match self.at_cursor(view, walked) {
                    Head::Ready(_, ready) => (Some(ready), false),
                    Head::Empty => (None, false),
                    // What is known may go; what is not known lies lower, or behind.
                    blocked if best.is_none() && returned.is_none() => return blocked,
                    _ => (None, false),
                },
                _ => self.first_in_lane(view, number),
            };
            if is_blind && best.is_none() {
                return Head::Rows;
            }
            let source = if number == 0 {
                Source::Cursor
            } else {
                Source::Lane(number)
            };
            let of_lane = match (returned, at_front) {
                (Some(ready), Some(front)) if front.origin < ready.origin => Some((source, front)),
                (Some(ready), _) => Some((Source::Returned, ready)),
                (None, front) => front.map(|front| (source, front)),
            };
            let Some(found) = of_lane else { continue };
            if best.is_none() {
                best = Some(found);
                if !gives_share {
                    break;
                }
            } else if oldest_below.is_none_or(|(_, oldest)| found.1.origin < oldest.origin) {
                oldest_below = Some(found);
            }
        }
        match oldest_below.or(best) {
            Some((source, ready)) => Head::Ready(source, ready),
            None => Head::Empty,
        }
    }

    fn first_of_lane_returned(&mut self, view: &View<'_>, number: u8) -> Option<Ready> {
        loop {
            let mut of_lane = self.returned.range((Reverse(number), 0)..=(Reverse(number), u64::MAX));
            let ready = *of_lane.next()?.1;
            if self.is_ready(view, &ready) {
                return Some(ready);
            }
        }
    }

    /// Takes the message that [`Desk::head`] gave.
    pub(super) fn take(&mut self, source: Source, ready: &Ready) {
        match source {
            Source::Returned => self.withhold(ready),
            Source::Lane(lane) => self.lanes.get_mut(&lane).expect("all lanes are there").pop(),
            Source::Cursor => {
                self.cursor = ready.offset + 1;
                if self.policy.is_keyed() && ready.key != 0 {
                    self.keys.take(ready.key, ready.origin);
                }
            }
        }
    }

    /// Counts a delivery, for the share of lower lanes.
    pub(super) fn count_share(&mut self) {
        let share = match self.policy.min_share {
            0 => return,
            share => 100 / u32::from(share),
        };
        self.shares = if self.shares + 1 >= share { 0 } else { self.shares + 1 };
    }
}

fn ready(offset: u64, mark: &Mark) -> Ready {
    Ready {
        offset,
        origin: offset,
        key: mark.key,
        lane: mark.lane,
        expires_at_ms: mark.expires_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{LogPosition, Offset};

    use super::*;
    use crate::command::{QueueOps, Section};
    use crate::engine::{ConsumerId, Engine, Input, Output, Policy};
    use crate::ids::{AttemptId, QueueId, SessionId};
    use crate::limits::SPAN_MAX;
    use crate::runs::Runs;
    use crate::state::{Context, DoneCause, KeepsOrder, SlotKind};

    const SLOT: SlotId = SlotId(1);

    #[test]
    fn what_is_too_far_behind_a_message_that_is_stuck_is_not_granted_again_and_again() {
        let end = SPAN_MAX + 10;
        let mut slots = Slots::default();
        let open = Section::Open {
            queue: QueueId(1),
            slot_kind: SlotKind::Group,
            order: KeepsOrder::No,
            start: 0,
        };
        let grant = Section::Grant {
            slot: SLOT,
            session: SessionId(1),
            attempt: AttemptId(0),
            duration_ms: 3_600_000,
            messages: Runs::of(0, 0),
            keys: Vec::new(),
            lanes: Vec::new(),
        };
        let context = Context {
            at: LogPosition { term: 1, index: 5 },
            log_start: Offset(0),
            next_offset: Offset(end as i64),
        };
        let ops = QueueOps {
            term: 1,
            sections: vec![open, grant],
            ..QueueOps::default()
        };
        slots.apply(&context, &ops, &());
        slots.change(SLOT, |slot| {
            let done = slot.done.insert(1, SPAN_MAX - 1);
            slot.settled[DoneCause::Acked as usize - 1] += done;
        });
        slots.check(0, end).expect("the state is sound");
        let mut engine = Engine::begin(1, &slots);
        let now = Now {
            monotonic_ms: 1_000_000,
            wall_ms: 1_000_000,
            steady_since_ms: 0,
        };
        let mut step = |slots: &Slots, input| -> usize {
            let outputs = engine.step(slots, end, input, now);
            let grants = outputs.iter().filter_map(|output| match output {
                Output::Propose { ops, .. } => Some(&ops.sections),
                _ => None,
            });
            grants
                .flatten()
                .filter_map(Section::messages)
                .map(|messages| messages.len() as usize)
                .sum()
        };
        let policy = Policy::default();
        assert_eq!(step(&slots, Input::Configure { slot: SLOT, policy }), 0);
        let consumer = ConsumerId(1);
        let attach = Input::Attach {
            consumer,
            slot: SLOT,
            session: SessionId(2),
            lease_ms: 1_000,
            holds: Vec::new(),
        };
        assert_eq!(step(&slots, attach), 0);
        let credit = Input::Credit { consumer, messages: 5 };
        assert_eq!(step(&slots, credit), 0, "their grants would be refused");
        slots.change(SLOT, |slot| {
            slot.finish(0, DoneCause::Acked);
            slot.raise_floor();
        });
        assert_eq!(step(&slots, Input::Tick), 5);
    }
}
