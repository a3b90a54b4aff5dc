//! Topics and partitions as the contract names them: by the topic's id or, if that is empty, by its name.

use jangada_proto::v1::TopicPartition;
use jangada_types::{PartitionIndex, Reason, TopicId};

use crate::api::resolve::{PartitionRef, TopicRef};
use crate::error::RequestError;

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

/// # Errors
/// INVALID_REQUEST: the id has not 16 bytes.
pub(crate) fn topic(id: &[u8], name: String) -> Result<TopicRef, RequestError> {
    if id.is_empty() {
        return Ok(TopicRef::Name(name));
    }
    let bytes = id.len();
    TopicId::from_slice(id).map(TopicRef::Id).ok_or_else(|| {
        RequestError::new(
            Reason::InvalidRequest,
            format!("a topic id has 16 bytes, this one has {bytes}"),
        )
    })
}
