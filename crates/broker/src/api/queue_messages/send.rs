//! Sending: each message to its partition, and what became of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jangada_queue::engine::Room;
use jangada_types::limits::RECORDS_PER_BATCH_MAX;
use jangada_types::partitioner::partition_for_key;
use jangada_types::queue_config::Dedup;
use jangada_types::{BatchHeader, PartitionIndex, Reason};
use tokio::time::{Duration, Instant};

use super::queue_ref::QueueRef;
use super::send_in::append_in;
use super::unsent::{Placed, Unsent};
use crate::api::call::queues::{SendMessages, SendOutcomes, SentMessage};
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;
use crate::pool::SMALL_BYTES;
use crate::queues::outgoing::{NewMessage, Outgoing, pack};

/// Sends messages to a queue. Those that name no partition go by their key, or else by their id, or else all to one, on this broker if it
/// leads some.
///
/// # Errors
/// Of the call as a whole; of each message the outcome has its own.
pub(crate) async fn send(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (partition, messages): (Option<PartitionIndex>, Vec<NewMessage>),
    timeout: Duration,
) -> Result<SendOutcomes, RequestError> {
    queue.check_owned()?;
    if let Some(index) = partition {
        queue.target(index)?;
    }
    let now_ms = now_ms(node);
    let mut outcomes: Vec<Option<Result<SentMessage, RequestError>>> = vec![None; messages.len()];
    let mut by_partition: BTreeMap<PartitionIndex, Vec<(usize, NewMessage)>> = BTreeMap::new();
    let mut spread = Spread::default();
    for (place, message) in messages.into_iter().enumerate() {
        if let Err(error) = check(&message, queue, now_ms) {
            outcomes[place] = Some(Err(error));
            continue;
        }
        let index = partition.unwrap_or_else(|| spread.partition(node, queue, &message, None));
        by_partition.entry(index).or_default().push((place, message));
    }
    let sent = by_partition.into_iter().map(|(index, messages)| async move {
        let (places, messages): (Vec<usize>, Vec<NewMessage>) = messages.into_iter().unzip();
        let wanted = SendMessages {
            at: queue.partition(index),
            messages,
            sends_in: None,
            timeout,
        };
        (places, send_to(node, context, queue, wanted).await)
    });
    for (places, sent) in join_all(sent).await {
        for (place, outcome) in places.into_iter().zip(sent) {
            outcomes[place] = Some(outcome);
        }
    }
    let missing = || Err(RequestError::new(Reason::Internal, "the leader's answer lacks the message").unknown());
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(missing))
        .collect())
}

/// Bytes of messages that a queue takes still in the partitions that are led here, about; none: any number, or none is led here.
pub(crate) fn room_bytes(node: &Node, queue: &QueueRef) -> Option<u64> {
    let led = queue.partitions().filter_map(|index| {
        let target = queue.target(index).ok()?;
        node.replicas.ready::<Partition>(target.group)?.view.desk.get()
    });
    let rooms = led.map(|desk| Some(desk.room(queue.id())?.about_bytes));
    rooms.reduce(|all, room| Some(all?.saturating_add(room?))).flatten()
}

/// By the clock of this broker, milliseconds since the Unix epoch.
pub(crate) fn now_ms(node: &Node) -> u64 {
    u64::try_from(node.partitions.clock.now_ms()).unwrap_or(0)
}

/// Whether the queue takes a message.
///
/// # Errors
/// INVALID_REQUEST, RECORD_TOO_LARGE.
pub(crate) fn check(message: &NewMessage, queue: &QueueRef, now_ms: u64) -> Result<(), RequestError> {
    message.check(&queue.config, now_ms)?;
    check_size(message, queue)
}

/// Whether the queue takes a message that has the broker's headers beside its own, which were looked at before.
///
/// # Errors
/// INVALID_REQUEST, RECORD_TOO_LARGE.
pub(crate) fn check_published(message: &NewMessage, queue: &QueueRef, now_ms: u64) -> Result<(), RequestError> {
    message.check_fields(&queue.config, now_ms)?;
    check_size(message, queue)
}

fn check_size(message: &NewMessage, queue: &QueueRef) -> Result<(), RequestError> {
    let (size, limit) = (BatchHeader::LEN + message.bytes(), queue.config.message_bytes_max);
    if size <= limit {
        return Ok(());
    }
    let message = format!("the message takes {size} bytes, and a batch of the queue has at most {limit}");
    Err(RequestError::new(Reason::RecordTooLarge, message)
        .with("actual", size)
        .with("limit", limit))
}

/// Finds the partitions of messages of one call, in one queue.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// That of messages that may go anywhere: all to one, so that they are one batch.
    any: Option<PartitionIndex>,
}

impl Spread {
    /// The partition of a message that names none. Those with the same `order_key` go to the same one, unless they have keys.
    pub fn partition(
        &mut self,
        node: &Node,
        queue: &QueueRef,
        message: &NewMessage,
        order_key: Option<&[u8]>,
    ) -> PartitionIndex {
        let count = u32::try_from(queue.topic.partitions.len()).unwrap_or(u32::MAX);
        let key = message.key.as_deref().or(order_key);
        match (key, &message.message_id) {
            (Some(key), _) => partition_for_key(key, count),
            (None, Some(id)) => partition_for_key(id.as_bytes(), count),
            // A repetition must come to where the first is.
            (None, None) if queue.config.dedup == Dedup::Content => partition_for_key(&message.body, count),
            (None, None) => *self.any.get_or_insert_with(|| any_partition(node, queue)),
        }
    }
}

/// A partition for messages that may go anywhere: of those that are led here any, else of all.
fn any_partition(node: &Node, queue: &QueueRef) -> PartitionIndex {
    let here: Vec<PartitionIndex> = queue
        .partitions()
        .filter(|index| {
            let target = queue.target(*index).ok();
            target.is_some_and(|target| node.replicas.ready::<Partition>(target.group).is_some())
        })
        .collect();
    let number = node.env.random.number();
    let pick = |count: usize| usize::try_from(number % count.max(1) as u64).unwrap_or(0);
    match here.is_empty() {
        false => here[pick(here.len())],
        true => PartitionIndex(u32::try_from(pick(queue.topic.partitions.len())).unwrap_or(0)),
    }
}

/// Sends messages to one partition, wherever it is led. An error is that of all of them.
pub(crate) async fn send_to(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: SendMessages,
) -> SendOutcomes {
    let count = wanted.messages.len();
    let target = match queue.target(wanted.at.index) {
        Ok(target) => target,
        Err(error) => return vec![Err(error); count],
    };
    let lead = node
        .leaders
        .find::<Partition>(&target, context.route.or_pass_on())
        .await;
    let sent = match lead {
        Ok(Lead::Here(partition)) => append_all(node, context, (queue, &partition), wanted).await,
        Ok(Lead::At(leader)) => {
            let within = wanted.timeout + PASS_TIMEOUT;
            pass_on(node, context, (&target, leader), wanted, within).await
        }
        Err(error) => Err(error),
    };
    match sent {
        Ok(sent) if sent.len() == count => sent,
        Ok(_) => {
            let error = RequestError::new(
                Reason::Internal,
                format!("{target}: the leader's answer lacks messages"),
            );
            vec![Err(error.unknown()); count]
        }
        Err(error) => vec![Err(error); count],
    }
}

/// Appends messages to a partition that is led here, for a client of this broker or of another one.
///
/// # Errors
/// NOT_LEADER, and what else is of all messages alike.
pub(crate) async fn send_here(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    mut wanted: SendMessages,
) -> Result<SendOutcomes, RequestError> {
    let target = queue.target(wanted.at.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    if let Some(sends_in) = wanted.sends_in.take() {
        return append_in(node, context, (queue, &partition), (wanted, sends_in)).await;
    }
    append_all(node, context, (queue, &partition), wanted).await
}

/// Appends messages in as few batches as the topic's largest batch allows, one after the other: their order is kept. When a queue is
/// about to be full those that fit come first, and the others are refused.
async fn append_all(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, partition): (&QueueRef, &Arc<Partition>),
    wanted: SendMessages,
) -> Result<SendOutcomes, RequestError> {
    let deadline = Instant::now() + wanted.timeout;
    let SendMessages { at, messages, .. } = wanted;
    let mut outcomes = SendOutcomes::with_capacity(messages.len());
    let mut rest = messages;
    while !rest.is_empty() {
        let room = partition.view.desk.get().and_then(|desk| desk.room(queue.id()));
        let later = rest.split_off(fitting(&rest, queue.config.message_bytes_max, room));
        let now = std::mem::replace(&mut rest, later);
        let count = now.len();
        match append(node, context, (queue, partition), now, deadline).await {
            Ok(placed) => {
                outcomes.extend(placed.into_iter().map(|placed| Ok(placed?.sent(at.index))));
                count_duplicates(node, queue, &outcomes[outcomes.len() - count..]);
            }
            Err(error) => outcomes.extend(vec![Err(error); count]),
        }
        if let Some(Err(refused)) = outcomes.iter().rev().take(count).find(|outcome| outcome.is_err()) {
            // What comes after them must not overtake them when they are sent again.
            let message = "messages before it in the same request were refused: send it again after them";
            let behind = match refused.reason {
                Reason::QueueFull => refused.clone(),
                _ => RequestError::new(Reason::PartitionBusy, message),
            };
            outcomes.extend(rest.iter().map(|_| Err(behind.clone())));
            break;
        }
    }
    Ok(outcomes)
}

fn count_duplicates(node: &Node, queue: &QueueRef, outcomes: &[Result<SentMessage, RequestError>]) {
    let duplicates = outcomes.iter().flatten().filter(|sent| sent.duplicate).count() as u64;
    if duplicates > 0 {
        let totals = &node.metrics.queues;
        totals.count(&queue.queue.name, |totals| totals.duplicates += duplicates);
    }
}

/// How many messages fit into one batch, and into the queue; one at least. Where the queue takes none they are not parted: they are
/// refused together.
fn fitting(messages: &[NewMessage], limit: usize, room: Option<Room>) -> usize {
    let within = |count: usize, limit: u64| {
        let mut bytes = BatchHeader::LEN as u64;
        let fit = messages.iter().take(count).take_while(|message| {
            bytes += message.bytes() as u64;
            bytes <= limit
        });
        fit.count()
    };
    let of_batch = within(RECORDS_PER_BATCH_MAX as usize, limit as u64).max(1);
    let of_queue = room.map_or(0, |room| {
        within(usize::try_from(room.messages).unwrap_or(usize::MAX), room.bytes)
    });
    match of_queue {
        0 => of_batch,
        count => count.min(of_batch),
    }
}

/// Appends messages as one batch. Says where each is, or the first with its id.
async fn append(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, partition): (&QueueRef, &Arc<Partition>),
    messages: Vec<NewMessage>,
    deadline: Instant,
) -> Result<Vec<Result<Placed, RequestError>>, RequestError> {
    partition.check_limited(queue.id(), &queue.config)?;
    let bytes = messages.iter().map(NewMessage::bytes).sum();
    let room = partition.room(&context.caller, bytes)?;
    let now_ms = now_ms(node);
    let (outgoing, messages) = match bytes <= SMALL_BYTES {
        true => (pack(messages.iter(), &queue.config, now_ms)?, messages),
        false => {
            let config = queue.config.clone();
            let packed = node
                .partitions
                .compute
                .run(move || pack(messages.iter(), &config, now_ms).map(|outgoing| (outgoing, messages)));
            packed.await??
        }
    };
    if queue.config.dedup != Dedup::None {
        let marks = outgoing.marks.iter().flat_map(|marks| &marks.0);
        let ids: Vec<u128> = marks.map(|mark| mark.id).collect();
        if ids.iter().any(|id| *id != 0) {
            let unsent = Unsent {
                partition: partition.clone(),
                config: queue.config.clone(),
                messages,
                ids,
                now_ms,
            };
            return unsent.send(outgoing, room, deadline).await;
        }
    }
    let Outgoing { batch, marks } = outgoing;
    let count = messages.len();
    let admitted = partition.admit_messages(batch, marks, None, room).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let base = partition.acknowledged(admitted, left).await?.base_offset.get();
    Ok((base..).take(count).map(|offset| Ok(Placed::new(offset))).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::queues::outgoing::Due;

    fn messages(count: usize) -> Vec<NewMessage> {
        let message = NewMessage {
            key: None,
            body: Bytes::from(vec![7; 1_000]),
            headers: Vec::new(),
            due: Due::Default,
            priority: 0,
            message_id: None,
            ttl_ms: None,
        };
        vec![message; count]
    }

    fn room(messages: u64, bytes: u64) -> Option<Room> {
        Some(Room {
            messages,
            bytes,
            about_bytes: bytes,
        })
    }

    #[test]
    fn what_fits_into_the_queue_is_sent_by_itself() {
        const LIMIT: usize = 1 << 20;
        let ten = messages(10);
        assert_eq!(fitting(&ten, LIMIT, None), 10);
        assert_eq!(fitting(&ten, LIMIT, room(3, u64::MAX)), 3);
        assert_eq!(fitting(&ten, LIMIT, room(30, 4_500)), 4);
        assert_eq!(fitting(&ten, 2_500, room(3, u64::MAX)), 2, "and into a batch");
        assert_eq!(fitting(&ten, 10, room(3, u64::MAX)), 1);
        assert_eq!(fitting(&ten, LIMIT, room(0, u64::MAX)), 10, "all are refused at once");
        assert_eq!(fitting(&ten, LIMIT, room(3, 900)), 10);
    }
}
