//! The broker's errors as gRPC: a canonical code, and `google.rpc.ErrorInfo` and `RetryInfo` in the details.

use std::collections::HashMap;
use std::time::Duration;

use jangada_proto::v1;
use jangada_types::{Category, Reason};
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::admission::Call;
use crate::error::RequestError;
use crate::node::Node;

const DOMAIN: &str = "jangada";
/// Bytes of a message, and of a value in the metadata. They travel in headers, of which a client may take no more than
/// 8 KiB, the message there twice: it would see a broken call instead of the error.
const TEXT_BYTES_MAX: usize = 1024;

fn code(error: &RequestError) -> Code {
    match error.reason.category() {
        Category::InvalidArgument => Code::InvalidArgument,
        Category::NotFound => Code::NotFound,
        Category::AlreadyExists => Code::AlreadyExists,
        Category::FailedPrecondition => Code::FailedPrecondition,
        Category::OutOfRange => Code::OutOfRange,
        Category::ResourceExhausted => Code::ResourceExhausted,
        Category::Unavailable => Code::Unavailable,
        Category::DeadlineExceeded => Code::DeadlineExceeded,
        Category::DataLoss => Code::DataLoss,
        Category::Internal => Code::Internal,
    }
}

fn metadata(error: &RequestError) -> HashMap<String, String> {
    let mut metadata: HashMap<String, String> = error
        .metadata
        .iter()
        .map(|(key, value)| (key.clone().into_owned(), shortened(value)))
        .collect();
    metadata.insert("definite".to_owned(), error.definite.to_string());
    metadata
}

/// Without its middle if it is long: that is something that was sent in, and what is wrong with it stands around it.
fn shortened(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let half = TEXT_BYTES_MAX / 2;
    let begin = &text[..text.floor_char_boundary(half)];
    let end = &text[text.ceil_char_boundary(text.len() - half)..];
    format!("{begin}\u{2026}{end}")
}

/// As the status of a call.
pub(crate) fn status(error: &RequestError) -> Status {
    let mut details = ErrorDetails::with_error_info(error.reason.as_str(), DOMAIN, metadata(error));
    if let Some(delay) = error.retry_delay {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(error), shortened(&error.message), details)
}

/// As an error inside a stream that goes on.
pub(crate) fn in_stream(error: &RequestError) -> v1::Error {
    v1::Error {
        code: code(error) as i32,
        message: shortened(&error.message),
        reason: error.reason.as_str().to_owned(),
        metadata: metadata(error),
        retry_delay_ms: error
            .retry_delay
            .map(|delay| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)),
    }
}

/// The error that another broker has put into an answer.
///
/// # Errors
/// INVALID_REQUEST: its reason is not known here.
pub(crate) fn error_in_stream(error: v1::Error) -> Result<RequestError, RequestError> {
    let Some(reason) = Reason::parse(&error.reason) else {
        let message = format!(
            "the reason {:?} of an error is not known: {}",
            error.reason, error.message
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    };
    let mut metadata = error.metadata;
    let definite = metadata.remove("definite").is_some_and(|definite| definite == "true");
    Ok(RequestError {
        reason,
        message: error.message,
        definite,
        metadata: metadata.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        retry_delay: error.retry_delay_ms.map(|ms| Duration::from_millis(ms.into())),
    })
}

/// The error that a broker's status says, as it was there; none if it has no details of ours. Texts may lack their middle.
pub(crate) fn error_of(status: &Status) -> Option<RequestError> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    let mut error = RequestError::new(Reason::parse(&info.reason)?, status.message());
    error.definite = info
        .metadata
        .remove("definite")
        .is_some_and(|definite| definite == "true");
    error.metadata = info
        .metadata
        .into_iter()
        .map(|(key, value)| (key.into(), value))
        .collect();
    error.retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    Some(error)
}

/// The answer to a call, or its error, which is counted, and names the leader's address at the listener that the client came by.
pub(super) fn answer<T>(node: &Node, call: &Call, result: Result<T, RequestError>) -> Result<Response<T>, Status> {
    let answer = result.map(Response::new);
    answer.map_err(|error| node.refused(error, &call.context.listener).into())
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        status(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients of gRPC take without being told to take more.
    const HEADER_BYTES_MAX: usize = 8 * 1024;

    #[test]
    fn an_error_about_something_long_fits_into_headers() {
        for letter in ["x", "\u{e4}", "\u{1f980}", "%"] {
            let long = letter.repeat(20_000);
            let message = format!("topic name {long:?}: at most 249 characters");
            let error = RequestError::new(Reason::InvalidTopicName, message).with("actual", &long);
            let status = status(&error);
            assert!(status.message().starts_with("topic name"), "{}", status.message());
            assert!(
                status.message().ends_with("at most 249 characters"),
                "{}",
                status.message()
            );
            let info = status.get_details_error_info().expect("it has details");
            assert!(info.metadata["actual"].starts_with(letter) && info.metadata["actual"].ends_with(letter));
            let response = status.into_http::<()>();
            let headers = response.headers().iter();
            let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(bytes <= HEADER_BYTES_MAX, "{letter}: {bytes} bytes");
            let error = in_stream(&error);
            assert!(error.message.len() <= TEXT_BYTES_MAX + '\u{2026}'.len_utf8());
            assert!(error.metadata["actual"].len() <= TEXT_BYTES_MAX + '\u{2026}'.len_utf8());
        }
    }

    #[test]
    fn an_error_of_another_broker_is_read_as_it_was() {
        let error = RequestError::new(Reason::NotLeader, "partition orders-0: broker 2 leads it")
            .with("leader_id", 2)
            .with("leader_epoch", 7)
            .retry_after(Duration::from_millis(50));
        for error in [error.clone(), error.unknown()] {
            assert_eq!(error_of(&status(&error)), Some(error));
        }
        assert_eq!(error_of(&Status::unavailable("broker 2 opens its store")), None);
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let text = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(shortened(&text), text);
    }
}
