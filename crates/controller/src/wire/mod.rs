//! The encoded forms. Everything begins with a version byte; commands and replies then have a kind byte; the rest is
//! a prost message.
//!
//! Rules for changes: a field number is never used again, and a kind byte neither. A command that a level-1 broker
//! would fold differently gets a new kind, and is proposed only once every broker has the feature level that knows
//! it. What this build doesn't know, it refuses to read; it never skips it, for then its image would part from the
//! others'.

pub(crate) mod command;
pub(crate) mod image;
pub(crate) mod reply;

use bytes::{BufMut, Bytes, BytesMut};
use jangada_types::{BrokerId, Incarnation, ReplicaId, TopicId};

use crate::command::DirectoryId;
use crate::error::CodecError;

/// The version byte of everything that this build writes, and the only one that it reads.
const VERSION: u8 = 1;

/// A replica's id.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct WireReplica {
    #[prost(uint32, tag = "1")]
    broker: u32,
    #[prost(uint32, tag = "2")]
    incarnation: u32,
}

impl From<ReplicaId> for WireReplica {
    fn from(replica: ReplicaId) -> Self {
        Self {
            broker: replica.broker.get(),
            incarnation: replica.incarnation.get(),
        }
    }
}

impl From<WireReplica> for ReplicaId {
    fn from(wire: WireReplica) -> Self {
        Self::new(BrokerId(wire.broker), Incarnation(wire.incarnation))
    }
}

fn to_wire(replicas: &[ReplicaId]) -> Vec<WireReplica> {
    replicas.iter().copied().map(WireReplica::from).collect()
}

fn from_wire(replicas: Vec<WireReplica>) -> Vec<ReplicaId> {
    replicas.into_iter().map(ReplicaId::from).collect()
}

/// The list of replicas of one partition.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireReplicas {
    #[prost(message, repeated, tag = "1")]
    replicas: Vec<WireReplica>,
}

/// Version, kind where there is one, body.
fn frame(kind: Option<u8>, body: &impl prost::Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(2 + body.encoded_len());
    buffer.put_u8(VERSION);
    if let Some(kind) = kind {
        buffer.put_u8(kind);
    }
    body.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
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

/// The kind byte and the body.
fn unframe<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), CodecError> {
    let rest = unversioned(what, bytes, 2)?;
    let (kind, body) = rest.split_first().expect("the length was checked");
    Ok((*kind, body))
}

/// A body of which this build knows every field. `encode` writes one form of each message only, so what doesn't come
/// out as it went in has fields that were skipped.
fn message<M: prost::Message + Default>(what: &'static str, body: &[u8]) -> Result<M, CodecError> {
    let message = M::decode(body).map_err(|error| malformed(what, error.to_string()))?;
    if message.encode_to_vec() != body {
        return Err(CodecError::UnknownFields { what });
    }
    Ok(message)
}

fn malformed(what: &'static str, detail: impl Into<String>) -> CodecError {
    CodecError::Malformed {
        what,
        detail: detail.into(),
    }
}

fn topic_id(what: &'static str, bytes: &[u8]) -> Result<TopicId, CodecError> {
    TopicId::from_slice(bytes).ok_or_else(|| malformed(what, format!("a topic id of {} bytes, not 16", bytes.len())))
}

fn directory_id(what: &'static str, bytes: &[u8]) -> Result<DirectoryId, CodecError> {
    DirectoryId::from_slice(bytes)
        .ok_or_else(|| malformed(what, format!("a directory id of {} bytes, not 16", bytes.len())))
}

fn epoch(what: &'static str, epoch: i32) -> Result<jangada_types::ProducerEpoch, CodecError> {
    i16::try_from(epoch)
        .map(jangada_types::ProducerEpoch)
        .map_err(|_| malformed(what, format!("producer epoch {epoch} is beyond 16 bits")))
}
