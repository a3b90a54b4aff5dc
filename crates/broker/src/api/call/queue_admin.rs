//! What only the leaders of a queue's partitions know of its messages, or can do to all of them.

use jangada_controller::QueueStart;
use jangada_types::{PartitionIndex, QueueId};

use crate::api::resolve::QueueName;
pub(crate) use crate::queues::ExpiryStep;
use crate::queues::OldestAge;

/// One partition of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueAt {
    pub queue: QueueName,
    pub index: PartitionIndex,
}

/// Drops messages of a queue in one partition.
#[derive(Debug)]
pub(crate) struct PurgeQueue {
    pub at: QueueAt,
    /// The first offset that stays; none: all go that are there.
    pub before: Option<u64>,
}

/// Lets a queue begin anew.
#[derive(Debug)]
pub(crate) struct SeekQueue {
    pub at: QueueAt,
    pub to: SeekTo,
}

/// Where a queue begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeekTo {
    /// At a place that the leader finds.
    Start(QueueStart),
    /// At this offset.
    Offset(u64),
}

/// Dead letters that something is to become of.
#[derive(Clone, Debug)]
pub(crate) struct DeadWanted {
    pub at: QueueAt,
    /// The first offset that is looked at.
    pub from: u64,
    /// At most so many are looked at.
    pub most: usize,
    pub filter: DeadFilter,
    /// They are only counted.
    pub is_dry: bool,
}

/// Which dead letters are meant: those that fit all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadFilter {
    /// Dead for one of these reasons; empty: for any.
    pub reasons: Vec<String>,
    /// Dead since this time or later, milliseconds since the Unix epoch.
    pub died_from_ms: Option<u64>,
    /// Dead since before this time.
    pub died_before_ms: Option<u64>,
    /// With this key.
    pub key: Option<bytes::Bytes>,
}

/// Shows dead letters.
#[derive(Debug)]
pub(crate) struct ListDead(pub DeadWanted);

/// Lets dead letters go out again.
#[derive(Debug)]
pub(crate) struct RedriveDead(pub DeadWanted);

/// Deletes dead letters.
#[derive(Debug)]
pub(crate) struct PurgeDead(pub DeadWanted);

/// A dead letter that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub offset: u64,
    pub reason: String,
    pub failures: u16,
    pub deliveries: u16,
    /// Milliseconds since the Unix epoch.
    pub died_at_ms: u64,
}

/// Dead letters that were found.
#[derive(Debug)]
pub(crate) struct DeadFound {
    pub letters: Vec<DeadLetter>,
    /// Where to look on; none: there are no more.
    pub next: Option<u64>,
}

/// What became of dead letters.
#[derive(Debug)]
pub(crate) struct DeadDone {
    /// How many did as they were to; of a dry run, how many there are.
    pub messages: u32,
    /// How many stay dead.
    pub refused: u32,
    /// Where to go on; none: there are no more.
    pub next: Option<u64>,
}

/// Asks for what a queue has in the partitions that the other broker leads.
#[derive(Debug)]
pub(crate) struct CountQueue {
    pub queue: QueueId,
}

/// Asks whether nobody uses a queue in the partitions that the other broker leads.
#[derive(Debug)]
pub(crate) struct AskUnused {
    pub queue: QueueId,
    pub step: ExpiryStep,
}

/// What a queue has in a partition, by state, and what has come of its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueDepth {
    pub ready: u64,
    pub delayed: u64,
    pub leased: u64,
    pub waiting: u64,
    pub dead: u64,
    pub bytes: u64,
    pub consumers: u64,
    /// The ages of the oldest messages that may go out, by priority.
    pub oldest: Vec<OldestAge>,
    /// Since when most messages fail, milliseconds since the Unix epoch.
    pub tripped_since_ms: Option<u64>,
    /// Since when dead letters do not arrive, milliseconds since the Unix epoch.
    pub dead_stuck_since_ms: Option<u64>,
    pub tally: DepthTally,
}

/// What has come of messages since the leader began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DepthTally {
    pub sent: u64,
    pub refused_full: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub dead: u64,
    pub expired_dropped: u64,
    pub expired_dead: u64,
    pub carried_bytes: u64,
    pub in_flight_full: u64,
}
