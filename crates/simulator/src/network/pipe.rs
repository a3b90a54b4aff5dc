//! A connection between two hosts: two ways, on each of which bytes arrive in order, some time after they were written.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Net;

/// Bytes that may be on one way: those that are not read count.
const WAY_BYTES_MAX: usize = 1 << 20;

/// Both ends of a connection: of who opens it, and of who accepts it.
pub(super) fn pipe(net: &Arc<Net>, number: u64) -> (End, End) {
    let (there, back) = (Arc::new(Way::default()), Arc::new(Way::default()));
    let end = |name, reads: &Arc<Way>, writes: &Arc<Way>| End {
        net: net.clone(),
        number,
        name,
        reads: reads.clone(),
        writes: writes.clone(),
        arrives: None,
    };
    (end('>', &back, &there), end('<', &there, &back))
}

/// What is under way in one direction.
#[derive(Default)]
struct Way(Mutex<UnderWay>);

#[derive(Default)]
struct UnderWay {
    /// With the time at which each is there. Times do not fall.
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The time of the last chunk.
    last: Option<Instant>,
    /// Nothing more comes, from then on.
    ends: Option<Instant>,
    /// Nobody reads any more.
    is_deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a connection.
pub(super) struct End {
    net: Arc<Net>,
    number: u64,
    /// Which way it writes, for the trace.
    name: char,
    reads: Arc<Way>,
    writes: Arc<Way>,
    /// Until the next bytes are there.
    arrives: Option<Pin<Box<Sleep>>>,
}

impl End {
    /// When something that leaves now is there: not before what left earlier.
    fn arrival(&self, way: &mut UnderWay) -> Instant {
        let at = Instant::now() + self.net.delay();
        let at = way.last.map_or(at, |last| at.max(last));
        way.last = Some(at);
        at
    }

    fn end(&self) {
        let mut way = self.writes.0.lock();
        if way.ends.is_none() {
            let at = self.arrival(&mut way);
            way.ends = Some(at);
            let reader = way.reader.take();
            drop(way);
            self.net.note(format_args!("net #{}{} ends", self.number, self.name));
            reader.into_iter().for_each(Waker::wake);
        }
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let reads = self.reads.clone();
            let mut way = reads.0.lock();
            let now = Instant::now();
            let before = buffer.remaining();
            while let Some((at, chunk)) = way.chunks.front_mut() {
                if *at > now || buffer.remaining() == 0 {
                    break;
                }
                let take = chunk.len().min(buffer.remaining());
                buffer.put_slice(&chunk[..take]);
                chunk.advance(take);
                if chunk.is_empty() {
                    way.chunks.pop_front();
                }
            }
            let read = before - buffer.remaining();
            way.bytes -= read;
            if read > 0 || before == 0 {
                let writer = way.writer.take();
                drop(way);
                writer.into_iter().for_each(Waker::wake);
                return Poll::Ready(Ok(()));
            }
            let next = way.chunks.front().map(|(at, _)| *at).or(way.ends);
            way.reader = Some(cx.waker().clone());
            drop(way);
            match next {
                None => return Poll::Pending,
                Some(at) if at <= now => return Poll::Ready(Ok(())),
                Some(at) => {
                    let arrives = self
                        .arrives
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if arrives.deadline() != at {
                        arrives.as_mut().reset(at);
                    }
                    if arrives.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.arrives = None;
                }
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = self.writes.0.lock();
        if way.is_deaf || way.ends.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let take = bytes.len().min(WAY_BYTES_MAX.saturating_sub(way.bytes));
        if take == 0 && !bytes.is_empty() {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let at = self.arrival(&mut way);
        way.chunks.push_back((at, Bytes::copy_from_slice(&bytes[..take])));
        way.bytes += take;
        let reader = way.reader.take();
        drop(way);
        // Without its length: hyper's `date` header and the order of an error's details, which are the system's and a hash map's,
        // make it a few bytes more or less.
        self.net.note(format_args!("net #{}{}", self.number, self.name));
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.end();
        let mut way = self.reads.0.lock();
        way.is_deaf = true;
        (way.chunks, way.bytes) = (VecDeque::new(), 0);
        let writer = way.writer.take();
        drop(way);
        writer.into_iter().for_each(Waker::wake);
    }
}
