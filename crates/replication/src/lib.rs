//! Raft groups over one store and one transport per node pair: Jangada's adapter to openraft, and the only crate that
//! names it.
//!
//! - [`Registry`]: the groups of one broker, and what they share.
//! - [`Group`]: a handle to one of them.
//! - [`StateMachine`]: what a group's log is folded into. [`Publisher`]: how a [`Machine`](jangada_machine::Machine)
//!   becomes one; implemented above this crate.
//! - [`DerivedRows`]: what a task makes from a group's log beside the state machine.
//! - [`Leaders`]: who leads which group of the cluster.
//! - [`transport`]: the connections between two brokers.
//! - `log_store`, `host`: openraft's storage and state machine on [`jangada_storage::Store`].
//! - `snapshot`: states on disk, whole or in chunks, and what goes to a new replica. `saves`: states that are saved aside.
//! - [`Roster`]: who belongs to the cluster, asked of the crates above.
//! - `peers`: what brokers know of each other's commits.
//! - `damage`: what a replica's data cannot be.
//! - `runtime`: openraft's timers. `pace`: how often they fire when there are very many replicas.
//! - `codec`, `wire`: encodings on disk and between brokers.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may use the real clock and network")
)]

mod clocks;
mod codec;
mod damage;
mod derived;
mod group;
mod host;
#[cfg(test)]
mod host_tests;
mod leaders;
mod log_store;
mod open_error;
mod pace;
mod peers;
#[cfg(test)]
mod peers_tests;
mod purge_points;
mod raft_types;
mod registry;
#[cfg(test)]
mod registry_tests;
mod roster;
mod runtime;
mod saves;
#[cfg(test)]
mod saves_tests;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod suite_tests;
mod timing;
pub mod transport;
mod unfit;
mod wire;

pub use clocks::PeerClocks;
pub use codec::CodecError;
pub use derived::{DerivedRows, Written, command_of, saved_index};
pub use group::{Applied, Group, GroupMembers, GroupStatus, Proposal, ProposeError, ReadError, ReplicaProgress};
pub use leaders::{Leader, Leaders};
pub use open_error::OpenError;
pub use registry::Registry;
pub use roster::{Roster, Standing};
pub use snapshot::snapshot_machine;
pub use state_machine::{Check, MachineType, Publisher, Reply, Restored, StateImage, StateMachine};
pub use timing::Timing;
pub use transport::grpc::PeerService;
pub use transport::handshake::{Identity, PROTOCOL_MAX, PROTOCOL_MIN, check_protocol};
pub use transport::introduction::STARTING;
pub use transport::not_admitted::NotAdmitted;
pub use transport::plausible::{Cause, Rejections};
