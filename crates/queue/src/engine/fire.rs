//! Schedules that are due: the leader has their messages appended. Each occurrence has a number, by which it is judged when it is applied,
//! so that none is fired twice, whatever leaders think is due.

use jangada_machine::Now;

use crate::command::Fire;
use crate::engine::io::Output;
use crate::engine::step::Engine;
use crate::limits::FIRES_UNDER_WAY_MAX;
use crate::state::{ScheduleKey, Slots};

/// An occurrence that was refused is tried again after so long, milliseconds.
const AGAIN_MS: u64 = 1_000;
/// A schedule whose time zone this broker does not know is looked at again after so long, milliseconds.
const UNKNOWN_ZONE_MS: u64 = 60_000;

impl Engine {
    /// A command about a schedule was applied, or definitely was not.
    pub(super) fn scheduled(&mut self, slots: &Slots, key: ScheduleKey, is_applied: bool, now: Now) {
        self.firing.changed(slots, &key);
        if is_applied {
            self.firing.ended(&key);
        } else {
            self.firing.again(key, now.monotonic_ms + AGAIN_MS);
        }
    }

    /// Has the messages of schedules appended that are due.
    pub(super) fn fire(&mut self, slots: &Slots, now: Now, wall_ms: Option<u64>, out: &mut Vec<Output>) {
        self.firing.learn(slots);
        self.firing.go_on(now.monotonic_ms);
        let Some(wall_ms) = wall_ms.filter(|_| !self.hands_over) else {
            return;
        };
        let room = FIRES_UNDER_WAY_MAX.saturating_sub(self.firing.under_way());
        let due: Vec<ScheduleKey> = self.firing.due(wall_ms).take(room).cloned().collect();
        for key in due {
            let Some(schedule) = slots.schedule(&key) else {
                continue;
            };
            let Some(planner) = self.firing.planner(&key, schedule) else {
                self.firing.again(key, now.monotonic_ms + UNKNOWN_ZONE_MS);
                continue;
            };
            let Some(due) = planner.due(schedule.next_ms, schedule.catch_up, wall_ms) else {
                continue;
            };
            let fire = Fire {
                term: self.term,
                key: key.clone(),
                version: schedule.version,
                occurrence: schedule.occurrence,
                at_ms: due.at_ms,
                next_ms: due.next_ms,
                appends: due.appends,
            };
            self.firing.begins(key);
            let template = schedule.template.clone();
            out.push(Output::Fire { fire, template });
        }
    }
}
