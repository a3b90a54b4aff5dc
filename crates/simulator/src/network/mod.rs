//! The network of a simulation: which addresses are listened at, pipes between hosts, and what goes wrong with them.
//!
//! | module | what it is |
//! |---|---|
//! | `net` | what all hosts share; decides when something arrives |
//! | `meter` | what bytes count as on a slow link |
//! | `pipe` | a connection, and its ends |
//! | `faults` | [`Network`]: what can go wrong between two hosts |

mod faults;
mod meter;
mod net;
mod pipe;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;
use jangada_env::network::{Pipe, SimulatedListener, SimulatedNetwork};
use tokio::sync::mpsc;

pub use self::faults::{Addressed, Network};
use self::net::Bound;
pub(crate) use self::net::Net;
use self::pipe::End;
use crate::current::Who;

/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;

/// The network as one process on one host sees it.
pub(crate) struct HostNetwork {
    net: Arc<Net>,
    address: Ipv4Addr,
    who: Arc<Who>,
}

impl HostNetwork {
    pub fn new(net: Arc<Net>, address: Ipv4Addr, who: Arc<Who>) -> Self {
        Self { net, address, who }
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
        let who = self.who.clone();
        self.net.listen(address, Bound { who, sender })?;
        Ok(Arc::new(Listener {
            address,
            waiting: tokio::sync::Mutex::new(waiting),
        }))
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Pipe>>> {
        Box::pin(self.net.clone().connect(self.who.clone(), self.address, address))
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
