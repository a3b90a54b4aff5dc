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
//! - [`Broker`]: start and stop.
//! - [`settings`]: what can be configured.
//! - `api`: what is done for clients, whatever protocol they speak.
//! - `admission`: what one client may take of what all share.
//! - `cluster`: data directory, bootstrap, metadata, reconciling.
//! - `partition`: append, read, retention of one partition.
//! - `groups`: the coordinator's shards, which hold the consumer groups.
//! - `repair`: damaged replicas, from finding them to filling them again.
//! - `replica`: a Raft group's replica here, of whatever kind: opening, leadership, CheckQuorum.
//! - `node`: the handles that the services share. `leader_lookup`: who answers a request. `producer_ids`: ids of producers.
//!   `stopping`: whether the broker stops. `target`: a partition that a request names.
//! - `metrics`: what is counted. `scrape`: what `/metrics` shows.
//! - `disk`: whether the disk takes more.
//! - `services`: the gRPC surface.
//! - `listener`: who may connect, and how many. `listening`: the listeners of the settings, bound. `serving`: what is served there.
//! - `refusal_log`: what an operator reads of requests that are refused.
//! - `http`: probes and metrics.
//! - `health`: the probe of gRPC.

mod admission;
mod api;
mod broker;
mod clock_guard;
mod cluster;
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
mod refusal_log;
mod repair;
mod replica;
mod scrape;
mod seams;
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
