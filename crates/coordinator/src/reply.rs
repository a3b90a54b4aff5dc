//! What applying a command answers to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply).

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_types::Reason;

use crate::error::CodecError;
use crate::wire;

/// The outcome of a command. Definite: `Applied` has happened, and `Rejected` changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was refused and changed nothing.
    Rejected(Rejection),
    /// The command took effect.
    Applied {
        /// The state's version that has it.
        version: u64,
        /// What it touched: members put or removed, offsets written or deleted, groups removed.
        count: u32,
    },
}

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

impl Reply {
    /// What the state machine hands to the proposer.
    pub fn encode(&self) -> Bytes {
        wire::reply::encode(self)
    }

    /// Reads what [`Reply::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        wire::reply::decode(bytes)
    }

    /// The count, or the rejection as an error.
    pub fn into_result(self) -> Result<u32, Rejection> {
        match self {
            Self::Rejected(rejection) => Err(rejection),
            Self::Applied { count, .. } => Ok(count),
        }
    }
}
