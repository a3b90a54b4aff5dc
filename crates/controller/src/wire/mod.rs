//! The encoded forms: which kinds of commands and replies there are, and the fields of each. How they are framed is
//! in [`jangada_types::frame`].
//!
//! Rules for changes: a field number is never used again, and a kind byte neither. A command that a level-1 broker
//! would fold differently gets a new kind, and is proposed only once every broker has the feature level that knows
//! it. What this build doesn't know, it refuses to read; it never skips it, for then its image would part from the
//! others'.

pub(crate) mod command;
pub(crate) mod image;
pub(crate) mod reply;

use jangada_types::frame::{CodecError, malformed};
use jangada_types::{BrokerId, Incarnation, ProducerEpoch, ReplicaId};

use crate::command::DirectoryId;

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

fn directory_id(what: &'static str, bytes: &[u8]) -> Result<DirectoryId, CodecError> {
    DirectoryId::from_slice(bytes)
        .ok_or_else(|| malformed(what, format!("a directory id of {} bytes, not 16", bytes.len())))
}

fn epoch(what: &'static str, epoch: i32) -> Result<ProducerEpoch, CodecError> {
    i16::try_from(epoch)
        .map(ProducerEpoch)
        .map_err(|_| malformed(what, format!("producer epoch {epoch} is beyond 16 bits")))
}
