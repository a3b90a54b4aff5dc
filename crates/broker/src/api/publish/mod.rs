//! Publishing: each message to all queues that are bound for it, and what became of each.
//!
//! ```text
//!   message ──► router: its queues ──► each takes it as it is? ──► one batch for each partition ──► leaders, as messages that are sent
//!                                                                                                        │
//!   answer  ◄── all its queues have it, or one does not ◄────────────────────────────────────────────────┘
//! ```
//!
//! - [`plan`]: which messages go to which partitions. [`outcome`]: what became of a message in all of its queues, pure.
//!
//! A message is copied only when it becomes a part of its queue's batch: until then all queues share its body.

mod outcome;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use jangada_types::limits::PUBLISH_MESSAGES_MAX;
use jangada_types::{PartitionIndex, Reason};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::outcome::PublishOutcomes;
use self::plan::Plan;
use super::call::queues::{SendMessages, SendOutcomes};
use super::context::RequestContext;
use super::queue_messages::send::send_to;
use super::queue_messages::{NewMessage, QueueRef};
use super::{exchange_log, exchanges};
use crate::error::RequestError;
use crate::node::Node;

/// Bytes of copies that one call may have under way, so that a wide fan-out takes no more memory than a large request. One batch may have
/// more.
const UNDER_WAY_BYTES_MAX: u32 = 8 << 20;
/// Between two tries of what a leader has refused for the moment: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A message as a client publishes it.
#[derive(Clone, Debug)]
pub(crate) struct MessageToPublish {
    pub routing_key: String,
    /// None: the request lacks it.
    pub message: Option<NewMessage>,
    /// It is refused if no queue is bound for it.
    pub is_mandatory: bool,
}

/// Messages that are to be published.
#[derive(Debug)]
pub(crate) struct PublishWanted {
    /// The exchange's name; empty: the default exchange.
    pub exchange: String,
    pub messages: Vec<MessageToPublish>,
    /// Those without a key go to the same partition of each queue as all that had this one.
    pub order_key: Option<Bytes>,
    /// How long leaders wait for their quorums.
    pub timeout: Duration,
}

/// Publishes messages. Says of each where it is, when all of its queues have it, or why not.
///
/// # Errors
/// Of the call as a whole, of which nothing was published: those of `Publish` in the contract.
pub(crate) async fn publish(
    node: &Arc<Node>,
    context: &RequestContext,
    wanted: PublishWanted,
) -> Result<PublishOutcomes, RequestError> {
    let deadline = Instant::now() + context.time_left(wanted.timeout);
    check_count(wanted.messages.len())?;
    let routed = timeout_at(deadline, async {
        exchanges::ensure(node, &wanted.exchange).await?;
        node.routers.routed().await
    });
    let routed = routed.await.unwrap_or_else(|_| Err(plan::out_of_time()))?;
    let plan = Plan::new(node, &routed, &wanted.exchange, wanted.order_key)?;
    let planned = plan.of(wanted.messages, deadline).await?;
    let room = Semaphore::new(UNDER_WAY_BYTES_MAX as usize);
    let sends = planned.batches().map(|batch| {
        let (room, planned) = (&room, &planned);
        async move {
            let bytes = u32::try_from(batch.bytes).unwrap_or(u32::MAX);
            let room = room.acquire_many(bytes.min(UNDER_WAY_BYTES_MAX)).await;
            let _room = room.expect("it is never closed");
            let messages = || planned.messages(batch.numbers);
            let sent = send_until(node, context, (batch.queue, batch.index), messages, deadline).await;
            (batch, sent)
        }
    });
    let log_sends = planned.log_batches().map(|(exchange, index, batch)| {
        let (room, planned) = (&room, &planned);
        async move {
            let bytes = u32::try_from(batch.bytes).unwrap_or(u32::MAX);
            let room = room.acquire_many(bytes.min(UNDER_WAY_BYTES_MAX)).await;
            let _room = room.expect("it is never closed");
            let append = |timeout| {
                let wanted = planned.append_to_log((exchange, index, batch), timeout);
                exchange_log::append(node, context, wanted)
            };
            let is_gone = || node.metadata.image().exchange_table().get(exchange).is_none();
            (batch, retried(batch.numbers.len(), append, (deadline, is_gone)).await)
        }
    });
    let (sent, in_logs) = futures::join!(join_all(sends), join_all(log_sends));
    let mut outcomes = planned.outcomes();
    for (batch, sent) in in_logs {
        for (number, sent) in batch.numbers.iter().zip(sent) {
            outcomes[*number].add_to_log(&batch.name, sent);
        }
    }
    for (batch, sent) in sent {
        for (number, sent) in batch.numbers.iter().zip(sent) {
            outcomes[*number].add(&batch.queue.queue.name, sent);
        }
    }
    Ok(outcomes.into_iter().map(outcome::Outcome::into_result).collect())
}

fn check_count(count: usize) -> Result<(), RequestError> {
    if count <= PUBLISH_MESSAGES_MAX {
        return Ok(());
    }
    let message = format!("the request has {count} messages: publish at most {PUBLISH_MESSAGES_MAX} at once");
    Err(RequestError::new(Reason::InvalidRequest, message)
        .with("limit", PUBLISH_MESSAGES_MAX)
        .with("actual", count))
}

/// Sends messages to a partition of a queue, which lacks what others have already.
async fn send_until(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, index): (&QueueRef, PartitionIndex),
    messages: impl Fn() -> Vec<NewMessage>,
    deadline: Instant,
) -> SendOutcomes {
    let send = |timeout| {
        let wanted = SendMessages {
            at: queue.partition(index),
            messages: messages(),
            sends_in: None,
            timeout,
        };
        send_to(node, context, queue, wanted)
    };
    let is_gone = || node.metadata.image().queue(queue.id()).is_none();
    retried(messages().len(), send, (deadline, is_gone)).await
}

/// Sends so many messages. What is refused as a whole, and only for the moment, is sent again until the time is over, or the receiver is
/// gone.
async fn retried<F: Future<Output = SendOutcomes>>(
    count: usize,
    send: impl Fn(Duration) -> F,
    (deadline, is_gone): (Instant, impl Fn() -> bool),
) -> SendOutcomes {
    let mut pause = RETRY_MIN;
    loop {
        let timeout = deadline.saturating_duration_since(Instant::now());
        if timeout.is_zero() {
            let message =
                "the call's time was over before it was the message's turn to be sent: publish fewer messages at once";
            return vec![Err(RequestError::new(Reason::BrokerBusy, message)); count];
        }
        let sent = send(timeout).await;
        let is_over = is_gone() || Instant::now() + pause >= deadline;
        if is_over || !sent.iter().all(|sent| sent.as_ref().is_err_and(is_for_the_moment)) {
            return sent;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Whether the same messages may be taken a moment later, and certainly were not now.
fn is_for_the_moment(error: &RequestError) -> bool {
    let reasons = [
        Reason::NotLeader,
        Reason::LeaderNotAvailable,
        Reason::NotReady,
        Reason::PartitionBusy,
        Reason::BrokerBusy,
    ];
    error.definite && reasons.contains(&error.reason)
}
