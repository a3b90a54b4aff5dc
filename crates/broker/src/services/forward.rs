//! Calls to other brokers, for what only they can answer.

use std::time::Duration;

use jangada_types::Reason;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::error::RequestError;

/// Marks a call that another broker passed on, so that it is not passed on for ever.
pub(super) const FORWARDED: &str = "jangada-forwarded";
/// A call to another broker.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The call as it is passed on, in the time that it may take.
pub(super) fn forward<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Connects when it is used.
pub(super) fn channel(address: &str) -> Result<Channel, RequestError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| RequestError::new(Reason::Internal, format!("address {address}: {error}")))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy())
}
