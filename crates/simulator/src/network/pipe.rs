//! A connection between two hosts: two ways, on each of which bytes are for a while. What arrives when is decided by the network.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;
use super::net::Net;
use crate::current::Who;

/// Bytes that may be on one way: those that are not read count.
const WAY_BYTES_MAX: usize = 1 << 20;

/// What is sent on a way.
pub(super) enum Piece {
    Bytes(Bytes),
    /// Nothing more comes. The other way goes on.
    End,
    /// The one who sends is gone, and does not read either. With a reset, or as if it had ended its way.
    Gone {
        with_reset: bool,
    },
}

/// How a way ended, as its reader sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Orderly,
    Reset,
}

/// One direction of a connection.
pub(super) struct Way {
    pub connection: u64,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    state: Mutex<WayState>,
}

struct WayState {
    /// Whose the ends are.
    writes: Arc<Who>,
    reads: Arc<Who>,
    /// On the way, with the time at which each is there. Times do not fall.
    flying: VecDeque<(Duration, Piece)>,
    /// The time of the last piece.
    last: Duration,
    /// The network looks at it when the first piece is there, or the way is mended.
    is_scheduled: bool,
    arrived: VecDeque<Bytes>,
    /// Of what is flying and what has arrived.
    bytes: usize,
    ended: Option<Ended>,
    /// The writer has ended it.
    is_closed: bool,
    /// The writer is gone, and has said so.
    is_gone: bool,
    /// The writer knows that nobody reads any more.
    is_broken: bool,
    /// Nobody reads any more, which the writer does not know.
    is_void: bool,
    /// The writer's host has lost its power: nothing of what it sent comes, nor that it is gone.
    is_silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    meter: Meter,
}

/// Somebody to wake, once no lock is held.
#[derive(Default)]
pub(super) struct Wakes(Vec<(Waker, Arc<Who>)>);

impl Wakes {
    fn push(&mut self, waker: Option<Waker>, who: &Arc<Who>) {
        self.0.extend(waker.map(|waker| (waker, who.clone())));
    }

    pub fn wake(self) {
        for (waker, who) in self.0 {
            who.rouse();
            waker.wake();
        }
    }
}

/// What has come of a way at some time.
pub(super) struct Arrival {
    /// When the next piece is there.
    pub next: Option<Duration>,
    /// The reader has learned that the writer does not read any more.
    pub is_gone: bool,
}

impl Way {
    pub fn new(connection: u64, (from, writes): (Ipv4Addr, &Arc<Who>), (to, reads): (Ipv4Addr, &Arc<Who>)) -> Self {
        let state = WayState {
            writes: writes.clone(),
            reads: reads.clone(),
            flying: VecDeque::new(),
            last: Duration::ZERO,
            is_scheduled: false,
            arrived: VecDeque::new(),
            bytes: 0,
            ended: None,
            is_closed: false,
            is_gone: false,
            is_broken: false,
            is_void: false,
            is_silent: false,
            reader: None,
            writer: None,
            meter: Meter::default(),
        };
        Self {
            connection,
            from,
            to,
            state: Mutex::new(state),
        }
    }

    /// Sends a piece, which is there at `at` or after what was sent before. Gives the time at which the network is to look, unless it
    /// does anyway.
    pub fn send(&self, piece: Piece, at: Duration) -> Option<Duration> {
        let mut way = self.state.lock();
        if way.is_void || way.is_silent || way.is_gone {
            return None;
        }
        way.is_gone = matches!(piece, Piece::Gone { .. });
        let at = at.max(way.last);
        way.last = at;
        if let Piece::Bytes(bytes) = &piece {
            way.bytes += bytes.len();
        }
        way.flying.push_back((at, piece));
        (!std::mem::replace(&mut way.is_scheduled, true)).then_some(at)
    }

    /// What has arrived by now can be read.
    pub fn arrive(&self, now: Duration, wakes: &mut Wakes) -> Arrival {
        let way = &mut *self.state.lock();
        let mut is_gone = false;
        while let Some((_, piece)) = way.flying.pop_front_if(|(at, _)| *at <= now) {
            match piece {
                Piece::Bytes(bytes) if way.ended.is_none() => way.arrived.push_back(bytes),
                Piece::Bytes(bytes) => way.bytes -= bytes.len(),
                Piece::End => {
                    way.ended.get_or_insert(Ended::Orderly);
                }
                Piece::Gone { with_reset } => {
                    is_gone = true;
                    if with_reset && way.ended.is_none() {
                        way.ended = Some(Ended::Reset);
                    }
                    way.ended.get_or_insert(Ended::Orderly);
                }
            }
        }
        let next = way.flying.front().map(|(at, _)| *at);
        way.is_scheduled = next.is_some();
        wakes.push(way.reader.take(), &way.reads);
        Arrival { next, is_gone }
    }

    /// What was sent is lost on the way, and comes later: nothing is there before `at`.
    pub fn retransmit(&self, at: Duration) {
        let mut way = self.state.lock();
        for (due, _) in &mut way.flying {
            *due = at.max(*due);
        }
        way.last = way.last.max(at);
    }

    /// The writer learns that nobody reads any more.
    pub fn set_broken(&self, wakes: &mut Wakes) {
        let way = &mut *self.state.lock();
        way.is_broken = true;
        wakes.push(way.writer.take(), &way.writes);
    }

    /// Nobody reads any more: what is sent goes nowhere.
    pub fn set_void(&self, wakes: &mut Wakes) {
        let way = &mut *self.state.lock();
        way.is_void = true;
        (way.arrived, way.bytes) = (VecDeque::new(), 0);
        way.flying.clear();
        wakes.push(way.writer.take(), &way.writes);
    }

    /// Nothing of what was or will be sent comes.
    pub fn set_silent(&self, is_silent: bool) {
        let mut way = self.state.lock();
        way.is_silent = is_silent;
        if is_silent {
            way.flying.clear();
        }
    }

    /// Breaks the way at both ends, at once.
    pub fn reset(&self, wakes: &mut Wakes) {
        self.set_void(wakes);
        self.set_broken(wakes);
        let way = &mut *self.state.lock();
        way.ended = Some(Ended::Reset);
        wakes.push(way.reader.take(), &way.reads);
    }

    /// Whether the writer is this process.
    pub fn is_written_by(&self, process: u32) -> bool {
        self.state.lock().writes.id == process
    }

    pub fn is_silent(&self) -> bool {
        self.state.lock().is_silent
    }
}

impl WayState {
    fn read(&mut self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>, wakes: &mut Wakes) -> Poll<io::Result<()>> {
        let before = buffer.remaining();
        while let Some(chunk) = self.arrived.front_mut().filter(|_| buffer.remaining() > 0) {
            let take = chunk.len().min(buffer.remaining());
            buffer.put_slice(&chunk[..take]);
            chunk.advance(take);
            if chunk.is_empty() {
                self.arrived.pop_front();
            }
        }
        let read = before - buffer.remaining();
        if read > 0 || before == 0 {
            self.bytes -= read;
            wakes.push(self.writer.take(), &self.writes);
            return Poll::Ready(Ok(()));
        }
        match self.ended {
            Some(Ended::Orderly) => Poll::Ready(Ok(())),
            Some(Ended::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// One end of a connection.
pub(super) struct End {
    net: Arc<Net>,
    who: Arc<Who>,
    /// Which way it writes, for the trace: `>` is who has opened the connection.
    name: char,
    reads: Arc<Way>,
    writes: Arc<Way>,
}

impl End {
    pub fn new(net: &Arc<Net>, who: &Arc<Who>, name: char, reads: &Arc<Way>, writes: &Arc<Way>) -> Self {
        Self {
            net: net.clone(),
            who: who.clone(),
            name,
            reads: reads.clone(),
            writes: writes.clone(),
        }
    }

    fn close(&self, piece: Piece) {
        let mut way = self.writes.state.lock();
        let was_closed = std::mem::replace(&mut way.is_closed, true);
        let is_gone = matches!(piece, Piece::Gone { .. });
        drop(way);
        if self.who.is_dead() || (was_closed && !is_gone) {
            return;
        }
        if !was_closed {
            let end = u64::from(self.name == '>') + 2;
            let text = format_args!("net #{}{} ends", self.writes.connection, self.name);
            self.net.event(&[self.writes.connection, end], text);
        }
        self.net.send(&self.writes, piece, 0);
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.who.is_dead() {
            return Poll::Pending;
        }
        let mut wakes = Wakes::default();
        let polled = self.reads.state.lock().read(cx, buffer, &mut wakes);
        wakes.wake();
        polled
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = self.writes.state.lock();
        if way.is_broken || way.is_closed || self.who.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = match way.is_void {
            true => bytes.len(),
            false => WAY_BYTES_MAX.saturating_sub(way.bytes),
        };
        let take = bytes.len().min(room);
        if take == 0 && !bytes.is_empty() {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let counted = way.meter.count(&bytes[..take]);
        drop(way);
        let piece = Piece::Bytes(Bytes::copy_from_slice(&bytes[..take]));
        self.net.send(&self.writes, piece, counted);
        // Without its length: hyper's `date` header and the order of an error's details, which are the system's and a hash map's,
        // make it a few bytes more or less.
        let connection = self.writes.connection;
        let text = format_args!("net #{connection}{}", self.name);
        self.net.event(&[connection, u64::from(self.name == '>')], text);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(Piece::End);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close(Piece::Gone { with_reset: false });
        let mut wakes = Wakes::default();
        self.reads.set_void(&mut wakes);
        wakes.wake();
        self.net.forget_end(self.writes.connection);
    }
}
