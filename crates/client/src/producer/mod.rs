//! The producer: sends records to partitions.
//!
//! ```text
//! send() ── partitioner ── PartitionQueue (accumulator) ─┐ a batch opened or filled up
//!    │                                                   ▼
//!    └─ Delivery ◄──── BatchReport ◄──── driver task: Lane per partition, ProduceStream per leader broker
//! ```
//!
//! `send` copies a record into its partition's open batch and returns. One driver task per producer does the rest: it takes
//! batches that are full or have lingered, numbers them (`lane`, pure), sends them to the partition's leader, and reports what
//! became of them. A full buffer makes `send` wait.

mod accumulator;
mod config;
mod delivery;
mod driver;
mod identity;
mod lane;
mod partitions;
mod record;
mod shared;
mod stream;

use std::sync::Arc;

pub use config::{Acks, ProducerConfig};
pub use delivery::Delivery;
pub use record::{Condition, ProducerRecord, RecordMetadata};

use jangada_types::{ProducerEpoch, ProducerId};

use crate::cluster::Cluster;
use crate::error::ClientError;
use driver::Driver;
use shared::Shared;

/// Sends records to partitions. Clones share the buffer and the task.
///
/// When the last clone is dropped without [`close`](Self::close), what was sent is still delivered, as long as the runtime
/// lives.
///
/// # Order and duplicates
/// Records that are sent to one partition by `send` calls one after the other are stored in that order. With
/// [`idempotent`](ProducerConfig::idempotent), the default, each is stored once, however often it had to be sent. Without it, a
/// batch whose answer got lost is sent again, too, and may be stored twice; and only one batch of a partition is in flight at a
/// time, for else a refused one would be overtaken.
///
/// When a batch is given up, as refused or because its time is over, the batches after it are not given up with it: the
/// producer takes its next epoch, which fences whatever of the old one may still be under way, and numbers them anew. Only
/// those whose own outcome is unknown then are reported as [`ClientError::OutcomeUnknown`].
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{ProducerConfig, ProducerRecord};
///
/// let producer = client.producer(ProducerConfig::default())?;
/// let mut deliveries = Vec::new();
/// for n in 0..1000 {
///     let record = ProducerRecord::new("numbers").with_value(n.to_string());
///     deliveries.push(producer.send(record).await?);
/// }
/// for delivery in deliveries {
///     delivery.await?;
/// }
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// The state that all clones share. The driver has only `shared`, so it notices when the last clone is dropped.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_close();
    }
}

impl Producer {
    pub(crate) fn start(cluster: Arc<Cluster>, config: ProducerConfig) -> Result<Self, ClientError> {
        Self::start_as(cluster, config, None)
    }

    /// A producer whose records are parts of transactions of this id. It sends nothing before a transaction has [begun](Self::begin).
    pub(crate) fn start_as(
        cluster: Arc<Cluster>,
        config: ProducerConfig,
        transactional_id: Option<Arc<str>>,
    ) -> Result<Self, ClientError> {
        config.check()?;
        let shared = Arc::new(Shared::new(cluster, config, transactional_id));
        tokio::spawn(Driver::new(shared.clone()).run());
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// Begins a transaction under this id and epoch. Everything of the one before is settled or [discarded](Self::discard).
    pub(crate) fn begin(&self, identity: (ProducerId, ProducerEpoch)) {
        self.handle.shared.begin(identity);
    }

    /// Why the open transaction can only be aborted, if that is so.
    pub(crate) fn failure(&self) -> Option<ClientError> {
        self.handle.shared.failure()
    }

    /// Notes that the open transaction can only be aborted, and why. An earlier cause stays.
    pub(crate) fn fail(&self, error: ClientError) {
        let cause = match error {
            ClientError::TransactionAborted { cause } => ClientError::clone(&cause),
            error => error,
        };
        self.handle.shared.signals().failed.get_or_insert(cause);
    }

    /// Drops what is not settled, with this error.
    pub(crate) async fn discard(&self, error: ClientError) {
        self.handle.shared.discard(error).await;
    }

    /// Puts a record into its partition's batch. Waits while the buffer is full, and for metadata the first time that a
    /// topic is used. The [`Delivery`] gives the record's outcome; it need not be awaited.
    ///
    /// The record is taken when this returns: a call that is dropped before has no effect.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], [`ClientError::RecordTooLarge`],
    /// [`ClientError::Closed`], [`ClientError::ProducerFenced`], or [`ClientError::Unavailable`] when the topic cannot be looked
    /// up. The record was not taken then.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ClientError> {
        self.handle.shared.send(record, None).await
    }

    /// Sends a record that is appended only if the condition holds when its turn in the partition's log has come; otherwise its
    /// delivery gives [`ClientError::ConditionFailed`] with the offset as it is. A retry of a record that was appended finds
    /// itself, not the condition.
    ///
    /// The record is a batch of its own, sent at once when everything before it in its partition is settled; records
    /// after it wait until it is. So a partition takes one conditional record of a producer per round trip.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send), and [`ClientError::Config`] for a condition without the key or partition
    /// that it is about, or with [`Acks::None`].
    pub async fn send_if(&self, record: ProducerRecord, condition: Condition) -> Result<Delivery, ClientError> {
        self.handle.shared.send(record, Some(condition)).await
    }

    /// Sends the gathered records without lingering and waits until the outcome of everything sent before is known:
    /// delivered or given up. The deliveries tell which.
    pub async fn flush(&self) {
        self.handle.shared.flush().await;
    }

    /// Flushes and ends the producer. Later calls of other clones get [`ClientError::Closed`].
    pub async fn close(self) {
        self.handle.shared.flush().await;
        self.handle.shared.begin_close();
    }
}
