//! Which schedules are due, as the leader knows them.

use std::collections::{BTreeMap, BTreeSet};

use crate::schedule::Planner;
use crate::state::{Schedule, ScheduleKey, Slots};

/// Schedules by the time of their next occurrence.
#[derive(Debug, Default)]
pub(super) struct Firing {
    due: BTreeSet<(u64, ScheduleKey)>,
    /// The time with which each stands in `due`.
    times: BTreeMap<ScheduleKey, u64>,
    /// What the timings of versions say; none: this broker cannot read one, for its time zones are other ones.
    planners: BTreeMap<ScheduleKey, (u64, Option<Planner>)>,
    /// Occurrences under way; and when one that was refused is tried again, on the monotonic clock.
    under_way: BTreeMap<ScheduleKey, Option<u64>>,
    /// The schedules of the state are these.
    is_known: bool,
}

impl Firing {
    /// A schedule of the state has changed.
    pub(super) fn changed(&mut self, slots: &Slots, key: &ScheduleKey) {
        if !self.is_known {
            return;
        }
        if let Some(at) = self.times.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
        match slots.schedule(key) {
            Some(schedule) => self.takes(key, schedule),
            None => drop(self.planners.remove(key)),
        }
    }

    /// Takes the schedules of the state, if it does not know them yet.
    pub(super) fn learn(&mut self, slots: &Slots) {
        if !std::mem::replace(&mut self.is_known, true) {
            slots.schedules().for_each(|(key, schedule)| self.takes(key, schedule));
        }
    }

    fn takes(&mut self, key: &ScheduleKey, schedule: &Schedule) {
        self.due.insert((schedule.next_ms, key.clone()));
        self.times.insert(key.clone(), schedule.next_ms);
    }

    /// How many occurrences are under way; those that were refused and wait are not.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.values().filter(|again| again.is_none()).count()
    }

    /// An occurrence is under way.
    pub(super) fn begins(&mut self, key: ScheduleKey) {
        self.under_way.insert(key, None);
    }

    /// What a command about a schedule came to is known.
    pub(super) fn ended(&mut self, key: &ScheduleKey) {
        self.under_way.remove(key);
    }

    /// An occurrence is tried again at a time on the monotonic clock.
    pub(super) fn again(&mut self, key: ScheduleKey, at_ms: u64) {
        self.under_way.insert(key, Some(at_ms));
    }

    /// Those that were to wait until now wait no longer.
    pub(super) fn go_on(&mut self, monotonic_ms: u64) {
        self.under_way
            .retain(|_, again| again.is_none_or(|at| at > monotonic_ms));
    }

    /// The schedules that are due and not under way, by their time.
    pub(super) fn due(&self, wall_ms: u64) -> impl Iterator<Item = &ScheduleKey> {
        let due = self.due.iter().take_while(move |(at, _)| *at <= wall_ms);
        due.map(|(_, key)| key).filter(|key| !self.under_way.contains_key(*key))
    }

    /// Whether any waits for its time, due by now or not.
    pub(super) fn is_awaited(&self) -> bool {
        self.due.len() > self.under_way.len()
    }

    /// When the next one is due that is not yet, on the wall clock.
    pub(super) fn next_wall_ms(&self, wall_ms: u64) -> Option<u64> {
        self.due
            .range((wall_ms + 1, ScheduleKey::default())..)
            .next()
            .map(|(at, _)| *at)
    }

    /// When one that was refused is tried again, on the monotonic clock.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.under_way.values().flatten().copied().min()
    }

    /// What the timing of a schedule says.
    pub(super) fn planner(&mut self, key: &ScheduleKey, schedule: &Schedule) -> Option<&Planner> {
        let known = self
            .planners
            .get(key)
            .is_some_and(|(version, _)| *version == schedule.version);
        if !known {
            let planner = Planner::new(&schedule.timing, schedule.until_ms).ok();
            self.planners.insert(key.clone(), (schedule.version, planner));
        }
        self.planners.get(key)?.1.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SlotId;

    #[test]
    fn an_occurrence_that_was_refused_and_waits_takes_no_place() {
        let mut firing = Firing::default();
        let key = |name: &str| (SlotId(1), name.to_owned());
        firing.begins(key("refused"));
        firing.begins(key("under way"));
        assert_eq!(firing.under_way(), 2);
        firing.again(key("refused"), 1_000);
        assert_eq!((firing.under_way(), firing.next_ms()), (1, Some(1_000)));
        firing.go_on(1_000);
        assert_eq!((firing.under_way(), firing.next_ms()), (1, None));
    }
}
