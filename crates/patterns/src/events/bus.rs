//! Publishes events to a topic.

use std::sync::Arc;

use jangada_client::{Env, Producer, RecordMetadata};

use super::event::{Envelope, Event};
use crate::error::PatternError;

/// Publishes events of one source to one topic. Clones share the producer.
///
/// ```no_run
/// # use jangada_patterns::events::{Event, EventBus};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct OrderPaid { order: String, cents: u64 }
/// # impl Event for OrderPaid {
/// #     const TYPE: &'static str = "shop.order.paid";
/// #     fn key(&self) -> String { self.order.clone() }
/// # }
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_patterns::PatternError> {
/// use jangada_client::{Env, ProducerConfig};
///
/// let bus = EventBus::new(client.producer(ProducerConfig::default())?, "orders", "/shop/tills/3", Env::system());
/// bus.publish(OrderPaid { order: "o-7".to_owned(), cents: 1_999 }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EventBus {
    producer: Producer,
    topic: Arc<str>,
    source: Arc<str>,
    env: Env,
}

impl EventBus {
    /// A bus to a topic that is there. `source` says who publishes, a URI reference.
    pub fn new(producer: Producer, topic: impl Into<Arc<str>>, source: impl Into<Arc<str>>, env: Env) -> Self {
        Self {
            producer,
            topic: topic.into(),
            source: source.into(),
            env,
        }
    }

    /// The topic that events go to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The event in an envelope of this source, with this id and the time now.
    pub fn envelope<E: Event>(&self, id: impl Into<String>, event: E) -> Envelope<E> {
        Envelope {
            id: id.into(),
            source: self.source.to_string(),
            time_ms: self.env.clock.now_ms(),
            version: E::VERSION,
            event,
        }
    }

    /// Publishes an event under a new id, and waits until it is on the disks of a quorum.
    ///
    /// # Errors
    /// [`PatternError::Client`]. When the outcome is unknown, publishing again may publish twice: [`publish_as`](Self::publish_as) is for
    /// that.
    pub async fn publish<E: Event>(&self, event: E) -> Result<RecordMetadata, PatternError> {
        self.publish_as(self.env.random.new_id().to_string(), event).await
    }

    /// Publishes an event under an id of the caller's, and waits until it is on the disks of a quorum. Who publishes it again, also after a
    /// crash, does so under the same id, and subscribers that remember what they have [seen](super::SeenEvents) handle it once.
    ///
    /// # Errors
    /// [`PatternError::Client`].
    pub async fn publish_as<E: Event>(&self, id: impl Into<String>, event: E) -> Result<RecordMetadata, PatternError> {
        let record = self.envelope(id, event).to_record(&self.topic)?;
        Ok(self.producer.send(record).await?.await?)
    }
}
