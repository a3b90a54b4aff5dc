//! The messages that commands and the image are made of, in addition to those that declarations make.
//! [`jangada_types::frame`] says how they are framed, [`jangada_types::replicated`] has the rules for changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jangada_types::GroupId;
use jangada_types::frame::{CodecError, frame, malformed, message, unframe_plain};
use jangada_types::replicated::Wire;
use prost::Message as _;

use crate::image::{Ended, Image, TransactionState, TransactionalId};
use crate::outcome::Outcome;
use crate::producer::Producer;

const WHAT: &str = "snapshot of transactional ids";

/// A producer id and its epoch.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireProducer {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
}

impl Wire<WireProducer> for Producer {
    fn to_form(&self) -> WireProducer {
        WireProducer {
            id: self.id.to_form(),
            epoch: self.epoch.to_form(),
        }
    }

    fn from_form(what: &'static str, form: WireProducer) -> Result<Self, CodecError> {
        Ok(Self {
            id: Wire::from_form(what, form.id)?,
            epoch: Wire::from_form(what, form.epoch)?,
        })
    }
}

/// A transactional id, and the number of a transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireEnded {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, tag = "2")]
    seq: u64,
}

impl Wire<WireEnded> for (Arc<str>, u64) {
    fn to_form(&self) -> WireEnded {
        WireEnded {
            id: self.0.to_form(),
            seq: self.1,
        }
    }

    fn from_form(_: &'static str, form: WireEnded) -> Result<Self, CodecError> {
        Ok((form.id.into(), form.seq))
    }
}

impl Wire<u32> for Outcome {
    fn to_form(&self) -> u32 {
        match self {
            Self::Committed => 1,
            Self::Aborted => 2,
            Self::Fenced => 3,
            Self::TimedOut => 4,
            Self::AbortedByOperator => 5,
        }
    }

    fn from_form(what: &'static str, form: u32) -> Result<Self, CodecError> {
        let mut all = Self::ALL.into_iter();
        let known = all.find(|outcome| outcome.to_form() == form);
        known.ok_or_else(|| malformed(what, format!("unknown outcome {form}")))
    }
}

impl Wire<u32> for TransactionState {
    fn to_form(&self) -> u32 {
        match self {
            Self::Empty => 1,
            Self::Ongoing => 2,
            Self::PrepareCommit => 3,
            Self::PrepareAbort => 4,
            Self::CompleteCommit => 5,
            Self::CompleteAbort => 6,
        }
    }

    fn from_form(what: &'static str, form: u32) -> Result<Self, CodecError> {
        let mut all = Self::ALL.into_iter();
        let known = all.find(|state| state.to_form() == form);
        known.ok_or_else(|| malformed(what, format!("unknown state {form}")))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireImage {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, repeated, tag = "2")]
    ids: Vec<WireId>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireId {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, required, tag = "2")]
    producer: WireProducer,
    #[prost(message, optional, tag = "3")]
    previous: Option<WireProducer>,
    #[prost(uint64, tag = "4")]
    seq: u64,
    #[prost(uint32, tag = "5")]
    timeout_ms: u32,
    #[prost(uint32, tag = "6")]
    state: u32,
    #[prost(uint64, tag = "7")]
    started_ms: u64,
    #[prost(uint64, tag = "8")]
    touched_ms: u64,
    #[prost(uint64, tag = "9")]
    metadata_version: u64,
    #[prost(uint64, repeated, tag = "10")]
    partitions: Vec<u64>,
    #[prost(string, repeated, tag = "11")]
    groups: Vec<String>,
    #[prost(message, optional, tag = "12")]
    last: Option<WireLast>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireLast {
    #[prost(message, required, tag = "1")]
    producer: WireProducer,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(uint32, tag = "3")]
    outcome: u32,
}

impl Wire<WireLast> for Ended {
    fn to_form(&self) -> WireLast {
        WireLast {
            producer: self.producer.to_form(),
            seq: self.seq,
            outcome: self.outcome.to_form(),
        }
    }

    fn from_form(what: &'static str, form: WireLast) -> Result<Self, CodecError> {
        Ok(Self {
            producer: Wire::from_form(what, form.producer)?,
            seq: form.seq,
            outcome: Wire::from_form(what, form.outcome)?,
        })
    }
}

fn id_to_wire(id: &str, row: &TransactionalId) -> WireId {
    WireId {
        id: id.to_owned(),
        producer: row.producer.to_form(),
        previous: row.previous.to_form(),
        seq: row.seq,
        timeout_ms: row.timeout_ms,
        state: row.state.to_form(),
        started_ms: row.started_ms,
        touched_ms: row.touched_ms,
        metadata_version: row.metadata_version,
        partitions: row.partitions.iter().map(|partition| partition.get()).collect(),
        groups: row.groups.iter().map(|name| name.to_string()).collect(),
        last: row.last.to_form(),
    }
}

/// A set from its members in ascending order, so that a set has one encoding.
fn set<T: Ord>(id: &str, members: Vec<T>) -> Result<BTreeSet<T>, CodecError> {
    match members.is_sorted_by(|a, b| a < b) {
        true => Ok(members.into_iter().collect()),
        false => Err(malformed(
            WHAT,
            format!("participants of {id:?} that are not ascending"),
        )),
    }
}

fn id_from_wire(wire: WireId) -> Result<(Arc<str>, TransactionalId), CodecError> {
    let row = TransactionalId {
        producer: Wire::from_form(WHAT, wire.producer)?,
        previous: Wire::from_form(WHAT, wire.previous)?,
        seq: wire.seq,
        timeout_ms: wire.timeout_ms,
        state: Wire::from_form(WHAT, wire.state)?,
        started_ms: wire.started_ms,
        touched_ms: wire.touched_ms,
        metadata_version: wire.metadata_version,
        partitions: set(&wire.id, wire.partitions.into_iter().map(GroupId).collect())?,
        groups: set(&wire.id, wire.groups.into_iter().map(Arc::from).collect())?,
        last: Wire::from_form(WHAT, wire.last)?,
    };
    Ok((wire.id.into(), row))
}

/// What the bytes of a state say: its version, and its ids.
pub(crate) struct Parts {
    pub version: u64,
    pub ids: Vec<(Arc<str>, TransactionalId)>,
}

/// Bytes of a piece that [`encode_into`] hands out, about: the last id in it may be larger.
const PIECE_BYTES: usize = 256 << 10;

/// Hands out the encoded state id by id. A message of protobuf is what its fields are one after the other, so the pieces together are the
/// message of all ids.
pub(crate) fn encode_into(image: &Image, sink: &mut dyn FnMut(Bytes)) {
    let head = WireImage {
        version: image.version,
        ids: Vec::new(),
    };
    let mut piece = BytesMut::from(&frame(None, &head)[..]);
    for (id, row) in image.ids() {
        let wire = WireImage {
            ids: vec![id_to_wire(id, row)],
            ..WireImage::default()
        };
        piece.reserve(wire.encoded_len());
        wire.encode(&mut piece).expect("a BytesMut grows as needed");
        if piece.len() >= PIECE_BYTES {
            sink(piece.split().freeze());
        }
    }
    sink(piece.freeze());
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Parts, CodecError> {
    let wire: WireImage = message(WHAT, unframe_plain(WHAT, bytes)?)?;
    Ok(Parts {
        version: wire.version,
        ids: wire.ids.into_iter().map(id_from_wire).collect::<Result<_, _>>()?,
    })
}
