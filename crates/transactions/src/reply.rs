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
        /// The number of transactional ids that it changed.
        count: u32,
    },
}
