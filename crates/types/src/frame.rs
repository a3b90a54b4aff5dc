//! Framed messages: the encoded form of the commands, replies and snapshots of a replicated state machine.
//!
//! ```text
//!   version (1 byte) | kind (1 byte, of commands and replies) | a prost message
//! ```
//!
//! Replicas must read alike, so reading refuses everything that this build doesn't know: a version, a kind, a field.
//! Skipping it could make this replica's state differ from the others'. A message has one encoding only.
//!
//! Used by the metadata and by the coordinator's shards. Each defines its kinds and fields in its own `wire`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::TopicId;

/// The version byte that this build writes, and the only one that it reads.
const VERSION: u8 = 1;

/// The error of reading encoded bytes. A caller can't repair it: it stops with the message. `what` names the thing that
/// was read: "command", "reply" or a snapshot's name, with the kind where it is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes are shorter than the fixed head.
    #[error("{what} is cut off: {length} bytes, at least {required} are needed")]
    Truncated {
        /// The thing that was read.
        what: &'static str,
        /// Bytes that are there.
        length: usize,
        /// Bytes that are needed.
        required: usize,
    },
    /// The version byte is not one that this build reads.
    #[error("{what} has encoding version {version}, this build reads version {known}: upgrade this broker")]
    UnknownVersion {
        /// The thing that was read.
        what: &'static str,
        /// The version byte that was found.
        version: u8,
        /// The version byte that this build reads.
        known: u8,
    },
    /// The kind byte is not one that this build knows.
    #[error("{what} is of kind {kind}, which this build doesn't know: upgrade this broker")]
    UnknownKind {
        /// The thing that was read.
        what: &'static str,
        /// The kind byte that was found.
        kind: u8,
    },
    /// The fields are damaged.
    #[error("{what} is damaged: {detail}")]
    Malformed {
        /// The thing that was read.
        what: &'static str,
        /// The damaged field, and what is wrong with it.
        detail: String,
    },
    /// There are fields that this build doesn't know. Ignoring them could make its state differ from the others'.
    #[error("{what} has fields that this build doesn't know: upgrade this broker")]
    UnknownFields {
        /// The thing that was read.
        what: &'static str,
    },
}

/// Makes a [`CodecError::Malformed`].
pub fn malformed(what: &'static str, detail: impl Into<String>) -> CodecError {
    CodecError::Malformed {
        what,
        detail: detail.into(),
    }
}

/// Frames a message: version, kind where there is one, message.
pub fn frame(kind: Option<u8>, message: &impl prost::Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(2 + message.encoded_len());
    buffer.put_u8(VERSION);
    if let Some(kind) = kind {
        buffer.put_u8(kind);
    }
    message.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
}

/// The kind byte of a frame that has one, and the bytes of its message.
///
/// # Errors
/// When the frame is cut off, or of another version.
pub fn unframe<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), CodecError> {
    let rest = unversioned(what, bytes, 2)?;
    let (kind, body) = rest.split_first().expect("the length was checked");
    Ok((*kind, body))
}

/// The bytes of the message of a frame without a kind.
///
/// # Errors
/// When the frame is empty, or of another version.
pub fn unframe_plain<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], CodecError> {
    unversioned(what, bytes, 1)
}

/// Checks the version and takes it off.
fn unversioned<'a>(what: &'static str, bytes: &'a [u8], required: usize) -> Result<&'a [u8], CodecError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) if bytes.len() >= required => Ok(rest),
        Some((&version, _)) if version != VERSION => Err(CodecError::UnknownVersion {
            what,
            version,
            known: VERSION,
        }),
        _ => Err(CodecError::Truncated {
            what,
            length: bytes.len(),
            required,
        }),
    }
}

/// Decodes a message of which this build knows every field. [`frame`] writes one form of each message only, so a
/// message that differs when it is encoded again has fields that were skipped.
///
/// # Errors
/// When the message is damaged, or has fields that `M` doesn't.
pub fn message<M: prost::Message + Default>(what: &'static str, body: &[u8]) -> Result<M, CodecError> {
    let message = M::decode(body).map_err(|error| malformed(what, error.to_string()))?;
    if message.encode_to_vec() != body {
        return Err(CodecError::UnknownFields { what });
    }
    Ok(message)
}

/// A topic's id from a message's field.
///
/// # Errors
/// When the field does not have 16 bytes.
pub fn topic_id(what: &'static str, bytes: &[u8]) -> Result<TopicId, CodecError> {
    TopicId::from_slice(bytes).ok_or_else(|| malformed(what, format!("a topic id of {} bytes, not 16", bytes.len())))
}
