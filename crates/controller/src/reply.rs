//! What applying a command answers to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply).
//!
//! Encoding: as for commands.

use bytes::Bytes;
use jangada_types::{
    BrokerId, CodecError, GroupId, Incarnation, ProducerEpoch, ProducerId, Rejection, ReplicaId, TopicId,
};

use crate::wire;

/// The outcome of a command. Definite: anything but `Rejected` has happened, and `Rejected` changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was refused and changed nothing.
    Rejected(Rejection),
    /// Of `FormCluster`.
    ClusterFormed {
        /// The cluster's id.
        cluster_id: String,
    },
    /// Of `RegisterBroker`.
    BrokerRegistered {
        /// Who.
        broker: BrokerId,
        /// The incarnation that the broker has from now on; it writes it to its data directory before it opens a
        /// replica.
        incarnation: Incarnation,
    },
    /// Of `ReplaceBroker`.
    BrokerReplaced {
        /// Who.
        broker: BrokerId,
        /// The incarnation that it gets when it comes back.
        incarnation: Incarnation,
    },
    /// Of `RemoveBroker`.
    BrokerRemoved {
        /// The metadata version that no longer has the broker.
        version: u64,
    },
    /// Of `CreateTopic`.
    TopicCreated {
        /// As in the command.
        topic_id: TopicId,
        /// The group of partition 0; the others follow without a gap.
        first_group: GroupId,
        /// The metadata version that has the topic.
        version: u64,
    },
    /// Of `RaiseFeatureLevel`.
    FeatureLevelRaised {
        /// The cluster's level now.
        level: u32,
    },
    /// Of `AlterTopic` and `AddPartitions`.
    TopicAltered {
        /// The metadata version that has the change.
        version: u64,
    },
    /// Of `DeleteTopic`.
    TopicDeleted {
        /// The metadata version that no longer has the topic.
        version: u64,
    },
    /// Of `ReplicaDeleted`.
    ReplicaDeleted {
        /// How many deletions were owed until now.
        settled: u32,
    },
    /// Of `SetReplicas`.
    ReplicasSet {
        /// The metadata version that has the new list.
        version: u64,
    },
    /// Of `RenewReplica`.
    ReplicaRenewed {
        /// The replica that takes the place of the one that is given up.
        replica: ReplicaId,
        /// The metadata version that has it.
        version: u64,
    },
    /// Of `AllocateProducerIds`: the ids `first .. first + count` belong to the proposer.
    ProducerIds {
        /// The first id.
        first: ProducerId,
        /// As in the command.
        count: u32,
    },
    /// Of `BumpProducerEpoch`.
    ProducerEpoch {
        /// The same id, or a fresh one when the epochs of the old one are used up.
        producer_id: ProducerId,
        /// The epoch to go on with.
        epoch: ProducerEpoch,
    },
}

impl Reply {
    /// What the state machine hands to the proposer.
    pub fn encode(&self) -> Bytes {
        wire::reply::encode(self)
    }

    /// Reads what [`Reply::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        wire::reply::decode(bytes)
    }

    /// The rejection as an error, anything else as it is.
    pub fn into_result(self) -> Result<Self, Rejection> {
        match self {
            Self::Rejected(rejection) => Err(rejection),
            reply => Ok(reply),
        }
    }
}
