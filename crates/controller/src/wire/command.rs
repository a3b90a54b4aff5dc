//! The encoded form of commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_types::frame::{CodecError, frame, message, topic_id, unframe};
use jangada_types::{BrokerId, GroupId, Incarnation, ProducerId, ReplicaId};

use super::{WireReplica, WireReplicas, directory_id, epoch, from_wire, to_wire};
use crate::command::{BrokerRegistration, Command, SeedBroker};

const FORM_CLUSTER: u8 = 1;
const REGISTER_BROKER: u8 = 2;
const REPLACE_BROKER: u8 = 3;
const CREATE_TOPIC: u8 = 4;
const ALTER_TOPIC: u8 = 5;
const DELETE_TOPIC: u8 = 6;
const REPLICA_DELETED: u8 = 7;
const SET_REPLICAS: u8 = 8;
const ALLOCATE_PRODUCER_IDS: u8 = 9;
const BUMP_PRODUCER_EPOCH: u8 = 10;
const CREATE_COORDINATOR: u8 = 11;
const RAISE_FEATURE_LEVEL: u8 = 12;
const ADD_PARTITIONS: u8 = 13;
const RENEW_REPLICA: u8 = 14;
const REMOVE_BROKER: u8 = 15;

#[derive(Clone, PartialEq, prost::Message)]
struct FormCluster {
    #[prost(string, tag = "1")]
    cluster_id: String,
    /// Their incarnations are not set.
    #[prost(message, repeated, tag = "2")]
    brokers: Vec<WireRegistration>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRegistration {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
    #[prost(string, tag = "4")]
    address: String,
    #[prost(string, tag = "5")]
    internal_address: String,
    #[prost(string, tag = "6")]
    rack: String,
    #[prost(uint32, tag = "7")]
    feature_level: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplaceBroker {
    #[prost(uint32, tag = "1")]
    broker: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RemoveBroker {
    #[prost(uint32, tag = "1")]
    broker: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateCoordinator {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    assignments: Vec<WireReplicas>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AddPartitions {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    existing: u32,
    #[prost(message, repeated, tag = "3")]
    assignments: Vec<WireReplicas>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RaiseFeatureLevel {
    #[prost(uint32, tag = "1")]
    level: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateTopic {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    config: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "4")]
    assignments: Vec<WireReplicas>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AlterTopic {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
    #[prost(btree_map = "string, string", tag = "2")]
    set: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "3")]
    unset: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteTopic {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplicaDeleted {
    #[prost(message, required, tag = "1")]
    replica: WireReplica,
    #[prost(uint64, repeated, tag = "2")]
    groups: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SetReplicas {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(message, repeated, tag = "2")]
    replicas: Vec<WireReplica>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RenewReplica {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(message, required, tag = "2")]
    replica: WireReplica,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AllocateProducerIds {
    #[prost(uint32, tag = "1")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BumpProducerEpoch {
    #[prost(int64, tag = "1")]
    producer_id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
}

impl From<&SeedBroker> for WireRegistration {
    fn from(seed: &SeedBroker) -> Self {
        Self {
            broker: seed.broker.get(),
            incarnation: 0,
            directory: seed.directory.as_bytes().to_vec(),
            address: seed.address.clone(),
            internal_address: seed.internal_address.clone(),
            rack: seed.rack.clone(),
            feature_level: seed.feature_level,
        }
    }
}

impl From<&BrokerRegistration> for WireRegistration {
    fn from(registration: &BrokerRegistration) -> Self {
        Self {
            broker: registration.broker.get(),
            incarnation: registration.incarnation.get(),
            directory: registration.directory.as_bytes().to_vec(),
            address: registration.address.clone(),
            internal_address: registration.internal_address.clone(),
            rack: registration.rack.clone(),
            feature_level: registration.feature_level,
        }
    }
}

impl WireRegistration {
    fn into_seed(self) -> Result<SeedBroker, CodecError> {
        Ok(SeedBroker {
            broker: BrokerId(self.broker),
            directory: directory_id("command FormCluster", &self.directory)?,
            address: self.address,
            internal_address: self.internal_address,
            rack: self.rack,
            feature_level: self.feature_level,
        })
    }

    fn into_registration(self) -> Result<BrokerRegistration, CodecError> {
        Ok(BrokerRegistration {
            broker: BrokerId(self.broker),
            incarnation: Incarnation(self.incarnation),
            directory: directory_id("command RegisterBroker", &self.directory)?,
            address: self.address,
            internal_address: self.internal_address,
            rack: self.rack,
            feature_level: self.feature_level,
        })
    }
}

fn lists_to_wire(assignments: &[Vec<ReplicaId>]) -> Vec<WireReplicas> {
    let list = |replicas: &Vec<ReplicaId>| WireReplicas {
        replicas: to_wire(replicas),
    };
    assignments.iter().map(list).collect()
}

fn lists_from_wire(assignments: Vec<WireReplicas>) -> Vec<Vec<ReplicaId>> {
    assignments.into_iter().map(|list| from_wire(list.replicas)).collect()
}

pub(crate) fn encode(command: &Command) -> Bytes {
    match command {
        Command::FormCluster { cluster_id, brokers } => frame(
            Some(FORM_CLUSTER),
            &FormCluster {
                cluster_id: cluster_id.clone(),
                brokers: brokers.iter().map(WireRegistration::from).collect(),
            },
        ),
        Command::RegisterBroker(registration) => frame(Some(REGISTER_BROKER), &WireRegistration::from(registration)),
        Command::ReplaceBroker { broker } => frame(Some(REPLACE_BROKER), &ReplaceBroker { broker: broker.get() }),
        Command::RemoveBroker { broker } => frame(Some(REMOVE_BROKER), &RemoveBroker { broker: broker.get() }),
        Command::CreateTopic {
            topic_id,
            name,
            config,
            assignments,
        } => frame(
            Some(CREATE_TOPIC),
            &CreateTopic {
                topic_id: topic_id.as_bytes().to_vec(),
                name: name.clone(),
                config: config.clone(),
                assignments: lists_to_wire(assignments),
            },
        ),
        Command::CreateCoordinator { topic_id, assignments } => frame(
            Some(CREATE_COORDINATOR),
            &CreateCoordinator {
                topic_id: topic_id.as_bytes().to_vec(),
                assignments: lists_to_wire(assignments),
            },
        ),
        Command::AddPartitions {
            topic_id,
            existing,
            assignments,
        } => frame(
            Some(ADD_PARTITIONS),
            &AddPartitions {
                topic_id: topic_id.as_bytes().to_vec(),
                existing: *existing,
                assignments: lists_to_wire(assignments),
            },
        ),
        Command::RaiseFeatureLevel { level } => frame(Some(RAISE_FEATURE_LEVEL), &RaiseFeatureLevel { level: *level }),
        Command::AlterTopic { topic_id, set, unset } => frame(
            Some(ALTER_TOPIC),
            &AlterTopic {
                topic_id: topic_id.as_bytes().to_vec(),
                set: set.clone(),
                unset: unset.clone(),
            },
        ),
        Command::DeleteTopic { topic_id } => frame(
            Some(DELETE_TOPIC),
            &DeleteTopic {
                topic_id: topic_id.as_bytes().to_vec(),
            },
        ),
        Command::ReplicaDeleted { replica, groups } => frame(
            Some(REPLICA_DELETED),
            &ReplicaDeleted {
                replica: (*replica).into(),
                groups: groups.iter().map(|group| group.get()).collect(),
            },
        ),
        Command::SetReplicas { group, replicas } => frame(
            Some(SET_REPLICAS),
            &SetReplicas {
                group: group.get(),
                replicas: to_wire(replicas),
            },
        ),
        Command::RenewReplica { group, replica } => frame(
            Some(RENEW_REPLICA),
            &RenewReplica {
                group: group.get(),
                replica: (*replica).into(),
            },
        ),
        Command::AllocateProducerIds { count } => {
            frame(Some(ALLOCATE_PRODUCER_IDS), &AllocateProducerIds { count: *count })
        }
        Command::BumpProducerEpoch { producer_id, epoch } => frame(
            Some(BUMP_PRODUCER_EPOCH),
            &BumpProducerEpoch {
                producer_id: producer_id.get(),
                epoch: epoch.get().into(),
            },
        ),
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Command, CodecError> {
    let (kind, body) = unframe("command", bytes)?;
    match kind {
        FORM_CLUSTER => {
            let wire: FormCluster = message("command FormCluster", body)?;
            Ok(Command::FormCluster {
                cluster_id: wire.cluster_id,
                brokers: wire
                    .brokers
                    .into_iter()
                    .map(WireRegistration::into_seed)
                    .collect::<Result<_, _>>()?,
            })
        }
        REGISTER_BROKER => {
            let wire: WireRegistration = message("command RegisterBroker", body)?;
            wire.into_registration().map(Command::RegisterBroker)
        }
        REPLACE_BROKER => {
            let wire: ReplaceBroker = message("command ReplaceBroker", body)?;
            Ok(Command::ReplaceBroker {
                broker: BrokerId(wire.broker),
            })
        }
        REMOVE_BROKER => {
            let wire: RemoveBroker = message("command RemoveBroker", body)?;
            Ok(Command::RemoveBroker {
                broker: BrokerId(wire.broker),
            })
        }
        CREATE_TOPIC => {
            let wire: CreateTopic = message("command CreateTopic", body)?;
            Ok(Command::CreateTopic {
                topic_id: topic_id("command CreateTopic", &wire.topic_id)?,
                name: wire.name,
                config: wire.config,
                assignments: lists_from_wire(wire.assignments),
            })
        }
        CREATE_COORDINATOR => {
            let wire: CreateCoordinator = message("command CreateCoordinator", body)?;
            Ok(Command::CreateCoordinator {
                topic_id: topic_id("command CreateCoordinator", &wire.topic_id)?,
                assignments: lists_from_wire(wire.assignments),
            })
        }
        ADD_PARTITIONS => {
            let wire: AddPartitions = message("command AddPartitions", body)?;
            Ok(Command::AddPartitions {
                topic_id: topic_id("command AddPartitions", &wire.topic_id)?,
                existing: wire.existing,
                assignments: lists_from_wire(wire.assignments),
            })
        }
        RAISE_FEATURE_LEVEL => {
            let wire: RaiseFeatureLevel = message("command RaiseFeatureLevel", body)?;
            Ok(Command::RaiseFeatureLevel { level: wire.level })
        }
        ALTER_TOPIC => {
            let wire: AlterTopic = message("command AlterTopic", body)?;
            Ok(Command::AlterTopic {
                topic_id: topic_id("command AlterTopic", &wire.topic_id)?,
                set: wire.set,
                unset: wire.unset,
            })
        }
        DELETE_TOPIC => {
            let wire: DeleteTopic = message("command DeleteTopic", body)?;
            Ok(Command::DeleteTopic {
                topic_id: topic_id("command DeleteTopic", &wire.topic_id)?,
            })
        }
        REPLICA_DELETED => {
            let wire: ReplicaDeleted = message("command ReplicaDeleted", body)?;
            Ok(Command::ReplicaDeleted {
                replica: wire.replica.into(),
                groups: wire.groups.into_iter().map(GroupId).collect(),
            })
        }
        SET_REPLICAS => {
            let wire: SetReplicas = message("command SetReplicas", body)?;
            Ok(Command::SetReplicas {
                group: GroupId(wire.group),
                replicas: from_wire(wire.replicas),
            })
        }
        RENEW_REPLICA => {
            let wire: RenewReplica = message("command RenewReplica", body)?;
            Ok(Command::RenewReplica {
                group: GroupId(wire.group),
                replica: wire.replica.into(),
            })
        }
        ALLOCATE_PRODUCER_IDS => {
            let wire: AllocateProducerIds = message("command AllocateProducerIds", body)?;
            Ok(Command::AllocateProducerIds { count: wire.count })
        }
        BUMP_PRODUCER_EPOCH => {
            let wire: BumpProducerEpoch = message("command BumpProducerEpoch", body)?;
            Ok(Command::BumpProducerEpoch {
                producer_id: ProducerId(wire.producer_id),
                epoch: epoch("command BumpProducerEpoch", wire.epoch)?,
            })
        }
        kind => Err(CodecError::UnknownKind { what: "command", kind }),
    }
}
