//! What a desk remembers of what was shown of it.

use std::collections::BTreeMap;

use jangada_queue::QueueId;
use jangada_queue::engine::Tally;
use parking_lot::Mutex;

/// What a desk had counted at the last look, by queue.
pub(super) type Counted = Mutex<BTreeMap<QueueId, Tally>>;

/// By queue and lane the oldest message that was looked up last, and its time.
pub(super) type OldestTimes = Mutex<BTreeMap<(QueueId, u8), (u64, i64)>>;

/// The age of the oldest message of a lane that may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OldestAge {
    pub lane: u8,
    /// Since its record's time, milliseconds.
    pub age_ms: u64,
}
