//! Makes true what the metadata says: one task that compares, and acts where something differs.
//!
//! - this broker's replicas: opens those that it is to have, deletes those that a tombstone names, and nothing else;
//! - groups that it leads and that have fewer replicas than their kind wants: asks for more once there are brokers for
//!   them;
//! - groups that it leads: brings their members in line with the assignment (a new learner, then a voter, then the
//!   old one leaves);
//! - the metadata group, if it leads it: promotes and demotes its voters.
//!
//! It runs when the image or a leader changes, and again after a pause as long as something is not as it should be. What
//! was found to be as it should be is not looked at again before the image, its leader or a moment of rest gives reason to:
//! there may be thousands of replicas, and elections come in bursts.

mod deleting;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Command, Image, PartitionRef, metadata_voters, place_more};
use jangada_replication::Registry;
use jangada_types::{BrokerId, GroupId, PartitionIndex, ReplicaId};
use tokio::time::Instant;

use super::bootstrap;
use super::forming::Forming;
use super::known::Known;
use super::metadata::Metadata;
use super::opening::{Opener, Opening, RETRY, Unopened};
use crate::groups;
use crate::partition::{self, Partition};
use crate::queues::QueueSpec;
use crate::repair::Repairs;
use crate::replica::{Hosted, ReplicaName, Replicas};

/// When there is nothing to do; members that went out of sync are looked at again.
const IDLE: Duration = Duration::from_secs(5);
/// Groups that are opened or deleted, or whose members are changed, at once.
const PARALLEL: usize = 16;
/// Replicas that one round opens or deletes at most, so that the rest is not held up. Brokers take them in the same order,
/// so those that are to elect a leader are open at about the same time.
const OF_A_ROUND: usize = 256;
/// After a leader changed, before the next round: elections come in bursts. As many times longer than the last round took,
/// within these bounds.
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_millis(100);
const REST_TIMES: u32 = 9;
/// A learner is promoted when it is at most so many entries behind.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// The task that makes true what the metadata says.
pub(crate) struct Reconciler {
    pub metadata: Metadata,
    pub replicas: Arc<Replicas>,
    opener: Opener,
    /// Damaged replicas, which are opened, or whose data goes, only when the repair says so.
    pub repairs: Arc<Repairs>,
    /// Groups that are to be formed.
    forming: Forming,
    /// What the last round found in the image.
    known: Known,
    /// Replicas that could not be opened.
    unopened: BTreeMap<GroupId, Unopened>,
}

/// How far a round came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// Everything is as it should be.
    All,
    /// Something is not, and is tried again after a pause.
    NotAll,
    /// There is more to do than one round takes.
    MoreAtOnce,
}

impl Done {
    fn and(self, other: Done) -> Done {
        match (self, other) {
            (Done::MoreAtOnce, _) | (_, Done::MoreAtOnce) => Done::MoreAtOnce,
            (Done::NotAll, _) | (_, Done::NotAll) => Done::NotAll,
            (Done::All, Done::All) => Done::All,
        }
    }
}

impl Reconciler {
    pub fn new(
        metadata: Metadata,
        replicas: Arc<Replicas>,
        partitions: Arc<partition::Shared>,
        groups: Arc<groups::Shared>,
        repairs: Arc<Repairs>,
    ) -> Self {
        Self {
            opener: Opener {
                replicas: replicas.clone(),
                partitions,
                groups,
            },
            metadata,
            replicas,
            repairs,
            forming: Forming::default(),
            known: Known::default(),
            unopened: BTreeMap::new(),
        }
    }

    /// Runs until the metadata is gone.
    pub async fn run(mut self) {
        let mut image = self.metadata.watch();
        let mut leaders = self.metadata.registry.leaders().watch();
        let mut all_looked_at = Instant::now();
        loop {
            leaders.borrow_and_update();
            let current = image.borrow_and_update().clone();
            let started = Instant::now();
            if started - all_looked_at >= IDLE {
                self.known.forget_members();
                all_looked_at = started;
            }
            let pause = match self.round(&current).await {
                Done::All => IDLE,
                Done::NotAll => RETRY,
                Done::MoreAtOnce => {
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let rest = (started.elapsed() * REST_TIMES).clamp(REST_MIN, REST_MAX);
            tokio::select! {
                changed = image.changed() => if changed.is_err() { return },
                changed = leaders.changed() => {
                    if changed.is_err() { return }
                    // What is created or deleted meanwhile does not wait.
                    tokio::select! {
                        changed = image.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(rest) => {}
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.metadata.registry
    }

    fn broker(&self) -> BrokerId {
        self.registry().identity().broker
    }

    /// Compares once and acts.
    async fn round(&mut self, image: &Arc<Image>) -> Done {
        if image.cluster_id().is_none() {
            return Done::NotAll;
        }
        self.registry().set_peers(&bootstrap::addresses(&self.metadata));
        if self.known.version != Some(image.version()) {
            self.learn(image).await;
        }
        // What goes makes room for what comes.
        let deleted = self.delete_replicas(image).await;
        let opened = self.open_replicas(image).await;
        let formed = self.form_groups(image).await;
        let grown = self.grow_groups(image).await;
        let members = self.change_members(image).await;
        let voters = self.change_metadata_voters(image).await;
        match deleted.and(opened) {
            Done::All if formed && grown && members && voters => Done::All,
            Done::All => Done::NotAll,
            more => more,
        }
    }

    /// Takes what is new from an image. Open replicas get their topics' settings.
    async fn learn(&mut self, image: &Image) {
        for topic in self.known.learn(image, self.broker()) {
            // Settings that can't be read are told when a replica is opened; those that are open keep the ones they have.
            let Ok(config) = self.known.settings_of(&topic) else {
                continue;
            };
            for partition in &topic.partitions {
                if let Some(partition) = self.replicas.front::<Partition>(partition.group) {
                    partition.set_config(config.clone()).await;
                }
            }
        }
        for topic in self.known.learn_queues(image) {
            for (index, partition) in (0..).map(PartitionIndex).zip(&topic.partitions) {
                if let Some(partition) = self.replicas.front::<Partition>(partition.group) {
                    partition.set_queues(QueueSpec::all_of(image.queues_of(topic.id), &topic, index));
                }
            }
        }
        self.forget_leaders(image);
    }

    async fn open_replicas(&mut self, image: &Arc<Image>) -> Done {
        // The repair closes replicas without a change of the image.
        let is_known = self.known.opened == Some(image.version()) && self.unopened.is_empty();
        if is_known && self.repairs.count() == (0, 0) {
            return Done::All;
        }
        let broker = self.broker();
        let mut before = std::mem::take(&mut self.unopened);
        let mut opening = Vec::new();
        let (mut is_more, mut waits) = (false, false);
        for (wanted, replica) in image.partitions_of(broker) {
            let group = wanted.partition.group;
            // What a replica left behind that was given up goes first. As long as it may not go the group may need its vote.
            let leaving = wanted.leaving.iter().copied().find(|leaving| leaving.broker == broker);
            waits |= leaving.is_some();
            if self.repairs.is_closed(group) || leaving.is_some() && self.repairs.may_delete(group) {
                waits = true;
                continue;
            }
            let replica = leaving.unwrap_or(replica);
            match before.remove(&group) {
                Some(unopened) if Instant::now() < unopened.again_at => {
                    self.unopened.insert(group, unopened);
                    continue;
                }
                _ if self.replicas.get(group).is_some() => {}
                before if opening.len() < OF_A_ROUND => opening.push(self.opening_of(image, &wanted, replica, before)),
                before => {
                    is_more = true;
                    self.unopened.extend(before.map(|before| (group, before)));
                }
            }
        }
        self.open_all(opening).await;
        if is_more {
            return Done::MoreAtOnce;
        }
        self.known.opened = (!waits).then_some(image.version());
        // What is tried rarely is tried when the broker looks in any case.
        match self.unopened.values().all(|unopened| unopened.pause > IDLE) {
            true => Done::All,
            false => Done::NotAll,
        }
    }

    fn opening_of(
        &mut self,
        image: &Image,
        wanted: &PartitionRef<'_>,
        replica: ReplicaId,
        before: Option<Unopened>,
    ) -> Opening {
        let topic = wanted.topic.clone();
        Opening {
            queues: QueueSpec::all_of(image.queues_of(topic.id), &topic, wanted.index),
            index: wanted.index,
            group: wanted.partition.group,
            replica,
            is_leaving: !wanted.replicas.contains(&replica),
            has_others: wanted.replicas.len() > 1,
            config: self.known.settings_of(&topic),
            before,
            topic,
        }
    }

    async fn open_all(&mut self, opening: Vec<Opening>) {
        let this = &*self;
        let opening = opening.into_iter().map(|opening| async move {
            let group = opening.group;
            let opened = this.open(&opening).await;
            let is_formed = match (&opened, this.registry().group(group)) {
                (Ok(()), Some(group)) => group.status().term > 0 || group.is_initialized().await,
                _ => true,
            };
            (opening, opened, is_formed)
        });
        let opened: Vec<_> = futures::stream::iter(opening)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (opening, opened, is_formed) in opened {
            let (topic, partition, group) = (&opening.topic.name, opening.index, opening.group);
            if !is_formed {
                self.forming.opened(group, Instant::now());
            }
            match opened {
                Ok(()) if opening.before.is_some() => {
                    tracing::info!(%topic, %partition, "a replica could be opened at last");
                }
                Ok(()) => {}
                Err(cause) => {
                    let (unopened, is_new) = Unopened::again(opening.before, cause, Instant::now());
                    if is_new {
                        tracing::error!(%topic, %partition, error = unopened.cause, "a replica could not be opened");
                    }
                    self.unopened.insert(group, unopened);
                }
            }
        }
    }

    /// Opens a replica, unless it must not be. An error is for the log.
    async fn open(&self, opening: &Opening) -> Result<(), String> {
        let group = opening.group;
        let Some(_opening) = self.repairs.begin_opening(group) else {
            return Ok(());
        };
        if opening.is_leaving && !self.is_there(group, opening.replica).await? {
            return Ok(());
        }
        self.opener.open(opening).await?;
        // Before it can stand for election: it would lead until it meets the damage again.
        let is_damaged = opening.is_leaving || self.registry().store().damage().of(group).is_some();
        if is_damaged && opening.has_others {
            self.registry().refuse_to_lead(group);
        }
        Ok(())
    }

    /// Whether the data that is here is that of this replica.
    async fn is_there(&self, group: GroupId, replica: ReplicaId) -> Result<bool, String> {
        let owner = self
            .registry()
            .owner_of(group)
            .await
            .map_err(|error| error.to_string())?;
        Ok(owner.unwrap_or(self.registry().identity().incarnation) == replica.incarnation)
    }

    /// Forms new groups, at their pace: the preferred leader at once, another replica when that takes too long.
    async fn form_groups(&mut self, image: &Arc<Image>) -> bool {
        let registry = self.registry().clone();
        let has_leader = |group| {
            registry
                .group(group)
                .is_none_or(|group| group.status().leader.is_some())
        };
        let now = Instant::now();
        self.forming.settle(now, has_leader);
        let mut mine = Vec::new();
        for id in self.forming.unformed() {
            let (Some(wanted), Some(group)) = (image.partition_of_group(id), registry.group(id)) else {
                self.forming.is_done(id);
                continue;
            };
            // Another replica was faster.
            if group.status().term > 0 {
                self.forming.is_done(id);
                continue;
            }
            let is_preferred = wanted.partition.replicas.first() == Some(&group.replica());
            // A replica that was put in later waits for the leader to reach it.
            let Some(voters) = wanted.partition.forms_with(group.replica()) else {
                continue;
            };
            if (is_preferred || self.forming.is_overdue(id, now)) && mine.len() < self.forming.room() {
                let voters: BTreeSet<ReplicaId> = voters.iter().copied().collect();
                mine.push((group, voters));
            }
        }
        let forming = mine.into_iter().map(|(group, voters)| async move {
            let formed = group.initialize(&voters).await;
            (group.id(), formed)
        });
        let formed: Vec<_> = futures::stream::iter(forming)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (group, formed) in formed {
            match formed {
                Ok(()) => self.forming.formed(group, now),
                Err(error) => tracing::warn!(%group, %error, "a group could not be formed"),
            }
        }
        self.forming.is_settled()
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

    /// A group that began in a smaller cluster gets the replicas that its kind would get today: the coordinator's committed
    /// offsets must not hang on one disk because the first group came early. From one replica straight to three, since with
    /// two the loss of either would stop the shard.
    async fn grow_groups(&mut self, image: &Arc<Image>) -> bool {
        let lacking = self.replicas.all().into_iter().filter_map(|replica| {
            let partition = image.partition_of_group(replica.id())?;
            (partition.replicas.len() < replica.kind.replicas_min).then_some((replica, partition))
        });
        let lacking: Vec<_> = lacking.collect();
        if lacking.is_empty() {
            return true;
        }
        let mut brokers = image.broker_views();
        brokers.retain(|view| self.registry().is_alive(view.replica.broker));
        let mut settled = true;
        for (replica, partition) in lacking {
            let wanted = replica.kind.replicas_min;
            if brokers.len() < wanted || !replica.is_ready() {
                continue;
            }
            settled = false;
            let group = partition.group;
            let replicas = place_more(&brokers, &partition.replicas, wanted, group.get());
            tracing::info!(group = %replica.name, ?replicas, "there are brokers for more replicas");
            if let Err(error) = self.metadata.propose(&Command::SetReplicas { group, replicas }).await {
                tracing::info!(group = %replica.name, %error, "more replicas could not be asked for; trying again");
            }
        }
        settled
    }

    /// For each group of a topic that this broker leads.
    async fn change_members(&mut self, image: &Arc<Image>) -> bool {
        let changes = self.replicas.all().into_iter().filter_map(|replica| {
            let status = replica.group.status();
            let wanted = image.partition_of_group(replica.id()).filter(|_| status.ready)?;
            let (term, topic) = (status.term, wanted.topic);
            let is_in_line = self.known.is_in_line(replica.id(), term, topic);
            (!is_in_line).then(|| {
                let voters: BTreeSet<ReplicaId> = wanted.partition.replicas.iter().copied().collect();
                (replica, term, topic.clone(), voters)
            })
        });
        let changes: Vec<_> = changes.collect();
        let this = &*self;
        let changed = changes.into_iter().map(|(replica, term, topic, voters)| async move {
            let is_reached = this.change_membership(&replica, &voters, &BTreeSet::new()).await;
            (replica.id(), term, topic, is_reached)
        });
        let changed: Vec<_> = futures::stream::iter(changed)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut all_reached = true;
        for (group, term, topic, is_reached) in changed {
            all_reached &= is_reached;
            if is_reached {
                self.known.are_in_line(group, term, topic);
            }
        }
        all_reached
    }

    async fn change_metadata_voters(&self, image: &Arc<Image>) -> bool {
        let replica = &self.metadata.hosted;
        if !replica.is_ready() {
            return true;
        }
        let members = replica.group.members();
        let voters = metadata_voters(&image.quorum_candidates(), &members.voters);
        let learners: BTreeSet<ReplicaId> = image
            .brokers()
            .map(|broker| broker.replica())
            .filter(|replica| !voters.contains(replica))
            .collect();
        self.change_membership(replica, &voters, &learners).await
    }

    /// One step towards these members. True: they are reached.
    async fn change_membership(
        &self,
        Hosted { group, name, .. }: &Hosted,
        voters: &BTreeSet<ReplicaId>,
        learners: &BTreeSet<ReplicaId>,
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
            tracing::info!(group = %name, %replica, "adding a replica");
            report(name, group.add_learner(*replica).await);
            return false;
        }
        if members.voters != *voters {
            let new: HashSet<ReplicaId> = voters.difference(&members.voters).copied().collect();
            let committed = group.committed_next();
            // One that has nothing yet may never have been there, however short the log is: the change would wait for its vote.
            let behind = |progress: &jangada_replication::ReplicaProgress| {
                progress.matched_next == 0 || progress.matched_next + CAUGHT_UP_ENTRIES < committed
            };
            let progress = group.progress().unwrap_or_default();
            let caught_up = new
                .iter()
                .all(|replica| progress.iter().any(|p| p.replica == *replica && !behind(p)));
            if !caught_up {
                return false;
            }
            tracing::info!(group = %name, ?voters, "changing the voters");
            report(name, group.set_voters(voters.clone()).await);
            return false;
        }
        let superfluous: BTreeSet<ReplicaId> = members.learners.difference(learners).copied().collect();
        if !superfluous.is_empty() {
            tracing::info!(group = %name, ?superfluous, "letting replicas go");
            report(name, group.remove_learners(superfluous).await);
        }
        false
    }
}

fn report(name: &ReplicaName, result: Result<(), jangada_replication::ProposeError>) -> bool {
    if let Err(error) = &result {
        tracing::info!(group = %name, %error, "a change of members did not go through; trying again");
    }
    result.is_ok()
}
