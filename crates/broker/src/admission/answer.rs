//! An answer's body on its way out. Its bytes count until they have left the process, not until they were handed over.

use std::collections::VecDeque;
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
use super::frame::HEAD_BYTES;
use crate::metrics::Ending;

/// What HTTP/2 gets at once. It takes a piece as soon as its window and its buffer have any room, so a small piece is what
/// goes out at once and a large answer waits here, where its progress is seen.
const PIECE_BYTES: usize = 64 << 10;

/// So much of the transport's buffer is among what a call counts for.
const BUFFER_BYTES: usize = 16 << 10;

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
    _room: Arc<Vec<Holding>>,
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
    rest: VecDeque<Bytes>,
    /// What the transport's buffer for the stream takes beyond what a call counts for.
    buffer: Option<Holding>,
    /// Whether that buffer lives on: not of a call with one answer.
    is_stream: bool,
    /// Nothing comes any more.
    is_over: bool,
    /// Counts the call when its status goes out.
    ending: Ending,
}

impl AnswerBody {
    pub fn new(body: Body, call: Arc<Call>, is_stream: bool, ending: Ending) -> Self {
        let sent = Arc::new(Sent(call.caller.begin_answer()));
        Self {
            body,
            call,
            sent,
            rest: VecDeque::new(),
            buffer: None,
            is_stream,
            is_over: false,
            ending,
        }
    }

    /// The next piece of what is left.
    fn piece(&mut self) -> Option<Bytes> {
        let first = self.rest.front_mut()?;
        let piece = first.split_to(first.len().min(PIECE_BYTES));
        if first.is_empty() {
            self.rest.pop_front();
        }
        self.sent.0.moves();
        Some(piece)
    }

    /// Counts what was encoded. Of empty messages that stand for others those are sent, with the room that they have.
    fn keep(&mut self, bytes: Bytes) -> Result<(), Status> {
        let framed = self.call.take_framed(bytes.len() / HEAD_BYTES);
        if framed.is_empty() {
            self.keep_buffer(bytes.len())?;
            let room = self.room(bytes.len())?;
            self.hold(bytes, Arc::new(room));
            return Ok(());
        }
        debug_assert!(framed.len() * HEAD_BYTES == bytes.len() && bytes.iter().all(|byte| *byte == 0));
        for message in framed {
            let beside = message.len().saturating_sub(message.room.amount());
            let mut room = vec![message.room];
            if beside > 0 {
                room.push(self.call.caller.try_take(Resource::Answers, beside)?);
            }
            let room = Arc::new(room);
            self.hold(message.head, room.clone());
            self.hold(message.rest, room);
        }
        Ok(())
    }

    /// For what tonic encoded: what the service has for it, and as much as is missing. A little of a stream is among what a call
    /// counts for: it does not end because others have all the room.
    fn room(&self, bytes: usize) -> Result<Vec<Holding>, Status> {
        let mut room: Vec<Holding> = self.call.take_deposit().into_iter().collect();
        let covered = room.first().map_or(0, Holding::amount);
        if let Some(held) = room.first_mut() {
            held.shrink_to(bytes);
        }
        if bytes > covered {
            let missing = bytes - covered;
            match self.call.caller.try_take(Resource::Answers, missing) {
                Ok(more) => room.push(more),
                Err(_) if self.is_stream && missing <= BUFFER_BYTES => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(room)
    }

    /// Bytes that are to be sent. Their room is given back when the last of those that share it are.
    fn hold(&mut self, bytes: Bytes, room: Arc<Vec<Holding>>) {
        if bytes.is_empty() {
            return;
        }
        self.sent.0.unsent.fetch_add(bytes.len(), SeqCst);
        self.rest.push_back(Bytes::from_owner(Unsent {
            bytes,
            sent: self.sent.clone(),
            _room: room,
        }));
    }

    /// The transport encodes the messages of a stream in one buffer and keeps it, as large as they were, until it needs a
    /// larger one.
    fn keep_buffer(&mut self, bytes: usize) -> Result<(), Status> {
        let Some(more) = bytes.checked_sub(BUFFER_BYTES).filter(|_| self.is_stream) else {
            return Ok(());
        };
        match &mut self.buffer {
            Some(buffer) if buffer.amount() >= more => {}
            Some(buffer) => buffer.resize(more)?,
            None => self.buffer = Some(self.call.caller.try_take(Resource::Answers, more)?),
        }
        Ok(())
    }
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
