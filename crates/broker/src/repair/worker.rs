//! The task that repairs this broker's damaged replicas, a bounded number at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Command, Image, PartitionRef, Reply, admission};
use jangada_replication::Group;
use jangada_types::{GroupId, ReplicaId};
use tokio::time::Instant;

use super::evidence::check_others;
use super::{Case, Repairs, Stage, kind_of, waits_for_room};
use crate::cluster::failpoint;
use crate::node::Node;

/// Between two rounds while a replica is damaged.
const ROUND: Duration = Duration::from_millis(500);
/// Between two rounds while none is.
const IDLE: Duration = Duration::from_secs(30);
/// Cases that are handled at once. Most of the time they wait for an answer.
const CONCURRENT_MAX: usize = 32;
/// How long a leadership may take to move.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the replica that takes a damaged one's place may be damaged as well before an operator is asked, because the disk is worn
/// out.
const REFILLS_MAX: u32 = 3;
/// A replica that lacks at most so many entries can take a leadership: the hand-over waits for these.
const ENTRIES_BEHIND_MAX: u64 = 64;

/// The task that repairs the damaged replicas of this broker.
pub(crate) struct Repairer {
    pub node: Arc<Node>,
}

impl Repairer {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let (repairs, metrics) = (self.node.repairs.clone(), self.node.metrics.clone());
        let registry = Arc::downgrade(self.node.registry());
        let listener = move |group: GroupId, what: &str| {
            metrics.damaged(kind_of(what));
            repairs.found(group, what);
            if let Some(registry) = registry.upgrade() {
                registry.tell_unfit(group);
            }
        };
        self.node.store().damage().listen(Box::new(listener));
        let mut image = self.node.metadata.watch();
        loop {
            image.borrow_and_update();
            beside(self.round(), ROUND, || self.watch_leaders()).await;
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
        let steps = self
            .repairs()
            .all()
            .into_iter()
            .map(|(group, _)| self.check_group(group));
        futures::stream::iter(steps)
            .buffer_unordered(CONCURRENT_MAX)
            .collect::<()>()
            .await;
    }

    /// The metadata as of now, as waiting for other brokers takes time.
    async fn check_group(&self, group: GroupId) {
        let image = self.node.metadata.image();
        if let Some(case) = self.repairs().case(group) {
            self.step(&image, group, case).await;
        }
    }

    /// What must not wait for anybody's answer: the others know which replicas are damaged, and a damaged replica that has everything
    /// is better than none. When nobody led for a while it stands for election again.
    fn watch_leaders(&self) {
        let now = Instant::now();
        for (group, case) in self.repairs().all() {
            // Under its new id it is sound, and its old one is gone, or about to go.
            let here = self.node.registry().group(group).map(|group| group.replica());
            if matches!(case.stage, Stage::GivenUp(new) if case.may_delete || here == Some(new)) {
                continue;
            }
            self.node.registry().tell_unfit(group);
            let is_led = self.node.replicas.live_leader_of(group).is_some();
            let mut leads = false;
            self.repairs()
                .change(group, |case| leads = case.should_lead(is_led, now));
            if leads {
                self.node.registry().lead_again(group);
            }
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
                if !partition.is_leaving(self.node.broker()) {
                    // Its data was gone already when it was closed: the next one may be opened.
                    if case.is_closed {
                        self.reopen(group);
                    }
                    self.watch_refill(group, &name, new, &case);
                } else if !case.may_delete {
                    self.allow_deletion(&partition, &name, replica).await;
                }
            }
            _ => {
                if let Err(why) = self.give_up(image, &partition, &name, replica, case.refills).await {
                    self.hold(group, &name, why);
                    self.restart_if_stopped(group, &name).await;
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
        });
        self.repairs().given_up(group, new, is_old);
    }

    /// Of a replica that was given up by a proposal whose outcome was unknown, or before a restart: it was opened again, and
    /// something may have been committed that counts on it. Until the others have everything the group may need its vote.
    async fn allow_deletion(&self, partition: &PartitionRef<'_>, name: &str, new: ReplicaId) {
        let id = partition.group;
        self.step_down(id, name, partition.replicas.len()).await;
        match self.close_if_others_have_all(partition, new).await {
            Ok(()) => self.given_up(id, name, new, false),
            Err(why) => {
                tracing::debug!(
                    partition = name,
                    why,
                    "the data of a replica that was given up stays for now"
                );
                self.restart_if_stopped(id, name).await;
            }
        }
    }

    /// Asks, closes the old replica, asks again; opened again if the second answer is no.
    async fn close_if_others_have_all(&self, partition: &PartitionRef<'_>, new: ReplicaId) -> Result<(), String> {
        check_others(&self.node, partition, new).await?;
        // Its data may have gone meanwhile, and the next one be here.
        let image = self.node.metadata.image();
        let now = image.partition_of_group(partition.group);
        if !now.is_some_and(|now| now.is_leaving(self.node.broker())) {
            return Err("it is gone".to_owned());
        }
        self.close_for_good(partition.group).await?;
        let checked = check_others(&self.node, partition, new).await;
        if checked.is_err() {
            self.reopen(partition.group);
        }
        checked
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
            self.node.registry().tell_fit(id);
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
            return Err(waits_for_room(limit));
        }
        check_others(&self.node, partition, replica).await?;
        // From here on nothing is committed that counts on this replica, so that the second answer stays true.
        self.repairs().close_within(id, limit)?;
        self.close(id).await;
        failpoint::reached("repair.closed");
        match self.renew(partition, replica, &command).await {
            Ok(new) => {
                failpoint::reached("repair.given-up");
                self.given_up(id, name, new, true);
                Ok(())
            }
            Err(why) => {
                self.reopen(id);
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
        check_others(&self.node, partition, replica).await?;
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
            match group.transfer_leader(to, HAND_OVER_TIMEOUT).await {
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
        if self.node.replicas.live_leader_of(id).is_some() {
            self.node.registry().refuse_to_lead(id);
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

    /// Closes a replica, which is not opened again before its data is gone or [`Repairer::reopen`] says so.
    async fn close_for_good(&self, id: GroupId) -> Result<(), String> {
        self.repairs().keep_closed(id)?;
        self.close(id).await;
        Ok(())
    }

    /// Lets the reconciler open a replica again that was closed.
    fn reopen(&self, id: GroupId) {
        self.repairs().reopen(id);
        // The reconciler watches these.
        self.node.registry().leaders().changed();
    }

    /// A damaged replica that stays is worth its vote, and all that it can still read. One that met damage while it led and filled
    /// another one, or while it applied, has stopped: it is started again, and leads only if no other can.
    async fn restart_if_stopped(&self, id: GroupId, name: &str) {
        let group = self.node.registry().group(id);
        if group.is_none_or(|group| !group.status().stopped) {
            return;
        }
        let mut is_due = false;
        self.repairs()
            .change(id, |case| is_due = case.should_restart(Instant::now()));
        if !is_due || self.close_for_good(id).await.is_err() {
            return;
        }
        tracing::warn!(group = %id, partition = name, "a damaged replica has stopped, and is started again");
        // Others have as long as ever to take over.
        self.repairs().change(id, |case| case.leaderless = None);
        self.reopen(id);
    }

    async fn close(&self, id: GroupId) {
        self.node.replicas.close(id).await;
        self.node.registry().give_up(id).await;
    }
}

/// Does the work, and looks every so often until it is done; at once for the first time.
async fn beside<T>(work: impl Future<Output = T>, every: Duration, mut look: impl FnMut()) -> T {
    tokio::pin!(work);
    loop {
        look();
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(every) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaders that hang hold up one another's questions, and not the look at who leads.
    #[tokio::test]
    async fn replicas_are_watched_while_leaders_do_not_answer() {
        let repairs = Repairs::default();
        let groups: Vec<GroupId> = (1..=50).map(GroupId).collect();
        for group in &groups {
            repairs.found(*group, "x");
        }
        let mut now = Instant::now();
        let mut stood = Vec::new();
        let (enough, is_enough) = tokio::sync::oneshot::channel::<()>();
        let mut enough = Some(enough);
        let begin = now;
        let look = || {
            for group in &groups {
                repairs.change(*group, |case| {
                    if case.should_lead(false, now) {
                        stood.push((*group, now - begin));
                    }
                });
            }
            if stood.len() >= groups.len()
                && let Some(enough) = enough.take()
            {
                let _ = enough.send(());
            }
            now += ROUND;
        };
        // Each question hangs until all have stood: none would if they came after it.
        let _ = tokio::time::timeout(
            Duration::from_secs(5),
            beside(is_enough, Duration::from_millis(1), look),
        )
        .await;
        assert!(stood.len() >= groups.len(), "{} stood", stood.len());
        assert!(
            stood[..groups.len()]
                .iter()
                .all(|(_, after)| *after <= Duration::from_secs(6))
        );
    }
}
