//! The encoded form of replies.

use bytes::Bytes;
use jangada_types::frame::{CodecError, frame, message, topic_id, unframe};
use jangada_types::{BrokerId, GroupId, Incarnation, ProducerId, Rejection};

use super::{WireReplica, epoch};
use crate::reply::Reply;

const REJECTED: u8 = 1;
const CLUSTER_FORMED: u8 = 2;
const BROKER_REGISTERED: u8 = 3;
const BROKER_REPLACED: u8 = 4;
const TOPIC_CREATED: u8 = 5;
const TOPIC_ALTERED: u8 = 6;
const TOPIC_DELETED: u8 = 7;
const REPLICA_DELETED: u8 = 8;
const REPLICAS_SET: u8 = 9;
const PRODUCER_IDS: u8 = 10;
const PRODUCER_EPOCH: u8 = 11;
const FEATURE_LEVEL_RAISED: u8 = 12;
const REPLICA_RENEWED: u8 = 13;
const BROKER_REMOVED: u8 = 14;

#[derive(Clone, PartialEq, prost::Message)]
struct ClusterFormed {
    #[prost(string, tag = "1")]
    cluster_id: String,
}

/// Of both `BrokerRegistered` and `BrokerReplaced`.
#[derive(Clone, PartialEq, prost::Message)]
struct BrokerIncarnation {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TopicCreated {
    #[prost(bytes = "vec", tag = "1")]
    topic_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    first_group: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
}

/// Of everything that only changed something.
#[derive(Clone, PartialEq, prost::Message)]
struct Changed {
    #[prost(uint64, tag = "1")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FeatureLevelRaised {
    #[prost(uint32, tag = "1")]
    level: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplicaDeleted {
    #[prost(uint32, tag = "1")]
    settled: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplicaRenewed {
    #[prost(message, required, tag = "1")]
    replica: WireReplica,
    #[prost(uint64, tag = "2")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProducerIds {
    #[prost(int64, tag = "1")]
    first: i64,
    #[prost(uint32, tag = "2")]
    count: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProducerEpoch {
    #[prost(int64, tag = "1")]
    producer_id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
}

pub(crate) fn encode(reply: &Reply) -> Bytes {
    let changed = |kind, version: &u64| frame(Some(kind), &Changed { version: *version });
    let incarnation = |kind, broker: &BrokerId, incarnation: &Incarnation| {
        let message = BrokerIncarnation {
            broker: broker.get(),
            incarnation: incarnation.get(),
        };
        frame(Some(kind), &message)
    };
    match reply {
        Reply::Rejected(rejection) => rejection.encode(REJECTED),
        Reply::ClusterFormed { cluster_id } => frame(
            Some(CLUSTER_FORMED),
            &ClusterFormed {
                cluster_id: cluster_id.clone(),
            },
        ),
        Reply::BrokerRegistered { broker, incarnation: i } => incarnation(BROKER_REGISTERED, broker, i),
        Reply::BrokerReplaced { broker, incarnation: i } => incarnation(BROKER_REPLACED, broker, i),
        Reply::TopicCreated {
            topic_id,
            first_group,
            version,
        } => frame(
            Some(TOPIC_CREATED),
            &TopicCreated {
                topic_id: topic_id.as_bytes().to_vec(),
                first_group: first_group.get(),
                version: *version,
            },
        ),
        Reply::FeatureLevelRaised { level } => frame(Some(FEATURE_LEVEL_RAISED), &FeatureLevelRaised { level: *level }),
        Reply::BrokerRemoved { version } => changed(BROKER_REMOVED, version),
        Reply::TopicAltered { version } => changed(TOPIC_ALTERED, version),
        Reply::TopicDeleted { version } => changed(TOPIC_DELETED, version),
        Reply::ReplicaDeleted { settled } => frame(Some(REPLICA_DELETED), &ReplicaDeleted { settled: *settled }),
        Reply::ReplicasSet { version } => changed(REPLICAS_SET, version),
        Reply::ReplicaRenewed { replica, version } => frame(
            Some(REPLICA_RENEWED),
            &ReplicaRenewed {
                replica: (*replica).into(),
                version: *version,
            },
        ),
        Reply::ProducerIds { first, count } => frame(
            Some(PRODUCER_IDS),
            &ProducerIds {
                first: first.get(),
                count: *count,
            },
        ),
        Reply::ProducerEpoch { producer_id, epoch } => frame(
            Some(PRODUCER_EPOCH),
            &ProducerEpoch {
                producer_id: producer_id.get(),
                epoch: epoch.get().into(),
            },
        ),
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Reply, CodecError> {
    let (kind, body) = unframe("reply", bytes)?;
    match kind {
        REJECTED => Rejection::decode("reply Rejected", body).map(Reply::Rejected),
        CLUSTER_FORMED => {
            let wire: ClusterFormed = message("reply ClusterFormed", body)?;
            Ok(Reply::ClusterFormed {
                cluster_id: wire.cluster_id,
            })
        }
        BROKER_REGISTERED => {
            let wire: BrokerIncarnation = message("reply BrokerRegistered", body)?;
            Ok(Reply::BrokerRegistered {
                broker: BrokerId(wire.broker),
                incarnation: Incarnation(wire.incarnation),
            })
        }
        BROKER_REPLACED => {
            let wire: BrokerIncarnation = message("reply BrokerReplaced", body)?;
            Ok(Reply::BrokerReplaced {
                broker: BrokerId(wire.broker),
                incarnation: Incarnation(wire.incarnation),
            })
        }
        TOPIC_CREATED => {
            let wire: TopicCreated = message("reply TopicCreated", body)?;
            Ok(Reply::TopicCreated {
                topic_id: topic_id("reply TopicCreated", &wire.topic_id)?,
                first_group: GroupId(wire.first_group),
                version: wire.version,
            })
        }
        FEATURE_LEVEL_RAISED => {
            let FeatureLevelRaised { level } = message("reply FeatureLevelRaised", body)?;
            Ok(Reply::FeatureLevelRaised { level })
        }
        BROKER_REMOVED => {
            let Changed { version } = message("reply BrokerRemoved", body)?;
            Ok(Reply::BrokerRemoved { version })
        }
        TOPIC_ALTERED => {
            let Changed { version } = message("reply TopicAltered", body)?;
            Ok(Reply::TopicAltered { version })
        }
        TOPIC_DELETED => {
            let Changed { version } = message("reply TopicDeleted", body)?;
            Ok(Reply::TopicDeleted { version })
        }
        REPLICA_DELETED => {
            let ReplicaDeleted { settled } = message("reply ReplicaDeleted", body)?;
            Ok(Reply::ReplicaDeleted { settled })
        }
        REPLICAS_SET => {
            let Changed { version } = message("reply ReplicasSet", body)?;
            Ok(Reply::ReplicasSet { version })
        }
        REPLICA_RENEWED => {
            let wire: ReplicaRenewed = message("reply ReplicaRenewed", body)?;
            Ok(Reply::ReplicaRenewed {
                replica: wire.replica.into(),
                version: wire.version,
            })
        }
        PRODUCER_IDS => {
            let ProducerIds { first, count } = message("reply ProducerIds", body)?;
            Ok(Reply::ProducerIds {
                first: ProducerId(first),
                count,
            })
        }
        PRODUCER_EPOCH => {
            let wire: ProducerEpoch = message("reply ProducerEpoch", body)?;
            Ok(Reply::ProducerEpoch {
                producer_id: ProducerId(wire.producer_id),
                epoch: epoch("reply ProducerEpoch", wire.epoch)?,
            })
        }
        kind => Err(CodecError::UnknownKind { what: "reply", kind }),
    }
}
