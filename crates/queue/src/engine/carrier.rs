//! What the leader knows of the size of its log, and how far it is with carrying the oldest part of it.

use std::collections::BTreeSet;

use crate::engine::ahead::MarksAhead;
use crate::engine::io::LogPart;
use crate::engine::timers::TimerKey;
use crate::limits::{CARRY_BATCH_BYTES, CARRY_FACTOR, CARRY_LEASE_MS, CARRY_SHARE, CARRY_SLACK_BYTES};

/// Messages of one carry, at most, however small they are.
const MESSAGES_MAX: u64 = 16_384;

/// When messages are carried. The default is what queues ship with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarryBounds {
    /// The log may be so many times as large as its live records...
    pub factor: u64,
    /// ... and so many bytes larger.
    pub slack_bytes: u64,
    /// The records of one carry, bytes.
    pub batch_bytes: u64,
    /// A leased message that has kept its part from being cut for so long, milliseconds, is carried with its lease.
    pub leased_ms: u64,
}

impl Default for CarryBounds {
    fn default() -> Self {
        Self {
            factor: CARRY_FACTOR,
            slack_bytes: CARRY_SLACK_BYTES,
            batch_bytes: CARRY_BATCH_BYTES,
            leased_ms: CARRY_LEASE_MS,
        }
    }
}

/// The oldest part of the log, on its way to the end.
#[derive(Debug)]
pub(super) struct Plan {
    /// All below was looked at.
    pub next: u64,
    /// The offset behind the part.
    pub until: u64,
    /// So many messages are about one batch.
    pub batch: u64,
    /// Keys of which a message stays, and so all later ones.
    pub stay: BTreeSet<u64>,
    pub marks: MarksAhead,
}

/// What the leader knows of the size of its log, and the carry under way.
#[derive(Debug, Default)]
pub(super) struct Carrier {
    pub bounds: CarryBounds,
    pub plan: Option<Plan>,
    pub is_under_way: bool,
    /// The timers of the messages of the carry under way.
    pub timers: Vec<TimerKey>,
    /// Bytes that were written to the log when the engine was told first, and last.
    pub written: Option<(u64, u64)>,
    /// Bytes of the records that were carried since.
    pub carried: u64,
}

impl Plan {
    pub(super) fn new(first: u64, part: &LogPart, messages: u64, bounds: &CarryBounds) -> Self {
        let mean = (part.record_bytes / messages).max(1);
        Self {
            next: first,
            until: part.end,
            batch: (bounds.batch_bytes / mean).clamp(1, MESSAGES_MAX),
            stay: BTreeSet::new(),
            marks: MarksAhead::from(first),
        }
    }
}

impl Carrier {
    /// Whether what was carried is more than its share of what is written.
    pub(super) fn has_written_enough(&self) -> bool {
        let (first, last) = self.written.unwrap_or_default();
        let sent = (last - first).saturating_sub(self.carried);
        self.carried > sent / CARRY_SHARE + self.bounds.slack_bytes
    }
}
