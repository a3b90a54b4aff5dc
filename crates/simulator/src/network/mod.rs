//! The network of a simulation: which addresses are listened at, and pipes between hosts.

mod pipe;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_env::Random;
use jangada_env::network::{Pipe, SimulatedListener, SimulatedNetwork};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::pipe::{End, pipe};
use crate::trace::Trace;

/// How long a message is on its way between two hosts, microseconds.
const DELAY_US: std::ops::Range<u64> = 200..2_000;
/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;
/// Ports that the system chooses from.
const FREE_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// What all hosts share.
pub(crate) struct Net {
    random: Random,
    trace: Trace,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<(End, SocketAddr)>>,
    next_port: u16,
    connections: u64,
}

impl Net {
    pub fn new(random: Random, trace: Trace, began: Instant) -> Self {
        let state = State {
            next_port: *FREE_PORTS.start(),
            ..State::default()
        };
        Self {
            random,
            trace,
            began,
            state: Mutex::new(state),
        }
    }

    /// How long the next message takes.
    fn delay(&self) -> Duration {
        Duration::from_micros(self.random.clone().random_range(DELAY_US))
    }

    fn note(&self, text: fmt::Arguments<'_>) {
        self.trace.note(self.began, text);
    }

    fn free_port(&self) -> u16 {
        let mut state = self.state.lock();
        let port = state.next_port;
        state.next_port = if port == *FREE_PORTS.end() {
            *FREE_PORTS.start()
        } else {
            port + 1
        };
        port
    }

    async fn connect(self: Arc<Self>, from: Ipv4Addr, to: String) -> io::Result<Box<dyn Pipe>> {
        let to: SocketAddr = to
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{to}: {error}")))?;
        tokio::time::sleep(self.delay()).await;
        let from = SocketAddr::new(from.into(), self.free_port());
        let (number, listener) = {
            let mut state = self.state.lock();
            state.connections += 1;
            (state.connections, state.listeners.get(&to).cloned())
        };
        let (near, far) = pipe(&self, number);
        let accepted = listener.map(|listener| listener.try_send((far, from)));
        match accepted {
            Some(Ok(())) => self.note(format_args!("net #{number} {from} connects to {to}")),
            _ => {
                self.note(format_args!("net #{number} {from} is refused by {to}"));
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
        }
        // The answer of the listener's host.
        tokio::time::sleep(self.delay()).await;
        Ok(Box::new(near))
    }
}

/// The network as one host sees it.
pub(crate) struct HostNetwork {
    net: Arc<Net>,
    address: Ipv4Addr,
}

impl HostNetwork {
    pub fn new(net: Arc<Net>, address: Ipv4Addr) -> Self {
        Self { net, address }
    }
}

impl SimulatedNetwork for HostNetwork {
    fn bind(&self, address: &str) -> io::Result<Arc<dyn SimulatedListener>> {
        let mut address: SocketAddr = address
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: {error}")))?;
        if address.port() == 0 {
            address.set_port(self.net.free_port());
        }
        if address.ip().is_unspecified() {
            address.set_ip(self.address.into());
        }
        if address.ip() != IpAddr::V4(self.address) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let (sender, waiting) = mpsc::channel(BACKLOG);
        let mut state = self.net.state.lock();
        if state.listeners.get(&address).is_some_and(|other| !other.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(address, sender);
        Ok(Arc::new(Listener {
            address,
            waiting: tokio::sync::Mutex::new(waiting),
        }))
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Pipe>>> {
        Box::pin(self.net.clone().connect(self.address, address))
    }
}

/// A bound address. When it is dropped, connections are refused there.
struct Listener {
    address: SocketAddr,
    waiting: tokio::sync::Mutex<mpsc::Receiver<(End, SocketAddr)>>,
}

impl SimulatedListener for Listener {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Pipe>, SocketAddr)>> {
        Box::pin(async {
            let next = self.waiting.lock().await.recv().await;
            let (end, peer) = next.ok_or(io::ErrorKind::NotConnected)?;
            Ok((Box::new(end) as Box<dyn Pipe>, peer))
        })
    }
}
