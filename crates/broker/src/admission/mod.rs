//! Admission: what one client may take of what all share.
//!
//! Until there are principals a client is a connection, and all connections from one address together. What they share is
//! counted in [`Resource`]s: bytes of requests that are received and decoded, of batches on their way through a quorum, of
//! what was read for fetches and of other answers, and streams. A [`Holding`] is a part of one; it is given back when what
//! it stands for is gone from memory.
//!
//! ```text
//!   connection -> Guarded (may be ended) -> HTTP/2 -> call::admit
//!                    request body:  length -> Requests, before the body is taken up; fields -> counted as they arrive
//!                    service:       Produce, Fetch, Streams
//!                    answer's body: Answers, or what the service had for it; held until the bytes have left
//!   stalled::watch: ends connections whose answers nobody takes
//! ```
//!
//! - [`budget`]: how much there is, and how it is shared.
//! - [`caller`]: a connection with what it holds.
//! - [`waits`]: the order in which connections get what is given back.
//! - [`connection`]: its socket.
//! - [`call`]: the layer around every call.
//! - [`request`]: a request's body on its way in.
//! - [`batches`]: the messages of a produce stream.
//! - [`answer`]: an answer's body on its way out.
//! - [`frame`]: messages of it that tonic does not encode.
//! - [`stalled`]: the end of those who do not read.

mod answer;
mod batches;
mod budget;
mod call;
mod caller;
mod connection;
mod frame;
mod request;
mod stalled;
mod waits;

pub(crate) use self::batches::Batches;
pub(crate) use self::budget::{Budgets, Resource, Whose};
pub(crate) use self::call::{Admission, Call, admit, admit_peer, call_of};
pub(crate) use self::caller::{Caller, Holding};
pub(crate) use self::connection::{CONNECTION_WINDOW_BYTES, Guarded, STREAM_WINDOW_BYTES};
pub(crate) use self::frame::Framed;
pub(crate) use self::stalled::watch as watch_stalled;
