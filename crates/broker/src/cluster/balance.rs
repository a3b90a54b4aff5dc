//! Puts leaderships back to where the placement wants them: to each partition's preferred leader, the first of its
//! replicas. Placement spreads those evenly, so after a restart the load is even again.
//!
//! One task on each broker looks at the groups of topics that this broker leads, of every kind. A
//! preferred leader must have been alive, sound, in sync and with space on its disk for a while, without a break; then
//! leadership is handed over as an operator would, a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::Image;
use jangada_replication::{Group, Registry};
use jangada_types::{GroupId, ReplicaId};
use tokio::time::Instant;

use super::metadata::Metadata;
use crate::replica::{Hosted, Replicas};

/// Between two looks, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Leaderships on their way at once. Each partition takes nothing for the moment that it takes.
const CONCURRENT_MAX: usize = 4;
/// How long one may take. After that the group elects whom it likes.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// A replica is in sync when it lacks at most so many entries of what is committed: with records streaming in the last
/// few are always on their way, and the partition takes nothing until it has got them. Of the largest batches they are
/// 64 MiB.
const ENTRIES_BEHIND_MAX: u64 = 8;
/// ... and has answered within so many heartbeats.
const HEARTBEATS_SILENT_MAX: u32 = 3;

/// The task that gives leaderships back.
pub(crate) struct Balancer {
    pub metadata: Metadata,
    pub replicas: Arc<Replicas>,
    /// How long a preferred leader must have been fit.
    pub after: Duration,
    /// Since when the preferred leaders of partitions that this broker leads have been fit.
    pub fit_since: BTreeMap<GroupId, Instant>,
}

impl Balancer {
    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval((self.after / 4).clamp(CHECK_INTERVAL / 10, CHECK_INTERVAL));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let due = self.sample();
            let hand_overs = due.into_iter().map(|(replica, to)| self.hand_over(replica, to));
            let handed_over: Vec<GroupId> = futures::stream::iter(hand_overs)
                .buffer_unordered(CONCURRENT_MAX)
                .collect()
                .await;
            // Where it failed it is tried again when the replica has been fit for the whole time again.
            for group in handed_over {
                self.fit_since.remove(&group);
            }
        }
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.metadata.registry
    }

    /// The replicas whose leadership is due to move, and where to.
    fn sample(&mut self) -> Vec<(Arc<Hosted>, ReplicaId)> {
        let image = self.metadata.image();
        let mut fit_since = BTreeMap::new();
        let mut due = Vec::new();
        for replica in self.replicas.all() {
            let Some(to) = self.fit_preferred(&image, &replica.group) else {
                continue;
            };
            let group = replica.id();
            let since = *self.fit_since.get(&group).unwrap_or(&Instant::now());
            fit_since.insert(group, since);
            if since.elapsed() >= self.after {
                due.push((replica, to));
            }
        }
        self.fit_since = fit_since;
        due
    }

    /// The preferred leader of a group that this broker leads, if it is another replica and could take over now.
    fn fit_preferred(&self, image: &Image, group: &Group) -> Option<ReplicaId> {
        let preferred = *image.partition_of_group(group.id())?.partition.replicas.first()?;
        if preferred == group.replica() || !group.status().ready {
            return None;
        }
        let members = group.members();
        if members.changing || !members.voters.contains(&preferred) {
            return None;
        }
        let registry = self.registry();
        if !registry.is_alive(preferred.broker) || registry.low_disks().contains(&preferred.broker) {
            return None;
        }
        // It is damaged: it would give it back, and the partition takes nothing for the time of both.
        if registry.is_unfit(group.id(), preferred.broker) {
            return None;
        }
        let committed_next = group.committed_next();
        let progress = group.progress()?;
        let progress = progress.iter().find(|progress| progress.replica == preferred)?;
        let is_near = progress.matched_next + ENTRIES_BEHIND_MAX >= committed_next;
        let answers = progress
            .silent_for
            .is_some_and(|silent| silent <= registry.heartbeat_interval() * HEARTBEATS_SILENT_MAX);
        (is_near && answers).then_some(preferred)
    }

    async fn hand_over(&self, replica: Arc<Hosted>, to: ReplicaId) -> GroupId {
        let Hosted { name, group, .. } = &*replica;
        // Others went first, and much may have changed meanwhile.
        if self.fit_preferred(&self.metadata.image(), group) == Some(to) {
            self.replicas.about_to_hand_over(group.id());
            match group.transfer_leader(to, HAND_OVER_TIMEOUT).await {
                Ok(status) => {
                    let leader = status.leader.map(|leader| leader.broker.get());
                    tracing::info!(partition = %name, preferred = %to.broker, ?leader, "gave the leadership back");
                }
                Err(error) => {
                    tracing::info!(partition = %name, preferred = %to.broker, %error, "the leadership was not given back");
                }
            }
        }
        group.id()
    }
}
