//! Partitions that give a consumer nothing, as consumers have as many messages of them as they may.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::link::LinkId;

/// What brokers say of it, by partition; whoever has the other half sees the largest bound.
pub(super) struct InFlightFull {
    by_partition: BTreeMap<u32, (LinkId, u32)>,
    largest: watch::Sender<Option<u32>>,
}

impl InFlightFull {
    pub fn new(largest: watch::Sender<Option<u32>>) -> Self {
        Self {
            by_partition: BTreeMap::new(),
            largest,
        }
    }

    /// A stream says so many of a partition, 0: no longer; none: the partition has moved.
    pub fn tell(&mut self, partition: u32, said: Option<(LinkId, u32)>) {
        match said.filter(|(_, most)| *most > 0) {
            Some(said) => drop(self.by_partition.insert(partition, said)),
            None => drop(self.by_partition.remove(&partition)),
        }
        self.changed();
    }

    /// A stream has ended.
    pub fn ended(&mut self, link: LinkId) {
        self.by_partition.retain(|_, (of, _)| *of != link);
        self.changed();
    }

    fn changed(&self) {
        let largest = self.by_partition.values().map(|(_, most)| *most).max();
        self.largest
            .send_if_modified(|known| std::mem::replace(known, largest) != largest);
    }
}
