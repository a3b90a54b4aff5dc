//! Dead letters of a queue as admin calls name them, and what became of them. Field names are those of `queue_admin.proto`.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_proto::v1;

/// Dead letters of one partition that something is to become of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// The partition's index.
    pub partition: u32,
    /// The first offset that is looked at.
    pub from_offset: i64,
    /// At most so many are looked at, 1 to 1,000. 0: 1,000.
    pub max_messages: u32,
    /// Which dead letters are meant.
    pub filter: DeadFilter,
    /// Only count them.
    pub dry_run: bool,
}

/// Which dead letters are meant: those that fit all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Dead for one of these reasons: attempts, rejected, expired, length. Empty: for any.
    pub reasons: Vec<String>,
    /// Dead since this time or later, milliseconds since the Unix epoch.
    pub died_from_ms: Option<u64>,
    /// Dead since before this time, milliseconds since the Unix epoch.
    pub died_before_ms: Option<u64>,
    /// With this key; only of a queue with `queue.order=key`.
    pub key: Option<Bytes>,
}

impl DeadFilter {
    pub(super) fn wire(&self) -> v1::DeadFilter {
        v1::DeadFilter {
            reasons: self.reasons.clone(),
            died_from_ms: self.died_from_ms,
            died_before_ms: self.died_before_ms,
            key: self.key.clone(),
        }
    }
}

/// Dead letters that are to go out again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redrive {
    /// Partitions, and the first offset that is looked at in each: those that an earlier redrive has left. Empty: all partitions, from the
    /// beginning.
    pub places: BTreeMap<u32, i64>,
    /// Which dead letters are meant.
    pub filter: DeadFilter,
    /// At most so many a second, all partitions together. 0: as fast as the brokers do it.
    pub rate: u32,
    /// Only count them.
    pub dry_run: bool,
}

/// How far a redrive is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveProgress {
    /// How many went out again; of a dry run, how many would.
    pub messages: u64,
    /// How many were to, and stay dead: a later message of their key is done, or something became of them meanwhile.
    pub refused: u64,
    /// Partitions that are not gone through, and where to go on in each. Empty: that is all.
    pub left: BTreeMap<u32, i64>,
}

impl RedriveProgress {
    /// What a call says, after earlier ones that came so far.
    pub(super) fn from_wire(before: (u64, u64), said: v1::RedriveDeadResponse) -> Self {
        let left = said.left.into_iter().map(|place| (place.partition, place.offset));
        Self {
            messages: before.0 + said.messages,
            refused: before.1 + said.refused,
            left: left.collect(),
        }
    }
}

/// A dead letter that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The offset in its partition.
    pub offset: i64,
    /// Why it is dead: attempts, rejected, expired, length.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it was handed out.
    pub deliveries: u32,
    /// When it died, milliseconds since the Unix epoch.
    pub died_at_ms: u64,
}

/// What became of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLettersDone {
    /// How many were deleted; of a dry run, how many there are.
    pub messages: u32,
    /// How many were to, and stay dead.
    pub refused: u32,
    /// Where to go on. `None`: there are no more.
    pub next_offset: Option<i64>,
}

impl DeadLetters {
    pub(super) fn wire(&self, queue_id: Bytes) -> v1::DeadRequest {
        v1::DeadRequest {
            name: String::new(),
            queue_id,
            partition: self.partition,
            from_offset: self.from_offset,
            max_messages: self.max_messages,
            filter: Some(self.filter.wire()),
            dry_run: self.dry_run,
        }
    }
}

impl DeadLettersDone {
    pub(super) fn from_wire(done: v1::DeadResponse) -> Self {
        Self {
            messages: done.messages,
            refused: done.refused,
            next_offset: done.next_offset,
        }
    }
}
