//! Fields that several responses have.

use bytes::Bytes;
use jangada_controller::Topic;

/// A topic's id.
pub(super) fn topic_id(topic: &Topic) -> Bytes {
    topic.id.as_bytes().to_vec().into()
}

/// A count of what is in memory.
pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// How many replicas each partition of a topic has.
pub(super) fn replicas(topic: &Topic) -> u32 {
    topic
        .partitions
        .first()
        .map_or(0, |partition| count(partition.replicas.len()))
}
