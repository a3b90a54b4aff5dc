//! The socket of an admitted connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use super::gate::{Occupant, Place};
use super::refusal;

/// See the module text. Dropping it gives its place back.
pub(crate) struct Connection {
    socket: TcpStream,
    place: Place,
}

/// What a request knows of the connection that it came on.
#[derive(Clone)]
pub(crate) struct ConnectionInfo(pub(super) Arc<Occupant>);

impl ConnectionInfo {
    /// The name of the listener that it came in by.
    pub fn listener(&self) -> &Arc<str> {
        self.0.listener()
    }
}

impl Connection {
    pub(super) fn new(socket: TcpStream, place: Place) -> Self {
        Self { socket, place }
    }

    /// Whom it is with.
    pub fn peer(&self) -> SocketAddr {
        self.place.occupant().peer()
    }

    /// Whether it ends here, because the gate wants its place. The server reads the end of the connection then.
    fn is_ended(&mut self, cx: &Context<'_>) -> bool {
        let occupant = self.place.occupant();
        occupant.wake_by(cx.waker());
        let Some(cause) = occupant.ends() else { return false };
        if self.place.protocol().is_http2() {
            // It has no call, so nobody minds if a peer that does not read misses it.
            let _ = self.socket.try_write(&refusal::farewell(cause));
        }
        true
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo(self.place.occupant().clone())
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
            self.place.occupant().has_read(buffer.filled().len() - before);
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
