//! Notes for the checker which partitions a member has, at each change.

use std::collections::BTreeSet;

use futures::future::{BoxFuture, ready};
use jangada_check::{Note, Recorder};
use jangada_client::{
    GroupHandle, ListenerError, PartitionPosition, RebalanceListener, StartPositions, TopicPartition,
};
use parking_lot::Mutex;

use crate::roles::log::records::place;

/// Notes which partitions a member has. Those that it has keep its order of events: a change is noted inside of the call in which it
/// takes effect.
pub struct Noting {
    recorder: Recorder,
    process: u32,
    owned: Mutex<BTreeSet<String>>,
}

impl Noting {
    /// Notes the partitions of this process, which has none yet.
    pub fn new(recorder: &Recorder, process: u32) -> Self {
        Self {
            recorder: recorder.clone(),
            process,
            owned: Mutex::default(),
        }
    }

    fn note(&self, group: &GroupHandle, change: impl FnOnce(&mut BTreeSet<String>)) {
        let mut owned = self.owned.lock();
        change(&mut owned);
        let note = Note::Rebalance {
            group: group.group().to_owned(),
            epoch: group.member_epoch(),
            partitions: owned.iter().cloned().collect(),
        };
        self.recorder.note(Some(self.process), note);
    }

    fn gone(&self, group: &GroupHandle, partitions: &[PartitionPosition]) {
        self.note(group, |owned| {
            for gone in partitions {
                owned.remove(&name(&gone.partition));
            }
        });
    }
}

fn name(partition: &TopicPartition) -> String {
    place(&partition.topic, partition.partition)
}

impl RebalanceListener for Noting {
    fn on_assigned<'a>(
        &'a self,
        group: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        self.note(group, |owned| owned.extend(partitions.iter().map(name)));
        Box::pin(ready(Ok(Vec::new())))
    }

    fn on_revoked<'a>(&'a self, group: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        self.gone(group, partitions);
        Box::pin(ready(()))
    }

    fn on_lost<'a>(&'a self, group: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        self.gone(group, partitions);
        Box::pin(ready(()))
    }
}
