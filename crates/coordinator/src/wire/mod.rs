//! The encoded forms: which kinds of commands and replies there are, and the fields of each. How they are framed is
//! in [`jangada_types::frame`].
//!
//! Rules for changes: a field number is never used again, and a kind byte neither. A command that a level-1 broker
//! would fold differently gets a new kind, and is proposed only once every broker has the feature level that knows
//! it. What this build doesn't know, it refuses to read; it never skips it, for then its state would part from the
//! others'.

pub(crate) mod command;
pub(crate) mod image;
pub(crate) mod reply;

use std::sync::Arc;

use jangada_types::LeaderEpoch;
use jangada_types::frame::{CodecError, malformed, topic_id};

use crate::assignor::Assignor;
use crate::image::{MemberSpec, SubscribedTopic, Subscription};
use crate::partitions::{PartitionSet, TopicPartition};

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
    /// In a snapshot: how many it had when the group began to read it, if that is known.
    #[prost(uint32, optional, tag = "4")]
    first: Option<u32>,
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
            first: None,
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
