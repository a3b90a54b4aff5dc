//! The encoded form of the image. It does not have the derived indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jangada_routing::{Binding, Exchange};
use jangada_types::frame::{CodecError, frame, malformed, message, topic_id, unframe_plain};
use jangada_types::replicated::Wire;
use jangada_types::{BrokerId, GroupId, Incarnation, QueueId, ReplicaId};

use super::{WireBinding, WireEndpoint, WireReplica};
use crate::image::{Broker, Image, Partition, RemovedBroker, Tombstone, Topic, TopicKind};
use crate::queues::{EffectiveSettings, Queue, QueueKind};
use crate::registration::BrokerRegistration;

const WHAT: &str = "image snapshot";

#[derive(Clone, PartialEq, prost::Message)]
struct WireImage {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(uint32, tag = "3")]
    feature_level: u32,
    #[prost(uint64, tag = "4")]
    next_group_id: u64,
    #[prost(int64, tag = "5")]
    next_producer_id: i64,
    #[prost(message, repeated, tag = "6")]
    brokers: Vec<WireBroker>,
    #[prost(message, repeated, tag = "7")]
    topics: Vec<WireTopic>,
    #[prost(message, repeated, tag = "8")]
    tombstones: Vec<WireTombstone>,
    #[prost(message, repeated, tag = "9")]
    removed: Vec<WireRemoved>,
    /// Empty in images from before there were queues.
    #[prost(message, repeated, tag = "10")]
    queues: Vec<WireQueue>,
    /// Empty in images from before there were exchanges.
    #[prost(message, repeated, tag = "11")]
    exchanges: Vec<WireExchange>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireExchange {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(string, optional, tag = "4")]
    alternate: Option<String>,
    #[prost(bool, tag = "5")]
    is_internal: bool,
    #[prost(bool, tag = "6")]
    auto_delete: bool,
    /// Ascending, none twice.
    #[prost(message, repeated, tag = "7")]
    bindings: Vec<WireBinding>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireQueue {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    /// The topic that a group queue or a bound one reads; that of an owned one has its id.
    #[prost(bytes = "vec", tag = "3")]
    topic_id: Vec<u8>,
    #[prost(btree_map = "string, string", tag = "4")]
    config: BTreeMap<String, String>,
    /// Of a group queue: where it begins.
    #[prost(sint64, tag = "5")]
    start: i64,
    /// Of a group queue: the number of partitions in which it begins there.
    #[prost(uint32, tag = "6")]
    partitions: u32,
    /// The topic is that of an exchange.
    #[prost(bool, tag = "7")]
    is_bound: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRemoved {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireBroker {
    #[prost(uint32, tag = "1")]
    id: u32,
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
    /// The expected incarnation; 0: none.
    #[prost(uint32, tag = "8")]
    expected_incarnation: u32,
    /// The last incarnation; 0: the same as the incarnation, as in images from before replicas were renewed.
    #[prost(uint32, tag = "9")]
    last_incarnation: u32,
    /// The other endpoints; empty in images from before brokers had others than those two.
    #[prost(message, repeated, tag = "10")]
    endpoints: Vec<WireEndpoint>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireTopic {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    config: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "4")]
    partitions: Vec<WirePartition>,
    /// The kind of topic; 0: log, as in images from before there were others.
    #[prost(uint32, tag = "5")]
    kind: u32,
}

const KIND_LOG: u32 = 0;
const KIND_COORDINATOR: u32 = 1;
const KIND_QUEUE: u32 = 2;
const KIND_EXCHANGE: u32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct WirePartition {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(message, repeated, tag = "2")]
    replicas: Vec<WireReplica>,
    #[prost(message, repeated, tag = "3")]
    leaving: Vec<WireReplica>,
    #[prost(bool, tag = "4")]
    is_reassigned: bool,
    #[prost(message, repeated, tag = "5")]
    first: Vec<WireReplica>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireTombstone {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(message, repeated, tag = "2")]
    replicas: Vec<WireReplica>,
}

impl From<&Broker> for WireBroker {
    fn from(broker: &Broker) -> Self {
        Self {
            id: broker.id.get(),
            incarnation: broker.incarnation.get(),
            directory: broker.directory.as_bytes().to_vec(),
            address: broker.address.clone(),
            internal_address: broker.internal_address.clone(),
            rack: broker.rack.clone(),
            feature_level: broker.feature_level,
            expected_incarnation: broker.expected_incarnation.map_or(0, Incarnation::get),
            last_incarnation: if broker.last_incarnation == broker.incarnation {
                0
            } else {
                broker.last_incarnation.get()
            },
            endpoints: broker.endpoints.to_form(),
        }
    }
}

impl From<&Topic> for WireTopic {
    fn from(topic: &Topic) -> Self {
        let partition = |partition: &Partition| WirePartition {
            group: partition.group.get(),
            replicas: partition.replicas.to_form(),
            leaving: partition.leaving.to_form(),
            is_reassigned: partition.is_reassigned,
            first: partition.first.to_form(),
        };
        Self {
            id: topic.id.as_bytes().to_vec(),
            name: topic.name.to_string(),
            config: topic.config.clone(),
            partitions: topic.partitions.iter().map(partition).collect(),
            kind: match topic.kind {
                TopicKind::Log => KIND_LOG,
                TopicKind::Coordinator => KIND_COORDINATOR,
                TopicKind::Queue => KIND_QUEUE,
                TopicKind::Exchange => KIND_EXCHANGE,
            },
        }
    }
}

impl From<&Queue> for WireQueue {
    fn from(queue: &Queue) -> Self {
        let (topic_id, start, partitions) = match queue.kind {
            QueueKind::Owned => (Vec::new(), 0, 0),
            QueueKind::Group { start, partitions } => (queue.topic_id.to_form(), start.to_form(), partitions),
            QueueKind::Bound => (queue.topic_id.to_form(), 0, 0),
        };
        Self {
            id: queue.id.to_form(),
            name: queue.name.to_string(),
            topic_id,
            config: queue.config.clone(),
            start,
            partitions,
            is_bound: queue.kind == QueueKind::Bound,
        }
    }
}

impl WireQueue {
    fn into_queue(self) -> Result<Queue, CodecError> {
        let id: QueueId = Wire::from_form(WHAT, self.id)?;
        let (topic_id, kind) = if self.topic_id.is_empty() {
            if self.start != 0 || self.partitions != 0 || self.is_bound {
                return Err(malformed(
                    WHAT,
                    format!("queue {:?} has no topic to start in", self.name),
                ));
            }
            (id.own_topic(), QueueKind::Owned)
        } else {
            let kind = match self.is_bound {
                true if (self.start, self.partitions) == (0, 0) => QueueKind::Bound,
                true => {
                    let name = self.name;
                    return Err(malformed(
                        WHAT,
                        format!("queue {name:?} is bound, and has a place to start"),
                    ));
                }
                false => QueueKind::Group {
                    start: Wire::from_form(WHAT, self.start)?,
                    partitions: self.partitions,
                },
            };
            (topic_id(WHAT, &self.topic_id)?, kind)
        };
        Ok(Queue {
            id,
            name: self.name.into(),
            topic_id,
            kind,
            config: self.config,
            effective: EffectiveSettings::default(),
        })
    }
}

impl From<&Exchange> for WireExchange {
    fn from(exchange: &Exchange) -> Self {
        Self {
            id: exchange.id.to_form(),
            name: exchange.name.to_string(),
            kind: exchange.kind.to_form(),
            alternate: exchange.alternate.to_form(),
            is_internal: exchange.is_internal,
            auto_delete: exchange.auto_delete,
            bindings: exchange.bindings.iter().map(Binding::to_form).collect(),
        }
    }
}

impl WireExchange {
    fn into_exchange(self) -> Result<Exchange, CodecError> {
        let count = self.bindings.len();
        let bindings: BTreeSet<Binding> = Vec::from_form(WHAT, self.bindings)?.into_iter().collect();
        if bindings.len() != count {
            return Err(malformed(WHAT, format!("exchange {:?} has a binding twice", self.name)));
        }
        Ok(Exchange {
            id: Wire::from_form(WHAT, self.id)?,
            name: self.name.into(),
            kind: Wire::from_form(WHAT, self.kind)?,
            alternate: Wire::from_form(WHAT, self.alternate)?,
            is_internal: self.is_internal,
            auto_delete: self.auto_delete,
            bindings: Arc::new(bindings),
        })
    }
}

impl WireBroker {
    fn into_broker(self) -> Result<Broker, CodecError> {
        Ok(Broker {
            registration: BrokerRegistration {
                id: BrokerId(self.id),
                incarnation: Incarnation(self.incarnation),
                directory: Wire::from_form(WHAT, self.directory)?,
                address: self.address,
                internal_address: self.internal_address,
                rack: self.rack,
                feature_level: self.feature_level,
            },
            endpoints: Wire::from_form(WHAT, self.endpoints)?,
            expected_incarnation: (self.expected_incarnation != 0).then_some(Incarnation(self.expected_incarnation)),
            last_incarnation: Incarnation(if self.last_incarnation == 0 {
                self.incarnation
            } else {
                self.last_incarnation
            }),
        })
    }
}

impl WireTopic {
    fn into_topic(self) -> Result<Topic, CodecError> {
        let partition = |wire: WirePartition| {
            Ok::<_, CodecError>(Partition {
                group: GroupId(wire.group),
                replicas: Wire::from_form(WHAT, wire.replicas)?,
                leaving: Wire::from_form(WHAT, wire.leaving)?,
                is_reassigned: wire.is_reassigned,
                first: Wire::from_form(WHAT, wire.first)?,
            })
        };
        let kind = match self.kind {
            KIND_LOG => TopicKind::Log,
            KIND_COORDINATOR => TopicKind::Coordinator,
            KIND_QUEUE => TopicKind::Queue,
            KIND_EXCHANGE => TopicKind::Exchange,
            other => return Err(malformed(WHAT, format!("unknown kind {other} of a topic"))),
        };
        Ok(Topic {
            id: topic_id(WHAT, &self.id)?,
            kind,
            name: self.name.into(),
            partitions: self.partitions.into_iter().map(partition).collect::<Result<_, _>>()?,
            config: self.config,
        })
    }
}

/// The decoded parts of a snapshot, before they have become an image.
pub(crate) struct Parts {
    pub(crate) cluster_id: String,
    pub(crate) version: u64,
    pub(crate) feature_level: u32,
    pub(crate) next_group_id: u64,
    pub(crate) next_producer_id: i64,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) tombstones: Vec<(GroupId, Tombstone)>,
    pub(crate) removed: Vec<(BrokerId, RemovedBroker)>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) exchanges: Vec<Exchange>,
}

pub(crate) fn encode(image: &Image) -> Bytes {
    let tombstone = |(group, tombstone): (GroupId, &Tombstone)| WireTombstone {
        group: group.get(),
        replicas: tombstone.replicas.to_vec().to_form(),
    };
    let removed = |(id, removed): (&BrokerId, &RemovedBroker)| WireRemoved {
        id: id.get(),
        incarnation: removed.incarnation.get(),
        directory: removed.directory.as_bytes().to_vec(),
    };
    let wire = WireImage {
        cluster_id: image.cluster_id.to_string(),
        version: image.version,
        feature_level: image.feature_level,
        next_group_id: image.next_group_id,
        next_producer_id: image.next_producer_id,
        brokers: image.brokers().map(WireBroker::from).collect(),
        topics: image.topics().map(|topic| WireTopic::from(&**topic)).collect(),
        tombstones: image.tombstones().map(tombstone).collect(),
        removed: image.removed.iter().map(removed).collect(),
        queues: image.queues().map(|queue| WireQueue::from(&**queue)).collect(),
        exchanges: image
            .exchanges()
            .map(|exchange| WireExchange::from(&**exchange))
            .collect(),
    };
    frame(None, &wire)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Parts, CodecError> {
    let wire: WireImage = message(WHAT, unframe_plain(WHAT, bytes)?)?;
    let tombstone = |wire: WireTombstone| {
        let replicas: Vec<ReplicaId> = Wire::from_form(WHAT, wire.replicas)?;
        let replicas = replicas.into();
        Ok::<_, CodecError>((GroupId(wire.group), Tombstone { replicas }))
    };
    let removed = |wire: WireRemoved| {
        let removed = RemovedBroker {
            incarnation: Incarnation(wire.incarnation),
            directory: Wire::from_form(WHAT, wire.directory)?,
        };
        Ok::<_, CodecError>((BrokerId(wire.id), removed))
    };
    Ok(Parts {
        cluster_id: wire.cluster_id,
        version: wire.version,
        feature_level: wire.feature_level,
        next_group_id: wire.next_group_id,
        next_producer_id: wire.next_producer_id,
        brokers: wire
            .brokers
            .into_iter()
            .map(WireBroker::into_broker)
            .collect::<Result<_, _>>()?,
        topics: wire
            .topics
            .into_iter()
            .map(WireTopic::into_topic)
            .collect::<Result<_, _>>()?,
        tombstones: wire.tombstones.into_iter().map(tombstone).collect::<Result<_, _>>()?,
        removed: wire.removed.into_iter().map(removed).collect::<Result<_, _>>()?,
        queues: wire
            .queues
            .into_iter()
            .map(WireQueue::into_queue)
            .collect::<Result<_, _>>()?,
        exchanges: wire
            .exchanges
            .into_iter()
            .map(WireExchange::into_exchange)
            .collect::<Result<_, _>>()?,
    })
}
