//! Where partitions begin: at the committed offset, else as the settings say.

use std::sync::Arc;

use futures::future::BoxFuture;
use jangada_proto::v1;

use super::coordinator::Coordinator;
use super::listener::TopicPartition;
use crate::cluster::Cluster;
use crate::consumer::{OffsetReset, StartAt, start_offset};
use crate::error::ClientError;
use crate::metadata::TopicMetadata;

/// Partitions that one call may name, as the contract says.
const PARTITIONS_PER_FETCH_MAX: usize = 10_000;

/// Asks for where partitions begin. Its futures stand alone: one whose partition was given up meanwhile is passed over.
pub(crate) struct Starts {
    pub cluster: Arc<Cluster>,
    pub coordinator: Arc<Coordinator>,
    pub offset_reset: OffsetReset,
}

/// What was asked for, each with the turn of its partition, which tells whether it still counts.
pub(crate) enum Found {
    /// What is committed.
    Committed(Vec<(TopicPartition, u64)>, Result<Vec<Option<i64>>, ClientError>),
    Start(TopicPartition, u64, Result<Start, ClientError>),
}

/// Where a partition begins.
pub(crate) struct Start {
    pub topic: Arc<TopicMetadata>,
    pub offset: i64,
    pub is_committed: bool,
}

impl Starts {
    /// What the group has committed for partitions.
    pub fn committed(&self, partitions: Vec<(TopicPartition, u64)>) -> BoxFuture<'static, Found> {
        let coordinator = self.coordinator.clone();
        Box::pin(async move {
            let wanted = partitions.iter().map(|(partition, _)| partition.wire()).collect();
            let committed = fetch(&coordinator, wanted).await.map(|offsets| {
                let offset = |offset: &v1::PartitionOffset| (offset.offset >= 0).then_some(offset.offset);
                offsets.iter().map(offset).collect::<Vec<_>>()
            });
            Found::Committed(partitions, committed)
        })
    }

    /// Where a partition begins: where the listener says, or at the committed offset, or as the settings say.
    pub fn start(
        &self,
        partition: TopicPartition,
        turn: u64,
        given: Option<StartAt>,
        committed: Option<i64>,
    ) -> BoxFuture<'static, Found> {
        let cluster = self.cluster.clone();
        let group = self.coordinator.group().clone();
        let reset = match self.offset_reset {
            OffsetReset::Earliest => Some(StartAt::Earliest),
            OffsetReset::Latest => Some(StartAt::Latest),
            OffsetReset::Error => None,
        };
        Box::pin(async move {
            let at = given.or(committed.map(StartAt::Offset)).or(reset);
            let start = async {
                let at = at.ok_or_else(|| ClientError::NoCommittedOffset {
                    group,
                    topic: partition.topic.clone(),
                    partition: partition.partition,
                })?;
                let topic = topic(&cluster, &partition).await?;
                let offset = start_offset(&cluster, &topic, partition.partition, at).await?;
                let is_committed = given.is_none() && committed.is_some();
                Ok(Start {
                    topic,
                    offset,
                    is_committed,
                })
            };
            let start = start.await;
            Found::Start(partition, turn, start)
        })
    }
}

/// The topic of a partition, if it is still there under that id.
async fn topic(cluster: &Cluster, partition: &TopicPartition) -> Result<Arc<TopicMetadata>, ClientError> {
    let find = async || {
        let found = cluster.topic(&partition.topic).await?;
        let is_it = found.id == partition.topic_id && (partition.partition as usize) < found.partitions.len();
        Ok::<_, ClientError>(Some(found).filter(|_| is_it))
    };
    if let Some(found) = find().await? {
        return Ok(found);
    }
    // Created anew, or with more partitions, since the metadata was read.
    let seen = cluster.metadata.image().refreshes;
    let _ = cluster.metadata.refresh(seen).await;
    find().await?.ok_or_else(|| ClientError::UnknownTopic {
        topic: partition.topic.clone(),
    })
}

/// Committed offsets, linearizable. All there are when none are named.
pub(crate) async fn fetch(
    coordinator: &Coordinator,
    mut partitions: Vec<v1::TopicPartition>,
) -> Result<Vec<v1::PartitionOffset>, ClientError> {
    let mut offsets = Vec::new();
    while partitions.len() > PARTITIONS_PER_FETCH_MAX {
        let rest = partitions.split_off(PARTITIONS_PER_FETCH_MAX);
        offsets.extend(fetch_once(coordinator, std::mem::replace(&mut partitions, rest)).await?);
    }
    offsets.extend(fetch_once(coordinator, partitions).await?);
    Ok(offsets)
}

async fn fetch_once(
    coordinator: &Coordinator,
    partitions: Vec<v1::TopicPartition>,
) -> Result<Vec<v1::PartitionOffset>, ClientError> {
    let wanted = partitions.len();
    let fetching = coordinator.call(coordinator.deadline(), |mut service| {
        let request = v1::FetchOffsetsRequest {
            group: coordinator.group().to_string(),
            partitions: partitions.clone(),
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
