//! The queue that a call names.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::{Image, Queue, QueueKind, Topic};
use jangada_queue::engine::Settlement;
use jangada_types::{PartitionIndex, QueueConfig, QueueId, Reason};

use super::token::Token;
use crate::api::call::queues::QueuePartition;
use crate::api::resolve::{self, QueueName};
use crate::error::RequestError;
use crate::target::Target;

/// A queue that is there, with its partitions and settings.
#[derive(Clone, Debug)]
pub(crate) struct QueueRef {
    pub queue: Arc<Queue>,
    pub topic: Arc<Topic>,
    pub config: Arc<QueueConfig>,
}

impl QueueRef {
    /// The queue with that name or id.
    ///
    /// # Errors
    /// UNKNOWN_QUEUE.
    pub fn resolve(image: &Image, wanted: &QueueName) -> Result<Self, RequestError> {
        let queue = resolve::queue(image, wanted)?;
        let topic = image.topic(queue.topic_id).ok_or_else(|| {
            let message = format!("the topic of queue {:?} is not known here", queue.name);
            RequestError::new(Reason::Internal, message)
        })?;
        let config = queue.settings().map_err(|error| {
            let message = format!(
                "queue {:?}: this broker is too old for its settings: {error}",
                queue.name
            );
            RequestError::new(Reason::InvalidConfig, message)
        })?;
        Ok(Self {
            queue: queue.clone(),
            topic: topic.clone(),
            config,
        })
    }

    pub fn id(&self) -> QueueId {
        self.queue.id
    }

    pub fn name(&self) -> &str {
        &self.queue.name
    }

    /// How long messages are leased, if nobody says.
    pub fn lease_ms(&self) -> u64 {
        self.config.lease_ms
    }

    /// Refuses what only a queue with a log of its own takes.
    ///
    /// # Errors
    /// WRONG_QUEUE_KIND.
    pub fn check_owned(&self) -> Result<(), RequestError> {
        if self.queue.kind == QueueKind::Owned {
            return Ok(());
        }
        if self.queue.kind == QueueKind::Bound {
            let message = format!(
                "queue {:?} is a view over the log of an exchange: publish to that, nothing is sent to the queue by itself",
                self.name()
            );
            return Err(RequestError::new(Reason::WrongQueueKind, message));
        }
        let message = format!(
            "queue {:?} reads topic {:?}: what is produced to the topic is in the queue; nothing is sent to it by itself",
            self.name(),
            self.topic.name
        );
        Err(RequestError::new(Reason::WrongQueueKind, message))
    }

    /// The indexes of all its partitions.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionIndex> + use<> {
        let count = u32::try_from(self.topic.partitions.len()).unwrap_or(u32::MAX);
        (0..count).map(PartitionIndex)
    }

    pub fn partition(&self, index: PartitionIndex) -> QueuePartition {
        QueuePartition {
            queue: self.id(),
            index,
        }
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// UNKNOWN_PARTITION.
    pub fn target(&self, index: PartitionIndex) -> Result<Target, RequestError> {
        Target::of(&self.topic, index).ok_or_else(|| {
            let count = self.topic.partitions.len();
            let message = format!(
                "queue {:?} has no partition {index}: it has {count}, counted from 0",
                self.name()
            );
            RequestError::new(Reason::UnknownPartition, message).with("limit", count)
        })
    }

    /// Reads a token. `place`: which one it is in its request, from 0 on.
    ///
    /// # Errors
    /// INVALID_TOKEN.
    pub fn token(&self, bytes: &[u8], place: usize) -> Result<Token, RequestError> {
        Token::decode(bytes, (self.id(), self.name()), self.topic.partitions.len(), place)
    }
}

/// Messages to settle, by their partition, with the place of each in its request.
pub(super) fn by_partition(
    items: Vec<(Token, Settlement)>,
) -> BTreeMap<PartitionIndex, Vec<(usize, Token, Settlement)>> {
    let mut by_partition = BTreeMap::<_, Vec<_>>::new();
    for (place, (token, settlement)) in items.into_iter().enumerate() {
        by_partition
            .entry(token.partition)
            .or_default()
            .push((place, token, settlement));
    }
    by_partition
}
