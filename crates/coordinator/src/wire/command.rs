//! The messages that commands are made of, in addition to those that their declaration makes.

use std::sync::Arc;

use jangada_types::frame::{CodecError, malformed};
use jangada_types::replicated::Wire;

use super::WirePartitions;
use crate::image::Epoch;
use crate::offset_commit::OffsetCommit;
use crate::partitions::{PartitionSet, TopicPartition};
use crate::removal::RemovalCause;
use crate::transaction::TransactionRef;

/// The partitions that one member should own.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireTarget {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<WirePartitions>,
}

impl Wire<WireTarget> for (Arc<str>, PartitionSet) {
    fn to_form(&self) -> WireTarget {
        WireTarget {
            member: self.0.to_form(),
            partitions: self.1.to_form(),
        }
    }

    fn from_form(what: &'static str, form: WireTarget) -> Result<Self, CodecError> {
        Ok((form.member.into(), Wire::from_form(what, form.partitions)?))
    }
}

/// A member's id with its version.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireMember {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(uint64, tag = "2")]
    version: u64,
}

impl Wire<WireMember> for (Arc<str>, u64) {
    fn to_form(&self) -> WireMember {
        WireMember {
            member: self.0.to_form(),
            version: self.1,
        }
    }

    fn from_form(_: &'static str, form: WireMember) -> Result<Self, CodecError> {
        Ok((form.member.into(), form.version))
    }
}

/// The message of `SetAway`, which has the member and its version in a message of their own.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSetAway {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, required, tag = "2")]
    member: WireMember,
}

/// The group, the member and the version.
impl Wire<WireSetAway> for (Arc<str>, Arc<str>, u64) {
    fn to_form(&self) -> WireSetAway {
        WireSetAway {
            group: self.0.to_form(),
            member: (Arc::clone(&self.1), self.2).to_form(),
        }
    }

    fn from_form(what: &'static str, form: WireSetAway) -> Result<Self, CodecError> {
        let (member, version) = Wire::from_form(what, form.member)?;
        Ok((form.group.into(), member, version))
    }
}

/// The member that commits, and its epoch.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireCommitter {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
}

impl Wire<WireCommitter> for (Arc<str>, Epoch) {
    fn to_form(&self) -> WireCommitter {
        WireCommitter {
            member: self.0.to_form(),
            epoch: self.1.get(),
        }
    }

    fn from_form(_: &'static str, form: WireCommitter) -> Result<Self, CodecError> {
        Ok((form.member.into(), Epoch(form.epoch)))
    }
}

/// The name of a transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireTransaction {
    #[prost(int64, tag = "1")]
    producer_id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
    #[prost(uint64, tag = "3")]
    seq: u64,
}

impl Wire<WireTransaction> for TransactionRef {
    fn to_form(&self) -> WireTransaction {
        WireTransaction {
            producer_id: self.producer_id.to_form(),
            epoch: self.epoch.to_form(),
            seq: self.seq,
        }
    }

    fn from_form(what: &'static str, form: WireTransaction) -> Result<Self, CodecError> {
        Ok(Self {
            producer_id: Wire::from_form(what, form.producer_id)?,
            epoch: Wire::from_form(what, form.epoch)?,
            seq: form.seq,
        })
    }
}

/// The committed offset of one partition.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireOffset {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint32, tag = "2")]
    partition: u32,
    #[prost(int64, tag = "3")]
    offset: i64,
    #[prost(uint32, optional, tag = "4")]
    leader_epoch: Option<u32>,
    #[prost(string, tag = "5")]
    metadata: String,
}

impl Wire<WireOffset> for OffsetCommit {
    fn to_form(&self) -> WireOffset {
        WireOffset {
            topic: self.partition.topic.to_form(),
            partition: self.partition.partition.get(),
            offset: self.offset.get(),
            leader_epoch: self.leader_epoch.to_form(),
            metadata: self.metadata.to_string(),
        }
    }

    fn from_form(what: &'static str, form: WireOffset) -> Result<Self, CodecError> {
        Ok(Self {
            partition: TopicPartition::new(Wire::from_form(what, form.topic)?, form.partition),
            offset: Wire::from_form(what, form.offset)?,
            leader_epoch: Wire::from_form(what, form.leader_epoch)?,
            metadata: form.metadata.into(),
        })
    }
}

impl Wire<u32> for RemovalCause {
    fn to_form(&self) -> u32 {
        match self {
            Self::Left => 1,
            Self::SessionExpired => 2,
            Self::RebalanceTimedOut => 3,
        }
    }

    fn from_form(what: &'static str, form: u32) -> Result<Self, CodecError> {
        match form {
            1 => Ok(Self::Left),
            2 => Ok(Self::SessionExpired),
            3 => Ok(Self::RebalanceTimedOut),
            other => Err(malformed(what, format!("unknown cause {other}"))),
        }
    }
}

impl Wire<u32> for Epoch {
    fn to_form(&self) -> u32 {
        self.get()
    }

    fn from_form(_: &'static str, form: u32) -> Result<Self, CodecError> {
        Ok(Self(form))
    }
}
