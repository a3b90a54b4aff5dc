//! One HTTP/2 connection per broker address, made on first use and remade by tonic after it broke. A request to an address
//! that refuses fails at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::config::ClientConfig;
use crate::wire_error::Failure;

const MIB: u32 = 1024 * 1024;

/// What a stream may send without an acknowledgement of the receiver's HTTP/2. One fetch stream's default credit.
const STREAM_WINDOW_BYTES: u32 = 8 * MIB;

/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 32 * MIB;

/// Small beside a message: the first frame of one is moved once more, and keeps its room for as long as the message lives.
const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// A broker that was cut off without a reset is noticed after this and [`KEEPALIVE_TIMEOUT`], while something is under way to it. That ends
/// what nothing else watches: a consumer's stream, and calls to a partition's leader.
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
    client_id: String,
    connect_timeout: Duration,
    by_address: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    pub fn new(config: &ClientConfig) -> Self {
        Self {
            client_id: config.client_id.clone(),
            connect_timeout: config.connect_timeout,
            by_address: Mutex::default(),
        }
    }

    /// Must be called within a tokio runtime.
    pub fn get(&self, address: &str) -> Result<Channel, Failure> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = by_address.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.endpoint(address).map_err(|error| {
            Failure::local(
                Code::InvalidArgument,
                format!("{address:?} is not an address: {error}"),
                true,
            )
        })?;
        by_address.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn endpoint(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .user_agent(self.client_id.clone())?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_adaptive_window(false)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        Ok(endpoint.connect_lazy())
    }
}
