//! The streams of `QueueService`: sending, and consuming.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use jangada_proto::v1;
use jangada_proto::v1::consume_request::Message as Request;
use jangada_proto::v1::consume_response::Message as Hears;
use jangada_proto::v1::send_stream_response::Result as SendOutcome;
use jangada_queue::SessionId;
use jangada_types::Reason;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::decode_errors::with_details;
use super::queue::{queue_of, send_all};
use super::queue_wire as wire;
use super::record_wire::invalid;
use super::status;
use crate::admission::{Call, Framed};
use crate::api::queue_messages::QueueRef;
use crate::api::queue_messages::consume::{ConsumeStart, ConsumerHears, ConsumerSays, Consuming};
use crate::api::queue_messages::send::room_bytes;
use crate::error::RequestError;
use crate::node::Node;
use crate::quota::{Holding, Resource};

/// The answers of a stream that sends.
pub(crate) type Sent = Pin<Box<dyn Stream<Item = Result<v1::SendStreamResponse, Status>> + Send>>;
/// What a consumer is told.
pub(crate) type Consumed = Pin<Box<dyn Stream<Item = Result<v1::ConsumeResponse, Status>> + Send>>;

/// Bytes of messages that one stream may have unanswered.
const UNANSWERED_BYTES: usize = 8 << 20;
/// Requests that one stream may have unanswered.
const UNANSWERED_MAX: usize = 256;
/// How long a stream waits for its first message.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Begins a stream that sends messages.
///
/// # Errors
/// SHUTTING_DOWN, TOO_MANY_STREAMS.
pub(super) fn send(
    node: Arc<Node>,
    call: Arc<Call>,
    requests: Streaming<v1::SendStreamRequest>,
) -> Result<Sent, RequestError> {
    node.stopping.refuse()?;
    let slot = call.caller().try_take(Resource::Streams, 1)?;
    let (answers, outgoing) = mpsc::channel(1);
    tokio::spawn(async move {
        let _slot = slot;
        answer_all(&node, &call, requests, answers).await;
    });
    Ok(Box::pin(ReceiverStream::new(outgoing)))
}

type Answers = mpsc::Sender<Result<v1::SendStreamResponse, Status>>;

/// Answers the requests of a stream, many at a time, until there are no more, or one cannot be read.
async fn answer_all(
    node: &Arc<Node>,
    call: &Arc<Call>,
    mut requests: Streaming<v1::SendStreamRequest>,
    answers: Answers,
) {
    let stopping = node.stopping.begun();
    tokio::pin!(stopping);
    let mut sending = FuturesUnordered::new();
    let mut done: VecDeque<v1::SendStreamResponse> = VecDeque::new();
    let mut unanswered = 0;
    let mut end: Option<Result<(), RequestError>> = None;
    loop {
        if sending.is_empty() && done.is_empty() && end.is_some() {
            break;
        }
        let listens = end.is_none() && sending.len() + done.len() < UNANSWERED_MAX && unanswered < UNANSWERED_BYTES;
        tokio::select! {
            biased;
            place = answers.reserve(), if !done.is_empty() => {
                // Nobody reads the answers any more: what was sent goes on by itself.
                let Ok(place) = place else { return };
                if let Some(answer) = done.pop_front() {
                    place.send(Ok(answer));
                }
            }
            Some((bytes, queue_room, correlation_id, result)) = sending.next(), if !sending.is_empty() => {
                unanswered -= bytes;
                let room = Option::unwrap_or(queue_room, u64::MAX).min((UNANSWERED_BYTES - unanswered) as u64);
                done.push_back(answer(node, call, (correlation_id, result), room));
            }
            request = requests.message(), if listens => match request {
                Ok(Some(request)) => {
                    let bytes = request.encoded_len();
                    unanswered += bytes;
                    sending.push(send_one(node.clone(), call.clone(), request, bytes));
                }
                Ok(None) => end = Some(Ok(())),
                Err(said) => end = Some(with_details(&said, node).map_or(Ok(()), Err)),
            },
            // What was taken is answered still.
            _ = &mut stopping, if end.is_none() => end = Some(Ok(())),
        }
    }
    if let Some(Err(error)) = end {
        let error = node.refused(error, &call.context.listener);
        // Nobody may read any more.
        let _ = answers.send(Err(error.into())).await;
    }
}

async fn send_one(
    node: Arc<Node>,
    call: Arc<Call>,
    request: v1::SendStreamRequest,
    bytes: usize,
) -> (usize, Option<u64>, u64, Result<v1::SendResponse, RequestError>) {
    let queue = request.send.as_ref();
    let queue = queue.and_then(|send| queue_of(&node, send.queue.clone(), &send.queue_id).ok());
    let sent = match request.send {
        // Requests of a stream overtake each other, and batches of a transaction have their sequences.
        Some(send) if send.transaction.is_some() => Err(invalid(
            "messages of a transaction are not sent on a stream, whose requests overtake each other: use Send",
        )),
        Some(send) => send_all(&node, &call, send).await,
        None => Err(invalid("the request has nothing to send: set `send`")),
    };
    let room = queue.and_then(|queue| room_bytes(&node, &queue));
    (bytes, room, request.correlation_id, sent)
}

fn answer(
    node: &Node,
    call: &Call,
    (correlation_id, result): (u64, Result<v1::SendResponse, RequestError>),
    room: u64,
) -> v1::SendStreamResponse {
    use v1::send_result::Result as Outcome;
    let is_full = |error: &v1::Error| {
        [
            Reason::QueueFull,
            Reason::PartitionBusy,
            Reason::BrokerBusy,
            Reason::DiskFull,
        ]
        .iter()
        .any(|reason| error.reason == reason.as_str())
    };
    let result = match result {
        Ok(response) => SendOutcome::Ok(response),
        Err(error) => SendOutcome::Error(status::in_stream(&node.refused(error, &call.context.listener))),
    };
    let has_no_room = match &result {
        SendOutcome::Error(error) => is_full(error),
        SendOutcome::Ok(response) => response
            .results
            .iter()
            .any(|result| matches!(&result.result, Some(Outcome::Error(error)) if is_full(error))),
    };
    v1::SendStreamResponse {
        correlation_id,
        result: Some(result),
        credit_bytes: if has_no_room { 0 } else { room },
    }
}

/// Opens a consumer's stream: its first message says of which queue.
///
/// # Errors
/// Those of `Consume` in the contract.
pub(super) async fn consume(
    node: Arc<Node>,
    call: Arc<Call>,
    mut requests: Streaming<v1::ConsumeRequest>,
) -> Result<Consumed, RequestError> {
    let first = tokio::select! {
        first = requests.message() => first,
        refused = node.stopping.begun() => return Err(refused),
        () = tokio::time::sleep(START_TIMEOUT) => {
            return Err(invalid(format!("a consumer's stream begins with `start`, and none came within {START_TIMEOUT:?}")));
        }
    };
    let start = match first {
        Ok(Some(v1::ConsumeRequest {
            message: Some(Request::Start(start)),
        })) => start,
        first => {
            let unread = first.err().and_then(|said| with_details(&said, &node));
            return Err(unread.unwrap_or_else(|| invalid("a consumer's stream begins with `start`")));
        }
    };
    // A stream takes its place only after its first message, so that idle connections do not use up all places.
    let slot = call.caller().try_take(Resource::Streams, 1)?;
    let queue = queue_of(&node, start.queue, &start.queue_id)?;
    if start.session == 0 {
        return Err(invalid(
            "a consumer's stream has a session: choose one at random, and keep it",
        ));
    }
    wire::check_count("tokens", start.holds.len(), 0)?;
    let holds = start
        .holds
        .iter()
        .enumerate()
        .map(|(place, token)| queue.token(token, place));
    let start = ConsumeStart {
        session: SessionId(start.session),
        lease_ms: wire::lease_ms(start.lease_ms)?,
        credit: start.credit,
        max_bytes: wire::max_bytes(start.max_bytes)?,
        holds: holds.collect::<Result<_, _>>()?,
    };
    let consuming = Consuming::open(&node, &call.context, queue.clone(), start).await?;
    // One response is being sent, one waits.
    let (tells, outgoing) = mpsc::channel(1);
    let (ended, end) = tokio::sync::oneshot::channel();
    let says = says(node.clone(), queue.clone(), requests);
    let for_errors = (node.clone(), call.context.listener.clone());
    tokio::spawn(async move {
        if let Err(error) = consuming.run(says, tells).await {
            let (node, listener) = for_errors;
            // Nobody may read any more.
            let _ = ended.send(Status::from(node.refused(error, &listener)));
        }
    });
    let end = futures::stream::once(end).filter_map(|end| std::future::ready(end.ok().map(Err)));
    let hears = ReceiverStream::new(outgoing).map(move |news| {
        // What is being sent takes memory until the transport lets go of the stream, though its task may have ended.
        let _slot = &slot;
        Ok(tell(&node, &call, &queue, news))
    });
    Ok(Box::pin(hears.chain(end)))
}

/// What a client says, decoded.
fn says(
    node: Arc<Node>,
    queue: QueueRef,
    requests: Streaming<v1::ConsumeRequest>,
) -> impl Stream<Item = Result<ConsumerSays, Option<RequestError>>> + Send + Unpin {
    requests.map(move |request| match request {
        Ok(request) => said(&queue, request).map_err(Some),
        Err(status) => Err(with_details(&status, &node)),
    })
}

fn said(queue: &QueueRef, request: v1::ConsumeRequest) -> Result<ConsumerSays, RequestError> {
    match request.message {
        Some(Request::Credit(credit)) => Ok(ConsumerSays::Credit(credit)),
        Some(Request::Settle(settle)) => {
            let correlation_id = settle.correlation_id;
            let count = settle.items.len();
            let items = wire::check_count("items", count, 1).and_then(|()| wire::settle_of(queue, settle.items));
            Ok(match items {
                Ok(items) => ConsumerSays::Settle { correlation_id, items },
                Err(error) => ConsumerSays::Refused {
                    correlation_id,
                    outcomes: (0..count).map(|_| Err(error.clone())).collect(),
                },
            })
        }
        Some(Request::Start(_)) | None => Err(invalid("after `start` a consumer's stream takes `credit` and `settle`")),
    }
}

/// Hands what a client is told to the transport; what this gives stands for it.
fn tell(node: &Node, call: &Call, queue: &QueueRef, news: ConsumerHears) -> v1::ConsumeResponse {
    let mut room: Option<Holding> = None;
    let message = match news {
        ConsumerHears::Started { partitions } => Hears::Started(v1::ConsumeStarted {
            queue_id: wire::queue_id_to(queue.id()),
            partitions: partitions.into_iter().map(|index| index.get()).collect(),
        }),
        ConsumerHears::Messages {
            messages,
            unseen,
            room: taken,
        } => {
            room = Some(taken);
            unseen.seen();
            Hears::Messages(v1::ConsumeMessages {
                messages: messages.into_iter().map(wire::received_to).collect(),
            })
        }
        ConsumerHears::Settled {
            correlation_id,
            outcomes,
        } => Hears::Settled(v1::ConsumeSettled {
            correlation_id,
            results: wire::settled_to(outcomes, |error| node.refused(error, &call.context.listener)),
        }),
        ConsumerHears::Moved { partition, leader } => Hears::Moved(v1::ConsumeMoved {
            partition: partition.get(),
            leader_id: leader.map_or(0, |leader| leader.get()),
        }),
        ConsumerHears::InFlightFull { partition, most } => Hears::InFlightFull(v1::ConsumeInFlightFull {
            partition: partition.get(),
            in_flight_full: wire::in_flight_full_to(most),
        }),
    };
    let response = v1::ConsumeResponse { message: Some(message) };
    call.send(Framed::of(&response, room));
    v1::ConsumeResponse::default()
}
