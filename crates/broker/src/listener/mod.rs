//! The listeners: one accept loop, one set of limits and one set of TCP options for clients, brokers and probes, whatever their
//! protocol.
//!
//! This module does not know which services are served, nor what a broker is: metrics and limits are handed in.
//!
//! A connection costs a file descriptor, and the store needs descriptors, too: if it cannot open its next write-ahead log, it
//! fails and the broker stops. So the limit of open files is divided once, at the start ([`descriptors`]): the store and each
//! listener have a share of their own, which no other can use up.
//!
//! ```text
//!   kernel's queue -> Acceptor -> Gate: a free slot? within the address's share? -- yes -> Connection -> HTTP server
//!                                                                                `- no --> told why, closed (refusal)
//! ```
//!
//! - [`protocol`]: the protocols of listeners.
//! - [`acceptor`]: binding, and the accept loop.
//! - [`gate`]: admits connections, evicts idle ones in favour of other addresses, closes silent and idle ones.
//! - [`connection`]: the socket of an admitted connection, which frees its slot when it is dropped.
//! - [`calls`]: counts the open calls of a connection, to tell an idle one from one that waits for an answer.
//! - [`serve`]: HTTP on the connections of a listener.
//! - [`refusal`]: the reason that a refused or closed connection is sent.
//! - [`accept_failures`]: backoff and log lines when the system cannot give a connection.
//! - [`metrics`]: counters and gauges of connections.
//! - [`descriptors`]: the limit of open files, raised and divided.

mod accept_failures;
mod acceptor;
mod calls;
mod connection;
pub(crate) mod descriptors;
mod gate;
mod metrics;
mod protocol;
mod refusal;
mod serve;

pub(crate) use self::acceptor::Listener;
pub(crate) use self::calls::count_calls;
pub(crate) use self::connection::{Connection, ConnectionInfo};
pub(crate) use self::gate::{GateLimits, HTTP_IDLE_TIMEOUT, counted_address};
pub(crate) use self::metrics::ConnectionMetrics;
pub use self::protocol::Protocol;
pub(crate) use self::serve::serve;
