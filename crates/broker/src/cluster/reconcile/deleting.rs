//! Deletes the data of replicas that left, and reports it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use jangada_controller::{Command, Image};
use jangada_types::{GroupId, Incarnation, ReplicaId};

use super::{Done, OF_A_ROUND, PARALLEL, Reconciler};
use crate::cluster::failpoint;
use crate::cluster::known::Leaving;

impl Reconciler {
    /// Deletes what a tombstone or an assignment that left a replica out names. Data that no record names stays.
    pub(super) async fn delete_replicas(&self, image: &Arc<Image>) -> Done {
        let dead = image.tombstones_of(self.broker());
        let dead = dead.map(|(group, replica)| Leaving {
            group,
            replica,
            next: None,
        });
        let left = self.known.leaving.iter().copied();
        let left = left.filter(|left| left.next.is_some() || self.has_left(left.group));
        let mut leaving: Vec<Leaving> = dead.chain(left).collect();
        let is_more = leaving.len() > OF_A_ROUND;
        leaving.truncate(OF_A_ROUND);
        let all = leaving.len();
        let deleting = leaving
            .into_iter()
            .map(|left| async move { self.delete(left).await.then_some(left) });
        let deleted: Vec<Option<Leaving>> = futures::stream::iter(deleting)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut reports: BTreeMap<ReplicaId, Vec<GroupId>> = BTreeMap::new();
        for left in deleted.iter().flatten() {
            reports.entry(left.replica).or_default().push(left.group);
        }
        let mut settled = deleted.iter().flatten().count() == all;
        for (replica, groups) in reports {
            tracing::info!(groups = groups.len(), %replica, "deleted replicas");
            let command = Command::ReplicaDeleted { replica, groups };
            if let Err(error) = self.metadata.propose(&command).await {
                tracing::warn!(%error, "the deletion of replicas could not be recorded yet");
                settled = false;
            }
        }
        match settled {
            true if is_more => Done::MoreAtOnce,
            true => Done::All,
            false => Done::NotAll,
        }
    }

    /// Deletes the data of one replica, if it may go. True: it is gone.
    async fn delete(&self, left: Leaving) -> bool {
        let next = left.next.map(|next| next.incarnation);
        match left.next {
            // It may lie in what is damaged whose data is here.
            Some(next) if self.repairs.is_surely_old(left.group, next) => {}
            Some(_) => match self.is_gone(left.group, left.replica).await {
                Some(true) => {
                    self.repairs.deleted(left.group);
                    return true;
                }
                Some(false) if self.repairs.may_delete(left.group) => {}
                Some(false) | None => return false,
            },
            None => {}
        }
        let is_deleted = self.delete_replica(left.group, next).await;
        if is_deleted {
            failpoint::reached("repair.deleted");
            self.repairs.deleted(left.group);
        }
        is_deleted
    }

    async fn delete_replica(&self, group: GroupId, next: Option<Incarnation>) -> bool {
        self.replicas.close(group).await;
        let deleted = self.registry().delete(group, next).await;
        match &deleted {
            Ok(()) => self.registry().store().damage().forget(group),
            Err(error) => tracing::error!(%group, %error, "a replica could not be deleted"),
        }
        deleted.is_ok()
    }

    /// Whether the data of a replica that was given up is gone already, and what is here belongs to the next one. None: that
    /// cannot be read, so nothing is deleted.
    async fn is_gone(&self, group: GroupId, replica: ReplicaId) -> Option<bool> {
        match self.registry().owner_of(group).await {
            Ok(owner) => {
                self.repairs.stuck(group, None);
                Some(owner.is_some_and(|owner| owner > replica.incarnation))
            }
            Err(error) => {
                let broker = self.broker();
                let why = format!(
                    "it cannot be read whose data is here ({error}): stop this broker, then `jangada cluster replace-broker \
                     {broker} --yes`, empty its data directory and start it again"
                );
                self.repairs.stuck(group, Some(why));
                None
            }
        }
    }
}
