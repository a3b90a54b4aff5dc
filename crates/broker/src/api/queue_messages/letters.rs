//! Dead letters of other queues, which come as batches of an idempotent producer: they are found again when they come again.

use std::sync::Arc;

use bytes::Bytes;
use jangada_queue::{Mark, Marks};
use jangada_types::batch::Records;
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::queue_config::{QueueConfig, QueueOrder};
use jangada_types::{BatchHeader, Reason, Record};
use tokio::time::Instant;

use super::queue_ref::QueueRef;
use super::send::now_ms;
use crate::api::call::queues::AppendLetters;
use crate::api::call::records::Produced;
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{Partition, QUESTION_BYTES, may_have_been_taken};
use crate::queues::outgoing::key_hash;

/// Appends letters to a partition of a queue, wherever it is led.
///
/// # Errors
/// Those of `Send` and of an idempotent `Produce` in the contract.
pub(crate) async fn append(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: AppendLetters,
) -> Result<Produced, RequestError> {
    queue.check_owned()?;
    let target = queue.target(wanted.at.index)?;
    match node.leaders.find::<Partition>(&target, context.route).await? {
        Lead::Here(partition) => append_to(node, context, (queue, &partition), wanted).await,
        Lead::At(leader) => {
            let within = wanted.timeout + PASS_TIMEOUT;
            pass_on(node, context, (&target, leader), wanted, within).await
        }
    }
}

/// Appends letters to a partition that is led here, for another broker.
///
/// # Errors
/// NOT_LEADER, and those of [`append`].
pub(crate) async fn append_here(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: AppendLetters,
) -> Result<Produced, RequestError> {
    queue.check_owned()?;
    let target = queue.target(wanted.at.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    append_to(node, context, (queue, &partition), wanted).await
}

async fn append_to(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, partition): (&QueueRef, &Arc<Partition>),
    wanted: AppendLetters,
) -> Result<Produced, RequestError> {
    let AppendLetters { batch, timeout, .. } = wanted;
    let deadline = Instant::now() + timeout;
    if !BatchHeader::parse(&batch)?.producer_id.is_some() {
        let message = "letters come as a batch of an idempotent producer, and this one has no producer id";
        return Err(RequestError::new(Reason::InvalidBatch, message));
    }
    partition.check_limited(queue.id(), &queue.config)?;
    let room = partition.room(&context.caller, batch.len())?;
    let marks = marks_of(&batch, &queue.config, now_ms(node))?;
    let admitted = match partition.admit_messages(batch.clone(), marks, None, room).await {
        // It may have been taken when the queue's settings were others.
        Err(refusal) if may_have_been_taken(&refusal) => {
            let room = partition.room(&context.caller, QUESTION_BYTES)?;
            partition.ask(&batch, refusal, room).await?
        }
        admitted => admitted?,
    };
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(Produced::Appended(partition.acknowledged(admitted, left).await?))
}

/// What stands beside the letters in the log: the queue's own delay and time to live, and their keys if it keeps an order. They have the
/// lowest priority, and none is taken for a repetition.
///
/// # Errors
/// The batch cannot be read.
fn marks_of(batch: &Bytes, config: &QueueConfig, now_ms: u64) -> Result<Option<Marks>, RequestError> {
    let (delay_ms, ttl_ms, is_keyed) = (config.delay_ms, config.ttl_ms, config.order == QueueOrder::Key);
    if delay_ms == 0 && ttl_ms.is_none() && !is_keyed {
        return Ok(None);
    }
    let mark = |record: &Record| Mark {
        deliver_at_ms: if delay_ms == 0 {
            0
        } else {
            now_ms.saturating_add(delay_ms)
        },
        expires_at_ms: ttl_ms.map_or(0, |ttl_ms| now_ms.saturating_add(ttl_ms)),
        key: record.key.as_deref().filter(|_| is_keyed).map_or(0, key_hash),
        ..Mark::default()
    };
    let records = Records::new(batch, DECOMPRESSED_BYTES_MAX)?;
    let marks: Result<Vec<Mark>, RequestError> = records.map(|record| Ok(mark(&record?))).collect();
    Ok(Some(Marks(marks?)))
}

#[cfg(test)]
mod tests {
    use jangada_types::{BatchBuilder, Codec};

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        for key in [Some(&b"customer 7"[..]), None] {
            builder.append(5, key, Some(b"a lamp"), []).expect("it is small");
        }
        builder.build()
    }

    #[test]
    fn letters_are_plain_messages_of_a_plain_queue() {
        let marks = marks_of(&batch(), &QueueConfig::default(), NOW_MS).expect("it is a batch");
        assert_eq!(marks, None);
    }

    #[test]
    fn letters_go_by_the_rules_of_the_queue_that_takes_them() {
        let config = QueueConfig {
            delay_ms: 300,
            ttl_ms: Some(9_000),
            order: QueueOrder::Key,
            ..QueueConfig::default()
        };
        let marks = marks_of(&batch(), &config, NOW_MS)
            .expect("it is a batch")
            .expect("it has marks")
            .0;
        assert_eq!(marks.len(), 2);
        for mark in &marks {
            assert_eq!((mark.deliver_at_ms, mark.expires_at_ms), (NOW_MS + 300, NOW_MS + 9_000));
            assert_eq!((mark.lane, mark.id), (0, 0));
        }
        assert_eq!((marks[0].key, marks[1].key), (key_hash(b"customer 7"), 0));
    }
}
