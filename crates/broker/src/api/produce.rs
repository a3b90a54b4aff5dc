//! The one way of a batch to its partition, whatever it came in: admitted in order, answered when it is applied.
//!
//! ```text
//!   admit: leader here? -> quorum in doubt? -> producer id given out? -> room -> payload becomes a batch
//!          -> condition known to all brokers? -> Partition::admit, or passed on to the leader
//!   InQuorum::acknowledged: waits for the quorum, until the time-out counted from admission
//! ```
//!
//! A batch that is passed on keeps its room here until the leader has answered, which counts it once more, there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_log::PartitionCommandKind;
use jangada_types::feature_level::TRANSACTIONS_FEATURE_LEVEL;
use jangada_types::limits::PRODUCE_TIMEOUT_MS_MAX;
use jangada_types::{BatchHeader, ProducerId, Reason};
use tokio::time::Instant;

use super::call::records::{Acks, AppendBatch, Produced};
use super::context::{RequestContext, Route};
use super::passing::{PASS_TIMEOUT, pass_on};
use super::resolve::PartitionRef;
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{Admitted, Expectation, InTransaction, Partition, QUESTION_BYTES, Room, may_have_been_taken};
use crate::target::Target;

/// The first feature level that reads conditional batches.
const CONDITIONS_SINCE: u32 = PartitionCommandKind::ConditionalAppend.since();
/// How long a producer id that this broker's metadata does not have yet is waited for.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// How far above what this broker knows of an id may lie that is waited for: sixteen blocks that brokers took meanwhile.
const IDS_AHEAD_MAX: i64 = 16_000;
/// Batches from this size on stay in the buffer that they came in: with at most two frames of 64 KiB and as much of other
/// fields beside them it is less than three times as large.
const SHARED_BYTES_MIN: usize = 128 << 10;

/// Whether an append waits for a leader that is being elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// A moment, holding room.
    Wait,
    /// Not at all: it would hold up others behind it.
    Now,
}

/// What a producer sends, in the form of its protocol, until it is a record batch.
pub(crate) trait Payload: Send {
    /// The producer's id, if it has one. What is no batch is refused later.
    fn producer(&self) -> Option<ProducerId>;

    /// What it takes in memory, about, before and after it is a batch.
    fn bytes(&self) -> usize;

    /// Becomes a batch that lives on. Not on a worker of the runtime when that is much work.
    fn into_batch(self, node: &Node) -> impl Future<Output = Result<Bytes, RequestError>> + Send;
}

/// A batch as Kafka's producers make it.
pub(crate) struct ReadyBatch {
    pub batch: Bytes,
    /// The size of the message that it came in, bytes: it lies in a buffer as large as that, and a frame or two.
    pub message_bytes: usize,
}

impl Payload for ReadyBatch {
    fn producer(&self) -> Option<ProducerId> {
        producer_of(&self.batch)
    }

    fn bytes(&self) -> usize {
        self.batch.len()
    }

    async fn into_batch(self, _node: &Node) -> Result<Bytes, RequestError> {
        Ok(self.owned())
    }
}

impl ReadyBatch {
    /// Out of the buffer that it came in, when that is much larger than it.
    fn owned(self) -> Bytes {
        let Self { batch, message_bytes } = self;
        if batch.len() < SHARED_BYTES_MIN || message_bytes > batch.len() + SHARED_BYTES_MIN {
            return Bytes::copy_from_slice(&batch);
        }
        batch
    }
}

/// An append to one partition.
pub(crate) struct Append<P> {
    pub payload: P,
    pub expected: Expectation,
    /// The transaction that it belongs to.
    pub transaction: Option<InTransaction>,
    pub acks: Acks,
    /// Until it is answered, from admission on.
    pub timeout: Duration,
}

/// An append that was admitted.
pub(crate) enum Accepted {
    /// It is answered already.
    Answered(Produced),
    /// It waits for its quorum.
    InQuorum(InQuorum),
}

/// An append on its way through its quorum.
pub(crate) struct InQuorum {
    partition: Arc<Partition>,
    admitted: Admitted,
    deadline: Instant,
}

impl InQuorum {
    /// The partition that it goes to.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Returns when the append is applied.
    ///
    /// # Errors
    /// What became of it instead. Not definite after QUORUM_TIMEOUT, or when the leader changed.
    pub async fn acknowledged(self) -> Result<Produced, RequestError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let appended = self.partition.acknowledged(self.admitted, left).await;
        appended.map(Produced::Appended)
    }
}

impl Accepted {
    /// Returns when there is an answer.
    pub async fn answer(self) -> Result<Produced, RequestError> {
        match self {
            Self::Answered(produced) => Ok(produced),
            Self::InQuorum(waiting) => waiting.acknowledged().await,
        }
    }
}

/// The time until an append is answered: what was asked for, or the setting when that is 0.
///
/// # Errors
/// INVALID_REQUEST: it is longer than allowed.
pub(crate) fn timeout(node: &Node, timeout_ms: u32) -> Result<Duration, RequestError> {
    if timeout_ms > PRODUCE_TIMEOUT_MS_MAX {
        let message = format!("timeout_ms is {timeout_ms}: at most {PRODUCE_TIMEOUT_MS_MAX}");
        return Err(RequestError::new(Reason::InvalidRequest, message).with("limit", PRODUCE_TIMEOUT_MS_MAX));
    }
    let ms = if timeout_ms == 0 {
        node.settings.produce.timeout_ms
    } else {
        timeout_ms
    };
    Ok(Duration::from_millis(u64::from(ms)))
}

/// Whether appends may come as a stream.
///
/// # Errors
/// INVALID_REQUEST: they are to be passed on. Those of a stream are admitted in their order without waiting for answers, and no order
/// would hold when the leader changes while some are on their way to it.
pub(crate) fn check_stream(context: &RequestContext) -> Result<(), RequestError> {
    match context.route {
        Route::Follow => Ok(()),
        Route::PassOn | Route::Passed(_) => {
            let message = "a produce stream is not passed on: produce with unary calls, or follow the leaders";
            Err(RequestError::new(Reason::InvalidRequest, message))
        }
    }
}

/// Takes an append, or says why not. Appends to one partition that is led here keep the order of these calls. One that is passed on is
/// answered when this returns.
///
/// # Errors
/// Those of `Produce` in the contract, all of them definite but that of a retry whose first try may be in the log, and that of a call
/// that was passed on and has no answer.
pub(crate) async fn admit<P: Payload>(
    node: &Arc<Node>,
    context: &RequestContext,
    target: &Target,
    append: Append<P>,
    patience: Patience,
) -> Result<Accepted, RequestError> {
    let Append {
        payload,
        expected,
        transaction,
        acks,
        timeout,
    } = append;
    let lead = match node.leaders.find_now::<Partition>(target, context.route) {
        Ok(lead) => Some(lead),
        Err(error) if patience == Patience::Wait && error.reason == Reason::LeaderNotAvailable => None,
        Err(error) => return Err(error),
    };
    if let Some(Lead::Here(partition)) = &lead {
        check_quorum(partition, acks)?;
    }
    // Before the append takes room: one with an invented producer id waits here, and would keep others out.
    check_producer(node, payload.producer(), acks).await?;
    // From here on everything that waits counts.
    let bytes = payload.bytes();
    let (lead, room) = match lead {
        Some(Lead::Here(partition)) => {
            let room = partition.room(&context.caller, bytes)?;
            (Lead::Here(partition), room)
        }
        Some(Lead::At(leader)) => (Lead::At(leader), node.partitions.room(&context.caller, bytes)?),
        None => {
            let mut room = node.partitions.room(&context.caller, bytes)?;
            let lead = node.leaders.find::<Partition>(target, context.route).await?;
            if let Lead::Here(partition) = &lead {
                check_quorum(partition, acks)?;
                room = partition.fit(room, bytes)?;
            }
            (lead, room)
        }
    };
    let batch = payload.into_batch(node).await?;
    check_expectation(node, expected, acks).await?;
    if transaction.is_some() {
        check_transaction(node, expected, acks).await?;
    }
    let partition = match lead {
        Lead::Here(partition) => partition,
        Lead::At(leader) => {
            let append = AppendBatch {
                partition: PartitionRef::of(target),
                batch,
                expected,
                transaction,
                acks,
                timeout,
            };
            let produced = pass_on(node, context, (target, leader), append, timeout + PASS_TIMEOUT).await;
            drop(room);
            return produced.map(Accepted::Answered);
        }
    };
    let admitted = admit_batch(node, context, &partition, (batch, expected, transaction), room).await?;
    Ok(match acks {
        Acks::None => Accepted::Answered(acknowledge_later(node, partition, admitted, timeout)),
        Acks::Quorum => Accepted::InQuorum(InQuorum {
            partition,
            admitted,
            deadline: Instant::now() + timeout,
        }),
    })
}

/// Takes a batch. One that is refused and may be the retry of one that was taken is answered by what became of that.
async fn admit_batch(
    node: &Node,
    context: &RequestContext,
    partition: &Partition,
    (batch, expected, transaction): (Bytes, Expectation, Option<InTransaction>),
    room: Room,
) -> Result<Admitted, RequestError> {
    let retried = producer_of(&batch).map(|_| batch.clone());
    let admitted = match &transaction {
        None => partition.admit(batch, expected, room).await,
        Some(transaction) => partition.admit_in(batch, transaction, room).await,
    };
    let refusal = match (admitted, &retried) {
        (Err(refusal), Some(_)) if may_have_been_taken(&refusal) => refusal,
        (admitted, _) => return admitted,
    };
    let batch = retried.expect("it was matched above");
    // A replica that cannot read the question would stop.
    if node.metadata.require_feature_level(CONDITIONS_SINCE).await.is_err() {
        return Err(refusal.unknown());
    }
    let room = partition.room(&context.caller, QUESTION_BYTES)?;
    partition.ask(&batch, refusal, room).await
}

/// The batch goes on in the background, where it counts against the limits until it is applied. Its sender is gone when it
/// fails: that is counted, and told in the log.
fn acknowledge_later(node: &Arc<Node>, partition: Arc<Partition>, admitted: Admitted, timeout: Duration) -> Produced {
    let log_start = partition.view.log_start();
    let metrics = node.metrics.clone();
    tokio::spawn(async move {
        if let Err(error) = partition.acknowledged(admitted, timeout).await {
            metrics.failed(error.reason);
            metrics.refusals.lost(error.reason);
        }
    });
    Produced::Taken { log_start }
}

/// Refuses what is answered on admission when Raft would throw it away.
fn check_quorum(partition: &Partition, acks: Acks) -> Result<(), RequestError> {
    match acks == Acks::None && partition.hosted.check_quorum.is_in_doubt() {
        true => Err(partition.hosted.no_quorum()),
        false => Ok(()),
    }
}

/// Refuses a condition without an answer, of whose refusal nobody would learn.
async fn check_expectation(node: &Node, expected: Expectation, acks: Acks) -> Result<(), RequestError> {
    if expected.is_none() {
        return Ok(());
    }
    if acks == Acks::None {
        let message = "a conditional batch needs its answer: use ACKS_QUORUM, or send it without a condition";
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    // A replica that cannot read it would stop.
    node.metadata.require_feature_level(CONDITIONS_SINCE).await
}

/// Refuses what a batch of a transaction cannot have: no answer, of whose refusal nobody would learn, and conditions.
async fn check_transaction(node: &Node, expected: Expectation, acks: Acks) -> Result<(), RequestError> {
    if acks == Acks::None || !expected.is_none() {
        let message =
            "a batch of a transaction needs its answer, and has no condition: use ACKS_QUORUM, and expect no offsets";
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    // A replica that cannot read it would stop.
    node.metadata.require_feature_level(TRANSACTIONS_FEATURE_LEVEL).await
}

fn producer_of(batch: &[u8]) -> Option<ProducerId> {
    let header = BatchHeader::parse(batch).ok()?;
    header.producer_id.is_some().then_some(header.producer_id)
}

/// What a batch's producer must be, as far as the log order does not matter.
async fn check_producer(node: &Node, producer: Option<ProducerId>, acks: Acks) -> Result<(), RequestError> {
    let Some(id) = producer else { return Ok(()) };
    if acks == Acks::None {
        let message =
            "an idempotent batch needs its acknowledgement: use ACKS_QUORUM, or send it without a producer id";
        return Err(RequestError::new(Reason::AcksNoneIdempotent, message));
    }
    check_allocated(node, id).await
}

/// Refuses ids that were never given out: they will be, to others.
async fn check_allocated(node: &Node, id: ProducerId) -> Result<(), RequestError> {
    let ahead = node.metadata.image().ids_ahead(id);
    if ahead == Some(0) {
        return Ok(());
    }
    // This broker's metadata may be behind the one that gave the id, by a moment. Not by more ids than are given in one.
    let mut image = node.metadata.watch();
    let may_come = ahead.is_some_and(|ahead| ahead <= IDS_AHEAD_MAX);
    if may_come
        && let Ok(Ok(_)) = tokio::time::timeout(METADATA_TIMEOUT, image.wait_for(|image| image.is_allocated(id))).await
    {
        return Ok(());
    }
    let refused = RequestError::new(
        Reason::UnknownProducer,
        format!("producer id {id} was never given out: call InitProducer"),
    );
    // Then it may be that this broker has not heard of it yet.
    Err(if may_come {
        refused.retry_after(METADATA_TIMEOUT)
    } else {
        refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_no_message_that_is_much_larger() {
        let message = Bytes::from(vec![7; 4 << 20]);
        let batch = message.slice(..SHARED_BYTES_MIN);
        let shared = |batch: &Bytes, message_bytes| {
            let ready = ReadyBatch {
                batch: batch.clone(),
                message_bytes,
            };
            ready.owned().as_ptr() == batch.as_ptr()
        };
        assert!(!shared(&batch, message.len()));
        assert!(shared(&batch, batch.len() + 1000));
        assert!(!shared(&message.slice(..1000), 1010), "a frame is larger than that");
    }
}
