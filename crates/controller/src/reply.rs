//! The answer of applying a command to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply).
//!
//! Declared like commands. The level of a reply is that of its command.

use jangada_types::rejection::WireRejection;
use jangada_types::{
    BrokerId, ExchangeId, GroupId, Incarnation, ProducerEpoch, ProducerId, QueueId, Rejection, ReplicaId, TopicId,
    replicated,
};

use crate::wire::WireReplica;

replicated! {
    /// The outcome of a command. Definite: anything but `Rejected` has happened, and `Rejected` changed nothing.
    pub enum Reply, ReplyKind, "reply" {
        /// The command was refused and changed nothing.
        Rejected(Rejection as WireRejection) = 1,
        /// The reply to `FormCluster`.
        ClusterFormed = 2 {
            /// The cluster's id.
            #[prost(string, tag = "1")]
            cluster_id: String,
        },
        /// The reply to `RegisterBroker`.
        BrokerRegistered = 3 {
            /// The broker that registered.
            #[prost(uint32, tag = "1")]
            broker: BrokerId as u32,
            /// The incarnation that the broker has from now on; it writes it to its data directory before it opens a
            /// replica.
            #[prost(uint32, tag = "2")]
            incarnation: Incarnation as u32,
        },
        /// The reply to `ReplaceBroker`.
        BrokerReplaced = 4 {
            /// The broker that is replaced.
            #[prost(uint32, tag = "1")]
            broker: BrokerId as u32,
            /// The incarnation that the broker gets when it comes back.
            #[prost(uint32, tag = "2")]
            incarnation: Incarnation as u32,
        },
        /// The reply to `RemoveBroker`.
        BrokerRemoved = 14 {
            /// The metadata version that no longer has the broker.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `CreateTopic`.
        TopicCreated = 5 {
            /// The topic's id, as in the command.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// The group of partition 0; the others follow without a gap.
            #[prost(uint64, tag = "2")]
            first_group: GroupId as u64,
            /// The metadata version that has the topic.
            #[prost(uint64, tag = "3")]
            version: u64,
        },
        /// The reply to `RaiseFeatureLevel`.
        FeatureLevelRaised = 12 {
            /// The cluster's level now.
            #[prost(uint32, tag = "1")]
            level: u32,
        },
        /// The reply to `AlterTopic` and `AddPartitions`.
        TopicAltered = 6 {
            /// The metadata version that has the change.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `DeleteTopic`.
        TopicDeleted = 7 {
            /// The metadata version that no longer has the topic.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `CreateOwnedQueue`, `CreateGroupQueue` and `CreateBoundQueue`.
        QueueCreated = 15 {
            /// The queue's id, as in the command.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
            /// The topic whose records are its messages.
            #[prost(bytes = "vec", tag = "2")]
            topic_id: TopicId as Vec<u8>,
            /// The metadata version that has the queue.
            #[prost(uint64, tag = "3")]
            version: u64,
        },
        /// The reply to `AlterQueue`.
        QueueAltered = 16 {
            /// The metadata version that has the change.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `DeleteQueue` and to `ExpireQueue`.
        QueueDeleted = 17 {
            /// The metadata version that no longer has the queue.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `CreateExchange` and `CreateLoggedExchange`.
        ExchangeCreated = 18 {
            /// The exchange's id, as in the command.
            #[prost(bytes = "vec", tag = "1")]
            exchange_id: ExchangeId as Vec<u8>,
            /// The metadata version that has the exchange.
            #[prost(uint64, tag = "2")]
            version: u64,
        },
        /// The reply to `DeleteExchange`.
        ExchangeDeleted = 19 {
            /// The metadata version that no longer has the exchange.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `Bind`.
        Bound = 20 {
            /// Number of bindings that the exchange did not have.
            #[prost(uint32, tag = "1")]
            added: u32,
            /// The metadata version that has them.
            #[prost(uint64, tag = "2")]
            version: u64,
        },
        /// The reply to `Unbind`.
        Unbound = 21 {
            /// Number of bindings that the exchange had.
            #[prost(uint32, tag = "1")]
            removed: u32,
            /// The metadata version that no longer has them.
            #[prost(uint64, tag = "2")]
            version: u64,
        },
        /// The reply to `ReplicaDeleted`.
        ReplicaDeleted = 8 {
            /// Number of deletions that were owed until now.
            #[prost(uint32, tag = "1")]
            settled: u32,
        },
        /// The reply to `SetReplicas`.
        ReplicasSet = 9 {
            /// The metadata version that has the new list.
            #[prost(uint64, tag = "1")]
            version: u64,
        },
        /// The reply to `RenewReplica`.
        ReplicaRenewed = 13 {
            /// The replica that takes the place of the one that is given up.
            #[prost(message, required, tag = "1")]
            replica: ReplicaId as WireReplica,
            /// The metadata version that has the new replica.
            #[prost(uint64, tag = "2")]
            version: u64,
        },
        /// The reply to `AllocateProducerIds`: the ids `first .. first + count` belong to the proposer.
        ProducerIds = 10 {
            /// The first id.
            #[prost(int64, tag = "1")]
            first: ProducerId as i64,
            /// The number of ids, as in the command.
            #[prost(uint32, tag = "2")]
            count: u32,
        },
        /// The reply to `BumpProducerEpoch`.
        ProducerEpoch = 11 {
            /// The same id, or a fresh one when the epochs of the old one are used up.
            #[prost(int64, tag = "1")]
            producer_id: ProducerId as i64,
            /// The epoch to continue with.
            #[prost(int32, tag = "2")]
            epoch: ProducerEpoch as i32,
        },
    }
}

impl Reply {
    /// The rejection as an error, anything else as it is.
    pub fn into_result(self) -> Result<Self, Rejection> {
        match self {
            Self::Rejected(rejection) => Err(rejection),
            reply => Ok(reply),
        }
    }
}
