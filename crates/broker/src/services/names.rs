//! Topics, partitions and queues as the contract names them: by the id or, if that is empty, by the name.

use jangada_proto::v1::TopicPartition;
use jangada_types::{PartitionIndex, QueueId, Reason, TopicId};

use crate::api::resolve::{PartitionRef, QueueName, TopicRef};
use crate::error::RequestError;

/// The partition that a request names.
///
/// # Errors
/// INVALID_REQUEST: there is none, or the id has not 16 bytes.
pub(crate) fn partition(wanted: Option<TopicPartition>) -> Result<PartitionRef, RequestError> {
    let wanted = wanted.ok_or_else(|| {
        RequestError::new(
            Reason::InvalidRequest,
            "the request names no partition: set `partition`",
        )
    })?;
    Ok(PartitionRef {
        topic: topic(&wanted.topic_id, wanted.topic)?,
        index: PartitionIndex(wanted.partition),
    })
}

/// A partition as another broker is to find it.
pub(crate) fn partition_to(partition: &PartitionRef) -> TopicPartition {
    let (topic_id, topic) = match &partition.topic {
        TopicRef::Id(id) => (id.as_bytes().to_vec().into(), String::new()),
        TopicRef::Name(name) => (bytes::Bytes::new(), name.clone()),
    };
    TopicPartition {
        topic_id,
        topic,
        partition: partition.index.get(),
    }
}

/// The topic that a request names.
///
/// # Errors
/// INVALID_REQUEST: the id has not 16 bytes.
pub(crate) fn topic(id: &[u8], name: String) -> Result<TopicRef, RequestError> {
    if id.is_empty() {
        return Ok(TopicRef::Name(name));
    }
    topic_id(id).map(TopicRef::Id)
}

/// A topic's id in a request.
///
/// # Errors
/// INVALID_REQUEST: it has not 16 bytes.
pub(crate) fn topic_id(id: &[u8]) -> Result<TopicId, RequestError> {
    TopicId::from_slice(id).ok_or_else(|| {
        RequestError::new(
            Reason::InvalidRequest,
            format!("a topic id has 16 bytes, this one has {}", id.len()),
        )
    })
}

/// The queue that a request names.
///
/// # Errors
/// INVALID_REQUEST: the id has not 16 bytes, or there is neither id nor name.
pub(crate) fn queue(id: &[u8], name: String) -> Result<QueueName, RequestError> {
    if id.is_empty() && name.is_empty() {
        let message = "the request names no queue: give its name or its id";
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    if id.is_empty() {
        return Ok(QueueName::Name(name));
    }
    queue_id(id).map(QueueName::Id)
}

/// A queue's id in a request.
///
/// # Errors
/// INVALID_REQUEST: it has not 16 bytes.
pub(crate) fn queue_id(id: &[u8]) -> Result<QueueId, RequestError> {
    QueueId::from_slice(id).ok_or_else(|| {
        RequestError::new(
            Reason::InvalidRequest,
            format!("a queue id has 16 bytes, this one has {}", id.len()),
        )
    })
}
