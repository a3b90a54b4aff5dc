//! The refusal of a request or of a replicated command, which is definite: nothing changed.

use std::collections::BTreeMap;

use crate::frame::{CodecError, malformed};
use crate::reason::Reason;
use crate::replicated::Wire;

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

/// A rejection in a reply.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireRejection {
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
