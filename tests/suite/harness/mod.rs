//! Clusters of real processes, and what the tests need to work with them.
//!
//! - [`Cluster`]: starts `jangada server` processes on loopback, kills, stops, pauses and restarts them, and ends them all when it is
//!   dropped. Only one cluster lives at a time: tests run in threads, and the machine has few cores.
//! - [`cli`]: one run of the command line, with its exit code and output.
//! - [`groups`]: consumer groups below the client: calls that follow the coordinator, and small members.
//! - [`raw`]: calls below the client: batches made by hand, and an error's reason.
//! - [`History`]: what writers were told and readers saw, and the [`History::check`] of it.
//! - [`eventually`]: the only way to wait here: for a condition, with a bound.

mod checker;
pub mod cli;
mod cluster;
pub mod groups;
mod input;
mod node;
pub mod ports;
pub mod raw;
mod wait;

pub use checker::{History, Outcome, Value};
pub use cluster::{Cluster, Options, turn};
pub use input::{awkward_lines, lines_of};
pub use wait::{WAIT, eventually};
