//! What applying a command answers to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply).

use bytes::Bytes;
use jangada_types::{CodecError, Rejection};

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
