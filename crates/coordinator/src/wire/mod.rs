//! The encoded forms. Everything begins with a version byte; commands and replies then have a kind byte; the rest is
//! a prost message.
//!
//! Rules for changes: a field number is never used again, and a kind byte neither. A command that a level-1 broker
//! would fold differently gets a new kind, and is proposed only once every broker has the feature level that knows
//! it. What this build doesn't know, it refuses to read; it never skips it, for then its state would part from the
//! others'.

pub(crate) mod command;
pub(crate) mod image;
pub(crate) mod reply;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use jangada_types::{LeaderEpoch, TopicId};

use crate::assignor::Assignor;
use crate::error::CodecError;
use crate::image::{MemberSpec, SubscribedTopic, Subscription};
use crate::partitions::{PartitionSet, TopicPartition};

/// The version byte of everything that this build writes, and the only one that it reads.
const VERSION: u8 = 1;

/// The partitions of one topic.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WirePartitions {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint32, repeated, tag = "2")]
    partitions: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireTopic {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint32, tag = "3")]
    partitions: u32,
}

/// What a member says of itself.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSpec {
    #[prost(string, optional, tag = "1")]
    instance_id: Option<String>,
    #[prost(string, tag = "2")]
    client_id: String,
    #[prost(string, tag = "3")]
    client_host: String,
    #[prost(string, tag = "4")]
    rack: String,
    #[prost(string, repeated, tag = "5")]
    topics: Vec<String>,
    #[prost(string, optional, tag = "6")]
    pattern: Option<String>,
    #[prost(uint32, tag = "7")]
    session_timeout_ms: u32,
    #[prost(uint32, tag = "8")]
    rebalance_timeout_ms: u32,
    /// By name; empty for none.
    #[prost(string, tag = "9")]
    assignor: String,
}

impl From<&MemberSpec> for WireSpec {
    fn from(spec: &MemberSpec) -> Self {
        Self {
            instance_id: spec.instance_id.as_deref().map(str::to_owned),
            client_id: spec.client_id.to_string(),
            client_host: spec.client_host.to_string(),
            rack: spec.rack.to_string(),
            topics: spec.subscription.topics.iter().map(|name| name.to_string()).collect(),
            pattern: spec.subscription.pattern.as_deref().map(str::to_owned),
            session_timeout_ms: spec.session_timeout_ms,
            rebalance_timeout_ms: spec.rebalance_timeout_ms,
            assignor: spec.assignor.map_or("", Assignor::as_str).to_owned(),
        }
    }
}

impl WireSpec {
    fn into_spec(self, what: &'static str) -> Result<MemberSpec, CodecError> {
        let assignor = match self.assignor.as_str() {
            "" => None,
            name => {
                let known = Assignor::parse(name);
                Some(known.ok_or_else(|| malformed(what, format!("unknown assignor {name:?}")))?)
            }
        };
        Ok(MemberSpec {
            instance_id: self.instance_id.map(Arc::from),
            client_id: self.client_id.into(),
            client_host: self.client_host.into(),
            rack: self.rack.into(),
            subscription: Arc::new(Subscription {
                topics: self.topics.into_iter().map(Arc::from).collect(),
                pattern: self.pattern.map(Arc::from),
            }),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            assignor,
        })
    }
}

fn partitions_to_wire(set: &PartitionSet) -> Vec<WirePartitions> {
    set.by_topic()
        .map(|(topic, run)| WirePartitions {
            topic: topic.as_bytes().to_vec(),
            partitions: run.iter().map(|partition| partition.partition.get()).collect(),
        })
        .collect()
}

/// Refuses what is not ascending, so that a set has one encoding.
fn partitions_from_wire(what: &'static str, wire: Vec<WirePartitions>) -> Result<PartitionSet, CodecError> {
    let mut all = Vec::new();
    let mut last = None;
    for WirePartitions { topic, partitions } in wire {
        let topic = topic_id(what, &topic)?;
        if partitions.is_empty() || last.is_some_and(|last| last >= topic) {
            return Err(malformed(what, "partitions that are not ascending"));
        }
        last = Some(topic);
        all.extend(
            partitions
                .into_iter()
                .map(|partition| TopicPartition::new(topic, partition)),
        );
    }
    PartitionSet::from_sorted(all).ok_or_else(|| malformed(what, "partitions that are not ascending"))
}

fn topics_to_wire(topics: &[SubscribedTopic]) -> Vec<WireTopic> {
    topics
        .iter()
        .map(|topic| WireTopic {
            id: topic.id.as_bytes().to_vec(),
            name: topic.name.to_string(),
            partitions: topic.partitions,
        })
        .collect()
}

fn topics_from_wire(what: &'static str, wire: Vec<WireTopic>) -> Result<Arc<[SubscribedTopic]>, CodecError> {
    wire.into_iter()
        .map(|topic| {
            Ok(SubscribedTopic {
                id: topic_id(what, &topic.id)?,
                name: topic.name.into(),
                partitions: topic.partitions,
            })
        })
        .collect()
}

fn leader_epoch_to_wire(epoch: Option<LeaderEpoch>) -> Option<u32> {
    epoch.map(LeaderEpoch::get)
}

/// Version, kind where there is one, body.
fn frame(kind: Option<u8>, body: &impl prost::Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(2 + body.encoded_len());
    buffer.put_u8(VERSION);
    if let Some(kind) = kind {
        buffer.put_u8(kind);
    }
    body.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
}

/// Checks the version and takes it off.
fn unversioned<'a>(what: &'static str, bytes: &'a [u8], required: usize) -> Result<&'a [u8], CodecError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) if bytes.len() >= required => Ok(rest),
        Some((&version, _)) if version != VERSION => Err(CodecError::UnknownVersion {
            what,
            version,
            known: VERSION,
        }),
        _ => Err(CodecError::Truncated {
            what,
            length: bytes.len(),
            required,
        }),
    }
}

/// The kind byte and the body.
fn unframe<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), CodecError> {
    let rest = unversioned(what, bytes, 2)?;
    let (kind, body) = rest.split_first().expect("the length was checked");
    Ok((*kind, body))
}

/// A body of which this build knows every field. `encode` writes one form of each message only, so what doesn't come
/// out as it went in has fields that were skipped.
fn message<M: prost::Message + Default>(what: &'static str, body: &[u8]) -> Result<M, CodecError> {
    let message = M::decode(body).map_err(|error| malformed(what, error.to_string()))?;
    if message.encode_to_vec() != body {
        return Err(CodecError::UnknownFields { what });
    }
    Ok(message)
}

fn malformed(what: &'static str, detail: impl Into<String>) -> CodecError {
    CodecError::Malformed {
        what,
        detail: detail.into(),
    }
}

fn topic_id(what: &'static str, bytes: &[u8]) -> Result<TopicId, CodecError> {
    TopicId::from_slice(bytes).ok_or_else(|| malformed(what, format!("a topic id of {} bytes, not 16", bytes.len())))
}
