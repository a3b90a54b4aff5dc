//! What is replicated through group 0. A command carries results: what the leader chose (ids, assignments), never
//! something that each replica would have to choose again.
//!
//! The declaration is all that there is of a command's encoding; [`jangada_types::replicated`] says how to read it.

use std::collections::BTreeMap;

use jangada_types::{BrokerId, GroupId, ProducerEpoch, ProducerId, ReplicaId, TopicId, replicated};

use crate::endpoints::Endpoints;
use crate::registration::{BrokerRegistration, SeedBroker};
use crate::wire::{WireEndpoint, WireRegistration, WireReplica, WireReplicas};

replicated! {
    /// A change of the cluster's metadata.
    pub enum Command, CommandKind, "command" {
        /// The first command of a cluster. Its brokers get incarnation 1. Again with the same id: accepted, without an
        /// effect.
        FormCluster = 1 since 1 {
            /// A UUID in text form.
            #[prost(string, tag = "1")]
            cluster_id: String,
            /// The seeds; at least one.
            #[prost(message, repeated, tag = "2")]
            brokers: Vec<SeedBroker> as Vec<WireRegistration>,
        },
        /// A broker joins, comes back, or has new addresses. See [`BrokerRegistration`]. It has no listeners but `public` and
        /// `internal`, or the cluster is not at the level that knows others.
        RegisterBroker(BrokerRegistration as WireRegistration) = 2 since 1,
        /// The same for a broker that has other listeners, too.
        RegisterEndpoints = 16 since 6 {
            /// As in `RegisterBroker`.
            #[prost(message, required, tag = "1")]
            registration: BrokerRegistration as WireRegistration,
            /// The other listeners.
            #[prost(message, repeated, tag = "2")]
            endpoints: Endpoints as Vec<WireEndpoint>,
        },
        /// Gives up a broker's replicas: it may come back with an empty directory, under the next incarnation, and no
        /// longer under its old one. Again before it came back: accepted, without an effect.
        ReplaceBroker = 3 since 1 {
            /// Who.
            #[prost(uint32, tag = "1")]
            broker: BrokerId as u32,
        },
        /// Takes a broker out of the cluster that has no replicas and owes nothing: it may not come back with the data directory
        /// that it had. When it is not there: accepted, without an effect, if it was taken out before. From then on no broker may
        /// join that does not know it.
        RemoveBroker = 15 since 5 {
            /// Who.
            #[prost(uint32, tag = "1")]
            broker: BrokerId as u32,
        },
        /// Creates a topic; its partitions get the next group ids.
        CreateTopic = 4 since 1 {
            /// Chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// Free at the moment of apply, or the command is rejected.
            #[prost(string, tag = "2")]
            name: String,
            /// The settings that differ from the defaults.
            #[prost(btree_map = "string, string", tag = "3")]
            config: BTreeMap<String, String>,
            /// The replicas of each partition, by index, the preferred leader first.
            #[prost(message, repeated, tag = "4")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Gives a topic more partitions, with the next group ids. From then on no broker may join that does not know it.
        AddPartitions = 13 since 4 {
            /// Which.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// The partitions that it has at the moment of apply, or the command is rejected.
            #[prost(uint32, tag = "2")]
            existing: u32,
            /// The replicas of each new partition, by index, the preferred leader first; at least one.
            #[prost(message, repeated, tag = "3")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Creates the topic of the coordinator's shards. When it exists already: accepted, without an effect. From then
        /// on no broker may join that does not know it.
        CreateCoordinator = 11 since 2 {
            /// Chosen at random by the proposer.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
            /// The replicas of each shard, by index, the preferred leader first.
            #[prost(message, repeated, tag = "2")]
            assignments: Vec<Vec<ReplicaId>> as Vec<WireReplicas>,
        },
        /// Raises the cluster's feature level, which must be that of each of its brokers at least: from then on no broker may
        /// join that is below. At that level or above it already: accepted, without an effect.
        RaiseFeatureLevel = 12 since 3 {
            /// To this one.
            #[prost(uint32, tag = "1")]
            level: u32,
        },
        /// Changes settings of a topic, all or none.
        AlterTopic = 5 since 1 {
            /// Which.
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
            /// Which.
            #[prost(bytes = "vec", tag = "1")]
            topic_id: TopicId as Vec<u8>,
        },
        /// A replica has durably deleted its data of these groups. What is not owed (any more) is ignored.
        ReplicaDeleted = 7 since 1 {
            /// Who.
            #[prost(message, required, tag = "1")]
            replica: ReplicaId as WireReplica,
            /// Groups with a tombstone, or live groups that it was leaving.
            #[prost(uint64, repeated, tag = "2")]
            groups: Vec<GroupId> as Vec<u64>,
        },
        /// Says which replicas a partition should have. Those that are taken off become `leaving`.
        SetReplicas = 8 since 1 {
            /// A live group.
            #[prost(uint64, tag = "1")]
            group: GroupId as u64,
            /// The preferred leader first.
            #[prost(message, repeated, tag = "2")]
            replicas: Vec<ReplicaId> as Vec<WireReplica>,
        },
        /// Gives one replica of a partition up and puts a new one, without data, in its place on the same broker, with the
        /// broker's next incarnation. For a replica whose data is damaged; the proposer has made sure that a majority of all
        /// replicas has everything without it. Again while the data of the old one is there: accepted, without an effect.
        /// From then on no broker may join that does not know it.
        RenewReplica = 14 since 5 {
            /// A live group.
            #[prost(uint64, tag = "1")]
            group: GroupId as u64,
            /// The replica that is given up, as it is in the partition's list.
            #[prost(message, required, tag = "2")]
            replica: ReplicaId as WireReplica,
            /// The partition's list when it was made sure of; another one at the moment of apply, and the command is rejected: what
            /// was true of those replicas says nothing of these. Empty: the proposer did not say.
            #[prost(message, repeated, tag = "3")]
            checked: Vec<ReplicaId> as Vec<WireReplica>,
        },
        /// Takes a block of producer ids out of circulation, for the proposer to give out.
        AllocateProducerIds = 9 since 1 {
            /// At least 1.
            #[prost(uint32, tag = "1")]
            count: u32,
        },
        /// The next epoch of an idempotent producer that goes on under its id.
        ///
        /// The image keeps no row per producer: the answer is the caller's epoch + 1, or a fresh id with epoch 0 after
        /// epoch 32767. What that guarantees: the pair is higher than the one the caller had, so every partition that
        /// sees it fences the caller's old epoch. What it doesn't: two callers that both hold the same pair get the
        /// same answer. A producer id thus belongs to one process at a time. In return a bump can be repeated after
        /// an unknown outcome.
        BumpProducerEpoch = 10 since 1 {
            /// An id that was given out.
            #[prost(int64, tag = "1")]
            producer_id: ProducerId as i64,
            /// The epoch that the caller had; not negative.
            #[prost(int32, tag = "2")]
            epoch: ProducerEpoch as i32,
        },
    }
}

/// The feature level from which brokers register endpoints beside `public` and `internal`, and pass calls on to each other over
/// the internal listener.
pub const ENDPOINTS_FEATURE_LEVEL: u32 = CommandKind::RegisterEndpoints.since();

/// The feature level from which damaged replicas are given up for new ones.
pub const RENEWAL_FEATURE_LEVEL: u32 = CommandKind::RenewReplica.since();
