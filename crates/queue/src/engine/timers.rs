//! The messages that are not to go out yet: the next ones are in memory, the others are rows.
//!
//! Only those behind the cursor are here: what lies before it is looked at when the cursor comes. Held: every message behind the cursor
//! that is not due is in `window`, or its key is above `horizon`.

use jangada_types::planted::{self, Bug};
use std::collections::BTreeMap;

use crate::limits::TIMER_WINDOW;

/// A timer's key, as that of its row: time in milliseconds since the Unix epoch, and offset.
pub(super) type TimerKey = (u64, u64);

/// What else is known of a message that is not due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub lane: u8,
    /// The hash of its key; 0: it has none.
    pub key: u64,
    pub expires_at_ms: u64,
}

/// Before all timers.
const BEGIN: TimerKey = (0, 0);
/// Behind all timers.
const NEVER: TimerKey = (u64::MAX, u64::MAX);

#[derive(Debug)]
pub(super) struct Timers {
    window: BTreeMap<TimerKey, Due>,
    /// All timers behind the cursor up to this key are in the window.
    horizon: TimerKey,
    /// What the cursor passed above the horizon while rows were being read: the rows may be from before.
    passed: Option<BTreeMap<TimerKey, Due>>,
    /// The rows that are being read have all messages below this offset.
    read_end: u64,
    /// So many messages were passed and are not due, those that are rows alone included.
    count: u64,
}

impl Default for Timers {
    /// The cursor has passed nothing.
    fn default() -> Self {
        Self {
            window: BTreeMap::new(),
            horizon: NEVER,
            passed: None,
            read_end: 0,
            count: 0,
        }
    }
}

impl Timers {
    /// What the cursor will pass are rows, all of them.
    pub(super) fn unread() -> Self {
        Self {
            horizon: BEGIN,
            ..Self::default()
        }
    }

    /// No row was read yet, and none is being read.
    pub(super) fn is_unread(&self) -> bool {
        self.horizon == BEGIN && self.passed.is_none()
    }

    /// The cursor passes so many messages that are not due, all of them below an offset, if they are rows above the horizon: none of them
    /// is to go out before the time. Says whether they are.
    pub(super) fn pass_all(&mut self, not_before_ms: u64, end: u64, count: u64) -> bool {
        let are_rows = not_before_ms > self.horizon.0 && (self.passed.is_none() || end <= self.read_end);
        self.count += if are_rows { count } else { 0 };
        are_rows
    }

    /// The cursor passes a message that is not due.
    pub(super) fn pass(&mut self, key: TimerKey, due: Due) {
        self.count += 1;
        if key <= self.horizon {
            self.count -= u64::from(self.window.insert(key, due).is_some());
            self.shrink();
        } else if let Some(passed) = self.passed.as_mut().filter(|_| key.1 >= self.read_end) {
            passed.insert(key, due);
            if passed.len() > TIMER_WINDOW {
                passed.pop_last();
            }
        }
    }

    /// A message that the cursor passed before is not due: it keeps its key busy.
    pub(super) fn again(&mut self, key: TimerKey, due: Due) {
        let count = self.count;
        self.pass(key, due);
        if !self.window.contains_key(&key) {
            // A row has it, and it was counted.
            self.count = count;
        }
    }

    /// Leaves the latest to the rows.
    fn shrink(&mut self) {
        while self.window.len() > TIMER_WINDOW {
            self.window.pop_last();
            self.horizon = *self.window.last_key_value().expect("the window is not empty").0;
        }
    }

    /// The next message that is due.
    pub(super) fn pop_due(&mut self, wall_ms: u64) -> Option<(u64, Due)> {
        let wall_ms = if planted::is(Bug::DelayedGoesEarly) {
            wall_ms + 1_000
        } else {
            wall_ms
        };
        let first = self.window.first_entry().filter(|first| first.key().0 <= wall_ms)?;
        let ((_, offset), due) = first.remove_entry();
        self.count = self.count.saturating_sub(1);
        Some((offset, due))
    }

    /// How many messages were passed and are not due.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// A message has another place now.
    pub(super) fn forget(&mut self, key: TimerKey) {
        let was_there = self.window.remove(&key).is_some() || key > self.horizon;
        self.count = self.count.saturating_sub(u64::from(was_there));
    }

    /// Nothing below an offset is there any more. The rows of it are passed over when they come.
    pub(super) fn cut_off(&mut self, floor: u64) {
        let before = self.window.len();
        self.window.retain(|(_, offset), _| *offset >= floor);
        self.count = self.count.saturating_sub((before - self.window.len()) as u64);
        if let Some(passed) = &mut self.passed {
            passed.retain(|(_, offset), _| *offset >= floor);
        }
        if self.horizon == NEVER {
            self.count = self.window.len() as u64;
        }
    }

    /// When the next one in the window is due.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.window.first_key_value().map(|((at, _), _)| *at)
    }

    /// The rows behind this key are needed. At most one look-up is under way. Below `marks_end` all messages have their rows.
    pub(super) fn wants(&mut self, marks_end: u64) -> Option<TimerKey> {
        let wants = self.horizon != NEVER && self.passed.is_none() && self.window.len() < TIMER_WINDOW / 2;
        wants.then(|| {
            self.passed = Some(BTreeMap::new());
            self.read_end = marks_end;
            self.horizon
        })
    }

    /// Rows behind the horizon, of which those behind the cursor count.
    pub(super) fn rows(&mut self, rows: &[(TimerKey, Due)], is_all: bool, is_behind: impl Fn(u64) -> bool) {
        let passed = self.passed.take().unwrap_or_default();
        self.horizon = match rows.last() {
            Some((last, _)) if !is_all => *last,
            // What was passed meanwhile above a full list was left out; the next look-up finds it.
            _ if passed.len() < TIMER_WINDOW => NEVER,
            _ => *passed.last_key_value().expect("it is full").0,
        };
        let horizon = self.horizon;
        let rows = rows.iter().copied().filter(|((_, offset), _)| is_behind(*offset));
        self.window
            .extend(rows.chain(passed).filter(|(key, _)| *key <= horizon));
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_leaves_the_latest_to_the_rows_and_gets_them_again() {
        let mut timers = Timers::default();
        let all = TIMER_WINDOW as u64 * 2;
        // The latest come first, so that each of the others pushes one out.
        (0..all).rev().for_each(|at| timers.pass((at, at), Due::default()));
        assert_eq!((timers.window.len(), timers.next_ms()), (TIMER_WINDOW, Some(0)));
        let mut fired = 0;
        while fired < all {
            while let Some((offset, _)) = timers.pop_due(all) {
                assert_eq!(offset, fired, "in their order");
                fired += 1;
                if timers.window.len() < TIMER_WINDOW / 2 {
                    break;
                }
            }
            if let Some((after, _)) = timers.wants(0) {
                assert_eq!(timers.wants(0), None, "one look-up at a time");
                // One that comes while rows are read, and is not in them.
                let rows: Vec<(TimerKey, Due)> = (after + 1..all.min(after + 1 + 20_000))
                    .map(|at| ((at, at), Due::default()))
                    .collect();
                let is_all = after + 1 + 20_000 >= all;
                timers.rows(&rows, is_all, |_| true);
            } else if timers.window.is_empty() {
                break;
            }
        }
        assert_eq!(fired, all, "none is left out");
    }

    #[test]
    fn what_is_passed_while_rows_are_read_is_not_lost() {
        let mut timers = Timers::default();
        (0..=TIMER_WINDOW as u64).for_each(|at| timers.pass((at, at), Due::default()));
        while timers.window.len() > 10 {
            timers.pop_due(u64::MAX);
        }
        let last = TIMER_WINDOW as u64;
        assert_eq!(timers.wants(last), Some((last - 1, last - 1)));
        timers.pass((last + 5, last + 77), Due::default());
        timers.rows(&[((last, last), Due::default())], true, |_| true);
        let mut rest = Vec::new();
        while let Some((offset, _)) = timers.pop_due(u64::MAX) {
            rest.push(offset);
        }
        assert_eq!(rest[rest.len() - 2..], [last, last + 77]);
    }

    #[test]
    fn what_a_new_leader_passes_stays_rows_until_they_are_read() {
        let mut timers = Timers::unread();
        assert!(timers.is_unread() && timers.pass_all(5, 100, 100));
        timers.pass((3, 100), Due::default());
        assert_eq!((timers.len(), timers.window.len()), (101, 0));
        assert_eq!(timers.wants(101), Some(BEGIN));
        assert!(!timers.is_unread() && timers.pass_all(7, 101, 0));
        assert!(!timers.pass_all(7, 102, 1), "the rows may be from before");
        timers.pass((7, 101), Due::default());
        let rows: Vec<(TimerKey, Due)> = [(3, 100), (5, 0)].map(|key| (key, Due::default())).to_vec();
        timers.rows(&rows, false, |_| true);
        assert_eq!((timers.horizon, timers.len()), ((5, 0), 102));
        assert!(!timers.pass_all(5, 200, 1), "they belong into the window");
        assert_eq!(timers.pop_due(4), Some((100, Due::default())));
    }
}
