//! The socket of a connection that can be closed from outside, when its peer does not read its responses.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::quota::{Budgets, Caller};

/// A socket whose connection its [`Caller`] can close.
pub(crate) struct Guarded<S> {
    socket: S,
    caller: Arc<Caller>,
}

/// The connection of a request, among the request's extensions: the socket's own information, and the caller.
#[derive(Clone)]
pub(crate) struct Origin<I> {
    pub socket: I,
    pub caller: Arc<Caller>,
}

impl<S> Guarded<S> {
    pub fn new(socket: S, peer: SocketAddr, budgets: &Arc<Budgets>) -> Self {
        let caller = Caller::new(peer, budgets);
        Self { socket, caller }
    }

    /// The result of polling the socket, or an error when it is pending and the connection is to be closed. Both reads and writes
    /// check this, since the task of a connection whose peer does not read may wait for either.
    fn unless_ended<T>(&self, cx: &Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.caller.is_ended(cx) {
            let ended = io::Error::new(io::ErrorKind::ConnectionAborted, "the peer did not read its responses");
            return Poll::Ready(Err(ended));
        }
        polled
    }
}

impl<S: Connected> Connected for Guarded<S> {
    type ConnectInfo = Origin<S::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Origin {
            socket: self.socket.connect_info(),
            caller: self.caller.clone(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.unless_ended(cx, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.unless_ended(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.unless_ended(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.unless_ended(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.unless_ended(cx, closed)
    }
}
