//! The answer of applying a command to its proposer. Every command is answered once, by
//! [`Image::apply`](crate::Image::apply). It stays in the process and is never encoded.

use jangada_types::Rejection;

/// The outcome of a command. Definite: `Applied` has happened, and `Rejected` changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was refused and changed nothing.
    Rejected(Rejection),
    /// The command took effect.
    Applied {
        /// The first version of the state that has it.
        version: u64,
        /// The number of things that it changed: members put or removed, offsets written or deleted, groups removed.
        count: u32,
    },
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
