//! Clusters of real processes, and the tools that the tests need to work with them.
//!
//! - [`Cluster`]: starts `jangada server` processes on loopback, kills, stops, pauses and restarts them, and ends them all when it is
//!   dropped. Two live at a time, or one alone where a test measures: tests run in threads, and the machine has few cores.
//! - [`cli`]: one run of the command line, with its exit code and output.
//! - [`Disk`]: a file system that can lose power. [`Network`]: proxies that can cut a node off without a reset.
//! - [`GroupProcess`]: `jangada consume --group`, with its records and partitions. [`Orders`]: keyed records that go
//!   on.
//! - [`groups`]: consumer groups below the client: calls that follow the coordinator, and small members.
//! - [`harm`]: damage to the files of a node that is down.
//! - [`consumer_from_start`]: reads a whole topic.
//! - [`raw`]: calls below the client: batches made by hand, and an error's reason.
//! - [`bare`]: calls below that: messages as bytes, and answers that are never read.
//! - [`Proxy`]: stands before a node and loses its answers, or holds back, slows and cuts single connections ([`disturb`]).
//!   [`SmallDisk`]: a file system that can be filled up.
//! - [`History`]: the outcomes of writers and the records of readers, and the [`History::check`] of it.
//! - [`Load`]: writers and a reader that go on while faults happen, and keep such a history.
//! - [`strace`]: sees a node's system calls, or lets it die at one.
//! - [`MURMUR2`]: keys with their hashes by other programs. [`partition_of`]: the partition of a hash.
//! - [`Scrape`]: the answer of `/metrics`.
//! - [`served_during`]: a good client beside a bad one. [`assert_refused`]: an error of the client, with what it names.
//! - [`skipped`]: reports tests that this machine cannot run. [`is_long`]: whether to run tests that take minutes.
//! - [`eventually`]: the only way to wait here: for a condition, with a bound.

pub mod bare;
mod checker;
pub mod cli;
mod cluster;
mod disk;
mod group_process;
pub mod groups;
pub mod harm;
mod input;
mod load;
mod murmur2;
mod network;
pub mod node;
mod orders;
pub mod ports;
mod proxy;
pub mod raw;
mod reading;
mod refused;
mod scrape;
mod served;
mod skip;
mod small_disk;
pub mod strace;
mod wait;

pub use checker::{History, Outcome, Value};
pub use cluster::{Cluster, Options, turn};
pub use disk::{Disk, can_mount};
pub use group_process::{Change, GroupProcess, Printed};
pub use input::{awkward_lines, lines_of};
pub use load::Load;
pub use murmur2::{MURMUR2, partition_of};
pub use network::Network;
pub use orders::{Orders, Written, number_of};
pub use proxy::{Proxy, disturb};
pub use reading::consumer_from_start;
pub use refused::assert_refused;
pub use scrape::Scrape;
pub use served::served_during;
pub use skip::{are_examples_wanted, is_long, is_promtool_there, is_too_long, skipped};
pub use small_disk::SmallDisk;
pub use wait::{POLL_INTERVAL, WAIT, eventually};
