//! What compaction leaves of an append in the log: the same command with fewer records, or without any.
//!
//! A replica that applies what is left must come to the state of one that applied the original. Nothing of a state depends on the
//! records, but on the header and the size that the batch had, so these are kept.
//!
//! ```text
//! original  kind u8 (1, 3, 5, 8, 9) | size u32 | now i64 | expiration i64
//!           | conditions (3, 5) | ids (5) | seq u64 (8) | what else a marker has (9)
//! remains   last offset delta i32 | max timestamp i64 | attributes i16 | producer id i64 | epoch i16 | base sequence i32
//! ```

use bytes::{Buf, BufMut, Bytes};
use jangada_types::batch::{Attributes, BatchHeader, EndMarker};
use jangada_types::{CodecError, ProducerEpoch, ProducerId, Sequence};

use crate::command::{IdFinding, PartitionCommand, PartitionCommandKind, decode_ids, encode_ids};
use crate::condition::Conditions;
use crate::transactions::Marker;

const WHAT: &str = "what compaction has left of an append";
/// Bytes of [`Remains`].
const REMAINS_BYTES: usize = 4 + 8 + 2 + 8 + 2 + 4;

/// What an append was, as far as apply needs it beside the header of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// The form that it had.
    pub form: Form,
    /// Size of its batch in bytes when it was appended.
    pub size_bytes: u32,
    /// The leader's clock when it proposed, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// How long the leader remembers silent producers, milliseconds.
    pub expiration_ms: i64,
}

/// The form of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A batch, with conditions or without.
    Plain(Conditions),
    /// A batch with marks for queues, which are gone: only one that was refused, or was appended before, is emptied.
    Marked {
        /// The conditions that must hold for the batch.
        conditions: Conditions,
        /// What the leader found of the message ids among the marks.
        ids: Option<IdFinding>,
    },
    /// A batch of a transaction.
    Transactional {
        /// Which transaction of its producer it is.
        seq: u64,
    },
    /// The control batch that ends a transaction: it goes as a whole.
    Marker {
        /// What it said.
        end: EndMarker,
        /// Which transaction of its producer it has ended.
        seq: u64,
    },
}

/// What apply reads of the header of a batch that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The last record's offset minus the first's.
    pub last_offset_delta: i32,
    /// The greatest timestamp of the records, milliseconds since the Unix epoch.
    pub max_timestamp: i64,
    /// The codec, the timestamp type and flags.
    pub attributes: Attributes,
    /// The idempotent producer's id.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub base_sequence: Sequence,
}

impl Form {
    fn kind(&self) -> PartitionCommandKind {
        match self {
            Self::Plain(conditions) if conditions.is_none() => PartitionCommandKind::Append,
            Self::Plain(_) => PartitionCommandKind::ConditionalAppend,
            Self::Marked { .. } => PartitionCommandKind::AppendMarked,
            Self::Transactional { .. } => PartitionCommandKind::TxnAppend,
            Self::Marker { .. } => PartitionCommandKind::Marker,
        }
    }
}

impl Original {
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.form.kind().byte());
        out.put_u32(self.size_bytes);
        if let Some(marker) = self.marker() {
            return marker.encode(out);
        }
        out.put_i64(self.now_ms);
        out.put_i64(self.expiration_ms);
        match &self.form {
            Form::Plain(conditions) if conditions.is_none() => {}
            Form::Plain(conditions) => conditions.encode(out),
            Form::Marked { conditions, ids } => {
                conditions.encode(out);
                encode_ids(*ids, out);
            }
            Form::Transactional { seq } => out.put_u64(*seq),
            Form::Marker { .. } => unreachable!("it is encoded as a marker is"),
        }
    }

    /// The marker that it was, if it was one.
    pub(crate) fn marker(&self) -> Option<Marker> {
        let Form::Marker { end, seq } = self.form else {
            return None;
        };
        Some(Marker {
            now_ms: self.now_ms,
            expiration_ms: self.expiration_ms,
            end,
            seq,
        })
    }

    /// The reverse of [`Original::encode`].
    pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let (length, required) = (input.len(), 1 + 4 + 8 + 8);
        let short = |_| CodecError::Truncated {
            what: WHAT,
            length,
            required,
        };
        let kind = input.try_get_u8().map_err(short)?;
        let size_bytes = input.try_get_u32().map_err(short)?;
        if kind == PartitionCommandKind::Marker.byte() {
            return Ok(Self::of_marker(&Marker::decode(WHAT, input)?, size_bytes));
        }
        let now_ms = input.try_get_i64().map_err(short)?;
        let expiration_ms = input.try_get_i64().map_err(short)?;
        let form = match PartitionCommandKind::of_byte(kind) {
            Some(PartitionCommandKind::Append) => Form::Plain(Conditions::default()),
            Some(PartitionCommandKind::ConditionalAppend) => Form::Plain(Conditions::decode(input)?),
            Some(PartitionCommandKind::AppendMarked) => Form::Marked {
                conditions: Conditions::decode(input)?,
                ids: decode_ids(input)?,
            },
            Some(PartitionCommandKind::TxnAppend) => Form::Transactional {
                seq: input.try_get_u64().map_err(short)?,
            },
            _ => return Err(CodecError::UnknownKind { what: WHAT, kind }),
        };
        Ok(Self {
            form,
            size_bytes,
            now_ms,
            expiration_ms,
        })
    }

    fn of_marker(marker: &Marker, size_bytes: u32) -> Self {
        Self {
            form: Form::Marker {
                end: marker.end,
                seq: marker.seq,
            },
            size_bytes,
            now_ms: marker.now_ms,
            expiration_ms: marker.expiration_ms,
        }
    }
}

impl Remains {
    /// Of a batch.
    pub fn of(header: &BatchHeader) -> Self {
        Self {
            last_offset_delta: header.last_offset_delta,
            max_timestamp: header.max_timestamp,
            attributes: header.attributes,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
        }
    }

    /// The header of a batch without records that apply takes for the one that was there.
    pub fn header(&self) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: self.attributes,
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.max_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.max_timestamp);
        out.put_i16(self.attributes.0);
        out.put_i64(self.producer_id.get());
        out.put_i16(self.producer_epoch.get());
        out.put_i32(self.base_sequence.get());
    }

    /// The reverse of [`Remains::encode`].
    pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let length = input.len();
        let short = |_| CodecError::Truncated {
            what: WHAT,
            length,
            required: REMAINS_BYTES,
        };
        Ok(Self {
            last_offset_delta: input.try_get_i32().map_err(short)?,
            max_timestamp: input.try_get_i64().map_err(short)?,
            attributes: Attributes(input.try_get_i16().map_err(short)?),
            producer_id: ProducerId(input.try_get_i64().map_err(short)?),
            producer_epoch: ProducerEpoch(input.try_get_i16().map_err(short)?),
            base_sequence: Sequence(input.try_get_i32().map_err(short)?),
        })
    }
}

/// An append taken apart: what it was, and its batch, or what is left of its header.
enum Append {
    Whole(Original, Bytes),
    Gone(Original, Remains),
}

fn size_of(batch: &Bytes) -> u32 {
    u32::try_from(batch.len()).expect("a batch is at most 8 MiB")
}

fn taken_apart(command: PartitionCommand) -> Option<Append> {
    let (form, now_ms, expiration_ms, batch) = match command {
        PartitionCommand::Append {
            now_ms,
            expiration_ms,
            conditions,
            batch,
        } => (Form::Plain(conditions), now_ms, expiration_ms, batch),
        PartitionCommand::AppendMarked {
            now_ms,
            expiration_ms,
            conditions,
            ids,
            batch,
            ..
        } => (Form::Marked { conditions, ids }, now_ms, expiration_ms, batch),
        PartitionCommand::TxnAppend {
            now_ms,
            expiration_ms,
            seq,
            batch,
        } => (Form::Transactional { seq }, now_ms, expiration_ms, batch),
        PartitionCommand::Marker { marker, batch } => {
            return Some(Append::Whole(Original::of_marker(&marker, size_of(&batch)), batch));
        }
        PartitionCommand::CompactedAppend { original, batch } => return Some(Append::Whole(*original, batch)),
        PartitionCommand::EmptiedAppend { original, remains } => return Some(Append::Gone(*original, *remains)),
        _ => return None,
    };
    let original = Original {
        form,
        size_bytes: size_of(&batch),
        now_ms,
        expiration_ms,
    };
    Some(Append::Whole(original, batch))
}

impl PartitionCommand {
    /// The batch of an append that compaction by key may take records of, as it has no marks, which are one for each record; or the
    /// control batch of a marker.
    pub fn compactable_batch(&self) -> Option<&Bytes> {
        match self {
            Self::Append { batch, .. }
            | Self::TxnAppend { batch, .. }
            | Self::CompactedAppend { batch, .. }
            | Self::Marker { batch, .. } => Some(batch),
            _ => None,
        }
    }

    /// An append with this batch in the place of its own, of which it is a part; `None`: no append, or nothing is left of it.
    pub fn with_fewer_records(self, fewer: Bytes) -> Option<Self> {
        match taken_apart(self)? {
            Append::Whole(original, _) => Some(Self::CompactedAppend {
                original: Box::new(original),
                batch: fewer,
            }),
            Append::Gone(..) => None,
        }
    }

    /// An append without its batch; `None`: no append, or not one that a leader proposed.
    pub fn emptied(self) -> Option<Self> {
        let (original, remains) = match taken_apart(self)? {
            Append::Whole(original, batch) => (original, Remains::of(&BatchHeader::parse(&batch).ok()?)),
            Append::Gone(original, remains) => (original, remains),
        };
        Some(Self::EmptiedAppend {
            original: Box::new(original),
            remains: Box::new(remains),
        })
    }
}

/// Whether a command is what compaction has left of an append, seen by its head alone: the size of the batch when it was appended.
pub fn compacted_form(head: &[u8]) -> Option<u32> {
    match head {
        [_, kind, _, size @ ..] if LEFT.contains(kind) => size.first_chunk().map(|size| u32::from_be_bytes(*size)),
        _ => None,
    }
}

/// The kinds of what is left.
const LEFT: [u8; 2] = [
    PartitionCommandKind::CompactedAppend.byte(),
    PartitionCommandKind::EmptiedAppend.byte(),
];
