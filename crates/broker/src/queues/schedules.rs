//! Schedules of a queue at its desk: putting, deleting, listing. What is due is the engine's; it is sent by `firing`.

use bytes::Bytes;
use jangada_log::{PartitionCommand, PartitionReply, PartitionState};
use jangada_queue::limits::SCHEDULES_MAX;
use jangada_queue::schedule::{CatchUp, InvalidSchedule, Timing, check_schedule};
use jangada_queue::{Marks, PutSchedule, QueueId, Schedule, ScheduleCommand, ScheduleKey, ScheduleRefused, SlotId};
use jangada_types::Reason;
use jangada_types::limits::QUEUE_DELAY_MS_MAX;

use super::desk::Desk;
use super::outgoing::NewMessage;
use super::spec::QueueSpec;
use super::template;
use crate::error::RequestError;
use crate::replica::UNTIL_ANSWERED;

/// When a schedule has its occurrences, as whoever puts it says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recurrence {
    /// As cron does, in a time zone.
    Cron { expression: String, zone: String },
    /// Every so many milliseconds.
    Every { every_ms: u64 },
}

/// A schedule that is to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSchedule {
    pub name: String,
    pub recurrence: Recurrence,
    /// No occurrence is before it, milliseconds since the Unix epoch; what comes every so often is counted from it.
    pub start_ms: Option<u64>,
    /// No occurrence is after it, milliseconds since the Unix epoch.
    pub end_ms: Option<u64>,
    pub catch_up: CatchUp,
    pub message: NewMessage,
}

/// What became of a schedule that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleIsPut {
    /// There was none of the name.
    pub created: bool,
    /// Its next occurrence, milliseconds since the Unix epoch.
    pub next_ms: u64,
}

/// A schedule as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleFound {
    pub name: String,
    pub recurrence: Recurrence,
    /// What comes every so often is counted from it.
    pub anchor_ms: Option<u64>,
    pub end_ms: Option<u64>,
    pub catch_up: CatchUp,
    pub message: NewMessage,
    pub next_ms: u64,
    /// The occurrence of its last message; none: it has sent none.
    pub last_ms: Option<u64>,
    /// How many messages it has sent.
    pub sent: u64,
    /// Why its message was refused when it was to be sent last; empty: it was not.
    pub refusal: String,
}

fn invalid(name: &str, why: impl std::fmt::Display) -> RequestError {
    RequestError::new(Reason::InvalidSchedule, format!("schedule {name:?}: {why}"))
}

impl NewSchedule {
    /// The timing, and its first occurrence after `now_ms`. `known`: the schedule of the name that is there.
    fn plan(&self, known: Option<&Schedule>, template: &[u8], now_ms: u64) -> Result<(Timing, u64), RequestError> {
        if let Some(start_ms) = self.start_ms.filter(|start_ms| *start_ms > now_ms + QUEUE_DELAY_MS_MAX) {
            let why = format!("it begins at {start_ms}, which is more than ten years ahead");
            return Err(invalid(&self.name, why).with("limit", now_ms + QUEUE_DELAY_MS_MAX));
        }
        let timing = match &self.recurrence {
            Recurrence::Cron { expression, zone } => Timing::Cron {
                expression: expression.clone(),
                zone: zone.clone(),
            },
            Recurrence::Every { every_ms } => {
                // Whoever puts the same again does not move its occurrences.
                let same = known.and_then(|known| match known.timing {
                    Timing::Every {
                        every_ms: as_before,
                        anchor_ms,
                    } if as_before == *every_ms => Some(anchor_ms),
                    _ => None,
                });
                Timing::Every {
                    every_ms: *every_ms,
                    anchor_ms: self.start_ms.or(same).unwrap_or(now_ms),
                }
            }
        };
        let after_ms = self
            .start_ms
            .map_or(now_ms, |start_ms| now_ms.max(start_ms.saturating_sub(1)));
        let next_ms = check_schedule(&self.name, &timing, self.until_ms(), template, after_ms);
        let next_ms = next_ms.map_err(|error| match error {
            InvalidSchedule::Never => invalid(
                &self.name,
                "it has no occurrence between its start, or now, and its end",
            ),
            other => invalid(&self.name, other),
        })?;
        Ok((timing, next_ms))
    }

    /// The end as the state has it: 0 is none.
    fn until_ms(&self) -> u64 {
        self.end_ms.map_or(0, |end_ms| end_ms.max(1))
    }
}

impl Desk {
    /// Puts a schedule, in place of one of the same name. One that is there as it is to be stays, with what it has sent.
    ///
    /// # Errors
    /// INVALID_SCHEDULE, TOO_MANY_SCHEDULES, INVALID_REQUEST (its message), and those of a queue's partition.
    pub async fn put_schedule(&self, queue: QueueId, wanted: &NewSchedule) -> Result<ScheduleIsPut, RequestError> {
        let key = (self.slot(queue)?, wanted.name.clone());
        let template = template::encode(&wanted.message)?;
        let known = self.with_state(|state| state.slots().schedule(&key).cloned());
        let now_ms = self.timers.now().wall_ms;
        let (timing, next_ms) = wanted.plan(known.as_ref(), &template, now_ms)?;
        let is_there = known.as_ref().is_some_and(|known| {
            let is_same = known.timing == timing
                && known.until_ms == wanted.until_ms()
                && known.catch_up == wanted.catch_up
                && known.template == template;
            // One that is due is about to be sent, and goes on by itself.
            is_same && (known.next_ms == next_ms || known.next_ms <= now_ms)
        });
        if !is_there {
            let put = PutSchedule {
                key: key.clone(),
                timing,
                until_ms: wanted.until_ms(),
                catch_up: wanted.catch_up,
                template,
                next_ms,
            };
            let put = self.change_schedule(ScheduleCommand::Put(put), Marks::default(), Bytes::new());
            self.changed(queue, &key, put.await?)?;
            self.refused_schedules.clear(&key);
        }
        Ok(ScheduleIsPut {
            created: known.is_none(),
            next_ms,
        })
    }

    /// Deletes a schedule.
    ///
    /// # Errors
    /// UNKNOWN_SCHEDULE, and those of a queue's partition.
    pub async fn delete_schedule(&self, queue: QueueId, name: &str) -> Result<(), RequestError> {
        let key = (self.slot(queue)?, name.to_owned());
        let delete = ScheduleCommand::Delete { key: key.clone() };
        let reply = self.change_schedule(delete, Marks::default(), Bytes::new()).await?;
        self.refused_schedules.clear(&key);
        self.changed(queue, &key, reply)
    }

    /// The schedules of a queue here, by name: of one name, or so many behind a name.
    ///
    /// # Errors
    /// Those of a queue's partition. INTERNAL: this build cannot read one.
    pub fn schedules(
        &self,
        queue: QueueId,
        name: Option<&str>,
        (after, limit): (&str, usize),
    ) -> Result<Vec<ScheduleFound>, RequestError> {
        let slot = self.slot(queue)?;
        let is_wanted = |((of, found), _): &(&ScheduleKey, &Schedule)| {
            *of == slot && name.is_none_or(|name| name == found) && &**found > after
        };
        let found: Vec<(ScheduleKey, Schedule)> = self.with_state(|state| {
            let wanted = state.slots().schedules().filter(is_wanted).take(limit);
            wanted.map(|(key, schedule)| (key.clone(), schedule.clone())).collect()
        });
        found
            .into_iter()
            .map(|(key, schedule)| self.found(key, schedule))
            .collect()
    }

    fn found(&self, key: ScheduleKey, schedule: Schedule) -> Result<ScheduleFound, RequestError> {
        let message = template::decode(&schedule.template).map_err(|error| {
            let message = format!("{}: schedule {:?}: {error}", self.hosted.title, key.1);
            RequestError::new(Reason::Internal, message)
        })?;
        let refusal = self.refused_schedules.of(&key);
        let (recurrence, anchor_ms) = match schedule.timing {
            Timing::Cron { expression, zone } => (Recurrence::Cron { expression, zone }, None),
            Timing::Every { every_ms, anchor_ms } => (Recurrence::Every { every_ms }, Some(anchor_ms)),
        };
        let set = |ms: u64| Some(ms).filter(|ms| *ms != 0);
        Ok(ScheduleFound {
            name: key.1,
            recurrence,
            anchor_ms,
            end_ms: set(schedule.until_ms),
            catch_up: schedule.catch_up,
            message,
            next_ms: schedule.next_ms,
            last_ms: set(schedule.last_ms),
            sent: schedule.fired,
            refusal,
        })
    }

    /// The queue of a slot; none: it is gone, as far as this broker knows.
    pub(super) fn spec_of(&self, slot: SlotId) -> Option<QueueSpec> {
        let slots = self.slots.read();
        let (_, spec) = slots.values().find(|(id, _)| *id == slot)?;
        Some(spec.clone())
    }

    /// Has a change of a schedule go through the partition's log.
    pub(super) async fn change_schedule(
        &self,
        change: ScheduleCommand,
        marks: Marks,
        batch: Bytes,
    ) -> Result<PartitionReply, RequestError> {
        let command = PartitionCommand::Schedule {
            change: Box::new(change),
            marks,
            batch,
        };
        let refused = |error| self.hosted.propose_error(&error);
        let submitted = self.hosted.group.submit::<PartitionState>(command).await;
        let mut proposal = submitted.map_err(refused)?;
        let applied = proposal.applied(UNTIL_ANSWERED).await.map_err(refused)?;
        Ok(applied.reply)
    }

    /// What a change of a schedule came to, for whoever asked for it.
    fn changed(&self, queue: QueueId, (_, name): &ScheduleKey, reply: PartitionReply) -> Result<(), RequestError> {
        let title = &self.hosted.title;
        match reply {
            PartitionReply::ScheduleRefused(ScheduleRefused::UnknownSlot) => Err(self.unknown_queue(queue)),
            PartitionReply::ScheduleRefused(ScheduleRefused::TooMany) => {
                let message = format!(
                    "{title}: it has {SCHEDULES_MAX} schedules, and may have no more: delete some, or give the queue more partitions"
                );
                Err(RequestError::new(Reason::TooManySchedules, message).with("limit", SCHEDULES_MAX))
            }
            PartitionReply::ScheduleRefused(ScheduleRefused::UnknownSchedule) => {
                let message = format!("{title}: the queue has no schedule {name:?}");
                Err(RequestError::new(Reason::UnknownSchedule, message))
            }
            PartitionReply::Scheduled => Ok(()),
            other => {
                let message = format!("{title}: an answer to something else: {other:?}");
                Err(RequestError::new(Reason::Internal, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::outgoing::Due;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn every(every_ms: u64) -> NewSchedule {
        NewSchedule {
            name: "tick".to_owned(),
            recurrence: Recurrence::Every { every_ms },
            start_ms: None,
            end_ms: None,
            catch_up: CatchUp::Skip,
            message: NewMessage {
                key: None,
                body: Bytes::from_static(b"tick"),
                headers: Vec::new(),
                due: Due::Default,
                priority: 0,
                message_id: None,
                ttl_ms: None,
            },
        }
    }

    fn known(timing: Timing) -> Schedule {
        Schedule {
            version: 1,
            occurrence: 0,
            next_ms: 0,
            fired: 0,
            last_ms: 0,
            timing,
            until_ms: 0,
            catch_up: CatchUp::Skip,
            template: Bytes::new(),
        }
    }

    #[test]
    fn what_comes_every_so_often_is_counted_from_its_start_or_from_when_it_was_put_first() {
        let plan =
            |wanted: &NewSchedule, known: Option<&Schedule>| wanted.plan(known, b"", NOW_MS).expect("it is valid");
        let (timing, next_ms) = plan(&every(5_000), None);
        assert_eq!(next_ms, NOW_MS + 5_000);
        let (_, next_ms) = every(5_000)
            .plan(Some(&known(timing.clone())), b"", NOW_MS + 7_000)
            .expect("it is valid");
        assert_eq!(next_ms, NOW_MS + 10_000, "put again, it keeps its time");
        let (_, next_ms) = plan(&every(4_000), Some(&known(timing)));
        assert_eq!(next_ms, NOW_MS + 4_000, "with another rule it begins anew");
        for (start_ms, next) in [(NOW_MS + 90_000, NOW_MS + 90_000), (NOW_MS - 2_000, NOW_MS + 3_000)] {
            let wanted = NewSchedule {
                start_ms: Some(start_ms),
                ..every(5_000)
            };
            assert_eq!(plan(&wanted, None).1, next);
        }
    }

    #[test]
    fn a_schedule_without_an_occurrence_is_refused_with_its_name() {
        let refused = |wanted: NewSchedule| {
            let error = wanted.plan(None, b"", NOW_MS).expect_err("it has none");
            assert_eq!(error.reason, Reason::InvalidSchedule);
            assert!(error.message.contains("\"tick\""), "{error}");
            error.message
        };
        for end_ms in [0, NOW_MS, NOW_MS + 4_999] {
            let said = refused(NewSchedule {
                end_ms: Some(end_ms),
                ..every(5_000)
            });
            assert!(said.contains("no occurrence"), "{said}");
        }
        let said = refused(NewSchedule {
            start_ms: Some(NOW_MS + 10_000),
            end_ms: Some(NOW_MS + 9_000),
            ..every(5_000)
        });
        assert!(said.contains("its start"), "{said}");
        let said = refused(NewSchedule {
            start_ms: Some(u64::MAX),
            ..every(5_000)
        });
        assert!(said.contains("ten years"), "{said}");
        let said = refused(every(10));
        assert!(said.contains("1000 ms"), "{said}");
    }
}
