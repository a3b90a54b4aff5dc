//! What desks need of their broker beyond their own partition: the topics that dead letters go to, and the end of a queue that nobody
//! uses. The api does it ([`crate::api::beyond_desks`]).

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use jangada_types::{PartitionIndex, ProducerId, QueueId, TopicId};

use crate::error::RequestError;

/// The partition of another topic, or of another queue, that takes dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetterTarget {
    pub topic: TopicId,
    /// The name that the topic has, for people.
    pub name: Arc<str>,
    pub index: PartitionIndex,
    /// The largest batch that it takes, bytes.
    pub batch_bytes_max: usize,
}

/// How a target is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetWanted<'a> {
    /// The topic or queue that has this name now, and of its partitions the one for letters of a partition with this index.
    Named(&'a str, PartitionIndex),
    /// A partition that was found before, if the topic is still the same one.
    Known(TopicId, PartitionIndex),
}

/// The broker of a desk, as the desk sees it.
pub(crate) trait BeyondDesk: Send + Sync {
    /// A producer id that nobody else has or had.
    fn new_producer(&self) -> BoxFuture<'_, Result<ProducerId, RequestError>>;

    /// The partition that takes dead letters.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, UNKNOWN_PARTITION: it is not there, as far as this broker knows. WRONG_QUEUE_KIND: the queue reads a topic.
    fn target(&self, wanted: TargetWanted<'_>) -> Result<DeadLetterTarget, RequestError>;

    /// Appends a batch of an idempotent producer, wherever the target is led. Ok: it is in its log, now or since an earlier try.
    ///
    /// # Errors
    /// Those of `Produce` in the contract, and QUEUE_FULL.
    fn append<'a>(&'a self, to: &'a DeadLetterTarget, batch: Bytes) -> BoxFuture<'a, Result<(), RequestError>>;

    /// Deletes a queue if the leaders of all of its partitions say that nobody uses it. `expires_ms`: the setting that its leaders went
    /// by. True: it is gone, or somebody uses it. False: that could not be found out.
    fn expire(&self, queue: QueueId, expires_ms: u64) -> BoxFuture<'_, bool>;
}
