//! Messages of schedules that are due: the batch of an occurrence, and its way into the partition's log.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use jangada_log::PartitionReply;
use jangada_queue::engine::Input;
use jangada_queue::schedule::Planner;
use jangada_queue::{Fire, Marks, Schedule, ScheduleCommand};
use jangada_types::{Header, QueueConfig, Reason};

use super::desk::Desk;
use super::outgoing::{Outgoing, pack};
use super::template;
use crate::error::RequestError;
use crate::partition::Partition;

/// The header with the name of the schedule that has sent a message.
const SCHEDULE_HEADER: &str = "jangada-schedule";
/// The header with the occurrence of which a message is: milliseconds since the Unix epoch, in decimal digits.
const OCCURRENCE_HEADER: &str = "jangada-scheduled-at";
/// So many occurrences that are left out at once are counted at most.
const LEFT_OUT_MAX: u64 = 100_000;

/// Sends the message of an occurrence, or leaves it out, and tells the engine if that does not come about. What it comes to is noted where
/// it is applied.
pub(super) async fn fire(desk: Arc<Desk>, partition: Weak<Partition>, fire: Fire, template: Bytes) {
    let key = fire.key.clone();
    let Some(partition) = partition.upgrade() else { return };
    match send(&desk, &partition, fire, &template).await {
        Ok(()) => desk.refused_schedules.clear(&key),
        Err(error) if error.definite => {
            if desk.refused_schedules.note(&key, &error.message) {
                let (partition, schedule) = (&desk.hosted.name, &key.1);
                tracing::warn!(%partition, schedule, %error, "the message of a schedule was refused; it is tried again");
            }
            let is_applied = false;
            desk.put(Input::Scheduled { key, is_applied });
        }
        // Whether the message was sent is not known. A new desk looks at the log, where it is judged by its number.
        Err(_) => desk.end(),
    }
}

async fn send(desk: &Arc<Desk>, partition: &Partition, fire: Fire, template: &Bytes) -> Result<(), RequestError> {
    let Some(spec) = desk.spec_of(fire.key.0) else {
        let message = format!("{}: the queue of the schedule is not known here yet", desk.hosted.title);
        return Err(RequestError::new(Reason::NotReady, message));
    };
    let totals = &partition.metrics().queues;
    let left_out = left_out(desk, &fire);
    let count_left_out = || totals.count(&spec.name, |totals| totals.left_out += left_out);
    if !fire.appends {
        let passed = desk.change_schedule(ScheduleCommand::Fire(fire), Marks::default(), Bytes::new());
        if let PartitionReply::Scheduled = passed.await? {
            count_left_out();
        }
        return Ok(());
    }
    let Outgoing { batch, marks } = build(&fire, template, &spec.config, desk.timers.now().wall_ms)?;
    partition.check_scheduled(&batch)?;
    let bytes = batch.len();
    let mut reserved = desk.reserve((1, bytes as u64), spec.is_limited())?;
    let sent = desk.change_schedule(ScheduleCommand::Fire(fire), marks.unwrap_or_default(), batch);
    if let PartitionReply::Appended { .. } = sent.await? {
        if let Some(reserved) = &mut reserved {
            reserved.is_appended = true;
        }
        partition.count_scheduled(bytes);
        totals.count(&spec.name, |totals| totals.scheduled += 1);
        count_left_out();
    }
    Ok(())
}

/// How many occurrences are left out with this one, or before it.
fn left_out(desk: &Desk, fire: &Fire) -> u64 {
    let schedule = desk.with_state(|state| state.slots().schedule(&fire.key).cloned());
    let is_its = |schedule: &Schedule| (schedule.version, schedule.occurrence) == (fire.version, fire.occurrence);
    let Some(schedule) = schedule.filter(is_its) else {
        return 0;
    };
    let end_ms = match (fire.appends, fire.next_ms) {
        (true, _) => fire.at_ms,
        (false, 0) => desk.timers.now().wall_ms,
        (false, next_ms) => next_ms,
    };
    if schedule.next_ms >= end_ms {
        return 0;
    }
    let planner = Planner::new(&schedule.timing, schedule.until_ms);
    planner.map_or(0, |planner| planner.count(schedule.next_ms, end_ms, LEFT_OUT_MAX))
}

/// The batch of an occurrence, as a send makes it, with what says of which schedule and occurrence it is. No occurrence is a repetition of
/// another one, though they have the same content: their message ids count for nothing.
fn build(fire: &Fire, template: &[u8], config: &QueueConfig, now_ms: u64) -> Result<Outgoing, RequestError> {
    let mut message = template::decode(template).map_err(|error| {
        let message = format!("schedule {:?}: {error}", fire.key.1);
        RequestError::new(Reason::Internal, message)
    })?;
    let header = |key: &str, value: &str| Header {
        key: key.to_owned(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    };
    message.headers.push(header(SCHEDULE_HEADER, &fire.key.1));
    message.headers.push(header(OCCURRENCE_HEADER, &fire.at_ms.to_string()));
    let mut outgoing = pack(std::iter::once(&message), config, now_ms)?;
    if let Some(marks) = &mut outgoing.marks {
        marks.0.iter_mut().for_each(|mark| mark.id = 0);
    }
    Ok(outgoing)
}

#[cfg(test)]
mod tests {
    use jangada_queue::SlotId;
    use jangada_types::batch::decode_records;
    use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
    use jangada_types::queue_config::{Dedup, QueueOrder};

    use super::*;
    use crate::queues::outgoing::{Due, NewMessage, key_hash};

    const NOW_MS: u64 = 1_700_000_000_123;

    fn occurrence() -> Fire {
        Fire {
            term: 1,
            key: (SlotId(1), "nightly".to_owned()),
            version: 3,
            occurrence: 4,
            at_ms: 1_700_000_000_000,
            next_ms: 0,
            appends: true,
        }
    }

    fn message() -> NewMessage {
        NewMessage {
            key: None,
            body: Bytes::from_static(b"clean up"),
            headers: vec![Header {
                key: "of".to_owned(),
                value: None,
            }],
            due: Due::Default,
            priority: 0,
            message_id: None,
            ttl_ms: None,
        }
    }

    fn template(message: &NewMessage) -> Bytes {
        template::encode(message).expect("it is small")
    }

    #[test]
    fn the_message_of_an_occurrence_says_of_which_it_is() {
        let built = build(&occurrence(), &template(&message()), &QueueConfig::default(), NOW_MS).expect("it is built");
        assert_eq!(built.marks, None, "it is plain");
        let records = decode_records(&built.batch, DECOMPRESSED_BYTES_MAX).expect("a batch");
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!(record.value.as_deref(), Some(&b"clean up"[..]));
        assert_eq!(record.timestamp_ms, NOW_MS as i64);
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()))
            .collect();
        let expected: [(&str, Option<&[u8]>); 3] = [
            ("of", None),
            ("jangada-schedule", Some(b"nightly")),
            ("jangada-scheduled-at", Some(b"1700000000000")),
        ];
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_decides_about_a_message_comes_from_its_template_and_the_settings_of_now() {
        let special = NewMessage {
            key: Some(Bytes::from_static(b"customer 7")),
            due: Due::After(500),
            priority: 2,
            ttl_ms: Some(9_000),
            ..message()
        };
        let config = QueueConfig {
            order: QueueOrder::Key,
            dedup: Dedup::Content,
            ..QueueConfig::default()
        };
        let built = build(&occurrence(), &template(&special), &config, NOW_MS).expect("it is built");
        let mark = &built.marks.expect("it is special").0[0];
        assert_eq!((mark.deliver_at_ms, mark.expires_at_ms), (NOW_MS + 500, NOW_MS + 9_000));
        assert_eq!((mark.key, mark.lane), (key_hash(b"customer 7"), 2));
        assert_eq!(mark.id, 0, "occurrences are no repetitions of each other");
        let config = QueueConfig {
            delay_ms: 70,
            ..QueueConfig::default()
        };
        let built = build(&occurrence(), &template(&message()), &config, NOW_MS).expect("it is built");
        assert_eq!(built.marks.expect("it is delayed").0[0].deliver_at_ms, NOW_MS + 70);
    }
}
