//! What brokers tell each other, and tools, of the cluster: partitions, damage, groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::{BrokerId, LeaderEpoch, Offset, PartitionIndex, ReplicaId, TopicId};

/// Asks for the state of partitions as one broker knows it.
#[derive(Clone, Debug)]
pub(crate) struct DescribePartitions {
    /// The topic whose partitions are asked for; none: all, internal ones included.
    pub topic: Option<TopicId>,
}

/// The state of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionState {
    pub topic: Arc<str>,
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub leader: Option<(BrokerId, LeaderEpoch)>,
    /// The brokers that are to have a replica, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// What only the leader knows; none if it does not answer.
    pub seen: Option<LeadersView>,
}

/// What the leader of a partition knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeadersView {
    /// The brokers of the listed replicas that have everything that was committed when it was asked for.
    pub in_sync: Vec<BrokerId>,
    /// The voters; none while they change.
    pub voters: Vec<Voter>,
    /// 0 of what has no offsets.
    pub high_watermark: Offset,
    /// 0 of what has no offsets.
    pub log_start: Offset,
    pub size_bytes: u64,
    /// Why it refuses records.
    pub write_refusal: Option<WriteRefusal>,
}

/// A replica that votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Voter {
    pub replica: ReplicaId,
    pub in_sync: bool,
    pub is_damaged: bool,
}

/// Why partitions refuse records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WriteRefusal {
    /// The reason of the error.
    pub reason: String,
    pub message: String,
    /// How many partitions refuse for it.
    pub partitions: u32,
}

/// Asks for the damage on one broker.
#[derive(Debug)]
pub(crate) struct DescribeDamage;

/// The damage of replicas and stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    pub replicas: Vec<DamagedReplica>,
    pub stores: Vec<DamagedStore>,
}

/// A replica that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedReplica {
    /// The topic's name; empty: the metadata group.
    pub topic: String,
    pub partition: PartitionIndex,
    pub broker: BrokerId,
    /// What is damaged, in words.
    pub damage: String,
    /// `damaged`, `held` or `refilling`.
    pub state: String,
    /// The state in words.
    pub detail: String,
}

/// A store with a damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedStore {
    pub broker: BrokerId,
    /// What is damaged, in words.
    pub damage: String,
}

/// Asks for the groups of the shards that one broker leads.
#[derive(Debug)]
pub(crate) struct ListGroups;

/// Consumer groups of some shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupList {
    /// The groups by name.
    pub groups: Vec<GroupSummary>,
    /// The shards whose groups are not known.
    pub missing_shards: BTreeSet<PartitionIndex>,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupSummary {
    pub group: String,
    /// The name of its state.
    pub state: String,
    pub members: u32,
    pub coordinator: BrokerId,
    pub epoch: u32,
}

/// Asks whether a broker knows a leader for every partition of a topic. True also of a topic that it does not have.
#[derive(Debug)]
pub(crate) struct KnowsLeaders {
    pub topic: TopicId,
    /// The broker answers when its metadata have this version.
    pub min_version: u64,
}

/// Asks a broker to answer when its metadata have a version: with the brokers that it hears of, itself among them.
#[derive(Debug)]
pub(crate) struct KnowsVersion {
    pub min_version: u64,
}

/// Asks for the brokers that another one knows.
#[derive(Debug)]
pub(crate) struct ListBrokers;
