//! The topic and the partition that a call names.

use std::sync::Arc;

use jangada_controller::{Image, Queue, Topic, TopicKind};
use jangada_routing::Exchange;
use jangada_types::{PartitionIndex, QueueId, Reason, TopicId};

use crate::error::RequestError;
use crate::target::Target;

/// A topic as a call names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TopicRef {
    /// What clients use: it is never another topic's.
    Id(TopicId),
    /// For tools and first calls.
    Name(String),
}

/// A queue as a call names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QueueName {
    /// What clients use: it is never another queue's.
    Id(QueueId),
    /// For tools and first calls.
    Name(String),
}

/// A partition as a call names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartitionRef {
    pub topic: TopicRef,
    pub index: PartitionIndex,
}

impl PartitionRef {
    /// The partition, for another broker.
    pub fn of(target: &Target) -> Self {
        Self {
            topic: TopicRef::Id(target.topic.id),
            index: target.index,
        }
    }
}

/// The partition of records with that name.
///
/// # Errors
/// UNKNOWN_TOPIC, UNKNOWN_PARTITION; INVALID_TOPIC_NAME for one that holds no records, WRONG_QUEUE_KIND for one of a queue.
pub(crate) fn partition_of_records(image: &Image, wanted: &PartitionRef) -> Result<Target, RequestError> {
    let target = partition(image, wanted)?;
    let name = &target.topic.name;
    match target.topic.kind {
        TopicKind::Log => Ok(target),
        TopicKind::Coordinator => Err(RequestError::new(
            Reason::InvalidTopicName,
            format!(
                "topic {name:?} is internal: it holds the cluster's consumer groups, not records; use the group service"
            ),
        )),
        TopicKind::Exchange => Err(RequestError::new(
            Reason::InvalidTopicName,
            format!(
                "topic {name:?} is internal: it is the log of an exchange; publish to that, and receive from its queues"
            ),
        )),
        TopicKind::Queue => Err(RequestError::new(
            Reason::WrongQueueKind,
            format!("{name:?} is a queue: its messages are sent and received with the queue service"),
        )),
    }
}

/// The partition with that name, also of internal topics.
///
/// # Errors
/// UNKNOWN_TOPIC, UNKNOWN_PARTITION.
pub(crate) fn partition(image: &Image, wanted: &PartitionRef) -> Result<Target, RequestError> {
    let topic = topic(image, &wanted.topic)?;
    let index = wanted.index;
    Target::of(topic, index).ok_or_else(|| {
        let count = topic.partitions.len();
        let message = format!(
            "topic {:?} has no partition {index}: it has {count}, counted from 0",
            topic.name
        );
        RequestError::new(Reason::UnknownPartition, message).with("limit", count)
    })
}

/// The topic with that name.
///
/// # Errors
/// UNKNOWN_TOPIC.
pub(crate) fn topic<'a>(image: &'a Image, wanted: &TopicRef) -> Result<&'a Arc<Topic>, RequestError> {
    let unknown = |message| RequestError::new(Reason::UnknownTopic, message);
    match wanted {
        TopicRef::Id(id) => image.topic(*id).ok_or_else(|| {
            unknown(format!(
                "there is no topic with id {id}: it was deleted, or this broker does not know it yet"
            ))
        }),
        TopicRef::Name(name) => image
            .topic_named(name)
            .ok_or_else(|| unknown(format!("there is no topic {name:?}"))),
    }
}

/// The exchange with that name.
///
/// # Errors
/// UNKNOWN_EXCHANGE.
pub(crate) fn exchange<'a>(image: &'a Image, name: &str) -> Result<&'a Arc<Exchange>, RequestError> {
    image.exchange_table().named(name).ok_or_else(|| {
        let message = format!("there is no exchange {name:?}: list the exchanges to see what exists");
        RequestError::new(Reason::UnknownExchange, message)
    })
}

/// The queue with that name.
///
/// # Errors
/// UNKNOWN_QUEUE.
pub(crate) fn queue<'a>(image: &'a Image, wanted: &QueueName) -> Result<&'a Arc<Queue>, RequestError> {
    let unknown = |message| RequestError::new(Reason::UnknownQueue, message);
    match wanted {
        QueueName::Id(id) => image.queue(*id).ok_or_else(|| {
            unknown(format!(
                "there is no queue with id {id}: it was deleted, or this broker does not know it yet"
            ))
        }),
        QueueName::Name(name) => image.queue_by_name(name).ok_or_else(|| {
            let hint = match image.topic_named(name) {
                Some(_) => ": it is a topic; a queue with another name can read it",
                None => "",
            };
            unknown(format!("there is no queue {name:?}{hint}"))
        }),
    }
}
