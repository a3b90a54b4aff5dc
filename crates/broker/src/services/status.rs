//! The broker's errors as gRPC: a canonical code, and `google.rpc.ErrorInfo` and `RetryInfo` in the details.

use std::collections::HashMap;

use jangada_proto::v1;
use jangada_types::Reason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::RequestError;

const DOMAIN: &str = "jangada";

fn code(error: &RequestError) -> Code {
    match error.reason {
        Reason::InvalidRequest
        | Reason::InvalidBatch
        | Reason::CorruptBatch
        | Reason::UnsupportedCodec
        | Reason::BatchTooLarge
        | Reason::RecordTooLarge
        | Reason::InvalidTopicName
        | Reason::InvalidConfig
        | Reason::InvalidPartitions
        | Reason::InvalidReplicas
        | Reason::InvalidTimestamp
        | Reason::InvalidGroupName
        | Reason::InvalidPattern
        | Reason::EmptySubscription
        | Reason::OffsetMetadataTooLarge => Code::InvalidArgument,
        Reason::UnknownTopic
        | Reason::UnknownPartition
        | Reason::UnknownBroker
        | Reason::UnknownGroup
        | Reason::UnknownMember => Code::NotFound,
        Reason::TopicExists => Code::AlreadyExists,
        Reason::NotLeader
        | Reason::StaleLeaderEpoch
        | Reason::UnknownLeaderEpoch
        | Reason::OutOfOrderSequence
        | Reason::DuplicateSequence
        | Reason::ProducerFenced
        | Reason::UnknownProducer
        | Reason::AcksNoneIdempotent
        | Reason::FencedMemberEpoch
        | Reason::StaleMemberEpoch
        | Reason::FencedInstanceId
        | Reason::UnreleasedInstanceId
        | Reason::PartitionNotOwned
        | Reason::GroupNotEmpty
        | Reason::ConditionFailed
        | Reason::NoKeyIndex => Code::FailedPrecondition,
        Reason::OffsetOutOfRange => Code::OutOfRange,
        Reason::PartitionBusy
        | Reason::BrokerBusy
        | Reason::DiskFull
        | Reason::TooManyStreams
        | Reason::GroupFull
        | Reason::TooManyGroups => Code::ResourceExhausted,
        Reason::LeaderNotAvailable
        | Reason::NotReady
        | Reason::ShuttingDown
        | Reason::StoreFenced
        | Reason::GroupChanged => Code::Unavailable,
        Reason::QuorumTimeout => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

fn metadata(error: &RequestError) -> HashMap<String, String> {
    let mut metadata: HashMap<String, String> = error
        .metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    metadata.insert("definite".to_owned(), error.definite.to_string());
    metadata
}

/// As the status of a call.
pub(crate) fn status(error: &RequestError) -> Status {
    let mut details = ErrorDetails::with_error_info(error.reason.as_str(), DOMAIN, metadata(error));
    if let Some(delay) = error.retry_delay {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(error), error.message.clone(), details)
}

/// As an error inside a stream that goes on.
pub(crate) fn in_stream(error: &RequestError) -> v1::Error {
    v1::Error {
        code: code(error) as i32,
        message: error.message.clone(),
        reason: error.reason.as_str().to_owned(),
        metadata: metadata(error),
        retry_delay_ms: error
            .retry_delay
            .map(|delay| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)),
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        status(&error)
    }
}
