//! Arguments and results of the admin calls. Field names are those of `admin.proto`; a 0 or -1 that means "not known"
//! there is `None` here.

use std::collections::BTreeMap;

use jangada_proto::v1;
use jangada_types::{BrokerId, Incarnation, TopicId};

use crate::error::ClientError;
use crate::wire_error::Failure;

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// `[A-Za-z0-9._-]{1,249}`, not `.` or `..`, not beginning with `__`.
    pub name: String,
    /// 1 to 10,000. 0: the cluster's default.
    pub partitions: u32,
    /// 1 to the number of brokers. 0: the cluster's default.
    pub replicas: u32,
    /// Settings by key.
    pub config: BTreeMap<String, String>,
    /// Accept a topic of that name that exists, whatever its settings. Default: false.
    pub if_not_exists: bool,
}

impl NewTopic {
    /// A topic with default settings.
    pub fn new(name: impl Into<String>, partitions: u32, replicas: u32) -> Self {
        Self {
            name: name.into(),
            partitions,
            replicas,
            config: BTreeMap::new(),
            if_not_exists: false,
        }
    }
}

/// A topic that was created or was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// The topic's id.
    pub topic_id: TopicId,
    /// Whether this call created the topic; false if it was there before.
    pub created: bool,
    /// The first metadata version that has the topic.
    pub version: u64,
    /// Number of partitions. `None`: the broker is of an earlier version.
    pub partitions: Option<u32>,
    /// Replicas of each partition. `None`: the broker is of an earlier version.
    pub replicas: Option<u32>,
}

/// A topic in the list of all topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary {
    /// The topic's name.
    pub name: String,
    /// The topic's id.
    pub topic_id: TopicId,
    /// Number of partitions.
    pub partitions: u32,
    /// Replicas of each partition.
    pub replicas: u32,
}

/// A topic with everything about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The topic's name.
    pub name: String,
    /// The topic's id.
    pub topic_id: TopicId,
    /// Replicas of each partition.
    pub replicas: u32,
    /// Every setting, by key.
    pub config: Vec<ConfigEntry>,
    /// The partitions, ordered by index.
    pub partitions: Vec<PartitionState>,
}

/// A setting of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The setting's key.
    pub key: String,
    /// The value in effect.
    pub value: String,
    /// Whether the value is set on the topic; false if it is the default.
    pub is_set: bool,
    /// The value that is in effect when none is set.
    pub default_value: String,
    /// What the setting does, with unit and bounds.
    pub documentation: String,
}

/// The state of a partition, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition's index in its topic.
    pub partition: u32,
    /// The broker that leads. `None`: no leader is known.
    pub leader_id: Option<BrokerId>,
    /// Grows with each election. `None`: no leader is known.
    pub leader_epoch: Option<u32>,
    /// Brokers that hold a replica, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Replicas that reached the leader's commit within two heartbeats.
    pub in_sync: Vec<BrokerId>,
    /// The offset after the last committed record. `None`: there is no leader to ask.
    pub high_watermark: Option<i64>,
    /// The first offset that can be read. `None`: there is no leader to ask.
    pub log_start_offset: Option<i64>,
    /// Bytes of batches between log start and high watermark on the leader, as compaction has left them. `None`: there is no leader to ask.
    pub size_bytes: Option<u64>,
    /// Why the leader refuses records now. `None`: it takes them.
    pub write_refusal: Option<WriteRefusal>,
}

/// Why records are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRefusal {
    /// `DISK_FULL`, `BROKER_BUSY` or `STORE_FENCED`.
    pub reason: String,
    /// The message that producers get.
    pub message: String,
    /// Number of partitions that refuse records for this reason.
    pub partitions: u32,
}

/// The cluster as the answering broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// The cluster's id, a UUID.
    pub cluster_id: String,
    /// Metadata version that the answering broker has applied.
    pub version: u64,
    /// The metadata group's leader. `None`: none is known.
    pub controller_id: Option<BrokerId>,
    /// The brokers, ordered by id.
    pub brokers: Vec<BrokerState>,
    /// Number of topics.
    pub topics: u32,
    /// Number of partitions.
    pub partitions: u32,
    /// Partitions without a known leader.
    pub leaderless_partitions: u32,
    /// Partitions with a replica that is not in sync.
    pub under_replicated_partitions: u32,
    /// Why partitions that have a leader refuse records: one for each reason and leader.
    pub write_refusals: Vec<WriteRefusal>,
    /// Replicas whose data is damaged, or that are being filled again because of that.
    pub damaged_replicas: Vec<DamagedReplica>,
    /// Brokers with a damaged file that holds rows of many replicas, and what is damaged.
    pub damaged_stores: Vec<(BrokerId, String)>,
}

/// A replica whose data is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedReplica {
    /// The topic's name; empty: the metadata group.
    pub topic: String,
    /// The partition's index in its topic.
    pub partition: u32,
    /// The broker whose replica it is.
    pub broker_id: BrokerId,
    /// A sentence about what is damaged.
    pub damage: String,
    /// "damaged", "held" (`detail` says why it stays as it is) or "refilling".
    pub state: String,
    /// The state in words.
    pub detail: String,
}

/// A broker's part in the metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataRole {
    /// The broker has a vote in the metadata group.
    Voter,
    /// The broker follows the metadata group without a vote.
    Learner,
    /// The broker has no part in the metadata group as yet.
    None,
}

impl MetadataRole {
    /// The role's name as in `admin.proto`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::None => "none",
        }
    }
}

impl std::fmt::Display for MetadataRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerState {
    /// The broker's id, from 1 on.
    pub broker_id: BrokerId,
    /// Address where clients reach the broker.
    pub address: String,
    /// Address where other brokers reach it.
    pub internal_address: String,
    /// The broker's failure domain; may be empty.
    pub rack: String,
    /// Whether the broker was heard of within the last two seconds.
    pub alive: bool,
    /// The broker's role in the metadata group.
    pub metadata_role: MetadataRole,
    /// Number of partitions that the broker leads.
    pub leaders: u32,
    /// Number of replicas that the broker holds.
    pub replicas: u32,
    /// The broker's incarnation: how often it came back with an empty disk, counted from 1.
    pub incarnation: Incarnation,
    /// Whether the free space of the broker's disk is down to the reserve.
    pub disk_low: bool,
}

/// A partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker that leads.
    pub id: BrokerId,
    /// The leader epoch of the partition under this leader.
    pub epoch: u32,
}

/// A topic id from the 16 bytes of an answer.
pub(super) fn topic_id(bytes: &[u8], context: &str) -> Result<TopicId, ClientError> {
    TopicId::from_slice(bytes).ok_or_else(|| {
        let message = format!("the answer has a topic id of {} bytes instead of 16", bytes.len());
        ClientError::Refused(Failure::local(tonic::Code::DataLoss, message, true).rejection(context))
    })
}

fn brokers(ids: Vec<u32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn known_broker(id: u32) -> Option<BrokerId> {
    (id != 0).then_some(BrokerId(id))
}

fn known_offset(offset: i64) -> Option<i64> {
    (offset >= 0).then_some(offset)
}

impl TopicSummary {
    pub(super) fn from_wire(topic: v1::TopicSummary, context: &str) -> Result<Self, ClientError> {
        Ok(Self {
            topic_id: topic_id(&topic.topic_id, context)?,
            name: topic.name,
            partitions: topic.partitions,
            replicas: topic.replicas,
        })
    }
}

impl TopicDescription {
    pub(super) fn from_wire(topic: v1::DescribeTopicResponse, context: &str) -> Result<Self, ClientError> {
        let partitions = topic
            .partitions
            .into_iter()
            .map(|partition| PartitionState::from_wire(partition, context));
        Ok(Self {
            topic_id: topic_id(&topic.topic_id, context)?,
            name: topic.name,
            replicas: topic.replicas,
            config: topic.config.into_iter().map(ConfigEntry::from).collect(),
            partitions: partitions.collect::<Result<_, _>>()?,
        })
    }
}

impl From<v1::ConfigEntry> for ConfigEntry {
    fn from(entry: v1::ConfigEntry) -> Self {
        Self {
            key: entry.key,
            value: entry.value,
            is_set: entry.is_set,
            default_value: entry.default_value,
            documentation: entry.documentation,
        }
    }
}

impl PartitionState {
    pub(super) fn from_wire(partition: v1::PartitionState, context: &str) -> Result<Self, ClientError> {
        Ok(Self {
            topic_id: topic_id(&partition.topic_id, context)?,
            topic: partition.topic,
            partition: partition.partition,
            leader_id: known_broker(partition.leader_id),
            leader_epoch: (partition.leader_epoch != 0).then_some(partition.leader_epoch),
            replicas: brokers(partition.replicas),
            in_sync: brokers(partition.in_sync),
            high_watermark: known_offset(partition.high_watermark),
            log_start_offset: known_offset(partition.log_start_offset),
            size_bytes: (partition.high_watermark >= 0).then_some(partition.size_bytes),
            write_refusal: partition.write_refusal.map(WriteRefusal::from),
        })
    }
}

impl From<v1::WriteRefusal> for WriteRefusal {
    fn from(refusal: v1::WriteRefusal) -> Self {
        Self {
            reason: refusal.reason,
            message: refusal.message,
            partitions: refusal.partitions,
        }
    }
}

impl From<v1::DescribeClusterResponse> for ClusterDescription {
    fn from(cluster: v1::DescribeClusterResponse) -> Self {
        Self {
            cluster_id: cluster.cluster_id,
            version: cluster.version,
            controller_id: known_broker(cluster.controller_id),
            brokers: cluster.brokers.into_iter().map(BrokerState::from).collect(),
            topics: cluster.topics,
            partitions: cluster.partitions,
            leaderless_partitions: cluster.leaderless_partitions,
            under_replicated_partitions: cluster.under_replicated_partitions,
            write_refusals: cluster.write_refusals.into_iter().map(WriteRefusal::from).collect(),
            damaged_replicas: cluster.damaged_replicas.into_iter().map(DamagedReplica::from).collect(),
            damaged_stores: cluster
                .damaged_stores
                .into_iter()
                .map(|store| (BrokerId(store.broker_id), store.damage))
                .collect(),
        }
    }
}

impl From<v1::DamagedReplica> for DamagedReplica {
    fn from(replica: v1::DamagedReplica) -> Self {
        Self {
            topic: replica.topic,
            partition: replica.partition,
            broker_id: BrokerId(replica.broker_id),
            damage: replica.damage,
            state: replica.state,
            detail: replica.detail,
        }
    }
}

impl From<v1::BrokerState> for BrokerState {
    fn from(broker: v1::BrokerState) -> Self {
        let metadata_role = match broker.metadata_role.as_str() {
            "voter" => MetadataRole::Voter,
            "learner" => MetadataRole::Learner,
            _ => MetadataRole::None,
        };
        Self {
            broker_id: BrokerId(broker.broker_id),
            address: broker.address,
            internal_address: broker.internal_address,
            rack: broker.rack,
            alive: broker.alive,
            metadata_role,
            leaders: broker.leaders,
            replicas: broker.replicas,
            incarnation: Incarnation(broker.incarnation),
            disk_low: broker.disk_low,
        }
    }
}
