//! Compaction by key of the partitions on this broker, one at a time, the dirtiest first. What a pass decides is pure
//! (`jangada_log::compaction`); here is when it runs, how fast, and when tombstones may go.
//!
//! ```text
//!  each second: rows of the dirty parts -> the dirtiest partition that is due -> a pass, piece by piece, at a bounded rate
//!  each ten:    leaders ask the other replicas since when they are clean -> AdvanceHorizon, when all have been for long enough
//! ```
//!
//! - [`dirt`]: what there is to clean in one partition. [`pass`]: one pass. [`horizon`]: when tombstones may go.
//! - [`spent`]: appends of all topics that got no offsets.
//! - [`status`]: what others may know.
//!
//! While no topic is compacted, the task waits for a change of the metadata.

mod cleaner;
mod dirt;
mod horizon;
mod pass;
mod spent;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Image, TopicKind};
use jangada_log::compaction::Rules;
use jangada_types::topic_config::key;
use jangada_types::{GroupId, ReplicaId};
use tokio::time::{Instant, MissedTickBehavior};

pub(crate) use self::cleaner::Cleaner;
use self::dirt::{Dirt, Looked};
pub(crate) use self::horizon::cleaned_since;
use self::pass::Pacer;
use self::status::id_of;
pub(crate) use self::status::{CompactionSample, CompactionStatus};
use crate::cluster::metadata::Metadata;
use crate::partition::Partition;
use crate::replica::Replicas;

/// How often it is looked whether a pass is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often leaders ask since when the other replicas are clean.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The task that compacts.
pub(crate) struct Compactor {
    pub metadata: Metadata,
    pub replicas: Arc<Replicas>,
    pub cleaner: Cleaner,
}

impl Compactor {
    /// Runs until the metadata is gone, or it is dropped.
    pub async fn run(self) {
        let mut image = self.metadata.watch();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut compacts = any_compacts(&image.borrow_and_update());
        let mut dirt = BTreeMap::new();
        let mut asked_at = Instant::now();
        let mut empty_at: Option<Instant> = None;
        loop {
            tokio::select! {
                changed = image.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    compacts = any_compacts(&image.borrow_and_update());
                }
                () = self.cleaner.shared.spent.notified(), if empty_at.is_none() => {
                    empty_at = Some(Instant::now() + spent::GATHER);
                }
                () = tokio::time::sleep_until(empty_at.unwrap_or(asked_at)), if empty_at.is_some() => {
                    self.empty_spent().await;
                    empty_at = None;
                }
                _ = tick.tick(), if compacts => {
                    self.step(&mut dirt).await;
                    if asked_at.elapsed() >= ASK_EVERY {
                        self.move_horizons().await;
                        asked_at = Instant::now();
                    }
                }
            }
        }
    }

    /// The partitions here that are compacted.
    fn compacted(&self) -> Vec<Arc<Partition>> {
        let mut partitions = self.replicas.fronts::<Partition>();
        partitions.retain(|partition| partition.config().cleanup_policy.compacts());
        partitions
    }

    /// Looks at all partitions, and cleans the dirtiest one that is due.
    async fn step(&self, dirt: &mut BTreeMap<(GroupId, ReplicaId), Dirt>) {
        let partitions = self.compacted();
        let ids: Vec<_> = partitions.iter().map(|partition| id_of(&partition.hosted)).collect();
        dirt.retain(|id, _| ids.contains(id));
        let Cleaner {
            shared,
            settings,
            status,
            ..
        } = &self.cleaner;
        status.keep(&ids);
        let mut dirtiest: Option<(u16, Arc<Partition>, Looked)> = None;
        for partition in partitions {
            let known = dirt.entry(id_of(&partition.hosted)).or_default();
            if !known.is_of(&partition.hosted) {
                *known = Dirt::new(&partition.hosted);
            }
            if known.rests() {
                continue;
            }
            let Some(looked) = self.cleaner.look(&partition, known).await else {
                continue;
            };
            status.looked(&partition.hosted, known.cleaned());
            partition.set_gone_bytes(known.gone_bytes());
            let config = partition.config();
            let rules = Rules {
                dirty_ratio_permille: config.dirty_ratio_permille,
                lag_max_ms: config.compaction_lag_max_ms,
            };
            let part = looked.survey.dirty_permille();
            let is_dirtier = dirtiest.as_ref().is_none_or(|(most, ..)| part > *most);
            if looked.survey.is_due(&rules, shared.clock.now_ms()) && is_dirtier {
                dirtiest = Some((part, partition, looked));
            }
        }
        let Some((_, partition, looked)) = dirtiest.filter(|_| settings.bytes_per_second > 0) else {
            return;
        };
        let pacer = Pacer::new(settings, shared);
        let known = dirt.get_mut(&id_of(&partition.hosted)).expect("it was looked at");
        status.set_under_way(true);
        let cleaned = self.cleaner.clean(&partition, &looked, known, pacer).await;
        status.set_under_way(false);
        if cleaned.is_some() {
            partition.set_gone_bytes(known.gone_bytes());
        }
    }
}

/// Whether any topic is compacted.
fn any_compacts(image: &Image) -> bool {
    let mut logs = image
        .topics()
        .filter(|topic| topic.kind == TopicKind::Log && topic.config.contains_key(key::CLEANUP_POLICY));
    logs.any(|topic| {
        topic
            .settings()
            .is_ok_and(|settings| settings.cleanup_policy.compacts())
    })
}
