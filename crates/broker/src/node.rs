//! What the services of one broker share, once it is part of a cluster.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{BrokerView, Command, Image, Reply, Topic, admission, place};
use jangada_replication::{Group, Registry};
use jangada_storage::Store;
use jangada_types::{BrokerId, GroupId, PartitionIndex, ProducerEpoch, ProducerId, Reason, TopicId};
use tokio::sync::{Mutex, watch};

use crate::admission::{Budgets, Caller};
use crate::cluster::metadata::Metadata;
use crate::error::RequestError;
use crate::groups::{COORDINATOR_REPLICAS, Shard, Shards};
use crate::metrics::Metrics;
use crate::partition::{Partition, Room, Shared};
use crate::partitions::{Partitions, Target};
use crate::pool::Pool;
use crate::quorum::{self, Quorum};
use crate::repair::Repairs;
use crate::repair::scrub::ScrubStatus;
use crate::seams::Seams;
use crate::settings::BrokerSettings;

/// Producer ids that a broker takes from the metadata group at once.
const PRODUCER_ID_BLOCK: u32 = 1000;
/// How long a request waits for a leader that is being elected or for a replica that is being opened, before it is
/// sent away.
const LEADER_PATIENCE: Duration = Duration::from_millis(1500);
/// After this time a client should look for the leader again.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// See the module text.
pub(crate) struct Node {
    pub settings: BrokerSettings,
    pub metadata: Metadata,
    /// Whether a quorum answers this broker as the leader of the metadata group.
    pub metadata_quorum: Quorum,
    pub partitions: Arc<Partitions>,
    pub shards: Arc<Shards>,
    /// Damaged replicas here.
    pub repairs: Arc<Repairs>,
    pub scrub: ScrubStatus,
    pub metrics: Arc<Metrics>,
    pub seams: Seams,
    shared: Arc<Shared>,
    /// True: this broker stops; streams end, new requests are refused.
    stopping: watch::Receiver<bool>,
    /// What the clients share.
    pub budgets: Arc<Budgets>,
    /// Ids that nobody got yet.
    producer_ids: Mutex<std::ops::Range<i64>>,
    /// Held while the coordinator's shards are created, so that the first members of a cluster ask for them once.
    creating: Mutex<()>,
}

impl Node {
    pub fn new(
        settings: BrokerSettings,
        metadata: Metadata,
        partitions: Arc<Partitions>,
        seams: Seams,
        shared: Arc<Shared>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let budgets = Budgets::new(&settings.limits, shared.metrics.admission.clone());
        let shards = Shards::new(&settings, shared.clock.clone(), shared.metrics.groups.clone());
        Self {
            metadata_quorum: Quorum::new(quorum::within(&settings)),
            settings,
            metadata,
            partitions,
            shards: Arc::new(shards),
            repairs: Arc::default(),
            scrub: ScrubStatus::default(),
            metrics: shared.metrics.clone(),
            seams,
            shared,
            stopping,
            budgets,
            producer_ids: Mutex::new(0..0),
            creating: Mutex::new(()),
        }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.metadata.registry
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// As [`Shared::check_disk`].
    pub fn check_disk(&self, group: &Group, name: impl Display) -> Result<(), RequestError> {
        self.shared.check_disk(group, name)
    }

    /// As [`Shared::room`].
    pub fn room(&self, caller: &Arc<Caller>, bytes: usize) -> Result<Room, RequestError> {
        self.shared.room(caller, bytes)
    }

    /// The time that records without one get, milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    /// Packing, unpacking and checking of batches.
    pub fn compute(&self) -> &Pool {
        &self.shared.compute
    }

    pub fn broker(&self) -> BrokerId {
        self.registry().identity().broker
    }

    /// Returns when the broker begins to stop; with what a request that still waits is told then.
    pub async fn stopping(&self) -> RequestError {
        let mut stopping = self.stopping.clone();
        // An error: the sender is gone, so the broker has stopped.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        self.shutting_down()
    }

    pub fn refuse_when_stopping(&self) -> Result<(), RequestError> {
        if *self.stopping.borrow() {
            return Err(self.shutting_down());
        }
        Ok(())
    }

    fn shutting_down(&self) -> RequestError {
        let message = format!("broker {} is shutting down: go to another one", self.broker());
        RequestError::new(Reason::ShuttingDown, message).retry_after(LEADER_RETRY)
    }

    /// The partition's replica here, leading and ready. Waits a moment for an election or an opening that is under
    /// way here.
    pub async fn leader(&self, target: &Target) -> Result<Arc<Partition>, RequestError> {
        let here = || self.partitions.get(target.group);
        let ready = || here().filter(|partition| partition.group.status().ready);
        self.when_ready(target, ready).await
    }

    /// As [`Node::leader`], for a shard of the coordinator.
    pub async fn shard(&self, topic: &Arc<Topic>, index: PartitionIndex) -> Result<Arc<Shard>, RequestError> {
        let group = topic
            .partition(index)
            .expect("the index was chosen among the topic's")
            .group;
        let target = Target {
            topic: topic.clone(),
            index,
            group,
        };
        let here = || self.shards.get(group);
        let ready = || here().filter(|shard| shard.group.status().ready);
        let found = self.when_ready(&target, ready).await;
        found.map_err(|error| match here() {
            Some(shard) if error.reason == Reason::LeaderNotAvailable && shard.group.status().leading => {
                shard.not_leading()
            }
            _ => error,
        })
    }

    /// A replica here of any kind, leading and ready.
    pub async fn leading_group(&self, target: &Target) -> Result<Group, RequestError> {
        let here = || self.hosted(target.group);
        self.when_ready(target, || here().filter(|group| group.status().ready))
            .await
    }

    /// The replica of a group that is open here, of whatever kind.
    pub fn hosted(&self, group: GroupId) -> Option<Group> {
        let partition = self.partitions.get(group).map(|partition| partition.group.clone());
        partition.or_else(|| self.shards.get(group).map(|shard| shard.group.clone()))
    }

    /// The topic of the coordinator's shards, which is created for the first who asks.
    pub async fn coordinator(&self) -> Result<Arc<Topic>, RequestError> {
        if let Some(topic) = self.metadata.image().coordinator() {
            return Ok(topic.clone());
        }
        let _one_at_a_time = self.creating.lock().await;
        let image = self.metadata.image();
        if let Some(topic) = image.coordinator() {
            return Ok(topic.clone());
        }
        let replicas = image.broker_views().len().min(COORDINATOR_REPLICAS);
        let brokers = self.can_take_replicas(&image, replicas);
        let topic_id = TopicId::from_u128(self.seams.ids.new_id().as_u128());
        let seed = u64::from_be_bytes(topic_id.as_bytes()[..8].try_into().expect("eight bytes"));
        let replicas = u32::try_from(replicas).expect("at most three");
        let assignments = place(&brokers, self.settings.groups.shards, replicas, seed).map_err(|error| {
            RequestError::new(Reason::NotReady, format!("the coordinator can't be placed: {error}"))
                .retry_after(LEADER_RETRY)
        })?;
        let command = Command::CreateCoordinator { topic_id, assignments };
        self.metadata.propose(&command).await?;
        let created = self.metadata.image().coordinator().cloned();
        created.ok_or_else(|| RequestError::new(Reason::Internal, "the coordinator was created and is not there"))
    }

    /// The brokers that a partition with so many replicas can be placed on. Those that are down only when there are too
    /// few others.
    pub fn can_take_replicas(&self, image: &Image, replicas: usize) -> Vec<BrokerView> {
        let mut brokers = image.broker_views();
        let is_alive = |view: &BrokerView| self.registry().is_alive(view.replica.broker);
        if brokers.iter().filter(|view| is_alive(view)).count() >= replicas {
            brokers.retain(is_alive);
        }
        brokers
    }

    /// Makes sure that every broker of the cluster knows what is to be used, now and from now on.
    pub async fn need_level(&self, level: u32) -> Result<(), RequestError> {
        if let Some(raise) = admission::validate_raise_feature_level(&self.metadata.image(), level)? {
            self.metadata.propose(&raise).await?;
            tracing::info!(level, "raised the cluster's feature level");
        }
        Ok(())
    }

    async fn when_ready<T>(&self, target: &Target, ready: impl Fn() -> Option<T>) -> Result<T, RequestError> {
        self.refuse_when_stopping()?;
        let mut leaders = self.registry().leaders().watch();
        let deadline = tokio::time::sleep(LEADER_PATIENCE);
        tokio::pin!(deadline);
        loop {
            leaders.borrow_and_update();
            if let Some(found) = ready() {
                return Ok(found);
            }
            // Elsewhere: sent there at once. Unknown: worth a moment.
            let elsewhere = self
                .live_leader_of(target.group)
                .filter(|(broker, _)| *broker != self.broker());
            if let Some((broker, term)) = elsewhere {
                return Err(self.not_leader(target, Some((broker, term))));
            }
            tokio::select! {
                changed = leaders.changed() => if changed.is_err() { return Err(self.not_leader(target, None)) },
                () = &mut deadline => return Err(self.not_leader(target, None)),
            }
        }
    }

    /// As [`Node::leader`], without waiting.
    pub fn leader_now(&self, target: &Target) -> Result<Arc<Partition>, RequestError> {
        self.refuse_when_stopping()?;
        let here = self
            .partitions
            .get(target.group)
            .filter(|partition| partition.group.status().ready);
        let elsewhere = || {
            self.live_leader_of(target.group)
                .filter(|(broker, _)| *broker != self.broker())
        };
        here.ok_or_else(|| self.not_leader(target, elsewhere()))
    }

    /// As [`Node::leader_of`], but not a broker that this one has not heard of lately.
    pub fn live_leader_of(&self, group: GroupId) -> Option<(BrokerId, u64)> {
        let leader = self.leader_of(group);
        leader.filter(|(broker, _)| self.registry().is_alive(*broker))
    }

    /// Whether a replica here knows who leads it, and that one is there: another broker that is alive, or this one with a
    /// quorum. Raft alone would name the last leader until there is another one.
    pub fn knows_leader(&self, group: &Group) -> bool {
        group
            .status()
            .leader
            .is_some_and(|leader| match leader.broker == self.broker() {
                true => !self.has_lost_quorum(group.id()),
                false => self.registry().is_alive(leader.broker),
            })
    }

    /// Who leads a group, and in which term. Not this broker when no quorum answers it.
    pub fn leader_of(&self, group: GroupId) -> Option<(BrokerId, u64)> {
        let leader = self.registry().leaders().get(group)?;
        let broker = leader.broker?;
        let is_lost = broker == self.broker() && self.has_lost_quorum(group);
        (!is_lost).then_some((broker, leader.term))
    }

    /// Whether this broker leads a group as far as it knows, and no quorum answers it.
    pub fn has_lost_quorum(&self, group: GroupId) -> bool {
        let is_lost = |replica: &Group, quorum: &Quorum| quorum.is_lost() && replica.status().leading;
        let partition = self.partitions.get(group);
        let partition = partition.map(|partition| is_lost(&partition.group, &partition.quorum));
        let shard = || self.shards.get(group).map(|shard| is_lost(&shard.group, &shard.quorum));
        let metadata = || group == GroupId::METADATA && is_lost(&self.metadata.group, &self.metadata_quorum);
        partition.or_else(shard).unwrap_or_else(metadata)
    }

    fn not_leader(&self, target: &Target, leader: Option<(BrokerId, u64)>) -> RequestError {
        let name = format!("partition {}-{}", target.topic.name, target.index);
        match leader {
            None => RequestError::new(
                Reason::LeaderNotAvailable,
                format!("{name}: no leader is known; an election may be under way"),
            )
            .retry_after(LEADER_RETRY),
            Some((broker, term)) => {
                let error = RequestError::new(
                    Reason::NotLeader,
                    format!("{name}: broker {broker} leads it, not broker {}", self.broker()),
                )
                .with("leader_id", broker)
                .with("leader_epoch", term)
                .retry_after(LEADER_RETRY);
                match self.metadata.image().broker(broker) {
                    Some(broker) => error.with("leader_address", &broker.address),
                    None => error,
                }
            }
        }
    }

    /// An id that no producer had, with epoch 0.
    pub async fn new_producer(&self) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let mut ids = self.producer_ids.lock().await;
        if ids.is_empty() {
            let (reply, _) = self
                .metadata
                .propose(&Command::AllocateProducerIds {
                    count: PRODUCER_ID_BLOCK,
                })
                .await?;
            match reply {
                Reply::ProducerIds { first, count } => *ids = first.get()..first.get() + i64::from(count),
                other => {
                    return Err(RequestError::new(
                        Reason::Internal,
                        format!("not the reply to an allocation of ids: {other:?}"),
                    ));
                }
            }
        }
        let id = ids.next().expect("the block has ids");
        Ok((ProducerId(id), ProducerEpoch(0)))
    }

    /// The next epoch of a producer that goes on.
    pub async fn next_epoch(
        &self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let command = admission::validate_bump_producer_epoch(&self.metadata.image(), producer_id, epoch)?;
        match self.metadata.propose(&command).await?.0 {
            Reply::ProducerEpoch { producer_id, epoch } => Ok((producer_id, epoch)),
            other => Err(RequestError::new(
                Reason::Internal,
                format!("not the reply to a new epoch: {other:?}"),
            )),
        }
    }
}
