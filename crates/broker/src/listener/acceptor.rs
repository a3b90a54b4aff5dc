//! A bound listener, and the loop that accepts its connections.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};

use super::accept_failures::AcceptFailures;
use super::connection::Connection;
use super::gate::{Gate, GateLimits};
use super::metrics::ConnectionMetrics;
use super::protocol::Protocol;
use super::refusal::Refusals;

/// A bound socket with its bounds.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
}

impl Listener {
    /// Binds. Connections wait in the kernel's queue until somebody accepts.
    pub async fn bind(
        name: &str,
        protocol: Protocol,
        address: &str,
        limits: GateLimits,
        metrics: &ConnectionMetrics,
    ) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        Ok(Listener {
            address: socket.local_addr()?,
            socket,
            gate: Gate::new(name, protocol, limits, metrics),
        })
    }

    /// Its name in settings, logs and metrics.
    pub fn name(&self) -> &str {
        self.gate.listener()
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.gate.protocol()
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
            refusals: Refusals::new(self.gate.protocol()),
            gate: self.gate.clone(),
            failures: AcceptFailures::default(),
        })
    }
}

/// Accepts the connections of a listener.
pub(crate) struct Acceptor {
    socket: TcpListener,
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
            self.failures.are_over(self.gate.listener());
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
        let pause = self.failures.again(self.gate.listener(), error);
        tokio::time::sleep(pause).await;
    }

    /// All connections, for a server.
    pub fn incoming(self) -> impl Stream<Item = Result<Connection, Infallible>> {
        futures::stream::unfold(self, |mut acceptor| async move {
            let connection = acceptor.next().await;
            Some((Ok(connection), acceptor))
        })
    }
}

/// Small answers leave at once. That it fails is of no consequence: the connection is slower, or gone already.
fn tune(socket: &TcpStream) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
}
