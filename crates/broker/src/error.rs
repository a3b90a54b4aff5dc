//! The broker's errors as clients get them. `services::status` maps them to gRPC.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use jangada_types::{BatchError, Reason, Rejection};

/// Why a request failed, what the caller can do, and whether the request may have had an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The reason by which programs tell errors apart.
    pub reason: Reason,
    /// The error in words: what is wrong, where, and what to do.
    pub message: String,
    /// Whether the request certainly had no effect; if false, the outcome is unknown.
    pub definite: bool,
    /// Values that the message names, such as `limit` and `actual`, and the leader's address.
    pub metadata: BTreeMap<Cow<'static, str>, String>,
    /// The time after which a client should try again; `None` where trying again is not advised.
    pub retry_delay: Option<Duration>,
}

impl RequestError {
    /// An error of a request that had no effect.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            definite: true,
            metadata: BTreeMap::new(),
            retry_delay: None,
        }
    }

    /// Marks the outcome as unknown.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        self.definite = false;
        self
    }

    /// Adds a value to the metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        self.metadata.insert(key.into(), value.to_string());
        self
    }

    /// Sets the time after which a retry may succeed.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_delay = Some(delay);
        self
    }
}

impl From<Rejection> for RequestError {
    fn from(rejection: Rejection) -> Self {
        let mut error = Self::new(rejection.reason, rejection.message);
        for key in ["expected", "actual", "limit", "partition", "offset", "high_watermark"] {
            if let Some(value) = rejection.metadata.get(key) {
                error.metadata.insert(key.into(), value.clone());
            }
        }
        error
    }
}

impl From<BatchError> for RequestError {
    fn from(error: BatchError) -> Self {
        let refused = Self::new(error.reason(), error.to_string());
        match error {
            BatchError::TooLarge { size, limit } => refused.with("actual", size).with("limit", limit),
            _ => refused,
        }
    }
}
