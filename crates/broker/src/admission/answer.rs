//! The body of a response. Its bytes count against the budgets until they are written to the socket, not only until they are
//! handed to HTTP/2.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;

use super::call::{Call, outcome};
use super::frame::HEAD_BYTES;
use crate::error::RequestError;
use crate::metrics::Ending;
use crate::quota::{Holding, Resource, Sent};

/// How much of a response HTTP/2 gets at once. It accepts a whole piece as soon as its window and its buffer have any space, so
/// with small pieces a large response waits here, where its progress is observed.
const PIECE_BYTES: usize = 64 << 10;

/// The part of the transport's encode buffer that the budget of a call (`limits.calls_max`) includes, bytes.
const BUFFER_BYTES: usize = 16 << 10;

/// Bytes of a response with their holding. HTTP/2 drops its last slice of them once it is written to the socket, or when the
/// stream or the connection ends.
struct Unsent {
    bytes: Bytes,
    sent: Arc<Sent>,
    _room: Arc<Vec<Holding>>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.sent.progress().sent(self.bytes.len());
    }
}

/// The kind of call that a response belongs to.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Whether the call has several response messages, so that tonic's encode buffer lives on between them.
    pub is_stream: bool,
    /// Whether the call may have changed something. If so, an error while its response is sent is not definite.
    pub changes: bool,
}

/// The body of a response, with its bytes counted.
pub(super) struct AnswerBody {
    body: Body,
    call: Arc<Call>,
    sent: Arc<Sent>,
    /// Encoded bytes that were not handed to HTTP/2 yet.
    rest: VecDeque<Bytes>,
    /// The part of tonic's encode buffer that exceeds `BUFFER_BYTES`.
    buffer: Option<Holding>,
    kind: Kind,
    /// Whether the body has ended with an error of its own.
    is_over: bool,
    /// Counts the call with its outcome when its status is sent.
    ending: Ending,
}

impl AnswerBody {
    pub fn new(body: Body, call: Arc<Call>, kind: Kind, ending: Ending) -> Self {
        let sent = Arc::new(call.caller().begin_answer());
        Self {
            body,
            call,
            sent,
            rest: VecDeque::new(),
            buffer: None,
            kind,
            is_over: false,
            ending,
        }
    }

    /// The next piece for HTTP/2, if there is one.
    fn piece(&mut self) -> Option<Bytes> {
        let first = self.rest.front_mut()?;
        let piece = first.split_to(first.len().min(PIECE_BYTES));
        if first.is_empty() {
            self.rest.pop_front();
        }
        self.sent.progress().moves();
        Some(piece)
    }

    /// Counts bytes that tonic has encoded. Where they are empty messages that stand for [`Framed`](super::frame::Framed) ones,
    /// sends those instead, with the holdings that they bring.
    fn keep(&mut self, bytes: Bytes) -> Result<(), RequestError> {
        let framed = self.call.take_framed(bytes.len() / HEAD_BYTES);
        if framed.is_empty() {
            self.keep_buffer(bytes.len())?;
            let room = self.room(bytes.len())?;
            self.hold(bytes, Arc::new(room));
            return Ok(());
        }
        debug_assert!(framed.len() * HEAD_BYTES == bytes.len() && bytes.iter().all(|byte| *byte == 0));
        for message in framed {
            let covered = message.room.as_ref().map_or(0, Holding::amount);
            let beside = message.len().saturating_sub(covered);
            let mut room: Vec<Holding> = message.room.into_iter().collect();
            self.add_missing(&mut room, beside)?;
            let room = Arc::new(room);
            self.hold(message.head, room.clone());
            self.hold(message.rest, room);
        }
        Ok(())
    }

    /// The holdings for bytes that tonic has encoded: the service's deposit, and as much more as is missing. A small message of a
    /// stream needs none, since the budget of a call includes it: a stream must not fail because others hold the whole budget.
    fn room(&self, bytes: usize) -> Result<Vec<Holding>, RequestError> {
        let mut room: Vec<Holding> = self.call.take_deposit().into_iter().collect();
        let covered = room.first().map_or(0, Holding::amount);
        if let Some(held) = room.first_mut() {
            held.shrink_to(bytes);
        }
        self.add_missing(&mut room, bytes.saturating_sub(covered))?;
        Ok(room)
    }

    /// Adds a holding for bytes that the others do not cover.
    fn add_missing(&self, room: &mut Vec<Holding>, missing: usize) -> Result<(), RequestError> {
        if missing == 0 {
            return Ok(());
        }
        match self.call.caller().try_take(Resource::Answers, missing) {
            Ok(more) => room.push(more),
            Err(_) if self.kind.is_stream && missing <= BUFFER_BYTES => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Queues bytes to be sent. The holdings are given back when all bytes that share them are sent.
    fn hold(&mut self, bytes: Bytes, room: Arc<Vec<Holding>>) {
        if bytes.is_empty() {
            return;
        }
        self.sent.progress().add(bytes.len());
        self.rest.push_back(Bytes::from_owner(Unsent {
            bytes,
            sent: self.sent.clone(),
            _room: room,
        }));
    }

    /// Counts tonic's encode buffer, which a stream keeps at the size of its largest message so far.
    fn keep_buffer(&mut self, bytes: usize) -> Result<(), RequestError> {
        let Some(more) = bytes.checked_sub(BUFFER_BYTES).filter(|_| self.kind.is_stream) else {
            return Ok(());
        };
        match &mut self.buffer {
            Some(buffer) if buffer.amount() >= more => {}
            Some(buffer) => buffer.resize(more)?,
            None => self.buffer = Some(self.call.caller().try_take(Resource::Answers, more)?),
        }
        Ok(())
    }
}

/// The error for a call that was executed or refused, but whose response does not fit into the budget.
fn unanswered(no_room: RequestError) -> RequestError {
    let message = format!("the call may have been carried out, but its answer was given up: {no_room}");
    RequestError { message, ..no_room }.unknown()
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let body = &mut *self;
        loop {
            if let Some(piece) = body.piece() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if body.is_over {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut body.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(trailers) => {
                    if let Some(status) = trailers.trailers_ref().and_then(Status::from_header_map) {
                        body.ending.with(outcome(&status));
                    }
                    return Poll::Ready(Some(Ok(trailers)));
                }
            };
            if let Err(error) = body.keep(bytes) {
                body.is_over = true;
                let status = Status::from(match body.kind.changes {
                    true => unanswered(error),
                    false => error,
                });
                body.ending.with(outcome(&status));
                let trailers = status.into_http::<Body>().into_parts().0.headers;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.is_over || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tonic_types::StatusExt as _;

    use super::*;
    use crate::api::context::RequestContext;
    use crate::quota::{Budgets, Caller, QuotaMetrics};

    const LIMIT: usize = 1 << 20;
    const READER: Kind = Kind {
        is_stream: false,
        changes: false,
    };
    const WRITER: Kind = Kind {
        is_stream: false,
        changes: true,
    };

    /// Two connections from different addresses.
    fn callers() -> [Arc<Caller>; 2] {
        let budgets = Arc::new(Budgets::with([LIMIT; Resource::ALL.len()], 75, QuotaMetrics::default()));
        [1, 2].map(|last| Caller::new(SocketAddr::from(([127, 0, 0, last], 1)), &budgets))
    }

    /// Takes all that is left of the room for answers.
    fn fill(caller: &Arc<Caller>) -> Holding {
        let left = LIMIT - caller.budgets().used(Resource::Answers);
        let all = caller.try_take(Resource::Answers, left);
        all.expect("it holds nothing, and is alone at its address")
    }

    /// How many bytes of an answer go out, or why none do.
    async fn send(call: &Arc<Call>, kind: Kind, bytes: usize) -> Result<usize, Status> {
        let body = Body::from(vec![7; bytes]);
        let mut body = AnswerBody::new(body, call.clone(), kind, Ending::uncounted());
        let mut sent = 0;
        while let Some(frame) = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await {
            match frame.expect("the body is in memory").into_data() {
                Ok(bytes) => sent += bytes.len(),
                Err(trailers) => {
                    let trailers = trailers.into_trailers().expect("it is no data");
                    return Err(Status::from_header_map(&trailers).expect("they have a status"));
                }
            }
        }
        Ok(sent)
    }

    fn is_definite(status: &Status) -> bool {
        let info = status.get_details_error_info().expect("it is an error of ours");
        assert_eq!(info.reason, "BROKER_BUSY");
        info.metadata["definite"] == "true"
    }

    #[tokio::test]
    async fn what_was_reserved_is_answered_whatever_others_take_meanwhile() {
        let [caller, other] = callers();
        let call = Call::new(RequestContext::by(caller.clone()), None);
        call.reserve_answer().expect("there is room");
        let all = fill(&other);
        // The next one is refused before anything is done.
        let refused = Call::new(RequestContext::by(caller.clone()), None).reserve_answer();
        assert!(refused.expect_err("there is no room").definite);
        assert_eq!(send(&call, WRITER, 600).await.expect("it has its room"), 600);
        assert_eq!(caller.held(Resource::Answers), 0);
        drop(all);
        assert_eq!(other.budgets().used(Resource::Answers), 0);
    }

    #[tokio::test]
    async fn a_longer_answer_that_finds_no_room_says_that_its_outcome_is_unknown() {
        let [caller, other] = callers();
        let call = Call::new(RequestContext::by(caller.clone()), None);
        call.reserve_answer().expect("there is room");
        let _all = fill(&other);
        let refused = send(&call, WRITER, 10_000).await.expect_err("there is no room");
        assert!(!is_definite(&refused), "{refused:?}");
        assert!(refused.message().contains("may have been carried out"), "{refused:?}");
        let refused = send(&call, READER, 10_000).await.expect_err("there is no room");
        assert!(is_definite(&refused), "{refused:?}");
        assert_eq!(caller.held(Resource::Answers), 0);
    }
}
