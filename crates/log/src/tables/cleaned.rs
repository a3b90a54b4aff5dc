//! Where passes of compaction have ended, on each replica by itself: one row for each, until there are too many.
//!
//! ```text
//! key    the offset below which the log is clean u64, big-endian
//! value  1 | when, by the wall clock of the broker, i64 ms | bytes of the batches below it u64
//!        | first offset of what waits for the horizon i64 | bytes that are gone u64 | offset below which no batch had to stay as it is i64
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_types::table::row::{RowReader, RowWriter};
use jangada_types::table::{CutOff, KeyForm, Origin, number_of};
use jangada_types::{Offset, RowChange, RowError, Table, TableId};

use super::offset_index::key_of;

const VERSION: u8 = 1;
const VALUE_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 8;
/// Rows of a partition: beyond that every second one of the older half goes.
const ROWS_MAX: usize = 64;

/// Where passes of compaction have ended.
pub static CLEANED: Table = Table {
    value_bytes: Some(VALUE_BYTES),
    origin: Origin::Derived,
    cut_off: CutOff::ByKey,
    check: |_, key, value| Stamp::decode(key, value).map(|_| None),
    ..Table::new(TableId(6), "cleaned", KeyForm::Number)
};

/// What is known of the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When it ended, by the wall clock of the broker, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Bytes of the batches that it has left.
    pub stored_bytes: u64,
    /// The first tombstone or marker that it has left for the sake of the horizon alone, or else the end of all offsets: nothing more
    /// goes before the horizon is behind that. Builds before wrote the horizon of the pass, below which nothing waits either.
    pub waits_from: Offset,
    /// Bytes that the batches below its end had more when they were appended.
    pub gone_bytes: u64,
    /// The first batch below its end that could not be rewritten, or its end. Such a batch may have a value that is superseded, so
    /// no tombstone behind it counts as clean.
    pub whole_below: Offset,
}

impl Stamp {
    fn encode(&self) -> [u8; VALUE_BYTES] {
        let mut value = RowWriter::new(VERSION);
        value.put(&self.at_ms.to_le_bytes());
        value.put(&self.stored_bytes.to_le_bytes());
        value.put(&self.waits_from.get().to_le_bytes());
        value.put(&self.gone_bytes.to_le_bytes());
        value.put(&self.whole_below.get().to_le_bytes());
        value.finish()
    }

    /// The offset and the stamp of a row.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<(Offset, Self), RowError> {
        let mut reader = RowReader::new("row of the end of a compaction", VERSION, value)?;
        let offset = i64::try_from(number_of(key)?).map_err(|_| reader.damaged())?;
        let stamp = Self {
            at_ms: reader.i64()?,
            stored_bytes: reader.u64()?,
            waits_from: Offset(reader.i64()?),
            gone_bytes: reader.u64()?,
            whole_below: Offset(reader.i64()?),
        };
        reader.finish()?;
        Ok((Offset(offset), stamp))
    }
}

/// The rows of one replica, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned(BTreeMap<Offset, Stamp>);

impl Cleaned {
    /// Of rows that were read.
    pub fn new(rows: impl IntoIterator<Item = (Offset, Stamp)>) -> Self {
        Self(rows.into_iter().collect())
    }

    /// Up to where the log is clean, and what the pass has left; `None`: there was no pass.
    pub fn last(&self) -> Option<(Offset, Stamp)> {
        self.0.last_key_value().map(|(offset, stamp)| (*offset, *stamp))
    }

    /// Up to where the log has been clean since before a time; 0: nowhere.
    pub fn since_before(&self, old_before_ms: i64) -> Offset {
        let mut whole_below = Offset(i64::MAX);
        for (offset, stamp) in self.0.iter().rev() {
            whole_below = whole_below.min(stamp.whole_below);
            if stamp.at_ms < old_before_ms {
                return whole_below.min(*offset);
            }
        }
        Offset(0)
    }

    /// A pass has ended. The changes of rows that say so.
    pub fn ended(&mut self, upto: Offset, stamp: Stamp) -> Vec<RowChange> {
        let mut changes = Vec::new();
        // Of an end that was there before the time stays: that is when the log was clean first.
        let before = self
            .0
            .get(&upto)
            .filter(|before| before.whole_below >= stamp.whole_below);
        let at_ms = before.map_or(stamp.at_ms, |before| before.at_ms);
        let stamp = Stamp { at_ms, ..stamp };
        self.0.insert(upto, stamp);
        changes.push(RowChange::Put {
            table: &CLEANED,
            key: Bytes::copy_from_slice(&key_of(upto)),
            value: Bytes::copy_from_slice(&stamp.encode()),
        });
        if self.0.len() > ROWS_MAX {
            let older: Vec<Offset> = self.0.keys().take(ROWS_MAX / 2).copied().collect();
            for offset in older.into_iter().step_by(2) {
                self.0.remove(&offset);
                changes.push(RowChange::Delete {
                    table: &CLEANED,
                    key: Bytes::copy_from_slice(&key_of(offset)),
                });
            }
        }
        changes
    }

    /// The log starts further on.
    pub fn cut_off(&mut self, log_start: Offset) {
        self.0 = self.0.split_off(&log_start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(at_ms: i64) -> Stamp {
        Stamp {
            at_ms,
            stored_bytes: 7,
            waits_from: Offset(3),
            gone_bytes: 5,
            whole_below: Offset(1 << 32),
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let value = stamp(258).encode();
        let numbers = b"\x02\x01\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0";
        assert_eq!(value[..], [&[1][..], numbers, b"\0\0\0\0\x01\0\0\0"].concat());
        assert_eq!(Stamp::decode(&key_of(Offset(9)), &value), Ok((Offset(9), stamp(258))));
        assert!(Stamp::decode(&key_of(Offset(9)), &value[1..]).is_err());
        assert!(matches!(
            Stamp::decode(&key_of(Offset(9)), &[2; VALUE_BYTES]),
            Err(RowError::LaterVersion(_))
        ));
    }

    #[test]
    fn what_was_clean_first_is_known_however_many_passes_there_are() {
        let mut cleaned = Cleaned::default();
        assert_eq!((cleaned.last(), cleaned.since_before(i64::MAX)), (None, Offset(0)));
        let mut rows = BTreeMap::new();
        for nth in 1..=1_000_i64 {
            for change in cleaned.ended(Offset(nth * 10), stamp(nth)) {
                match change {
                    RowChange::Put { key, value, .. } => drop(rows.insert(key, value)),
                    RowChange::Delete { key, .. } => drop(rows.remove(&key).expect("it was there")),
                    other => panic!("{other:?}"),
                }
            }
            assert!(rows.len() <= ROWS_MAX);
            assert_eq!(cleaned.last(), Some((Offset(nth * 10), stamp(nth))));
            let before = (nth - 2).max(1);
            assert!(cleaned.since_before(before) < Offset(before * 10), "never too early");
        }
        assert!(cleaned.since_before(900) >= Offset(8_000), "and not much too late");
        let read = rows
            .iter()
            .map(|(key, value)| Stamp::decode(key, value).expect("it was encoded"));
        assert_eq!(Cleaned::new(read), cleaned);
        cleaned.ended(Offset(10_000), stamp(5_000));
        assert_eq!(
            cleaned.last(),
            Some((Offset(10_000), stamp(1_000))),
            "it was clean before"
        );
        cleaned.cut_off(Offset(20_000));
        assert_eq!(cleaned, Cleaned::default());
    }

    #[test]
    fn behind_a_batch_that_stays_as_it_is_nothing_is_clean() {
        let mut cleaned = Cleaned::default();
        let whole_below = |at_ms, whole_below| Stamp {
            whole_below: Offset(whole_below),
            ..stamp(at_ms)
        };
        cleaned.ended(Offset(10), whole_below(1, 10));
        cleaned.ended(Offset(20), whole_below(2, 15));
        assert_eq!(cleaned.since_before(2), Offset(10));
        assert_eq!(cleaned.since_before(3), Offset(15));
        // It could be rewritten after all.
        cleaned.ended(Offset(30), whole_below(3, 30));
        assert_eq!(
            cleaned.since_before(3),
            Offset(15),
            "what it stood before was not clean then"
        );
        assert_eq!(cleaned.since_before(4), Offset(30));
        // One that was whole is not any more, as the file with it is damaged.
        cleaned.ended(Offset(40), whole_below(4, 5));
        assert_eq!(cleaned.since_before(2), Offset(5));
        cleaned.ended(Offset(40), whole_below(9, 40));
        assert_eq!(
            (cleaned.since_before(9), cleaned.since_before(10)),
            (Offset(30), Offset(40))
        );
    }
}
