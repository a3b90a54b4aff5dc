//! Producers of the queues that are sent to, opened when they are first needed.

use std::collections::BTreeMap;

use jangada_client::{Client, ClientError, QueueMessage, QueueProducer, QueueProducerConfig};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::error::PatternError;

pub(super) struct Senders {
    client: Client,
    producers: Mutex<BTreeMap<String, QueueProducer>>,
}

impl Senders {
    pub fn new(client: &Client) -> Self {
        let client = client.clone();
        let producers = Mutex::default();
        Self { client, producers }
    }

    /// Sends a message, which is on the disks of a quorum when this returns.
    pub async fn send(&self, queue: &str, message: QueueMessage) -> Result<(), PatternError> {
        let producer = self.producer(queue).await?;
        producer.send(message).await?;
        Ok(())
    }

    async fn producer(&self, queue: &str) -> Result<QueueProducer, ClientError> {
        let mut producers = self.producers.lock().await;
        if let Some(producer) = producers.get(queue) {
            return Ok(producer.clone());
        }
        let opened = self
            .client
            .queue_producer(queue, QueueProducerConfig::default())
            .await?;
        producers.insert(queue.to_owned(), opened.clone());
        Ok(opened)
    }
}

/// A message with this as its body, in JSON.
pub(super) fn message_of(what: &str, body: &impl Serialize) -> Result<QueueMessage, PatternError> {
    let body = serde_json::to_vec(body).map_err(|error| PatternError::Unreadable {
        what: what.to_owned(),
        why: error.to_string(),
    })?;
    Ok(QueueMessage::new(body))
}
