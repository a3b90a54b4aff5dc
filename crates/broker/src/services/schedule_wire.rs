//! Schedules between the contract's messages and the api's structs, as clients send them and as brokers pass them on.

use jangada_proto::internal;
use jangada_proto::v1;
use jangada_proto::v1::put_schedule_request::Timing as PutTiming;
use jangada_proto::v1::schedule::Timing as FoundTiming;
use jangada_queue::schedule::CatchUp;
use jangada_types::{PartitionIndex, QueueId, Reason};

use super::queue_wire::{message_of, message_to, queue_id_to};
use super::record_wire::invalid;
use crate::api::call::queues::QueuePartition;
use crate::api::call::schedules::{DeleteSchedule, PartitionSchedules, PutSchedule, SchedulesHere};
use crate::api::schedules::SchedulesListed;
use crate::error::RequestError;
use crate::queues::{NewSchedule, Recurrence, ScheduleFound, ScheduleIsPut};

/// Schedules that one call lists, unless it says how many.
const LIST_DEFAULT: u32 = 100;
/// Schedules that one call may list.
const LIST_MAX: u32 = 500;
/// The time zone of those that name none.
const UTC: &str = "UTC";

fn catch_up_of(catch_up: i32) -> Result<CatchUp, RequestError> {
    match v1::CatchUp::try_from(catch_up) {
        Ok(v1::CatchUp::Unspecified | v1::CatchUp::Skip) => Ok(CatchUp::Skip),
        Ok(v1::CatchUp::One) => Ok(CatchUp::One),
        Ok(v1::CatchUp::All) => Ok(CatchUp::All),
        Err(_) => Err(invalid(format!(
            "catch_up is {catch_up}, which this broker does not know"
        ))),
    }
}

fn catch_up_to(catch_up: CatchUp) -> i32 {
    let catch_up = match catch_up {
        CatchUp::Skip => v1::CatchUp::Skip,
        CatchUp::One => v1::CatchUp::One,
        CatchUp::All => v1::CatchUp::All,
    };
    catch_up.into()
}

fn cron_of(cron: v1::CronTiming) -> Recurrence {
    let zone = match cron.time_zone.is_empty() {
        true => UTC.to_owned(),
        false => cron.time_zone,
    };
    Recurrence::Cron {
        expression: cron.expression,
        zone,
    }
}

/// A schedule that a client puts.
///
/// # Errors
/// INVALID_SCHEDULE: it has no timing. INVALID_REQUEST: it has no message, or a catch-up rule that this broker does not know.
pub(super) fn put_of(request: v1::PutScheduleRequest) -> Result<NewSchedule, RequestError> {
    let name = request.schedule;
    let recurrence = match request.timing {
        Some(PutTiming::Cron(cron)) => cron_of(cron),
        Some(PutTiming::Every(every)) => Recurrence::Every {
            every_ms: every.interval_ms,
        },
        None => {
            let message = format!("schedule {name:?} does not say when it sends: set `cron` or `every`");
            return Err(RequestError::new(Reason::InvalidSchedule, message));
        }
    };
    let Some(message) = request.message else {
        return Err(invalid(format!("schedule {name:?} has nothing to send: set `message`")));
    };
    Ok(NewSchedule {
        recurrence,
        start_ms: request.start_ms,
        end_ms: request.end_ms,
        catch_up: catch_up_of(request.catch_up)?,
        message: message_of(message),
        name,
    })
}

pub(super) fn put_to((partition, put): (PartitionIndex, ScheduleIsPut)) -> v1::PutScheduleResponse {
    v1::PutScheduleResponse {
        created: put.created,
        next_ms: put.next_ms,
        partition: partition.get(),
    }
}

/// How many schedules a call asks for.
///
/// # Errors
/// INVALID_REQUEST: there are too many.
pub(super) fn list_limit(asked: u32) -> Result<usize, RequestError> {
    match asked {
        0 => Ok(LIST_DEFAULT as usize),
        asked if asked <= LIST_MAX => Ok(asked as usize),
        asked => Err(invalid(format!("limit is {asked}: at most {LIST_MAX}"))
            .with("limit", LIST_MAX)
            .with("actual", asked)),
    }
}

pub(super) fn listed_to(listed: SchedulesListed) -> v1::ListSchedulesResponse {
    let found = |(index, schedule)| found_to(index, schedule);
    v1::ListSchedulesResponse {
        schedules: listed.schedules.into_iter().map(found).collect(),
        next_after: listed.next_after,
        unanswered_partitions: listed.unanswered.into_iter().map(PartitionIndex::get).collect(),
    }
}

fn found_to(index: PartitionIndex, found: ScheduleFound) -> v1::Schedule {
    let timing = match found.recurrence {
        Recurrence::Cron { expression, zone } => FoundTiming::Cron(v1::CronTiming {
            expression,
            time_zone: zone,
        }),
        Recurrence::Every { every_ms } => FoundTiming::Every(v1::EveryTiming {
            interval_ms: every_ms,
            anchor_ms: found.anchor_ms.unwrap_or(0),
        }),
    };
    v1::Schedule {
        schedule: found.name,
        partition: index.get(),
        timing: Some(timing),
        end_ms: found.end_ms,
        catch_up: catch_up_to(found.catch_up),
        message: Some(message_to(found.message)),
        next_ms: found.next_ms,
        last_ms: found.last_ms,
        sent: found.sent,
        refusal: found.refusal,
    }
}

fn found_of(schedule: v1::Schedule) -> Result<ScheduleFound, RequestError> {
    let (recurrence, anchor_ms) = match schedule.timing {
        Some(FoundTiming::Cron(cron)) => (cron_of(cron), None),
        Some(FoundTiming::Every(every)) => {
            let every_ms = every.interval_ms;
            (Recurrence::Every { every_ms }, Some(every.anchor_ms))
        }
        None => return Err(invalid("a schedule that was found has no timing")),
    };
    let message = schedule
        .message
        .ok_or_else(|| invalid("a schedule that was found has no message"))?;
    Ok(ScheduleFound {
        name: schedule.schedule,
        recurrence,
        anchor_ms,
        end_ms: schedule.end_ms,
        catch_up: catch_up_of(schedule.catch_up)?,
        message: message_of(message),
        next_ms: schedule.next_ms,
        last_ms: schedule.last_ms,
        sent: schedule.sent,
        refusal: schedule.refusal,
    })
}

fn at(id: &[u8], partition: u32) -> Result<QueuePartition, RequestError> {
    let queue = QueueId::from_slice(id).ok_or_else(|| invalid("what is passed on names its queue by id"))?;
    let index = PartitionIndex(partition);
    Ok(QueuePartition { queue, index })
}

pub(super) fn pass_put_to(wanted: PutSchedule) -> internal::PutSchedule {
    let PutSchedule { at, schedule } = wanted;
    let timing = match schedule.recurrence {
        Recurrence::Cron { expression, zone } => PutTiming::Cron(v1::CronTiming {
            expression,
            time_zone: zone,
        }),
        Recurrence::Every { every_ms } => PutTiming::Every(v1::EveryTiming {
            interval_ms: every_ms,
            anchor_ms: 0,
        }),
    };
    internal::PutSchedule {
        request: Some(v1::PutScheduleRequest {
            name: String::new(),
            queue_id: queue_id_to(at.queue),
            schedule: schedule.name,
            timing: Some(timing),
            start_ms: schedule.start_ms,
            end_ms: schedule.end_ms,
            catch_up: catch_up_to(schedule.catch_up),
            message: Some(message_to(schedule.message)),
        }),
        partition: at.index.get(),
    }
}

pub(super) fn pass_put_of(message: internal::PutSchedule) -> Result<PutSchedule, RequestError> {
    let request = message
        .request
        .ok_or_else(|| invalid("a schedule that is passed on has a request"))?;
    Ok(PutSchedule {
        at: at(&request.queue_id, message.partition)?,
        schedule: put_of(request)?,
    })
}

/// The answer to a call that was passed on: whoever passed it knows the partition.
pub(super) fn pass_answer_of(answer: &v1::PutScheduleResponse) -> ScheduleIsPut {
    ScheduleIsPut {
        created: answer.created,
        next_ms: answer.next_ms,
    }
}

pub(super) fn pass_delete_to(wanted: DeleteSchedule) -> internal::DeleteSchedule {
    internal::DeleteSchedule {
        request: Some(v1::DeleteScheduleRequest {
            name: String::new(),
            queue_id: queue_id_to(wanted.at.queue),
            schedule: wanted.name,
        }),
        partition: wanted.at.index.get(),
    }
}

pub(super) fn pass_delete_of(message: internal::DeleteSchedule) -> Result<DeleteSchedule, RequestError> {
    let request = message
        .request
        .ok_or_else(|| invalid("a schedule that is passed on has a request"))?;
    Ok(DeleteSchedule {
        at: at(&request.queue_id, message.partition)?,
        name: request.schedule,
    })
}

pub(super) fn here_to(wanted: SchedulesHere) -> internal::SchedulesHere {
    internal::SchedulesHere {
        queue_id: queue_id_to(wanted.queue),
        schedule: wanted.name,
        after_schedule: wanted.after,
        limit: u32::try_from(wanted.limit).unwrap_or(u32::MAX),
    }
}

pub(super) fn here_of(message: internal::SchedulesHere) -> Result<SchedulesHere, RequestError> {
    Ok(SchedulesHere {
        queue: at(&message.queue_id, 0)?.queue,
        name: message.schedule,
        after: message.after_schedule,
        limit: message.limit as usize,
    })
}

pub(super) fn here_answer_to(partitions: Vec<PartitionSchedules>) -> internal::SchedulesHereResponse {
    let of = |PartitionSchedules { index, schedules }| internal::SchedulesOfPartition {
        partition: index.get(),
        schedules: schedules
            .into_iter()
            .map(|schedule| found_to(index, schedule))
            .collect(),
    };
    internal::SchedulesHereResponse {
        partitions: partitions.into_iter().map(of).collect(),
    }
}

pub(super) fn here_answer_of(answer: internal::SchedulesHereResponse) -> Result<Vec<PartitionSchedules>, RequestError> {
    let of = |of: internal::SchedulesOfPartition| {
        Ok(PartitionSchedules {
            index: PartitionIndex(of.partition),
            schedules: of.schedules.into_iter().map(found_of).collect::<Result<_, _>>()?,
        })
    };
    answer.partitions.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn every(interval_ms: u64) -> PutTiming {
        PutTiming::Every(v1::EveryTiming {
            interval_ms,
            anchor_ms: 0,
        })
    }

    fn request(timing: Option<PutTiming>) -> v1::PutScheduleRequest {
        v1::PutScheduleRequest {
            name: String::new(),
            queue_id: queue_id_to(QueueId(8)),
            schedule: "nightly".to_owned(),
            timing,
            start_ms: Some(5),
            end_ms: Some(90),
            catch_up: v1::CatchUp::All.into(),
            message: Some(v1::QueueMessage {
                body: Bytes::from_static(b"clean up"),
                priority: 2,
                ..v1::QueueMessage::default()
            }),
        }
    }

    #[test]
    fn what_is_passed_on_is_there_as_it_was_here() {
        let cron = PutTiming::Cron(v1::CronTiming {
            expression: "0 8 * * 1-5".to_owned(),
            time_zone: "America/Fortaleza".to_owned(),
        });
        for timing in [every(5_000), cron] {
            let sent = internal::PutSchedule {
                request: Some(request(Some(timing))),
                partition: 3,
            };
            let read = pass_put_of(sent.clone()).expect("it is whole");
            assert_eq!(pass_put_to(read), sent);
        }
        let sent = internal::DeleteSchedule {
            request: Some(v1::DeleteScheduleRequest {
                name: String::new(),
                queue_id: queue_id_to(QueueId(8)),
                schedule: "nightly".to_owned(),
            }),
            partition: 3,
        };
        assert_eq!(pass_delete_to(pass_delete_of(sent.clone()).expect("it is whole")), sent);
        let sent = internal::SchedulesHere {
            queue_id: queue_id_to(QueueId(8)),
            schedule: Some("nightly".to_owned()),
            after_schedule: "a".to_owned(),
            limit: 7,
        };
        assert_eq!(here_to(here_of(sent.clone()).expect("it is whole")), sent);
    }

    #[test]
    fn what_is_found_is_here_as_it_was_there() {
        let found = |timing| v1::Schedule {
            schedule: "nightly".to_owned(),
            partition: 3,
            timing: Some(timing),
            end_ms: Some(90),
            catch_up: v1::CatchUp::One.into(),
            message: request(None).message,
            next_ms: 70,
            last_ms: Some(60),
            sent: 4,
            refusal: "the queue is full".to_owned(),
        };
        let cron = FoundTiming::Cron(v1::CronTiming {
            expression: "* * * * *".to_owned(),
            time_zone: "UTC".to_owned(),
        });
        let every = FoundTiming::Every(v1::EveryTiming {
            interval_ms: 1_000,
            anchor_ms: 5,
        });
        let sent = internal::SchedulesHereResponse {
            partitions: vec![
                internal::SchedulesOfPartition {
                    partition: 3,
                    schedules: vec![found(cron), found(every)],
                },
                internal::SchedulesOfPartition {
                    partition: 4,
                    schedules: Vec::new(),
                },
            ],
        };
        let read = here_answer_of(sent.clone()).expect("it is whole");
        assert_eq!(here_answer_to(read), sent);
    }

    #[test]
    fn what_a_schedule_lacks_is_named() {
        let error = put_of(request(None)).expect_err("it has no timing");
        assert_eq!(error.reason, Reason::InvalidSchedule);
        assert!(error.message.contains("`cron` or `every`"), "{error}");
        let nothing = v1::PutScheduleRequest {
            message: None,
            ..request(Some(every(1_000)))
        };
        let error = put_of(nothing).expect_err("it has no message");
        assert!(error.message.contains("`message`"), "{error}");
        let unknown = v1::PutScheduleRequest {
            catch_up: 9,
            ..request(Some(every(1_000)))
        };
        let error = put_of(unknown).expect_err("its rule is not known");
        assert!(error.message.contains("catch_up"), "{error}");
        assert_eq!(list_limit(0), Ok(100));
        let error = list_limit(501).expect_err("there are too many");
        assert_eq!(error.metadata["limit"], "500");
    }
}
