//! Rows of records with marks: what a queue's leader finds messages by. One table for all kinds, as each table costs memory on every
//! broker.
//!
//! ```text
//! kind    key: kind u8 | a u64 | b u64, big-endian      value: 1, then                       what for
//! BATCH   1 | 0 | last offset                           base u64 | marks without ids         the walk from the floor on
//! TIMER   2 | deliver-at ms | offset                    lane u32 | expires-at u64 | key u64  what is due next
//! KEY     3 | hash of the key | place in the order      offset u64 | deliver-at u64          the next message of a key
//! LANE    4 | lane | last offset                        base u64 | bits | marks of those     the next message of a lane above 0
//! ORIGIN  6 | old offset | 0                            new offset u64                       where a carried message is now
//! ```
//!
//! A row below the log's start says nothing any more, and goes when the table is compacted.

use std::collections::BTreeMap;

use jangada_machine::Effects;
use jangada_types::table::row::{RowReader, RowWriter};
use jangada_types::table::{CutOff, KeyForm};
use jangada_types::{RowError, Table, TableId};

use crate::command::{Mark, Marks, PackedMarks};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 1 + 8 + 8;

/// The table of marks, by kind and place.
pub static MARKS: Table = Table {
    cut_off: CutOff::WhenCompacted(position_of),
    check: check_row,
    ..Table::new(TableId(3), "marks", KeyForm::Bytes)
};

/// What a row is about: the first byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RowKind {
    /// The marks of a batch, by its last offset.
    Batch = 1,
    /// A message that is not to go out before its time.
    Timer = 2,
    /// A message by its key and its place in the order.
    Key = 3,
    /// The records of a batch that are in a lane.
    Lane = 4,
    /// Where a message is that was appended again.
    Origin = 6,
}

impl RowKind {
    const ALL: [Self; 5] = [Self::Batch, Self::Timer, Self::Key, Self::Lane, Self::Origin];
}

/// A row, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkRow {
    /// The marks of a batch.
    Batch {
        /// Offset of its first record.
        base: u64,
        /// Its marks, without ids.
        marks: PackedMarks,
    },
    /// A message that is not to go out before its time.
    Timer {
        /// Milliseconds since the Unix epoch.
        deliver_at_ms: u64,
        /// The offset of the message.
        offset: u64,
        /// Its level of priority.
        lane: u8,
        /// Not after this time; 0: at any time.
        expires_at_ms: u64,
        /// The hash of its key; 0: it has none.
        message_key: u64,
    },
    /// A message of a key.
    Key {
        /// The hash of the key.
        key: u64,
        /// Its place in the order: the offset that it was sent with.
        origin: u64,
        /// Where it is now.
        offset: u64,
        /// Not before this time, milliseconds since the Unix epoch; 0: at once.
        deliver_at_ms: u64,
    },
    /// The records of a batch that are in a lane.
    Lane {
        /// The level of priority.
        lane: u64,
        /// The records, with their marks.
        messages: Vec<(u64, Mark)>,
    },
    /// Where a message is that was appended again.
    Origin {
        /// Where it was.
        old: u64,
        /// Where it is.
        new: u64,
    },
}

/// A key of the table, to look for or to begin a scan at.
pub fn key_of(kind: RowKind, a: u64, b: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = kind as u8;
    key[1..9].copy_from_slice(&a.to_be_bytes());
    key[9..].copy_from_slice(&b.to_be_bytes());
    key
}

fn parts_of(key: &[u8]) -> Result<(RowKind, u64, u64), RowError> {
    let damaged = || RowError::Damaged(format!("a key of marks has {} bytes, or an unknown kind", key.len()));
    let (kind, rest) = key.split_first().ok_or_else(damaged)?;
    let kind = RowKind::ALL
        .into_iter()
        .find(|known| *known as u8 == *kind)
        .ok_or_else(damaged)?;
    let (a, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let b = rest.try_into().map_err(|_| damaged())?;
    Ok((kind, u64::from_be_bytes(*a), u64::from_be_bytes(b)))
}

impl MarkRow {
    /// Reads a row.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, RowError> {
        let (kind, a, b) = parts_of(key)?;
        let mut reader = RowReader::new("row of marks", VERSION, value)?;
        let row = match kind {
            RowKind::Batch => {
                let base = reader.u64()?;
                let marks = PackedMarks::check(reader.rest());
                let marks =
                    marks.ok_or_else(|| RowError::Damaged(format!("the marks of the batch up to {b} are damaged")))?;
                if base.checked_add(marks.count()) != b.checked_add(1) {
                    return Err(RowError::Damaged(format!("{} marks from {base} to {b}", marks.count())));
                }
                return Ok(Self::Batch { base, marks });
            }
            RowKind::Lane => {
                let base = reader.u64()?;
                let damaged = || RowError::Damaged(format!("the row of lane {a} up to {b} is damaged"));
                let bytes = (b + 1).checked_sub(base).ok_or_else(damaged)?.div_ceil(8);
                let split = reader.rest().split_at_checked(bytes as usize);
                let (bits, mut rest) = split.ok_or_else(damaged)?;
                let offsets = offsets_of(base, b, bits)?;
                let marks = Marks::decode(&mut rest).filter(|_| rest.is_empty());
                let marks = marks
                    .filter(|marks| marks.0.len() == offsets.len())
                    .ok_or_else(damaged)?;
                let messages = offsets.into_iter().zip(marks.0).collect();
                return Ok(Self::Lane { lane: a, messages });
            }
            RowKind::Timer => {
                let lane = reader.u32()?;
                Self::Timer {
                    deliver_at_ms: a,
                    offset: b,
                    lane: u8::try_from(lane).map_err(|_| reader.damaged())?,
                    expires_at_ms: reader.u64()?,
                    message_key: reader.u64()?,
                }
            }
            RowKind::Key => Self::Key {
                key: a,
                origin: b,
                offset: reader.u64()?,
                deliver_at_ms: reader.u64()?,
            },
            RowKind::Origin => Self::Origin {
                old: a,
                new: reader.u64()?,
            },
        };
        reader.finish()?;
        Ok(row)
    }
}

/// The offsets whose bits are set, of a batch from `base` to `last`.
fn offsets_of(base: u64, last: u64, bits: &[u8]) -> Result<Vec<u64>, RowError> {
    let count = (last + 1).checked_sub(base);
    if count.is_none_or(|count| bits.len() as u64 != count.div_ceil(8)) {
        return Err(RowError::Damaged(format!(
            "{} bytes of bits for {base} to {last}",
            bits.len()
        )));
    }
    let is_set = |at: u64| bits[(at / 8) as usize] >> (at % 8) & 1 == 1;
    Ok((0..=last - base).filter(|at| is_set(*at)).map(|at| base + at).collect())
}

/// Writes the rows of a batch whose first record is at `base`. `origin_of` gives the place in the order of a record; none:
/// it is done already, and nobody looks for it.
pub fn put_rows(base: u64, marks: &Marks, origin_of: impl Fn(u64) -> Option<u64>, effects: &mut Effects) {
    let count = marks.0.len();
    let last = base + count as u64 - 1;
    let mut value = Vec::with_capacity(16 + 10 * count);
    value.push(VERSION);
    value.extend_from_slice(&base.to_le_bytes());
    marks.encode(false, &mut value);
    effects.put(&MARKS, &key_of(RowKind::Batch, 0, last), &value);
    // Bits by lane.
    let mut bits: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (at, mark) in marks.0.iter().enumerate() {
        let offset = base + at as u64;
        let Some(origin) = origin_of(at as u64) else {
            continue;
        };
        if mark.deliver_at_ms != 0 {
            let mut row = RowWriter::<21>::new(VERSION);
            row.put(&u32::from(mark.lane).to_le_bytes());
            row.put(&mark.expires_at_ms.to_le_bytes());
            row.put(&mark.key.to_le_bytes());
            let key = key_of(RowKind::Timer, mark.deliver_at_ms, offset);
            effects.put(&MARKS, &key, &row.finish());
        }
        if mark.key != 0 {
            let key = key_of(RowKind::Key, mark.key, origin);
            let mut row = RowWriter::<17>::new(VERSION);
            row.put(&offset.to_le_bytes());
            row.put(&mark.deliver_at_ms.to_le_bytes());
            effects.put(&MARKS, &key, &row.finish());
        }
        if mark.lane > 0 {
            let bits = bits.entry(mark.lane).or_insert_with(|| vec![0; count.div_ceil(8)]);
            bits[at / 8] |= 1 << (at % 8);
        }
    }
    for (lane, bits) in bits {
        value.truncate(1 + 8);
        value.extend_from_slice(&bits);
        let is_there = |at: usize| bits[at / 8] >> (at % 8) & 1 == 1;
        let of_lane = marks.0.iter().enumerate().filter(|(at, _)| is_there(*at));
        let of_lane = of_lane.map(|(_, mark)| mark.clone());
        Marks(of_lane.collect()).encode(false, &mut value);
        effects.put(&MARKS, &key_of(RowKind::Lane, u64::from(lane), last), &value);
    }
}

/// Writes where a message is that was appended again.
pub fn put_origin(old: u64, new: u64, effects: &mut Effects) {
    effects.put(&MARKS, &key_of(RowKind::Origin, old, 0), &value_of(new));
}

fn value_of(offset: u64) -> [u8; 9] {
    let mut value = RowWriter::new(VERSION);
    value.put(&offset.to_le_bytes());
    value.finish()
}

fn position_of(key: &[u8], value: &[u8]) -> Option<u64> {
    match parts_of(key).ok()? {
        (RowKind::Key | RowKind::Origin, _, _) => {
            // What cannot be read is left for whoever reads it.
            let mut reader = RowReader::new("row of marks", VERSION, value).ok()?;
            reader.u64().ok()
        }
        (RowKind::Batch | RowKind::Timer | RowKind::Lane, _, offset) => Some(offset),
    }
}

fn check_row(_before: Option<u64>, key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError> {
    MarkRow::decode(key, value).map(|_| None)
}

#[cfg(test)]
mod tests {
    use jangada_types::RowChange;

    use super::*;
    use crate::command::SlotSet;
    use crate::ids::SlotId;

    fn marks() -> Marks {
        let timed = Mark {
            deliver_at_ms: 300,
            key: 7,
            ..Mark::default()
        };
        let routed = Mark {
            lane: 2,
            id: 9,
            slots: SlotSet::only([SlotId(4)]).expect("there is one"),
            ..Mark::default()
        };
        Marks(vec![Mark::default(), timed, routed])
    }

    fn rows() -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut effects = Effects::default();
        put_rows(10, &marks(), |at| Some(5 + at), &mut effects);
        put_origin(3, 11, &mut effects);
        let rows = effects.take().into_iter().map(|row| match row {
            RowChange::Put { table, key, value } => {
                assert_eq!(*table, MARKS);
                (key.to_vec(), value.to_vec())
            }
            other => panic!("{other:?}"),
        });
        rows.collect()
    }

    #[test]
    fn rows_come_back() {
        let read: Vec<MarkRow> = rows()
            .iter()
            .map(|(key, value)| MarkRow::decode(key, value).expect("a row"))
            .collect();
        let mut without_ids = marks();
        without_ids.0[2].id = 0;
        let in_lane = without_ids.0[2].clone();
        let expected = [
            MarkRow::Batch {
                base: 10,
                marks: PackedMarks::of(&without_ids),
            },
            MarkRow::Timer {
                deliver_at_ms: 300,
                offset: 11,
                lane: 0,
                expires_at_ms: 0,
                message_key: 7,
            },
            MarkRow::Key {
                key: 7,
                origin: 6,
                offset: 11,
                deliver_at_ms: 300,
            },
            MarkRow::Lane {
                lane: 2,
                messages: vec![(12, in_lane)],
            },
            MarkRow::Origin { old: 3, new: 11 },
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn rows_are_cut_off_by_the_message_that_they_are_about() {
        let positions: Vec<Option<u64>> = rows().iter().map(|(key, value)| position_of(key, value)).collect();
        assert_eq!(positions, [Some(12), Some(11), Some(11), Some(12), Some(11)]);
    }

    #[test]
    fn the_format_is_pinned() {
        let rows = rows();
        assert_eq!(
            rows[1],
            (
                b"\x02\0\0\0\0\0\0\x01\x2c\0\0\0\0\0\0\0\x0b".to_vec(),
                b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0".to_vec()
            )
        );
        assert_eq!(
            rows[2],
            (
                b"\x03\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x06".to_vec(),
                b"\x01\x0b\0\0\0\0\0\0\0\x2c\x01\0\0\0\0\0\0".to_vec()
            )
        );
        assert_eq!(
            rows[3],
            (
                b"\x04\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x0c".to_vec(),
                b"\x01\x0a\0\0\0\0\0\0\0\x04\x01\x01\x28\x02\x01\x04".to_vec()
            )
        );
    }

    #[test]
    fn damaged_rows_are_refused() {
        for (key, value) in rows() {
            assert!(MarkRow::decode(&key[..16], &value).is_err());
            assert!(MarkRow::decode(&key, &value[..value.len() - 1]).is_err(), "{key:?}");
            let longer = [&value[..], b"x"].concat();
            assert!(MarkRow::decode(&key, &longer).is_err(), "{key:?}");
            let newer = [&[2], &value[1..]].concat();
            assert!(matches!(MarkRow::decode(&key, &newer), Err(RowError::LaterVersion(_))));
        }
        assert!(MarkRow::decode(&[9; 17], &[1]).is_err());
    }
}
