//! Errors of reading what was encoded. A caller can't mend either: it stops with the message.

/// An encoded command, reply or snapshot can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Shorter than its fixed head.
    #[error("{what} is cut off: {length} bytes, at least {required} are needed")]
    Truncated {
        /// "command", "reply" or "coordinator snapshot".
        what: &'static str,
        /// Bytes there.
        length: usize,
        /// Bytes needed.
        required: usize,
    },
    /// The version byte is not one that this build reads.
    #[error("{what} has encoding version {version}, this build reads version {known}: upgrade this broker")]
    UnknownVersion {
        /// "command", "reply" or "coordinator snapshot".
        what: &'static str,
        /// Found.
        version: u8,
        /// Known.
        known: u8,
    },
    /// The kind byte is not one that this build knows.
    #[error("{what} is of kind {kind}, which this build doesn't know: upgrade this broker")]
    UnknownKind {
        /// "command" or "reply".
        what: &'static str,
        /// Found.
        kind: u8,
    },
    /// The fields are damaged.
    #[error("{what} is damaged: {detail}")]
    Malformed {
        /// "command", "reply" or "coordinator snapshot", with the kind.
        what: &'static str,
        /// Which field, and how.
        detail: String,
    },
    /// There are fields that this build doesn't know. Ignoring them could part its state from the others'.
    #[error("{what} has fields that this build doesn't know: upgrade this broker")]
    UnknownFields {
        /// "command", "reply" or "coordinator snapshot", with the kind.
        what: &'static str,
    },
}

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
