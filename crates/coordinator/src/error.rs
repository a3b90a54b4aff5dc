//! The error of reading a snapshot. A caller can't mend it: it stops with the message.

use jangada_types::CodecError;

/// A snapshot can't become a state. The state that was there is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It can't be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It can be read, and breaks an invariant of the state.
    #[error("coordinator snapshot at version {version} contradicts itself: {detail}")]
    Inconsistent {
        /// The log index at which it was taken.
        version: u64,
        /// What, and where.
        detail: String,
    },
}
