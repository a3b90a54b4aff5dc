//! Calls about all messages of a queue in one partition, as clients send them and as brokers pass them on.

use std::num::NonZeroU32;

use jangada_controller::QueueStart;
use jangada_proto::internal;
use jangada_proto::v1::{self, seek_queue_request::Start};
use jangada_types::{PartitionIndex, QueueId, Reason};

use super::names;
use crate::api::call::queue_admin::{
    AskUnused, DeadDone, DeadFilter, DeadFound, DeadLetter, DeadWanted, DepthTally, ExpiryStep, PurgeQueue, QueueAt,
    QueueDepth, SeekQueue, SeekTo,
};
use crate::api::queue_redrive::{Redrive, Redriven};
use crate::api::resolve::QueueName;
use crate::error::RequestError;
use crate::queues::OldestAge;

/// Dead letters that one call looks at, at most.
const DEAD_MAX: u32 = 1_000;

fn invalid(what: impl Into<String>) -> RequestError {
    RequestError::new(Reason::InvalidRequest, what)
}

fn at(queue_id: &[u8], name: String, partition: u32) -> Result<QueueAt, RequestError> {
    Ok(QueueAt {
        queue: names::queue(queue_id, name)?,
        index: PartitionIndex(partition),
    })
}

fn offset(field: &str, offset: i64) -> Result<u64, RequestError> {
    u64::try_from(offset).map_err(|_| invalid(format!("{field} is {offset}: offsets are 0 or more")))
}

fn offset_to(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

fn name_to(at: &QueueAt) -> (String, bytes::Bytes) {
    match &at.queue {
        QueueName::Id(id) => (String::new(), id_to(*id)),
        QueueName::Name(name) => (name.clone(), bytes::Bytes::new()),
    }
}

pub(super) fn id_to(id: QueueId) -> bytes::Bytes {
    id.to_bytes().to_vec().into()
}

pub(super) fn purge_of(request: v1::PurgeQueueRequest) -> Result<PurgeQueue, RequestError> {
    let before = request.before_offset.map(|before| offset("before_offset", before));
    Ok(PurgeQueue {
        at: at(&request.queue_id, request.name, request.partition)?,
        before: before.transpose()?,
    })
}

pub(super) fn purge_to(request: &PurgeQueue) -> v1::PurgeQueueRequest {
    let (name, queue_id) = name_to(&request.at);
    v1::PurgeQueueRequest {
        name,
        queue_id,
        partition: request.at.index.get(),
        before_offset: request.before.map(offset_to),
    }
}

pub(super) fn seek_of(request: v1::SeekQueueRequest) -> Result<SeekQueue, RequestError> {
    let to = match request.start {
        None => return Err(invalid("the request says not where to begin: set one of `start`")),
        Some(Start::Earliest(_)) => SeekTo::Start(QueueStart::Earliest),
        Some(Start::Latest(_)) => SeekTo::Start(QueueStart::Latest),
        Some(Start::TimestampMs(timestamp_ms @ 0..)) => SeekTo::Start(QueueStart::Timestamp(timestamp_ms)),
        Some(Start::TimestampMs(timestamp_ms)) => {
            return Err(invalid(format!("timestamp_ms is {timestamp_ms}: give 0 or more")));
        }
        Some(Start::Offset(at)) => SeekTo::Offset(offset("offset", at)?),
    };
    Ok(SeekQueue {
        at: at(&request.queue_id, request.name, request.partition)?,
        to,
    })
}

pub(super) fn seek_to(request: &SeekQueue) -> v1::SeekQueueRequest {
    let (name, queue_id) = name_to(&request.at);
    v1::SeekQueueRequest {
        name,
        queue_id,
        partition: request.at.index.get(),
        start: Some(match request.to {
            SeekTo::Start(QueueStart::Earliest) => Start::Earliest(true),
            SeekTo::Start(QueueStart::Latest) => Start::Latest(true),
            SeekTo::Start(QueueStart::Timestamp(timestamp_ms)) => Start::TimestampMs(timestamp_ms),
            SeekTo::Offset(offset) => Start::Offset(offset_to(offset)),
        }),
    }
}

pub(super) fn sought_to(offset: u64) -> v1::SeekQueueResponse {
    let offset = offset_to(offset);
    v1::SeekQueueResponse { offset }
}

pub(super) fn dead_of(request: v1::DeadRequest) -> Result<DeadWanted, RequestError> {
    if request.max_messages > DEAD_MAX {
        let message = format!(
            "max_messages is {}: at most {DEAD_MAX} in one call",
            request.max_messages
        );
        return Err(invalid(message).with("limit", DEAD_MAX));
    }
    let most = if request.max_messages == 0 {
        DEAD_MAX
    } else {
        request.max_messages
    };
    Ok(DeadWanted {
        at: at(&request.queue_id, request.name, request.partition)?,
        from: offset("from_offset", request.from_offset)?,
        most: most as usize,
        filter: filter_of(request.filter.unwrap_or_default())?,
        is_dry: request.dry_run,
    })
}

pub(super) fn filter_of(filter: v1::DeadFilter) -> Result<DeadFilter, RequestError> {
    const REASONS: [&str; 4] = ["attempts", "rejected", "expired", "length"];
    let mut unknown = filter
        .reasons
        .iter()
        .filter(|reason| !REASONS.contains(&reason.as_str()));
    if let Some(unknown) = unknown.next() {
        let message = format!(
            "no message is dead for the reason {unknown:?}: there are {}",
            REASONS.join(", ")
        );
        return Err(invalid(message));
    }
    Ok(DeadFilter {
        reasons: filter.reasons,
        died_from_ms: filter.died_from_ms,
        died_before_ms: filter.died_before_ms,
        key: filter.key,
    })
}

pub(super) fn dead_to(wanted: DeadWanted) -> v1::DeadRequest {
    let (name, queue_id) = name_to(&wanted.at);
    let DeadFilter {
        reasons,
        died_from_ms,
        died_before_ms,
        key,
    } = wanted.filter;
    v1::DeadRequest {
        name,
        queue_id,
        partition: wanted.at.index.get(),
        from_offset: offset_to(wanted.from),
        max_messages: u32::try_from(wanted.most).unwrap_or(DEAD_MAX),
        filter: Some(v1::DeadFilter {
            reasons,
            died_from_ms,
            died_before_ms,
            key,
        }),
        dry_run: wanted.is_dry,
    }
}

pub(super) fn redrive_of(request: v1::RedriveDeadRequest) -> Result<Redrive, RequestError> {
    let places = request.places.into_iter().map(|place| {
        let offset = offset("offset", place.offset)?;
        Ok((PartitionIndex(place.partition), offset))
    });
    Ok(Redrive {
        queue: names::queue(&request.queue_id, request.name)?,
        places: places.collect::<Result<_, RequestError>>()?,
        filter: filter_of(request.filter.unwrap_or_default())?,
        rate: NonZeroU32::new(request.rate),
        is_dry: request.dry_run,
    })
}

pub(super) fn redriven_to(progress: &Redriven) -> v1::RedriveDeadResponse {
    let left = progress.left.iter().map(|(index, offset)| v1::DeadPlace {
        partition: index.get(),
        offset: offset_to(*offset),
    });
    v1::RedriveDeadResponse {
        messages: progress.messages,
        refused: progress.refused,
        left: left.collect(),
    }
}

pub(super) fn found_to(found: DeadFound) -> v1::ListDeadResponse {
    let letter = |letter: DeadLetter| v1::DeadLetter {
        offset: offset_to(letter.offset),
        reason: letter.reason,
        failures: letter.failures.into(),
        deliveries: letter.deliveries.into(),
        died_at_ms: letter.died_at_ms,
    };
    v1::ListDeadResponse {
        messages: found.letters.into_iter().map(letter).collect(),
        next_offset: found.next.map(offset_to),
    }
}

pub(super) fn found_of(response: v1::ListDeadResponse) -> DeadFound {
    let letter = |letter: v1::DeadLetter| DeadLetter {
        offset: letter.offset.unsigned_abs(),
        reason: letter.reason,
        failures: u16::try_from(letter.failures).unwrap_or(u16::MAX),
        deliveries: u16::try_from(letter.deliveries).unwrap_or(u16::MAX),
        died_at_ms: letter.died_at_ms,
    };
    DeadFound {
        letters: response.messages.into_iter().map(letter).collect(),
        next: response.next_offset.map(i64::unsigned_abs),
    }
}

pub(super) fn done_to(done: &DeadDone) -> v1::DeadResponse {
    v1::DeadResponse {
        messages: done.messages,
        refused: done.refused,
        next_offset: done.next.map(offset_to),
    }
}

pub(super) fn done_of(response: &v1::DeadResponse) -> DeadDone {
    DeadDone {
        messages: response.messages,
        refused: response.refused,
        next: response.next_offset.map(i64::unsigned_abs),
    }
}

pub(super) fn depth_to((index, depth): (PartitionIndex, Option<QueueDepth>)) -> v1::QueueDepth {
    v1::QueueDepth {
        partition: index.get(),
        counts: depth.map(|depth| v1::QueueCounts {
            ready: depth.ready,
            delayed: depth.delayed,
            leased: depth.leased,
            waiting: depth.waiting,
            dead: depth.dead,
            bytes: depth.bytes,
            consumers: depth.consumers,
            oldest: depth
                .oldest
                .iter()
                .map(|oldest| v1::OldestMessage {
                    priority: oldest.lane.into(),
                    age_ms: oldest.age_ms,
                })
                .collect(),
            tripped_since_ms: depth.tripped_since_ms.map(time_to),
            dead_stuck_since_ms: depth.dead_stuck_since_ms.map(time_to),
            tally: Some(tally_to(depth.tally)),
        }),
    }
}

pub(super) fn depth_of(depth: v1::QueueDepth) -> (PartitionIndex, QueueDepth) {
    let counts = depth.counts.unwrap_or_default();
    let depths = QueueDepth {
        ready: counts.ready,
        delayed: counts.delayed,
        leased: counts.leased,
        waiting: counts.waiting,
        dead: counts.dead,
        bytes: counts.bytes,
        consumers: counts.consumers,
        oldest: counts
            .oldest
            .iter()
            .map(|oldest| OldestAge {
                lane: u8::try_from(oldest.priority).unwrap_or(u8::MAX),
                age_ms: oldest.age_ms,
            })
            .collect(),
        tripped_since_ms: counts.tripped_since_ms.map(i64::unsigned_abs),
        dead_stuck_since_ms: counts.dead_stuck_since_ms.map(i64::unsigned_abs),
        tally: tally_of(&counts.tally.unwrap_or_default()),
    };
    (PartitionIndex(depth.partition), depths)
}

fn time_to(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn tally_to(tally: DepthTally) -> v1::QueueTally {
    v1::QueueTally {
        sent: tally.sent,
        refused_full: tally.refused_full,
        delivered: tally.delivered,
        redelivered: tally.redelivered,
        acknowledged: tally.acknowledged,
        dead: tally.dead,
        expired_dropped: tally.expired_dropped,
        expired_dead: tally.expired_dead,
        carried_bytes: tally.carried_bytes,
        receives_in_flight_full: tally.in_flight_full,
    }
}

fn tally_of(tally: &v1::QueueTally) -> DepthTally {
    DepthTally {
        sent: tally.sent,
        refused_full: tally.refused_full,
        delivered: tally.delivered,
        redelivered: tally.redelivered,
        acknowledged: tally.acknowledged,
        dead: tally.dead,
        expired_dropped: tally.expired_dropped,
        expired_dead: tally.expired_dead,
        carried_bytes: tally.carried_bytes,
        in_flight_full: tally.receives_in_flight_full,
    }
}

pub(super) fn unused_to(asked: &AskUnused) -> internal::AskUnused {
    let step = match asked.step {
        ExpiryStep::Look => internal::ExpiryStep::Look,
        ExpiryStep::Hold => internal::ExpiryStep::Hold,
        ExpiryStep::Release => internal::ExpiryStep::Release,
    };
    internal::AskUnused {
        queue_id: id_to(asked.queue),
        step: step.into(),
    }
}

pub(super) fn unused_of(message: &internal::AskUnused) -> Result<AskUnused, RequestError> {
    let id = QueueId::from_slice(&message.queue_id);
    let step = match message.step() {
        internal::ExpiryStep::Look => ExpiryStep::Look,
        internal::ExpiryStep::Hold => ExpiryStep::Hold,
        internal::ExpiryStep::Release => ExpiryStep::Release,
        internal::ExpiryStep::Unspecified => {
            return Err(invalid("this version does not know what is asked of the queue"));
        }
    };
    let queue = id.ok_or_else(|| invalid("a queue is named by its id"))?;
    Ok(AskUnused { queue, step })
}

pub(super) fn unused_said_to(said: Vec<(PartitionIndex, bool)>) -> internal::AskUnusedResponse {
    let partition = |(index, is_unused): (PartitionIndex, bool)| internal::ask_unused_response::Partition {
        partition: index.get(),
        is_unused,
    };
    internal::AskUnusedResponse {
        partitions: said.into_iter().map(partition).collect(),
    }
}

pub(super) fn unused_said_of(response: internal::AskUnusedResponse) -> Vec<(PartitionIndex, bool)> {
    let said = response.partitions.into_iter();
    said.map(|said| (PartitionIndex(said.partition), said.is_unused))
        .collect()
}
