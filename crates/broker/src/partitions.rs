//! The partitions that are open on this broker, by id.

use std::collections::HashMap;
use std::sync::Arc;

use jangada_controller::{Image, Topic, TopicKind};
use jangada_proto::v1::TopicPartition;
use jangada_types::{GroupId, PartitionIndex, Reason, TopicId};
use parking_lot::RwLock;

use crate::error::RequestError;
use crate::partition::Partition;

/// See the module text.
#[derive(Default)]
pub(crate) struct Partitions {
    by_group: RwLock<HashMap<GroupId, Arc<Partition>>>,
}

impl Partitions {
    pub fn insert(&self, partition: Arc<Partition>) {
        self.by_group.write().insert(partition.group.id(), partition);
    }

    pub fn remove(&self, group: GroupId) {
        self.by_group.write().remove(&group);
    }

    pub fn get(&self, group: GroupId) -> Option<Arc<Partition>> {
        self.by_group.read().get(&group).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.by_group.read().values().cloned().collect()
    }
}

/// What a request names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub topic: Arc<Topic>,
    pub index: PartitionIndex,
    pub group: GroupId,
}

/// Finds the partition of records that a request names, by topic id or, for tools, by name.
pub(crate) fn find(image: &Image, wanted: Option<&TopicPartition>) -> Result<Target, RequestError> {
    let target = find_any(image, wanted)?;
    if target.topic.kind == TopicKind::Log {
        return Ok(target);
    }
    Err(RequestError::new(
        Reason::InvalidTopicName,
        format!(
            "topic {:?} is internal: it holds the cluster's consumer groups, not records; use the group service",
            target.topic.name
        ),
    ))
}

/// The same, also of internal topics.
pub(crate) fn find_any(image: &Image, wanted: Option<&TopicPartition>) -> Result<Target, RequestError> {
    let wanted = wanted.ok_or_else(|| {
        RequestError::new(
            Reason::InvalidRequest,
            "the request names no partition: set `partition`",
        )
    })?;
    let topic = find_topic(image, &wanted.topic_id, &wanted.topic)?;
    let index = PartitionIndex(wanted.partition);
    match topic.partition(index) {
        Some(partition) => Ok(Target {
            topic: topic.clone(),
            index,
            group: partition.group,
        }),
        None => {
            let count = topic.partitions.len();
            let message = format!(
                "topic {:?} has no partition {index}: it has {count}, counted from 0",
                topic.name
            );
            Err(RequestError::new(Reason::UnknownPartition, message).with("limit", count))
        }
    }
}

/// The topic that a request names: by id or, without one, by name.
pub(crate) fn find_topic<'a>(image: &'a Image, id: &[u8], name: &str) -> Result<&'a Arc<Topic>, RequestError> {
    match id.is_empty() {
        true => named(image, name),
        false => with_id(image, id),
    }
}

/// A topic by name.
pub(crate) fn named<'a>(image: &'a Image, name: &str) -> Result<&'a Arc<Topic>, RequestError> {
    image
        .topic_named(name)
        .ok_or_else(|| RequestError::new(Reason::UnknownTopic, format!("there is no topic {name:?}")))
}

fn with_id<'a>(image: &'a Image, id: &[u8]) -> Result<&'a Arc<Topic>, RequestError> {
    let bytes = id.len();
    let id = TopicId::from_slice(id).ok_or_else(|| {
        RequestError::new(
            Reason::InvalidRequest,
            format!("a topic id has 16 bytes, this one has {bytes}"),
        )
    })?;
    image.topic(id).ok_or_else(|| {
        RequestError::new(
            Reason::UnknownTopic,
            format!("there is no topic with id {id}: it was deleted, or this broker does not know it yet"),
        )
    })
}
