//! An event, and the envelope that it travels in.

use bytes::Bytes;
use jangada_client::{ConsumedRecord, ProducerRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::attributes::Attributes;
use super::upcasters::Upcasters;
use crate::error::PatternError;

/// Something that has happened: a fact with a name, in the past tense.
///
/// ```
/// use jangada_patterns::events::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderPaid { order: String, cents: u64 }
///
/// impl Event for OrderPaid {
///     const TYPE: &'static str = "shop.order.paid";
///
///     fn key(&self) -> String {
///         self.order.clone()
///     }
/// }
/// ```
pub trait Event: Serialize + DeserializeOwned + Send + 'static {
    /// Its name among all events, `ce_type`: with a prefix that nobody else uses.
    const TYPE: &'static str;

    /// The version of its fields, `ce_schemaversion`; [`Upcasters`] bring older ones up to it.
    const VERSION: u32 = 1;

    /// What it is about: events with the same key are handled in the order in which they were published.
    fn key(&self) -> String;
}

/// An event with what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<E> {
    /// Names the event among those of its source (`ce_id`). Whoever publishes it again gives it the same id.
    pub id: String,
    /// Who published it, a URI reference (`ce_source`).
    pub source: String,
    /// When it happened, milliseconds since the Unix epoch (`ce_time`).
    pub time_ms: i64,
    /// The version in which it was written; the event has been brought up to [`Event::VERSION`] since.
    pub version: u32,
    /// The event itself.
    pub event: E,
}

impl<E: Event> Envelope<E> {
    /// The record of the event, for a producer, a transaction or an [outbox](crate::outbox).
    ///
    /// # Errors
    /// [`PatternError::Config`] when the event cannot be written as JSON.
    pub fn to_record(&self, topic: &str) -> Result<ProducerRecord, PatternError> {
        let attributes = Attributes {
            id: self.id.clone(),
            source: self.source.clone(),
            event_type: E::TYPE.to_owned(),
            time_ms: Some(self.time_ms),
            version: self.version,
        };
        let data = serde_json::to_vec(&self.event);
        let data = data.map_err(|error| PatternError::Config(format!("{} cannot be written: {error}", E::TYPE)))?;
        let mut record = ProducerRecord::new(topic).with_key(self.event.key()).with_value(data);
        record.headers = attributes.to_headers();
        record.timestamp_ms = Some(self.time_ms);
        Ok(record)
    }

    /// The event of a record, brought up to the newest version.
    ///
    /// # Errors
    /// [`PatternError::Unreadable`].
    pub fn of_record(record: &ConsumedRecord, upcasters: &Upcasters) -> Result<Self, PatternError> {
        let unreadable = |why: String| PatternError::Unreadable {
            what: format!("{}[{}] at offset {}", record.topic, record.partition, record.offset),
            why,
        };
        let attributes = Attributes::of_headers(&record.headers).map_err(unreadable)?;
        let data = record.value.as_ref().map_or(&[][..], Bytes::as_ref);
        Self::read(attributes, data, record.timestamp_ms, upcasters).map_err(unreadable)
    }

    fn read(attributes: Attributes, data: &[u8], timestamp_ms: i64, upcasters: &Upcasters) -> Result<Self, String> {
        if attributes.event_type != E::TYPE {
            return Err(format!("it is a {}, not a {}", attributes.event_type, E::TYPE));
        }
        let written = serde_json::from_slice(data).map_err(|error| format!("its data is not JSON: {error}"))?;
        let newest = upcasters.bring_up(E::TYPE, (attributes.version, E::VERSION), written)?;
        let event = serde_json::from_value(newest).map_err(|error| format!("its data is no {}: {error}", E::TYPE))?;
        Ok(Self {
            id: attributes.id,
            source: attributes.source,
            time_ms: attributes.time_ms.unwrap_or(timestamp_ms),
            version: attributes.version,
            event,
        })
    }
}
