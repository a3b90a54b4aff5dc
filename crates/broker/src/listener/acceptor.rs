//! A bound listener, and the loop that accepts its connections.
//!
//! The socket belongs to [`Listener`] and is duplicated for each [`Acceptor`], so that connections queue in the kernel rather than
//! being refused while nothing accepts.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::Stream;
use jangada_env::network::Listening;
use jangada_env::{Network, Socket};

use super::accept_failures::AcceptFailures;
use super::connection::Connection;
use super::gate::{Gate, GateLimits};
use super::metrics::ConnectionMetrics;
use super::protocol::Protocol;
use super::refusal::Refusals;

/// A bound socket, with the limits of its connections.
pub(crate) struct Listener {
    socket: Listening,
    gate: Arc<Gate>,
}

impl Listener {
    /// Binds `address`. Connections wait until [`Listener::acceptor`] is served.
    pub async fn bind(
        network: &Network,
        name: &str,
        protocol: Protocol,
        address: &str,
        limits: GateLimits,
        metrics: &ConnectionMetrics,
    ) -> io::Result<Listener> {
        Ok(Listener {
            socket: network.bind(address).await?,
            gate: Gate::new(name, protocol, limits, metrics),
        })
    }

    /// The listener's name in settings, logs and metrics.
    pub fn name(&self) -> &str {
        self.gate.listener()
    }

    /// The protocol of the listener's connections.
    pub fn protocol(&self) -> Protocol {
        self.gate.protocol()
    }

    /// The address that is bound; for port 0, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// The stream of this listener's connections. The acceptor shares the socket, so the listener stays bound when the acceptor is
    /// dropped.
    pub fn acceptor(&self) -> Acceptor {
        self.gate.watch_idle();
        Acceptor {
            socket: self.socket.clone(),
            refusals: Refusals::new(self.gate.protocol()),
            gate: self.gate.clone(),
            failures: AcceptFailures::default(),
        }
    }
}

/// Accepts the connections of a listener.
pub(crate) struct Acceptor {
    socket: Listening,
    gate: Arc<Gate>,
    refusals: Refusals,
    failures: AcceptFailures,
}

impl Acceptor {
    /// Returns the next connection that is admitted. Refused ones are told why, and closed.
    async fn next(&mut self) -> Connection {
        loop {
            let (socket, peer) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            self.failures.succeeded(self.gate.listener());
            match self.gate.admit(peer) {
                Ok(slot) => {
                    tune(&socket);
                    return Connection::new(socket, slot);
                }
                Err(refused) => self.refusals.tell(socket, refused),
            }
        }
    }

    /// Waits after a failed accept. Errors of the one connection (accept(2): its peer is gone) need no wait. All others mean that a
    /// resource is exhausted: the connection stays in the queue, and an immediate retry would spin.
    async fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset) {
            return;
        }
        self.gate.accept_failed();
        let backoff = self.failures.failed(self.gate.listener(), error);
        tokio::time::sleep(backoff).await;
    }

    /// The admitted connections as an endless stream, as tonic's server takes them.
    pub fn incoming(self) -> impl Stream<Item = Result<Connection, Infallible>> {
        futures::stream::unfold(self, |mut acceptor| async move {
            let connection = acceptor.next().await;
            Some((Ok(connection), acceptor))
        })
    }
}

/// Sets TCP_NODELAY, so that small responses are not delayed. A failure is ignored: the connection is only slower, or closed
/// already.
fn tune(socket: &Socket) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
}
