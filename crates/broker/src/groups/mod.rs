//! The coordinator's shards that this broker has: Raft groups that hold consumer groups and transactional ids.
//!
//! ```text
//!   GroupService --> CoordinatorReplica --> replica::Driver --> Leader (sessions, assignors) --> Command --> the shard's log
//!                                              ^                                                              |
//!                                              +---- resume <---- Reply <---- Image::apply <------------------+
//!   replica::Timers: sessions that end, targets that are due, offsets that expire
//! ```
//!
//! - [`replica`]: decides requests, reads.
//! - [`transactional`]: what a replica decides about transactional ids, which its shard holds too.
//! - [`shared`]: what all of them share: settings, the cluster's topics.
//! - [`creation`]: the topic that they are partitions of, which is created for the first who asks.
//! - [`lag`]: how far the groups are behind.
//! - [`slowest`]: who lags most, for the leaders of partitions that bound it.
//! - [`endings`]: the ends of transactions that are under way.
//! - [`events`]: what people may ask about later, in the log and the counters.
//!
//! The rules are in `jangada-coordinator`, which is pure; [`crate::replica::Driver`] runs them, as those of any machine.

mod creation;
mod endings;
mod events;
mod lag;
mod replica;
mod shared;
mod slowest;
mod transactional;

pub(crate) use creation::CoordinatorTopic;
pub(crate) use lag::{LagSources, watch as watch_lag};
pub(crate) use replica::{CoordinatorReplica, KIND};
pub(crate) use shared::Shared;
pub(crate) use slowest::{tell as tell_slowest, told as told_slowest};
pub(crate) use transactional::TransactionCounts;

/// Replicas of the coordinator's shards, once there are so many brokers.
pub(crate) const COORDINATOR_REPLICAS: usize = 3;
