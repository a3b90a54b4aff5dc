//! Limits how much of the broker's memory, calls and streams one client may hold, so that the broker never takes more than the
//! settings allow and no client can starve the others. What the calls are about is not known here.
//!
//! Until there are principals, a client is a connection, and also all connections from one address together. What they share is
//! counted in [`Resource`]s: bytes of requests that are received and decoded, of batches that wait for their quorum, of fetched
//! records and of other responses, and numbers of calls and streams. A [`Holding`] is a part of a resource, and is given back when
//! the memory that it stands for is freed.
//!
//! - [`resource`]: the resources, and the scopes at which they are limited.
//! - [`budget`]: the limit of each resource, and how connections and addresses share it.
//! - [`caller`]: a client's connection, with what it holds.
//! - [`waits`]: the order in which waiting connections get what is given back.
//! - [`sending`]: the progress of a response.
//! - [`stalled`]: closes connections whose peer does not read.
//! - [`passed_callers`]: the clients of other brokers whose calls are passed on.
//! - [`metrics`]: the counters.

mod budget;
mod caller;
mod metrics;
mod passed_callers;
mod resource;
mod sending;
mod stalled;
mod waits;

pub(crate) use self::budget::{Budgets, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
pub(crate) use self::caller::{Caller, Holding, Sent};
pub(crate) use self::metrics::QuotaMetrics;
pub(crate) use self::passed_callers::PassedCallers;
pub(crate) use self::resource::Resource;
pub(crate) use self::stalled::watch as watch_stalled;
