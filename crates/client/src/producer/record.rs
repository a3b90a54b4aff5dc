//! The records that a producer takes, and the metadata of those that were delivered.

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
    /// The record's topic. Keep the `Arc` and clone it to send many.
    pub topic: Arc<str>,
    /// The record's partition. `None`: by the hash of the key as in Kafka, or without a key the partition in turn,
    /// which changes with each batch.
    pub partition: Option<u32>,
    /// The record's key; an empty key is a key.
    pub key: Option<Bytes>,
    /// The record's value. `None`: the record is a tombstone.
    pub value: Option<Bytes>,
    /// The record's headers, in this order; a key may appear more than once.
    pub headers: Vec<Header>,
    /// The record's time, milliseconds since the Unix epoch. `None`: now. [`NO_TIMESTAMP`](crate::NO_TIMESTAMP): it has
    /// none.
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

    /// Sets the record's partition.
    #[must_use]
    pub fn with_partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the record's key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the record's value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Appends a header to the record.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Sets the record's time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// A condition that must hold for a record to be appended. The partition's leader judges it, in the order of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The record gets this offset: the partition ends here.
    EndOffset(i64),
    /// The last record with the same key that the partition still has is at this offset; `None`: it has none. Needs a key,
    /// and a topic with `key.index.enable=true`.
    KeyOffset(Option<i64>),
}

/// The place where a delivered record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: u32,
    /// The record's offset. `None` with [`Acks::None`](crate::Acks::None).
    pub offset: Option<i64>,
    /// The time of the record, or of the append on a topic with `message.timestamp.type=LogAppendTime`.
    pub timestamp_ms: i64,
    /// Whether the record was in the log already, from an attempt whose answer got lost: the offset is that of then.
    pub duplicate: bool,
}
