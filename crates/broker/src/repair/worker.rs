//! The task that repairs this broker's damaged replicas, a bounded number at once.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Command, Image, PartitionRef, Reply, admission};
use jangada_replication::Group;
use jangada_types::{GroupId, ReplicaId};

use super::{Case, Repairs, Stage, kind_of};
use crate::cluster::failpoint;
use crate::node::Node;
use crate::services::admin::in_sync_brokers;

/// Between two rounds while a replica is damaged.
const ROUND: Duration = Duration::from_millis(500);
/// Between two rounds while none is.
const IDLE: Duration = Duration::from_secs(30);
/// How long a leadership may take to move.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);
/// How often what comes in the place of a replica may be damaged as well before an operator is asked: its disk is worn out.
const REFILLS_MAX: u32 = 3;
/// A replica that lacks at most so many entries can take a leadership: the hand-over waits for these.
const ENTRIES_BEHIND_MAX: u64 = 64;

/// See the module text.
pub(crate) struct Repairer {
    pub node: Arc<Node>,
}

impl Repairer {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let (repairs, metrics) = (self.node.repairs.clone(), self.node.metrics.clone());
        let listener = move |group: GroupId, what: &str| {
            metrics.damaged(kind_of(what));
            repairs.found(group, what);
        };
        self.node.store().damage().listen(Box::new(listener));
        let mut image = self.node.metadata.watch();
        loop {
            image.borrow_and_update();
            self.round().await;
            let repairs = &self.node.repairs;
            let pause = if repairs.all().is_empty() { IDLE } else { ROUND };
            tokio::select! {
                () = repairs.news.notified() => {}
                // What was given up before a restart is only in an image that has caught up.
                changed = image.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn repairs(&self) -> &Repairs {
        &self.node.repairs
    }

    async fn round(&self) {
        let image = self.node.metadata.image();
        if image.cluster_id().is_none() {
            return;
        }
        self.remember_given_up(&image);
        for (group, case) in self.repairs().all() {
            self.step(&image, group, case).await;
        }
    }

    /// What was given up before a restart goes on by itself; here it only has to be known.
    fn remember_given_up(&self, image: &Image) {
        let broker = self.node.broker();
        for (partition, old) in image.leaving_of(broker) {
            let Some(new) = partition.replica_on(broker) else {
                continue;
            };
            let mut cases = self.repairs().cases.lock();
            let case = cases.entry(partition.group).or_insert_with(|| {
                let mut case = Case::new(format!("found in {old} before this start").into());
                case.stage = Stage::GivenUp(new);
                case
            });
            if case.stage != Stage::GivenUp(new) {
                case.stage = Stage::GivenUp(new);
                (case.may_delete, case.is_old) = (false, false);
            }
        }
    }

    async fn step(&self, image: &Image, group: GroupId, case: Case) {
        let Some(partition) = image.partition_of_group(group) else {
            return self.step_without_partition(group, &case).await;
        };
        let name = format!("{}-{}", partition.topic.name, partition.index);
        if case.name.is_empty() {
            self.repairs().change(group, |case| {
                case.name.clone_from(&name);
                case.topic = partition.topic.name.to_string();
                case.partition = partition.index.get();
            });
            if case.stage == Stage::Found {
                tracing::warn!(%group, partition = name, what = %case.what, "a replica here is damaged");
            }
        }
        let Some(replica) = partition.replica_on(self.node.broker()) else {
            // It was taken off the partition: its data goes in any case.
            self.repairs().remove(group);
            return;
        };
        match case.stage {
            Stage::GivenUp(new) if new == replica => {
                if partition.is_leaving(self.node.broker()) && !case.may_delete {
                    self.allow_deletion(&partition, &name, replica).await;
                } else {
                    self.watch_refill(group, &name, new, &case);
                }
            }
            _ => {
                if let Err(why) = self.give_up(image, &partition, &name, replica, case.refills).await {
                    self.hold(group, &name, why);
                }
            }
        }
    }

    async fn step_without_partition(&self, group: GroupId, case: &Case) {
        if group != GroupId::METADATA {
            self.repairs().remove(group);
            return;
        }
        if case.name.is_empty() {
            self.repairs()
                .change(group, |case| "the metadata".clone_into(&mut case.name));
        }
        let voters = self.node.registry().group(group);
        let voters = voters.map_or(0, |group| group.members().voters.len());
        self.step_down(group, "the metadata", voters).await;
        self.lead_if_nobody_does(group);
        let why = format!("the metadata's replica is not repaired by itself: {}", self.replace());
        self.hold(group, "the metadata", why);
    }

    /// What an operator does where nothing else helps.
    fn replace(&self) -> String {
        let broker = self.node.broker();
        format!(
            "stop this broker, then `jangada cluster replace-broker {broker} --yes`, empty its data directory and start it again"
        )
    }

    fn hold(&self, group: GroupId, name: &str, why: String) {
        let stage = Stage::Held(why);
        self.repairs().change(group, |case| {
            if case.stage != stage {
                tracing::warn!(%group, partition = name, "a replica here is {stage}");
                case.stage = stage;
            }
        });
    }

    /// `is_old`: this process has just closed the replica that was given up.
    fn given_up(&self, group: GroupId, name: &str, new: ReplicaId, is_old: bool) {
        self.repairs().change(group, |case| {
            tracing::warn!(
                %group, partition = name, replica = %new, what = %case.what,
                "a damaged replica is given up; it is filled again under a new id"
            );
            case.stage = Stage::GivenUp(new);
            case.is_closed = false;
            case.may_delete = true;
            case.is_old = is_old;
            case.again = None;
        });
    }

    /// Of a replica that was given up by a proposal whose outcome was unknown, or before a restart: it may have been opened
    /// again meanwhile, and something may have been committed that counted on it.
    async fn allow_deletion(&self, partition: &PartitionRef<'_>, name: &str, new: ReplicaId) {
        self.close(partition.group).await;
        match self.check_others(partition, new).await {
            Ok(()) => self.given_up(partition.group, name, new, false),
            Err(why) => tracing::debug!(
                partition = name,
                why,
                "the data of a replica that was given up stays for now"
            ),
        }
    }

    /// Ends a case when the new replica has a vote, which it gets when it has caught up.
    fn watch_refill(&self, id: GroupId, name: &str, new: ReplicaId, case: &Case) {
        if let Some(what) = &case.again {
            // What was filled again is damaged as well, or cannot be opened: from the beginning.
            tracing::warn!(group = %id, partition = name, replica = %new, %what, "a replica that was filled again is damaged");
            self.repairs().change(id, |case| {
                *case = Case {
                    name: case.name.clone(),
                    topic: case.topic.clone(),
                    partition: case.partition,
                    refills: case.refills + 1,
                    ..Case::new(what.clone())
                };
            });
            return;
        }
        let group = self.node.registry().group(id).filter(|group| group.replica() == new);
        let Some(group) = group else { return };
        if group.members().voters.contains(&new) && !group.members().changing {
            tracing::warn!(group = %id, partition = name, replica = %new, "a damaged replica is filled again");
            self.node.metrics.repaired();
            self.repairs().remove(id);
        }
    }

    /// Takes a replica out of service and gives it up. The error says why it stays as it is.
    async fn give_up(
        &self,
        image: &Image,
        partition: &PartitionRef<'_>,
        name: &str,
        replica: ReplicaId,
        refills: u32,
    ) -> Result<(), String> {
        let id = partition.group;
        self.step_down(id, name, partition.replicas.len()).await;
        // Whatever keeps it from being given up, it must not keep the group without a leader.
        self.lead_if_nobody_does(id);
        let command = admission::validate_renew_replica(image, id, replica).map_err(|why| why.message)?;
        if refills >= REFILLS_MAX {
            let replace = self.replace();
            return Err(format!(
                "what came in its place was damaged {refills} times as well: {replace}"
            ));
        }
        let limit = u64::from(self.node.settings.repair.replicas_max);
        if limit == 0 {
            return Err("repair.replicas_max is 0: replace this broker, or set it".to_owned());
        }
        if self.repairs().count().1 >= limit {
            return Err(format!(
                "{limit} replicas of this broker are being filled again (repair.replicas_max); it waits for its turn"
            ));
        }
        self.check_others(partition, replica).await?;
        // From here on nothing is committed that counts on this replica, so that the second answer stays true.
        self.repairs().change(id, |case| case.is_closed = true);
        self.close(id).await;
        failpoint::reached("repair.closed");
        match self.renew(partition, replica, &command).await {
            Ok(new) => {
                failpoint::reached("repair.given-up");
                self.given_up(id, name, new, true);
                Ok(())
            }
            Err(why) => {
                self.repairs().reopen(id);
                Err(why)
            }
        }
    }

    /// Of a replica that is closed.
    async fn renew(
        &self,
        partition: &PartitionRef<'_>,
        replica: ReplicaId,
        command: &Command,
    ) -> Result<ReplicaId, String> {
        self.check_others(partition, replica).await?;
        match self.node.metadata.propose(command).await {
            Ok((Reply::ReplicaRenewed { replica, .. }, _)) => Ok(replica),
            Ok((other, _)) => Err(format!("not the reply to a renewal: {other:?}")),
            Err(error) => Err(format!("it could not be given up yet: {error}")),
        }
    }

    /// Hands the leadership over and leads no more. Where no other replica is in sync this one goes on, as far as it can.
    async fn step_down(&self, id: GroupId, name: &str, replicas: usize) {
        let Some(group) = self.node.registry().group(id) else {
            return;
        };
        if replicas < 2 || group.status().stopped {
            return;
        }
        if group.status().leading {
            let Some(to) = self.successor(&group) else { return };
            // Not before: it leads again should nobody take over.
            match group.transfer_leader(to, HAND_OVER_WITHIN).await {
                Ok(_) => {
                    tracing::warn!(group = %id, partition = name, to = %to.broker, "a damaged replica handed its leadership over")
                }
                Err(error) => {
                    let to = to.broker;
                    tracing::warn!(group = %id, partition = name, %to, %error, "a damaged replica keeps its leadership");
                    return;
                }
            }
        }
        if self.node.live_leader_of(id).is_some() {
            self.node.registry().refuse_to_lead(id);
        }
    }

    /// A damaged replica that has everything is better than none: when nobody led for a while it stands for election again.
    fn lead_if_nobody_does(&self, id: GroupId) {
        let is_led = self.node.live_leader_of(id).is_some();
        let mut leads = false;
        self.repairs().change(id, |case| leads = case.should_lead(is_led));
        if leads {
            self.node.registry().lead_again(id);
        }
    }

    fn successor(&self, group: &Group) -> Option<ReplicaId> {
        let members = group.members();
        let committed = group.committed_next();
        let fit = group.progress()?.into_iter().filter(|progress| {
            progress.replica != group.replica()
                && members.voters.contains(&progress.replica)
                && progress.matched_next + ENTRIES_BEHIND_MAX >= committed
                && !self.node.registry().is_unfit(group.id(), progress.replica.broker)
                && self.node.registry().is_alive(progress.replica.broker)
        });
        fit.max_by_key(|progress| progress.matched_next)
            .map(|progress| progress.replica)
    }

    /// Whether a majority of all replicas, without this one, has everything that is committed.
    async fn check_others(&self, partition: &PartitionRef<'_>, replica: ReplicaId) -> Result<(), String> {
        let majority = partition.replicas.len() / 2 + 1;
        let in_sync = in_sync_brokers(&self.node, partition).await;
        let Some((leader, in_sync)) = in_sync else {
            return Err("no leader of the partition answers".to_owned());
        };
        if leader == replica.broker {
            return Err("no other replica is in sync and could lead; it goes on leading".to_owned());
        }
        let others = in_sync.iter().filter(|broker| **broker != replica.broker.get()).count();
        if others >= majority {
            return Ok(());
        }
        Err(format!(
            "{others} of the other replicas are in sync, and {majority} must be: it may be the only one that has all records"
        ))
    }

    async fn close(&self, id: GroupId) {
        if let Some(partition) = self.node.partitions.get(id) {
            partition.stop_index().await;
        }
        self.node.partitions.remove(id);
        self.node.shards.remove(id);
        self.node.registry().give_up(id).await;
    }
}
