//! Empties the entries of appends that got no offsets, in the partitions of all topics, at low priority. Nothing is done, and nothing is
//! looked at, where there are none.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::feature_level::COMPACTION_FEATURE_LEVEL;

use super::Compactor;
use super::cleaner::Cleaner;
use super::pass::Pacer;
use crate::partition::{Partition, spent};

/// How long such appends are gathered.
pub(super) const GATHER: Duration = Duration::from_secs(1);

/// Entries that are looked at together: each has at most one batch.
const TOGETHER: usize = 8;

impl Compactor {
    /// Empties what was noted, once all brokers can read what is left.
    pub(super) async fn empty_spent(&self) {
        let Cleaner { settings, shared, .. } = &self.cleaner;
        let level = self.metadata.watch().borrow().feature_level();
        if level < COMPACTION_FEATURE_LEVEL || settings.bytes_per_second == 0 {
            return;
        }
        let mut pacer = Pacer::new(settings, shared);
        for partition in self.replicas.fronts::<Partition>() {
            self.cleaner.empty_spent(&partition, &mut pacer).await;
        }
    }
}

impl Cleaner {
    /// Empties what was noted of one partition.
    pub(super) async fn empty_spent(&self, partition: &Arc<Partition>, pacer: &mut Pacer) {
        let noted = partition.take_spent();
        for positions in noted.chunks(TOGETHER) {
            let (store, group, positions) = (self.shared.store.clone(), partition.hosted.id(), positions.to_vec());
            let read = self.blocking(move || spent::emptied(&*store, group, &positions));
            let (commands, bytes) = match read.await {
                Ok(read) => read,
                Err(error) => {
                    tracing::debug!(partition = %partition.hosted.name, %error, "refused appends are not emptied");
                    return;
                }
            };
            if !commands.is_empty() && !partition.rewrite_spent(commands).await {
                return;
            }
            pacer.pace(bytes).await;
        }
    }
}
