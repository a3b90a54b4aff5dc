//! Receiving once: from one partition, or from whichever has messages.
//!
//! Partitions are asked one after the other, those that are led here first. Only when none has anything at once they are asked all at a
//! time, to wait: whoever has a message first answers, and what another one hands out at the same moment is given back, as nobody saw it.
//! So a call that waits is not answered empty while messages are elsewhere.
//!
//! A client that was not answered asks again with the same attempt, maybe another broker, while the first call is at work still. What
//! both have got is the client's: each call has a number, and a partition's leader takes back what it handed out to a call only if no
//! other call of the attempt has asked for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_queue::engine::{Delivered, RequestId};
use jangada_queue::{AttemptId, CallId, SessionId};
use jangada_types::{PartitionIndex, Reason};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::damaged;
use super::queue_ref::QueueRef;
use super::reading::{read, received};
use crate::api::call::queues::{QueuePartition, ReceiveMessages, ReceivedMessage};
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;
use crate::queues::{Desk, Handed, ReceiveArgs};
use crate::quota::Holding;

/// How long a call that waits lets a partition without a leader be, before it asks for it again.
const LEADER_RETRY: Duration = Duration::from_millis(100);

/// Waits at partitions, and what each came to.
type Waits = FuturesUnordered<BoxFuture<'static, (PartitionIndex, Result<ReceivedMessages, RequestError>)>>;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receive {
    /// None: of any partition.
    pub partition: Option<PartitionIndex>,
    pub session: SessionId,
    pub attempt: AttemptId,
    pub messages: u32,
    pub max_bytes: usize,
    /// None: as long as the queue's settings say.
    pub lease_ms: Option<u64>,
    pub wait: Duration,
}

/// Messages for a client, with the room that they take until they are sent.
pub(crate) struct ReceivedMessages {
    pub messages: Vec<ReceivedMessage>,
    /// None: they were read elsewhere, or there are none.
    pub room: Option<Holding>,
    /// None came, for consumers have as many as they may in some partition: so many. 0: not for that.
    pub in_flight_full: u64,
}

impl ReceivedMessages {
    fn none(in_flight_full: u64) -> Self {
        Self {
            messages: Vec::new(),
            room: None,
            in_flight_full,
        }
    }
}

/// Receives messages of a queue.
///
/// # Errors
/// Those of `Receive` in the contract.
pub(crate) async fn receive(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    mut wanted: Receive,
) -> Result<ReceivedMessages, RequestError> {
    let partitions = match wanted.partition {
        Some(index) => vec![index],
        None => in_turn(node, queue),
    };
    if wanted.session == SessionId(0) {
        wanted.session = SessionId(node.env.random.number().max(1));
    }
    let waits = tokio::select! {
        received = receive_any(node, context, queue, (&partitions, wanted)) => received,
        refused = node.stopping.begun() => Err(refused),
    };
    waits
}

/// All partitions, those that are led here first, beginning with any.
fn in_turn(node: &Node, queue: &QueueRef) -> Vec<PartitionIndex> {
    let mut partitions: Vec<PartitionIndex> = queue.partitions().collect();
    let turn = node.env.random.number() % partitions.len().max(1) as u64;
    partitions.rotate_left(usize::try_from(turn).unwrap_or(0));
    partitions.sort_by_key(|index| !is_led_here(node, queue, *index));
    partitions
}

fn is_led_here(node: &Node, queue: &QueueRef, index: PartitionIndex) -> bool {
    let target = queue.target(index).ok();
    target.is_some_and(|target| node.replicas.ready::<Partition>(target.group).is_some())
}

async fn receive_any(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (partitions, wanted): (&[PartitionIndex], Receive),
) -> Result<ReceivedMessages, RequestError> {
    let call = CallId(node.env.random.number().max(1));
    let ask = |index: PartitionIndex, messages: u32, wait: Duration| {
        let wanted = ReceiveMessages {
            at: queue.partition(index),
            session: wanted.session,
            attempt: wanted.attempt,
            call,
            gives_back: false,
            messages,
            max_bytes: wanted.max_bytes,
            lease_ms: wanted.lease_ms,
            wait,
        };
        receive_at(node, context, queue, wanted)
    };
    if let [index] = partitions {
        return ask(*index, wanted.messages, wanted.wait).await;
    }
    if wanted.attempt != AttemptId(0) {
        // Whichever partition answered the first try, and its answer was lost.
        let mut before: FuturesUnordered<_> = partitions.iter().map(|index| ask(*index, 0, Duration::ZERO)).collect();
        while let Some(received) = before.next().await {
            if let Ok(received) = received
                && !received.messages.is_empty()
            {
                return Ok(received);
            }
        }
    }
    let (mut refused, mut full) = (None, 0);
    for index in partitions {
        match ask(*index, wanted.messages, Duration::ZERO).await {
            Ok(received) if !received.messages.is_empty() => return Ok(received),
            Ok(received) => full = received.in_flight_full.max(full),
            Err(error) if is_of_leader(&error) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    if wanted.wait.is_zero() {
        return refused.map_or_else(|| Ok(ReceivedMessages::none(full)), Err);
    }
    wait_for_any(node, context, queue, (partitions, wanted), call).await
}

/// Waits at all partitions for the first message.
async fn wait_for_any(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (partitions, mut wanted): (&[PartitionIndex], Receive),
    call: CallId,
) -> Result<ReceivedMessages, RequestError> {
    let asked = wanted.attempt;
    if wanted.attempt == AttemptId(0) {
        // By it a partition elsewhere says what it handed out although another one was faster.
        wanted.attempt = AttemptId(node.env.random.number().max(1));
    }
    let until = Instant::now() + wanted.wait;
    // What is granted here after this has gone on is given back at once, if nobody can ask for it again.
    let (mut forgotten, mut asked_again) = (Waits::new(), Waits::new());
    let mut left = BTreeSet::new();
    for index in partitions.iter().copied() {
        let is_forgotten = asked == AttemptId(0) && is_led_here(node, queue, index);
        let attempt = if is_forgotten { asked } else { wanted.attempt };
        let wanted = Receive { attempt, ..wanted };
        let (node, context, queue) = (node.clone(), context.clone(), queue.clone());
        let wait = async move {
            (
                index,
                wait_at(&node, &context, &queue, (index, wanted, call), until).await,
            )
        };
        if is_forgotten {
            forgotten.push(Box::pin(wait));
        } else {
            asked_again.push(Box::pin(wait));
            left.insert(index);
        }
    }
    let mut full = 0;
    let received = loop {
        let (index, received) = tokio::select! {
            Some(waited) = forgotten.next(), if !forgotten.is_empty() => waited,
            Some(waited) = asked_again.next(), if !asked_again.is_empty() => waited,
            else => return Ok(ReceivedMessages::none(full)),
        };
        left.remove(&index);
        match received {
            Ok(received) if received.messages.is_empty() => full = received.in_flight_full.max(full),
            received => break received,
        }
    };
    drop(forgotten);
    if !asked_again.is_empty() {
        let (node, context, queue) = (node.clone(), context.clone(), queue.clone());
        tokio::spawn(
            async move { take_back(&node, &context, &queue, (asked_again, left), (wanted, call, until)).await },
        );
    }
    received
}

/// Gives back what partitions hand out although the answer came from another one. Each is asked again, which
/// ends what it does for the first call, until that is answered: the two may overtake each other on their way.
async fn take_back(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (mut waits, mut left): (Waits, BTreeSet<PartitionIndex>),
    (wanted, call, until): (Receive, CallId, Instant),
) {
    while !waits.is_empty() && Instant::now() < until + PASS_TIMEOUT {
        for index in &left {
            give_back(node, context, queue, (*index, wanted, call)).await;
        }
        let again = Instant::now() + LEADER_RETRY;
        while let Ok(Some((index, received))) = tokio::time::timeout_at(again, waits.next()).await {
            left.remove(&index);
            if received.is_ok_and(|received| !received.messages.is_empty()) {
                give_back(node, context, queue, (index, wanted, call)).await;
            }
        }
    }
}

/// Waits at one partition, whoever leads it meanwhile.
async fn wait_at(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (index, wanted, call): (PartitionIndex, Receive, CallId),
    until: Instant,
) -> Result<ReceivedMessages, RequestError> {
    loop {
        let wanted = ReceiveMessages {
            at: queue.partition(index),
            session: wanted.session,
            attempt: wanted.attempt,
            call,
            gives_back: false,
            messages: wanted.messages,
            max_bytes: wanted.max_bytes,
            lease_ms: wanted.lease_ms,
            wait: until.saturating_duration_since(Instant::now()),
        };
        match receive_at(node, context, queue, wanted).await {
            Err(error) if is_of_leader(&error) && Instant::now() + LEADER_RETRY < until => {
                tokio::time::sleep(LEADER_RETRY).await;
            }
            Err(error) if is_of_leader(&error) => return Ok(ReceivedMessages::none(0)),
            received => return received,
        }
    }
}

/// Gives back what a partition handed out, although the answer came from another one.
async fn give_back(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (index, wanted, call): (PartitionIndex, Receive, CallId),
) {
    // If that fails their lease runs out.
    let _ = receive_at(node, context, queue, back(queue.partition(index), &wanted, call)).await;
}

/// Asks a partition to take back what it handed out to a call.
fn back(at: QueuePartition, wanted: &Receive, call: CallId) -> ReceiveMessages {
    ReceiveMessages {
        at,
        session: wanted.session,
        attempt: wanted.attempt,
        call,
        gives_back: true,
        messages: 0,
        max_bytes: 1,
        lease_ms: wanted.lease_ms,
        wait: Duration::ZERO,
    }
}

/// Whether another leader may answer what this one did not.
fn is_of_leader(error: &RequestError) -> bool {
    matches!(
        error.reason,
        Reason::NotLeader | Reason::LeaderNotAvailable | Reason::NotReady
    )
}

/// Receives from one partition, wherever it is led.
async fn receive_at(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: ReceiveMessages,
) -> Result<ReceivedMessages, RequestError> {
    let target = queue.target(wanted.at.index)?;
    match node
        .leaders
        .find::<Partition>(&target, context.route.or_pass_on())
        .await?
    {
        Lead::Here(partition) => receive_of(node, context, (queue, &partition), wanted).await,
        Lead::At(leader) => {
            let within = wanted.wait + PASS_TIMEOUT;
            let received = pass_on(node, context, (&target, leader), wanted, within).await?;
            Ok(ReceivedMessages {
                messages: received.messages,
                room: None,
                in_flight_full: received.in_flight_full,
            })
        }
    }
}

/// Receives from a partition that is led here, for a client of this broker or of another one.
///
/// # Errors
/// NOT_LEADER, NOT_READY, BROKER_BUSY, and those of reading.
pub(crate) async fn receive_here(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: ReceiveMessages,
) -> Result<ReceivedMessages, RequestError> {
    let target = queue.target(wanted.at.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    receive_of(node, context, (queue, &partition), wanted).await
}

async fn receive_of(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, partition): (&QueueRef, &Arc<Partition>),
    mut wanted: ReceiveMessages,
) -> Result<ReceivedMessages, RequestError> {
    let desk = partition.desk()?;
    let until = Instant::now() + wanted.wait;
    loop {
        let args = ReceiveArgs {
            session: wanted.session,
            attempt: wanted.attempt,
            call: wanted.call,
            messages: wanted.messages,
            lease_ms: wanted.lease_ms.unwrap_or_else(|| queue.lease_ms()),
            wait_ms: u64::try_from(wanted.wait.as_millis()).unwrap_or(u64::MAX),
        };
        if wanted.gives_back {
            desk.take_back(queue.id(), args).await?;
            return Ok(ReceivedMessages::none(0));
        }
        let Handed {
            request,
            messages,
            in_flight_full,
        } = desk.receive(queue.id(), args).await?;
        if messages.is_empty() {
            return Ok(ReceivedMessages::none(in_flight_full));
        }
        let granted = Granted {
            request,
            messages,
            queue,
            desk: desk.clone(),
        };
        let (received, settling) = granted
            .read(node, context, (partition, wanted.at.index), wanted.max_bytes)
            .await?;
        // Who waits is not answered empty because of messages that nobody gets: once those are settled others may come.
        match settling {
            Some(settling) if received.messages.is_empty() && Instant::now() < until => {
                let _ = tokio::time::timeout_at(until, settling).await;
                wanted.wait = until.saturating_duration_since(Instant::now());
            }
            _ => return Ok(received),
        }
    }
}

/// Messages that were granted and that nobody has seen. Those that are left when it is dropped are given back.
struct Granted<'a> {
    request: RequestId,
    messages: Vec<Delivered>,
    queue: &'a QueueRef,
    desk: Arc<Desk>,
}

impl Granted<'_> {
    /// Reads the messages, as many as the bytes allow; the others are given back. With the task that settles those that cannot be handed
    /// out.
    async fn read(
        mut self,
        node: &Arc<Node>,
        context: &RequestContext,
        (partition, index): (&Partition, PartitionIndex),
        max_bytes: usize,
    ) -> Result<(ReceivedMessages, Option<JoinHandle<()>>), RequestError> {
        let mut offsets: Vec<u64> = self.messages.iter().map(|delivered| delivered.offset).collect();
        offsets.sort_unstable();
        let read = read(node, context, partition, &offsets, max_bytes).await?;
        let mut bodies = read
            .bodies
            .into_iter()
            .map(|body| (body.offset, body))
            .collect::<std::collections::BTreeMap<_, _>>();
        let mut messages = Vec::with_capacity(bodies.len());
        // In the order in which they go out, which is not always that of their offsets.
        self.messages
            .retain(|delivered| match bodies.remove(&delivered.offset) {
                Some(body) => {
                    messages.push(received(self.queue.id(), index, delivered, body));
                    false
                }
                None => true,
            });
        let mut settling = None;
        if !read.damaged.is_empty() || !read.voids.is_empty() {
            let left = std::mem::take(&mut self.messages);
            let (desk, why) = (self.desk.clone(), (&read.damaged[..], &read.voids[..]));
            (self.messages, settling) = damaged::settle(node, (self.queue, index), desk, left, why);
        }
        let received = ReceivedMessages {
            messages,
            room: Some(read.room),
            in_flight_full: 0,
        };
        Ok((received, settling))
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if !self.messages.is_empty() {
            let messages = self
                .messages
                .iter()
                .map(|delivered| (delivered.offset, delivered.lease));
            self.desk.undelivered(self.queue.id(), self.request, messages.collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use jangada_queue::QueueId;

    use super::*;

    #[test]
    fn what_is_given_back_is_named_by_its_attempt_and_call_and_takes_no_room() {
        let wanted = Receive {
            partition: None,
            session: SessionId(3),
            attempt: AttemptId(4),
            messages: 1_000,
            max_bytes: 16 << 20,
            lease_ms: None,
            wait: Duration::from_secs(20),
        };
        let at = QueuePartition {
            queue: QueueId(7),
            index: PartitionIndex(2),
        };
        let again = back(at, &wanted, CallId(5));
        assert_eq!(
            (again.session, again.attempt, again.call),
            (SessionId(3), AttemptId(4), CallId(5))
        );
        assert!(again.gives_back);
        assert_eq!((again.messages, again.max_bytes, again.wait), (0, 1, Duration::ZERO));
    }
}
