//! The coordinator's shards that this broker has: Raft groups that hold consumer groups.
//!
//! ```text
//!   GroupService --> CoordinatorReplica::decide --> Leader (sessions, assignors) --> Command --> the shard's log
//!                      ^                                                                            |
//!                      +---- resume <---- reply <---- machine: Image::apply <-----------------------+
//!   tick, one task for all shards: sessions that end, targets that are due, offsets that expire
//! ```
//!
//! - [`machine`]: the state machine, and the state that it shares with the shard.
//! - [`replica`]: decides requests, reads.
//! - [`shared`]: what all of them share.
//! - [`creation`]: the topic that they are partitions of, which is created for the first who asks.
//! - [`tick`]: the timers.
//! - [`time`]: both clocks.
//! - [`lag`]: how far the groups are behind.
//! - [`journal`]: what people may ask about later, in the log and the counters.
//!
//! The rules are in `jangada-coordinator`, which is pure. One short lock per shard is held over each decision and each
//! command that is applied, and never over a wait.

mod creation;
mod journal;
mod lag;
mod machine;
mod replica;
mod shared;
mod ticker;
mod time;

pub(crate) use creation::CoordinatorTopic;
pub(crate) use lag::{LagSources, watch as watch_lag};
pub(crate) use machine::CoordinatorPublisher;
pub(crate) use replica::{CoordinatorReplica, KIND};
pub(crate) use shared::Shared;
pub(crate) use ticker::tick;

/// Replicas of the coordinator's shards, once there are so many brokers.
pub(crate) const COORDINATOR_REPLICAS: usize = 3;
