//! The listeners: one accept loop, one set of bounds, one set of TCP options for clients, brokers and probes.
//!
//! A connection costs a file descriptor, and the store needs some, too: without one for its next write-ahead log it
//! fails, and the broker ends. So the descriptors are shared out once, at the start ([`descriptors`]): the store and each
//! listener have a part of their own, which nobody else can take.
//!
//! ```text
//!   kernel's queue -> Acceptor -> Gate: room in all? room for this address? -- yes -> Connection -> HTTP server
//!                                                                           `- no --> told why, closed (refusal)
//! ```
//!
//! - [`gate`]: who gets in; which idle connection makes way; which connections have been silent for too long.
//! - [`connection`]: the socket of an admitted connection. It gives its place back when it is dropped.
//! - [`calls`]: counts the calls of a connection, to tell an idle one from one that waits.
//! - [`refusal`]: what a connection is told that does not get in.
//! - [`accept_failures`]: what is told and waited when the system gives no connection.
//! - [`descriptors`]: the limit of open files, raised and shared out.

mod accept_failures;
mod calls;
mod connection;
pub(crate) mod descriptors;
mod gate;
mod refusal;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};

use self::accept_failures::AcceptFailures;
pub(crate) use self::calls::count_calls;
pub(crate) use self::connection::{Connection, ConnectionInfo};
pub(crate) use self::gate::{Gate, GateLimits};
use self::refusal::Refusals;
use crate::metrics::ConnectionMetrics;

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Clients: gRPC over HTTP/2.
    Public,
    /// Other brokers: the same.
    Internal,
    /// Probes and scrapes: HTTP/1.
    Http,
}

impl Kind {
    /// Its name in settings, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Public => "public",
            Kind::Internal => "internal",
            Kind::Http => "http",
        }
    }
}

/// A bound socket with its bounds.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
}

impl Listener {
    /// Binds. Connections wait in the kernel's queue until somebody accepts.
    pub async fn bind(
        kind: Kind,
        address: &str,
        limits: GateLimits,
        metrics: &ConnectionMetrics,
    ) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        Ok(Listener {
            address: socket.local_addr()?,
            socket,
            gate: Gate::new(kind, limits, metrics.clone()),
        })
    }

    /// Where it really listens: with port 0 the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What accepts its connections. The socket is shared with it: this one stays bound when the acceptor ends.
    pub fn acceptor(&self) -> io::Result<Acceptor> {
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        self.gate.watch_idle();
        Ok(Acceptor {
            socket: TcpListener::from_std(socket.into())?,
            address: self.address,
            refusals: Refusals::new(self.gate.kind()),
            gate: self.gate.clone(),
            failures: AcceptFailures::default(),
        })
    }
}

/// Accepts the connections of a listener.
pub(crate) struct Acceptor {
    socket: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
    refusals: Refusals,
    failures: AcceptFailures,
}

impl Acceptor {
    /// The next connection that gets in. Others are told why not.
    async fn next(&mut self) -> Connection {
        loop {
            let (socket, peer) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            self.failures.are_over(self.gate.kind());
            match self.gate.admit(peer) {
                Ok(place) => {
                    tune(&socket);
                    return Connection::new(socket, place);
                }
                Err(refused) => self.refusals.tell(socket, refused),
            }
        }
    }

    /// The peer went away again: nothing to do. The process or the system is out of something: trying at once would
    /// spin, since the connection stays in the queue.
    async fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset) {
            return;
        }
        self.gate.accept_failed();
        let pause = self.failures.again(self.gate.kind(), error);
        tokio::time::sleep(pause).await;
    }

    /// All connections, for tonic.
    pub fn incoming(self) -> impl Stream<Item = Result<Connection, Infallible>> {
        futures::stream::unfold(self, |mut acceptor| async move {
            let connection = acceptor.next().await;
            Some((Ok(connection), acceptor))
        })
    }
}

impl axum::serve::Listener for Acceptor {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let connection = self.next().await;
        let peer = connection.peer();
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Small answers leave at once. That it fails is of no consequence: the connection is slower, or gone already.
fn tune(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
}
