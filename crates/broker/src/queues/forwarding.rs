//! Moving dead letters to another topic: producer ids, the batch of letters, and what becomes of it.
//!
//! ```text
//!   Output::Producer -> a producer id, as InitProducer gives one -> Input::Producer
//!   Output::Forward  -> records read again, with headers -> one batch of that producer -> the target's leader -> Input::Forwarded
//! ```
//!
//! What the engine asks for again, this leader's or the next one's, gives the same batch for the same partition, in which it is found as a
//! duplicate. A leader that has sent a batch remembers where to, and sends it there again though the setting or the topic's number of
//! partitions is another one meanwhile. The next leader does not know of that: only a change of these within one try makes letters
//! arrive twice.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use jangada_queue::SlotId;
use jangada_queue::engine::{DeadLetter, ForwardOutcome, Input};
use jangada_types::limits::BATCH_BYTES_MAX;
use jangada_types::{BatchBuilder, Codec, PartitionIndex, ProducerEpoch, ProducerId, Reason, Record, Sequence};
use tokio::time::Instant;

use super::beyond::{BeyondDesk, DeadLetterTarget, TargetWanted};
use super::dead_letters::{self, Source};
use super::desk::Desk;
use super::spec::QueueSpec;
use super::ways::{BatchId, Told};
use crate::error::RequestError;
use crate::partition::Partition;

/// A producer id that could not be had is asked for again after this time.
const PRODUCER_AGAIN: Duration = Duration::from_secs(1);
/// What may pass by itself, as an election does, is tried again for so long before the engine hears of it ...
const TRY_FOR: Duration = Duration::from_secs(3);
/// ... first after this time, then after twice as long each time.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A batch of letters, as the engine wants it sent.
pub(super) struct Letters {
    pub slot: SlotId,
    pub producer: i64,
    pub sequence: u32,
    pub letters: Vec<DeadLetter>,
    /// An earlier try may have arrived.
    pub may_be_there: bool,
}

/// Why a batch does not go.
enum Failure {
    /// The setting is gone: there is no target.
    NoTarget,
    /// The letters are too many for a batch of the target; so many of the first ones fit.
    TooLarge(RequestError, usize),
    /// They cannot be read, or the target does not take them.
    Refused(RequestError),
}

/// Gets a producer id for the letters of a slot.
pub(super) async fn get_producer(desk: Arc<Desk>, partition: Weak<Partition>, slot: SlotId) {
    while !desk.has_ended() {
        let Some(beyond) = beyond(&partition) else { return };
        match beyond.new_producer().await {
            Ok(ProducerId(producer)) => return desk.put(Input::Producer { slot, producer }),
            Err(error) => tracing::debug!(partition = %desk.hosted.name, %error, "no producer id for dead letters"),
        }
        tokio::time::sleep(PRODUCER_AGAIN).await;
    }
}

fn beyond(partition: &Weak<Partition>) -> Option<Arc<dyn BeyondDesk>> {
    partition.upgrade()?.beyond_desks()
}

/// Sends letters to their topic, and tells the engine what became of them.
pub(super) async fn forward(desk: Arc<Desk>, partition: Weak<Partition>, letters: Letters) {
    let (slot, producer, sequence) = (letters.slot, letters.producer, letters.sequence);
    let sent = send(&desk, &partition, &letters).await;
    let outcome = match &sent {
        Ok(()) => ForwardOutcome::Arrived,
        Err(Failure::NoTarget) => ForwardOutcome::Refused,
        Err(Failure::TooLarge(_, fits)) => ForwardOutcome::TooLarge { fits: *fits },
        Err(Failure::Refused(error)) => outcome_of(error, letters.letters.len()),
    };
    let told = match (&sent, outcome) {
        (_, ForwardOutcome::Arrived) => desk.ways.arrived(slot),
        // Fewer go. Only what is too large alone stays, or finds no room alone.
        (_, ForwardOutcome::TooLarge { fits: 1.. } | ForwardOutcome::Full) if letters.letters.len() > 1 => {
            Told::Nothing
        }
        (_, ForwardOutcome::Forgotten) | (Err(Failure::NoTarget) | Ok(()), _) => Told::Nothing,
        (Err(Failure::TooLarge(error, _) | Failure::Refused(error)), _) => {
            let may_pass = may_pass(error) || outcome == ForwardOutcome::Unknown;
            desk.ways.failed(slot, (error.reason, &error.message), may_pass)
        }
    };
    tell(&desk, slot, &told);
    desk.put(Input::Forwarded {
        slot,
        producer,
        sequence,
        outcome,
    });
}

/// Says in the log what changed.
fn tell(desk: &Desk, slot: SlotId, told: &Told) {
    let (partition, spec) = (&desk.hosted.name, desk.spec_of(slot));
    let (queue, target) = match &spec {
        Some(spec) => (
            &*spec.name,
            spec.config.dead_letter_topic.as_deref().unwrap_or_default(),
        ),
        None => ("", ""),
    };
    match told {
        Told::Nothing => {}
        Told::Stuck => {
            let why = desk.ways.stuck(slot).unwrap_or_default();
            tracing::warn!(queue, %partition, target, why, "dead letters do not arrive: they stay in the queue, and are tried again");
        }
        Told::Again => tracing::info!(queue, %partition, target, "dead letters arrive again"),
    }
}

/// What the answer of the target's leader means for the batch.
fn outcome_of(error: &RequestError, letters: usize) -> ForwardOutcome {
    match error.reason {
        // It was appended, so long ago that its offsets are forgotten.
        Reason::DuplicateSequence => ForwardOutcome::Arrived,
        // One that is to be tried again is not known to that broker yet.
        Reason::UnknownProducer if error.retry_delay.is_none() => ForwardOutcome::Forgotten,
        Reason::OutOfOrderSequence | Reason::ProducerFenced => ForwardOutcome::Forgotten,
        Reason::BatchTooLarge | Reason::RecordTooLarge if error.definite => {
            ForwardOutcome::TooLarge { fits: letters / 2 }
        }
        Reason::QueueFull if error.definite => ForwardOutcome::Full,
        _ if error.definite => ForwardOutcome::Refused,
        _ => ForwardOutcome::Unknown,
    }
}

/// Whether it may be otherwise soon, without anything being changed.
fn may_pass(error: &RequestError) -> bool {
    error.definite && error.retry_delay.is_some() && error.reason != Reason::QueueFull
}

async fn send(desk: &Desk, partition: &Weak<Partition>, letters: &Letters) -> Result<(), Failure> {
    let batch_id: BatchId = (letters.producer, letters.sequence);
    let until = Instant::now() + TRY_FOR;
    let mut wait = TRY_AGAIN;
    let mut batch = None;
    loop {
        let (Some(beyond), Some(spec)) = (beyond(partition), desk.spec_of(letters.slot)) else {
            return Err(Failure::NoTarget);
        };
        let target = target(desk, &*beyond, &spec, letters.slot, batch_id)?;
        let made = match batch.take() {
            Some(made) => made,
            None => build(desk, partition, &spec, &target, letters).await?,
        };
        if desk.has_ended() {
            // The next leader sends it, and nothing of this one is to come later.
            return Err(Failure::NoTarget);
        }
        desk.ways.goes(letters.slot, batch_id, target.clone());
        match beyond.append(&target, made.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if may_pass(&error) && Instant::now() < until => {
                batch = Some(made);
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(error) => return Err(Failure::Refused(error)),
        }
    }
}

/// Where a batch goes: a batch that was sent before, there again; one of the same producer, to the same partition.
fn target(
    desk: &Desk,
    beyond: &dyn BeyondDesk,
    spec: &QueueSpec,
    slot: SlotId,
    batch: BatchId,
) -> Result<DeadLetterTarget, Failure> {
    let index = index_of(desk);
    let wanted = spec.config.dead_letter_topic.as_deref();
    let wanted = wanted.map(|name| beyond.target(TargetWanted::Named(name, index)));
    if let Some((last, is_same)) = desk.ways.last(slot, batch) {
        let is_wanted = matches!(&wanted, Some(Ok(now)) if now.topic == last.topic);
        if is_same || is_wanted {
            let known = beyond.target(TargetWanted::Known(last.topic, last.index));
            if let Ok(known) = known {
                return Ok(known);
            }
        }
    }
    wanted.ok_or(Failure::NoTarget)?.map_err(Failure::Refused)
}

fn index_of(desk: &Desk) -> PartitionIndex {
    desk.hosted.name.index.unwrap_or(PartitionIndex(0))
}

/// Reads the records of letters again, and makes one batch of them.
async fn build(
    desk: &Desk,
    partition: &Weak<Partition>,
    spec: &QueueSpec,
    target: &DeadLetterTarget,
    letters: &Letters,
) -> Result<Bytes, Failure> {
    let partition = partition.upgrade().ok_or(Failure::NoTarget)?;
    // What was sent before may be there though it is too large now: the target finds out.
    let limit = match letters.may_be_there {
        true => BATCH_BYTES_MAX,
        false => target.batch_bytes_max,
    };
    let source = Source {
        id: spec.id,
        queue: &spec.name,
        topic: &desk.hosted.name.topic,
        index: index_of(desk),
    };
    // What retention took meanwhile is gone, and the rest goes.
    let log_start = partition.view.log_start().get().unsigned_abs();
    let there = letters.letters.iter().filter(|letter| letter.offset >= log_start);
    let offsets: Vec<u64> = there.clone().map(|letter| letter.offset).collect();
    let mut builder = BatchBuilder::new(Codec::None);
    let (mut rest, mut failure) = (there, None);
    let append = |record: &Record| {
        let letter = rest.next().expect("there is a record for each letter");
        let appended = dead_letters::append(&mut builder, source, letter, record);
        let size = builder.estimated_size();
        failure = match appended {
            Err(error) => Some(Failure::TooLarge(error.into(), builder.len())),
            Ok(()) if size > limit => Some(Failure::TooLarge(too_large(target, size), builder.len() - 1)),
            Ok(()) => None,
        };
        Ok(failure.is_none())
    };
    let read = partition.visit_messages(&offsets, limit, append).await;
    read.map_err(Failure::Refused)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if builder.is_empty() {
        let message = format!(
            "{}: the records of dead letters are not in the log any more",
            desk.hosted.title
        );
        return Err(Failure::Refused(RequestError::new(Reason::OffsetOutOfRange, message)));
    }
    let sequence = i32::try_from(letters.sequence).expect("the engine begins with another producer before");
    builder.producer(ProducerId(letters.producer), ProducerEpoch(0), Sequence(sequence));
    Ok(builder.build())
}

fn too_large(target: &DeadLetterTarget, size: usize) -> RequestError {
    let (name, limit) = (&target.name, target.batch_bytes_max);
    let message = format!(
        "a dead letter takes {size} bytes with its headers, and a batch of {name:?} has at most {limit}: raise the largest batch of the \
         target, or purge the letter"
    );
    RequestError::new(Reason::RecordTooLarge, message)
        .with("actual", size)
        .with("limit", limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_became_of_a_batch_and_no_more_than_it_knows() {
        let answer = |reason| RequestError::new(reason, "the target says so");
        let later = |reason| answer(reason).retry_after(Duration::from_millis(100));
        let cases = [
            (answer(Reason::DuplicateSequence), ForwardOutcome::Arrived),
            (answer(Reason::UnknownProducer), ForwardOutcome::Forgotten),
            (answer(Reason::OutOfOrderSequence), ForwardOutcome::Forgotten),
            (answer(Reason::ProducerFenced), ForwardOutcome::Forgotten),
            (later(Reason::UnknownProducer), ForwardOutcome::Refused),
            (answer(Reason::BatchTooLarge), ForwardOutcome::TooLarge { fits: 5 }),
            (answer(Reason::RecordTooLarge), ForwardOutcome::TooLarge { fits: 5 }),
            (answer(Reason::BatchTooLarge).unknown(), ForwardOutcome::Unknown),
            (answer(Reason::UnknownTopic), ForwardOutcome::Refused),
            (later(Reason::QueueFull), ForwardOutcome::Full),
            (later(Reason::NotLeader), ForwardOutcome::Refused),
            (later(Reason::LeaderNotAvailable).unknown(), ForwardOutcome::Unknown),
            (answer(Reason::QuorumTimeout).unknown(), ForwardOutcome::Unknown),
        ];
        for (error, outcome) in cases {
            assert_eq!(
                outcome_of(&error, 10),
                outcome,
                "{:?}, definite: {}",
                error.reason,
                error.definite
            );
        }
    }

    #[test]
    fn an_election_passes_and_a_full_queue_has_to_be_emptied() {
        let later = |reason| RequestError::new(reason, "not now").retry_after(Duration::from_millis(100));
        assert!(may_pass(&later(Reason::LeaderNotAvailable)) && may_pass(&later(Reason::BrokerBusy)));
        assert!(!may_pass(&later(Reason::QueueFull)), "its consumers have to");
        assert!(
            !may_pass(&later(Reason::LeaderNotAvailable).unknown()),
            "it may be there"
        );
        assert!(!may_pass(&RequestError::new(Reason::UnknownTopic, "gone")));
    }
}
