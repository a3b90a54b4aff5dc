//! What clients call and are answered, as a history has it: the fields of the JSON lines, and what a test hands to a
//! [`Recorder`](crate::Recorder).
//!
//! Offsets count records from 0 on, times are nanoseconds on one monotonic clock, lengths of time are nanoseconds. A partition is named
//! by one text, by habit `topic/number`. Fields that are left out have their default, which stands at each.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// The value of a record or message: text, unique in its partition or queue. In JSON also a whole number, which is the same as its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Value(pub String);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value: a text or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Value, E> {
                Ok(Value(text))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value(number.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn is_yes(it: &bool) -> bool {
    *it
}

fn is_no(it: &bool) -> bool {
    !*it
}

fn is_one(it: &u32) -> bool {
    *it == 1
}

/// Which records a read is to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Those of committed transactions, and those of none.
    #[default]
    Committed,
    /// All that are in the log, those of aborted transactions too.
    Uncommitted,
}

/// A record is sent to a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// The partition that the record is sent to.
    pub partition: String,
    /// The record's value, unique in the partition. A tombstone has one too, a name for the history.
    pub value: Value,
    /// The record's key; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The record deletes its key; no by default.
    #[serde(default, skip_serializing_if = "is_no")]
    pub tombstone: bool,
    /// A retry lands once; yes by default.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub idempotent: bool,
    /// The record is appended only at this offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_end_offset: Option<i64>,
    /// The record is appended only if the last record of its key is at this offset; -1: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_key_offset: Option<i64>,
    /// The transaction that the record is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
}

impl Send {
    /// A record without key and transaction, by an idempotent producer.
    pub fn new(partition: &str, value: impl Into<Value>) -> Self {
        Self {
            partition: partition.to_owned(),
            value: value.into(),
            key: None,
            tombstone: false,
            idempotent: true,
            expected_end_offset: None,
            expected_key_offset: None,
            transaction: None,
        }
    }
}

/// A message is sent to a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSend {
    /// The queue's name.
    pub queue: String,
    /// The message's value, unique in the queue.
    pub value: Value,
    /// The key whose messages go out in order, one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// By which the queue recognizes a repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The message's lane; a higher one goes out first. 0 by default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    /// The message does not go out before this time of the history's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// The message may expire; no by default.
    #[serde(default, skip_serializing_if = "is_no")]
    pub expires: bool,
    /// The transaction that the message is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
}

fn is_zero(it: &u32) -> bool {
    *it == 0
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// The message is done.
    Ack,
    /// The message failed, and goes out again later.
    Nack,
    /// The message is put off, which is no failure.
    PutOff,
    /// The message goes out again at once.
    Release,
    /// The message is a dead letter.
    Reject,
    /// The lease lasts longer.
    Extend,
    /// The message is taken out of the queue by its sender.
    Cancel,
}

/// A delivery is settled, or a message is cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    /// The queue's name.
    pub queue: String,
    /// The message's value.
    pub value: Value,
    /// The lease of the delivery; of a cancelled message there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// What is to become of the message.
    pub settlement: Settlement,
    /// How long an extended lease lasts from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extend: Option<u64>,
    /// The transaction that an acknowledgement is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
}

/// What a client asks for. Its name in JSON is the field `op`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Sends a record; answered by [`Reply::Sent`].
    Send(Send),
    /// Reads the next records; answered by [`Reply::Polled`].
    Poll {
        /// Which records it is to show.
        #[serde(default)]
        isolation: Isolation,
        /// The transaction that reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transaction: Option<String>,
    },
    /// Asks for the offset behind the last record; answered by [`Reply::Offset`].
    EndOffset {
        /// The partition that is asked for.
        partition: String,
        /// Uncommitted: the high watermark. Committed: the last stable offset.
        #[serde(default)]
        isolation: Isolation,
    },
    /// The process reads these partitions from now on, from any position.
    Assign {
        /// The partitions that it reads.
        partitions: Vec<String>,
    },
    /// The process reads this partition from another position.
    Seek {
        /// The partition whose position changes.
        partition: String,
    },
    /// The process takes part in a group, which assigns it partitions: [`Note::Rebalance`].
    Subscribe {
        /// The group's name.
        group: String,
    },
    /// Commits offsets of a group.
    CommitOffsets {
        /// The group's name.
        group: String,
        /// The next offset to read, by partition.
        offsets: BTreeMap<String, i64>,
        /// The member's epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<i64>,
        /// The transaction that the offsets are of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transaction: Option<String>,
        /// The offsets may be lower than those before; no by default.
        #[serde(default, skip_serializing_if = "is_no")]
        rewind: bool,
    },
    /// Asks for the committed offsets of a group; answered by [`Reply::Offsets`].
    FetchOffsets {
        /// The group's name.
        group: String,
    },
    /// Deletes records below an offset.
    Trim {
        /// The partition that is trimmed.
        partition: String,
        /// The first offset that stays.
        offset: i64,
    },
    /// Begins a transaction, which has this name in this history alone.
    Begin {
        /// The transaction's name, for example `producer/epoch/sequence`.
        transaction: String,
    },
    /// Commits a transaction.
    Commit {
        /// The transaction's name.
        transaction: String,
    },
    /// Aborts a transaction.
    Abort {
        /// The transaction's name.
        transaction: String,
    },
    /// Sends a message to a queue; answered by [`Reply::Placed`].
    QueueSend(QueueSend),
    /// Publishes a message to an exchange, to be in all of these queues.
    Publish {
        /// The exchange's name.
        exchange: String,
        /// The message's value, unique in each of the queues.
        value: Value,
        /// The queues that are bound for it.
        queues: Vec<String>,
    },
    /// Receives messages of a queue; answered by [`Reply::Received`].
    Receive {
        /// The queue's name.
        queue: String,
        /// How long the lease lasts at least from the call on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<u64>,
        /// Messages come by themselves on a stream: they may have been granted before the call; no by default.
        #[serde(default, skip_serializing_if = "is_no")]
        stream: bool,
    },
    /// Settles a delivery, or cancels a message; answered by [`Reply::Settled`].
    Settle(Settle),
    /// Drops all messages of a queue.
    Purge {
        /// The queue's name.
        queue: String,
    },
    /// Lets dead letters of a queue go out again with no failures counted.
    Redrive {
        /// The queue's name.
        queue: String,
    },
}

impl Call {
    /// The call's name, as the field `op` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Send(_) => "send",
            Self::Poll { .. } => "poll",
            Self::EndOffset { .. } => "end_offset",
            Self::Assign { .. } => "assign",
            Self::Seek { .. } => "seek",
            Self::Subscribe { .. } => "subscribe",
            Self::CommitOffsets { .. } => "commit_offsets",
            Self::FetchOffsets { .. } => "fetch_offsets",
            Self::Trim { .. } => "trim",
            Self::Begin { .. } => "begin",
            Self::Commit { .. } => "commit",
            Self::Abort { .. } => "abort",
            Self::QueueSend(_) => "queue_send",
            Self::Publish { .. } => "publish",
            Self::Receive { .. } => "receive",
            Self::Settle(_) => "settle",
            Self::Purge { .. } => "purge",
            Self::Redrive { .. } => "redrive",
        }
    }
}

/// A record of a read: its offset and value. No value: the place of a transaction's marker.
pub type Record = (i64, Option<Value>);

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivered {
    /// The message's value.
    pub value: Value,
    /// The token of this delivery, which no other delivery has.
    pub lease: String,
    /// Which delivery of the message it is, from 1 on; 0: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// How often the message had failed before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// The schedule that sent the message, and which of its occurrences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurrence: Option<(String, u64)>,
}

/// What a call is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// It is done, and there is nothing more to say.
    Done(Done),
    /// The record is at this offset.
    Sent(Sent),
    /// The records that were read.
    Polled(Polled),
    /// An offset that was asked for.
    Offset(Offset),
    /// The committed offsets of a group.
    Offsets(Offsets),
    /// The message's place.
    Placed(Placed),
    /// The messages that came.
    Received(Received),
    /// The message is settled.
    Settled(Settled),
}

/// An answer without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {}

/// The answer to [`Call::Send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The record's offset.
    pub offset: i64,
    /// How often it was tried; once by default.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempts: u32,
}

/// The answer to [`Call::Poll`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Polled {
    /// The records by partition, in the order in which they came.
    pub reads: BTreeMap<String, Vec<Record>>,
}

/// The answer to [`Call::EndOffset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offset {
    /// The offset behind the last record.
    pub offset: i64,
}

/// The answer to [`Call::FetchOffsets`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offsets {
    /// The committed offsets by partition; none: nothing is committed.
    pub offsets: BTreeMap<String, Option<i64>>,
}

/// The answer to [`Call::QueueSend`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The partition of the queue that has the message.
    pub partition: u32,
    /// The message's offset there.
    pub offset: i64,
}

/// The answer to [`Call::Receive`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// The messages in the order in which they came.
    pub messages: Vec<Delivered>,
}

/// The answer to [`Call::Settle`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// It was done before, by an earlier try or by another consumer; no by default.
    #[serde(default, skip_serializing_if = "is_no")]
    pub already: bool,
}
