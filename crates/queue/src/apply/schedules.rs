//! What becomes of schedules. An occurrence is judged by its number alone, never by a clock.

use jangada_types::planted::{self, Bug};

use crate::command::{Fire, PutSchedule, ScheduleRefused};
use crate::limits::SCHEDULES_MAX;
use crate::state::{Context, Schedule, ScheduleKey, Slots};

impl Slots {
    /// Puts a schedule.
    ///
    /// # Errors
    /// Nothing changed.
    pub fn put_schedule(&mut self, context: &Context, put: &PutSchedule) -> Result<(), ScheduleRefused> {
        if !self.slots.contains_key(&put.key.0) {
            return Err(ScheduleRefused::UnknownSlot);
        }
        if self.schedules.len() >= SCHEDULES_MAX && !self.schedules.contains_key(&put.key) {
            return Err(ScheduleRefused::TooMany);
        }
        let schedule = Schedule {
            version: context.at.index + 1,
            occurrence: 0,
            next_ms: put.next_ms,
            fired: 0,
            last_ms: 0,
            timing: put.timing.clone(),
            until_ms: put.until_ms,
            catch_up: put.catch_up,
            template: put.template.clone(),
        };
        self.schedules.insert(put.key.clone(), schedule);
        Ok(())
    }

    /// Deletes a schedule.
    ///
    /// # Errors
    /// There is none.
    pub fn delete_schedule(&mut self, key: &ScheduleKey) -> Result<(), ScheduleRefused> {
        self.schedules
            .remove(key)
            .map(drop)
            .ok_or(ScheduleRefused::UnknownSchedule)
    }

    /// Whether an occurrence is the next one of its schedule. To be asked before its message is appended.
    ///
    /// # Errors
    /// The message must not be appended.
    pub fn judge_fire(&self, context: &Context, fire: &Fire) -> Result<(), ScheduleRefused> {
        if fire.term != context.at.term && !planted::is(Bug::ScheduleFiresTwice) {
            return Err(ScheduleRefused::LeaderChanged);
        }
        let schedule = self.schedules.get(&fire.key).ok_or(ScheduleRefused::UnknownSchedule)?;
        let is_next = (schedule.version, schedule.occurrence) == (fire.version, fire.occurrence);
        if !is_next && !planted::is(Bug::ScheduleFiresTwice) {
            return Err(ScheduleRefused::NotNext);
        }
        Ok(())
    }

    /// The message of an occurrence was appended, if it has one: the schedule goes on. [`Slots::judge_fire`] has allowed it.
    pub fn fired(&mut self, fire: &Fire) {
        let Some(schedule) = self.schedules.get_mut(&fire.key) else {
            return;
        };
        schedule.occurrence += 1;
        schedule.next_ms = fire.next_ms;
        if fire.appends {
            schedule.fired += 1;
            schedule.last_ms = fire.at_ms;
        }
        if fire.next_ms == 0 {
            self.schedules.remove(&fire.key);
        }
    }
}
