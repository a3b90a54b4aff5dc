//! The error of reading a snapshot. A caller can't repair it: it stops with the message.

use jangada_types::CodecError;

/// A snapshot can't become a state. The state that was there is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The bytes can't be decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The state breaks an invariant.
    #[error("snapshot of transactional ids at version {version} contradicts itself: {detail}")]
    Inconsistent {
        /// The log index at which it was taken.
        version: u64,
        /// The invariant that is broken, and where.
        detail: String,
    },
}
