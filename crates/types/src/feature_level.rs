//! Feature levels: the commands and settings that brokers of different versions may use together.
//!
//! A command that the older brokers of a cluster could not read is proposed only when every broker has its level. The
//! level of each replicated command is in its declaration ([`replicated!`](crate::replicated)), or beside its kind. This module has the
//! levels of other things than commands, and the level of the build, which each crate with commands checks at compile
//! time.

/// The highest feature level that this build understands. A build that folds a command in another way than its
/// predecessor, or knows a new one, has a higher level.
pub const FEATURE_LEVEL: u32 = 10;

/// The first level that knows the topic settings `message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`
/// and `validation.compressed`.
pub const BATCH_CHECKS_FEATURE_LEVEL: u32 = 5;

/// The first level that knows the topic settings `max.group.lag.records` and `max.group.lag.groups`.
pub const GROUP_LAG_FEATURE_LEVEL: u32 = 7;

/// The first level that knows transactions: their batches and markers in partitions, and their coordinator.
pub const TRANSACTIONS_FEATURE_LEVEL: u32 = 8;

/// The first level that knows compaction by key: the topic setting `cleanup.policy=compact`, and logs of which records were taken.
pub const COMPACTION_FEATURE_LEVEL: u32 = 8;

const _: () = assert!(COMPACTION_FEATURE_LEVEL <= FEATURE_LEVEL);
const _: () = assert!(TRANSACTIONS_FEATURE_LEVEL <= FEATURE_LEVEL);
const _: () = assert!(GROUP_LAG_FEATURE_LEVEL <= FEATURE_LEVEL);
const _: () = assert!(BATCH_CHECKS_FEATURE_LEVEL <= FEATURE_LEVEL);
