//! Producing: unary, and as a stream with many batches in flight.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use jangada_proto::v1::produce_request::Payload as Sent;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{PlainRecords, ProduceRequest, ProduceResponse, ProduceStreamRequest, ProduceStreamResponse};
use jangada_types::{GroupId, ProducerId};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::decode_errors::with_details;
use super::record_wire::{self as wire, invalid};
use super::unanswered::{Place, Unanswered};
use super::{names, pack, status};
use crate::admission::{Batches, Call};
use crate::api::produce::{self, Accepted, Append, Patience, Payload, ReadyBatch};
use crate::api::resolve::{self, PartitionRef};
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;
use crate::quota::{Holding, Resource};
use crate::target::Target;

/// The answers of a produce stream.
pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<ProduceStreamResponse, Status>> + Send>>;

/// Answers that wait to be sent on one stream. Beyond it the stream's requests are read more slowly.
const ANSWERS_MAX: usize = 1024;
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
    let partition = names::partition(request.partition)?;
    let target = resolve::partition_of_records(&node.metadata.image(), &partition)?;
    let payload = match request.payload {
        Some(Sent::Batch(batch)) => ContractPayload::batch(batch, call.message_bytes()),
        Some(Sent::Records(records)) => ContractPayload::Plain(records, !request.transactional_id.is_empty()),
        None => return Err(invalid("the request has no payload: set `batch` or `records`")),
    };
    let append = Append {
        payload,
        expected: wire::expectation(request.expected_end_offset, request.expected_key_offset),
        transaction: wire::transaction(&request.transactional_id),
        acks: wire::acks(request.acks)?,
        timeout: produce::timeout(node, request.timeout_ms)?,
    };
    let accepted = produce::admit(node, &call.context, &target, append, Patience::Wait).await?;
    accepted.answer().await.map(|produced| wire::produced_to(&produced))
}

/// The two forms in which the contract takes records.
enum ContractPayload {
    Batch(ReadyBatch),
    /// Records, and whether they belong to a transaction.
    Plain(PlainRecords, bool),
}

impl ContractPayload {
    fn batch(batch: Bytes, message_bytes: usize) -> Self {
        Self::Batch(ReadyBatch { batch, message_bytes })
    }

    /// Of a request on a stream.
    fn of(
        batch: Bytes,
        records: Option<PlainRecords>,
        is_transactional: bool,
        message_bytes: usize,
    ) -> Result<Self, RequestError> {
        match records {
            None => Ok(Self::batch(batch, message_bytes)),
            Some(records) if batch.is_empty() => Ok(Self::Plain(records, is_transactional)),
            Some(_) => Err(invalid("the request has both `batch` and `records`: set one of them")),
        }
    }
}

impl Payload for ContractPayload {
    fn producer(&self) -> Option<ProducerId> {
        match self {
            Self::Batch(batch) => batch.producer(),
            Self::Plain(records, _) => {
                let id = ProducerId(records.producer.as_ref()?.producer_id);
                id.is_some().then_some(id)
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes(),
            Self::Plain(records, _) => records.encoded_len(),
        }
    }

    async fn into_batch(self, node: &Node) -> Result<Bytes, RequestError> {
        match self {
            Self::Batch(batch) => batch.into_batch(node).await,
            Self::Plain(records, is_transactional) => pack::pack(node, records, is_transactional).await,
        }
    }
}

/// A produce stream: one task reads and admits, in order; one task for each partition waits for the quorum and
/// answers, in order.
pub(crate) fn stream(
    node: Arc<Node>,
    call: Arc<Call>,
    requests: Streaming<ProduceStreamRequest>,
) -> Result<Answers, RequestError> {
    node.stopping.refuse()?;
    produce::check_stream(&call.context)?;
    let slot = call.caller().try_take(Resource::Streams, 1)?;
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    let (failure, failed) = oneshot::channel();
    let reader = Reader {
        node,
        answers,
        lanes: BTreeMap::new(),
        targets: HashMap::new(),
        batches: call.batches.clone(),
        unanswered: Unanswered::new(call.caller().clone()),
        forget_at: LANES_FEW,
        call: call.clone(),
        _slot: slot,
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
    /// A refusal only keeps its place.
    outcome: Result<Accepted, RequestError>,
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
    fn begin(served: (Arc<Node>, Arc<Call>), group: Option<GroupId>, answers: mpsc::Sender<Answer>) -> Self {
        let (waiting, requests) = mpsc::channel(PENDING_MAX);
        tokio::spawn(run_lane(served, group, requests, answers));
        let in_use = Arc::new(());
        Self { waiting, in_use }
    }

    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.in_use) > 1
    }
}

struct Reader {
    node: Arc<Node>,
    answers: mpsc::Sender<Answer>,
    /// By partition, however requests name it. What names none that there is shares one, or a careless client would have a
    /// task for each name.
    lanes: BTreeMap<Option<GroupId>, Lane>,
    /// Resolved once per metadata version.
    targets: HashMap<PartitionRef, (u64, Target)>,
    /// The requests: what is read from the stream only says that there is one.
    batches: Batches,
    unanswered: Unanswered,
    /// How many partitions it may know before it forgets some.
    forget_at: usize,
    call: Arc<Call>,
    /// Its place among the streams.
    _slot: Holding,
}

impl Reader {
    /// Takes requests until there are no more, or one cannot be read: then `failure` gets why.
    async fn run(mut self, mut requests: Streaming<ProduceStreamRequest>, failure: oneshot::Sender<Status>) {
        let node = self.node.clone();
        let stopping = node.stopping.begun();
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
                    if let Some(error) = with_details(&said, &node) {
                        let error = node.refused(error, &self.call.context.listener);
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
            _ = self.node.stopping.begun() => return false,
        };
        let wanted = names::partition(request.partition.take());
        let target = match &wanted {
            Ok(wanted) => self.resolve(wanted),
            Err(error) => Err(error.clone()),
        };
        // Also of a topic that is gone: its requests keep their order.
        let known = wanted.ok().and_then(|wanted| self.targets.get(&wanted));
        let group = known.map(|(_, target)| target.group);
        let outcome = self.admit(target, request, message_bytes).await;
        if self.lanes.len().max(self.targets.len()) > self.forget_at {
            self.forget();
        }
        let lane = self.lanes.entry(group);
        let lane =
            lane.or_insert_with(|| Lane::begin((self.node.clone(), self.call.clone()), group, self.answers.clone()));
        let pending = Pending {
            correlation_id,
            outcome,
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

    async fn admit(
        &self,
        target: Result<Target, RequestError>,
        request: ProduceStreamRequest,
        message_bytes: usize,
    ) -> Result<Accepted, RequestError> {
        let append = Append {
            payload: ContractPayload::of(
                request.batch,
                request.records,
                !request.transactional_id.is_empty(),
                message_bytes,
            )?,
            expected: wire::expectation(request.expected_end_offset, request.expected_key_offset),
            transaction: wire::transaction(&request.transactional_id),
            acks: wire::acks(request.acks)?,
            timeout: produce::timeout(&self.node, request.timeout_ms)?,
        };
        // An election is not waited for: that would hold up the stream's other partitions.
        produce::admit(&self.node, &self.call.context, &target?, append, Patience::Now).await
    }

    fn resolve(&mut self, wanted: &PartitionRef) -> Result<Target, RequestError> {
        let image = self.node.metadata.image();
        if let Some((version, target)) = self.targets.get(wanted)
            && *version == image.version()
        {
            return Ok(target.clone());
        }
        let target = resolve::partition_of_records(&image, wanted)?;
        self.targets.insert(wanted.clone(), (image.version(), target.clone()));
        Ok(target)
    }
}

/// Answers the requests of one partition in their order.
async fn run_lane(
    (node, call): (Arc<Node>, Arc<Call>),
    group: Option<GroupId>,
    mut waiting: mpsc::Receiver<Box<Pending>>,
    answers: mpsc::Sender<Answer>,
) {
    while let Some(pending) = waiting.recv().await {
        let Pending {
            correlation_id,
            outcome,
            place,
            in_use: _in_use,
        } = *pending;
        let partition = match &outcome {
            Ok(Accepted::InQuorum(waiting)) => Some(waiting.partition().clone()),
            Ok(Accepted::Answered(_)) | Err(_) => group.and_then(|group| node.replicas.ready::<Partition>(group)),
        };
        let result = match outcome {
            Ok(accepted) => accepted.answer().await.map(|produced| wire::produced_to(&produced)),
            Err(error) => Err(error),
        };
        let result = match result {
            Ok(response) => StreamResult::Ok(response),
            Err(error) => StreamResult::Error(status::in_stream(&node.refused(error, &call.context.listener))),
        };
        let answer = ProduceStreamResponse {
            correlation_id,
            result: Some(result),
            credit_bytes: partition.map(|partition| partition.credit_bytes(call.caller())),
        };
        if answers.send((answer, place)).await.is_err() {
            return;
        }
    }
}
