//! The timers of all leaders here: both clocks, each group's deadline, and the one task that sleeps until the earliest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jangada_machine::Now;
use jangada_types::GroupId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::hosted::Kind;
use super::replicas::Replicas;
use crate::clock_guard::ClockGuard;

/// How often each leadership is looked at, although a change of leaders wakes the task.
const REFRESH_EVERY_MS: u64 = 5_000;
/// The shortest sleep between two rounds.
const PAUSE_MS: u64 = 5;

/// The deadlines of all leaders of a broker.
pub(crate) struct Timers {
    clock: Arc<ClockGuard>,
    deadlines: Mutex<Deadlines>,
    /// There is an earlier deadline than the task knows, or a kind to be woken.
    changed: Notify,
}

/// The deadlines by group, and the same by time.
#[derive(Default)]
struct Deadlines {
    by_group: BTreeMap<GroupId, u64>,
    by_time: BTreeSet<(u64, GroupId)>,
    /// Kinds of which all groups are to tick.
    kinds: Vec<&'static Kind>,
}

impl Deadlines {
    fn first_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    fn set(&mut self, group: GroupId, deadline_ms: Option<u64>) {
        let before = match deadline_ms {
            Some(deadline_ms) => self.by_group.insert(group, deadline_ms),
            None => self.by_group.remove(&group),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, group));
        }
        if let Some(deadline_ms) = deadline_ms {
            self.by_time.insert((deadline_ms, group));
        }
    }

    /// Takes the groups away whose deadline has passed.
    fn take_due(&mut self, now_ms: u64) -> Vec<GroupId> {
        let mut due = Vec::new();
        while let Some((_, group)) = self.by_time.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.set(group, None);
            due.push(group);
        }
        due
    }
}

impl Timers {
    pub fn new(clock: Arc<ClockGuard>) -> Self {
        Self {
            clock,
            deadlines: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The time by both clocks.
    pub fn now(&self) -> Now {
        Now {
            // First: a clock that is not steady is so since it was asked.
            monotonic_ms: self.clock.monotonic_ms(),
            wall_ms: u64::try_from(self.clock.now_ms()).unwrap_or(0),
            steady_since_ms: self.clock.steady_since_ms(),
        }
    }

    /// A group's leader wants to tick by then, and not at the time that it wanted before. Wakes the task if it would sleep longer.
    pub fn set(&self, group: GroupId, deadline_ms: Option<u64>) {
        let is_earlier = {
            let mut deadlines = self.deadlines.lock();
            let first_ms = deadlines.first_ms();
            deadlines.set(group, deadline_ms);
            deadlines.first_ms() < first_ms || first_ms.is_none()
        };
        if is_earlier && deadline_ms.is_some() {
            self.changed.notify_one();
        }
    }

    /// The leaders of all groups of a kind are to tick at once.
    pub fn wake(&self, kind: &'static Kind) {
        self.deadlines.lock().kinds.push(kind);
        self.changed.notify_one();
    }

    /// Lets leaders tick when something is due, and begin and end with their leaderships, for ever.
    pub async fn run(self: Arc<Self>, replicas: Arc<Replicas>) {
        let mut leaders = replicas.registry.leaders().watch();
        let mut refresh_at_ms = 0;
        loop {
            let has_changed = leaders.has_changed();
            leaders.borrow_and_update();
            let now_ms = self.clock.monotonic_ms();
            match has_changed {
                Err(_) => return,
                Ok(has_changed) if has_changed || now_ms >= refresh_at_ms => {
                    refresh_at_ms = now_ms + REFRESH_EVERY_MS;
                    replicas.each_front(|_, front| front.refresh_leadership());
                }
                Ok(_) => {}
            }
            let (due, kinds) = {
                let mut deadlines = self.deadlines.lock();
                (deadlines.take_due(now_ms), std::mem::take(&mut deadlines.kinds))
            };
            if !kinds.is_empty() {
                replicas.each_front(|hosted, front| {
                    if kinds.contains(&hosted.kind) {
                        front.tick();
                    }
                });
            }
            for front in due.into_iter().filter_map(|group| replicas.any_front(group)) {
                front.tick();
            }
            // Those that ticked have set their next deadlines, of which this task need not be woken.
            let _ = self.changed.notified().now_or_never();
            let until_ms = {
                let deadlines = self.deadlines.lock();
                match deadlines.kinds.is_empty() {
                    true => deadlines.first_ms().unwrap_or(u64::MAX).min(refresh_at_ms),
                    false => 0,
                }
            };
            let pause_ms = until_ms.saturating_sub(self.clock.monotonic_ms()).max(PAUSE_MS);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
                () = self.changed.notified() => {}
                changed = leaders.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_one_deadline_and_the_earliest_are_due_first() {
        let mut deadlines = Deadlines::default();
        for (group, deadline_ms) in [(1, 50), (2, 20), (3, 90), (2, 60), (3, 10)] {
            deadlines.set(GroupId(group), Some(deadline_ms));
        }
        assert_eq!(deadlines.first_ms(), Some(10));
        assert_eq!(deadlines.take_due(9), []);
        assert_eq!(deadlines.take_due(50), [GroupId(3), GroupId(1)]);
        assert_eq!((deadlines.first_ms(), deadlines.by_group.len()), (Some(60), 1));
        deadlines.set(GroupId(2), None);
        deadlines.set(GroupId(2), None);
        assert!(deadlines.by_time.is_empty() && deadlines.by_group.is_empty());
    }
}
