//! The errors of the client, divided by what the caller can do about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_types::Reason;
use thiserror::Error;
use tonic::Code;

/// An error of the client. Cheap to clone: all records of a failed batch share one.
///
/// [`is_definite`](Self::is_definite) tells whether the request certainly had no effect, [`is_retryable`](Self::is_retryable)
/// whether the same call may succeed later.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A setting or an argument cannot be used: correct it.
    #[error("{0}")]
    Config(String),

    /// The producer was closed before the record was taken, or the consumer has left its group.
    #[error("it is closed")]
    Closed,

    /// The record is larger than its topic or the producer's buffer allows. It is not stored.
    #[error("a record of {size} bytes is too large for topic {topic:?}: at most {limit} bytes; raise {knob}")]
    RecordTooLarge {
        /// The topic that the record was for.
        topic: Arc<str>,
        /// Bytes that the record would take.
        size: usize,
        /// Bytes that are allowed.
        limit: usize,
        /// The setting that holds the limit.
        knob: &'static str,
    },

    /// There is no such topic, or it was deleted.
    #[error("topic {topic:?} does not exist; create it first")]
    UnknownTopic {
        /// The topic's name.
        topic: Arc<str>,
    },

    /// There is no such queue, or it was deleted.
    #[error("queue {queue:?} does not exist; create it first")]
    UnknownQueue {
        /// The queue's name.
        queue: Arc<str>,
    },

    /// There is no such exchange, or it was deleted.
    #[error("exchange {exchange:?} does not exist; create it first")]
    UnknownExchange {
        /// The exchange's name.
        exchange: Arc<str>,
    },

    /// The message was mandatory, and no queue is bound for it: it is nowhere.
    #[error(
        "no queue is bound for routing key {routing_key:?} of exchange {exchange:?}; bind one, or trace the message"
    )]
    Unroutable {
        /// The exchange's name.
        exchange: Arc<str>,
        /// The message's routing key.
        routing_key: Arc<str>,
    },

    /// The message is not this consumer's any more: its lease ran out, and somebody else has it, or it is dead. What was done with it may
    /// be done again.
    #[error("the lease of the message is lost: somebody else has the message, or it is dead")]
    LeaseLost,

    /// The topic has no such partition.
    #[error("topic {topic:?} has no partition {partition}; it has {partitions}, from 0 on")]
    UnknownPartition {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition that was asked for.
        partition: u32,
        /// Number of partitions of the topic.
        partitions: u32,
    },

    /// The offset to read from is not there: retention took it, or it is beyond the end.
    #[error(
        "offset {offset} of {topic}[{partition}] is out of range: it has {log_start_offset} up to {high_watermark}"
    )]
    OffsetOutOfRange {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
        /// The offset that was asked for.
        offset: i64,
        /// The first offset that can be read.
        log_start_offset: i64,
        /// The offset after the last committed record.
        high_watermark: i64,
    },

    /// The request was refused, without effect; the same request will be refused again.
    #[error("{0}")]
    Refused(Arc<Rejection>),

    /// The request was not done, without effect, for as long as it was tried; it may succeed later.
    #[error("{0}")]
    Unavailable(Arc<Rejection>),

    /// Whether the request was done is not known. Doing it again may do it twice.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(Arc<Rejection>),

    /// The records are in the partition, once, but so long ago that the broker no longer tells their offsets.
    #[error("appended before, at offsets that are no longer known: {0}")]
    DuplicateSequence(Arc<Rejection>),

    /// The partition no longer knows the producer: its entry expired. Whether an earlier attempt was appended cannot be told
    /// when [`is_definite`](Self::is_definite) is false.
    #[error("{rejection}")]
    UnknownProducer {
        /// Whether the records are certainly not in the partition.
        definite: bool,
        /// The broker's answer.
        rejection: Arc<Rejection>,
    },

    /// Another producer goes on under this one's id: this one must not write any more.
    #[error("{rejection}")]
    ProducerFenced {
        /// Whether the records are certainly not in the partition.
        definite: bool,
        /// The broker's answer.
        rejection: Arc<Rejection>,
    },

    /// The transaction can only be aborted, or has been: something in it failed. Nothing of it will be seen. Begin another one.
    #[error("the transaction is aborted: {cause}; begin another one")]
    TransactionAborted {
        /// The first thing in it that failed.
        cause: Arc<ClientError>,
    },

    /// The transaction was open for longer than its timeout, and its coordinator aborted it; or an operator did. Nothing of it will be
    /// seen. Begin another one, and make it shorter, or the timeout longer.
    #[error(
        "the transaction was aborted by its coordinator, as it was open for longer than its timeout; begin another one: {0}"
    )]
    TransactionTimedOut(Arc<Rejection>),

    /// Whether the transaction was committed is not known. [`TransactionalProducer::resolve`](crate::TransactionalProducer::resolve) asks;
    /// until then the producer begins no other one.
    #[error("whether the transaction was committed is not known, resolve it: {0}")]
    TransactionUnknown(Arc<Rejection>),

    /// The record's [`Condition`](crate::Condition) did not hold. When [`is_definite`](Self::is_definite) is false an
    /// earlier attempt ended without an answer: its record was not in the partition when the condition was judged, but
    /// may still come.
    #[error("{rejection}")]
    ConditionFailed {
        /// Whether the record is certainly not in the partition.
        definite: bool,
        /// The end offset, or the last offset of the key, as it was found; -1: no record has the key.
        actual: i64,
        /// The broker's answer.
        rejection: Arc<Rejection>,
    },

    /// The broker lacks records of this producer that it had acknowledged: it lost data.
    #[error("the partition lost acknowledged records: {0}")]
    OutOfOrderSequence(Arc<Rejection>),

    /// The group went on without this member, or gave the partition to another one. The offsets were not committed, and
    /// the records since the last commit may be handed out again to another member: undo their effects, or expect them
    /// twice.
    #[error("{0}; records since the last commit may be handed out again elsewhere")]
    MembershipLost(Arc<Rejection>),

    /// The group has no committed offset for the partition, and [`OffsetReset::Error`](crate::OffsetReset::Error) is set. The
    /// partition waits for a seek.
    #[error("group {group:?} has no committed offset for {topic}[{partition}]")]
    NoCommittedOffset {
        /// The group's name.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
    },

    /// A rebalance listener failed to say where partitions begin. It is asked again by the next call.
    #[error("the rebalance listener failed: {0}")]
    Listener(Arc<dyn std::error::Error + Send + Sync>),

    /// Records are missing: the records that a broker sent do not begin where the last ones ended. Nothing behind the
    /// gap is handed out until a seek.
    #[error(
        "records of {topic}[{partition}] are missing: after offset {} comes {found}; the broker that sent them has lost some, or \
         seek to {found} to go on without them",
        expected - 1
    )]
    Gap {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
        /// The offset that comes next.
        expected: i64,
        /// The offset that came instead.
        found: i64,
    },

    /// A broker sent data that cannot be read.
    #[error("unreadable data from {topic}[{partition}] at offset {offset}: {message}")]
    Corrupt {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: u32,
        /// The offset at which reading stopped.
        offset: i64,
        /// A sentence about what is wrong with the data.
        message: String,
    },
}

/// The answer of a broker that did not do what was asked, or the failure to reach one.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The call that failed, and its object: `produce to orders[3]`.
    pub context: String,
    /// The canonical gRPC code.
    pub code: Code,
    /// The broker's reason; `None` when no broker answered, or one that is newer than this client. When brokers answer
    /// but know no leader, the client sets the reason itself.
    pub reason: Option<Reason>,
    /// The message in the broker's words.
    pub message: String,
    /// Delay after which the broker wants to be asked again.
    pub retry_delay: Option<Duration>,
    /// Further values, among them those that a check compared.
    pub metadata: BTreeMap<String, String>,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.context, self.message)?;
        match self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => write!(f, " ({:?})", self.code),
        }
    }
}

impl ClientError {
    /// The broker's answer, if the error comes from one.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Refused(r)
            | Self::Unavailable(r)
            | Self::OutcomeUnknown(r)
            | Self::DuplicateSequence(r)
            | Self::OutOfOrderSequence(r)
            | Self::MembershipLost(r)
            | Self::TransactionTimedOut(r)
            | Self::TransactionUnknown(r) => Some(r),
            Self::TransactionAborted { cause } => cause.rejection(),
            Self::UnknownProducer { rejection, .. }
            | Self::ProducerFenced { rejection, .. }
            | Self::ConditionFailed { rejection, .. } => Some(rejection),
            _ => None,
        }
    }

    /// The broker's reason.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::RecordTooLarge { .. } => Some(Reason::RecordTooLarge),
            Self::UnknownTopic { .. } => Some(Reason::UnknownTopic),
            Self::UnknownQueue { .. } => Some(Reason::UnknownQueue),
            Self::UnknownExchange { .. } => Some(Reason::UnknownExchange),
            Self::Unroutable { .. } => Some(Reason::Unroutable),
            Self::LeaseLost => Some(Reason::LeaseLost),
            Self::UnknownPartition { .. } => Some(Reason::UnknownPartition),
            Self::OffsetOutOfRange { .. } => Some(Reason::OffsetOutOfRange),
            other => other.rejection().and_then(|r| r.reason),
        }
    }

    /// The gRPC code, if the error comes from a broker or from the way to it.
    pub fn code(&self) -> Option<Code> {
        self.rejection().map(|r| r.code)
    }

    /// True: the request had no effect. False: it may have had one.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::OutcomeUnknown(_) | Self::DuplicateSequence(_) | Self::TransactionUnknown(_) => false,
            Self::UnknownProducer { definite, .. }
            | Self::ProducerFenced { definite, .. }
            | Self::ConditionFailed { definite, .. } => *definite,
            _ => true,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::Listener(_))
    }

    /// Delay after which the broker wants to be asked again.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.rejection().and_then(|r| r.retry_delay)
    }
}
