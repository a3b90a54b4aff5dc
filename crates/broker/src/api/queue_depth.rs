//! What is done to all messages of a queue in one partition, by the partition's leader, and how many it has there. Any broker takes
//! such a call, and passes it on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Queue, QueueKind, QueueStart, Topic};
use jangada_queue::engine::SlotCounts;
use jangada_queue::{DeadReason, DoneCause, Runs, SectionRefused, SectionReply};
use jangada_types::queue_config::QueueOrder;
use jangada_types::{BrokerId, PartitionIndex, QueueId, Reason};
use tokio::time::Instant;

use super::call::Passable;
use super::call::queue_admin::{
    CountQueue, DeadDone, DeadFilter, DeadFound, DeadLetter, DeadWanted, DepthTally, ListDead, PurgeDead, PurgeQueue,
    QueueAt, QueueDepth, RedriveDead, SeekQueue, SeekTo,
};
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, QUESTION_TIMEOUT, ask, pass_on};
use super::queue_messages::QueueRef;
use super::resolve::QueueName;
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{Isolation, Partition};
use crate::queues::outgoing::key_hash;
use crate::queues::{Administer, Desk, MessageState, OldestAge, Peeked};

/// Calls to other brokers at once.
const MAX_CONCURRENT: usize = 16;

/// How long leaders that do not say yet how much a queue has are asked again, and how often.
const DEPTHS_TIMEOUT: Duration = Duration::from_secs(1);
const DEPTHS_RETRY: Duration = Duration::from_millis(50);

/// A queue's partition that is led here.
struct Led {
    queue: QueueRef,
    partition: Arc<Partition>,
    desk: Arc<Desk>,
}

/// Finds the leader of a queue's partition. The request, with the queue's id, is answered by another broker if that leads.
async fn led_here<R: Passable>(
    node: &Arc<Node>,
    context: &RequestContext,
    at: QueueAt,
    request: impl FnOnce(QueueAt) -> R,
) -> Result<Result<Led, R::Answer>, RequestError> {
    let queue = QueueRef::resolve(&node.metadata.image(), &at.queue)?;
    let target = queue.target(at.index)?;
    let found = node.leaders.find::<Partition>(&target, context.route.or_pass_on());
    match found.await? {
        Lead::Here(partition) => {
            let desk = partition.desk()?;
            Ok(Ok(Led { queue, partition, desk }))
        }
        Lead::At(leader) => {
            let request = request(QueueAt {
                queue: QueueName::Id(queue.id()),
                index: at.index,
            });
            let answer = pass_on(node, context, (&target, leader), request, PASS_TIMEOUT).await?;
            Ok(Err(answer))
        }
    }
}

/// Drops messages of a queue.
///
/// # Errors
/// Those of `PurgeQueue` in the contract.
pub(crate) async fn purge(node: &Arc<Node>, context: &RequestContext, request: PurgeQueue) -> Result<(), RequestError> {
    let PurgeQueue { at, before } = request;
    let led = match led_here(node, context, at, |at| PurgeQueue { at, before }).await? {
        Ok(led) => led,
        Err(answer) => return Ok(answer),
    };
    let reply = led
        .desk
        .administer(led.queue.id(), Administer::Purge { to: before })
        .await?;
    taken(&led.queue, reply).map(drop)
}

/// Lets a queue that reads a topic begin anew: the offset.
///
/// # Errors
/// Those of `SeekQueue` in the contract.
pub(crate) async fn seek(node: &Arc<Node>, context: &RequestContext, request: SeekQueue) -> Result<u64, RequestError> {
    let SeekQueue { at, to } = request;
    let led = match led_here(node, context, at, |at| SeekQueue { at, to }).await? {
        Ok(led) => led,
        Err(answer) => return Ok(answer),
    };
    let name = led.queue.name();
    if led.queue.queue.kind == QueueKind::Owned {
        let message = format!(
            "queue {name:?} has a log of its own, which is cut as its messages are done: only a queue that reads a topic can begin \
             anew; purge it, or redrive its dead letters"
        );
        return Err(RequestError::new(Reason::WrongQueueKind, message));
    }
    let start = led.partition.view.log_start().get().unsigned_abs();
    let end = led
        .partition
        .confirmed_ends()
        .await?
        .high_watermark
        .get()
        .unsigned_abs();
    let wanted = match to {
        SeekTo::Offset(offset) => offset,
        SeekTo::Start(QueueStart::Earliest) => start,
        SeekTo::Start(QueueStart::Latest) => end,
        SeekTo::Start(QueueStart::Timestamp(timestamp_ms)) => {
            let found = led
                .partition
                .offset_by_timestamp(timestamp_ms, Isolation::Uncommitted)
                .await?;
            found.map_or(end, |(offset, _)| offset.get().unsigned_abs())
        }
    };
    let to = wanted.clamp(start, end.max(start));
    let reply = led.desk.administer(led.queue.id(), Administer::Seek { to }).await?;
    taken(&led.queue, reply)?;
    Ok(to)
}

/// Dead letters of a queue.
///
/// # Errors
/// Those of `ListDead` in the contract.
pub(crate) async fn list_dead(
    node: &Arc<Node>,
    context: &RequestContext,
    request: ListDead,
) -> Result<DeadFound, RequestError> {
    let wanted = request.0;
    let again = wanted.clone();
    let passed = |at| ListDead(DeadWanted { at, ..again });
    match led_here(node, context, wanted.at.clone(), passed).await? {
        Ok(led) => find_dead(&led, &wanted).await,
        Err(answer) => Ok(answer),
    }
}

/// Lets dead letters of one partition go out again, as many as are looked at in a step.
///
/// # Errors
/// Those of a queue's partition in the contract.
pub(crate) async fn redrive_dead(
    node: &Arc<Node>,
    context: &RequestContext,
    request: RedriveDead,
) -> Result<DeadDone, RequestError> {
    let wanted = request.0;
    let again = wanted.clone();
    let passed = |at| RedriveDead(DeadWanted { at, ..again });
    match led_here(node, context, wanted.at.clone(), passed).await? {
        Ok(led) => act_on_dead(&led, &wanted, Administer::Redrive).await,
        Err(answer) => Ok(answer),
    }
}

/// Deletes dead letters of a queue.
///
/// # Errors
/// Those of `PurgeDead` in the contract.
pub(crate) async fn purge_dead(
    node: &Arc<Node>,
    context: &RequestContext,
    request: PurgeDead,
) -> Result<DeadDone, RequestError> {
    let wanted = request.0;
    let again = wanted.clone();
    let passed = |at| PurgeDead(DeadWanted { at, ..again });
    match led_here(node, context, wanted.at.clone(), passed).await? {
        Ok(led) => act_on_dead(&led, &wanted, Administer::PurgeDead).await,
        Err(answer) => Ok(answer),
    }
}

async fn find_dead(led: &Led, wanted: &DeadWanted) -> Result<DeadFound, RequestError> {
    let DeadFilter {
        reasons,
        died_from_ms,
        died_before_ms,
        key,
    } = &wanted.filter;
    let key = key.as_deref().map(|key| keyed(&led.queue, key)).transpose()?;
    let found = led
        .desk
        .peek(led.queue.id(), wanted.from, &[MessageState::Dead], wanted.most)
        .await?;
    let fits = |message: &Peeked| {
        (reasons.is_empty() || reasons.contains(&message.reason))
            && died_from_ms.is_none_or(|from| message.died_at_ms >= from)
            && died_before_ms.is_none_or(|before| message.died_at_ms < before)
            && key.is_none_or(|key| message.key == key)
    };
    let letters = found.messages.into_iter().filter(fits);
    Ok(DeadFound {
        letters: letters
            .map(|message| DeadLetter {
                offset: message.offset,
                reason: message.reason,
                failures: message.failures,
                deliveries: message.deliveries,
                died_at_ms: message.died_at_ms,
            })
            .collect(),
        next: found.next,
    })
}

/// A key as a queue knows it.
fn keyed(queue: &QueueRef, key: &[u8]) -> Result<u64, RequestError> {
    if queue.config.order == QueueOrder::Key {
        return Ok(key_hash(key));
    }
    let message = format!(
        "queue {:?} does not know the keys of its dead letters: only one with queue.order=key does; leave the key out",
        queue.name()
    );
    Err(RequestError::new(Reason::InvalidRequest, message))
}

async fn act_on_dead(
    led: &Led,
    wanted: &DeadWanted,
    act: impl FnOnce(Runs) -> Administer,
) -> Result<DeadDone, RequestError> {
    let DeadFound { letters, next } = find_dead(led, wanted).await?;
    let found = super::topics::count(letters.len());
    let mut refused = 0;
    if !wanted.is_dry && found > 0 {
        let messages: Runs = letters.iter().map(|letter| letter.offset).collect();
        let reply = led.desk.administer(led.queue.id(), act(messages)).await?;
        refused = u32::try_from(taken(&led.queue, reply)?.len()).unwrap_or(u32::MAX);
    }
    Ok(DeadDone {
        messages: found.saturating_sub(refused),
        refused,
        next,
    })
}

/// The messages that a section left as they were.
fn taken(queue: &QueueRef, reply: SectionReply) -> Result<Runs, RequestError> {
    let name = queue.name();
    match reply {
        SectionReply::Taken { refused } => Ok(refused),
        SectionReply::Refused(SectionRefused::StateFull) => {
            let message = format!(
                "queue {name:?}: the queues of this partition have as much state as they may: try again when consumers have settled more"
            );
            Err(RequestError::new(Reason::SlotStateFull, message))
        }
        SectionReply::Refused(_) | SectionReply::Opened(_) => {
            let message = format!("queue {name:?} is gone from this partition: it was deleted, or just created");
            Err(RequestError::new(Reason::UnknownQueue, message))
        }
    }
}

/// What a queue has in each of its partitions; none: the leader does not say within a second. One opens the slot of a queue a moment after
/// it has heard of the queue, or was elected.
pub(crate) async fn of_all_brokers(
    node: &Arc<Node>,
    queue: &Queue,
    topic: &Topic,
) -> BTreeMap<PartitionIndex, Option<QueueDepth>> {
    let deadline = Instant::now() + DEPTHS_TIMEOUT;
    loop {
        let depths = ask_all_brokers(node, queue, topic).await;
        if depths.values().all(Option::is_some) || Instant::now() + DEPTHS_RETRY >= deadline {
            return depths;
        }
        tokio::time::sleep(DEPTHS_RETRY).await;
    }
}

async fn ask_all_brokers(
    node: &Arc<Node>,
    queue: &Queue,
    topic: &Topic,
) -> BTreeMap<PartitionIndex, Option<QueueDepth>> {
    let mut depths: BTreeMap<_, _> = topic.indexed().map(|(index, _)| (index, None)).collect();
    let leaders = topic.partitions.iter();
    let leaders = leaders.filter_map(|partition| Some(node.replicas.live_leader_of(partition.group)?.0));
    let others: BTreeSet<BrokerId> = leaders.filter(|leader| *leader != node.broker()).collect();
    let asked = futures::stream::iter(others)
        .map(|broker| ask(node, broker, CountQueue { queue: queue.id }, QUESTION_TIMEOUT))
        .buffer_unordered(MAX_CONCURRENT);
    let answers: Vec<Option<Vec<(PartitionIndex, QueueDepth)>>> = asked.collect().await;
    for (index, depth) in of_this_broker(node, queue.id)
        .await
        .into_iter()
        .chain(answers.into_iter().flatten().flatten())
    {
        if let Some(known) = depths.get_mut(&index) {
            *known = Some(depth);
        }
    }
    depths
}

/// What a queue has in the partitions that are led here.
pub(super) async fn of_this_broker(node: &Arc<Node>, queue: QueueId) -> Vec<(PartitionIndex, QueueDepth)> {
    let groups: Vec<_> = {
        let image = node.metadata.image();
        let topic = image.queue(queue).and_then(|queue| image.topic(queue.topic_id));
        let indexed = topic.into_iter().flat_map(|topic| topic.indexed());
        indexed.map(|(index, partition)| (index, partition.group)).collect()
    };
    let now_ms = node.env.clock.now_ms();
    let mut depths = Vec::new();
    for (index, group) in groups {
        let Some(led) = node.replicas.front::<Partition>(group) else {
            continue;
        };
        let Ok(desk) = led.desk() else { continue };
        let Some(counts) = desk.counts(queue) else { continue };
        let oldest = led.oldest_ages(&desk, queue, &counts, now_ms).await;
        depths.push((index, depth(&counts, oldest)));
    }
    depths
}

fn depth(counts: &SlotCounts, oldest: Vec<OldestAge>) -> QueueDepth {
    let tally = &counts.tally;
    QueueDepth {
        ready: counts.ready,
        // What is not decided waits as well, and what is acknowledged in a transaction is with its consumer still.
        delayed: counts.delayed + counts.undecided,
        leased: counts.leased + counts.staged,
        waiting: counts.waiting,
        dead: counts.dead,
        bytes: counts.bytes,
        consumers: counts.consumers,
        oldest,
        tripped_since_ms: counts.tripped.map(|tripped| tripped.since_ms),
        dead_stuck_since_ms: counts.stuck_since_ms,
        tally: DepthTally {
            sent: tally.sent,
            refused_full: tally.refused_full,
            delivered: tally.delivered,
            redelivered: tally.redelivered,
            acknowledged: tally.done(DoneCause::Acked),
            dead: tally.dead.iter().sum(),
            expired_dropped: tally.done(DoneCause::Expired),
            expired_dead: tally.dead(DeadReason::Expired),
            carried_bytes: tally.carried_bytes,
            in_flight_full: tally.in_flight_full,
        },
    }
}
