//! Messages as they are sent: what they may be, and how they become a record batch and its marks. Pure.
//!
//! A message is a record: its body is the value, its key the key. Its id travels in a header of its own, so that consumers see it. What
//! decides when the message goes out, and whether it is a repetition, stands in the marks beside the batch. Plain messages have none.

use bytes::Bytes;
use jangada_queue::{Mark, Marks, SlotSet};
use jangada_types::limits::{QUEUE_DELAY_MS_MAX, QUEUE_LANES};
use jangada_types::queue_config::{Dedup, QueueConfig, QueueOrder};
use jangada_types::{BatchBuilder, Codec, Header, ProducerEpoch, ProducerId, Reason, Sequence};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::RequestError;

/// The header that a message's id travels in.
pub(crate) const MESSAGE_ID_HEADER: &str = "jangada-message-id";
/// The beginning of the names of headers that the broker sets.
const RESERVED_HEADERS: &str = "jangada-";
/// The longest message id, bytes.
const MESSAGE_ID_BYTES_MAX: usize = 256;

/// When a message may go out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// As the queue's settings say.
    Default,
    /// After so many milliseconds, by the leader's clock.
    After(u64),
    /// At this time, milliseconds since the Unix epoch.
    At(u64),
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewMessage {
    pub key: Option<Bytes>,
    pub body: Bytes,
    pub headers: Vec<Header>,
    pub due: Due,
    pub priority: u32,
    pub message_id: Option<String>,
    pub ttl_ms: Option<u64>,
}

fn invalid(message: impl Into<String>) -> RequestError {
    RequestError::new(Reason::InvalidRequest, message)
}

/// The number that stands for a key in the state of a queue. Fixed: it is on disk. 0 is no key's.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key).max(1)
}

/// The number that stands for a message id. Fixed: it is on disk. 0 is no id's.
fn id_hash(id: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(b"id");
    hash.update(id);
    hash.digest128().max(1)
}

/// The number that stands for the content of a message, which is never that of an id by intention.
fn content_hash(key: Option<&[u8]>, body: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(b"content");
    if let Some(key) = key {
        hash.update(&(key.len() as u64).to_be_bytes());
        hash.update(key);
    }
    hash.update(body);
    hash.digest128().max(1)
}

impl NewMessage {
    /// Whether the queue takes such a message. `now_ms`: milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// INVALID_REQUEST: a field is out of its bounds, or the queue has no use for it.
    pub fn check(&self, config: &QueueConfig, now_ms: u64) -> Result<(), RequestError> {
        self.check_fields(config, now_ms)?;
        self.check_headers()
    }

    /// Like [`NewMessage::check`], of all but the names of headers, among which may be those of the broker by now.
    ///
    /// # Errors
    /// INVALID_REQUEST.
    pub fn check_fields(&self, config: &QueueConfig, now_ms: u64) -> Result<(), RequestError> {
        if self.key.is_some() && config.order != QueueOrder::Key {
            let message = "the message has a key, and the queue keeps no order: leave the key out, or make a queue with queue.order=key";
            return Err(invalid(message));
        }
        if self.priority >= u32::from(QUEUE_LANES) || self.priority >= u32::from(config.priorities) {
            let message = format!(
                "priority is {}: the queue has {} (queue.priorities), from 0 on",
                self.priority, config.priorities
            );
            return Err(invalid(message)
                .with("limit", config.priorities - 1)
                .with("actual", self.priority));
        }
        if self.due != Due::Default && config.order == QueueOrder::Key {
            let message = "the message has a delay of its own, and the queue keeps an order, in which one message would hold up all that \
                           were sent after it: set queue.delay.ms instead";
            return Err(invalid(message));
        }
        let delay_ms = match self.due {
            Due::Default => config.delay_ms,
            Due::After(delay_ms) => delay_ms,
            Due::At(at_ms) => at_ms.saturating_sub(now_ms),
        };
        if delay_ms > QUEUE_DELAY_MS_MAX {
            let message = format!("the message is delayed by {delay_ms} ms: at most {QUEUE_DELAY_MS_MAX}, ten years");
            return Err(invalid(message)
                .with("limit", QUEUE_DELAY_MS_MAX)
                .with("actual", delay_ms));
        }
        if let Some(ttl_ms) = self
            .ttl_ms
            .filter(|ttl_ms| *ttl_ms == 0 || *ttl_ms > QUEUE_DELAY_MS_MAX)
        {
            let message = format!("ttl_ms is {ttl_ms}: 1 to {QUEUE_DELAY_MS_MAX}, or absent");
            return Err(invalid(message)
                .with("limit", QUEUE_DELAY_MS_MAX)
                .with("actual", ttl_ms));
        }
        if let Some(ttl_ms) = self.ttl_ms.filter(|ttl_ms| *ttl_ms <= delay_ms) {
            let message =
                format!("ttl_ms is {ttl_ms}, and the message is delayed by {delay_ms} ms: nobody would ever get it");
            return Err(invalid(message).with("limit", delay_ms).with("actual", ttl_ms));
        }
        if let Some(id) = &self.message_id
            && (id.is_empty() || id.len() > MESSAGE_ID_BYTES_MAX)
        {
            let message = format!(
                "message_id has {} bytes: 1 to {MESSAGE_ID_BYTES_MAX}, or absent",
                id.len()
            );
            return Err(invalid(message)
                .with("limit", MESSAGE_ID_BYTES_MAX)
                .with("actual", id.len()));
        }
        Ok(())
    }

    /// Refuses headers that only the broker sets.
    ///
    /// # Errors
    /// INVALID_REQUEST.
    pub fn check_headers(&self) -> Result<(), RequestError> {
        match self
            .headers
            .iter()
            .find(|header| header.key.starts_with(RESERVED_HEADERS))
        {
            Some(header) => {
                let message = format!(
                    "header {:?}: names that begin with {RESERVED_HEADERS:?} are the broker's",
                    header.key
                );
                Err(invalid(message))
            }
            None => Ok(()),
        }
    }

    /// What the message counts for, in memory and against the limits of batches, bytes.
    pub fn bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()));
        let of_id = self
            .message_id
            .as_ref()
            .map_or(0, |id| id.len() + MESSAGE_ID_HEADER.len() + 8);
        BatchBuilder::record_size_max(self.key.as_deref(), Some(&self.body), headers) + of_id
    }

    /// The hash by which repetitions are recognized, if the queue does so; 0: they are not.
    pub fn dedup_hash(&self, config: &QueueConfig) -> u128 {
        match (config.dedup, &self.message_id) {
            (Dedup::None, _) | (Dedup::Id, None) => 0,
            (Dedup::Id | Dedup::Content, Some(id)) => id_hash(id.as_bytes()),
            (Dedup::Content, None) => content_hash(self.key.as_deref(), &self.body),
        }
    }

    /// What decides about the message, for the partition's log. `now_ms`: milliseconds since the Unix epoch.
    fn mark(&self, config: &QueueConfig, now_ms: u64) -> Mark {
        let deliver_at_ms = match self.due {
            Due::Default if config.delay_ms == 0 => 0,
            Due::Default => now_ms.saturating_add(config.delay_ms),
            Due::After(0) => 0,
            Due::After(delay_ms) => now_ms.saturating_add(delay_ms),
            Due::At(at_ms) if at_ms <= now_ms => 0,
            Due::At(at_ms) => at_ms,
        };
        let ttl_ms = self.ttl_ms.or(config.ttl_ms);
        let key = self.key.as_deref().filter(|_| config.order == QueueOrder::Key);
        Mark {
            deliver_at_ms,
            expires_at_ms: ttl_ms.map_or(0, |ttl_ms| now_ms.saturating_add(ttl_ms)),
            key: key.map_or(0, key_hash),
            lane: u8::try_from(self.priority).unwrap_or(QUEUE_LANES - 1),
            id: self.dedup_hash(config),
            slots: SlotSet::ALL,
        }
    }
}

/// A batch of messages, and what stands beside it in the log.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub batch: Bytes,
    /// None: the messages are plain.
    pub marks: Option<Marks>,
}

/// Packs messages into one record batch, uncompressed, with their marks.
///
/// # Errors
/// BATCH_TOO_LARGE, and what else a batch refuses.
pub(crate) fn pack<'a>(
    messages: impl Iterator<Item = &'a NewMessage> + Clone,
    config: &QueueConfig,
    now_ms: u64,
) -> Result<Outgoing, RequestError> {
    pack_as(messages, config, now_ms, None)
}

/// Like [`pack`]; with a producer as a batch of its transaction, of which the first message has this sequence.
///
/// # Errors
/// Those of [`pack`].
pub(crate) fn pack_as<'a>(
    messages: impl Iterator<Item = &'a NewMessage> + Clone,
    config: &QueueConfig,
    now_ms: u64,
    producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
) -> Result<Outgoing, RequestError> {
    let bytes = messages.clone().map(NewMessage::bytes).sum();
    let mut builder = BatchBuilder::with_capacity(Codec::None, bytes);
    if let Some((id, epoch, base_sequence)) = producer {
        builder.producer(id, epoch, base_sequence).transactional();
    }
    let mut marks = Vec::new();
    let timestamp_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
    for message in messages {
        let headers = message.headers.iter();
        let headers = headers.map(|header| (header.key.as_str(), header.value.as_deref()));
        let (key, body) = (message.key.as_deref(), Some(&*message.body));
        match &message.message_id {
            None => builder.append(timestamp_ms, key, body, headers)?,
            Some(id) => {
                let mut headers: Vec<_> = headers.collect();
                headers.push((MESSAGE_ID_HEADER, Some(id.as_bytes())));
                builder.append(timestamp_ms, key, body, headers)?;
            }
        }
        marks.push(message.mark(config, now_ms));
    }
    let is_plain = marks.iter().all(|mark| *mark == Mark::default());
    Ok(Outgoing {
        batch: builder.build(),
        marks: (!is_plain).then_some(Marks(marks)),
    })
}

#[cfg(test)]
mod tests {
    use jangada_types::batch::decode_records;
    use jangada_types::limits::DECOMPRESSED_BYTES_MAX;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn message() -> NewMessage {
        NewMessage {
            key: None,
            body: Bytes::from_static(b"a lamp"),
            headers: Vec::new(),
            due: Due::Default,
            priority: 0,
            message_id: None,
            ttl_ms: None,
        }
    }

    fn all_on() -> QueueConfig {
        QueueConfig {
            order: QueueOrder::Key,
            priorities: 4,
            dedup: Dedup::Id,
            ..QueueConfig::default()
        }
    }

    #[test]
    fn plain_messages_have_no_marks() {
        let messages = [message(), message()];
        let outgoing = pack(messages.iter(), &QueueConfig::default(), NOW_MS).expect("it is packed");
        assert_eq!(outgoing.marks, None);
        let records = decode_records(&outgoing.batch, DECOMPRESSED_BYTES_MAX).expect("a batch");
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].value.as_deref(), Some(&b"a lamp"[..]));
        assert_eq!(records[1].timestamp_ms, NOW_MS as i64);
    }

    #[test]
    fn what_decides_about_a_message_is_in_its_marks() {
        let special = NewMessage {
            key: Some(Bytes::from_static(b"customer 7")),
            due: Due::After(500),
            priority: 3,
            message_id: Some("order-1".to_owned()),
            ttl_ms: Some(9_000),
            ..message()
        };
        let messages = [message(), special];
        let outgoing = pack(messages.iter(), &all_on(), NOW_MS).expect("it is packed");
        let marks = outgoing.marks.expect("one is special").0;
        assert_eq!(marks[0], Mark::default());
        assert_eq!(marks[1].deliver_at_ms, NOW_MS + 500);
        assert_eq!(marks[1].expires_at_ms, NOW_MS + 9_000);
        assert_eq!(marks[1].key, key_hash(b"customer 7"));
        assert_eq!(marks[1].lane, 3);
        assert_eq!(marks[1].id, messages[1].dedup_hash(&all_on()));
        assert_ne!(marks[1].id, 0);
        let records = decode_records(&outgoing.batch, DECOMPRESSED_BYTES_MAX).expect("a batch");
        assert_eq!(records[1].headers[0].key, MESSAGE_ID_HEADER);
    }

    #[test]
    fn the_queues_settings_stand_in_for_what_a_message_does_not_say() {
        let config = QueueConfig {
            delay_ms: 200,
            ttl_ms: Some(5_000),
            ..QueueConfig::default()
        };
        let past = NewMessage {
            due: Due::At(NOW_MS - 1),
            ..message()
        };
        let messages = [message(), past];
        let marks = pack(messages.iter(), &config, NOW_MS)
            .expect("it is packed")
            .marks
            .expect("all have some")
            .0;
        assert_eq!(marks[0].deliver_at_ms, NOW_MS + 200);
        assert_eq!(marks[0].expires_at_ms, NOW_MS + 5_000);
        assert_eq!(marks[1].deliver_at_ms, 0, "what was due before goes out at once");
    }

    #[test]
    fn hashes_are_fixed() {
        // They are on disk: other values would let repetitions through, and mix the order of keys.
        assert_eq!(key_hash(b"customer 7"), xxh3_64(b"customer 7"));
        let with_id = |id: &str| NewMessage {
            message_id: Some(id.to_owned()),
            ..message()
        };
        let by_content = QueueConfig {
            dedup: Dedup::Content,
            ..all_on()
        };
        assert_eq!(with_id("a").dedup_hash(&all_on()), with_id("a").dedup_hash(&by_content));
        assert_ne!(with_id("a").dedup_hash(&all_on()), with_id("b").dedup_hash(&all_on()));
        assert_eq!(message().dedup_hash(&all_on()), 0);
        assert_ne!(message().dedup_hash(&by_content), 0);
        assert_eq!(with_id("a").dedup_hash(&QueueConfig::default()), 0);
    }

    #[test]
    fn what_the_queue_has_no_use_for_is_refused_by_name() {
        let with = |change: fn(&mut NewMessage)| {
            let mut message = message();
            change(&mut message);
            message
        };
        let plain = QueueConfig::default();
        for (message, named) in [
            (
                with(|message| message.key = Some(Bytes::from_static(b"k"))),
                "queue.order",
            ),
            (with(|message| message.priority = 1), "queue.priorities"),
            (
                with(|message| message.due = Due::After(QUEUE_DELAY_MS_MAX + 1)),
                "delayed",
            ),
            (with(|message| message.due = Due::At(u64::MAX)), "delayed"),
            (with(|message| message.ttl_ms = Some(0)), "ttl_ms"),
            (
                with(|message| (message.due, message.ttl_ms) = (Due::After(10), Some(10))),
                "nobody",
            ),
            (with(|message| message.message_id = Some(String::new())), "message_id"),
            (with(|message| message.message_id = Some("x".repeat(257))), "message_id"),
            (
                with(|message| {
                    message.headers.push(Header {
                        key: "jangada-dead-id".to_owned(),
                        value: None,
                    });
                }),
                "header",
            ),
        ] {
            let error = message.check(&plain, NOW_MS).expect_err("it has no use for it");
            assert_eq!(error.reason, Reason::InvalidRequest);
            assert!(error.message.contains(named), "{error}");
        }
        message().check(&plain, NOW_MS).expect("a plain message");
        let special = NewMessage {
            key: Some(Bytes::new()),
            priority: 3,
            ..message()
        };
        special
            .check(&all_on(), NOW_MS)
            .expect("the queue has a use for all of it");
    }
}
