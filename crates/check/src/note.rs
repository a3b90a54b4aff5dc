//! What a history has beside calls: settings, assignments, faults, and what is there when all is over. Each is one event, not two.

use serde::{Deserialize, Serialize};

use crate::call::{Isolation, Record, Value};

fn is_no(it: &bool) -> bool {
    !*it
}

/// What is noted in one event. Its name in JSON is the field `op`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Note {
    /// Settings of a partition that are not the defaults.
    Partition(PartitionSettings),
    /// Settings of a queue.
    Queue(QueueSettings),
    /// A group has assigned these partitions to the process, which no longer has others.
    Rebalance {
        /// The group's name.
        group: String,
        /// The member's epoch.
        epoch: i64,
        /// The partitions that the process has from now on.
        partitions: Vec<String>,
    },
    /// The process has ended, or its session has: it holds no leases and no partitions.
    Leave {},
    /// A step of a fault.
    Fault(Fault),
    /// A part of what is in a partition when all is over.
    Final(Final),
    /// A part of what is in a queue when all is over.
    Dump(Dump),
}

/// Settings of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionSettings {
    /// The partition's name.
    pub partition: String,
    /// Of each key only the last record need stay.
    #[serde(default, skip_serializing_if = "is_no")]
    pub compacted: bool,
    /// Retention may delete the oldest records.
    #[serde(default, skip_serializing_if = "is_no")]
    pub retention: bool,
    /// Others write to it, whose sends are not in the history, for example a queue its dead letters.
    #[serde(default, skip_serializing_if = "is_no")]
    pub foreign: bool,
    /// A reader that is no further behind than this sees each deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_retention: Option<u64>,
}

/// Settings of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// The queue's name.
    pub queue: String,
    /// A message that failed so often is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Messages of a key go out in order, one at a time.
    #[serde(default, skip_serializing_if = "is_no")]
    pub ordered: bool,
    /// The highest priority goes out first, without a share for lower ones.
    #[serde(default, skip_serializing_if = "is_no")]
    pub strict: bool,
    /// For so long a message id is recognized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<u64>,
    /// The queue that gets the dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<String>,
    /// No occurrence of its schedules may be left out.
    #[serde(default, skip_serializing_if = "is_no")]
    pub every_occurrence: bool,
}

/// The step that a fault has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultPhase {
    /// It was ordered.
    Begin,
    /// It was seen to act: the process is dead, the packet was dropped.
    TookEffect,
    /// It is over.
    End,
}

/// A step of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The name of this one fault, the same in all of its steps.
    pub fault: String,
    /// The kind of fault, for example `kill`, `partition`, `clock`.
    pub kind: String,
    /// The step that it has come to.
    pub phase: FaultPhase,
    /// The node, link or disk that it acts on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// A part of what is in a partition when all is over: read from the log's start by a new client, or from one replica's own log. Large logs
/// come in several parts, in order; the last one has `complete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Final {
    /// The partition's name.
    pub partition: String,
    /// The replica whose own log it is; none: a client read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// Which records it shows.
    #[serde(default)]
    pub isolation: Isolation,
    /// The first offset that may be there.
    #[serde(default)]
    pub log_start: i64,
    /// The offset behind the last record of all (the high watermark).
    pub end: i64,
    /// The last stable offset; the same as `end` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<i64>,
    /// The next offset that the reader would read; the same as `end` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
    /// It is the last part.
    #[serde(default, skip_serializing_if = "is_no")]
    pub complete: bool,
    /// The records in order.
    pub records: Vec<Record>,
}

/// What a message's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// It may go out, now or when its time has come.
    Ready,
    /// A consumer has it.
    Leased,
    /// It failed, and waits for its next attempt.
    Waiting,
    /// It is a dead letter.
    Dead,
}

/// A message that is in a queue when all is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The message's value.
    pub value: Value,
    /// What its state is.
    pub state: MessageState,
    /// The partition that it is in.
    #[serde(default)]
    pub partition: u32,
    /// Its offset there.
    pub offset: i64,
    /// How often it has failed.
    #[serde(default)]
    pub failures: u32,
}

/// Numbers of messages by state, as the queue itself counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Messages that may go out.
    pub ready: u64,
    /// Messages that consumers have.
    pub leased: u64,
    /// Messages that wait for their next attempt.
    pub waiting: u64,
    /// Messages that are dead letters.
    pub dead: u64,
}

/// A part of what is in a queue when all is over, as [`Final`] is of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    /// The queue's name.
    pub queue: String,
    /// The replica whose own state it is; none: a client asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The messages that are there.
    pub messages: Vec<Held>,
    /// What the queue itself counts; not compared if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// By partition: the offset below which all is done, and the first offset of the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floors: Vec<Floor>,
    /// It is the last part.
    #[serde(default, skip_serializing_if = "is_no")]
    pub complete: bool,
}

/// The watermarks of one partition of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// The partition's number.
    pub partition: u32,
    /// Everything below is done.
    pub floor: i64,
    /// The first offset of the partition's log; none: the log is another topic's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_start: Option<i64>,
}
