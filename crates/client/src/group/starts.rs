//! Where partitions begin: at the committed offset, otherwise as the settings say.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_proto::v1;
use tokio::time::timeout;

use super::coordinator::Coordinator;
use super::position::TopicPartition;
use crate::cluster::Cluster;
use crate::consumer::{OffsetReset, StartAt, start_offset};
use crate::error::ClientError;
use crate::isolation::Isolation;
use crate::metadata::TopicMetadata;
use crate::notice::Notice;
use crate::offset_at::OffsetAt;

/// Partitions that one call may name, as the contract says.
const PARTITIONS_PER_FETCH_MAX: usize = 10_000;

/// Timeout of finding out, for a notice, which records a group skips that begins at a partition's end.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks up where partitions begin. Its futures are independent of the consumer: the result for a partition that was
/// given up meanwhile is ignored.
pub(crate) struct Starts {
    pub cluster: Arc<Cluster>,
    pub coordinator: Arc<Coordinator>,
    pub offset_reset: OffsetReset,
    pub isolation: Isolation,
}

/// The result of a lookup, with the number of the lookup per partition, which tells whether it still counts.
pub(crate) enum LookupResult {
    /// The committed offsets of partitions.
    Committed(Vec<(TopicPartition, u64)>, Result<Vec<StoredStart>, ClientError>),
    Start(TopicPartition, u64, Result<Start, ClientError>),
}

/// The group's stored knowledge of where a partition begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoredStart {
    Committed(i64),
    /// No offset is committed.
    Nothing,
    /// No offset is committed, and the partition was added after the group began to read its topic.
    Added,
}

/// The position where a partition begins.
pub(crate) struct Start {
    pub topic: Arc<TopicMetadata>,
    pub offset: i64,
    pub is_committed: bool,
    /// Whether the partition was added after the group began, so that the group must read all of it.
    pub is_added: bool,
}

impl Starts {
    /// Fetches the offsets that the group has committed for partitions.
    pub fn committed(&self, partitions: Vec<(TopicPartition, u64)>) -> BoxFuture<'static, LookupResult> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let wanted = partitions.iter().map(|(partition, _)| partition.wire()).collect();
            let committed = fetch(&coordinator, wanted, true).await.map(|offsets| {
                let known = |offset: &v1::PartitionOffset| match offset.offset {
                    committed @ 0.. => StoredStart::Committed(committed),
                    _ if offset.added => StoredStart::Added,
                    _ => StoredStart::Nothing,
                };
                offsets.iter().map(known).collect::<Vec<_>>()
            });
            LookupResult::Committed(partitions, committed)
        })
    }

    /// Where a partition begins: where the listener says, or at the committed offset, or, if it was added after the group began,
    /// with its first record, or as the settings say.
    pub fn start(
        &self,
        partition: TopicPartition,
        turn: u64,
        given: Option<StartAt>,
        known: StoredStart,
    ) -> BoxFuture<'static, LookupResult> {
        let cluster = self.cluster.clone();
        let (group, isolation) = (self.coordinator.group().clone(), self.isolation);
        let reset = match self.offset_reset {
            OffsetReset::Earliest => Some(StartAt::Earliest),
            OffsetReset::Latest => Some(StartAt::Latest),
            OffsetReset::Error => None,
        };
        Box::pin(async move {
            let by_group = match known {
                StoredStart::Committed(offset) => Some(StartAt::Offset(offset)),
                StoredStart::Added => Some(StartAt::Earliest),
                StoredStart::Nothing => None,
            };
            let at = given.or(by_group).or(reset);
            let start = async {
                let at = at.ok_or_else(|| ClientError::NoCommittedOffset {
                    group: group.clone(),
                    topic: partition.topic.clone(),
                    partition: partition.partition,
                })?;
                let topic = topic(&cluster, &partition).await?;
                let offset = start_offset(&cluster, &topic, partition.partition, (at, isolation)).await?;
                if at == StartAt::Latest && given.is_none() {
                    // Only the notice needs this, so reading does not wait long for it.
                    let notified = notify_skipped(&cluster, group, &topic, partition.partition, offset);
                    let _ = timeout(NOTICE_TIMEOUT, notified).await;
                }
                Ok(Start {
                    topic,
                    offset,
                    is_committed: given.is_none() && matches!(known, StoredStart::Committed(_)),
                    is_added: given.is_none() && matches!(known, StoredStart::Added),
                })
            };
            let start = start.await;
            LookupResult::Start(partition, turn, start)
        })
    }
}

/// Publishes a notice of the records that a group skips by beginning at a partition's end.
async fn notify_skipped(cluster: &Cluster, group: Arc<str>, topic: &TopicMetadata, partition: u32, offset: i64) {
    let earliest = (OffsetAt::Earliest, Isolation::Committed);
    let Ok(first) = cluster.list_offsets(topic, partition, earliest).await else {
        return;
    };
    let log_start_offset = first.offset.unwrap_or(0);
    if log_start_offset < offset {
        cluster.notices.publish(&Notice::BeginsAtEnd {
            group,
            topic: topic.name.clone(),
            partition,
            log_start_offset,
            offset,
        });
    }
}

/// The topic of a partition, if it still exists under that id.
async fn topic(cluster: &Cluster, partition: &TopicPartition) -> Result<Arc<TopicMetadata>, ClientError> {
    let find = async || {
        let found = cluster.topic(&partition.topic).await?;
        let is_it = found.id == partition.topic_id && (partition.partition as usize) < found.partitions.len();
        Ok::<_, ClientError>(Some(found).filter(|_| is_it))
    };
    if let Some(found) = find().await? {
        return Ok(found);
    }
    // The topic may have been created anew, or may have got more partitions, since the metadata was read.
    let seen = cluster.metadata.image().refreshes;
    let _ = cluster.metadata.refresh(seen).await;
    find().await?.ok_or_else(|| ClientError::UnknownTopic {
        topic: partition.topic.clone(),
    })
}

/// Committed offsets, linearizable: of the named partitions, or of all if none is named. `require_stable`: waits while an open transaction
/// may yet commit others (KIP-447).
pub(crate) async fn fetch(
    coordinator: &Coordinator,
    mut partitions: Vec<v1::TopicPartition>,
    require_stable: bool,
) -> Result<Vec<v1::PartitionOffset>, ClientError> {
    let mut offsets = Vec::new();
    while partitions.len() > PARTITIONS_PER_FETCH_MAX {
        let rest = partitions.split_off(PARTITIONS_PER_FETCH_MAX);
        let first = std::mem::replace(&mut partitions, rest);
        offsets.extend(fetch_once(coordinator, first, require_stable).await?);
    }
    offsets.extend(fetch_once(coordinator, partitions, require_stable).await?);
    Ok(offsets)
}

async fn fetch_once(
    coordinator: &Coordinator,
    partitions: Vec<v1::TopicPartition>,
    require_stable: bool,
) -> Result<Vec<v1::PartitionOffset>, ClientError> {
    let wanted = partitions.len();
    let fetching = coordinator.call(coordinator.deadline(), |mut service| {
        let request = v1::FetchOffsetsRequest {
            group: coordinator.group().to_string(),
            partitions: partitions.clone(),
            // Who goes on before an offset that a transaction may yet commit would do its work again.
            require_stable,
        };
        async move { service.fetch_offsets(request).await }
    });
    let context = || format!("fetch offsets of group {}", coordinator.group());
    let answer = fetching.await.map_err(|failed| failed.into_error(&context()))?;
    if wanted != 0 && answer.offsets.len() != wanted {
        let message = format!("the broker answered {} of {wanted} offsets", answer.offsets.len());
        let failure = crate::wire_error::Failure::local(tonic::Code::Internal, message, true);
        return Err(failure.into_error(&context()));
    }
    Ok(answer.offsets)
}
