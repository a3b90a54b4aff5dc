//! Records on their way in, and what comes back.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::Header;

/// A record to send.
///
/// ```
/// use jangada_client::ProducerRecord;
///
/// let record = ProducerRecord::new("orders").with_key("customer 7").with_value("a lamp").with_header("trace", "af31");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRecord {
    /// Where it goes. Keep the `Arc` and clone it to send many.
    pub topic: Arc<str>,
    /// `None`: by the hash of the key as in Kafka, or without a key the partition in turn, which changes with each batch.
    pub partition: Option<u32>,
    /// An empty key is a key.
    pub key: Option<Bytes>,
    /// Without one it is a tombstone.
    pub value: Option<Bytes>,
    /// In this order; a key may appear more than once.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch. `None`: now. [`NO_TIMESTAMP`](crate::NO_TIMESTAMP): it has none.
    pub timestamp_ms: Option<i64>,
}

impl ProducerRecord {
    /// A record without key and value.
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }

    /// With a partition.
    #[must_use]
    pub fn with_partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With a value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// With a time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// What must hold for a record to be appended. Judged by the partition's leader, in the order of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The record gets this offset: the partition ends here.
    EndOffset(i64),
    /// The last record with the same key that the partition still has is at this offset; `None`: it has none. Needs a key,
    /// and a topic with `key.index.enable=true`.
    KeyOffset(Option<i64>),
}

/// Where a delivered record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// `None` with [`Acks::None`](crate::Acks::None).
    pub offset: Option<i64>,
    /// Of the record, or of the append on a topic with `message.timestamp.type=LogAppendTime`.
    pub timestamp_ms: i64,
    /// The answer to an earlier attempt had got lost: the offset is that of then.
    pub duplicate: bool,
}
