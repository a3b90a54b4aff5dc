//! The listener of a group's member: the trait and what it gives back.

use std::error::Error;

use futures::future::{BoxFuture, ready};

use super::handle::GroupHandle;
use super::position::{PartitionPosition, TopicPartition};
use crate::consumer::StartAt;

/// The positions where a listener wants partitions to begin. Partitions that it does not name begin at their committed
/// offset.
pub type StartPositions = Vec<(TopicPartition, StartAt)>;

/// The error type of listeners.
pub type ListenerError = Box<dyn Error + Send + Sync>;

/// Callbacks at each change of a member's partitions.
///
/// The methods run inside the calls of [`GroupConsumer`](crate::GroupConsumer), never while a record is handled by the caller,
/// one at a time; partitions that are not part of the change are read on meanwhile, but handed out only by such calls.
///
/// # Effectively once
///
/// Results that are stored together with the offset after the record, in one transaction of some database, happen once,
/// whatever fails: the database knows best where to go on, and nothing is committed to the group. The transaction must be refused
/// unless the database is just at this record's offset: the offset tells whether the record had its effect, and the epoch, by
/// itself, does not.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use jangada_client::{Client, ClientError, CommitMode, ConsumedRecord, GroupConfig};
/// use futures::future::BoxFuture;
/// use jangada_client::{GroupHandle, ListenerError, RebalanceListener, StartAt, StartPositions, TopicPartition};
///
/// # struct Database;
/// # impl Database {
/// #     async fn next_offset(&self, topic: &str, partition: u32) -> Result<i64, ListenerError> { Ok(0) }
/// #     async fn store(&self, record: &ConsumedRecord, next_offset: i64, epoch: i64) -> Result<(), ListenerError> { Ok(()) }
/// # }
/// struct FromDatabase(Arc<Database>);
///
/// impl RebalanceListener for FromDatabase {
///     fn on_assigned<'a>(
///         &'a self,
///         _group: &'a GroupHandle,
///         partitions: &'a [TopicPartition],
///     ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
///         Box::pin(async move {
///             let mut starts = Vec::new();
///             for partition in partitions {
///                 let offset = self.0.next_offset(&partition.topic, partition.partition).await?;
///                 starts.push((partition.clone(), StartAt::Offset(offset)));
///             }
///             Ok(starts)
///         })
///     }
/// }
///
/// # async fn example(client: Client, database: Arc<Database>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let mut config = GroupConfig::new("billing", ["orders"]);
/// config.commit = CommitMode::Manual;
/// let mut consumer = client.group_consumer_with(config, Arc::new(FromDatabase(database.clone())))?;
/// loop {
///     let record = consumer.next().await?;
///     // One transaction: the result, `offset + 1` and the epoch, refused when the row for the partition is further than
///     // `offset` or was written under a higher epoch. So a member that lost the partition without knowing it changes nothing.
///     database.store(&record, record.offset + 1, consumer.member_epoch()).await?;
/// }
/// # }
/// ```
pub trait RebalanceListener: Send + Sync + 'static {
    /// The member got partitions. Nothing of them is handed out before this is done. It may say where they begin.
    ///
    /// # Errors
    /// The call of the consumer that is under way returns [`ClientError::Listener`], and the next one asks again.
    fn on_assigned<'a>(
        &'a self,
        group: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        let _ = (group, partitions);
        Box::pin(ready(Ok(Vec::new())))
    }

    /// The member gives up partitions. Nothing more of them is handed out; it still owns them until this is done, and may commit
    /// for them by `group`. What is finished is committed after this unless that is left to the caller.
    fn on_revoked<'a>(&'a self, group: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        let _ = (group, partitions);
        Box::pin(ready(()))
    }

    /// The member lost partitions: others may have them already, from the last committed offset on. Commits for them are refused.
    fn on_lost<'a>(&'a self, group: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        let _ = (group, partitions);
        Box::pin(ready(()))
    }
}
