//! A shard of the coordinator: consumer groups and transactional ids in one replicated state machine, with one log.
//!
//! ```text
//!   head of a command   1: jangada-coordinator      2: jangada-transactions
//!   snapshot            version 1, that of jangada-coordinator: there are no transactional ids
//!                       version 2, both
//! ```
//!
//! The two know nothing of each other. A transaction that stages offsets names the groups, and the host ends it there as it does in
//! partitions, whichever shards they are in. What they share is the log with its leader, so that ids need no Raft groups of their own; and
//! a shard without transactional ids writes what it wrote before there were any.
//!
//! - [`Shard`]: the state. [`Command`], [`Reply`]: those of either side.
//! - [`ShardLeader`]: the leaders of both, with their requests, answers, events and surroundings.

mod leader;
mod machine;

pub use leader::{Answer, Event, Pending, ShardLeader, Step, Surroundings};
pub use machine::{Command, Reply, Shard};
