//! The coordinator's shards that this broker has: Raft groups that hold consumer groups.
//!
//! ```text
//!   GroupService --> Shard::decide --> Leader (sessions, assignors) --> Command --> the shard's log
//!                      ^                                                               |
//!                      +---- resume <---- reply <---- machine: Image::apply <----------+
//!   tick, one task for all shards: sessions that end, targets that are due, offsets that expire
//! ```
//!
//! - [`machine`]: the state machine, and the state that it shares with the shard.
//! - [`shard`]: decides requests, reads.
//! - [`shards`]: all of them, and what they share.
//! - [`tick`]: the timers.
//! - [`time`]: both clocks.
//! - [`lag`]: how far the groups are behind.
//! - [`journal`]: what people may ask about later, in the log and the counters.
//!
//! The rules are in `jangada-coordinator`, which is pure. One short lock per shard is held over each decision and each
//! command that is applied, and never over a wait.

mod journal;
mod lag;
mod machine;
mod shard;
mod shards;
mod ticker;
mod time;

pub(crate) use lag::watch as watch_lag;
pub(crate) use shard::Shard;
pub(crate) use shards::Shards;
pub(crate) use ticker::tick;

/// Replicas of the coordinator's shards, once there are so many brokers.
pub(crate) const COORDINATOR_REPLICAS: usize = 3;
