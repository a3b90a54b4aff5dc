//! The commands that are replicated through group 0. A command carries results: what the leader chose (ids,
//! assignments), never something that each replica would have to choose again.
//!
//! The declaration is all that there is of a command's encoding; [`jangada_types::replicated`] says how to read it.

use std::collections::BTreeMap;

use jangada_routing::{Binding, ExchangeKind};
use jangada_types::{
    BrokerId, ExchangeId, GroupId, ProducerEpoch, ProducerId, QueueId, ReplicaId, TopicId, replicated,
};

use crate::endpoints::Endpoints;
use crate::queues::QueueStart;
use crate::registration::{BrokerRegistration, SeedBroker};
use crate::wire::{WireBinding, WireEndpoint, WireRegistration, WireReplica, WireReplicas};

replicated! {
    /// A change of the cluster's metadata.
    pub enum Command, CommandKind, "command" {
        /// The first command of a cluster. Its brokers get incarnation 1. A second one with the same id is accepted
        /// without an effect.
        FormCluster = 1 since 1 {
            /// The cluster's id, a UUID in text form.
            #[prost(string, tag = "1")]
            cluster_id: String,
            /// The seeds; at least one.
            #[prost(message, repeated, tag = "2")]
            brokers: Vec<SeedBroker> as Vec<WireRegistration>,
        },
        /// A broker joins, comes back, or has new addresses. See [`BrokerRegistration`]. Used when the broker has no
        /// listeners but `public` and `internal`, or the cluster is not at the level that knows others.
        RegisterBroker(BrokerRegistration as WireRegistration) = 2 since 1,
        /// Like `RegisterBroker`, for a broker that has other listeners, too.
        RegisterEndpoints = 16 since 6 {
            /// The broker, as in `RegisterBroker`.
            #[prost(message, required, tag = "1")]
            registration: BrokerRegistration as WireRegistration,
            /// The broker's other listeners.
            #[prost(message, repeated, tag = "2")]
            endpoints: Endpoints as Vec<WireEndpoint>,
        },
        /// Gives up a broker's replicas: it may come back with an empty directory, under the next incarnation, and no
        /// longer under its old one. Repeated before the broker came back: accepted without an effect.
        ReplaceBroker = 3 since 1 {
            /// The broker that is replaced.
            #[prost(uint32, tag = "1")]
            broker: BrokerId as u32,
        },
        /// Takes a broker out of the cluster that has no replicas and owes no deletions: it may not come back with the
        /// data directory that it had. When it was taken out before: accepted without an effect. From then on no broker
        /// may join that does not know this command.
        RemoveBroker = 15 since 5 {
            /// The broker that is taken out.
            #[prost(uint32, tag = "1")]
            broker: BrokerId as u32,
        },
        /// Creates a topic; its partitions get the next group ids.
        CreateTopic = 4 since 1 {
            /// The topic's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// The topic's name. If it is taken at the moment of apply, the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// The settings that differ from the defaults.
            #[prost(btree_map = "string, string", tag = "3")]
            config: BTreeMap<String, String>,
            /// The replicas of each partition, by index, the preferred leader first.
            #[prost(message, repeated, tag = "4")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Gives a topic more partitions, with the next group ids. From then on no broker may join that does not know
        /// this command.
        AddPartitions = 13 since 4 {
            /// The topic that grows.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// The number of partitions that the topic has. If it has others at the moment of apply, the command is
            /// rejected.
            #[prost(uint32, tag = "2")]
            existing: u32,
            /// The replicas of each new partition, by index, the preferred leader first; at least one.
            #[prost(message, repeated, tag = "3")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Creates the topic of the coordinator's shards. When it exists already: accepted without an effect. From then
        /// on no broker may join that does not know this command.
        CreateCoordinator = 11 since 2 {
            /// The topic's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// The replicas of each shard, by index, the preferred leader first.
            #[prost(message, repeated, tag = "2")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Raises the cluster's feature level, which all its brokers must understand: from then on no broker may join that is
        /// below. When the cluster has that level or a higher one: accepted without an effect.
        RaiseFeatureLevel = 12 since 3 {
            /// The level that the cluster gets.
            #[prost(uint32, tag = "1")]
            level: u32,
        },
        /// Changes settings of a topic, all or none.
        AlterTopic = 5 since 1 {
            /// The topic that is altered.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// Settings to set.
            #[prost(btree_map = "string, string", tag = "2")]
            set: BTreeMap<String, String>,
            /// Keys to put back to their defaults.
            #[prost(string, repeated, tag = "3")]
            unset: Vec<String>,
        },
        /// Deletes a topic. Each of its groups gets a tombstone that names the replicas with data to delete.
        DeleteTopic = 6 since 1 {
            /// The topic that is deleted.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
        },
        /// Creates a queue with a topic of its own, which gets the queue's name and the bytes of its id; the topic's partitions get
        /// the next group ids. From then on no broker may join that does not know this command.
        CreateOwnedQueue = 17 since 7 {
            /// The queue's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
            /// The queue's name. If a topic or queue has it at the moment of apply, the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// The settings that differ from the defaults.
            #[prost(btree_map = "string, string", tag = "3")]
            config: BTreeMap<String, String>,
            /// The replicas of each partition, by index, the preferred leader first.
            #[prost(message, repeated, tag = "4")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Creates a queue that reads an ordinary topic. From then on no broker may join that does not know this command.
        CreateGroupQueue = 18 since 7 {
            /// The queue's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
            /// The queue's name. If a topic or queue has it at the moment of apply, the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// The topic that it reads.
            #[prost(bytes = "vec", tag = "3")]
            topic_id: TopicId as Vec<u8>,
            /// Where it begins in each partition that the topic has at the moment of apply.
            #[prost(sint64, tag = "4")]
            start: QueueStart as i64,
            /// The settings that differ from the defaults.
            #[prost(btree_map = "string, string", tag = "5")]
            config: BTreeMap<String, String>,
        },
        /// Changes settings of a queue, all or none.
        AlterQueue = 19 since 7 {
            /// The queue that is altered.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
            /// Settings to set.
            #[prost(btree_map = "string, string", tag = "2")]
            set: BTreeMap<String, String>,
            /// Keys to put back to their defaults.
            #[prost(string, repeated, tag = "3")]
            unset: Vec<String>,
        },
        /// Deletes a queue. The topic of an owned one goes with it, as with `DeleteTopic`; the topic that a group queue reads stays.
        DeleteQueue = 20 since 7 {
            /// The queue that is deleted.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
        },
        /// Deletes a queue that nobody uses, as `DeleteQueue` does, unless its settings say otherwise by now.
        ExpireQueue = 21 since 7 {
            /// The queue that is deleted.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
            /// The setting `queue.expires.ms` that its leaders went by. If it is another one at the moment of apply, the command is
            /// rejected.
            #[prost(uint64, tag = "2")]
            expires_ms: u64,
        },
        /// Creates an exchange without bindings. From then on no broker may join that does not know this command.
        CreateExchange = 22 since 9 {
            /// The exchange's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            exchange_id: ExchangeId as Vec<u8>,
            /// The exchange's name. If an exchange has it at the moment of apply, the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// How it finds bindings.
            #[prost(uint32, tag = "3")]
            exchange_kind: ExchangeKind as u32,
            /// The exchange, by name, that gets messages that match no binding. It need not be there.
            #[prost(string, optional, tag = "4")]
            alternate: Option<String>,
            /// Whether messages come from other exchanges only.
            #[prost(bool, tag = "5")]
            is_internal: bool,
            /// Whether it is deleted when its last binding is taken away.
            #[prost(bool, tag = "6")]
            auto_delete: bool,
        },
        /// Deletes an exchange, its bindings, and those that lead to it.
        DeleteExchange = 23 since 9 {
            /// The exchange that is deleted.
            #[prost(bytes = "vec", tag = "1")]
            exchange_id: ExchangeId as Vec<u8>,
            /// Whether the command is rejected when the exchange has bindings.
            #[prost(bool, tag = "2")]
            if_unused: bool,
        },
        /// Gives an exchange bindings, all or none. Those that it has are left as they are.
        Bind = 24 since 9 {
            /// The exchange that gets the bindings.
            #[prost(bytes = "vec", tag = "1")]
            exchange_id: ExchangeId as Vec<u8>,
            /// The bindings; at least one.
            #[prost(message, repeated, tag = "2")]
            bindings: Vec<Binding> as Vec<WireBinding>,
        },
        /// Takes bindings from an exchange. Those that it does not have are left out.
        Unbind = 25 since 9 {
            /// The exchange that loses the bindings.
            #[prost(bytes = "vec", tag = "1")]
            exchange_id: ExchangeId as Vec<u8>,
            /// The bindings; at least one.
            #[prost(message, repeated, tag = "2")]
            bindings: Vec<Binding> as Vec<WireBinding>,
        },
        /// Creates an exchange with a log: a topic of its own, which gets the bytes of its id. It is deleted by hand alone. From then on
        /// no broker may join that does not know this command.
        CreateLoggedExchange = 26 since 9 {
            /// The exchange's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            exchange_id: ExchangeId as Vec<u8>,
            /// The exchange's name. If an exchange has it at the moment of apply, the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// How it finds bindings.
            #[prost(uint32, tag = "3")]
            exchange_kind: ExchangeKind as u32,
            /// The exchange, by name, that gets messages that match no binding. It need not be there.
            #[prost(string, optional, tag = "4")]
            alternate: Option<String>,
            /// Whether messages come from other exchanges only.
            #[prost(bool, tag = "5")]
            is_internal: bool,
            /// The settings of its topic that are set.
            #[prost(btree_map = "string, string", tag = "6")]
            config: BTreeMap<String, String>,
            /// The replicas of each partition, by index, the preferred leader first.
            #[prost(message, repeated, tag = "7")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Creates a queue that is a view over the log of an exchange, and begins at its end. A fanout exchange has it bound with that.
        CreateBoundQueue = 27 since 9 {
            /// The queue's id, chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            queue_id: QueueId as Vec<u8>,
            /// The queue's name. If a topic or queue has it at the moment of apply, the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// The exchange, which has a log.
            #[prost(bytes = "vec", tag = "3")]
            exchange_id: ExchangeId as Vec<u8>,
            /// The settings that differ from the defaults.
            #[prost(btree_map = "string, string", tag = "4")]
            config: BTreeMap<String, String>,
        },
        /// A replica has durably deleted its data of these groups. Groups whose deletion is not owed (any more) are
        /// ignored.
        ReplicaDeleted = 7 since 1 {
            /// The replica that deleted its data.
            #[prost(message, required, tag = "1")]
            replica: ReplicaId as WireReplica,
            /// Groups with a tombstone, or live groups that it was leaving.
            #[prost(uint64, repeated, tag = "2")]
            groups: Vec<GroupId> as Vec<u64>,
        },
        /// Sets the replicas that a partition should have. Those that are taken off become `leaving`.
        SetReplicas = 8 since 1 {
            /// The partition's group, which must be live.
            #[prost(uint64, tag = "1")]
            group: GroupId as u64,
            /// The new replicas, the preferred leader first.
            #[prost(message, repeated, tag = "2")]
            replicas: Vec<ReplicaId> as Vec<WireReplica>,
        },
        /// Gives one replica of a partition up and puts a new one, without data, in its place on the same broker, with
        /// the broker's next incarnation. For a replica whose data is damaged; the proposer has made sure that a
        /// majority of all replicas has everything without it. Repeated while the data of the old one is there:
        /// accepted without an effect. From then on no broker may join that does not know this command.
        RenewReplica = 14 since 5 {
            /// The partition's group, which must be live.
            #[prost(uint64, tag = "1")]
            group: GroupId as u64,
            /// The replica that is given up, as it is in the partition's list.
            #[prost(message, required, tag = "2")]
            replica: ReplicaId as WireReplica,
            /// The partition's list that the proposer checked. If it is another one at the moment of apply, the command
            /// is rejected: the check says nothing about other replicas. Empty: the proposer did not say.
            #[prost(message, repeated, tag = "3")]
            checked: Vec<ReplicaId> as Vec<WireReplica>,
        },
        /// Takes a block of producer ids out of circulation, for the proposer to give out.
        AllocateProducerIds = 9 since 1 {
            /// The number of ids; at least 1.
            #[prost(uint32, tag = "1")]
            count: u32,
        },
        /// Gives an idempotent producer that continues under its id the next epoch.
        ///
        /// The image keeps no row per producer: the answer is the caller's epoch + 1, or a fresh id with epoch 0 after
        /// epoch 32767. What that guarantees: the pair is higher than the one the caller had, so every partition that
        /// sees it fences the caller's old epoch. What it doesn't: two callers that both hold the same pair get the
        /// same answer. A producer id thus belongs to one process at a time. In return a bump can be repeated after
        /// an unknown outcome.
        BumpProducerEpoch = 10 since 1 {
            /// The producer's id, which must have been given out.
            #[prost(int64, tag = "1")]
            producer_id: ProducerId as i64,
            /// The epoch that the caller had; not negative.
            #[prost(int32, tag = "2")]
            epoch: ProducerEpoch as i32,
        },
    }
}

/// The feature level from which brokers register endpoints in addition to `public` and `internal`, and forward calls to
/// each other over the internal listener.
pub const ENDPOINTS_FEATURE_LEVEL: u32 = CommandKind::RegisterEndpoints.since();

/// The feature level from which damaged replicas are given up for new ones.
pub const RENEWAL_FEATURE_LEVEL: u32 = CommandKind::RenewReplica.since();

/// The feature level from which there are queues.
pub const QUEUES_FEATURE_LEVEL: u32 = CommandKind::CreateOwnedQueue.since();

/// The feature level from which there are exchanges.
pub const EXCHANGES_FEATURE_LEVEL: u32 = CommandKind::CreateExchange.since();
