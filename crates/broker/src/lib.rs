//! One broker of a Jangada cluster: composition of partitions, metadata and services on top of replication and
//! storage.
//!
//! ```text
//!  services (gRPC) --> api --> leader_lookup --> partition --> replication::Group --> ... --> partition::view --> fetch
//!                       |
//!                       +--> cluster::metadata (group 0) --> image --> cluster::reconcile --> opens, deletes, re-members groups
//!
//!  replica::Replicas: all of them, partitions, shards and the metadata alike; who leads them; whether a quorum answers
//! ```
//!
//! - [`Broker`]: starts and stops all of the following.
//! - [`settings`]: the configuration, from its file, variables and flags.
//! - `api`: the operations of clients, independent of the protocol they come by.
//! - `quota`: how much memory, and how many calls and streams, one client may hold of what all share.
//! - `admission`: the layer around every gRPC call, which counts against the quotas.
//! - `cluster`: data directory, bootstrap, metadata, reconciling.
//! - `partition`: append, read, retention of one partition.
//! - `routing`: the router of the exchanges in the metadata.
//! - `groups`: the coordinator's shards, which hold the consumer groups.
//! - `repair`: finds damaged replicas and fills them again from their peers.
//! - `replica`: a Raft group's replica on this broker, of any kind: opening, leadership, CheckQuorum.
//! - `node`: the handles that the services share. `leader_lookup`: finds the leading replica for a request. `producer_ids`:
//!   allocates producer ids and epochs. `stopping`: whether the broker is shutting down. `target`: a partition named by a request.
//! - `metrics`: counters and histograms. `scrape`: the samples that `/metrics` adds to them.
//! - `disk`: refuses appends when the disk is full or too slow.
//! - `services`: the gRPC services.
//! - `listener`: accepts connections and bounds their number. `listening`: binds the listeners of the settings. `serving`: the
//!   HTTP services behind each of them.
//! - `refusal_log`: log lines for the operator about requests that are refused for lack of resources.
//! - `http`: `/livez`, `/readyz` and `/metrics`.
//! - `health`: gRPC's health service.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may use the real clock"))]

mod admission;
mod api;
mod broker;
mod clock_guard;
mod cluster;
mod compaction;
mod disk;
mod error;
mod forward;
mod groups;
mod health;
mod http;
mod leader_lookup;
mod listener;
mod listening;
mod metrics;
mod node;
mod partition;
mod pool;
mod producer_ids;
mod queues;
mod quota;
mod refusal_log;
mod repair;
mod replica;
mod routing;
mod scrape;
mod services;
mod serving;
pub mod settings;
mod stopping;
mod tail;
mod target;
#[cfg(test)]
mod testing;

pub use broker::{Broker, RunError, StartError};
pub use cluster::bootstrap::BootstrapError;
pub use cluster::directory::DirectoryError;
pub use listening::{Addresses, ListenError};
pub use tail::DoubtfulTail;
