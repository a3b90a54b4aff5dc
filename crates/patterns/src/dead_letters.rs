//! A topic for records that no attempt could handle: they are out of the way of those behind them, and not lost.

use std::fmt::Display;
use std::sync::Arc;

use jangada_client::{ConsumedRecord, Header, Producer, ProducerRecord};

use crate::error::PatternError;

/// The prefix of the headers that say what became of a dead letter.
const PREFIX: &str = "dead-letter-";

/// A topic for records that could not be handled (Hohpe and Woolf, "Enterprise Integration Patterns", Dead Letter Channel).
///
/// A dead letter is the record as it was, with headers `dead-letter-topic`, `-partition`, `-offset`, `-attempts` and `-reason`. It is on
/// the disks of a quorum before its record counts as finished; after a crash between the two it comes twice, with the same place.
#[derive(Clone)]
pub struct DeadLetters {
    producer: Producer,
    topic: Arc<str>,
}

/// Why a record is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// How often it was tried.
    pub attempts: u32,
    /// A sentence for people.
    pub reason: String,
}

impl Cause {
    /// The cause of what failed so often, with its last error.
    pub fn new(attempts: u32, error: &dyn Display) -> Self {
        Self {
            attempts,
            reason: error.to_string(),
        }
    }
}

impl DeadLetters {
    /// Dead letters that go to a topic, which is there.
    pub fn new(producer: Producer, topic: impl Into<Arc<str>>) -> Self {
        Self {
            producer,
            topic: topic.into(),
        }
    }

    /// The topic that they go to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Puts a record away, and waits until it is on the disks of a quorum.
    ///
    /// # Errors
    /// The errors of [`Producer::send`] and of its delivery.
    pub async fn put(&self, record: &ConsumedRecord, cause: &Cause) -> Result<(), PatternError> {
        let letter = self.letter(record, cause);
        self.producer.send(letter).await?.await?;
        Ok(())
    }

    fn letter(&self, record: &ConsumedRecord, cause: &Cause) -> ProducerRecord {
        let told = [
            ("topic", record.topic.to_string()),
            ("partition", record.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("attempts", cause.attempts.to_string()),
            ("reason", cause.reason.clone()),
        ];
        // One that was a dead letter before tells of its last death only.
        let own = record.headers.iter().filter(|header| !header.key.starts_with(PREFIX));
        let told = told.into_iter().map(|(name, value)| Header {
            key: format!("{PREFIX}{name}"),
            value: Some(value.into()),
        });
        ProducerRecord {
            topic: self.topic.clone(),
            partition: None,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: own.cloned().chain(told).collect(),
            timestamp_ms: None,
        }
    }
}
