//! The listener of a group's member: the trait and the types that it sees.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use jangada_proto::v1;
use jangada_types::TopicId;

use super::committer::Committer;
use crate::consumer::StartAt;
use crate::error::ClientError;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition's index.
    pub partition: u32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

impl TopicPartition {
    pub(crate) fn wire(&self) -> v1::TopicPartition {
        v1::TopicPartition {
            topic_id: Bytes::copy_from_slice(self.topic_id.as_bytes()),
            topic: String::new(),
            partition: self.partition,
        }
    }
}

/// A partition that is given up, and how far it is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPosition {
    /// The partition that is given up.
    pub partition: TopicPartition,
    /// The offset after the last record that counts as finished. `None`: this member finished no record.
    pub position: Option<i64>,
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The partition that the offset is for.
    pub partition: TopicPartition,
    /// The offset of the next record to read.
    pub offset: i64,
    /// The leader epoch of the last record that was read, when known.
    pub leader_epoch: Option<u32>,
    /// Text that the consumer stores along with the offset, up to 4,096 bytes.
    pub metadata: String,
}

impl OffsetCommit {
    /// An offset to commit without metadata.
    pub fn new(partition: TopicPartition, offset: i64) -> Self {
        Self {
            partition,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }
    }

    pub(crate) fn wire(&self) -> v1::PartitionOffset {
        v1::PartitionOffset {
            added: false,
            partition: Some(self.partition.wire()),
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.clone(),
            committed_at_ms: 0,
        }
    }
}

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

/// The member, as its listener sees it.
#[derive(Clone)]
pub struct GroupHandle {
    pub(super) committer: Arc<Committer>,
    pub(super) epoch: i64,
}

impl GroupHandle {
    /// The group's name.
    pub fn group(&self) -> &str {
        self.committer.group()
    }

    /// The member's id, another one for each consumer.
    pub fn member_id(&self) -> &str {
        self.committer.member_id()
    }

    /// The member's epoch under which this change of its partitions takes place: in `on_lost` the one under which they were owned.
    pub fn member_epoch(&self) -> i64 {
        self.epoch
    }

    /// Commits offsets, all or none, of partitions that the member owns.
    ///
    /// # Errors
    /// [`ClientError::MembershipLost`]; [`ClientError::Refused`] with `PARTITION_NOT_OWNED` when one is of another partition;
    /// [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] after trying for as long as `retry_timeout`.
    pub async fn commit_offsets(&self, offsets: &[OffsetCommit]) -> Result<(), ClientError> {
        self.committer.commit_offsets(offsets.to_vec()).await
    }
}
