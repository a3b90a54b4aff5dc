//! The broker's errors, as clients get them. Mapped to gRPC in `services::status`.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_types::{BatchError, Reason, Rejection};

/// Why a request failed: what, where, what to do, and whether it may have had an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// Told apart by programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// False: the outcome is unknown.
    pub definite: bool,
    /// Values that the message names, and where to go instead.
    pub metadata: BTreeMap<&'static str, String>,
    /// Worth trying again after this time.
    pub retry_delay: Option<Duration>,
}

impl RequestError {
    /// A definite error.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            definite: true,
            metadata: BTreeMap::new(),
            retry_delay: None,
        }
    }

    /// The outcome is unknown.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        self.definite = false;
        self
    }

    /// Adds a value.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.insert(key, value.to_string());
        self
    }

    /// Worth trying again after this time.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_delay = Some(delay);
        self
    }
}

impl From<Rejection> for RequestError {
    fn from(rejection: Rejection) -> Self {
        let mut error = Self::new(rejection.reason, rejection.message);
        for key in ["expected", "actual", "limit", "partition"] {
            if let Some(value) = rejection.metadata.get(key) {
                error.metadata.insert(key, value.clone());
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
