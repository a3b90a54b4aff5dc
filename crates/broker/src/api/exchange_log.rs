//! Publishing to an exchange with a log: one append for all queues that are views over it.
//!
//! ```text
//!   messages, each with its queues ──► leader of a partition: their slots ──► one batch, with marks of whom each record is for
//! ```
//!
//! A record without a mark is for all slots that are open where it is appended: so a fanout exchange writes the batch and nothing else. The
//! entry is there for all of the queues or for none, whatever becomes of the leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Image, Topic};
use jangada_queue::{Mark, Marks, SlotSet};
use jangada_types::limits::RECORDS_PER_BATCH_MAX;
use jangada_types::planted::{self, Bug};
use jangada_types::{BatchHeader, ExchangeId, PartitionIndex, QueueConfig, QueueId, Reason};
use tokio::time::Instant;

use super::call::exchange_logs::{AppendToLog, Readers};
use super::call::queues::{SendOutcomes, SentMessage};
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, pass_on};
use super::queue_messages::{NewMessage, send};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;
use crate::pool::SMALL_BYTES;
use crate::queues::outgoing::{Due, pack};
use crate::replica::LEADER_RETRY;
use crate::target::Target;

/// How long a leader waits for the metadata by which a publisher has found the queues.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A message with the slots that it is for; none: all of its queues are gone.
type Routed = (NewMessage, Option<SlotSet>);

/// The log of an exchange.
///
/// # Errors
/// UNKNOWN_EXCHANGE.
fn log_of(image: &Image, exchange: ExchangeId) -> Result<&Arc<Topic>, RequestError> {
    image.exchange_log(exchange).ok_or_else(|| {
        let message =
            format!("there is no exchange with id {exchange} and a log: it was deleted, or is not known here yet");
        RequestError::new(Reason::UnknownExchange, message)
    })
}

/// Whether the log takes a message. What decides when a message goes out, or before which others, is a queue's of its own log.
///
/// # Errors
/// INVALID_REQUEST, RECORD_TOO_LARGE.
pub(crate) fn check(message: &NewMessage, log: &Topic) -> Result<(), RequestError> {
    let says = [
        ("a delay", message.due != Due::Default),
        ("a priority", message.priority != 0),
        ("a time to live", message.ttl_ms.is_some()),
    ];
    if let Some((what, _)) = says.into_iter().find(|(_, is_said)| *is_said) {
        let message = format!(
            "the message has {what}, and is for queues that share the log of an exchange, which know none: leave it out, or bind queues \
             with logs of their own"
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    let (size, limit) = (BatchHeader::LEN + message.bytes(), batch_bytes_max(log));
    if size <= limit {
        return Ok(());
    }
    let message = format!("the message takes {size} bytes, and a batch of the exchange's log has at most {limit}");
    Err(RequestError::new(Reason::RecordTooLarge, message)
        .with("actual", size)
        .with("limit", limit))
}

fn batch_bytes_max(log: &Topic) -> usize {
    log.settings().unwrap_or_default().max_batch_bytes
}

/// Appends messages to a partition of a log, wherever it is led. An error is that of all of them.
pub(crate) async fn append(node: &Arc<Node>, context: &RequestContext, wanted: AppendToLog) -> SendOutcomes {
    let count = wanted.messages.len();
    let sent = async {
        let target = target_of(&node.metadata.image(), wanted.exchange, wanted.index)?;
        let lead = node.leaders.find::<Partition>(&target, context.route.or_pass_on());
        match lead.await? {
            Lead::Here(partition) => append_all(node, context, &partition, wanted).await,
            Lead::At(leader) => {
                let within = wanted.timeout + PASS_TIMEOUT;
                let sent = pass_on(node, context, (&target, leader), wanted, within).await?;
                match sent.len() == count {
                    true => Ok(sent),
                    false => {
                        let message = format!("{target}: the leader's answer lacks messages");
                        Err(RequestError::new(Reason::Internal, message).unknown())
                    }
                }
            }
        }
    };
    sent.await.unwrap_or_else(|error: RequestError| vec![Err(error); count])
}

/// Appends messages to a partition that is led here, for a client of another broker.
///
/// # Errors
/// NOT_LEADER, and what else is of all messages alike.
pub(crate) async fn append_here(
    node: &Arc<Node>,
    context: &RequestContext,
    wanted: AppendToLog,
) -> Result<SendOutcomes, RequestError> {
    // The exchange may be newer than what this broker knows.
    let image = node.metadata.wait_for_version(wanted.version, VERSION_TIMEOUT).await?;
    let target = target_of(&image, wanted.exchange, wanted.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    append_all(node, context, &partition, wanted).await
}

fn target_of(image: &Image, exchange: ExchangeId, index: PartitionIndex) -> Result<Target, RequestError> {
    let log = log_of(image, exchange)?;
    Target::of(log, index).ok_or_else(|| {
        let count = log.partitions.len();
        let message = format!(
            "topic {:?} has no partition {index}: it has {count}, counted from 0",
            log.name
        );
        RequestError::new(Reason::UnknownPartition, message).with("limit", count)
    })
}

/// Appends messages in as few batches as the log's largest batch allows, one after the other: their order is kept.
async fn append_all(
    node: &Arc<Node>,
    context: &RequestContext,
    partition: &Arc<Partition>,
    wanted: AppendToLog,
) -> Result<SendOutcomes, RequestError> {
    let deadline = Instant::now() + wanted.timeout;
    let image = node.metadata.wait_for_version(wanted.version, VERSION_TIMEOUT).await?;
    let limit = batch_bytes_max(log_of(&image, wanted.exchange)?);
    let AppendToLog {
        exchange,
        index,
        messages,
        readers,
        ..
    } = wanted;
    let mut rest = routed(&image, partition, exchange, messages, &readers)?;
    let mut outcomes = SendOutcomes::with_capacity(rest.len());
    while !rest.is_empty() {
        let later = rest.split_off(fitting(&rest, limit));
        let now = std::mem::replace(&mut rest, later);
        let count = now.len();
        match append_batch(node, context, partition, now, deadline).await {
            Ok(offsets) => outcomes.extend(offsets.into_iter().map(|offset| {
                Ok(SentMessage {
                    partition: index,
                    offset: offset?,
                    duplicate: false,
                })
            })),
            Err(error) => {
                outcomes.extend(vec![Err(error); count]);
                // What comes after them must not overtake them when they are sent again.
                let message = "messages before it in the same request were refused: send it again after them";
                let behind = RequestError::new(Reason::PartitionBusy, message);
                outcomes.extend(vec![Err(behind); rest.len()]);
                break;
            }
        }
    }
    Ok(outcomes)
}

/// The slots that each message is for. A queue that is gone by now has none. One that has no slot here yet has it in a moment: until then
/// nothing is appended that is for it.
///
/// # Errors
/// NOT_READY.
fn routed(
    image: &Image,
    partition: &Arc<Partition>,
    exchange: ExchangeId,
    messages: Vec<NewMessage>,
    readers: &Readers,
) -> Result<Vec<Routed>, RequestError> {
    let desk = partition.desk()?;
    let not_open = |queue: QueueId| {
        let name = image.queue(queue).map_or("", |queue| &queue.name);
        let message = format!("queue {name:?} has no place in the log of its exchange yet: try again after a moment");
        RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY)
    };
    let (sets, of) = match readers {
        Readers::All => {
            let queues: Vec<QueueId> = image.queues_of(exchange.own_topic()).map(|queue| queue.id).collect();
            let slots = desk.slots_of(&queues);
            if let Some((queue, _)) = queues.iter().zip(slots).find(|(_, slot)| slot.is_none()) {
                return Err(not_open(*queue));
            }
            let all = |message| (message, Some(SlotSet::ALL));
            return Ok(messages.into_iter().map(all).collect());
        }
        Readers::Some { sets, of } => (sets, of),
    };
    let mut slot_sets = Vec::with_capacity(sets.len());
    for set in sets {
        let slots = desk.slots_of(set);
        let there = |queue: &QueueId| image.queue(*queue).is_some();
        if let Some((queue, _)) = set
            .iter()
            .zip(&slots)
            .find(|(queue, slot)| slot.is_none() && there(queue))
        {
            return Err(not_open(*queue));
        }
        slot_sets.push(SlotSet::only(slots.into_iter().flatten()));
    }
    let set_of = |at: usize| of.get(at).and_then(|number| slot_sets.get(*number as usize)?.clone());
    let messages = messages.into_iter().enumerate();
    Ok(messages.map(|(at, message)| (message, set_of(at))).collect())
}

/// How many messages fit into one batch, one at least.
fn fitting(messages: &[Routed], limit: usize) -> usize {
    let mut bytes = BatchHeader::LEN;
    let fit = messages
        .iter()
        .take(RECORDS_PER_BATCH_MAX as usize)
        .take_while(|(message, _)| {
            bytes += message.bytes();
            bytes <= limit
        });
    fit.count().max(1)
}

/// Appends messages as one batch. Says where each is.
async fn append_batch(
    node: &Arc<Node>,
    context: &RequestContext,
    partition: &Arc<Partition>,
    messages: Vec<Routed>,
    deadline: Instant,
) -> Result<Vec<Result<jangada_types::Offset, RequestError>>, RequestError> {
    let gone: BTreeSet<usize> = messages
        .iter()
        .enumerate()
        .filter(|(_, (_, slots))| slots.is_none())
        .map(|(at, _)| at)
        .collect();
    let count = messages.len();
    let (messages, slots): (Vec<NewMessage>, Vec<SlotSet>) = messages
        .into_iter()
        .filter_map(|(message, slots)| Some((message, slots?)))
        .unzip();
    let mut offsets = Vec::new();
    if !messages.is_empty() {
        let bytes = messages.iter().map(NewMessage::bytes).sum();
        let room = partition.room(&context.caller, bytes)?;
        let now_ms = send::now_ms(node);
        let batch = match bytes <= SMALL_BYTES {
            true => pack(messages.iter(), &QueueConfig::default(), now_ms)?.batch,
            false => {
                let packed = node
                    .partitions
                    .compute
                    .run(move || pack(messages.iter(), &QueueConfig::default(), now_ms));
                packed.await??.batch
            }
        };
        let appended = slots.len();
        let marks = marks_of(slots);
        let admitted = partition.admit_messages(batch, marks, None, room).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let base = partition.acknowledged(admitted, left).await?.base_offset.get();
        offsets = (base..).take(appended).map(jangada_types::Offset).collect();
    }
    let mut offsets = offsets.into_iter();
    let of_message = |at: usize| match gone.contains(&at) {
        true => {
            let message = "the queues that the message was for were deleted meanwhile: publish it again";
            Err(RequestError::new(Reason::UnknownQueue, message))
        }
        false => offsets
            .next()
            .ok_or_else(|| RequestError::new(Reason::Internal, "a message has no place").unknown()),
    };
    Ok((0..count).map(of_message).collect())
}

/// The marks of records; none: each is for all slots.
fn marks_of(slots: Vec<SlotSet>) -> Option<Marks> {
    if slots.iter().all(SlotSet::is_all) || planted::is(Bug::MarksForAll) {
        return None;
    }
    let mark = |slots| Mark {
        slots,
        ..Mark::default()
    };
    Some(Marks(slots.into_iter().map(mark).collect()))
}
