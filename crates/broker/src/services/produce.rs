//! Producing: unary, and as a stream with many batches in flight.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{
    Acks, PlainRecords, ProduceRequest, ProduceResponse, ProduceStreamRequest, ProduceStreamResponse, TopicPartition,
};
use jangada_types::feature_level::CONDITIONS_FEATURE_LEVEL;
use jangada_types::limits::PRODUCE_TIMEOUT_MS_MAX;
use jangada_types::{BatchHeader, GroupId, Offset, ProducerId, Reason};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::pack;
use super::status;
use super::unanswered::{Place, Unanswered};
use super::unread::unread;
use crate::admission::{Batches, Call, Caller, Holding, Resource};
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Admitted, Appended, Expectation, Partition, QUESTION_BYTES, Room, may_have_been_taken};
use crate::partitions::{Target, find};

/// The answers of a produce stream.
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<ProduceStreamResponse, Status>> + Send>>;

/// Answers that wait to be sent on one stream. Beyond it the stream's requests are read more slowly.
const ANSWERS_MAX: usize = 1024;
/// How long a producer id that this broker's metadata does not have yet is waited for.
const METADATA_PATIENCE: Duration = Duration::from_secs(1);
/// How far above what this broker knows of an id may lie that is waited for: sixteen blocks that brokers took meanwhile.
const IDS_AHEAD_MAX: i64 = 16_000;
/// Batches from this size on stay in the buffer that they came in: with at most two frames of 64 KiB and as much of other
/// fields beside them it is less than three times as large.
const SHARED_BYTES_MIN: usize = 128 << 10;
/// Batches of one partition on one stream that wait for their quorum.
const PENDING_MAX: usize = 1024;
/// From so many partitions on those are forgotten that have nothing under way.
const LANES_FEW: usize = 256;
/// How often they are in any case: a task and room for requests is much for a stream that waits.
const FORGET_EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn unary(
    node: &Arc<Node>,
    call: &Call,
    request: ProduceRequest,
) -> Result<ProduceResponse, RequestError> {
    let target = find(&node.metadata.image(), request.partition.as_ref())?;
    let timeout = timeout(node, request.timeout_ms)?;
    let acks = acks(request.acks)?;
    let Some(payload) = request.payload else {
        return Err(RequestError::new(
            Reason::InvalidRequest,
            "the request has no payload: set `batch` or `records`",
        ));
    };
    // Before it takes room: who makes up a producer id waits, and what waits there keeps others out.
    let bytes = match &payload {
        Payload::Batch(batch) => {
            check_producer(node, producer_of(batch), acks).await?;
            batch.len()
        }
        Payload::Records(records) => {
            check_producer(node, plain_producer(records), acks).await?;
            records.encoded_len()
        }
    };
    let (partition, room) = leader_with_room(node, &call.caller, &target, bytes).await?;
    check_quorum(&partition, acks)?;
    let batch = match payload {
        Payload::Batch(batch) => owned(batch, call.message_bytes()),
        Payload::Records(records) => pack::pack(node, records).await?,
    };
    let expected = expectation(node, request.expected_end_offset, request.expected_key_offset, acks).await?;
    let admitted = admit(node, &call.caller, &partition, (batch, expected), room).await?;
    match acks {
        Acks::None => Ok(acknowledge_later(node, partition, admitted, timeout)),
        _ => partition.acknowledged(admitted, timeout).await.map(response),
    }
}

/// The partition's leader here, and room there for so many bytes, which count while the leader is waited for. Who is sent
/// elsewhere needs none.
async fn leader_with_room(
    node: &Node,
    caller: &Arc<Caller>,
    target: &Target,
    bytes: usize,
) -> Result<(Arc<Partition>, Room), RequestError> {
    match node.leader_now(target) {
        Ok(partition) => {
            let room = partition.room(caller, bytes)?;
            Ok((partition, room))
        }
        Err(error) if error.reason == Reason::LeaderNotAvailable => {
            let room = node.room(caller, bytes)?;
            let partition = node.leader(target).await?;
            let room = partition.fit(room, bytes)?;
            Ok((partition, room))
        }
        Err(error) => Err(error),
    }
}

/// Takes a batch. One that is refused and may be the retry of one that was taken is answered by what became of that.
async fn admit(
    node: &Node,
    caller: &Arc<Caller>,
    partition: &Partition,
    (batch, expected): (Bytes, Expectation),
    room: Room,
) -> Result<Admitted, RequestError> {
    let retried = producer_of(&batch).map(|_| batch.clone());
    let refusal = match (partition.admit(batch, expected, room).await, &retried) {
        (Err(refusal), Some(_)) if may_have_been_taken(&refusal) => refusal,
        (admitted, _) => return admitted,
    };
    let batch = retried.expect("it was matched above");
    // A replica that cannot read the question would stop.
    if node.need_level(CONDITIONS_FEATURE_LEVEL).await.is_err() {
        return Err(refusal.unknown());
    }
    let room = partition.room(caller, QUESTION_BYTES)?;
    partition.ask(&batch, refusal, room).await
}

/// A batch that lives on: out of the buffer that it came in, when that is much larger than it. It is as large as the
/// message, and a frame or two.
fn owned(batch: Bytes, message_bytes: usize) -> Bytes {
    if batch.len() < SHARED_BYTES_MIN || message_bytes > batch.len() + SHARED_BYTES_MIN {
        return Bytes::copy_from_slice(&batch);
    }
    batch
}

/// Answered on admission; the batch goes on in the background, where it counts against the limits until it is
/// applied. Its sender is gone when it fails: it is counted, and told in the log.
fn acknowledge_later(
    node: &Arc<Node>,
    partition: Arc<Partition>,
    admitted: Admitted,
    timeout: Duration,
) -> ProduceResponse {
    let log_start_offset = partition.view.log_start().get();
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = partition.acknowledged(admitted, timeout).await {
            node.metrics.failed(error.reason);
            node.metrics.refusals.lost(error.reason);
        }
    });
    ProduceResponse {
        base_offset: -1,
        last_offset: -1,
        append_time_ms: -1,
        log_start_offset,
        duplicate: false,
    }
}

fn response(appended: Appended) -> ProduceResponse {
    ProduceResponse {
        base_offset: appended.base_offset.get(),
        last_offset: appended.last_offset.get(),
        append_time_ms: appended.append_time_ms,
        log_start_offset: appended.log_start.get(),
        duplicate: appended.duplicate,
    }
}

fn timeout(node: &Node, timeout_ms: u32) -> Result<Duration, RequestError> {
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

fn acks(value: i32) -> Result<Acks, RequestError> {
    Acks::try_from(value).map_err(|_| {
        RequestError::new(
            Reason::InvalidRequest,
            format!("acks {value} is not known: use ACKS_QUORUM or ACKS_NONE"),
        )
    })
}

/// Refuses what is answered on admission when Raft would throw it away.
fn check_quorum(partition: &Partition, acks: Acks) -> Result<(), RequestError> {
    match acks == Acks::None && partition.quorum.is_in_doubt() {
        true => Err(partition.no_quorum()),
        false => Ok(()),
    }
}

/// What the batch expects; nobody would learn of its refusal without an answer.
async fn expectation(node: &Node, end: Option<i64>, key: Option<i64>, acks: Acks) -> Result<Expectation, RequestError> {
    let expected = Expectation {
        end_offset: end.map(Offset),
        key_offset: key.map(Offset),
    };
    if acks == Acks::None && !expected.is_none() {
        let message = "a conditional batch needs its answer: use ACKS_QUORUM, or send it without a condition";
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    if !expected.is_none() {
        // A replica that cannot read it would stop.
        node.need_level(CONDITIONS_FEATURE_LEVEL).await?;
    }
    Ok(expected)
}

/// The id of a batch's producer, if it has one. What is no batch is refused later.
fn producer_of(batch: &[u8]) -> Option<ProducerId> {
    let header = BatchHeader::parse(batch).ok()?;
    header.producer_id.is_some().then_some(header.producer_id)
}

/// The same of records in the plain form.
fn plain_producer(records: &PlainRecords) -> Option<ProducerId> {
    let id = ProducerId(records.producer.as_ref()?.producer_id);
    id.is_some().then_some(id)
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

/// An id that nobody was given would one day collide with the one who is.
async fn check_allocated(node: &Node, id: ProducerId) -> Result<(), RequestError> {
    let ahead = node.metadata.image().ids_ahead(id);
    if ahead == Some(0) {
        return Ok(());
    }
    // This broker's metadata may be behind the one that gave the id, by a moment. Not by more ids than are given in one.
    let mut image = node.metadata.watch();
    let may_come = ahead.is_some_and(|ahead| ahead <= IDS_AHEAD_MAX);
    if may_come
        && let Ok(Ok(_)) = tokio::time::timeout(METADATA_PATIENCE, image.wait_for(|image| image.is_allocated(id))).await
    {
        return Ok(());
    }
    Err(RequestError::new(
        Reason::UnknownProducer,
        format!("producer id {id} was never given out: call InitProducer"),
    ))
}

/// A produce stream: one task reads and admits, in order; one task for each partition waits for the quorum and
/// answers, in order.
pub(crate) fn stream(
    node: Arc<Node>,
    call: Arc<Call>,
    requests: Streaming<ProduceStreamRequest>,
) -> Result<Answers, RequestError> {
    node.refuse_when_stopping()?;
    let slot = call.caller.try_take(Resource::Streams, 1)?;
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    let (failure, failed) = oneshot::channel();
    let reader = Reader {
        node,
        answers,
        lanes: HashMap::new(),
        targets: HashMap::new(),
        batches: call.batches.clone(),
        unanswered: Unanswered::new(call.caller.clone()),
        forget_at: LANES_FEW,
        slot,
    };
    tokio::spawn(reader.run(requests, failure));
    let failed = futures::stream::once(failed).filter_map(|failed| std::future::ready(failed.ok().map(Err)));
    // Behind the last answer: only then are all its senders gone.
    let answers = ReceiverStream::new(outgoing).map(move |(answer, place): Answer| {
        if let Some(room) = place.into_room() {
            call.deposit(room);
        }
        Ok(answer)
    });
    Ok(Box::pin(answers.chain(failed)))
}

/// With the place of its request, until the transport has it.
type Answer = (ProduceStreamResponse, Place);

/// One request on its way through a partition's lane.
struct Pending {
    correlation_id: u64,
    outcome: Outcome,
    place: Place,
    /// Its lane is in use until it is answered.
    in_use: Arc<()>,
}

/// The requests of one partition, in their order.
struct Lane {
    /// Boxed: the channel has room for some of them from the first on, for each partition.
    waiting: mpsc::Sender<Box<Pending>>,
    /// Each request has a clone.
    in_use: Arc<()>,
}

impl Lane {
    fn begin(node: Arc<Node>, answers: mpsc::Sender<Answer>) -> Self {
        let (waiting, requests) = mpsc::channel(PENDING_MAX);
        tokio::spawn(run_lane(node, requests, answers));
        let in_use = Arc::new(());
        Self { waiting, in_use }
    }

    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.in_use) > 1
    }
}

enum Outcome {
    /// Waits for its quorum.
    Admitted(Arc<Partition>, Admitted, Instant),
    /// Decided already; it only keeps its place.
    Decided(Result<ProduceResponse, RequestError>),
}

/// A partition as requests name it: by its topic's id or, if that is empty, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    topic_id: Bytes,
    topic: String,
    partition: u32,
}

impl From<TopicPartition> for Name {
    fn from(named: TopicPartition) -> Self {
        Self {
            // Beside an id the name means nothing: any number of them are one partition.
            topic: if named.topic_id.is_empty() {
                named.topic
            } else {
                String::new()
            },
            topic_id: named.topic_id,
            partition: named.partition,
        }
    }
}

struct Reader {
    node: Arc<Node>,
    answers: mpsc::Sender<Answer>,
    /// By partition, however requests name it. What names none that there is shares one, or a careless client would have a
    /// task for each name.
    lanes: HashMap<Option<GroupId>, Lane>,
    /// Resolved once per metadata version.
    targets: HashMap<Name, (u64, Target)>,
    /// The requests: what is read from the stream only says that there is one.
    batches: Batches,
    unanswered: Unanswered,
    /// How many partitions it may know before it forgets some.
    forget_at: usize,
    /// Its place among the streams.
    slot: Holding,
}

impl Reader {
    /// Takes requests until there are no more, or one cannot be read: then `failure` gets why.
    async fn run(mut self, mut requests: Streaming<ProduceStreamRequest>, failure: oneshot::Sender<Status>) {
        let node = self.node.clone();
        let stopping = node.stopping();
        tokio::pin!(stopping);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                // What is in flight is still answered: the lanes go on.
                _ = &mut stopping => return,
                _ = forget.tick() => {
                    self.forget();
                    continue;
                }
            };
            match request {
                Ok(Some(_)) => {
                    let (request, message_bytes) = self.batches.take().expect("there is one for each that is read");
                    if !self.take(request, message_bytes).await {
                        return;
                    }
                }
                Ok(None) => return,
                Err(said) => {
                    if let Some(error) = unread(&said, &node) {
                        node.metrics.failed(error.reason);
                        let _ = failure.send(error.into());
                    }
                    return;
                }
            }
        }
    }

    /// False: nobody reads the answers any more.
    async fn take(&mut self, request: ProduceStreamRequest, message_bytes: usize) -> bool {
        let mut request = request;
        let correlation_id = request.correlation_id;
        let place = tokio::select! {
            biased;
            place = self.unanswered.place() => place,
            () = self.answers.closed() => return false,
            // What was not taken has no effect.
            _ = self.node.stopping() => return false,
        };
        let name = request.partition.take().map(Name::from);
        let target = self.resolve(name.as_ref());
        // Also of a topic that is gone: its requests keep their order.
        let known = name.and_then(|name| self.targets.get(&name));
        let group = known.map(|(_, target)| target.group);
        let outcome = self.decide(target, request, message_bytes).await;
        if self.lanes.len().max(self.targets.len()) > self.forget_at {
            self.forget();
        }
        let lane = self.lanes.entry(group);
        let lane = lane.or_insert_with(|| Lane::begin(self.node.clone(), self.answers.clone()));
        let pending = Pending {
            correlation_id,
            outcome: outcome.unwrap_or_else(|error| Outcome::Decided(Err(error))),
            place,
            in_use: lane.in_use.clone(),
        };
        lane.waiting.send(Box::new(pending)).await.is_ok()
    }

    /// Forgets the partitions that have nothing under way: no order of theirs is to be kept.
    fn forget(&mut self) {
        self.lanes.retain(|_, lane| lane.is_in_use());
        let lanes = &self.lanes;
        self.targets
            .retain(|_, (_, target)| lanes.contains_key(&Some(target.group)));
        self.forget_at = LANES_FEW.max(2 * self.lanes.len());
    }

    async fn decide(
        &self,
        target: Result<Target, RequestError>,
        request: ProduceStreamRequest,
        message_bytes: usize,
    ) -> Result<Outcome, RequestError> {
        let timeout = timeout(&self.node, request.timeout_ms)?;
        let acks = acks(request.acks)?;
        // Not waited for: that would hold up the stream's other partitions.
        let partition = self.node.leader_now(&target?)?;
        check_quorum(&partition, acks)?;
        let producer = match &request.records {
            Some(records) => plain_producer(records),
            None => producer_of(&request.batch),
        };
        check_producer(&self.node, producer, acks).await?;
        // What waits below counts.
        let room = partition.room(self.slot.caller(), request.batch.len().max(plain_len(&request)))?;
        let batch = match request.records {
            Some(_) if !request.batch.is_empty() => {
                let message = "the request has both `batch` and `records`: set one of them";
                return Err(RequestError::new(Reason::InvalidRequest, message));
            }
            Some(records) => pack::pack(&self.node, records).await?,
            None => owned(request.batch, message_bytes),
        };
        let (end, key) = (request.expected_end_offset, request.expected_key_offset);
        let expected = expectation(&self.node, end, key, acks).await?;
        let caller = self.slot.caller();
        let admitted = admit(&self.node, caller, &partition, (batch, expected), room).await?;
        Ok(match acks {
            Acks::None => Outcome::Decided(Ok(acknowledge_later(&self.node, partition, admitted, timeout))),
            _ => Outcome::Admitted(partition, admitted, Instant::now() + timeout),
        })
    }

    fn resolve(&mut self, name: Option<&Name>) -> Result<Target, RequestError> {
        let image = self.node.metadata.image();
        if let Some((version, target)) = name.and_then(|name| self.targets.get(name))
            && *version == image.version()
        {
            return Ok(target.clone());
        }
        let wanted = name.map(|name| TopicPartition {
            topic_id: name.topic_id.clone(),
            topic: name.topic.clone(),
            partition: name.partition,
        });
        let target = find(&image, wanted.as_ref())?;
        if let Some(name) = name {
            // Not a slice of the message, which would be kept with it.
            let name = Name {
                topic_id: Bytes::copy_from_slice(&name.topic_id),
                ..name.clone()
            };
            self.targets.insert(name, (image.version(), target.clone()));
        }
        Ok(target)
    }
}

/// What the records of a request in the plain form take, bytes.
fn plain_len(request: &ProduceStreamRequest) -> usize {
    request.records.as_ref().map_or(0, prost::Message::encoded_len)
}

/// Answers the requests of one partition in their order.
async fn run_lane(node: Arc<Node>, mut waiting: mpsc::Receiver<Box<Pending>>, answers: mpsc::Sender<Answer>) {
    while let Some(pending) = waiting.recv().await {
        let Pending {
            correlation_id,
            outcome,
            place,
            in_use: _in_use,
        } = *pending;
        let result = match outcome {
            Outcome::Decided(result) => result,
            Outcome::Admitted(partition, admitted, deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                partition.acknowledged(admitted, left).await.map(response)
            }
        };
        let result = match result {
            Ok(response) => StreamResult::Ok(response),
            Err(error) => {
                node.metrics.failed(error.reason);
                StreamResult::Error(status::in_stream(&error))
            }
        };
        let answer = ProduceStreamResponse {
            correlation_id,
            result: Some(result),
        };
        if answers.send((answer, place)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_no_message_that_is_much_larger() {
        let message = Bytes::from(vec![7; 4 << 20]);
        let batch = message.slice(..SHARED_BYTES_MIN);
        let shared = |batch: &Bytes, bytes| owned(batch.clone(), bytes).as_ptr() == batch.as_ptr();
        assert!(!shared(&batch, message.len()));
        assert!(shared(&batch, batch.len() + 1000));
        assert!(!shared(&message.slice(..1000), 1010), "a frame is larger than that");
    }
}
