//! The refusal of a request or of a replicated command. It is definite: nothing has changed.

use std::collections::BTreeMap;

use crate::frame::{CodecError, malformed};
use crate::reason::Reason;
use crate::replicated::Wire;

/// A refusal of a request or a command. It is definite: the request had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// The reason, for programs.
    pub reason: Reason,
    /// The message for people: what, where, and what to do.
    pub message: String,
    /// Values that a check compared, as in `ErrorInfo.metadata`.
    pub metadata: BTreeMap<String, String>,
}

/// A rejection in a reply.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireRejection {
    /// The reason's text in `ErrorInfo.reason`.
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

impl Rejection {
    /// A rejection without metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// Adds one value to the metadata.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }
}

impl Wire<WireRejection> for Rejection {
    fn to_form(&self) -> WireRejection {
        WireRejection {
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            metadata: self.metadata.clone(),
        }
    }

    fn from_form(what: &'static str, form: WireRejection) -> Result<Self, CodecError> {
        let reason =
            Reason::parse(&form.reason).ok_or_else(|| malformed(what, format!("unknown reason {:?}", form.reason)))?;
        Ok(Self {
            reason,
            message: form.message,
            metadata: form.metadata,
        })
    }
}
