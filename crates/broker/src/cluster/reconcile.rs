//! Makes true what the metadata says: one task that compares, and acts where something differs.
//!
//! - this broker's replicas: opens those that it is to have, deletes those that a tombstone names, and nothing else;
//! - shards of the coordinator that it leads: asks for more replicas once there are brokers for them;
//! - groups that it leads: brings their members in line with the assignment (a new learner, then a voter, then the
//!   old one leaves);
//! - the metadata group, if it leads it: promotes and demotes its voters.
//!
//! It runs when the image or a leader changes, and again after a pause as long as something is not as it should be.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Command, Image, Topic, TopicKind, metadata_voters, place_more};
use jangada_replication::{Group, Registry};
use jangada_types::{GroupId, Incarnation, PartitionIndex, ReplicaId};
use tokio::time::Instant;

use super::bootstrap;
use super::metadata::Metadata;
use crate::groups::{COORDINATOR_REPLICAS, Shard, Shards};
use crate::partition::{Partition, PartitionMachine, PartitionName, Shared, View, checkpoint_bytes};
use crate::partitions::Partitions;
use crate::repair::Repairs;

/// As long as something is left to do.
const RETRY: Duration = Duration::from_millis(500);
/// When there is nothing to do; members that went out of sync are looked at again.
const IDLE: Duration = Duration::from_secs(5);
/// Between two attempts to open a replica that cannot be opened, at most. It will hardly heal by itself.
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(30);
/// Groups that are opened, or whose members are changed, at once.
const PARALLEL: usize = 16;
/// A new group whose preferred leader does not form it is formed by another replica after this time.
const FORM_AFTER: Duration = Duration::from_secs(2);
/// A learner is promoted when it is at most so many entries behind.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// See the module text.
pub(crate) struct Reconciler {
    pub metadata: Metadata,
    pub partitions: Arc<Partitions>,
    pub shards: Arc<Shards>,
    pub shared: Arc<Shared>,
    /// Damaged replicas, which are opened, or whose data goes, only when the repair says so.
    pub repairs: Arc<Repairs>,
    /// When a group was first seen without a log.
    unformed: BTreeMap<GroupId, Instant>,
    /// Replicas that could not be opened.
    unopened: BTreeMap<GroupId, Unopened>,
}

/// A replica that could not be opened.
#[derive(Debug)]
struct Unopened {
    /// It is logged once.
    cause: String,
    /// Until the next attempt.
    pause: Duration,
    again_at: Instant,
}

impl Unopened {
    /// After one more attempt failed; and whether the cause is another one than before.
    fn again(before: Option<Self>, cause: String, now: Instant) -> (Self, bool) {
        let is_new = before.as_ref().is_none_or(|before| before.cause != cause);
        let pause = before.map_or(RETRY, |before| (before.pause * 2).min(REOPEN_AFTER_MAX));
        let again_at = now + pause;
        (Self { cause, pause, again_at }, is_new)
    }
}

impl Reconciler {
    pub fn new(
        metadata: Metadata,
        partitions: Arc<Partitions>,
        shards: Arc<Shards>,
        shared: Arc<Shared>,
        repairs: Arc<Repairs>,
    ) -> Self {
        Self {
            metadata,
            partitions,
            shards,
            shared,
            repairs,
            unformed: BTreeMap::new(),
            unopened: BTreeMap::new(),
        }
    }

    /// Runs until the metadata is gone.
    pub async fn run(mut self) {
        let mut image = self.metadata.watch();
        let mut leaders = self.metadata.registry.leaders().watch();
        loop {
            leaders.borrow_and_update();
            let current = image.borrow_and_update().clone();
            let settled = self.round(&current).await;
            let pause = tokio::time::sleep(if settled { IDLE } else { RETRY });
            tokio::select! {
                changed = image.changed() => if changed.is_err() { return },
                changed = leaders.changed() => {
                    if changed.is_err() { return }
                    // Elections come in bursts.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                () = pause => {}
            }
        }
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.metadata.registry
    }

    /// Compares once and acts. True: everything is as it should be.
    async fn round(&mut self, image: &Arc<Image>) -> bool {
        if image.cluster_id().is_none() {
            return false;
        }
        self.registry().set_peers(&bootstrap::addresses(&self.metadata));
        let deleted = self.delete_replicas(image).await;
        let opened = self.open_replicas(image).await;
        let formed = self.form_groups(image).await;
        self.forget_leaders(image);
        let grown = self.grow_shards(image).await;
        let members = self.change_members(image).await;
        let voters = self.change_metadata_voters(image).await;
        opened && formed && deleted && grown && members && voters
    }

    async fn open_replicas(&mut self, image: &Arc<Image>) -> bool {
        let broker = self.registry().identity().broker;
        // What a replica left behind that was given up goes first.
        let wanted = image
            .partitions_of(broker)
            .filter(|(wanted, _)| !wanted.is_leaving(broker) && !self.repairs.is_closed(wanted.group));
        let wanted: Vec<_> = wanted
            .map(|(wanted, replica)| (wanted.topic.clone(), wanted.index, wanted.partition.group, replica))
            .collect();
        let mut before = std::mem::take(&mut self.unopened);
        let mut opening = Vec::new();
        for (topic, index, group, replica) in wanted {
            match before.remove(&group) {
                Some(unopened) if Instant::now() < unopened.again_at => {
                    self.unopened.insert(group, unopened);
                }
                before => opening.push((topic, index, group, replica, before)),
            }
        }
        let opening = opening.into_iter().map(async |(topic, index, group, replica, before)| {
            let opened = match topic.kind {
                TopicKind::Log => self.open_replica(&topic, index, group, replica).await,
                TopicKind::Coordinator => self.open_shard(&topic, index, group, replica).await,
            };
            (topic.name.clone(), index, group, before, opened)
        });
        let opened: Vec<_> = futures::stream::iter(opening)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (topic, partition, group, before, opened) in opened {
            match opened {
                Ok(()) if before.is_some() => tracing::info!(%topic, %partition, "a replica could be opened at last"),
                Ok(()) => {}
                Err(cause) => {
                    let (unopened, is_new) = Unopened::again(before, cause, Instant::now());
                    if is_new {
                        tracing::error!(%topic, %partition, error = unopened.cause, "a replica could not be opened");
                    }
                    self.unopened.insert(group, unopened);
                }
            }
        }
        // What is tried rarely is tried when the broker looks in any case.
        self.unopened.values().all(|unopened| unopened.pause > IDLE)
    }

    /// Opens one replica, or gives an open one the topic's settings as they are now. An error is for the log.
    async fn open_replica(
        &self,
        topic: &Topic,
        index: PartitionIndex,
        group_id: GroupId,
        replica: ReplicaId,
    ) -> Result<(), String> {
        let config = topic
            .settings()
            .map_err(|error| format!("the settings of the topic cannot be used: {error}"))?;
        let config = Arc::new(config);
        if let Some(partition) = self.partitions.get(group_id) {
            partition.set_config(config).await;
            return Ok(());
        }
        let view = Arc::new(View::new(checkpoint_bytes(&config)));
        let machine = PartitionMachine::new(group_id, view.clone());
        let opened = self.registry().open_as(group_id, replica, Box::new(machine)).await;
        let group = opened.map_err(|error| error.to_string())?;
        let name = PartitionName {
            topic: topic.name.clone(),
            index,
        };
        let partition = Partition::new(name, group, view, config, self.shared.clone());
        self.partitions.insert(Arc::new(partition));
        // Its leader may be known by now, and a request may wait for both.
        self.registry().leaders().changed();
        Ok(())
    }

    async fn open_shard(
        &self,
        topic: &Topic,
        index: PartitionIndex,
        group_id: GroupId,
        replica: ReplicaId,
    ) -> Result<(), String> {
        if self.shards.get(group_id).is_some() {
            return Ok(());
        }
        let (machine, state) = self.shards.machine(group_id);
        let opened = self.registry().open_as(group_id, replica, Box::new(machine)).await;
        let group = opened.map_err(|error| error.to_string())?;
        let name = PartitionName {
            topic: topic.name.clone(),
            index,
        };
        self.shards
            .insert(Shard::new(name, group, state, self.shards.shared.clone()));
        self.registry().leaders().changed();
        Ok(())
    }

    /// Forms new groups: the preferred leader at once, another replica when that takes too long.
    async fn form_groups(&mut self, image: &Arc<Image>) -> bool {
        let broker = self.registry().identity().broker;
        let mut settled = true;
        let mut still_unformed = BTreeMap::new();
        for (wanted, local) in image.partitions_of(broker) {
            let id = wanted.partition.group;
            let Some(group) = self.registry().group(id) else {
                continue;
            };
            if group.status().term > 0 || group.is_initialized().await {
                continue;
            }
            settled = false;
            let since = *self.unformed.get(&id).unwrap_or(&Instant::now());
            still_unformed.insert(id, since);
            // A replica that was put in later waits for the leader to reach it.
            let is_first = !wanted.partition.is_reassigned;
            let my_turn = wanted.partition.replicas.first() == Some(&local) || since.elapsed() > FORM_AFTER;
            if is_first && my_turn {
                let voters: BTreeSet<ReplicaId> = wanted.partition.replicas.iter().copied().collect();
                if let Err(error) = group.initialize(&voters).await {
                    tracing::warn!(topic = %wanted.topic.name, partition = %wanted.index, %error, "a group could not be formed");
                }
            }
        }
        self.unformed = still_unformed;
        settled
    }

    /// Deletes what a tombstone or an assignment that left a replica out names. Data that no record names stays.
    async fn delete_replicas(&self, image: &Arc<Image>) -> bool {
        let broker = self.registry().identity().broker;
        let mut settled = true;
        let mut deleted: BTreeMap<ReplicaId, Vec<GroupId>> = BTreeMap::new();
        for (group, replica) in image.tombstones_of(broker) {
            if self.delete_replica(group, None).await {
                deleted.entry(replica).or_default().push(group);
            }
        }
        for (partition, replica) in image.leaving_of(broker) {
            let group = partition.group;
            let next = partition.replica_on(broker);
            let goes = match next {
                None => self.has_left(group),
                Some(_) => match self.is_gone(group, replica).await {
                    Some(true) => {
                        deleted.entry(replica).or_default().push(group);
                        continue;
                    }
                    Some(false) => self.repairs.may_delete(group),
                    None => false,
                },
            };
            settled &= goes || next.is_none();
            if goes && self.delete_replica(group, next.map(|next| next.incarnation)).await {
                deleted.entry(replica).or_default().push(group);
            }
        }
        for (replica, groups) in deleted {
            tracing::info!(groups = groups.len(), %replica, "deleted replicas");
            let command = Command::ReplicaDeleted { replica, groups };
            if let Err(error) = self.metadata.propose(&command).await {
                tracing::warn!(%error, "the deletion of replicas could not be recorded yet");
                settled = false;
            }
        }
        settled
    }

    async fn delete_replica(&self, group: GroupId, next: Option<Incarnation>) -> bool {
        if let Some(partition) = self.partitions.get(group) {
            partition.stop_index().await;
        }
        self.partitions.remove(group);
        self.shards.remove(group);
        let deleted = self.registry().delete(group, next).await;
        match &deleted {
            Ok(()) => self.shared.store.damage().forget(group),
            Err(error) => tracing::error!(%group, %error, "a replica could not be deleted"),
        }
        deleted.is_ok()
    }

    /// Whether the data of a replica that was given up is gone already, and what is here belongs to the next one. None: that
    /// cannot be read, so nothing is deleted.
    async fn is_gone(&self, group: GroupId, replica: ReplicaId) -> Option<bool> {
        match self.registry().owner_of(group).await {
            Ok(owner) => Some(owner.is_some_and(|owner| owner > replica.incarnation)),
            Err(error) => {
                tracing::error!(%group, %replica, %error, "it cannot be read whose data is here; it stays");
                None
            }
        }
    }

    /// Forgets who led groups that are gone. Those that this image does not know yet, of which the leader may have been
    /// announced already, have higher ids than all that it knows.
    fn forget_leaders(&self, image: &Image) {
        let newest = image.partitions().map(|partition| partition.partition.group).max();
        self.registry().leaders().retain(|group| {
            group == GroupId::METADATA || Some(group) > newest || image.partition_of_group(group).is_some()
        });
    }

    /// Whether the group goes on without the replica that is open here.
    fn has_left(&self, group: GroupId) -> bool {
        self.registry().group(group).is_none_or(|group| {
            let (members, local) = (group.members(), group.replica());
            !members.voters.contains(&local) && !members.learners.contains(&local)
        })
    }

    /// A coordinator that began in a smaller cluster gets the replicas that it would get today: committed offsets must not
    /// hang on one disk because the first group came early. From one replica straight to three, since with two the loss
    /// of either would stop the shard.
    async fn grow_shards(&self, image: &Arc<Image>) -> bool {
        let mut brokers = image.broker_views();
        brokers.retain(|view| self.registry().is_alive(view.replica.broker));
        if brokers.len() < COORDINATOR_REPLICAS {
            return true;
        }
        let mut settled = true;
        for shard in self.shards.all() {
            let Some(partition) = image.partition_of_group(shard.group.id()) else {
                continue;
            };
            if partition.replicas.len() >= COORDINATOR_REPLICAS || !shard.group.status().ready {
                continue;
            }
            settled = false;
            let group = partition.group;
            let replicas = place_more(&brokers, &partition.replicas, COORDINATOR_REPLICAS, group.get());
            tracing::info!(shard = %shard.name, ?replicas, "there are brokers for more replicas");
            if let Err(error) = self.metadata.propose(&Command::SetReplicas { group, replicas }).await {
                tracing::info!(shard = %shard.name, %error, "more replicas could not be asked for; trying again");
            }
        }
        settled
    }

    /// For each partition that this broker leads.
    async fn change_members(&self, image: &Arc<Image>) -> bool {
        let partitions = self.partitions.all().into_iter();
        let shards = self.shards.all().into_iter();
        let changes = partitions
            .map(|partition| (partition.group.clone(), partition.name.to_string()))
            .chain(shards.map(|shard| (shard.group.clone(), shard.name.to_string())))
            .filter(|(group, _)| group.status().ready)
            .map(|(group, name)| async move {
                let Some(wanted) = image.partition_of_group(group.id()) else {
                    return true;
                };
                let voters: BTreeSet<ReplicaId> = wanted.partition.replicas.iter().copied().collect();
                self.bring_in_line(&group, &voters, &BTreeSet::new(), &name).await
            });
        futures::stream::iter(changes)
            .buffer_unordered(PARALLEL)
            .fold(true, |all, one| async move { all && one })
            .await
    }

    async fn change_metadata_voters(&self, image: &Arc<Image>) -> bool {
        let group = &self.metadata.group;
        if !group.status().ready {
            return true;
        }
        let members = group.members();
        let voters = metadata_voters(&image.quorum_candidates(), &members.voters);
        let learners: BTreeSet<ReplicaId> = image
            .brokers()
            .map(|broker| broker.replica())
            .filter(|replica| !voters.contains(replica))
            .collect();
        self.bring_in_line(group, &voters, &learners, "the metadata").await
    }

    /// One step towards these members. True: they are reached.
    async fn bring_in_line(
        &self,
        group: &Group,
        voters: &BTreeSet<ReplicaId>,
        learners: &BTreeSet<ReplicaId>,
        name: &str,
    ) -> bool {
        let members = group.members();
        if members.changing {
            // Left half way by a leader that died: finish it.
            return report(name, group.set_voters(voters.clone()).await);
        }
        if members.voters == *voters && members.learners == *learners {
            return true;
        }
        let missing: Vec<ReplicaId> = voters
            .union(learners)
            .filter(|replica| !members.voters.contains(replica) && !members.learners.contains(replica))
            .copied()
            .collect();
        if let Some(replica) = missing.first() {
            tracing::info!(group = name, %replica, "adding a replica");
            report(name, group.add_learner(*replica).await);
            return false;
        }
        if members.voters != *voters {
            let new: HashSet<ReplicaId> = voters.difference(&members.voters).copied().collect();
            let committed = group.committed_next();
            let behind =
                |progress: &jangada_replication::ReplicaProgress| progress.matched_next + CAUGHT_UP_ENTRIES < committed;
            let progress = group.progress().unwrap_or_default();
            let caught_up = new
                .iter()
                .all(|replica| progress.iter().any(|p| p.replica == *replica && !behind(p)));
            if !caught_up {
                return false;
            }
            tracing::info!(group = name, ?voters, "changing the voters");
            report(name, group.set_voters(voters.clone()).await);
            return false;
        }
        let superfluous: BTreeSet<ReplicaId> = members.learners.difference(learners).copied().collect();
        if !superfluous.is_empty() {
            tracing::info!(group = name, ?superfluous, "letting replicas go");
            report(name, group.remove_learners(superfluous).await);
        }
        false
    }
}

fn report(name: &str, result: Result<(), jangada_replication::ProposeError>) -> bool {
    if let Err(error) = &result {
        tracing::info!(group = name, %error, "a change of members did not go through; trying again");
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_cannot_be_opened_is_tried_less_and_less_and_told_once_for_each_cause() {
        let mut before = None;
        let mut told = 0;
        let start = Instant::now();
        let mut now = start;
        let mut attempts = 0;
        while now - start < Duration::from_secs(3600) {
            attempts += 1;
            let cause = if attempts < 50 { "damaged" } else { "gone" };
            let (unopened, is_new) = Unopened::again(before, cause.to_owned(), now);
            told += usize::from(is_new);
            now = unopened.again_at;
            before = Some(unopened);
        }
        assert_eq!(told, 2);
        assert!((115..130).contains(&attempts), "{attempts} attempts in an hour");
    }
}
