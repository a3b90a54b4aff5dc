//! Partitions of a group's topics, and positions in them.

use std::sync::Arc;

use bytes::Bytes;
use jangada_proto::v1;
use jangada_types::TopicId;

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
