//! A partition that a request names, of whatever kind of topic.

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
    /// A partition of a topic, if it has it.
    pub fn of(topic: &Arc<Topic>, index: PartitionIndex) -> Option<Self> {
        let partition = topic.partition(index)?;
        Some(Self {
            topic: topic.clone(),
            index,
            group: partition.group,
        })
    }
}

/// As errors begin with.
impl Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {}-{}", self.topic.name, self.index)
    }
}
