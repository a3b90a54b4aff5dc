//! The refusal of a request or of a replicated command, which is definite: nothing changed.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::frame::{self, CodecError};
use crate::reason::Reason;

/// Why a request or a command was refused: definite, it had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// For programs.
    pub reason: Reason,
    /// For people: what, where, and what to do.
    pub message: String,
    /// The values that a check compared, as `ErrorInfo.metadata`.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRejection {
    /// As in `ErrorInfo.reason`.
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

impl Rejection {
    /// Without metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// Adds one value.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// As a reply of the given kind.
    pub fn encode(&self, kind: u8) -> Bytes {
        frame::frame(
            Some(kind),
            &WireRejection {
                reason: self.reason.as_str().to_owned(),
                message: self.message.clone(),
                metadata: self.metadata.clone(),
            },
        )
    }

    /// Reads the message of the reply that [`Rejection::encode`] wrote.
    ///
    /// # Errors
    /// It is damaged, or has a field or a reason that this build doesn't know.
    pub fn decode(what: &'static str, body: &[u8]) -> Result<Self, CodecError> {
        let wire: WireRejection = frame::message(what, body)?;
        let reason = Reason::parse(&wire.reason)
            .ok_or_else(|| frame::malformed(what, format!("unknown reason {:?}", wire.reason)))?;
        Ok(Self {
            reason,
            message: wire.message,
            metadata: wire.metadata,
        })
    }
}
