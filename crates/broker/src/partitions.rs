//! The partitions that are open on this broker, by id.

use std::collections::HashMap;
use std::sync::Arc;

use jangada_controller::Topic;
use jangada_types::{GroupId, PartitionIndex};
use parking_lot::RwLock;

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
