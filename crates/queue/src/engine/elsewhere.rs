//! Messages that the walk found to be for other slots. They are done by routing, and that is told to the log when something else is, or
//! after a moment: many of them lie side by side, and are one run then.
//!
//! Until it is applied they are free as the slot knows it, so whatever finds messages behind the cursor asks here, too. Where a queue keeps
//! an order, messages are found in other ways: a slot of an exchange's log keeps none.

use std::collections::BTreeMap;

use crate::limits::SECTION_OFFSETS_MAX;
use crate::runs::Runs;

/// They are told to the log after so long, milliseconds, though nothing else is...
const TELL_AFTER_MS: u64 = 1_000;
/// ... or when they are so many runs; and so many in one command, at most.
const RUNS_MAX: usize = 512;
/// Offsets of one run, at most; a command has so many runs of them as it may have offsets.
const RUN_MAX: u64 = 65_536;

/// Messages below the cursor of a slot that are not for it, and are not done.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Runs: the last offset by the first. No run lies on both sides of `told`.
    runs: BTreeMap<u64, u64>,
    /// Commands have all below.
    told: u64,
    /// How many there are.
    count: u64,
    /// When the first was found that no command has, on the monotonic clock.
    since_ms: Option<u64>,
}

impl Elsewhere {
    /// The cursor passes one. Offsets come in ascending order.
    pub(super) fn pass(&mut self, offset: u64, monotonic_ms: u64) {
        self.since_ms.get_or_insert(monotonic_ms);
        self.count += 1;
        match self.runs.last_entry() {
            Some(mut run) if run.get() + 1 == offset && *run.key() >= self.told && offset - *run.key() < RUN_MAX => {
                run.insert(offset);
            }
            _ => _ = self.runs.insert(offset, offset),
        }
    }

    /// Whether a message is one of them.
    pub(super) fn has(&self, offset: u64) -> bool {
        let run = self.runs.range(..=offset).next_back();
        run.is_some_and(|(_, last)| offset <= *last)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// When they are to be told at the latest, on the monotonic clock.
    pub(super) fn due_ms(&self) -> Option<u64> {
        Some(self.since_ms?.saturating_add(TELL_AFTER_MS))
    }

    /// Whether they are to be told by themselves.
    pub(super) fn is_due(&self, monotonic_ms: u64) -> bool {
        let is_many = || self.runs.range(self.told..).nth(RUNS_MAX - 1).is_some();
        self.due_ms().is_some_and(|at| at <= monotonic_ms) || (self.since_ms.is_some() && is_many())
    }

    /// Those for the next command, in so many runs at most; none: there are no more.
    pub(super) fn tell(&mut self, most: usize) -> Option<Runs> {
        self.since_ms?;
        let mut told = Runs::default();
        for (first, last) in self.runs.range(self.told..).take(most.min(RUNS_MAX)) {
            if told.len() + (last - first + 1) > SECTION_OFFSETS_MAX {
                break;
            }
            (*first..=*last).for_each(|offset| told.push(offset));
        }
        self.told = told.runs().last()?.last + 1;
        if self.runs.range(self.told..).next().is_none() {
            self.since_ms = None;
        }
        Some(told)
    }

    /// All from one offset to another, both included, are done, by a command that was applied, or as the log was cut.
    pub(super) fn done(&mut self, first: u64, last: u64) {
        while let Some((from, to)) = self.runs.range(..=last).next_back().map(|(from, to)| (*from, *to)) {
            if to < first {
                break;
            }
            self.runs.remove(&from);
            self.count -= to.min(last) - from.max(first) + 1;
            if to > last {
                self.runs.insert(last + 1, to);
            }
            if from < first {
                self.runs.insert(from, first - 1);
                break;
            }
        }
        if self.runs.range(self.told..).next().is_none() {
            self.since_ms = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_once_and_known_until_they_are_done() {
        let mut elsewhere = Elsewhere::default();
        [3, 4, 5, 9].into_iter().for_each(|offset| elsewhere.pass(offset, 100));
        assert_eq!((elsewhere.len(), elsewhere.due_ms()), (4, Some(1_100)));
        assert!(!elsewhere.is_due(1_099) && elsewhere.is_due(1_100));
        assert_eq!(elsewhere.tell(1), Some(Runs::of(3, 5)));
        assert_eq!(elsewhere.tell(9), Some(Runs::of(9, 9)));
        assert_eq!((elsewhere.tell(9), elsewhere.due_ms()), (None, None));
        // It touches one that a command under way has.
        elsewhere.pass(10, 300);
        assert_eq!(elsewhere.tell(9), Some(Runs::of(10, 10)));
        assert!(elsewhere.has(4) && elsewhere.has(9) && !elsewhere.has(6) && !elsewhere.has(11));
        elsewhere.done(3, 5);
        elsewhere.done(9, 9);
        assert_eq!((elsewhere.len(), elsewhere.has(9), elsewhere.has(10)), (1, false, true));
    }

    #[test]
    fn parts_of_runs_are_done() {
        let mut elsewhere = Elsewhere::default();
        (3..=9).for_each(|offset| elsewhere.pass(offset, 100));
        elsewhere.pass(12, 100);
        elsewhere.done(9, 11);
        assert!(elsewhere.has(8) && !elsewhere.has(9) && elsewhere.has(12));
        elsewhere.done(10, 30);
        elsewhere.done(0, 5);
        assert_eq!((elsewhere.len(), elsewhere.has(5), elsewhere.has(6)), (3, false, true));
        assert_eq!(elsewhere.tell(9), Some(Runs::of(6, 8)));
        elsewhere.done(0, 20);
        assert_eq!((elsewhere.len(), elsewhere.due_ms()), (0, None));
    }

    #[test]
    fn many_runs_do_not_wait() {
        let mut elsewhere = Elsewhere::default();
        (0..RUNS_MAX as u64 - 1).for_each(|at| elsewhere.pass(2 * at, 100));
        assert!(!elsewhere.is_due(100));
        elsewhere.pass(4 * RUNS_MAX as u64, 100);
        assert!(elsewhere.is_due(100));
    }

    #[test]
    fn a_command_names_no_more_than_a_section_may() {
        let mut elsewhere = Elsewhere::default();
        let count = SECTION_OFFSETS_MAX + 10;
        (0..count).for_each(|offset| elsewhere.pass(offset, 100));
        let told = elsewhere.tell(RUNS_MAX).expect("there are some");
        assert_eq!(told, Runs::of(0, SECTION_OFFSETS_MAX - 1));
        assert_eq!(elsewhere.tell(RUNS_MAX), Some(Runs::of(SECTION_OFFSETS_MAX, count - 1)));
    }
}
