//! Schedules of queues: messages that are sent again and again. Field names are those of `queue_admin.proto`.

use std::collections::BTreeSet;
use std::time::Duration;

use jangada_proto::v1;
use jangada_proto::v1::put_schedule_request::Timing as PutTiming;
use jangada_proto::v1::schedule::Timing as ListedTiming;
use jangada_types::Reason;

use super::Admin;
use super::queues::queue_error;
use crate::cluster::Repeat;
use crate::error::ClientError;
use crate::queue::QueueMessage;
use crate::wire_error::Failure;

/// When a schedule has its occurrences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleTiming {
    /// As those of cron.
    Cron {
        /// Five fields: minute, hour, day of month, month, day of week.
        expression: String,
        /// The name of a time zone, as `America/Fortaleza`. Empty: UTC.
        time_zone: String,
    },
    /// Every so often, at least a second apart.
    Every(Duration),
}

/// What becomes of occurrences that nobody sent in time: those more than a minute late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// They are left out.
    #[default]
    Skip,
    /// The last of them is sent.
    One,
    /// The last 100 of them are sent.
    All,
}

/// A schedule to put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSchedule {
    /// The name, 1 to 128 bytes. A schedule takes the place of one of the same name and queue.
    pub name: String,
    /// When it has its occurrences.
    pub timing: ScheduleTiming,
    /// No occurrence is before this, milliseconds since the Unix epoch. [`ScheduleTiming::Every`] counts from it. `None`: from now on.
    pub start_ms: Option<u64>,
    /// No occurrence is after this, milliseconds since the Unix epoch. `None`: it has no end.
    pub end_ms: Option<u64>,
    /// What becomes of occurrences that were missed. Default: they are left out.
    pub catch_up: CatchUp,
    /// What is sent, without a message id or a fixed time; at most 4,096 bytes with key and headers.
    pub message: QueueMessage,
}

impl NewSchedule {
    /// A schedule without an end that leaves out what it misses.
    pub fn new(name: impl Into<String>, timing: ScheduleTiming, message: QueueMessage) -> Self {
        Self {
            name: name.into(),
            timing,
            start_ms: None,
            end_ms: None,
            catch_up: CatchUp::default(),
            message,
        }
    }

    fn wire(&self, queue_id: bytes::Bytes) -> v1::PutScheduleRequest {
        let timing = match &self.timing {
            ScheduleTiming::Cron { expression, time_zone } => PutTiming::Cron(v1::CronTiming {
                expression: expression.clone(),
                time_zone: time_zone.clone(),
            }),
            ScheduleTiming::Every(interval) => PutTiming::Every(v1::EveryTiming {
                interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
                anchor_ms: 0,
            }),
        };
        let catch_up = match self.catch_up {
            CatchUp::Skip => v1::CatchUp::Skip,
            CatchUp::One => v1::CatchUp::One,
            CatchUp::All => v1::CatchUp::All,
        };
        v1::PutScheduleRequest {
            name: String::new(),
            queue_id,
            schedule: self.name.clone(),
            timing: Some(timing),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            catch_up: catch_up.into(),
            message: Some(self.message.to_wire()),
        }
    }
}

/// What became of a schedule that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleIsPut {
    /// There was none of the name.
    pub created: bool,
    /// Its next occurrence, milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// The partition that it belongs to, and sends to.
    pub partition: u32,
}

/// A schedule of a queue, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSchedule {
    /// As it was put. What comes every so often is counted from `start_ms`, or from when it was put first.
    pub schedule: NewSchedule,
    /// The partition that it belongs to, and sends to.
    pub partition: u32,
    /// The next occurrence, milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// The occurrence of its last message, milliseconds since the Unix epoch. `None`: it has sent none.
    pub last_ms: Option<u64>,
    /// How many messages it has sent since it was put.
    pub sent: u64,
    /// Why its message was refused when it was to be sent last. `None`: it was not.
    pub refusal: Option<String>,
}

/// The schedules of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSchedules {
    /// The schedules, ordered by name.
    pub schedules: Vec<QueueSchedule>,
    /// Partitions whose leader did not answer: their schedules are missing.
    pub unanswered_partitions: BTreeSet<u32>,
}

fn from_wire(schedule: v1::Schedule, context: &str) -> Result<QueueSchedule, ClientError> {
    let lacks = |what: &str| {
        let message = format!("the answer has a schedule without its {what}");
        ClientError::Refused(Failure::local(tonic::Code::DataLoss, message, true).rejection(context))
    };
    let catch_up = match schedule.catch_up() {
        v1::CatchUp::Unspecified | v1::CatchUp::Skip => CatchUp::Skip,
        v1::CatchUp::One => CatchUp::One,
        v1::CatchUp::All => CatchUp::All,
    };
    let (timing, start_ms) = match schedule.timing.ok_or_else(|| lacks("timing"))? {
        ListedTiming::Cron(cron) => {
            let (expression, time_zone) = (cron.expression, cron.time_zone);
            (ScheduleTiming::Cron { expression, time_zone }, None)
        }
        ListedTiming::Every(every) => {
            let interval = Duration::from_millis(every.interval_ms);
            (ScheduleTiming::Every(interval), Some(every.anchor_ms))
        }
    };
    Ok(QueueSchedule {
        schedule: NewSchedule {
            name: schedule.schedule,
            timing,
            start_ms,
            end_ms: schedule.end_ms,
            catch_up,
            message: QueueMessage::from_wire(schedule.message.ok_or_else(|| lacks("message"))?),
        },
        partition: schedule.partition,
        next_ms: schedule.next_ms,
        last_ms: schedule.last_ms,
        sent: schedule.sent,
        refusal: Some(schedule.refusal).filter(|why| !why.is_empty()),
    })
}

impl Admin {
    /// Has a message sent to a queue again and again. Putting a schedule that is there as it is to be changes nothing.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `INVALID_SCHEDULE`, `INVALID_REQUEST` for its message, `TOO_MANY_SCHEDULES`, `UNKNOWN_QUEUE`, or
    /// `WRONG_QUEUE_KIND` for a queue that reads a topic.
    pub async fn put_schedule(&self, queue: &str, schedule: &NewSchedule) -> Result<ScheduleIsPut, ClientError> {
        let context = format!("put schedule {} of queue {queue}", schedule.name);
        let request = schedule.wire(self.queue_id_of(queue).await?);
        let answer = self.call_queues(&context, Repeat::Always, |mut service| {
            let request = request.clone();
            async move { service.put_schedule(request).await }
        });
        let answer = answer.await.map_err(|failed| queue_error(failed, &context))?;
        Ok(ScheduleIsPut {
            created: answer.created,
            next_ms: answer.next_ms,
            partition: answer.partition,
        })
    }

    /// Deletes a schedule. What it has sent stays. When an attempt ended without an answer and the next one does not find the schedule, it
    /// is taken for deleted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_SCHEDULE` or `UNKNOWN_QUEUE`.
    pub async fn delete_schedule(&self, queue: &str, name: &str) -> Result<(), ClientError> {
        let context = format!("delete schedule {name} of queue {queue}");
        let request = v1::DeleteScheduleRequest {
            name: String::new(),
            queue_id: self.queue_id_of(queue).await?,
            schedule: name.to_owned(),
        };
        let answer = self.call_queues(&context, Repeat::Always, |mut service| {
            let request = request.clone();
            async move { service.delete_schedule(request).await }
        });
        match answer.await {
            Ok(_) => Ok(()),
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::UnknownSchedule) => Ok(()),
            Err(failed) => Err(queue_error(failed, &context)),
        }
    }

    /// All schedules of a queue.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`, or `WRONG_QUEUE_KIND` for a queue that reads a topic.
    pub async fn list_schedules(&self, queue: &str) -> Result<QueueSchedules, ClientError> {
        let context = format!("list schedules of queue {queue}");
        let mut request = v1::ListSchedulesRequest {
            queue_id: self.queue_id_of(queue).await?,
            ..v1::ListSchedulesRequest::default()
        };
        let mut listed = QueueSchedules::default();
        loop {
            let answer = self.call_queues(&context, Repeat::Always, |mut service| {
                let request = request.clone();
                async move { service.list_schedules(request).await }
            });
            let answer = answer.await.map_err(|failed| queue_error(failed, &context))?;
            for schedule in answer.schedules {
                listed.schedules.push(from_wire(schedule, &context)?);
            }
            listed.unanswered_partitions.extend(answer.unanswered_partitions);
            match answer.next_after {
                Some(name) => request.after_schedule = name,
                None => return Ok(listed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(timing: Option<ListedTiming>) -> v1::Schedule {
        v1::Schedule {
            schedule: "nightly".to_owned(),
            partition: 2,
            timing,
            catch_up: v1::CatchUp::All.into(),
            message: Some(QueueMessage::new("clean up").with_priority(3).to_wire()),
            next_ms: 70,
            sent: 4,
            refusal: "the queue is full".to_owned(),
            ..v1::Schedule::default()
        }
    }

    #[test]
    fn what_is_put_is_what_is_listed() {
        let cron = ScheduleTiming::Cron {
            expression: "0 8 * * 1-5".to_owned(),
            time_zone: "America/Fortaleza".to_owned(),
        };
        for timing in [cron, ScheduleTiming::Every(Duration::from_secs(10))] {
            let message = QueueMessage::new("clean up")
                .with_delay(Duration::from_secs(2))
                .with_ttl(Duration::from_secs(9));
            let mut schedule = NewSchedule::new("nightly", timing, message);
            schedule.catch_up = CatchUp::One;
            let put = schedule.wire(bytes::Bytes::new());
            let timing = match put.timing.expect("it is set") {
                PutTiming::Cron(cron) => ListedTiming::Cron(cron),
                PutTiming::Every(every) => ListedTiming::Every(v1::EveryTiming { anchor_ms: 5, ..every }),
            };
            schedule.start_ms = matches!(timing, ListedTiming::Every(_)).then_some(5);
            let read = from_wire(
                v1::Schedule {
                    catch_up: put.catch_up,
                    message: put.message,
                    ..listed(Some(timing))
                },
                "list",
            );
            assert_eq!(read.expect("it is whole").schedule, schedule);
        }
    }

    #[test]
    fn an_answer_that_lacks_something_is_refused_by_name() {
        let error = from_wire(listed(None), "list").expect_err("it has no timing");
        assert!(error.to_string().contains("without its timing"), "{error}");
        let every = ListedTiming::Every(v1::EveryTiming {
            interval_ms: 1_000,
            anchor_ms: 5,
        });
        let schedule = v1::Schedule {
            message: None,
            ..listed(Some(every.clone()))
        };
        let error = from_wire(schedule, "list").expect_err("it has no message");
        assert!(error.to_string().contains("without its message"), "{error}");
        let read = from_wire(listed(Some(every)), "list").expect("it is whole");
        assert_eq!((read.partition, read.sent, read.last_ms), (2, 4, None));
        assert_eq!(read.refusal.as_deref(), Some("the queue is full"));
    }
}
