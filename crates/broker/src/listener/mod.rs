//! The listeners: one accept loop, one set of bounds, one set of TCP options for clients, brokers and probes, whatever is
//! spoken.
//!
//! Nothing here knows what is served, nor what a broker is: metrics and bounds are handed in.
//!
//! A connection costs a file descriptor, and the store needs some, too: without one for its next write-ahead log it
//! fails, and the broker ends. So the descriptors are shared out once, at the start ([`descriptors`]): the store and each
//! listener have a part of their own, which nobody else can take.
//!
//! ```text
//!   kernel's queue -> Acceptor -> Gate: room in all? room for this address? -- yes -> Connection -> HTTP server
//!                                                                           `- no --> told why, closed (refusal)
//! ```
//!
//! - [`protocol`]: what is spoken on a listener.
//! - [`acceptor`]: binding, and the accept loop.
//! - [`gate`]: who gets in; which idle connection makes way; which connections have been silent for too long.
//! - [`connection`]: the socket of an admitted connection. It gives its place back when it is dropped.
//! - [`calls`]: counts the calls of a connection, to tell an idle one from one that waits.
//! - [`serve`]: HTTP on the connections of a listener.
//! - [`refusal`]: what a connection is told that does not get in.
//! - [`accept_failures`]: what is told and waited when the system gives no connection.
//! - [`metrics`]: what is counted.
//! - [`descriptors`]: the limit of open files, raised and shared out.

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
pub(crate) use self::gate::{GateLimits, HTTP_IDLE};
pub(crate) use self::metrics::ConnectionMetrics;
pub use self::protocol::Protocol;
pub(crate) use self::serve::serve;
