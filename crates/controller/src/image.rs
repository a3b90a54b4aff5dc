//! The cluster's metadata at one position of group 0's log, and its lookups.
//!
//! An image is changed by [`Image::apply`](crate::Image::apply) and [`Image::restore`](crate::Image::restore) only,
//! on the task that applies group 0's log. That task publishes a clone after each command; all other code reads the clones.
//!
//! Invariants:
//! - A topic name, a topic id and a group id each belong to one topic. Group ids begin at 1, grow, and are never used
//!   again.
//! - The groups of partitions that came at once are consecutive, and those that came later are higher.
//! - Every replica list is non-empty, names each broker once, and only current ids: the broker's own incarnation, or a
//!   later one that a replica of it was given.
//! - A group is live (some partition has it) or has a tombstone or neither, never both.
//! - A broker whose `expected_incarnation` is set has been given up under its current one.
//!
//! A clone costs a few reference counts. A command copies at most the maps that it touches, whose rows are shared.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use jangada_routing::Exchange;
use jangada_types::{
    BrokerId, ConfigError, ExchangeId, GroupId, Incarnation, PartitionIndex, QueueId, ReplicaId, TopicConfig, TopicId,
};

use crate::endpoints::Endpoints;
use crate::exchanges::Exchanges;
use crate::queues::Queue;
use crate::registration::{BrokerRegistration, DirectoryId};

/// The name of the topic whose partitions are the coordinator's shards. No user's topic may begin with `__`.
pub const COORDINATOR_TOPIC: &str = "__groups";

/// The beginning of the names of topics that are logs of exchanges; the exchange's name follows.
pub const EXCHANGE_LOG_PREFIX: &str = "__exchange.";

/// The first producer id that is given out; lower ones never belong to a producer.
pub const FIRST_PRODUCER_ID: i64 = 1000;

/// The cluster's metadata at one position of group 0's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The cluster's id; empty until the cluster is formed.
    pub(crate) cluster_id: Arc<str>,
    /// Log index of the last command applied.
    pub(crate) version: u64,
    /// The level below which no broker may join; 0 until the cluster is formed.
    pub(crate) feature_level: u32,
    /// The group id that the next partition gets.
    pub(crate) next_group_id: u64,
    /// The producer id that the next allocation begins with.
    pub(crate) next_producer_id: i64,
    pub(crate) brokers: Arc<BTreeMap<BrokerId, Broker>>,
    /// Brokers that were taken out, and have not come back under their ids.
    pub(crate) removed: Arc<BTreeMap<BrokerId, RemovedBroker>>,
    pub(crate) topics: Arc<BTreeMap<TopicId, Arc<Topic>>>,
    pub(crate) tombstones: Arc<BTreeMap<GroupId, Tombstone>>,
    pub(crate) queues: Arc<BTreeMap<QueueId, Arc<Queue>>>,
    pub(crate) exchanges: Exchanges,
    /// Derived: topics by name.
    pub(crate) topics_by_name: Arc<BTreeMap<Arc<str>, TopicId>>,
    /// Derived: the runs of consecutive groups, by their first groups.
    pub(crate) runs: Arc<BTreeMap<GroupId, Run>>,
    /// Derived: queues by name.
    pub(crate) queues_by_name: Arc<BTreeMap<Arc<str>, QueueId>>,
    /// Derived: the queues of each topic that has some.
    pub(crate) queues_by_topic: Arc<BTreeMap<TopicId, BTreeSet<QueueId>>>,
}

/// Partitions of a topic whose groups are consecutive. The map has them by the first group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) topic: TopicId,
    /// The partition that has the first group.
    pub(crate) first: PartitionIndex,
}

/// A registered broker: its last registration, with the incarnation that it has, which counts how often it came back
/// with an empty disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The broker's last registration; also reached by dereferencing.
    pub registration: BrokerRegistration,
    /// The broker's endpoints in addition to `address` and `internal_address`.
    pub endpoints: Endpoints,
    /// Set between `ReplaceBroker` and the broker's return: the incarnation that it will get.
    pub expected_incarnation: Option<Incarnation>,
    /// The highest incarnation that the broker or one of its replicas was ever given. A replica that was renewed has an
    /// incarnation of its own, above the broker's; no number is given twice.
    pub last_incarnation: Incarnation,
}

impl Deref for Broker {
    type Target = BrokerRegistration;

    fn deref(&self) -> &BrokerRegistration {
        &self.registration
    }
}

impl Broker {
    /// The address for clients that connected to a listener of this name with this protocol; the public address if the
    /// broker has no such listener. One of the same name with another protocol, such as that between brokers, is not for them.
    pub fn address_at(&self, listener: &str, protocol: &str) -> &str {
        let endpoint = self.endpoints.get(listener);
        let endpoint = endpoint.filter(|endpoint| endpoint.protocol == protocol);
        endpoint.map_or(&self.address, |endpoint| &endpoint.address)
    }

    /// The id under which the broker's replicas take part in Raft groups.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId {
            broker: self.id,
            incarnation: self.incarnation,
        }
    }

    /// True between `ReplaceBroker` and the broker's return under its new incarnation: its replicas are given up.
    pub fn is_awaiting_replacement(&self) -> bool {
        self.expected_incarnation.is_some()
    }
}

/// The record of a broker that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedBroker {
    /// The last incarnation that was given to it or one of its replicas.
    pub incarnation: Incarnation,
    /// The data directory that it had, which may not come back.
    pub directory: DirectoryId,
}

/// The purpose of a topic's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicKind {
    /// The partitions are logs of records.
    #[default]
    Log,
    /// The partitions are shards of the consumer groups' coordinator. There is one such topic at most, and users can't
    /// change it.
    Coordinator,
    /// The partitions are logs of records that are the messages of one queue, which has the topic for itself.
    Queue,
    /// The partitions are logs of records that were published to one exchange, which has the topic for itself, and are the messages of the
    /// queues that are views over it.
    Exchange,
}

impl TopicKind {
    /// Whether the partitions are logs of records.
    pub const fn is_of_records(self) -> bool {
        matches!(self, Self::Log | Self::Queue | Self::Exchange)
    }
}

/// A topic, as the metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic's id, never given to another topic.
    pub id: TopicId,
    /// The purpose of its partitions.
    pub kind: TopicKind,
    /// The topic's name, unique among the topics that exist.
    pub name: Arc<str>,
    /// The partitions by index; at least one.
    pub partitions: Vec<Partition>,
    /// The settings that are set; the rest have their defaults.
    pub config: BTreeMap<String, String>,
}

impl Topic {
    /// The partition with this index.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.get()).ok()?)
    }

    /// The partitions with their indexes.
    pub fn indexed(&self) -> impl Iterator<Item = (PartitionIndex, &Partition)> {
        (0u32..).map(PartitionIndex::from).zip(&self.partitions)
    }

    /// The settings in effect. An error means that this build does not know a setting that another one accepted.
    pub fn settings(&self) -> Result<TopicConfig, ConfigError> {
        TopicConfig::from_map(&self.config)
    }

    /// The group of the first partition.
    pub(crate) fn first_group(&self) -> GroupId {
        self.partitions
            .first()
            .expect("a topic has at least one partition")
            .group
    }

    /// The runs of consecutive groups, each as long as it can be, by first group.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (GroupId, Run)> {
        let mut next = None;
        self.indexed().filter_map(move |(first, partition)| {
            let goes_on = next == Some(partition.group.get());
            next = partition.group.get().checked_add(1);
            (!goes_on).then_some((partition.group, Run { topic: self.id, first }))
        })
    }
}

/// A partition of a topic: the Raft group that is its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The Raft group; never given to another partition.
    pub group: GroupId,
    /// The voters that the group should have, the preferred leader first. The group's leader brings the membership in
    /// line.
    pub replicas: Vec<ReplicaId>,
    /// Replicas that were taken off `replicas` and may still hold data, ascending. One may delete it only after the
    /// group has committed a membership without it, and reports that with `ReplicaDeleted`; until then it can't
    /// come back into `replicas`.
    pub leaving: Vec<ReplicaId>,
    /// Whether the replicas have changed since the group was created: one that was put in later waits to be added by the leader, and
    /// must not form the group.
    pub is_reassigned: bool,
    /// The replicas that the group was created with, if they have changed since. Empty: not, or one of them has left and come back.
    pub first: Vec<ReplicaId>,
}

impl Partition {
    /// The voters with which a replica that has no data may form the group. None: it waits for the leader to add it.
    ///
    /// They are always those that the group was created with, whatever the replicas are by now: whoever forms it, maybe by an older
    /// image, gives it the same first entry, and its leader brings the members in line. Only a replica that has been there ever since may
    /// do it: data of one that left and came back was deleted, and the group may have gone on without it.
    pub fn forms_with(&self, replica: ReplicaId) -> Option<&[ReplicaId]> {
        let first: &[ReplicaId] = match self.is_reassigned {
            true => &self.first,
            false => &self.replicas,
        };
        (self.replicas.contains(&replica) && first.contains(&replica)).then_some(first)
    }

    /// Gives the partition other replicas.
    pub(crate) fn reassign(&mut self, replicas: Vec<ReplicaId>) {
        let before = std::mem::replace(&mut self.replicas, replicas);
        if !self.is_reassigned {
            self.is_reassigned = true;
            self.first = before;
            return;
        }
        let comes_back = |replica: &ReplicaId| self.first.contains(replica) && !before.contains(replica);
        if self.replicas.iter().any(comes_back) {
            self.first.clear();
        }
    }

    /// The partition's replica on this broker, if it should have one.
    pub fn replica_on(&self, broker: BrokerId) -> Option<ReplicaId> {
        self.replicas.iter().copied().find(|replica| replica.broker == broker)
    }

    /// Whether this broker may still hold data of a replica that was taken off.
    pub fn is_leaving(&self, broker: BrokerId) -> bool {
        self.leaving.iter().any(|replica| replica.broker == broker)
    }
}

/// A group whose topic was deleted while replicas still hold its data. Only data of groups named here may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The replicas that have not reported their deletion yet, ascending; at least one.
    pub replicas: Arc<[ReplicaId]>,
}

/// A partition with its topic and index.
#[derive(Clone, Copy, Debug)]
pub struct PartitionRef<'a> {
    /// The partition's topic.
    pub topic: &'a Arc<Topic>,
    /// The partition's index in the topic.
    pub index: PartitionIndex,
    /// The partition itself; also reached by dereferencing.
    pub partition: &'a Partition,
}

impl Deref for PartitionRef<'_> {
    type Target = Partition;

    fn deref(&self) -> &Partition {
        self.partition
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// The image of an empty log: no cluster yet.
    pub fn new() -> Self {
        Self {
            cluster_id: Arc::from(""),
            version: 0,
            feature_level: 0,
            next_group_id: 1,
            next_producer_id: FIRST_PRODUCER_ID,
            brokers: Arc::default(),
            removed: Arc::default(),
            topics: Arc::default(),
            tombstones: Arc::default(),
            topics_by_name: Arc::default(),
            runs: Arc::default(),
            queues: Arc::default(),
            exchanges: Exchanges::default(),
            queues_by_name: Arc::default(),
            queues_by_topic: Arc::default(),
        }
    }

    /// The cluster's id; none until the cluster is formed.
    pub fn cluster_id(&self) -> Option<&str> {
        (!self.cluster_id.is_empty()).then_some(&*self.cluster_id)
    }

    /// Log index of the last command applied; 0 for none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The level below which no broker may join; 0 until the cluster is formed.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// All brokers, by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Broker> {
        self.brokers.values()
    }

    /// The broker with this id.
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// Whether this broker was taken out and has not joined anew.
    pub fn was_removed(&self, id: BrokerId) -> bool {
        self.removed.contains_key(&id)
    }

    /// The last incarnation of a broker that was taken out and has not joined anew, if this image has it.
    pub fn removed_incarnation(&self, id: BrokerId) -> Option<Incarnation> {
        self.removed.get(&id).map(|removed| removed.incarnation)
    }

    /// The id under which the broker's replicas take part in Raft groups now.
    pub fn replica_of(&self, id: BrokerId) -> Option<ReplicaId> {
        self.broker(id).map(Broker::replica)
    }

    /// Whether this id was given since the broker came with its present data directory: it is the broker's incarnation,
    /// or one that a replica of it got later.
    pub fn is_current(&self, replica: ReplicaId) -> bool {
        self.broker(replica.broker)
            .is_some_and(|broker| (broker.incarnation..=broker.last_incarnation).contains(&replica.incarnation))
    }

    /// All topics, by id.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// All topics, by name.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics_by_name.values().filter_map(|id| self.topics.get(id))
    }

    /// The topic with this id.
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// The topic with this name.
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.topics_by_name.get(name)?)
    }

    /// The topic whose partitions are the coordinator's shards; none until the first group was asked for.
    pub fn coordinator(&self) -> Option<&Arc<Topic>> {
        self.topic_named(COORDINATOR_TOPIC)
            .filter(|topic| topic.kind == TopicKind::Coordinator)
    }

    /// All exchanges, by id.
    pub fn exchanges(&self) -> impl ExactSizeIterator<Item = &Arc<Exchange>> {
        self.exchanges.iter()
    }

    /// The topic that is the log of an exchange; none: it has no log.
    pub fn exchange_log(&self, id: ExchangeId) -> Option<&Arc<Topic>> {
        self.topic(id.own_topic())
            .filter(|topic| topic.kind == TopicKind::Exchange)
    }

    /// The exchange whose log a topic is.
    pub fn exchange_of_log(&self, topic: &Topic) -> Option<&Arc<Exchange>> {
        let is_its = |exchange: &&Arc<Exchange>| exchange.id.own_topic() == topic.id;
        let id = (topic.kind == TopicKind::Exchange).then(|| ExchangeId::from_slice(topic.id.as_bytes()))??;
        self.exchanges.get(id).filter(is_its)
    }

    /// The exchanges with their lookups.
    pub fn exchange_table(&self) -> &Exchanges {
        &self.exchanges
    }

    /// A partition by topic id and index.
    pub fn partition(&self, topic: TopicId, index: PartitionIndex) -> Option<PartitionRef<'_>> {
        let topic = self.topics.get(&topic)?;
        let partition = topic.partition(index)?;
        Some(PartitionRef {
            topic,
            index,
            partition,
        })
    }

    /// The partition whose log this live group is.
    pub fn partition_of_group(&self, group: GroupId) -> Option<PartitionRef<'_>> {
        let (first_group, run) = self.runs.range(..=group).next_back()?;
        let offset = u32::try_from(group.get() - first_group.get()).ok()?;
        let index = run.first.get().checked_add(offset)?;
        // A deleted topic's group may lie between this run and the topic's next one.
        self.partition(run.topic, PartitionIndex::from(index))
            .filter(|found| found.group == group)
    }

    /// All partitions, by topic id and index.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionRef<'_>> {
        self.topics().flat_map(|topic| {
            topic.indexed().map(move |(index, partition)| PartitionRef {
                topic,
                index,
                partition,
            })
        })
    }

    /// The highest group id that was given out; that of the metadata group if none was.
    pub fn newest_group(&self) -> GroupId {
        GroupId(self.next_group_id.saturating_sub(1))
    }

    /// The number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.topics().map(|topic| topic.partitions.len()).sum()
    }

    /// The partitions of which this broker should hold a copy, each with the id of that replica.
    pub fn partitions_of(&self, broker: BrokerId) -> impl Iterator<Item = (PartitionRef<'_>, ReplicaId)> {
        self.partitions()
            .filter_map(move |partition| Some((partition, partition.replica_on(broker)?)))
    }

    /// The replicas of this broker that have been taken off live partitions and whose data it may still hold.
    pub fn leaving_of(&self, broker: BrokerId) -> impl Iterator<Item = (PartitionRef<'_>, ReplicaId)> {
        self.partitions().flat_map(move |partition| {
            let leaving = partition.partition.leaving.iter().copied();
            leaving
                .filter(move |replica| replica.broker == broker)
                .map(move |replica| (partition, replica))
        })
    }

    /// The deleted groups with replicas that still hold data, by group.
    pub fn tombstones(&self) -> impl ExactSizeIterator<Item = (GroupId, &Tombstone)> {
        self.tombstones.iter().map(|(group, tombstone)| (*group, tombstone))
    }

    /// The replicas of this broker whose data of deleted groups has to be deleted and reported with `ReplicaDeleted`,
    /// ascending by group.
    pub fn tombstones_of(&self, broker: BrokerId) -> impl Iterator<Item = (GroupId, ReplicaId)> {
        self.tombstones().flat_map(move |(group, tombstone)| {
            let owing = tombstone.replicas.iter().copied();
            owing
                .filter(move |replica| replica.broker == broker)
                .map(move |replica| (group, replica))
        })
    }
}
