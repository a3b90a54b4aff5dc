//! The replicas on this broker, of all kinds.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_replication::{OpenError, Registry, StateMachine};
use jangada_types::{GroupId, ReplicaId};
use parking_lot::RwLock;
use tokio::time::MissedTickBehavior;

use super::check_quorum::CheckQuorum;
use super::hosted::{Front, Hosted, Kind, ReplicaName};

/// How often a leader checks whether a quorum still answers it.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// All replicas that are open on this broker. The order is that of the ids, and so is everything that is done with all of them.
pub(crate) struct Replicas {
    pub(super) registry: Arc<Registry>,
    quorum_timeout: Duration,
    by_group: RwLock<BTreeMap<GroupId, Replica>>,
}

struct Replica {
    hosted: Arc<Hosted>,
    front: Arc<dyn Front>,
}

impl Replica {
    /// The front, if the replica is of this kind.
    fn front<F: Front>(&self) -> Option<Arc<F>> {
        let front: Arc<dyn Any + Send + Sync> = self.front.clone();
        front.downcast().ok()
    }
}

impl Replicas {
    /// None yet. A leader that no quorum answered for `quorum_timeout` may have a successor.
    pub fn new(registry: Arc<Registry>, quorum_timeout: Duration) -> Self {
        Self {
            registry,
            quorum_timeout,
            by_group: RwLock::default(),
        }
    }

    /// Opens a replica with its machine, and makes the front that the broker uses it by.
    pub async fn open<F: Front>(
        &self,
        (id, replica): (GroupId, ReplicaId),
        (kind, name): (&'static Kind, ReplicaName),
        machine: Box<dyn StateMachine>,
        front: impl FnOnce(Arc<Hosted>) -> F,
    ) -> Result<Arc<F>, OpenError> {
        let group = self.registry.open_as(id, replica, machine).await?;
        let hosted = Arc::new(Hosted::new(kind, name, group, CheckQuorum::new(self.quorum_timeout)));
        let front = Arc::new(front(hosted.clone()));
        let opened = Replica {
            hosted,
            front: front.clone(),
        };
        self.by_group.write().insert(id, opened);
        // Its leader may be known by now, and a request may wait for both.
        self.registry.leaders().changed();
        Ok(front)
    }

    /// Ends what works for a replica beside Raft, and forgets the replica. The registry closes it, or deletes it.
    pub async fn close(&self, group: GroupId) {
        let front = self.by_group.read().get(&group).map(|replica| replica.front.clone());
        if let Some(front) = front {
            front.close().await;
        }
        self.by_group.write().remove(&group);
    }

    /// A replica that is open here, of whatever kind.
    pub fn get(&self, group: GroupId) -> Option<Arc<Hosted>> {
        self.by_group.read().get(&group).map(|replica| replica.hosted.clone())
    }

    /// The front of a replica that is open here and of this kind.
    pub fn front<F: Front>(&self, group: GroupId) -> Option<Arc<F>> {
        self.by_group.read().get(&group).and_then(Replica::front)
    }

    /// Like [`Replicas::front`], if the replica leads and is ready.
    pub fn ready<F: Front>(&self, group: GroupId) -> Option<Arc<F>> {
        let replicas = self.by_group.read();
        let replica = replicas.get(&group).filter(|replica| replica.hosted.is_ready())?;
        replica.front()
    }

    /// All that are open here.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        let replicas = self.by_group.read();
        replicas.values().map(|replica| replica.hosted.clone()).collect()
    }

    /// The front of a replica that is open here, of whatever kind.
    pub(super) fn any_front(&self, group: GroupId) -> Option<Arc<dyn Front>> {
        self.by_group.read().get(&group).map(|replica| replica.front.clone())
    }

    /// The leadership of a group is about to be handed over.
    pub fn about_to_hand_over(&self, group: GroupId) {
        if let Some(front) = self.any_front(group) {
            front.hand_over();
        }
    }

    /// All leaderships are about to be handed over.
    pub fn about_to_hand_over_all(&self) {
        self.each_front(|_, front| front.hand_over());
    }

    /// Shows all that are open here, without the lock.
    pub(super) fn each_front(&self, mut visit: impl FnMut(&Hosted, &dyn Front)) {
        let shown: Vec<_> = {
            let replicas = self.by_group.read();
            let shown = replicas.values();
            shown
                .map(|replica| (replica.hosted.clone(), replica.front.clone()))
                .collect()
        };
        shown.iter().for_each(|(hosted, front)| visit(hosted, &**front));
    }

    /// The fronts of all that are open here and of this kind.
    pub fn fronts<F: Front>(&self) -> Vec<Arc<F>> {
        self.by_group.read().values().filter_map(Replica::front).collect()
    }

    /// Checks the quorums of all leaders here, for ever. Wakes those who wait for leaders when this broker ceases to be one,
    /// or is one again.
    pub async fn check_quorums(self: Arc<Self>) {
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut has_changed = false;
            for replica in self.all() {
                // Of thousands most are led elsewhere.
                if replica.group.status().leading || replica.check_quorum.is_lost() {
                    has_changed |= check_quorum(&replica);
                }
            }
            if has_changed {
                self.registry.leaders().changed();
            }
        }
    }
}

/// True: whether a quorum answers has changed.
fn check_quorum(replica: &Hosted) -> bool {
    let changed = replica.check_quorum.check(&replica.group);
    if changed == Some(true) {
        let Hosted { kind, title, .. } = replica;
        match kind.is_vital {
            true => tracing::warn!(
                "{title}: no quorum answers this leader: {} until one does",
                kind.without_quorum
            ),
            false => tracing::info!(
                "{title}: no quorum answers this leader: {} until one does",
                kind.without_quorum
            ),
        }
    }
    changed.is_some()
}
