//! A partition that a request names, of a user's topic or of the coordinator's.

use std::fmt::Display;
use std::sync::Arc;

use jangada_controller::Topic;
use jangada_types::{GroupId, PartitionIndex};

/// A partition by its topic, its index and its Raft group.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub topic: Arc<Topic>,
    pub index: PartitionIndex,
    pub group: GroupId,
}

impl Target {
    /// The partition of a topic with this index, if there is one.
    pub fn of(topic: &Arc<Topic>, index: PartitionIndex) -> Option<Self> {
        let partition = topic.partition(index)?;
        Some(Self {
            topic: topic.clone(),
            index,
            group: partition.group,
        })
    }
}

/// The beginning of an error message about the partition, such as `partition orders-3`.
impl Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {}-{}", self.topic.name, self.index)
    }
}
