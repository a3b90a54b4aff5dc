//! The messages that commands and the image are made of, in addition to those that declarations make.
//! [`jangada_types::frame`] says how they are framed, [`jangada_types::replicated`] has the rules for changes.

pub(crate) mod command;
pub(crate) mod image;

use std::sync::Arc;

use jangada_types::frame::{CodecError, malformed, topic_id};
use jangada_types::replicated::Wire;

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
    /// Only in a snapshot: number of partitions when the group began to read the topic, if that is known.
    #[prost(uint32, optional, tag = "4")]
    first: Option<u32>,
}

/// A member's description of itself.
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
    /// The assignor's name; empty for none.
    #[prost(string, tag = "9")]
    assignor: String,
}

impl Wire<WireSpec> for MemberSpec {
    fn to_form(&self) -> WireSpec {
        WireSpec {
            instance_id: self.instance_id.as_deref().map(str::to_owned),
            client_id: self.client_id.to_string(),
            client_host: self.client_host.to_string(),
            rack: self.rack.to_string(),
            topics: self.subscription.topics.iter().map(|name| name.to_string()).collect(),
            pattern: self.subscription.pattern.as_deref().map(str::to_owned),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            assignor: self.assignor.map_or("", Assignor::as_str).to_owned(),
        }
    }

    fn from_form(what: &'static str, form: WireSpec) -> Result<Self, CodecError> {
        let assignor = match form.assignor.as_str() {
            "" => None,
            name => {
                let known = Assignor::parse(name);
                Some(known.ok_or_else(|| malformed(what, format!("unknown assignor {name:?}")))?)
            }
        };
        Ok(Self {
            instance_id: form.instance_id.map(Arc::from),
            client_id: form.client_id.into(),
            client_host: form.client_host.into(),
            rack: form.rack.into(),
            subscription: Arc::new(Subscription {
                topics: form.topics.into_iter().map(Arc::from).collect(),
                pattern: form.pattern.map(Arc::from),
            }),
            session_timeout_ms: form.session_timeout_ms,
            rebalance_timeout_ms: form.rebalance_timeout_ms,
            assignor,
        })
    }
}

impl Wire<Vec<WirePartitions>> for PartitionSet {
    fn to_form(&self) -> Vec<WirePartitions> {
        self.by_topic()
            .map(|(topic, run)| WirePartitions {
                topic: topic.to_form(),
                partitions: run.iter().map(|partition| partition.partition.get()).collect(),
            })
            .collect()
    }

    /// Refuses partitions that are not ascending, so that a set has one encoding.
    fn from_form(what: &'static str, form: Vec<WirePartitions>) -> Result<Self, CodecError> {
        let mut all = Vec::new();
        let mut last = None;
        for WirePartitions { topic, partitions } in form {
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
        Self::from_sorted(all).ok_or_else(|| malformed(what, "partitions that are not ascending"))
    }
}

impl Wire<WireTopic> for SubscribedTopic {
    fn to_form(&self) -> WireTopic {
        WireTopic {
            id: self.id.to_form(),
            name: self.name.to_form(),
            partitions: self.partitions,
            first: None,
        }
    }

    fn from_form(what: &'static str, form: WireTopic) -> Result<Self, CodecError> {
        Ok(Self {
            id: topic_id(what, &form.id)?,
            name: form.name.into(),
            partitions: form.partitions,
        })
    }
}
