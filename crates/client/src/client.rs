//! The entry point: a handle on one cluster, from which producers, consumers and the admin come.

use std::sync::Arc;

use jangada_env::Env;

use crate::admin::Admin;
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::consumer::{Consumer, ConsumerConfig};
use crate::error::ClientError;
use crate::exchange::{Publisher, PublisherConfig};
use crate::group::{GroupConfig, GroupConsumer, RebalanceListener};
use crate::isolation::Isolation;
use crate::metadata::TopicMetadata;
use crate::offset_at::{ListedOffset, OffsetAt};
use crate::producer::{Producer, ProducerConfig};
use crate::queue::{Queue, QueueConsumer, QueueConsumerConfig, QueueProducer, QueueProducerConfig};

/// A handle on a cluster. Clones share connections and metadata.
#[derive(Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
}

impl Client {
    /// Checks the settings and asks the brokers for metadata until one answers.
    ///
    /// # Errors
    /// [`ClientError::Config`]; [`ClientError::Unavailable`] when no broker answers within `retry_timeout`.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        Self::connect_in(config, Env::system()).await
    }

    /// Like [`connect`](Self::connect), with the wall clock, the chance and the network of `env`: for simulations.
    ///
    /// # Errors
    /// The errors of [`connect`](Self::connect).
    pub async fn connect_in(config: ClientConfig, env: Env) -> Result<Self, ClientError> {
        config.check()?;
        let cluster = Arc::new(Cluster::new(config, env));
        cluster.bootstrap().await?;
        Ok(Self { cluster })
    }

    /// What producers, consumers and the admin of this client share.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// A producer with a task of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Config`] for settings that contradict each other.
    pub fn producer(&self, config: ProducerConfig) -> Result<Producer, ClientError> {
        Producer::start(self.cluster.clone(), config)
    }

    /// A consumer without partitions as yet.
    ///
    /// # Errors
    /// [`ClientError::Config`] for settings out of bounds.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        Consumer::new(self.cluster.clone(), config)
    }

    /// A member of a consumer group. It joins in the background. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Config`] for settings out of bounds.
    pub fn group_consumer(&self, config: GroupConfig) -> Result<GroupConsumer, ClientError> {
        GroupConsumer::start(self.cluster.clone(), config, None)
    }

    /// Like [`group_consumer`](Self::group_consumer), with a listener that is called at each change of the member's
    /// partitions.
    ///
    /// # Errors
    /// The errors of [`group_consumer`](Self::group_consumer).
    pub fn group_consumer_with(
        &self,
        config: GroupConfig,
        listener: Arc<dyn RebalanceListener>,
    ) -> Result<GroupConsumer, ClientError> {
        GroupConsumer::start(self.cluster.clone(), config, Some(listener))
    }

    /// A handle on a queue, for calls that are answered once.
    pub fn queue(&self, name: impl Into<Arc<str>>) -> Queue {
        Queue::new(self.cluster.clone(), name.into())
    }

    /// A producer for a queue, with a task of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Config`] for settings out of bounds; [`ClientError::UnknownQueue`]; [`ClientError::Unavailable`] when no broker
    /// answers within `retry_timeout`.
    pub async fn queue_producer(
        &self,
        queue: impl Into<Arc<str>>,
        config: QueueProducerConfig,
    ) -> Result<QueueProducer, ClientError> {
        QueueProducer::start(self.cluster.clone(), queue.into(), config).await
    }

    /// A consumer of a queue, with a task of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The errors of [`queue_producer`](Self::queue_producer).
    pub async fn queue_consumer(
        &self,
        queue: impl Into<Arc<str>>,
        config: QueueConsumerConfig,
    ) -> Result<QueueConsumer, ClientError> {
        QueueConsumer::start(self.cluster.clone(), queue.into(), config).await
    }

    /// A publisher of messages to exchanges, with a task of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Config`] for settings out of bounds.
    pub fn publisher(&self, config: PublisherConfig) -> Result<Publisher, ClientError> {
        Publisher::start(self.cluster.clone(), &config)
    }

    /// The handle for managing topics, queues, exchanges, groups and the cluster.
    pub fn admin(&self) -> Admin {
        Admin::new(self.cluster.clone())
    }

    /// The cluster's id, a UUID.
    pub fn cluster_id(&self) -> String {
        self.cluster.metadata.image().cluster_id.clone()
    }

    /// A topic's partitions and leaders, as far as this client knows.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`]; [`ClientError::Unavailable`] when no broker answers.
    pub async fn topic(&self, name: &str) -> Result<Arc<TopicMetadata>, ClientError> {
        self.cluster.topic(&name.into()).await
    }

    /// Finds an offset by position or by time, for a reader of committed records.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], or when no leader answers within `retry_timeout`.
    pub async fn list_offsets(&self, topic: &str, partition: u32, at: OffsetAt) -> Result<ListedOffset, ClientError> {
        self.list_offsets_as(topic, partition, at, Isolation::Committed).await
    }

    /// Finds an offset by position or by time, for a reader with this isolation: [`OffsetAt::Latest`] is where reading ends for it.
    ///
    /// # Errors
    /// The errors of [`list_offsets`](Self::list_offsets).
    pub async fn list_offsets_as(
        &self,
        topic: &str,
        partition: u32,
        at: OffsetAt,
        isolation: Isolation,
    ) -> Result<ListedOffset, ClientError> {
        let topic = self.cluster.partition(&topic.into(), partition).await?;
        self.cluster.list_offsets(&topic, partition, (at, isolation)).await
    }
}
