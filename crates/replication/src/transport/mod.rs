//! One transport per node pair, shared by all groups.
//!
//! Two connections: *control* carries votes, heartbeats and leader announcements, *bulk* carries entries, so that TCP
//! never makes a vote wait behind data. Messages that wait for a connection leave in one frame: the heartbeats of a
//! thousand groups are a few frames. Each side opens its own pair; answers come back on the stream that asked.
//!
//! - `channel`: how connections are tuned, and what they may carry.
//! - [`dialer`]: opening them.
//! - [`link`]: the opening side of one connection.
//! - [`client`]: openraft's network on top of it.
//! - [`inbound`]: the accepting side. `calls`: what its control connections ask for. `inbox`: who gets it.
//! - [`grpc`]: the accepting side as a service.
//! - `snapshots`: snapshots, sent and received.
//! - `queue`: what waits for a connection, the metadata's first.
//! - [`plausible`]: what a peer's message may say.
//! - [`handshake`]: who may talk to whom. [`not_admitted`]: why a caller may not.
//! - [`introduction`]: what both sides say of themselves, and of their past.

mod calls;
mod channel;
pub(crate) mod client;
pub mod dialer;
pub mod grpc;
pub mod handshake;
pub mod inbound;
pub(crate) mod inbox;
pub mod introduction;
pub(crate) mod link;
pub mod not_admitted;
mod pipeline;
pub mod plausible;
mod queue;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_proto::internal::{Hello, Message};
use jangada_types::BrokerId;
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;

pub use self::channel::{
    CALLS_PER_CONNECTION_MAX, CONNECTION_WINDOW_BYTES, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES, internal_client,
    tune_server,
};
use self::dialer::Dialer;
use self::handshake::Identity;
use self::link::{Caller, Lane, Link};
use crate::peers::Peers;

/// The links to one peer.
pub(crate) struct Peer {
    pub control: Link,
    pub bulk: Link,
    address: watch::Sender<String>,
}

/// The links to all peers.
pub struct Transport {
    identity: Arc<Identity>,
    /// What is known of the other brokers' commits.
    known: Arc<Peers>,
    peers: RwLock<BTreeMap<BrokerId, Arc<Peer>>>,
    /// Makes the first message of each new control connection: everything that this broker leads.
    greeting: Box<dyn Fn() -> Message + Send + Sync>,
    dialer: Arc<Dialer>,
}

impl Transport {
    pub(crate) fn new(
        identity: Arc<Identity>,
        known: Arc<Peers>,
        greeting: Box<dyn Fn() -> Message + Send + Sync>,
        dialer: Arc<Dialer>,
    ) -> Self {
        Self {
            identity,
            known,
            peers: RwLock::default(),
            greeting,
            dialer,
        }
    }

    /// What opens the connections of this broker.
    pub(crate) fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    /// The brokers there are, with the addresses of their internal listeners. This broker itself is left out. Links
    /// of brokers that are gone end.
    pub(crate) fn set_peers(self: &Arc<Self>, addresses: &BTreeMap<BrokerId, String>) {
        let others = addresses.keys().filter(|broker| **broker != self.identity.broker);
        self.known.set_current(others.copied());
        let mut peers = self.peers.write();
        peers.retain(|broker, _| addresses.contains_key(broker));
        for (&broker, address) in addresses {
            if broker == self.identity.broker {
                continue;
            }
            match peers.get(&broker) {
                Some(peer) => {
                    peer.address.send_if_modified(|known| {
                        let changed = known != address;
                        known.clone_from(address);
                        changed
                    });
                }
                None => {
                    let (sender, receiver) = watch::channel(address.clone());
                    let caller = Caller {
                        identity: self.identity.clone(),
                        known: self.known.clone(),
                        dialer: self.dialer.clone(),
                    };
                    let greeting = Arc::downgrade(self);
                    let greet = move || greeting.upgrade().map(|transport| (transport.greeting)());
                    let control = Link::spawn(Lane::Control, broker, caller.clone(), receiver.clone(), Box::new(greet));
                    let bulk = Link::spawn(Lane::Bulk, broker, caller, receiver, Box::new(|| None));
                    peers.insert(
                        broker,
                        Arc::new(Peer {
                            control,
                            bulk,
                            address: sender,
                        }),
                    );
                }
            }
        }
    }

    pub(crate) fn peer(&self, broker: BrokerId) -> Option<Arc<Peer>> {
        self.peers.read().get(&broker).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().cloned().collect()
    }

    pub(crate) fn hello(&self, to: BrokerId) -> Hello {
        introduction::hello(&self.identity, &self.known, to)
    }

    /// As the links do with each answer: see [`introduction::judge_answerer`].
    pub(crate) fn judge_answerer(&self, broker: BrokerId, address: &str, headers: &MetadataMap) -> Result<(), String> {
        introduction::judge_answerer(&self.identity, &self.known, (broker, address), headers)
    }
}

impl Peer {
    pub(crate) fn address(&self) -> String {
        self.address.borrow().clone()
    }
}
