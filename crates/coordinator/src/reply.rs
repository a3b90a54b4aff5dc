//! What applying a command answers to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply).

use jangada_types::rejection::WireRejection;
use jangada_types::{Rejection, replicated};

replicated! {
    /// The outcome of a command. Definite: `Applied` has happened, and `Rejected` changed nothing.
    pub enum Reply, ReplyKind, "reply" {
        /// The command was refused and changed nothing.
        Rejected(Rejection as WireRejection) = 1,
        /// The command took effect.
        Applied = 2 {
            /// The state's version that has it.
            #[prost(uint64, tag = "1")]
            version: u64,
            /// What it touched: members put or removed, offsets written or deleted, groups removed.
            #[prost(uint32, tag = "2")]
            count: u32,
        },
    }
}

impl Reply {
    /// The count, or the rejection as an error.
    pub fn into_result(self) -> Result<u32, Rejection> {
        match self {
            Self::Rejected(rejection) => Err(rejection),
            Self::Applied { count, .. } => Ok(count),
        }
    }
}
