//! Every limit of the transactional ids of a coordinator's shard, with unit, bound and why.
//!
//! Limits of the state are judged when a command is applied, in the order of the log (and before that by the leader, which keeps commands
//! that would be refused out of the log). Limits of requests are judged by the leader alone, and may differ from build to build.

// Limits of the state. They are part of the replicated format, as is how `size` counts: replicas that disagree about one take different
// commands. So none of them changes, or the commands that are judged by it become new kinds.

/// Transactional ids of one shard. Each costs memory on every replica and a row in each snapshot. Kafka has no bound, and clusters ran
/// out of memory by ids that are made up anew at each start.
pub const IDS_MAX: usize = 50_000;

/// Partitions of one transaction, and groups of one: each is sent a marker.
pub const PARTICIPANTS_MAX: usize = 100_000;

/// Bytes of one shard's transactional ids, as the upper bound of their size in a snapshot.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;

// Limits of requests, and times.

/// Bytes of a transactional id. The bound of a group's name, which it often resembles.
pub const ID_BYTES_MAX: usize = 249;

/// The longest that a transaction may be open if the settings say nothing else, milliseconds: 15 minutes, as in Kafka
/// (`transaction.max.timeout.ms`). Readers of committed records wait for it.
pub const TIMEOUT_MS_MAX_DEFAULT: u32 = 15 * 60 * 1_000;

/// How long a transaction may be open whose producer says nothing, milliseconds. Kafka's default of `transaction.timeout.ms`.
pub const TIMEOUT_MS_DEFAULT: u32 = 60_000;

/// How long a transactional id is kept that is not used, milliseconds: 7 days, as in Kafka (`transactional.id.expiration.ms`).
pub const EXPIRATION_MS_DEFAULT: u64 = 7 * 24 * 60 * 60 * 1_000;

/// How long a leader must have seen an id unused before it forgets it, milliseconds, and how often it checks the wall clock for that.
/// If a broker's clock is wrong, there is an hour to notice.
pub const SEEN_IDLE_MS: u64 = 60 * 60 * 1_000;

const _: () = {
    assert!(TIMEOUT_MS_DEFAULT <= TIMEOUT_MS_MAX_DEFAULT);
    assert!(SEEN_IDLE_MS <= EXPIRATION_MS_DEFAULT);
};
