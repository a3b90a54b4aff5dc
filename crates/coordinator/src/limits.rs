//! Every limit of a coordinator shard, with unit, bound and why.
//!
//! Limits of the state are judged when a command is applied, in the order of the log (and before that by the leader,
//! which keeps commands that would be refused out of the log). Limits of requests are judged by the leader alone, and
//! may differ from build to build.

// Limits of the state.
//
// They are part of the replicated format, as is how `size` counts: replicas that disagree about one take different
// commands. So none of them changes, or the commands that are judged by it become new kinds; see the rules in `wire`.

/// Consumer groups of one shard. Each costs memory on every replica and a row in each snapshot.
pub const GROUPS_MAX: usize = 20_000;

/// Members of one group. An assignment is computed over all of them, and each can own a partition at best.
pub const MEMBERS_PER_GROUP_MAX: usize = 1_000;

/// Partitions that one group may have offsets for, committed or staged by transactions.
pub const OFFSETS_PER_GROUP_MAX: usize = 100_000;

/// Bytes of one shard's committed offsets, as the upper bound of their size in a snapshot. Offsets, members and targets
/// have bounds apart: a group that commits much, or repeats a commit that is refused, takes no room from the members of
/// another one.
pub const OFFSETS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Producers of one shard whose last ended transaction is remembered, so that offsets which are staged after the end are
/// refused. Those that ended first are forgotten: a staging would have to be held up on its way for as long as it takes so many
/// others to end.
pub const ENDED_PRODUCERS_MAX: usize = 50_000;

/// Bytes of the members' descriptions of one shard, counted in the same way.
pub const MEMBERS_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Bytes of one shard's targets and their topics, counted in the same way: three million partitions. The partitions
/// that members have taken up are not refused, and take 1.4 times as much.
pub const TARGETS_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Bytes of a snapshot: a larger one reaches no replica.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

// Limits of requests, and times.

/// Partitions that the members of one group can share. Bounds the target, which is one command.
pub const PARTITIONS_PER_GROUP_MAX: usize = 100_000;

/// Bytes of a member id. A UUID has 36.
pub const MEMBER_ID_BYTES_MAX: usize = 64;

/// Bytes of an instance id. The bound of a group's name, which it often resembles.
pub const INSTANCE_ID_BYTES_MAX: usize = 249;

/// Bytes of a client id, of a client's host and of a rack, each. They are kept to be shown when the group is described.
pub const CLIENT_TEXT_BYTES_MAX: usize = 255;

/// Topic names of one subscription.
pub const TOPICS_PER_SUBSCRIPTION_MAX: usize = 1_000;

/// Bytes of a subscription's pattern.
pub const PATTERN_BYTES_MAX: usize = 1_000;

/// Bytes of a compiled pattern. A few characters can ask for megabytes by counted repetition.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 256 * 1024;

/// Nested groups and repetitions of a pattern: the compiler works by recursion.
pub const PATTERN_NESTING_MAX: u32 = 32;

/// Bytes of the text that a consumer may keep with an offset. Kafka's default.
pub const OFFSET_METADATA_BYTES_MAX: usize = 4_096;

/// Bytes of all texts of one commit, which is one log entry.
pub const COMMIT_METADATA_BYTES_MAX: usize = 1024 * 1024;

/// Partitions of one commit, which is one log entry.
pub const OFFSETS_PER_COMMIT_MAX: usize = 10_000;

/// The shortest session, milliseconds. A shorter one ends with any pause of a process or a network.
pub const SESSION_TIMEOUT_MS_MIN: u32 = 1_000;

/// The longest session, milliseconds. The partitions of a member that died are not read for that long.
pub const SESSION_TIMEOUT_MS_MAX: u32 = 30 * 60 * 1_000;

/// The session of a member that asks for none, milliseconds. Kafka's default.
pub const SESSION_TIMEOUT_MS_DEFAULT: u32 = 45_000;

/// The shortest time to give up partitions, milliseconds.
pub const REBALANCE_TIMEOUT_MS_MIN: u32 = 1_000;

/// The longest time to give up partitions, milliseconds. The new owner waits for that long.
pub const REBALANCE_TIMEOUT_MS_MAX: u32 = 60 * 60 * 1_000;

/// The time to give up partitions of a member that asks for none, milliseconds. Kafka's default of
/// `max.poll.interval.ms`.
pub const REBALANCE_TIMEOUT_MS_DEFAULT: u32 = 300_000;

/// How long a group without members and without offsets is kept, milliseconds: an hour, so that it can still be looked
/// up. With offsets it is kept for `offsets.retention`.
pub const EMPTY_GROUP_MS: u64 = 60 * 60 * 1_000;

/// How long a leader must have seen a group without members before it deletes it, milliseconds, and how often it checks
/// the wall clock for that. If a broker's clock is wrong, there is an hour to notice.
pub const SEEN_EMPTY_MS: u64 = 60 * 60 * 1_000;

/// How long offsets of a group without members are kept by default, milliseconds: 7 days, as in Kafka.
pub const OFFSETS_RETENTION_MS_DEFAULT: u64 = 7 * 24 * 60 * 60 * 1_000;

const _: () = {
    assert!(
        SESSION_TIMEOUT_MS_MIN <= SESSION_TIMEOUT_MS_DEFAULT && SESSION_TIMEOUT_MS_DEFAULT <= SESSION_TIMEOUT_MS_MAX
    );
    assert!(REBALANCE_TIMEOUT_MS_MIN <= REBALANCE_TIMEOUT_MS_DEFAULT);
    assert!(REBALANCE_TIMEOUT_MS_DEFAULT <= REBALANCE_TIMEOUT_MS_MAX);
    assert!(
        OFFSETS_PER_COMMIT_MAX <= OFFSETS_PER_GROUP_MAX,
        "a commit of any size fits an empty group"
    );
    assert!(OFFSET_METADATA_BYTES_MAX <= COMMIT_METADATA_BYTES_MAX);
    assert!(EMPTY_GROUP_MS <= OFFSETS_RETENTION_MS_DEFAULT);
};
