//! Fetching: long polls, and streams that push while the consumer's credit lasts.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::{
    FetchRequest, FetchResponse, FetchStreamRequest, FetchStreamResponse, FetchStreamStart, RecordForm,
};
use jangada_types::limits::FETCH_CREDIT_BYTES_DEFAULT;
use jangada_types::{Offset, Reason};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::decode_errors::with_details;
use super::plain::{self, Unpacked};
use super::{names, record_wire};
use crate::admission::{Call, Framed};
use crate::api::context::RequestContext;
use crate::api::fetch::{self, Fetch, Form, PartitionReader, Read};
use crate::error::RequestError;
use crate::node::Node;
use crate::pool::SMALL_BYTES;
use crate::quota::{Holding, Resource};

/// What a fetch stream pushes.
pub(crate) type Pushed = Pin<Box<dyn Stream<Item = Result<FetchStreamResponse, Status>> + Send>>;

/// How long a stream waits for records before it looks again whether it still may.
const STREAM_WAIT: Duration = Duration::from_secs(30);
/// How long a response may wait to be taken before its stream ends. It holds room that all share, and keep-alive ends only
/// connections that do not answer. A consumer that is merely slow goes on with a new stream: it has had the response before.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stream waits for its first message.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time a consumer whose stream ended for that should open another.
const STALLED_RETRY: Duration = Duration::from_secs(1);

/// Reads once. The answer goes past the transport: what this gives stands for it.
pub(crate) async fn unary(node: &Arc<Node>, call: &Call, request: FetchRequest) -> Result<FetchResponse, RequestError> {
    let wanted = names::partition(request.partition)?;
    let fetch = Fetch {
        offset: Offset(request.offset),
        max_bytes: fetch::max_bytes(node, request.max_bytes)?,
        form: form(request.form)?,
        reading: record_wire::reading(request.isolation, request.aborted_list, request.form)?,
    };
    let max_wait = fetch::max_wait(request.max_wait_ms)?;
    let reader = PartitionReader::open(node, &call.context, &wanted, request.leader_epoch).await?;
    let min_bytes = usize::try_from(request.min_bytes).expect("usize has 64 bits");
    let read = reader.read_when(fetch, min_bytes, max_wait).await?;
    let Response { message, room, .. } = respond(node, &reader, fetch, read).await?;
    call.send(Framed::fetched(message, room));
    Ok(FetchResponse::default())
}

/// What was read, as it goes out.
struct Response {
    message: FetchResponse,
    /// What it counts for, bytes.
    bytes: usize,
    /// Its part of the budget for bytes that were read and not sent.
    room: Holding,
}

/// What was read, decoded for a client that wants that.
async fn respond(node: &Node, reader: &PartitionReader, fetch: Fetch, read: Read) -> Result<Response, RequestError> {
    let Read {
        fetched,
        mut room,
        began,
    } = read;
    let mut message = FetchResponse {
        batches: Bytes::new(),
        records: Vec::new(),
        high_watermark: fetched.ends.high_watermark.get(),
        log_start_offset: fetched.log_start.get(),
        next_offset: fetched.next_offset.get(),
        leader_epoch: fetched.epoch.get(),
        last_stable_offset: fetched.ends.last_stable.get(),
        aborted: record_wire::aborted_to(fetched.aborted),
        compacted: fetched.has_holes,
    };
    let bytes = if fetch.form == Form::Decoded && !fetched.batches.is_empty() {
        let most = plain::UnpackLimits::new(fetch.max_bytes, fetch::decoded_bytes_max(node));
        let within = fetch.offset..fetched.next_offset;
        let unpacked = unpack(node, fetched.batches, within, most)
            .await
            .map_err(|error| reader.refuse(error))?;
        message.records = unpacked.records;
        message.next_offset = unpacked.next_offset.get();
        unpacked.bytes
    } else {
        message.batches = fetched.batches;
        message.batches.len()
    };
    // What was not needed goes back at once: many streams may wait with a small response each.
    room.shrink_to(bytes);
    if bytes > 0 {
        node.metrics.read(began.elapsed());
    }
    Ok(Response { message, bytes, room })
}

/// Unpacks, not on a worker of the runtime when it is much.
async fn unpack(
    node: &Node,
    batches: Bytes,
    within: Range<Offset>,
    room: plain::UnpackLimits,
) -> Result<Unpacked, RequestError> {
    if batches.len() <= SMALL_BYTES && plain::is_light(&batches) {
        return plain::unpack(batches, within, room);
    }
    node.partitions
        .compute
        .run(move || plain::unpack(batches, within, room))
        .await?
}

fn form(value: i32) -> Result<Form, RequestError> {
    match RecordForm::try_from(value) {
        Ok(RecordForm::Plain) => Ok(Form::Decoded),
        Ok(_) => Ok(Form::Batches),
        Err(_) => Err(RequestError::new(
            Reason::InvalidRequest,
            format!("record form {value} is not known"),
        )),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Opens a fetch stream: its first message says what to read.
pub(crate) async fn stream(
    node: Arc<Node>,
    call: Arc<Call>,
    mut requests: Streaming<FetchStreamRequest>,
) -> Result<Pushed, RequestError> {
    let no_start = |message: String| RequestError::new(Reason::InvalidRequest, message);
    let first = tokio::select! {
        first = requests.message() => first,
        refused = node.stopping.begun() => return Err(refused),
        () = tokio::time::sleep(START_TIMEOUT) => {
            return Err(no_start(format!("a fetch stream begins with `start`, and none came within {START_TIMEOUT:?}")));
        }
    };
    let start = match first {
        Ok(Some(FetchStreamRequest {
            message: Some(Message::Start(start)),
        })) => start,
        first => {
            let decode_error = first.err().and_then(|said| with_details(&said, &node));
            return Err(decode_error.unwrap_or_else(|| no_start("a fetch stream begins with `start`".to_owned())));
        }
    };
    // A stream takes its place only after its first message, so that idle connections do not use up all places.
    let slot = call.caller().try_take(Resource::Streams, 1)?;
    let pusher = FetchPush::open(&node, &call.context, start).await?;
    // One response is being sent, one waits.
    let (responses, outgoing) = mpsc::channel(1);
    tokio::spawn(pusher.run(call.context.listener.clone(), requests, responses));
    Ok(Box::pin(ReceiverStream::new(outgoing).map(
        move |parcel: PendingResponse| {
            // What is being sent takes memory until the transport lets go of the stream, though its task may have ended.
            let _slot = &slot;
            parcel.open(&call)
        },
    )))
}

/// A response on its way to the transport, with its part of the budget for bytes that were read and not sent. Its stream's
/// task keeps a clone, to take it back when the transport does not want it.
#[derive(Clone)]
struct PendingResponse(Arc<Mutex<Option<Content>>>);

type Content = Result<(FetchResponse, Holding), Status>;

impl PendingResponse {
    fn new(response: FetchResponse, room: Holding) -> Self {
        Self(Arc::new(Mutex::new(Some(Ok((response, room))))))
    }

    fn end(status: Status) -> Self {
        Self(Arc::new(Mutex::new(Some(Err(status)))))
    }

    /// Sends the response, which counts until it has left; the transport gets what stands for it.
    fn open(self, call: &Call) -> Result<FetchStreamResponse, Status> {
        let content = self.0.lock().take().expect("a parcel is opened once");
        let (response, room) = content?;
        call.send(Framed::pushed(response, room));
        Ok(FetchStreamResponse::default())
    }

    fn is_waiting(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Puts the end of the stream in its place, and gives the bytes back. False: it was taken before.
    fn withdraw(&self, status: Status) -> bool {
        let mut content = self.0.lock();
        let is_waiting = content.is_some();
        if is_waiting {
            *content = Some(Err(status));
        }
        is_waiting
    }
}

/// One fetch stream.
struct FetchPush {
    node: Arc<Node>,
    reader: PartitionReader,
    /// What is to be read next.
    next: Fetch,
    /// Bytes; below zero after a response that went over it, as the consumer counts too.
    credit: i64,
    /// The last response, and until when it is to be taken.
    pushed: Option<(PendingResponse, Instant)>,
}

impl FetchPush {
    async fn open(node: &Arc<Node>, context: &RequestContext, start: FetchStreamStart) -> Result<Self, RequestError> {
        let wanted = names::partition(start.partition)?;
        let reader = PartitionReader::open(node, context, &wanted, start.leader_epoch).await?;
        Ok(Self {
            node: node.clone(),
            reader,
            next: Fetch {
                offset: Offset(start.offset),
                max_bytes: fetch::max_bytes(node, start.max_bytes)?,
                form: form(start.form)?,
                reading: record_wire::reading(start.isolation, start.aborted_list, start.form)?,
            },
            credit: signed(if start.credit_bytes == 0 {
                FETCH_CREDIT_BYTES_DEFAULT
            } else {
                start.credit_bytes
            }),
            pushed: None,
        })
    }

    async fn run(
        mut self,
        listener: Arc<str>,
        requests: Streaming<FetchStreamRequest>,
        responses: mpsc::Sender<PendingResponse>,
    ) {
        let error = self.push_all(requests, &responses).await;
        let error = error.map(|error| self.node.refused(error, &listener));
        self.finish(error, responses).await;
    }

    /// Pushes until the stream is to end; with an error, or because the consumer wants no more.
    async fn push_all(
        &mut self,
        mut requests: Streaming<FetchStreamRequest>,
        responses: &mpsc::Sender<PendingResponse>,
    ) -> Option<RequestError> {
        let node = self.node.clone();
        let stopping = node.stopping.begun();
        tokio::pin!(stopping);
        // A read that has begun goes on while credit comes in.
        let mut reading: Option<Reading> = None;
        loop {
            if reading.is_none() && self.credit > 0 {
                reading = Some(self.read_next(responses.clone()));
            }
            let take_by = self.pushed.as_ref().map(|(_, take_by)| *take_by);
            let outcome = tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) => return None,
                    Err(said) => return with_details(&said, &node),
                },
                refused = &mut stopping => Err(refused),
                read = async { reading.as_mut().expect("it is asked before").await }, if reading.is_some() => {
                    reading = None;
                    match read {
                        Ok(None) => return None,
                        Ok(Some((place, read))) => {
                            self.push(place, read);
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
                () = async { tokio::time::sleep_until(take_by.expect("it is asked before")).await }, if take_by.is_some() => {
                    match self.pushed.take_if(|(parcel, _)| !parcel.is_waiting()) {
                        Some(_) => Ok(()),
                        None => Err(self.stalled()),
                    }
                }
            };
            if let Err(error) = outcome {
                // The place that a read has taken is free again.
                return Some(error);
            }
        }
    }

    /// Says why the stream ends, behind the last response, or in its place when nobody takes that.
    async fn finish(self, error: Option<RequestError>, responses: mpsc::Sender<PendingResponse>) {
        let stalled = self.stalled();
        let Some((parcel, take_by)) = self.pushed else {
            if let Some(error) = error {
                let _ = responses.try_send(PendingResponse::end(error.into()));
            }
            return;
        };
        match (tokio::time::timeout_at(take_by, responses.reserve()).await, error) {
            (Ok(Ok(place)), Some(error)) => place.send(PendingResponse::end(error.into())),
            // All is said; or the consumer is gone.
            (Ok(_), _) => {}
            (Err(_), error) => {
                let status = Status::from(error.unwrap_or(stalled));
                if !parcel.withdraw(status.clone()) {
                    let _ = responses.try_send(PendingResponse::end(status));
                }
            }
        }
    }

    fn read_next(&self, responses: mpsc::Sender<PendingResponse>) -> Reading {
        Box::pin(read_next(self.node.clone(), self.reader.clone(), self.next, responses))
    }

    fn stalled(&self) -> RequestError {
        let message = format!(
            "{}: the stream ends, for {TAKEN_TIMEOUT:?} its response was not taken; open another one",
            self.reader.target
        );
        RequestError::new(Reason::BrokerBusy, message).retry_after(STALLED_RETRY)
    }

    fn take(&mut self, request: FetchStreamRequest) -> Result<(), RequestError> {
        match request.message {
            Some(Message::CreditBytes(bytes)) => {
                self.credit = self.credit.saturating_add(signed(bytes));
                Ok(())
            }
            _ => Err(RequestError::new(
                Reason::InvalidRequest,
                "after `start` a fetch stream takes only `credit_bytes`",
            )),
        }
    }

    fn push(&mut self, place: mpsc::OwnedPermit<PendingResponse>, read: Response) {
        self.credit = self.credit.saturating_sub(signed(read.bytes as u64));
        self.next.offset = Offset(read.message.next_offset);
        let parcel = PendingResponse::new(read.message, read.room);
        self.pushed = Some((parcel.clone(), Instant::now() + TAKEN_TIMEOUT));
        place.send(parcel);
    }
}

/// A place to send, and what goes there; nothing when nobody reads any more.
type Next = Option<(mpsc::OwnedPermit<PendingResponse>, Response)>;
type Reading = Pin<Box<dyn Future<Output = Result<Next, RequestError>> + Send>>;

/// What comes next, as soon as there is anything.
async fn read_next(
    node: Arc<Node>,
    reader: PartitionReader,
    fetch: Fetch,
    responses: mpsc::Sender<PendingResponse>,
) -> Result<Next, RequestError> {
    // Reads only when there is room to send, so that a consumer that stalls holds one response, not many.
    let Ok(place) = responses.reserve_owned().await else {
        return Ok(None);
    };
    loop {
        let read = match reader.read_when(fetch, 1, STREAM_WAIT).await {
            Ok(read) => respond(&node, &reader, fetch, read).await,
            Err(error) => Err(error),
        };
        match read {
            // Also when nothing of it is for the reader, who goes on behind it.
            Ok(read) if read.bytes > 0 || read.message.next_offset > fetch.offset.get() => {
                return Ok(Some((place, read)));
            }
            Ok(_) => {}
            // Behind the others again: nobody waits for an answer.
            Err(error) if error.reason == Reason::BrokerBusy => {}
            Err(error) => return Err(error),
        }
    }
}
