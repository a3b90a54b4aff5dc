//! Sending in a transaction: the messages of one request are one batch of the transaction's producer, with sequences, so that a request
//! that is sent again is found. They are sent together or not at all.

use std::sync::Arc;

use jangada_types::feature_level::TRANSACTIONS_FEATURE_LEVEL;
use jangada_types::queue_config::Dedup;
use jangada_types::{Offset, PartitionIndex, Reason};
use tokio::time::{Duration, Instant};

use super::queue_ref::QueueRef;
use super::send::{check, now_ms};
use crate::api::call::queues::{SendIn, SendMessages, SendOutcomes, SentMessage};
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{InTransaction, Partition};
use crate::pool::SMALL_BYTES;
use crate::queues::outgoing::{NewMessage, Outgoing, pack_as};

/// Sends messages to a partition of a queue in a transaction.
///
/// # Errors
/// All of them: nothing was sent, or that is not known.
pub(crate) async fn send_in(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (partition, messages, sends_in): (Option<PartitionIndex>, Vec<NewMessage>, SendIn),
    timeout: Duration,
) -> Result<SendOutcomes, RequestError> {
    queue.check_owned()?;
    let index = partition.ok_or_else(|| {
        let message = "messages of a transaction have their sequences within a partition: name the partition";
        RequestError::new(Reason::InvalidRequest, message)
    })?;
    let target = queue.target(index)?;
    check_no_dedup(queue)?;
    // A replica that cannot read it would stop.
    node.metadata.require_feature_level(TRANSACTIONS_FEATURE_LEVEL).await?;
    let now_ms = now_ms(node);
    for (place, message) in messages.iter().enumerate() {
        check(message, queue, now_ms).map_err(|mut error| {
            error.message = format!("message {place}: {}; nothing was sent", error.message);
            error
        })?;
    }
    let wanted = SendMessages {
        at: queue.partition(index),
        messages,
        sends_in: None,
        timeout,
    };
    match node
        .leaders
        .find::<Partition>(&target, context.route.or_pass_on())
        .await?
    {
        Lead::Here(partition) => append_in(node, context, (queue, &partition), (wanted, sends_in)).await,
        Lead::At(leader) => {
            let wanted = SendMessages {
                sends_in: Some(sends_in),
                ..wanted
            };
            pass_on(node, context, (&target, leader), wanted, timeout + PASS_TIMEOUT).await
        }
    }
}

/// Refuses a queue that recognizes repetitions: what an abort takes back would be taken for the first of them.
fn check_no_dedup(queue: &QueueRef) -> Result<(), RequestError> {
    if queue.config.dedup == Dedup::None {
        return Ok(());
    }
    let message = format!(
        "queue {:?} recognizes repetitions (queue.dedup), and takes no messages in a transaction: an abort could not forget their ids. \
         Unset queue.dedup; what is sent in a transaction is sent once",
        queue.name()
    );
    Err(RequestError::new(Reason::InvalidRequest, message))
}

/// Appends messages to a partition that is led here, as one batch.
///
/// # Errors
/// All of them: nothing was appended, or that is not known.
pub(super) async fn append_in(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, partition): (&QueueRef, &Arc<Partition>),
    (wanted, sends_in): (SendMessages, SendIn),
) -> Result<SendOutcomes, RequestError> {
    let deadline = Instant::now() + wanted.timeout;
    let SendMessages { at, messages, .. } = wanted;
    let SendIn {
        transaction,
        base_sequence,
    } = sends_in;
    check_no_dedup(queue)?;
    // A slot that is opened behind the end of the transaction would not know which records were aborted, and count them as ready.
    partition.desk()?.check_open(queue.id())?;
    let (count, bytes) = (messages.len(), messages.iter().map(NewMessage::bytes).sum());
    let room = partition.room(&context.caller, bytes)?;
    let now_ms = now_ms(node);
    let producer = Some((transaction.producer_id, transaction.producer_epoch, base_sequence));
    let Outgoing { batch, marks } = match bytes <= SMALL_BYTES {
        true => pack_as(messages.iter(), &queue.config, now_ms, producer)?,
        false => {
            let config = queue.config.clone();
            let packed = move || pack_as(messages.iter(), &config, now_ms, producer);
            node.partitions.compute.run(packed).await??
        }
    };
    let transaction = InTransaction {
        transactional_id: transaction.transactional_id,
        adds: true,
    };
    let admitted = partition.admit_messages_in(batch, marks, &transaction, room).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let base = partition.acknowledged(admitted, left).await?.base_offset.get();
    let sent = (base..).take(count).map(|offset| {
        Ok(SentMessage {
            partition: at.index,
            offset: Offset(offset),
            duplicate: false,
        })
    });
    Ok(sent.collect())
}
