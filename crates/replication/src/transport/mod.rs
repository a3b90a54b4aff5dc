//! One transport per node pair, shared by all groups.
//!
//! Two connections: *control* carries votes, heartbeats and leader announcements, *bulk* carries entries, so that TCP
//! never makes a vote wait behind data. Messages that wait for a connection leave in one frame: the heartbeats of a
//! thousand groups are a few frames. Each side opens its own pair; answers come back on the stream that asked.
//!
//! - [`link`]: the opening side of one connection.
//! - [`client`]: openraft's network on top of it.
//! - [`inbound`]: the accepting side. `calls`: what its control connections ask for.
//! - `queue`: what waits for a connection, the metadata's first.
//! - [`plausible`]: what a peer's message may say.
//! - [`handshake`]: who may talk to whom.
//! - [`introduction`]: what both sides say of themselves, and of their past.

mod calls;
pub(crate) mod client;
pub mod handshake;
pub mod inbound;
pub mod introduction;
pub(crate) mod link;
mod pipeline;
pub mod plausible;
mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{Hello, Message};
use jangada_types::BrokerId;
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use self::handshake::Identity;
use self::link::{Caller, Lane, Link};
use crate::peers::Peers;

/// A frame's messages are at most this many bytes, unless one message alone is more. Bounds what a vote waits for
/// behind others on its connection.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;
/// A snapshot travels in chunks of this size.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// What a peer may send in one gRPC message: a frame of one largest append (entries of one read, and one batch of the
/// largest size more).
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// HTTP/2 flow control, bytes of a stream: large enough that the window per group is what limits.
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// The same for all streams of a connection together.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Small beside a message: tonic makes room for a message of this length when it has the first frame of it, in addition to
/// that frame, and moves it there. The room is kept as long as an entry of the message is.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// A peer that is cut off without a reset is noticed after interval plus time-out.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(1000);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(2000);

/// A connection to a peer's internal listener that is made when first used.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

pub(crate) fn client(channel: Channel) -> InternalServiceClient<Channel> {
    InternalServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Sets a server up for connections as [`endpoint`] makes them.
pub fn tune_server<L>(server: tonic::transport::Server<L>) -> tonic::transport::Server<L> {
    server
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(64)
        .tcp_nodelay(true)
}

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
    peers: RwLock<HashMap<BrokerId, Arc<Peer>>>,
    /// Makes the first message of each new control connection: everything that this broker leads.
    greeting: Box<dyn Fn() -> Message + Send + Sync>,
}

impl Transport {
    pub(crate) fn new(
        identity: Arc<Identity>,
        known: Arc<Peers>,
        greeting: Box<dyn Fn() -> Message + Send + Sync>,
    ) -> Self {
        Self {
            identity,
            known,
            peers: RwLock::default(),
            greeting,
        }
    }

    /// The brokers there are, with the addresses of their internal listeners. This broker itself is left out. Links
    /// of brokers that are gone end.
    pub(crate) fn set_peers(self: &Arc<Self>, addresses: &HashMap<BrokerId, String>) {
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
