//! What applying a command answers to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply).
//!
//! Encoding: as for commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_types::{BrokerId, GroupId, Incarnation, ProducerEpoch, ProducerId, Reason, TopicId};

use crate::error::CodecError;
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
    /// Of `CreateTopic`.
    TopicCreated {
        /// As in the command.
        topic_id: TopicId,
        /// The group of partition 0; the others follow without a gap.
        first_group: GroupId,
        /// The metadata version that has the topic.
        version: u64,
    },
    /// Of `AlterTopic`.
    TopicAltered {
        /// The metadata version that has the new settings.
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

/// Why a request or a command was refused: definite, it had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// For programs.
    pub reason: Reason,
    /// For people: what, where, and what to do.
    pub message: String,
    /// The values that a check compared, as `ErrorInfo.metadata`.
    pub metadata: BTreeMap<String, String>,
}

impl Rejection {
    /// Without metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// Adds one value.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }
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
