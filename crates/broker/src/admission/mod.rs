//! Admission: limits how much of the broker's memory, calls and streams one client may hold, so that the broker never takes more
//! than the settings allow and no client can starve the others.
//!
//! Until there are principals, a client is a connection, and also all connections from one address together. What they share is
//! counted in [`Resource`]s: bytes of requests that are received and decoded, of batches that wait for their quorum, of fetched
//! records and of other responses, and numbers of calls and streams. A [`Holding`] is a part of a resource, and is given back when
//! the memory that it stands for is freed.
//!
//! ```text
//!   connection -> Guarded (can be closed from outside) -> HTTP/2 -> call::admit
//!                    request body:  length -> Requests, before the body is read; fields -> counted as they arrive
//!                    service:       Produce, Fetch, Streams
//!                    response body: Answers, or the holding that the service passes on; until the bytes are in the socket
//!   stalled::watch: closes connections whose peer does not read its responses
//! ```
//!
//! - [`budget`]: the limit of each resource, and how connections and addresses share it.
//! - [`caller`]: a client's connection, with what it holds.
//! - [`waits`]: the order in which waiting connections get what is given back.
//! - [`connection`]: the socket of such a connection.
//! - [`call`]: the layer around every call.
//! - [`request`]: the body of a request, counted while it is received.
//! - [`batches`]: the messages of a produce stream.
//! - [`answer`]: the body of a response, counted until it is sent.
//! - [`frame`]: response messages that are encoded here and not by tonic.
//! - [`passed_callers`]: the clients of other brokers whose calls are passed on.
//! - [`stalled`]: closes connections whose peer does not read.

mod answer;
mod batches;
mod budget;
mod call;
mod caller;
mod connection;
mod frame;
mod passed_callers;
mod request;
mod stalled;
mod waits;

pub(crate) use self::batches::Batches;
pub(crate) use self::budget::{Budgets, Resource, Scope};
pub(crate) use self::call::{Admission, AnswerOf, Call, admit, admit_peer, call_of};
pub(crate) use self::caller::{Caller, Holding};
pub(crate) use self::connection::{CONNECTION_WINDOW_BYTES, Guarded, STREAM_WINDOW_BYTES};
pub(crate) use self::frame::Framed;
pub(crate) use self::passed_callers::PassedCallers;
pub(crate) use self::stalled::watch as watch_stalled;
