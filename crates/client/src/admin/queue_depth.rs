//! What a queue has in its partitions, as their leaders count it. Field names are those of `queue_admin.proto`.

use std::time::Duration;

use jangada_proto::v1;

/// What a queue has in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// The partition's index.
    pub partition: u32,
    /// As the leader knows it. `None`: it did not answer.
    pub counts: Option<QueueCounts>,
}

/// The messages of a queue in one partition, by what they are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Messages that may go out.
    pub ready: u64,
    /// Messages that are not due yet, about.
    pub delayed: u64,
    /// Messages that a consumer has.
    pub leased: u64,
    /// Messages that failed and go out again later.
    pub waiting: u64,
    /// Dead letters that are kept.
    pub dead: u64,
    /// Bytes of what is neither done nor dead, about.
    pub bytes: u64,
    /// Consumers that have a stream, or wait with a receive.
    pub consumers: u64,
    /// The age of the oldest message that may go out, of each priority that has one.
    pub oldest: Vec<(u32, Duration)>,
    /// Since when most messages fail, so that only one a second goes out, milliseconds since the Unix epoch.
    pub tripped_since_ms: Option<i64>,
    /// Since when dead letters do not arrive where they are to go, milliseconds since the Unix epoch.
    pub dead_stuck_since_ms: Option<i64>,
    /// What has come of messages since the partition's leader began.
    pub tally: QueueTally,
}

/// What has come of a queue's messages in one partition since its leader began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueTally {
    /// Messages that were taken.
    pub sent: u64,
    /// Messages that were refused, as the queue was full.
    pub refused_full: u64,
    /// Messages that were handed out.
    pub delivered: u64,
    /// Of these, messages that had been handed out before.
    pub redelivered: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages whose time to live was over, and that were dropped.
    pub expired_dropped: u64,
    /// Messages whose time to live was over, and that became dead letters.
    pub expired_dead: u64,
    /// Bytes of messages that were appended again.
    pub carried_bytes: u64,
    /// Receives that got nothing, as consumers had as many messages as they may.
    pub receives_in_flight_full: u64,
}

impl QueueDepth {
    pub(super) fn from_wire(depth: v1::QueueDepth) -> Self {
        Self {
            partition: depth.partition,
            counts: depth.counts.map(|counts| QueueCounts::from_wire(&counts)),
        }
    }
}

impl QueueCounts {
    fn from_wire(counts: &v1::QueueCounts) -> Self {
        let oldest = counts.oldest.iter();
        Self {
            ready: counts.ready,
            delayed: counts.delayed,
            leased: counts.leased,
            waiting: counts.waiting,
            dead: counts.dead,
            bytes: counts.bytes,
            consumers: counts.consumers,
            tripped_since_ms: counts.tripped_since_ms,
            dead_stuck_since_ms: counts.dead_stuck_since_ms,
            oldest: oldest
                .map(|oldest| (oldest.priority, Duration::from_millis(oldest.age_ms)))
                .collect(),
            tally: QueueTally::from_wire(&counts.tally.unwrap_or_default()),
        }
    }
}

impl QueueTally {
    fn from_wire(tally: &v1::QueueTally) -> Self {
        Self {
            sent: tally.sent,
            refused_full: tally.refused_full,
            delivered: tally.delivered,
            redelivered: tally.redelivered,
            acknowledged: tally.acknowledged,
            dead: tally.dead,
            expired_dropped: tally.expired_dropped,
            expired_dead: tally.expired_dead,
            carried_bytes: tally.carried_bytes,
            receives_in_flight_full: tally.receives_in_flight_full,
        }
    }
}
