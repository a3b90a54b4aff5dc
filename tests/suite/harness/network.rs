//! The network between nodes and clients, as far as a test can take hold of it: everything that comes to a node comes through a proxy of
//! its own. A node that is cut off is silent in both directions. Its connections stay open, new ones are taken, no byte passes, nothing is
//! reset; what was sent meanwhile arrives when it is healed, as TCP would have it.
//!
//! A node can also be cut off from the other nodes only: clients reach it, and it no quorum.
//!
//! All nodes connect from one address, so the node that opened a connection is looked up in `/proc`. No root is needed.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes of one read.
const PIECE_BYTES: usize = 64 * 1024;

/// The nodes that are cut off.
#[derive(Clone, Debug, Default)]
struct Cut {
    /// The ids of the nodes.
    nodes: HashSet<u32>,
    /// The ids of their processes.
    pids: HashSet<u32>,
    /// Whether they are cut off only from the other nodes.
    is_internal: bool,
    /// The number of this cut. A connection passes nothing until it knows the newest.
    version: u64,
}

/// All proxies of a cluster. Dropping it ends them.
pub struct Network {
    cut: watch::Sender<Cut>,
    tasks: Vec<JoinHandle<()>>,
}

impl Network {
    pub fn new() -> Network {
        Network {
            cut: watch::Sender::default(),
            tasks: Vec::new(),
        }
    }

    /// Makes a proxy before this address of a node, which is for the other nodes or for clients; returns the proxy's
    /// address.
    pub async fn proxy(&mut self, node: u32, target: String, is_internal: bool) -> String {
        let port = super::ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.expect("the port was free a moment ago");
        let address = listener.local_addr().expect("it is bound").to_string();
        let place = Place {
            node,
            target,
            is_internal,
        };
        self.tasks
            .push(tokio::spawn(accept(listener, place, self.cut.subscribe())));
        address
    }

    /// Stops all bytes to this node and from it.
    pub fn cut(&self, node: u32, pid: u32) {
        self.cut.send_modify(|cut| {
            cut.version += 1;
            cut.nodes.insert(node);
            cut.pids.insert(pid);
        });
    }

    /// Like [`Self::cut`], but clients still reach it.
    pub fn cut_from_nodes(&self, node: u32, pid: u32) {
        self.cut.send_modify(|cut| cut.is_internal = true);
        self.cut(node, pid);
    }

    /// Connects all nodes again.
    pub fn heal(&self) {
        self.cut.send_modify(|cut| {
            *cut = Cut {
                version: cut.version + 1,
                ..Cut::default()
            };
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The address that a proxy stands before.
#[derive(Clone)]
struct Place {
    node: u32,
    target: String,
    is_internal: bool,
}

async fn accept(listener: TcpListener, place: Place, cut: watch::Receiver<Cut>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, peer) = listener.accept().await.expect("a listener goes on");
        // Those that ended are let go.
        while connections.try_join_next().is_some() {}
        let (place, cut) = (place.clone(), cut.clone());
        connections.spawn(async move {
            // A node that is down refuses, and so does its proxy, by closing.
            let _ = forward(stream, peer, &place, cut).await;
        });
    }
}

async fn forward(
    stream: TcpStream,
    peer: SocketAddr,
    place: &Place,
    mut cut: watch::Receiver<Cut>,
) -> std::io::Result<()> {
    let (held, holding) = watch::channel(None);
    let newest = cut.clone();
    let here = stream.local_addr()?;
    let Place { node, is_internal, .. } = *place;
    let look = move |cut: &Cut| {
        let passes = cut.is_internal && !is_internal;
        let is_held = !passes && (cut.nodes.contains(&node) || cut.pids.iter().any(|pid| owns(*pid, peer, here)));
        held.send_replace((!is_held).then_some(cut.version));
    };
    look(&cut.borrow_and_update());
    let follow = async {
        while cut.changed().await.is_ok() {
            look(&cut.borrow_and_update());
        }
    };
    let pass = async {
        let mut gate = Gate { newest, holding };
        gate.passes().await?;
        let onward = TcpStream::connect(&place.target).await?;
        onward.set_nodelay(true)?;
        stream.set_nodelay(true)?;
        let (from_here, to_here) = stream.into_split();
        let (from_there, to_there) = onward.into_split();
        // When one direction ends, so does the connection.
        tokio::select! {
            ended = copy(from_here, to_there, gate.clone()) => ended,
            ended = copy(from_there, to_here, gate) => ended,
        }
    };
    tokio::select! {
        () = follow => Ok(()),
        passed = pass => passed,
    }
}

/// Whether a connection passes bytes. To find out who opened it takes a moment after each cut, in which it passes none: what was sent
/// after a cut must not get through.
#[derive(Clone)]
struct Gate {
    newest: watch::Receiver<Cut>,
    /// The number of the last cut that the connection knows, if it does not hold it up.
    holding: watch::Receiver<Option<u64>>,
}

impl Gate {
    /// Returns when the newest cut is known, and does not hold the connection up.
    async fn passes(&mut self) -> std::io::Result<()> {
        let Self { newest, holding } = self;
        let is_open = |known: &Option<u64>| *known == Some(newest.borrow().version);
        holding.wait_for(is_open).await.map(drop).map_err(std::io::Error::other)
    }
}

/// Copies until the end, but nothing, not even the end, while it is held.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: Gate) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await;
        gate.passes().await?;
        match read? {
            0 => return to.shutdown().await,
            count => to.write_all(&piece[..count]).await?,
        }
    }
}

/// Whether this process has the end of a connection that is `from` this address, `to` another.
fn owns(pid: u32, from: SocketAddr, to: SocketAddr) -> bool {
    let Some(inode) = inode_of(from, to) else { return false };
    let socket = format!("socket:[{inode}]");
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))
}

/// The socket's number, as the kernel lists it.
fn inode_of(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let (from, to) = (listed(from)?, listed(to)?);
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1..3)? == [&from, &to]).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// An address in the form of that list: a number in the machine's own byte order.
fn listed(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::{WAIT, eventually};

    /// An echo behind a proxy of node 1.
    async fn echo() -> (Network, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let target = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let mut network = Network::new();
        let address = network.proxy(1, target, false).await;
        (network, address)
    }

    async fn answers(stream: &mut TcpStream, byte: u8) -> bool {
        stream.write_all(&[byte]).await.expect("it stays open");
        comes(stream, byte).await
    }

    /// Whether a byte comes within a time that is far more than loopback needs.
    async fn comes(stream: &mut TcpStream, byte: u8) -> bool {
        let read = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
        read.is_ok_and(|read| read.expect("it stays open") == byte)
    }

    #[tokio::test]
    async fn a_cut_node_is_silent_and_keeps_its_connections() {
        let (network, address) = echo().await;
        let mut before = TcpStream::connect(&address).await.expect("it is taken");
        assert!(answers(&mut before, 1).await);
        network.cut(1, u32::MAX);
        assert!(!answers(&mut before, 2).await);
        let mut during = TcpStream::connect(&address).await.expect("it is taken");
        assert!(!answers(&mut during, 3).await);
        network.heal();
        assert!(comes(&mut before, 2).await);
        assert!(comes(&mut during, 3).await);
    }

    #[tokio::test]
    async fn what_a_cut_process_opens_is_silent_too() {
        let (network, address) = echo().await;
        let mut stream = TcpStream::connect(&address).await.expect("it is taken");
        network.cut(2, std::process::id());
        let silent = eventually("this process is silent", WAIT, || async {
            let mut stream = TcpStream::connect(&address).await.ok()?;
            (!answers(&mut stream, 1).await).then_some(())
        });
        silent.await;
        assert!(!answers(&mut stream, 2).await);
        network.heal();
        assert!(comes(&mut stream, 2).await);
    }
}
