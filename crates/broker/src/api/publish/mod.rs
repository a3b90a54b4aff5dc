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
use super::call::queues::{SendMessages, SendOutcomes, SentMessage};
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
            let messages = |from| planned.messages(&batch.numbers[from..]);
            let of = (batch.queue, batch.index, batch.numbers.len());
            let sent = send_until(node, context, of, messages, deadline).await;
            (batch, sent)
        }
    });
    let log_sends = planned.log_batches().map(|(exchange, index, batch)| {
        let (room, planned) = (&room, &planned);
        async move {
            let bytes = u32::try_from(batch.bytes).unwrap_or(u32::MAX);
            let room = room.acquire_many(bytes.min(UNDER_WAY_BYTES_MAX)).await;
            let _room = room.expect("it is never closed");
            let append = |from, timeout| {
                let wanted = planned.append_to_log((exchange, index, batch), from, timeout);
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
            match is_of_queues_that_are_gone(&sent) {
                true => outcomes[*number].lost_queue(),
                false => outcomes[*number].add_to_log(&batch.name, sent),
            }
        }
    }
    for (batch, sent) in sent {
        let is_gone = node.metadata.image().queue(batch.queue.id()).is_none();
        for (number, sent) in batch.numbers.iter().zip(sent) {
            match is_gone && sent.is_err() {
                true => outcomes[*number].lost_queue(),
                false => outcomes[*number].add(&batch.queue.queue.name, sent),
            }
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
    (queue, index, count): (&QueueRef, PartitionIndex, usize),
    messages: impl Fn(usize) -> Vec<NewMessage>,
    deadline: Instant,
) -> SendOutcomes {
    let is_gone = || node.metadata.image().queue(queue.id()).is_none();
    let send = |from, timeout| {
        let wanted = SendMessages {
            at: queue.partition(index),
            messages: messages(from),
            sends_in: None,
            timeout,
        };
        async move {
            let mut sent = send_to(node, context, queue, wanted).await;
            for error in sent.iter_mut().filter_map(|sent| sent.as_mut().err()) {
                // A leader whose metadata are older does not know it yet.
                if error.definite && error.reason == Reason::UnknownQueue && !is_gone() {
                    *error = RequestError::new(Reason::NotReady, std::mem::take(&mut error.message));
                }
            }
            sent
        }
    };
    retried(count, send, (deadline, is_gone)).await
}

/// Sends so many messages, those from a place on. They may become several batches: when the first ones are taken, and all behind them are
/// refused, and only for the moment, those are sent again until the time is over, or the receiver is gone. Where it is not certain that one
/// was refused, or it is for good, those behind it stay behind it.
async fn retried<F: Future<Output = SendOutcomes>>(
    count: usize,
    send: impl Fn(usize, Duration) -> F,
    (deadline, is_gone): (Instant, impl Fn() -> bool),
) -> SendOutcomes {
    let mut pause = RETRY_MIN;
    let mut outcomes = SendOutcomes::with_capacity(count);
    loop {
        let timeout = deadline.saturating_duration_since(Instant::now());
        if timeout.is_zero() {
            let message =
                "the call's time was over before it was the message's turn to be sent: publish fewer messages at once";
            let late = Err(RequestError::new(Reason::BrokerBusy, message));
            outcomes.resize(count, late);
            return outcomes;
        }
        let sent = send(outcomes.len(), timeout).await;
        let is_settled = |sent: &&Result<SentMessage, RequestError>| sent.is_ok() || is_of_queues_that_are_gone(sent);
        let taken = sent.iter().take_while(is_settled).count();
        if taken > 0 {
            pause = RETRY_MIN;
        }
        let is_over = is_gone() || Instant::now() + pause >= deadline;
        let mut refused = sent[taken..].iter();
        let are_for_the_moment = refused.all(|sent| sent.as_ref().is_err_and(is_for_the_moment));
        if is_over || taken == sent.len() || !are_for_the_moment {
            outcomes.extend(sent);
            return outcomes;
        }
        outcomes.extend(sent.into_iter().take(taken));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Whether a message was refused since nobody is there any more whom it was for.
fn is_of_queues_that_are_gone(sent: &Result<SentMessage, RequestError>) -> bool {
    sent.as_ref()
        .is_err_and(|error| error.definite && error.reason == Reason::UnknownQueue)
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use jangada_types::Offset;

    use super::*;

    fn taken(offset: i64) -> Result<SentMessage, RequestError> {
        Ok(SentMessage {
            partition: PartitionIndex(0),
            offset: Offset(offset),
            duplicate: false,
        })
    }

    fn refused(reason: Reason) -> Result<SentMessage, RequestError> {
        Err(RequestError::new(reason, "refused"))
    }

    /// Sends as many messages as the last answer has, which is given again and again: what becomes of them, and from where each try sent.
    async fn sent(answers: Vec<SendOutcomes>) -> (SendOutcomes, Vec<usize>) {
        let (froms, tries) = (RefCell::new(Vec::new()), Cell::new(0));
        let count = answers[0].len();
        let send = |from, _| {
            froms.borrow_mut().push(from);
            let answer = answers[tries.replace(tries.get() + 1).min(answers.len() - 1)].clone();
            assert_eq!(answer.len(), count - from, "those that are left");
            async move { answer }
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let outcomes = retried(count, send, (deadline, || false)).await;
        assert_eq!(outcomes.len(), count);
        (outcomes, froms.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_behind_a_batch_that_was_taken_is_sent_again() {
        let (outcomes, froms) = sent(vec![
            vec![taken(0), refused(Reason::NotLeader), refused(Reason::PartitionBusy)],
            vec![refused(Reason::LeaderNotAvailable), refused(Reason::LeaderNotAvailable)],
            vec![taken(1), refused(Reason::PartitionBusy)],
            vec![taken(2)],
        ])
        .await;
        assert_eq!(outcomes, [taken(0), taken(1), taken(2)]);
        assert_eq!(froms, [0, 1, 1, 2], "and what was taken is not");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_taken_or_is_refused_for_good_is_not_overtaken_by_what_is_behind_it() {
        let unknown = || Err(RequestError::new(Reason::LeaderNotAvailable, "no answer").unknown());
        let gone = refused(Reason::UnknownQueue);
        let (outcomes, froms) = sent(vec![vec![gone.clone(), refused(Reason::PartitionBusy)], vec![taken(0)]]).await;
        assert_eq!(
            (outcomes, froms),
            (vec![gone, taken(0)], vec![0, 1]),
            "for those that are gone nothing waits"
        );
        for first in [unknown(), refused(Reason::QueueFull)] {
            let answer = vec![taken(0), first, refused(Reason::PartitionBusy)];
            let (outcomes, froms) = sent(vec![answer.clone()]).await;
            assert_eq!((outcomes, froms), (answer, vec![0]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_until_the_time_is_over_is_refused() {
        let all = vec![refused(Reason::NotReady), refused(Reason::NotReady)];
        let (outcomes, froms) = sent(vec![all.clone()]).await;
        assert_eq!(outcomes, all);
        assert!(froms.len() > 10, "{froms:?}");
    }
}
