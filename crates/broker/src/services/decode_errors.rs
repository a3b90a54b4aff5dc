//! Messages that could not be read: too large, or no valid protobuf. tonic refuses them before a service sees them, in
//! codes and words of its own; here they become errors like all others.

use std::error::Error as _;

use axum::response::Response;
use jangada_types::Reason;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::RequestError;
use crate::node::Node;

/// What tonic said to a stream's service instead of giving a message, as an error of ours. `None`: nobody is there any more to
/// be told, or it is about something else.
pub(crate) fn with_details(said: &Status, node: &Node) -> Option<RequestError> {
    refused_on_the_way(said).or_else(|| error(said, node.settings.limits.request_bytes_max))
}

/// The answer to a call as it is sent.
pub(crate) fn answer(response: Response, node: &Node) -> Response {
    let said = response.extensions().get::<Status>();
    let bytes_max = node.settings.limits.request_bytes_max;
    let Some(error) = said.and_then(|said| error(said, bytes_max)) else {
        return response;
    };
    node.metrics.failed(error.reason);
    Status::from(error).into_http()
}

fn error(said: &Status, bytes_max: u64) -> Option<RequestError> {
    // Errors of ours have details, those of a connection a source.
    if !said.details().is_empty() || said.source().is_some() {
        return None;
    }
    let cause = said.message();
    match said.code() {
        Code::OutOfRange => {
            let message = format!(
                "a message has at most {bytes_max} bytes (limits.request_bytes_max): send less at once; {cause}"
            );
            Some(RequestError::new(Reason::InvalidRequest, message).with("limit", bytes_max))
        }
        Code::Internal => {
            let message = format!("the message cannot be read: {cause}");
            Some(RequestError::new(Reason::InvalidRequest, message))
        }
        _ => None,
    }
}

/// An error of ours that took the place of a message, when its request had no room or would have become too large: tonic
/// passes its status on.
fn refused_on_the_way(said: &Status) -> Option<RequestError> {
    let info = said.get_details_error_info()?;
    let mut error = RequestError::new(Reason::parse(&info.reason)?, said.message());
    for key in ["limit", "actual"] {
        if let Some(value) = info.metadata.get(key) {
            error = error.with(key, value);
        }
    }
    error.retry_delay = said.get_details_retry_info().and_then(|info| info.retry_delay);
    Some(error)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn only_what_tonic_says_of_a_message_is_taken() {
        let too_large = error(&Status::out_of_range("found 9 bytes"), 7).expect("it is said of a message");
        assert_eq!(too_large.reason, Reason::InvalidRequest);
        assert_eq!(too_large.metadata["limit"], "7");
        assert!(too_large.message.contains("found 9 bytes"), "{too_large}");
        let malformed = error(&Status::internal("invalid wire type"), 7).expect("it is said of a message");
        assert_eq!(malformed.reason, Reason::InvalidRequest);
        assert!(malformed.message.contains("invalid wire type"), "{malformed}");

        let ours = RequestError::new(Reason::OffsetOutOfRange, "offset 9");
        assert_eq!(error(&ours.into(), 7), None);
        let mut gone = Status::internal("h2 protocol error");
        gone.set_source(Arc::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert_eq!(error(&gone, 7), None);
        assert_eq!(error(&Status::unimplemented(""), 7), None);
    }
}
