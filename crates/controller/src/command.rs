//! What is replicated through group 0. A command carries results: what the leader chose (ids, assignments), never
//! something that each replica would have to choose again.
//!
//! Encoding: version byte, kind byte, prost fields.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use jangada_types::{BrokerId, CodecError, GroupId, Incarnation, ProducerEpoch, ProducerId, ReplicaId, TopicId};

use crate::wire;

/// A change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command of a cluster. Its brokers get incarnation 1. Again with the same id: accepted, without an
    /// effect.
    FormCluster {
        /// A UUID in text form.
        cluster_id: String,
        /// The seeds; at least one.
        brokers: Vec<SeedBroker>,
    },
    /// A broker joins, comes back, or has new addresses. See [`BrokerRegistration`].
    RegisterBroker(BrokerRegistration),
    /// Gives up a broker's replicas: it may come back with an empty directory, under the next incarnation, and no
    /// longer under its old one. Again before it came back: accepted, without an effect.
    ReplaceBroker {
        /// Who.
        broker: BrokerId,
    },
    /// Takes a broker out of the cluster that has no replicas and owes nothing: it may not come back with the data directory
    /// that it had. When it is not there: accepted, without an effect, if it was taken out before. From then on no broker may
    /// join that does not know it.
    RemoveBroker {
        /// Who.
        broker: BrokerId,
    },
    /// Creates a topic; its partitions get the next group ids.
    CreateTopic {
        /// Chosen at random by the proposer.
        topic_id: TopicId,
        /// Free at the moment of apply, or the command is rejected.
        name: String,
        /// The settings that differ from the defaults.
        config: BTreeMap<String, String>,
        /// The replicas of each partition, by index, the preferred leader first.
        assignments: Vec<Vec<ReplicaId>>,
    },
    /// Gives a topic more partitions, with the next group ids. From then on no broker may join that does not know it.
    AddPartitions {
        /// Which.
        topic_id: TopicId,
        /// The partitions that it has at the moment of apply, or the command is rejected.
        existing: u32,
        /// The replicas of each new partition, by index, the preferred leader first; at least one.
        assignments: Vec<Vec<ReplicaId>>,
    },
    /// Creates the topic of the coordinator's shards. When it exists already: accepted, without an effect. From then
    /// on no broker may join that does not know it.
    CreateCoordinator {
        /// Chosen at random by the proposer.
        topic_id: TopicId,
        /// The replicas of each shard, by index, the preferred leader first.
        assignments: Vec<Vec<ReplicaId>>,
    },
    /// Raises the cluster's feature level, which must be that of each of its brokers at least: from then on no broker may
    /// join that is below. At that level or above it already: accepted, without an effect.
    RaiseFeatureLevel {
        /// To this one.
        level: u32,
    },
    /// Changes settings of a topic, all or none.
    AlterTopic {
        /// Which.
        topic_id: TopicId,
        /// Settings to set.
        set: BTreeMap<String, String>,
        /// Keys to put back to their defaults.
        unset: Vec<String>,
    },
    /// Deletes a topic. Each of its groups gets a tombstone that names the replicas with data to delete.
    DeleteTopic {
        /// Which.
        topic_id: TopicId,
    },
    /// A replica has durably deleted its data of these groups. What is not owed (any more) is ignored.
    ReplicaDeleted {
        /// Who.
        replica: ReplicaId,
        /// Groups with a tombstone, or live groups that it was leaving.
        groups: Vec<GroupId>,
    },
    /// Says which replicas a partition should have. Those that are taken off become `leaving`.
    SetReplicas {
        /// A live group.
        group: GroupId,
        /// The preferred leader first.
        replicas: Vec<ReplicaId>,
    },
    /// Gives one replica of a partition up and puts a new one, without data, in its place on the same broker, with the
    /// broker's next incarnation. For a replica whose data is damaged; the proposer has made sure that a majority of all
    /// replicas has everything without it. Again while the data of the old one is there: accepted, without an effect.
    /// From then on no broker may join that does not know it.
    RenewReplica {
        /// A live group.
        group: GroupId,
        /// The replica that is given up, as it is in the partition's list.
        replica: ReplicaId,
    },
    /// Takes a block of producer ids out of circulation, for the proposer to give out.
    AllocateProducerIds {
        /// At least 1.
        count: u32,
    },
    /// The next epoch of an idempotent producer that goes on under its id.
    ///
    /// The image keeps no row per producer: the answer is the caller's epoch + 1, or a fresh id with epoch 0 after
    /// epoch 32767. What that guarantees: the pair is higher than the one the caller had, so every partition that
    /// sees it fences the caller's old epoch. What it doesn't: two callers that both hold the same pair get the
    /// same answer. A producer id thus belongs to one process at a time. In return a bump can be repeated after
    /// an unknown outcome.
    BumpProducerEpoch {
        /// An id that was given out.
        producer_id: ProducerId,
        /// The epoch that the caller had; not negative.
        epoch: ProducerEpoch,
    },
}

/// A broker of a new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedBroker {
    /// From 1 on.
    pub broker: BrokerId,
    /// The data directory that holds the broker's first incarnation.
    pub directory: DirectoryId,
    /// Where clients reach it: host:port.
    pub address: String,
    /// Where brokers reach it: host:port.
    pub internal_address: String,
    /// Failure domain; empty when unknown.
    pub rack: String,
    /// The highest feature level that its build understands.
    pub feature_level: u32,
}

/// A broker that starts says who it is and what it has.
///
/// A broker writes its [`DirectoryId`] durably before it registers, and the incarnation that it is given before it
/// opens a replica. A directory that lost its data has lost its id too, so an empty directory can't pass for the old
/// one, while a registration whose answer was lost can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerRegistration {
    /// From 1 on.
    pub broker: BrokerId,
    /// The incarnation that the data directory holds; 0 when it holds none yet.
    pub incarnation: Incarnation,
    /// The data directory.
    pub directory: DirectoryId,
    /// Where clients reach it: host:port.
    pub address: String,
    /// Where brokers reach it: host:port.
    pub internal_address: String,
    /// Failure domain; empty when unknown.
    pub rack: String,
    /// The highest feature level that its build understands.
    pub feature_level: u32,
}

/// Tells data directories apart: 16 random bytes that are written once, when a directory is made. All zero is no id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DirectoryId([u8; 16]);

impl DirectoryId {
    /// From 16 bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From a slice of exactly 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// True for all zero.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

impl Command {
    /// What goes into group 0's log.
    pub fn encode(&self) -> Bytes {
        wire::command::encode(self)
    }

    /// Reads what [`Command::encode`] wrote. An error means that a newer build wrote it, or that it is damaged: a
    /// replica that can't read a committed command must stop, for skipping it would part its image from the
    /// others'.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        wire::command::decode(bytes)
    }
}
