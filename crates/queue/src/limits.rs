//! The bounds of queues, each with its unit and reason. Those that apply judges are part of what a command means: another number
//! needs another kind of command.

use std::mem::size_of;

use jangada_types::limits::{QUEUE_ATTEMPTS_MAX, QUEUE_LANES, QUEUE_LEASE_MS_MAX, VIEWS_PER_EXCHANGE_MAX};

use crate::state::Held;

/// Bytes of the state of all slots of a partition, as `Slots::state_bytes` counts them. Beyond it nothing is granted any more;
/// what makes the state smaller is always taken. A state of this size goes into each checkpoint.
pub const STATE_BYTES_MAX: usize = 64 << 20;

/// Runs of records that one transaction may have in a partition with slots: batches that others' batches lie between. 1.5 MB.
pub const TRANSACTION_RUNS_MAX: usize = 64 << 10;

/// Slots of one partition.
pub const SLOTS_MAX: usize = 1_000;

/// Offsets that one section of a command may name. A section of a damaged or hostile command cannot make apply walk further.
pub const SECTION_OFFSETS_MAX: u64 = 1 << 20;

/// Offsets between a slot's floor and the highest offset that it has touched. Beyond it nothing is granted behind the hole: a bit
/// for each is 8 MiB.
pub const SPAN_MAX: u64 = 64 << 20;

/// Levels of priority.
pub const LANES: u8 = QUEUE_LANES;

/// Bytes of one `QueueOps`, roughly: the engine begins the next one beyond it.
pub const OPS_BYTES: usize = 64 << 10;

/// Commands of one partition's engine that may be under way at once. While they are, the next one grows.
pub const OPS_UNDER_WAY_MAX: usize = 2;

/// Messages of a slot that may be leased at once.
pub const IN_FLIGHT_MAX: u64 = 100_000;

/// Messages that one session may hold in a slot.
pub const SESSION_IN_FLIGHT_MAX: u32 = 10_000;

/// The shortest lease that a new leader lets the holders of its predecessor have, milliseconds; less where the lease itself is
/// shorter. They need the time to find the new leader.
pub const LEASE_MS_AFTER_FAILOVER: u64 = 30_000;

/// The longest lease, milliseconds.
pub const LEASE_MS_MAX: u64 = QUEUE_LEASE_MS_MAX;

/// How long the messages of a session whose connection broke wait for it to come back, milliseconds.
pub const SESSION_GRACE_MS: u64 = 5_000;

/// Timers that the leader has in memory for one slot, the next ones. The others are rows.
pub const TIMER_WINDOW: usize = 65_536;

/// Keys that the leader passes messages of that are not due. With more of them busy the walk waits for the next that falls due.
pub const BUSY_KEYS_MAX: usize = 256 << 10;

/// Messages that a consumer is given before the next one is asked, so that equal consumers get equal shares.
pub const TURN_MESSAGES: u32 = 16;

/// A log may be so many times as large as its live records, and [`CARRY_SLACK_BYTES`] larger, before what holds it up is carried.
pub const CARRY_FACTOR: u64 = 4;

/// What a log may always hold beside its live records, bytes.
pub const CARRY_SLACK_BYTES: u64 = 64 << 20;

/// The records of one carry, bytes, about: as much as one append of a producer.
pub const CARRY_BATCH_BYTES: u64 = 1 << 20;

/// For so many bytes that are written otherwise one may be carried, beyond [`CARRY_SLACK_BYTES`]: a write amplification of 1.33.
pub const CARRY_SHARE: u64 = 3;

/// A lease that ran out so long ago, milliseconds, is ended if it keeps a log from being cut.
pub const CARRY_LEASE_MS: u64 = 10 * 60_000;

/// Dead letters of a slot that go to another topic in one batch.
pub const FORWARD_MESSAGES_MAX: usize = 500;

/// A batch that did not arrive goes again after so long, milliseconds, and each time after twice as long...
pub const FORWARD_RETRY_MS: u64 = 1_000;

/// ... up to this.
pub const FORWARD_RETRY_MS_MAX: u64 = 60_000;

/// How long message ids may be remembered, milliseconds.
pub const ID_WINDOW_MS_MAX: u64 = 86_400_000;

/// Message ids that a leader remembers without looking them up: some 24 MB, where so many come within the window.
pub const IDS_KNOWN_MAX: usize = 256 << 10;

/// Schedules of a partition.
pub const SCHEDULES_MAX: usize = 1_000;

/// The name of a schedule, bytes.
pub const SCHEDULE_NAME_BYTES_MAX: usize = 128;

/// What the messages of a schedule are made of, bytes: it is in each saved state.
pub const SCHEDULE_TEMPLATE_BYTES_MAX: usize = 4 << 10;

/// The least time from one occurrence of a schedule to the next, milliseconds.
pub const SCHEDULE_EVERY_MS_MIN: u64 = 1_000;

/// An occurrence that is later than this, milliseconds, was missed, and its schedule says what becomes of it.
pub const SCHEDULE_LATE_MS: u64 = 60_000;

/// Missed occurrences that are fired after all, at most.
pub const SCHEDULE_CATCH_UP_MAX: usize = 100;

/// Occurrences of a partition's schedules that may be under way at once.
pub const FIRES_UNDER_WAY_MAX: usize = 64;

/// A breaker goes by so many of the latest outcomes, at most.
pub const BREAKER_OUTCOMES_MAX: usize = 1_000;

/// It does not trip on fewer outcomes.
pub const BREAKER_OUTCOMES_LEAST: usize = 100;

/// Outcomes of longer ago do not count, milliseconds.
pub const BREAKER_WINDOW_MS: u64 = 30_000;

/// A breaker that has tripped lets one message out in so many milliseconds.
pub const BREAKER_PROBE_MS: u64 = 1_000;

/// It closes after so many messages that are acknowledged in a row.
pub const BREAKER_SUCCESSES: u32 = 20;

/// A failure while so many messages of a slot wait for their retry trips the breaker.
pub const BREAKER_WAITING: u64 = 100_000;

/// Failures, or receives, after which a message is dead, at most.
pub const ATTEMPTS_MAX: u16 = QUEUE_ATTEMPTS_MAX;

const _: () = assert!(size_of::<Held>() == 32, "what a message in flight costs");
const _: () = assert!(ATTEMPTS_MAX < u16::MAX, "the counters of a message hold it");
const _: () = assert!(VIEWS_PER_EXCHANGE_MAX <= SLOTS_MAX, "each view has a slot");
const _: () = assert!(OPS_BYTES * OPS_UNDER_WAY_MAX <= 4 << 20, "acks in flight stay small");
