//! What goes through a partition's Raft group.
//!
//! A command's head begins with version and kind; the body of whatever appends is the record batch itself, never copied. What
//! changes the partition's queues are further commands of the same group. Integers are big-endian.
//!
//! ```text
//! kind                   head, behind version and kind                                                  body
//! 1 Append               now i64 | expiration i64                                                       batch
//! 2 AdvanceLogStart      from i64 | to i64 | dropped bytes u64                                          none
//! 3 ConditionalAppend    now i64 | expiration i64 | conditions                                          batch
//! 4 QueueOps             nothing                                                                        the ops
//! 5 AppendMarked         now i64 | expiration i64 | conditions | ids u8, window u64, term u64 | marks       batch
//! 6 Carry                the carry                                                                      batch
//! 7 Schedule             the change | marks, if a message is appended                                    batch, or none
//! 8 TxnAppend            now i64 | expiration i64 | seq u64                                             batch
//! 9 Marker               now i64 | expiration i64 | producer id i64, epoch i16 | coordinator epoch i32
//!                        | seq u64 | flags u8 (1: the transaction was committed)                        the control batch
//! 10 CompactedAppend     original kind u8 | original size u32 | the original's                           batch with fewer records
//! 11 EmptiedAppend       original kind u8 | original size u32 | the original's, without marks | header     none
//! 12 AdvanceHorizon      up to i64 | now i64                                                            none
//! 13 TxnAppendMarked     now i64 | expiration i64 | seq u64 | marks                                     batch
//! ```
//!
//! Kinds 10 and 11 are never proposed: compaction writes them in the place of appends and markers ([`compaction`](crate::compaction)).
//!
//! Ids: 0 there are none, and nothing of them follows; 1 there are; 2 there are, and those that are too old are deleted.
//!
//! Written by hand, not declared with `replicated!`: that makes one message of a command, so the batch would be copied into
//! it and out of it, and the head of each append would cost a buffer more.

mod kind;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_machine::EncodedCommand;
use jangada_queue::{Carry, Fire, IdWindow, Marks, QueueOps, ScheduleCommand};
use jangada_types::frame::malformed;
use jangada_types::{CodecError, Offset};

pub use self::kind::PartitionCommandKind;
use crate::compaction::{Original, Remains};
use crate::condition::Conditions;
use crate::transactions::{MARKER_LEN, Marker};

/// The name of a command in errors.
const WHAT: &str = "partition command";
const VERSION: u8 = 1;
/// Length of an append's head: version, kind, and two integers of 64 bits.
const HEAD_LEN: usize = 18;
const ADVANCE_LEN: usize = 26;
const TXN_APPEND_LEN: usize = HEAD_LEN + 8;

/// What a leader found of the message ids of a batch: none of them was there. As a [`KeyFinding`](crate::KeyFinding) it holds in the
/// term in which it looked, and in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdFinding {
    /// How long the ids are remembered.
    pub window: IdWindow,
    /// The term in which it looked.
    pub term: u64,
}

/// A partition's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionCommand {
    /// Append a batch.
    Append {
        /// The leader's clock when it proposed, milliseconds since the Unix epoch.
        now_ms: i64,
        /// How long the leader remembers silent producers, milliseconds.
        expiration_ms: i64,
        /// The conditions that must hold for the batch.
        conditions: Conditions,
        /// The batch, as the leader checked it.
        batch: Bytes,
    },
    /// Drop the records below an offset.
    AdvanceLogStart {
        /// The log start that the leader counted from; another one refuses the command.
        from: Offset,
        /// The new log start.
        to: Offset,
        /// Bytes of the batches between the two.
        dropped_bytes: u64,
    },
    /// Change the slots of the partition's queues.
    QueueOps(QueueOps),
    /// Append a batch whose records have marks for the partition's queues.
    AppendMarked {
        /// The leader's clock when it proposed, milliseconds since the Unix epoch.
        now_ms: i64,
        /// How long the leader remembers silent producers, milliseconds.
        expiration_ms: i64,
        /// The conditions that must hold for the batch.
        conditions: Conditions,
        /// What the leader found of the message ids among the marks; none: the ids are not remembered.
        ids: Option<IdFinding>,
        /// The marks, one for each record.
        marks: Marks,
        /// The batch, as the leader checked it.
        batch: Bytes,
    },
    /// Append messages of queues again, whose old places are done then.
    Carry {
        /// The messages that are appended again, with their marks.
        carry: Carry,
        /// Their records, as they were.
        batch: Bytes,
    },
    /// Change a schedule of a queue.
    Schedule {
        /// What happens to it; a command that is rare makes no other one larger.
        change: Box<ScheduleCommand>,
        /// The marks of the message that an occurrence sends; none: it is plain, or nothing is sent.
        marks: Marks,
        /// The message that an occurrence sends; empty: nothing is sent.
        batch: Bytes,
    },
    /// Append a batch of a transaction, which opens it here if it is the first.
    TxnAppend {
        /// The leader's clock when it proposed, milliseconds since the Unix epoch.
        now_ms: i64,
        /// How long the leader remembers silent producers, milliseconds.
        expiration_ms: i64,
        /// Which transaction of its producer it is, as the coordinator says; 1 or more.
        seq: u64,
        /// The batch, as the leader checked it: transactional, with a producer.
        batch: Bytes,
    },
    /// Append a batch of a transaction whose records have marks for the partition's queues.
    TxnAppendMarked {
        /// The leader's clock when it proposed, milliseconds since the Unix epoch.
        now_ms: i64,
        /// How long the leader remembers silent producers, milliseconds.
        expiration_ms: i64,
        /// Which transaction of its producer it is, as the coordinator says; 1 or more.
        seq: u64,
        /// The marks, one for each record. None has a message id: what an abort takes back was not sent.
        marks: Marks,
        /// The batch, as the leader checked it: transactional, with a producer.
        batch: Bytes,
    },
    /// End a transaction, if it is open here.
    Marker {
        /// Which transaction it is, and how it ends.
        marker: Marker,
        /// The control batch that says so to readers.
        batch: Bytes,
    },
    /// An append of whose batch compaction has left some records.
    CompactedAppend {
        /// What it was; a command that is rare makes no other one larger.
        original: Box<Original>,
        /// The batch with those records.
        batch: Bytes,
    },
    /// An append, or a marker, of whose batch compaction has left no record.
    EmptiedAppend {
        /// What it was.
        original: Box<Original>,
        /// What its batch was, as far as apply looks at it.
        remains: Box<Remains>,
    },
    /// Let tombstones go that every replica has compacted.
    AdvanceHorizon {
        /// Tombstones below this offset may go; the horizon never moves back.
        upto: Offset,
        /// The leader's clock when it proposed, milliseconds since the Unix epoch. For people: nothing goes by it.
        now_ms: i64,
    },
}

/// A message is appended with the change.
fn appends(change: &ScheduleCommand) -> bool {
    matches!(change, ScheduleCommand::Fire(Fire { appends: true, .. }))
}

impl PartitionCommand {
    /// A command that changes nothing, and is applied after everything that was proposed before it.
    pub fn barrier(log_start: Offset) -> Self {
        Self::AdvanceLogStart {
            from: log_start,
            to: log_start,
            dropped_bytes: 0,
        }
    }

    /// The kind of the command.
    pub fn kind(&self) -> PartitionCommandKind {
        match self {
            Self::Append { conditions, .. } if !conditions.is_none() => PartitionCommandKind::ConditionalAppend,
            Self::Append { .. } => PartitionCommandKind::Append,
            Self::AdvanceLogStart { .. } => PartitionCommandKind::AdvanceLogStart,
            Self::QueueOps(_) => PartitionCommandKind::QueueOps,
            Self::AppendMarked { .. } => PartitionCommandKind::AppendMarked,
            Self::Carry { .. } => PartitionCommandKind::Carry,
            Self::Schedule { .. } => PartitionCommandKind::Schedule,
            Self::TxnAppend { .. } => PartitionCommandKind::TxnAppend,
            Self::Marker { .. } => PartitionCommandKind::Marker,
            Self::CompactedAppend { .. } => PartitionCommandKind::CompactedAppend,
            Self::EmptiedAppend { .. } => PartitionCommandKind::EmptiedAppend,
            Self::AdvanceHorizon { .. } => PartitionCommandKind::AdvanceHorizon,
            Self::TxnAppendMarked { .. } => PartitionCommandKind::TxnAppendMarked,
        }
    }

    /// The command as it goes into the log. The batch is its body.
    pub fn encode(self) -> EncodedCommand {
        let kind = self.kind();
        match self {
            Self::Append {
                now_ms,
                expiration_ms,
                conditions,
                batch,
            } if kind == PartitionCommandKind::ConditionalAppend => {
                let mut head = BytesMut::with_capacity(2 * HEAD_LEN + 16);
                head.put_u8(VERSION);
                head.put_u8(kind.byte());
                head.put_i64(now_ms);
                head.put_i64(expiration_ms);
                conditions.encode(&mut head);
                EncodedCommand::new(&head, batch)
            }
            Self::Append {
                now_ms,
                expiration_ms,
                batch,
                ..
            } => {
                let mut head = [0; HEAD_LEN];
                let mut out = &mut head[..];
                out.put_u8(VERSION);
                out.put_u8(kind.byte());
                out.put_i64(now_ms);
                out.put_i64(expiration_ms);
                EncodedCommand::new(&head, batch)
            }
            Self::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            } => {
                let mut head = [0; ADVANCE_LEN];
                let mut out = &mut head[..];
                out.put_u8(VERSION);
                out.put_u8(kind.byte());
                out.put_i64(from.get());
                out.put_i64(to.get());
                out.put_u64(dropped_bytes);
                EncodedCommand::new(&head, Bytes::new())
            }
            Self::QueueOps(ops) => EncodedCommand::new(&[VERSION, kind.byte()], ops.encode()),
            Self::AppendMarked {
                now_ms,
                expiration_ms,
                conditions,
                ids,
                marks,
                batch,
            } => {
                let mut head = BytesMut::with_capacity(2 * HEAD_LEN + 16 + 16 * marks.0.len());
                head.put_u8(VERSION);
                head.put_u8(kind.byte());
                head.put_i64(now_ms);
                head.put_i64(expiration_ms);
                conditions.encode(&mut head);
                encode_ids(ids, &mut head);
                marks.encode(true, &mut head);
                EncodedCommand::new(&head, batch)
            }
            Self::Carry { carry, batch } => {
                let mut head = BytesMut::with_capacity(HEAD_LEN + 16 * carry.marks.0.len());
                head.put_u8(VERSION);
                head.put_u8(kind.byte());
                carry.encode(&mut head);
                EncodedCommand::new(&head, batch)
            }
            Self::Schedule { change, marks, batch } => {
                let mut head = BytesMut::with_capacity(8 * HEAD_LEN);
                head.put_u8(VERSION);
                head.put_u8(kind.byte());
                change.encode(&mut head);
                if appends(&change) {
                    marks.encode(true, &mut head);
                }
                EncodedCommand::new(&head, batch)
            }
            Self::TxnAppend {
                now_ms,
                expiration_ms,
                seq,
                batch,
            } => {
                let mut head = [0; TXN_APPEND_LEN];
                put_txn_head(&mut &mut head[..], kind, (now_ms, expiration_ms), seq);
                EncodedCommand::new(&head, batch)
            }
            Self::TxnAppendMarked {
                now_ms,
                expiration_ms,
                seq,
                marks,
                batch,
            } => {
                let mut head = BytesMut::with_capacity(TXN_APPEND_LEN + 16 * marks.0.len());
                put_txn_head(&mut head, kind, (now_ms, expiration_ms), seq);
                marks.encode(true, &mut head);
                EncodedCommand::new(&head, batch)
            }
            Self::Marker { marker, batch } => {
                let mut head = [0; 2 + MARKER_LEN];
                let mut out = &mut head[..];
                out.put_u8(VERSION);
                out.put_u8(kind.byte());
                marker.encode(&mut out);
                EncodedCommand::new(&head, batch)
            }
            Self::CompactedAppend { original, batch } => {
                let mut head = BytesMut::with_capacity(4 * HEAD_LEN);
                head.put_u8(VERSION);
                head.put_u8(kind.byte());
                original.encode(&mut head);
                EncodedCommand::new(&head, batch)
            }
            Self::EmptiedAppend { original, remains } => {
                let mut head = BytesMut::with_capacity(6 * HEAD_LEN);
                head.put_u8(VERSION);
                head.put_u8(kind.byte());
                original.encode(&mut head);
                remains.encode(&mut head);
                EncodedCommand::new(&head, Bytes::new())
            }
            Self::AdvanceHorizon { upto, now_ms } => {
                let mut head = [0; HEAD_LEN];
                let mut out = &mut head[..];
                out.put_u8(VERSION);
                out.put_u8(kind.byte());
                out.put_i64(upto.get());
                out.put_i64(now_ms);
                EncodedCommand::new(&head, Bytes::new())
            }
        }
    }

    /// The reverse of [`PartitionCommand::encode`]. Copies nothing of the batch, and does not look into it.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged; a replica that skipped it would part from the others.
    pub fn decode(command: EncodedCommand) -> Result<Self, CodecError> {
        let mut decoded = Self::decode_head(command.head())?;
        match &mut decoded {
            Self::Append { batch, .. }
            | Self::AppendMarked { batch, .. }
            | Self::Carry { batch, .. }
            | Self::Schedule { batch, .. }
            | Self::TxnAppend { batch, .. }
            | Self::TxnAppendMarked { batch, .. }
            | Self::Marker { batch, .. }
            | Self::CompactedAppend { batch, .. } => {
                *batch = command.into_body();
            }
            Self::QueueOps(ops) => *ops = QueueOps::decode(command.body())?,
            Self::AdvanceLogStart { .. } | Self::EmptiedAppend { .. } | Self::AdvanceHorizon { .. } => {}
        }
        Ok(decoded)
    }

    /// [`PartitionCommand::decode`] without what the body has, which is empty.
    pub(crate) fn decode_head(head: &[u8]) -> Result<Self, CodecError> {
        let mut input = head;
        let length = input.len();
        let cut_off = |required| CodecError::Truncated {
            what: WHAT,
            length,
            required,
        };
        let short = |_| cut_off(HEAD_LEN);
        let version = input.try_get_u8().map_err(short)?;
        if version != VERSION {
            return Err(CodecError::UnknownVersion {
                what: WHAT,
                version,
                known: VERSION,
            });
        }
        let byte = input.try_get_u8().map_err(short)?;
        let kind = PartitionCommandKind::of_byte(byte).ok_or(CodecError::UnknownKind { what: WHAT, kind: byte })?;
        match kind {
            PartitionCommandKind::Append | PartitionCommandKind::ConditionalAppend => {
                let now_ms = input.try_get_i64().map_err(short)?;
                let expiration_ms = input.try_get_i64().map_err(short)?;
                let conditions = match kind {
                    PartitionCommandKind::ConditionalAppend => Conditions::decode(&mut input)?,
                    _ => Conditions::default(),
                };
                Ok(Self::Append {
                    now_ms,
                    expiration_ms,
                    conditions,
                    batch: Bytes::new(),
                })
            }
            PartitionCommandKind::AdvanceLogStart => {
                let short = |_| cut_off(ADVANCE_LEN);
                Ok(Self::AdvanceLogStart {
                    from: Offset(input.try_get_i64().map_err(short)?),
                    to: Offset(input.try_get_i64().map_err(short)?),
                    dropped_bytes: input.try_get_u64().map_err(short)?,
                })
            }
            PartitionCommandKind::QueueOps => Ok(Self::QueueOps(QueueOps::default())),
            PartitionCommandKind::AppendMarked => Ok(Self::AppendMarked {
                now_ms: input.try_get_i64().map_err(short)?,
                expiration_ms: input.try_get_i64().map_err(short)?,
                conditions: Conditions::decode(&mut input)?,
                ids: decode_ids(&mut input)?,
                marks: decode_marks(&mut input)?,
                batch: Bytes::new(),
            }),
            PartitionCommandKind::Carry => Ok(Self::Carry {
                carry: Carry::decode(&mut input)
                    .filter(|_| input.is_empty())
                    .ok_or_else(|| malformed(WHAT, "its carry cannot be read"))?,
                batch: Bytes::new(),
            }),
            PartitionCommandKind::Schedule => {
                let (change, marks) = decode_schedule(&mut input)
                    .filter(|_| input.is_empty())
                    .ok_or_else(|| malformed(WHAT, "its change of a schedule cannot be read"))?;
                Ok(Self::Schedule {
                    change: Box::new(change),
                    marks,
                    batch: Bytes::new(),
                })
            }
            PartitionCommandKind::TxnAppend | PartitionCommandKind::TxnAppendMarked => {
                let short = |_| cut_off(TXN_APPEND_LEN);
                let now_ms = input.try_get_i64().map_err(short)?;
                let expiration_ms = input.try_get_i64().map_err(short)?;
                let seq = input.try_get_u64().map_err(short)?;
                let batch = Bytes::new();
                if kind == PartitionCommandKind::TxnAppend {
                    return Ok(Self::TxnAppend {
                        now_ms,
                        expiration_ms,
                        seq,
                        batch,
                    });
                }
                Ok(Self::TxnAppendMarked {
                    now_ms,
                    expiration_ms,
                    seq,
                    marks: decode_marks(&mut input)?,
                    batch,
                })
            }
            PartitionCommandKind::Marker => Ok(Self::Marker {
                marker: Marker::decode(WHAT, &mut input)?,
                batch: Bytes::new(),
            }),
            PartitionCommandKind::CompactedAppend => Ok(Self::CompactedAppend {
                original: Box::new(whole(Original::decode(&mut input)?, input)?),
                batch: Bytes::new(),
            }),
            PartitionCommandKind::EmptiedAppend => {
                let original = Box::new(Original::decode(&mut input)?);
                let remains = Box::new(whole(Remains::decode(&mut input)?, input)?);
                Ok(Self::EmptiedAppend { original, remains })
            }
            PartitionCommandKind::AdvanceHorizon => Ok(Self::AdvanceHorizon {
                upto: Offset(input.try_get_i64().map_err(short)?),
                now_ms: input.try_get_i64().map_err(short)?,
            }),
        }
    }
}

/// What was decoded, if nothing is left.
fn whole<T>(decoded: T, rest: &[u8]) -> Result<T, CodecError> {
    match rest.is_empty() {
        true => Ok(decoded),
        false => Err(malformed(WHAT, "bytes follow what compaction has left")),
    }
}

pub(crate) fn encode_ids(ids: Option<IdFinding>, head: &mut impl BufMut) {
    head.put_u8(match ids {
        None => 0,
        Some(found) if found.window.forgets => 2,
        Some(_) => 1,
    });
    if let Some(IdFinding { window, term }) = ids {
        head.put_u64(window.window_ms);
        head.put_u64(term);
    }
}

/// The head of an append in a transaction, up to its marks.
fn put_txn_head(out: &mut impl BufMut, kind: PartitionCommandKind, times: (i64, i64), seq: u64) {
    out.put_u8(VERSION);
    out.put_u8(kind.byte());
    out.put_i64(times.0);
    out.put_i64(times.1);
    out.put_u64(seq);
}

/// Marks up to the end of a head.
fn decode_marks(input: &mut &[u8]) -> Result<Marks, CodecError> {
    let marks = Marks::decode(input).filter(|_| input.is_empty());
    marks.ok_or_else(|| malformed(WHAT, "its marks cannot be read"))
}

fn decode_schedule(input: &mut &[u8]) -> Option<(ScheduleCommand, Marks)> {
    let change = ScheduleCommand::decode(input)?;
    let marks = match appends(&change) {
        true => Marks::decode(input)?,
        false => Marks::default(),
    };
    Some((change, marks))
}

pub(crate) fn decode_ids(input: &mut &[u8]) -> Result<Option<IdFinding>, CodecError> {
    let short = |_| malformed(WHAT, "it ends in what was found of its ids");
    match input.try_get_u8().map_err(short)? {
        0 => Ok(None),
        flag @ (1 | 2) => Ok(Some(IdFinding {
            window: IdWindow {
                window_ms: input.try_get_u64().map_err(short)?,
                forgets: flag == 2,
            },
            term: input.try_get_u64().map_err(short)?,
        })),
        flag => Err(malformed(
            WHAT,
            format!("flag {flag} where its ids are said to be there"),
        )),
    }
}
