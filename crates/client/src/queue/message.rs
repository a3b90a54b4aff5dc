//! Messages of a queue, as they are sent and as they come.

use std::time::Duration;

use bytes::Bytes;
use jangada_proto::v1;
use jangada_proto::v1::queue_message::Due as DueMessage;
use jangada_types::Header;

/// A message to send to a queue.
///
/// ```
/// use std::time::Duration;
/// use jangada_client::QueueMessage;
///
/// let message = QueueMessage::new("resize picture 7")
///     .with_header("trace", "af31")
///     .with_delay(Duration::from_secs(30))
///     .with_message_id("picture-7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMessage {
    /// Messages with the same key go out one at a time, in the order in which they were sent; only for queues with
    /// `queue.order=key`.
    pub key: Option<Bytes>,
    /// The content of the message.
    pub body: Bytes,
    /// The message's headers, in this order; a key may appear more than once. None begins with `jangada-`.
    pub headers: Vec<Header>,
    /// When the message may go out first.
    pub due: Due,
    /// The message's priority, below the queue's `queue.priorities`; the highest goes out first.
    pub priority: u32,
    /// An id of the message, 1 to 256 bytes: on a queue with `queue.dedup` a message with the id of another one is not sent again within
    /// `queue.dedup.window.ms`.
    pub message_id: Option<String>,
    /// How long the message may be handed out, since it was sent. `None`: as long as `queue.ttl.ms` says.
    pub ttl: Option<Duration>,
}

/// When a message may go out first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// After the queue's `queue.delay.ms`.
    #[default]
    Default,
    /// After this delay, by the clock of the partition's leader; at most ten years.
    After(Duration),
    /// At this time, milliseconds since the Unix epoch; at most ten years ahead.
    At(u64),
}

impl QueueMessage {
    /// A message with nothing but a body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            key: None,
            body: body.into(),
            headers: Vec::new(),
            due: Due::Default,
            priority: 0,
            message_id: None,
            ttl: None,
        }
    }

    /// Sets the key by which the message has its place in the order.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Appends a header to the message.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Sets how long the message waits before it goes out.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// Sets when the message goes out, milliseconds since the Unix epoch.
    #[must_use]
    pub fn deliver_at(mut self, at_ms: u64) -> Self {
        self.due = Due::At(at_ms);
        self
    }

    /// Sets the message's priority.
    #[must_use]
    pub fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the message's id.
    #[must_use]
    pub fn with_message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Sets how long the message may be handed out.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// What the message takes in a request, roughly, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers = headers.map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len) + 16);
        let of_id = self.message_id.as_ref().map_or(0, String::len);
        64 + self.key.as_ref().map_or(0, Bytes::len) + self.body.len() + of_id + headers.sum::<usize>()
    }

    pub(crate) fn to_wire(&self) -> v1::QueueMessage {
        let header = |header: &Header| v1::RecordHeader {
            key: header.key.clone(),
            value: header.value.clone(),
        };
        v1::QueueMessage {
            key: self.key.clone(),
            body: self.body.clone(),
            headers: self.headers.iter().map(header).collect(),
            due: match self.due {
                Due::Default => None,
                Due::After(delay) => Some(DueMessage::DelayMs(millis(delay))),
                Due::At(at_ms) => Some(DueMessage::DeliverAtMs(at_ms)),
            },
            priority: self.priority,
            message_id: self.message_id.clone(),
            ttl_ms: self.ttl.map(millis),
        }
    }
}

impl QueueMessage {
    pub(crate) fn from_wire(message: v1::QueueMessage) -> Self {
        let header = |header: v1::RecordHeader| Header {
            key: header.key,
            value: header.value,
        };
        Self {
            key: message.key,
            body: message.body,
            headers: message.headers.into_iter().map(header).collect(),
            due: match message.due {
                None => Due::Default,
                Some(DueMessage::DelayMs(delay_ms)) => Due::After(Duration::from_millis(delay_ms)),
                Some(DueMessage::DeliverAtMs(at_ms)) => Due::At(at_ms),
            },
            priority: message.priority,
            message_id: message.message_id,
            ttl: message.ttl_ms.map(Duration::from_millis),
        }
    }
}

/// A time in milliseconds, not 0 for one that is shorter.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// The place of a message in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessagePlace {
    /// The partition's index.
    pub partition: u32,
    /// The message's offset in the partition.
    pub offset: i64,
}

/// A message that was sent: it is on the disks of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// Where it is.
    pub place: MessagePlace,
    /// It was there before, under its message id: the place is that of the first.
    pub duplicate: bool,
}

/// A message that was handed out, without the right to settle it.
///
/// Key, body and header values are slices of the response that they came in: one that is kept keeps all of it in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Names this delivery of the message, for [`Queue::settle`](crate::Queue::settle).
    pub token: Token,
    /// Where it is.
    pub place: MessagePlace,
    /// The key by which it has its place in the order.
    pub key: Option<Bytes>,
    /// The content of the message. `None`: a record without a value, on a queue that reads a topic.
    pub body: Option<Bytes>,
    /// The message's headers, in the sender's order.
    pub headers: Vec<Header>,
    /// When it was sent, milliseconds since the Unix epoch; [`NO_TIMESTAMP`](crate::NO_TIMESTAMP) when it does not say.
    pub timestamp_ms: i64,
    /// The id that its sender gave it.
    pub message_id: Option<String>,
    /// How often it failed.
    pub failures: u32,
    /// How often it was handed out, this time included.
    pub deliveries: u32,
    /// How long it was leased still when it was handed out.
    pub lease_left: Duration,
}

/// Names one delivery of one message. Opaque, and good at any broker and for any process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub Bytes);

impl ReceivedMessage {
    pub(crate) fn from_wire(message: v1::ReceivedMessage) -> Self {
        let header = |header: v1::RecordHeader| Header {
            key: header.key,
            value: header.value,
        };
        Self {
            token: Token(message.token),
            place: MessagePlace {
                partition: message.partition,
                offset: message.offset,
            },
            key: message.key,
            body: message.body,
            headers: message.headers.into_iter().map(header).collect(),
            timestamp_ms: message.timestamp_ms,
            message_id: message.message_id,
            failures: message.failures,
            deliveries: message.deliveries,
            lease_left: Duration::from_millis(message.lease_left_ms),
        }
    }
}

/// What a consumer says of a message that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It failed, and goes out again after the delay, or by the queue's backoff.
    Nack {
        /// How long it waits, at most 12 hours. `None`: as the queue's settings say.
        delay: Option<Duration>,
        /// Whether that counts against `queue.attempts.max`.
        failed: bool,
    },
    /// It is given back, and goes out again at once. That is no failure.
    Release,
    /// It is a dead letter.
    Reject {
        /// A reason for people, at most 256 bytes; it goes to the broker's log.
        reason: String,
    },
    /// It is still being worked on: the lease lasts so long from now on. `None`: as long as the queue's settings say.
    Extend {
        /// How long the lease lasts, at most 12 hours.
        lease: Option<Duration>,
    },
}

impl Settlement {
    pub(crate) fn to_wire(&self) -> v1::settle_item::Settlement {
        use v1::settle_item::Settlement as Wire;
        match self {
            Self::Ack => Wire::Ack(v1::Ack {}),
            Self::Nack { delay, failed } => Wire::Nack(v1::Nack {
                delay_ms: delay.map(millis),
                not_failed: !failed,
            }),
            Self::Release => Wire::Release(v1::Release {}),
            Self::Reject { reason } => Wire::Reject(v1::Reject { reason: reason.clone() }),
            Self::Extend { lease } => Wire::Extend(v1::Extend {
                lease_ms: lease.map_or(0, |lease| u32::try_from(millis(lease)).unwrap_or(u32::MAX)),
            }),
        }
    }
}

/// What became of a message to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is as the consumer said.
    Done,
    /// Nothing becomes of it any more, since before. A success: an earlier try was not answered, or another consumer was faster.
    Already,
    /// It is not the consumer's any more: its lease ran out, and somebody else has it, or it is dead.
    LeaseLost,
}

impl Settled {
    pub(crate) fn from_wire(settled: i32) -> Option<Self> {
        match v1::Settled::try_from(settled).ok()? {
            v1::Settled::Done => Some(Self::Done),
            v1::Settled::Already => Some(Self::Already),
            v1::Settled::LeaseLost => Some(Self::LeaseLost),
            v1::Settled::Unspecified => None,
        }
    }
}

/// What a message of a queue is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// It may go out, or is delayed, or waits for an earlier one of its key.
    Ready,
    /// A consumer has it.
    Leased,
    /// It has failed, and goes out again later.
    Waiting,
    /// It does not go out any more, and is kept.
    Dead,
    /// It is a dead letter on its way to another topic.
    Moving,
}

impl MessageState {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Leased => "leased",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Moving => "moving",
        }
    }

    pub(crate) fn from_wire(state: i32) -> Option<Self> {
        match v1::MessageState::try_from(state).ok()? {
            v1::MessageState::Ready => Some(Self::Ready),
            v1::MessageState::Leased => Some(Self::Leased),
            v1::MessageState::Waiting => Some(Self::Waiting),
            v1::MessageState::Dead => Some(Self::Dead),
            v1::MessageState::Moving => Some(Self::Moving),
            v1::MessageState::Unspecified => None,
        }
    }

    pub(crate) fn to_wire(self) -> v1::MessageState {
        match self {
            Self::Ready => v1::MessageState::Ready,
            Self::Leased => v1::MessageState::Leased,
            Self::Waiting => v1::MessageState::Waiting,
            Self::Dead => v1::MessageState::Dead,
            Self::Moving => v1::MessageState::Moving,
        }
    }
}

/// A message that was shown and not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeekedMessage {
    /// The message, with an empty token.
    pub message: ReceivedMessage,
    /// What it is doing.
    pub state: MessageState,
    /// When that ends, milliseconds since the Unix epoch: the lease of a leased one, the wait of a waiting one, the delay of a ready one.
    /// `None`: it has no end.
    pub until_ms: Option<u64>,
    /// Why it is dead: `attempts`, `rejected`, `expired` or `length`. `None`: it is not.
    pub reason: Option<String>,
    /// When it died, milliseconds since the Unix epoch. `None`: it is not dead.
    pub died_at_ms: Option<u64>,
    /// Why its record cannot be read: only its place and its state are known then. `None`: it was read.
    pub damage: Option<String>,
}
