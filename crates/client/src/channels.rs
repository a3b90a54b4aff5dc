//! HTTP/2 connections to brokers, made on first use and remade by tonic after they broke. A request to an address that refuses
//! fails at once.
//!
//! A broker bounds the calls that are open on a connection, and HTTP/2 lets the next request wait silently. Streams
//! stay open, so they have connections apart from those for calls, a bounded number of streams on each: no call or
//! heartbeat waits behind a stream, and no stream behind another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jangada_env::Network;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::config::ClientConfig;
use crate::wire_error::Failure;

const MIB: u32 = 1024 * 1024;

/// HTTP/2 window of a stream: bytes that it may send before the receiver acknowledges them. It equals the default
/// credit of a fetch stream.
const STREAM_WINDOW_BYTES: u32 = 8 * MIB;

/// HTTP/2 window of a connection, which all its streams share.
const CONNECTION_WINDOW_BYTES: u32 = 32 * MIB;

/// Small beside a message: the first frame of a message is copied once more, and its buffer is kept as long as the
/// message.
const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// A broker that was cut off without a reset is noticed after this and [`KEEPALIVE_TIMEOUT`], while a request to it is
/// under way. That ends what no timeout of ours watches: a consumer's stream, and calls to a partition's leader.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest message taken from a broker: the largest fetch and one batch over it, with room to spare.
pub(crate) const RESPONSE_BYTES_MAX: usize = 32 * MIB as usize;

const _: () = assert!(
    jangada_types::limits::RESPONSE_BYTES_MAX <= RESPONSE_BYTES_MAX,
    "every fetch can be received"
);

pub(crate) struct Channels {
    network: Network,
    client_id: String,
    connect_timeout: Duration,
    streams_per_connection_max: usize,
    by_address: Mutex<BTreeMap<String, Connections>>,
}

/// The connections to one address.
struct Connections {
    calls: Channel,
    streams: Arc<StreamChannel>,
    /// Further connections for streams, when there are more streams than one connection takes. Each ends with its last
    /// stream.
    more_streams: Vec<Weak<StreamChannel>>,
}

/// A stream's connection. The stream counts as open on it for as long as this is held.
pub(crate) struct StreamChannel(Channel);

impl StreamChannel {
    pub fn channel(&self) -> Channel {
        self.0.clone()
    }
}

impl Connections {
    /// The first connection with room for a stream.
    fn with_room(&mut self, streams_max: usize) -> Option<Arc<StreamChannel>> {
        self.more_streams.retain(|more| more.strong_count() > 0);
        // The field itself holds one reference, which is not a stream.
        if Arc::strong_count(&self.streams) - 1 < streams_max {
            return Some(self.streams.clone());
        }
        let mut with_room = self
            .more_streams
            .iter()
            .filter(|more| more.strong_count() < streams_max);
        with_room.find_map(Weak::upgrade)
    }
}

impl Channels {
    pub fn new(config: &ClientConfig, network: Network) -> Self {
        Self {
            network,
            client_id: config.client_id.clone(),
            connect_timeout: config.connect_timeout,
            streams_per_connection_max: config.streams_per_connection_max,
            by_address: Mutex::default(),
        }
    }

    /// The connection for calls. Must be called within a tokio runtime, like [`for_stream`](Self::for_stream).
    pub fn for_calls(&self, address: &str) -> Result<Channel, Failure> {
        self.with(address, |connections| Ok(connections.calls.clone()))
    }

    /// A connection with room for one stream more.
    pub fn for_stream(&self, address: &str) -> Result<Arc<StreamChannel>, Failure> {
        self.with(address, |connections| {
            if let Some(with_room) = connections.with_room(self.streams_per_connection_max) {
                return Ok(with_room);
            }
            let another = Arc::new(StreamChannel(self.connect(address)?));
            connections.more_streams.push(Arc::downgrade(&another));
            Ok(another)
        })
    }

    fn with<T>(&self, address: &str, take: impl FnOnce(&mut Connections) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = by_address.get_mut(address) {
            return take(connections);
        }
        let connections = Connections {
            calls: self.connect(address)?,
            streams: Arc::new(StreamChannel(self.connect(address)?)),
            more_streams: Vec::new(),
        };
        take(by_address.entry(address.to_owned()).or_insert(connections))
    }

    /// The connection to an address, opened on first use.
    fn connect(&self, address: &str) -> Result<Channel, Failure> {
        let channel = self
            .endpoint(address)
            .map(|endpoint| self.network.connect_lazy(&endpoint));
        channel.map_err(|error| {
            Failure::local(
                Code::InvalidArgument,
                format!("{address:?} is not an address: {error}"),
                true,
            )
        })
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(format!("http://{address}"))?
            .user_agent(self.client_id.clone())?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_adaptive_window(false)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_share_connections_so_many_on_each() {
        let mut config = ClientConfig::new(["127.0.0.1:1"]);
        config.streams_per_connection_max = 2;
        let channels = Channels::new(&config, Network::System);
        let open = || channels.for_stream("127.0.0.1:1").expect("it is an address");
        let more = || {
            let mut by_address = channels.by_address.lock().expect("nothing panicked");
            let connections = by_address.get_mut("127.0.0.1:1").expect("it was used");
            connections.more_streams.retain(|more| more.strong_count() > 0);
            connections.more_streams.len()
        };
        let mut streams: Vec<_> = (0..2).map(|_| open()).collect();
        assert_eq!(more(), 0);
        streams.extend((0..3).map(|_| open()));
        assert_eq!(more(), 2, "two, two and one");
        // A connection whose last stream ended gives its place to a new one.
        streams.remove(0);
        streams.push(open());
        assert!(Arc::ptr_eq(&streams[0], streams.last().expect("there are some")));
        assert_eq!(more(), 2);
        streams.clear();
        assert_eq!(more(), 0, "a connection ends with its last stream");
    }
}
