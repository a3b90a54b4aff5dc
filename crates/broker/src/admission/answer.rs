//! An answer's body on its way out. Its bytes count until they have left the process, not until they were handed over.

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::budget::Resource;
use super::call::Call;
use super::caller::{Caller, Holding};
use crate::metrics::Ending;

/// What HTTP/2 gets at once. It takes a piece as soon as its window and its buffer have any room, so a small piece is what
/// goes out at once and a large answer waits here, where its progress is seen.
const PIECE_BYTES: usize = 64 << 10;

/// An answer that is being sent: how many of its bytes are in memory, and when it last got on.
pub(super) struct Sending {
    number: u64,
    caller: Weak<Caller>,
    unsent: AtomicUsize,
    moved_at: Mutex<Instant>,
}

impl Sending {
    pub fn new(number: u64, caller: Weak<Caller>) -> Self {
        Self {
            number,
            caller,
            unsent: AtomicUsize::new(0),
            moved_at: Mutex::new(Instant::now()),
        }
    }

    fn moves(&self) {
        *self.moved_at.lock() = Instant::now();
    }

    /// How long unsent bytes have not got on.
    pub fn stalled_for(&self, now: Instant) -> Duration {
        if self.unsent.load(SeqCst) == 0 {
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.moved_at.lock())
    }
}

/// The end of an answer, with its last byte: takes it off its connection's list.
pub(super) struct Sent(pub Arc<Sending>);

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(caller) = self.0.caller.upgrade() {
            caller.end_answer(self.0.number);
        }
    }
}

/// Bytes with their part of the budgets. HTTP/2 lets go of the last slice when it was written to the socket, or when the
/// stream or the connection ends.
struct Unsent {
    bytes: Bytes,
    sent: Arc<Sent>,
    _room: Vec<Holding>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let sending = &self.sent.0;
        sending.unsent.fetch_sub(self.bytes.len(), SeqCst);
        sending.moves();
    }
}

/// See the module text.
pub(super) struct AnswerBody {
    body: Body,
    call: Arc<Call>,
    sent: Arc<Sent>,
    /// What was encoded and not handed over.
    rest: Bytes,
    /// Nothing comes any more.
    is_over: bool,
    /// Counts the call when its status goes out.
    ending: Ending,
}

impl AnswerBody {
    pub fn new(body: Body, call: Arc<Call>, ending: Ending) -> Self {
        let sent = Arc::new(Sent(call.caller.begin_answer()));
        Self {
            body,
            call,
            sent,
            rest: Bytes::new(),
            is_over: false,
            ending,
        }
    }

    /// The next piece of what is left.
    fn piece(&mut self) -> Bytes {
        self.sent.0.moves();
        let length = self.rest.len().min(PIECE_BYTES);
        self.rest.split_to(length)
    }

    /// Counts what was encoded: against what the service holds for it, the rest as an answer.
    fn keep(&mut self, bytes: Bytes) -> Result<(), Status> {
        let mut room = self.call.take_deposits();
        let covered: usize = room.iter().map(Holding::amount).sum();
        if let Some(more) = bytes.len().checked_sub(covered).filter(|more| *more > 0) {
            room.push(self.call.caller.try_take(Resource::Answers, more)?);
        }
        self.sent.0.unsent.fetch_add(bytes.len(), SeqCst);
        self.rest = Bytes::from_owner(Unsent {
            bytes,
            sent: self.sent.clone(),
            _room: room,
        });
        Ok(())
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let body = &mut *self;
        loop {
            if !body.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(body.piece()))));
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
                        body.ending.with(&status);
                    }
                    return Poll::Ready(Some(Ok(trailers)));
                }
            };
            if let Err(status) = body.keep(bytes) {
                body.is_over = true;
                body.ending.with(&status);
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
