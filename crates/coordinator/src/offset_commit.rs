//! An offset that is to be committed.

use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{LeaderEpoch, Offset};

use crate::partitions::TopicPartition;

/// The offset of one partition in a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// The partition that the offset is of.
    pub partition: TopicPartition,
    /// The offset of the next record to read.
    pub offset: Offset,
    /// The leader epoch of the last record that was read, when known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Text that the consumer keeps with the offset.
    pub metadata: Box<str>,
}

impl Sample for OffsetCommit {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            partition: Sample::sample(seeds),
            offset: Sample::sample(seeds),
            leader_epoch: Sample::sample(seeds),
            metadata: String::sample(seeds).into(),
        }
    }
}
