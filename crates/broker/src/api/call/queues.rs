//! What only the leader of a queue's partition can do: append messages, hand them out, settle, cancel and show them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_queue::engine::{SettleItem, Settled};
use jangada_queue::{AttemptId, CallId, SessionId};
use jangada_types::{Header, Offset, PartitionIndex, ProducerEpoch, ProducerId, QueueId, Sequence};

use crate::api::queue_messages::NewMessage;
use crate::error::RequestError;
pub(crate) use crate::queues::MessageState;

/// One partition of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePartition {
    pub queue: QueueId,
    pub index: PartitionIndex,
}

/// The transaction that messages are sent or acknowledged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueTransaction {
    pub transactional_id: Arc<str>,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
}

/// Messages that are sent in a transaction, as one batch of its producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SendIn {
    pub transaction: QueueTransaction,
    /// That of the first message.
    pub base_sequence: Sequence,
}

/// Appends messages to a partition.
#[derive(Debug)]
pub(crate) struct SendMessages {
    pub at: QueuePartition,
    pub messages: Vec<NewMessage>,
    pub sends_in: Option<SendIn>,
    /// How long the leader waits for the quorum.
    pub timeout: Duration,
}

/// Appends dead letters of another queue to a partition.
#[derive(Debug)]
pub(crate) struct AppendLetters {
    pub at: QueuePartition,
    /// One record batch of an idempotent producer.
    pub batch: Bytes,
    /// How long the leader waits for the quorum.
    pub timeout: Duration,
}

/// A message that is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentMessage {
    pub partition: PartitionIndex,
    pub offset: Offset,
    /// One with its message id was there before.
    pub duplicate: bool,
}

/// Of each message its place, or why it is not in the queue.
pub(crate) type SendOutcomes = Vec<Result<SentMessage, RequestError>>;

/// Asks once for messages of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveMessages {
    pub at: QueuePartition,
    pub session: SessionId,
    pub attempt: AttemptId,
    /// Which call of it this is: one that is sent again is another. 0: not known.
    pub call: CallId,
    /// What the call was given here is given back, and nothing is answered, unless another call of the attempt has asked for it.
    pub gives_back: bool,
    /// At most so many. 0: only what the same attempt was given before.
    pub messages: u32,
    /// At most so many bytes, but at least one message.
    pub max_bytes: usize,
    /// None: as long as the queue's settings say.
    pub lease_ms: Option<u64>,
    pub wait: Duration,
}

/// A message as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedMessage {
    /// Opaque to clients; empty when the message was only shown.
    pub token: Bytes,
    pub partition: PartitionIndex,
    pub offset: Offset,
    pub key: Option<Bytes>,
    /// None: a record without a value.
    pub body: Option<Bytes>,
    pub headers: Vec<Header>,
    pub timestamp_ms: i64,
    pub message_id: Option<String>,
    pub failures: u16,
    pub deliveries: u16,
    pub lease_left_ms: u64,
}

/// What a receive from a partition came to.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub messages: Vec<ReceivedMessage>,
    /// None came, for consumers have as many as they may: so many. 0: not for that.
    pub in_flight_full: u64,
}

/// Settles messages of a partition.
#[derive(Debug)]
pub(crate) struct SettleMessages {
    pub at: QueuePartition,
    pub items: Vec<SettleItem>,
    /// All of them are acknowledged in it.
    pub transaction: Option<QueueTransaction>,
}

/// What became of each message to settle, or why it was not settled.
pub(crate) type SettleOutcomes = Vec<Result<Settled, RequestError>>;

/// Takes messages of a partition out of the queue that nobody has.
#[derive(Debug)]
pub(crate) struct CancelMessages {
    pub at: QueuePartition,
    pub offsets: Vec<u64>,
}

/// What became of messages to be taken out of the queue.
pub(crate) struct Cancelled(pub SettleOutcomes);

/// Shows messages of a partition.
#[derive(Debug)]
pub(crate) struct PeekMessages {
    pub at: QueuePartition,
    pub from: u64,
    /// Only those in one of these states; empty: in any.
    pub states: Vec<MessageState>,
    pub limit: usize,
    /// At most so many bytes, but at least one message.
    pub max_bytes: usize,
}

/// Messages of a partition that were shown.
#[derive(Debug, Default)]
pub(crate) struct PeekedMessages {
    pub messages: Vec<PeekedMessage>,
    /// Where to look on; none: there are no more.
    pub next: Option<u64>,
}

/// A message that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeekedMessage {
    pub message: ReceivedMessage,
    pub state: MessageState,
    /// When its state ends, milliseconds since the Unix epoch; 0: it has no end.
    pub until_ms: u64,
    /// Why it is dead; empty: it is not.
    pub reason: String,
    /// When it died, milliseconds since the Unix epoch; 0: it is not dead.
    pub died_at_ms: u64,
    /// Why its record cannot be read; empty: it was.
    pub damage: String,
}
