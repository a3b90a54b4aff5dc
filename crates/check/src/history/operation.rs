//! One operation: a call and what became of it, with names as numbers.

use std::collections::BTreeMap;

use crate::call::{Isolation, Settlement};
use crate::names::{NameId, PartitionId, ValueId};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered when the history ended: the outcome is unknown.
    Open,
    /// It has taken effect.
    Ok,
    /// It has no effect, now or ever.
    Failed,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// The offset of an event that never came.
pub const NEVER: u64 = u64::MAX;

/// A call and its answer.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The index of the event that is the call.
    pub invoked: u64,
    /// The index of the event that is the answer; [`NEVER`] if the effect may come at any time.
    pub ended: u64,
    /// When it was called.
    pub invoked_ns: u64,
    /// When it was answered; [`NEVER`] likewise.
    pub ended_ns: u64,
    /// The process that called.
    pub process: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// What it was.
    pub body: Body,
}

impl Operation {
    /// Whether it has taken effect.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it may have taken effect.
    pub fn may_be(&self) -> bool {
        self.outcome != Outcome::Failed
    }

    /// Whether it was over before another one began.
    pub fn is_before(&self, other: &Operation) -> bool {
        self.ended < other.invoked
    }
}

/// Records that were read from one partition: runs in the history's list.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// The partition that was read.
    pub partition: PartitionId,
    pub(crate) first_run: u32,
    pub(crate) runs: u32,
}

/// A record that was sent.
#[derive(Clone, Debug)]
pub struct SendBody {
    /// The partition that it was sent to.
    pub partition: PartitionId,
    /// The record's value.
    pub value: ValueId,
    /// The record's key.
    pub key: Option<NameId>,
    /// The transaction that it is of.
    pub transaction: Option<NameId>,
    /// The offset that it was to get.
    pub expected_end_offset: Option<i64>,
    /// The offset of the last record of its key, as it was expected.
    pub expected_key_offset: Option<i64>,
    /// The offset that was answered.
    pub offset: Option<i64>,
    /// How often it was tried.
    pub attempts: u32,
    /// It deletes its key.
    pub tombstone: bool,
    /// A retry lands once.
    pub idempotent: bool,
}

/// A message that was sent to a queue.
#[derive(Clone, Debug)]
pub struct QueueSendBody {
    /// The queue that it was sent to.
    pub queue: NameId,
    /// The message's value.
    pub value: ValueId,
    /// The key that it has an order with.
    pub key: Option<NameId>,
    /// By which a repetition is recognized.
    pub message_id: Option<NameId>,
    /// The message's lane.
    pub priority: u32,
    /// It does not go out before.
    pub not_before: Option<u64>,
    /// The message may expire.
    pub expires: bool,
    /// The transaction that it is of.
    pub transaction: Option<NameId>,
    /// The partition and offset that were answered.
    pub place: Option<(u32, i64)>,
}

/// Offsets that were committed.
#[derive(Clone, Debug)]
pub struct CommitBody {
    /// The group whose offsets they are.
    pub group: NameId,
    /// The next offset to read, by partition.
    pub offsets: Vec<(PartitionId, i64)>,
    /// The member's epoch.
    pub epoch: Option<i64>,
    /// The transaction that they are of.
    pub transaction: Option<NameId>,
    /// They may be lower than those before.
    pub rewind: bool,
}

/// A delivery that was settled.
#[derive(Clone, Debug)]
pub struct SettleBody {
    /// The queue that it came from.
    pub queue: NameId,
    /// The message's value.
    pub value: ValueId,
    /// The token of the delivery.
    pub lease: Option<NameId>,
    /// What was to become of the message.
    pub settlement: Settlement,
    /// How long an extended lease lasts.
    pub extend: Option<u64>,
    /// The transaction that it is of.
    pub transaction: Option<NameId>,
    /// It was done before.
    pub already: bool,
}

/// A message that came.
#[derive(Clone, Debug)]
pub struct DeliveredBody {
    /// The message's value.
    pub value: ValueId,
    /// The token of the delivery.
    pub lease: NameId,
    /// Which delivery it is; 0: not known.
    pub attempt: u32,
    /// How often it had failed.
    pub failures: u32,
    /// The schedule and its occurrence.
    pub occurrence: Option<(NameId, u64)>,
}

/// What an operation was, and its answer.
#[derive(Clone, Debug)]
pub enum Body {
    /// A record was sent.
    Send(Box<SendBody>),
    /// Records were read.
    Poll {
        /// Which records it was to show.
        isolation: Isolation,
        /// The transaction that read.
        transaction: Option<NameId>,
        /// What was read.
        reads: Vec<Read>,
    },
    /// The end of a partition was asked for.
    EndOffset {
        /// The partition that was asked for.
        partition: PartitionId,
        /// Which end was asked for.
        isolation: Isolation,
        /// What was answered.
        offset: Option<i64>,
    },
    /// The process reads these partitions from now on.
    Assign(Vec<PartitionId>),
    /// The process reads this partition from elsewhere.
    Seek(PartitionId),
    /// The process takes part in this group.
    Subscribe(NameId),
    /// Offsets were committed.
    CommitOffsets(Box<CommitBody>),
    /// Committed offsets were asked for.
    FetchOffsets {
        /// The group that was asked for.
        group: NameId,
        /// What was answered.
        offsets: BTreeMap<PartitionId, Option<i64>>,
    },
    /// Records below an offset were deleted.
    Trim {
        /// The partition that was trimmed.
        partition: PartitionId,
        /// The first offset that was to stay.
        offset: i64,
    },
    /// A transaction was begun.
    Begin(NameId),
    /// A transaction was committed.
    Commit(NameId),
    /// A transaction was aborted.
    Abort(NameId),
    /// A message was sent to a queue.
    QueueSend(Box<QueueSendBody>),
    /// A message was published to queues.
    Publish {
        /// The exchange that it was published to.
        exchange: NameId,
        /// The message's value.
        value: ValueId,
        /// The queues that it is for.
        queues: Vec<NameId>,
    },
    /// Messages of a queue were received.
    Receive {
        /// The queue that they came from.
        queue: NameId,
        /// How long their leases last from the call on.
        lease: Option<u64>,
        /// They may have been granted before the call.
        stream: bool,
        /// The messages that came.
        messages: Vec<DeliveredBody>,
    },
    /// A delivery was settled.
    Settle(Box<SettleBody>),
    /// All messages of a queue were dropped.
    Purge(NameId),
    /// Dead letters of a queue went out again.
    Redrive(NameId),
}

impl Body {
    /// The name of the call, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Send(_) => "send",
            Self::Poll { .. } => "poll",
            Self::EndOffset { .. } => "end_offset",
            Self::Assign(_) => "assign",
            Self::Seek(_) => "seek",
            Self::Subscribe(_) => "subscribe",
            Self::CommitOffsets(_) => "commit_offsets",
            Self::FetchOffsets { .. } => "fetch_offsets",
            Self::Trim { .. } => "trim",
            Self::Begin(_) => "begin",
            Self::Commit(_) => "commit",
            Self::Abort(_) => "abort",
            Self::QueueSend(_) => "queue_send",
            Self::Publish { .. } => "publish",
            Self::Receive { .. } => "receive",
            Self::Settle(_) => "settle",
            Self::Purge(_) => "purge",
            Self::Redrive(_) => "redrive",
        }
    }
}
