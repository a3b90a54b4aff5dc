//! The topic of the coordinator's shards.

use std::sync::Arc;

use jangada_controller::{Command, Topic, place};
use jangada_env::Random;
use jangada_types::{Reason, TopicId};
use tokio::sync::Mutex;

use super::COORDINATOR_REPLICAS;
use crate::cluster::metadata::Metadata;
use crate::cluster::placement::can_take_replicas;
use crate::error::RequestError;
use crate::replica::LEADER_RETRY;

/// Finds the topic of the coordinator's shards, and creates it once.
pub(crate) struct CoordinatorTopic {
    metadata: Metadata,
    random: Random,
    shards: u32,
    /// Held while the topic is created, so that the first members of a cluster ask for it once.
    creating: Mutex<()>,
}

impl CoordinatorTopic {
    /// It is created with so many shards, if it has to be.
    pub fn new(metadata: Metadata, random: Random, shards: u32) -> Self {
        Self {
            metadata,
            random,
            shards,
            creating: Mutex::new(()),
        }
    }

    /// The topic, which is created for the first who asks.
    pub async fn get(&self) -> Result<Arc<Topic>, RequestError> {
        if let Some(topic) = self.metadata.image().coordinator() {
            return Ok(topic.clone());
        }
        let _one_at_a_time = self.creating.lock().await;
        let image = self.metadata.image();
        if let Some(topic) = image.coordinator() {
            return Ok(topic.clone());
        }
        let replicas = image.broker_views().len().min(COORDINATOR_REPLICAS);
        let brokers = can_take_replicas(&self.metadata.registry, &image, replicas);
        let topic_id = TopicId::from_u128(self.random.new_id().as_u128());
        let seed = u64::from_be_bytes(topic_id.as_bytes()[..8].try_into().expect("eight bytes"));
        let replicas = u32::try_from(replicas).expect("at most three");
        let assignments = place(&brokers, self.shards, replicas, seed).map_err(|error| {
            RequestError::new(Reason::NotReady, format!("the coordinator can't be placed: {error}"))
                .retry_after(LEADER_RETRY)
        })?;
        let command = Command::CreateCoordinator { topic_id, assignments };
        self.metadata.propose(&command).await?;
        let created = self.metadata.image().coordinator().cloned();
        created.ok_or_else(|| RequestError::new(Reason::Internal, "the coordinator was created and is not there"))
    }
}
