//! Admission: counts each gRPC call, its request and its response against the shared budgets ([`quota`](crate::quota)).
//!
//! ```text
//!   connection -> Guarded (can be closed from outside) -> HTTP/2 -> layer::admit
//!                    request body:  length -> Requests, before the body is read; fields -> counted as they arrive
//!                    service:       Produce, Fetch, Streams
//!                    response body: Answers, or the holding that the service passes on; until the bytes are in the socket
//! ```
//!
//! - [`connection`]: the socket of a client's connection.
//! - [`layer`]: the layer around every call.
//! - [`call`]: a call that is being executed.
//! - [`request`]: the body of a request, counted while it is received.
//! - [`batches`]: the messages of a produce stream.
//! - [`answer`]: the body of a response, counted until it is sent.
//! - [`frame`]: response messages that are encoded here and not by tonic.

mod answer;
mod batches;
mod call;
mod connection;
mod frame;
mod layer;
mod request;

pub(crate) use self::batches::Batches;
pub(crate) use self::call::{Call, call_of};
pub(crate) use self::connection::Guarded;
pub(crate) use self::frame::Framed;
pub(crate) use self::layer::{Admission, AnswerOf, admit, admit_peer};
