//! The socket of an admitted connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jangada_env::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::gate::{ConnectionState, Slot};
use super::refusal;

/// An admitted connection, as the HTTP server reads and writes it. Dropping it frees its slot in the gate.
pub(crate) struct Connection {
    socket: Socket,
    slot: Slot,
}

/// The connection of a request, among the request's extensions.
#[derive(Clone)]
pub(crate) struct ConnectionInfo(pub(super) Arc<ConnectionState>);

impl ConnectionInfo {
    /// The name of the listener that accepted the connection.
    pub fn listener(&self) -> &Arc<str> {
        self.0.listener()
    }
}

impl Connection {
    pub(super) fn new(socket: Socket, slot: Slot) -> Self {
        Self { socket, slot }
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.slot.connection().peer()
    }

    /// Whether the gate has decided to close this connection. If so, sends the peer a GOAWAY with the reason; the server then reads
    /// the end of the stream.
    fn is_ended(&mut self, cx: &Context<'_>) -> bool {
        let connection = self.slot.connection();
        connection.wake_by(cx.waker());
        let Some(cause) = connection.ends() else { return false };
        if self.slot.protocol().is_http2() {
            // Best effort: there is no open call to which the peer would miss an answer.
            let _ = self.socket.try_write(&refusal::farewell(cause));
        }
        true
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo(self.slot.connection().clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_ended(cx) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if read.is_ready() {
            self.slot.connection().has_read(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
