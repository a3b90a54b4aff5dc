//! How connections between brokers are tuned, and what they may carry.

use std::time::Duration;

use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_types::limits::{MESSAGE_OVERHEAD_BYTES, STATE_CHUNK_BYTES};
use tonic::transport::Channel;

/// A frame's messages are at most this many bytes, unless one message alone is more. Bounds what a vote waits for
/// behind others on its connection.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;
/// What a peer may send in one gRPC message: a frame of one largest append (entries of one read, and one batch of the
/// largest size more).
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// HTTP/2 flow control, bytes of a stream: large enough that the window per group is what limits.
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// The same for all streams of a connection together.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Calls under way on one connection: most of them are calls of clients that another broker passes on, which may wait long.
pub const CALLS_PER_CONNECTION_MAX: u32 = 1_088;
/// Small beside a message: tonic makes room for a message of this length when it has the first frame of it, in addition to
/// that frame, and moves it there. The room is kept as long as an entry of the message is.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
/// A peer that is cut off without a reset is noticed after interval plus time-out.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(1000);
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(2000);

const _: () = assert!(
    2 * STATE_CHUNK_BYTES <= STREAM_WINDOW_BYTES as usize
        && STATE_CHUNK_BYTES + MESSAGE_OVERHEAD_BYTES <= MESSAGE_BYTES_MAX,
    "a snapshot's next chunk is on its way while one is written"
);

/// The internal service of a peer, with room for its largest messages.
pub fn internal_client(channel: Channel) -> InternalServiceClient<Channel> {
    InternalServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Sets a server up for connections as a [`Dialer`](super::dialer::Dialer) makes them.
pub fn tune_server<L>(server: tonic::transport::Server<L>) -> tonic::transport::Server<L> {
    server
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .tcp_nodelay(true)
}
