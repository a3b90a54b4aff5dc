//! Rows of message ids: which were sent within the window, and where they are. A table of their own, for they stay longer than the
//! records: an owned queue's log is cut as soon as its messages are done, and a repetition must still be known.
//!
//! ```text
//! key    begin of the bucket of time u64, big-endian, ms | hash of the id u128, big-endian
//! value  1 | offset u64 | time u64, ms
//! ```
//!
//! Half a window is a bucket. So a look-up asks three rows, and what is older goes with one deletion of a range, which the leader asks for
//! with the first batch of a bucket. Time is that of the leaders that append, as the entries have it.

use bytes::Bytes;
use jangada_machine::Effects;
use jangada_types::table::KeyForm;
use jangada_types::table::row::{RowReader, RowWriter};
use jangada_types::{RowChange, RowError, Table, TableId};

use crate::command::{IdWindow, Marks};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 8 + 16;
const VALUE_BYTES: usize = 1 + 8 + 8;
/// So many windows back, rows are deleted: by then no look-up asks for them, even if the window was longer a moment ago.
const WINDOWS_KEPT: u64 = 2;

/// The table of message ids, by slot and hash of the id.
pub static IDS: Table = Table {
    value_bytes: Some(VALUE_BYTES),
    bloom_filter: true,
    check: check_row,
    ..Table::new(TableId(4), "ids", KeyForm::Bytes)
};

/// Where and when a message with an id was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRow {
    /// The offset of the message.
    pub offset: u64,
    /// When it was appended, milliseconds since the Unix epoch by the clock of the leader that proposed it.
    pub time_ms: u64,
}

/// The begin of the bucket that a time is in.
pub fn bucket_of(time_ms: u64, window_ms: u64) -> u64 {
    let length = (window_ms / 2).max(1);
    time_ms - time_ms % length
}

/// The key of an id in a bucket.
pub fn id_key(bucket_ms: u64, id: u128) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&bucket_ms.to_be_bytes());
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

impl IdRow {
    /// The row's value.
    pub fn encode(&self) -> [u8; VALUE_BYTES] {
        let mut value = RowWriter::new(VERSION);
        value.put(&self.offset.to_le_bytes());
        value.put(&self.time_ms.to_le_bytes());
        value.finish()
    }

    /// The reverse of [`IdRow::encode`].
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = RowReader::new("row of a message id", VERSION, value)?;
        let row = Self {
            offset: reader.u64()?,
            time_ms: reader.u64()?,
        };
        reader.finish()?;
        Ok(row)
    }
}

/// Writes the rows of the ids of a batch, and deletes those that are too old, if the leader says so.
pub fn put_ids(base: u64, marks: &Marks, window: IdWindow, now_ms: u64, effects: &mut Effects) {
    let IdWindow { window_ms, forgets } = window;
    let bucket = bucket_of(now_ms, window_ms);
    if forgets {
        let old = bucket.saturating_sub(WINDOWS_KEPT * window_ms);
        effects.change(RowChange::DeleteRange {
            table: &IDS,
            from: Bytes::from_static(&[0; KEY_BYTES]),
            to: Some(Bytes::copy_from_slice(&id_key(old, 0))),
        });
    }
    for (at, mark) in marks.0.iter().enumerate().filter(|(_, mark)| mark.id != 0) {
        let row = IdRow {
            offset: base + at as u64,
            time_ms: now_ms,
        };
        effects.put(&IDS, &id_key(bucket, mark.id), &row.encode());
    }
}

fn check_row(_before: Option<u64>, key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError> {
    if key.len() != KEY_BYTES {
        return Err(RowError::Damaged(format!(
            "a key of a message id has {} bytes",
            key.len()
        )));
    }
    IdRow::decode(value).map(|_| None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Mark;

    #[test]
    fn the_format_is_pinned() {
        let row = IdRow {
            offset: 258,
            time_ms: 3,
        };
        assert_eq!(row.encode(), *b"\x01\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        assert_eq!(IdRow::decode(&row.encode()), Ok(row));
        assert!(IdRow::decode(&row.encode()[..16]).is_err());
        assert_eq!(id_key(1, 2)[7..], *b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02");
        assert!(check_row(None, &[0; 23], &row.encode()).is_err());
    }

    #[test]
    fn ids_of_two_windows_stay() {
        let mark = |id| Mark { id, ..Mark::default() };
        let mut effects = Effects::default();
        let window = |forgets| IdWindow {
            window_ms: 1_000,
            forgets,
        };
        put_ids(7, &Marks(vec![mark(0), mark(5)]), window(true), 9_750, &mut effects);
        let [
            RowChange::DeleteRange { to: Some(to), .. },
            RowChange::Put { key, value, .. },
        ] = effects.rows()
        else {
            panic!("{:?}", effects.rows());
        };
        assert_eq!((&to[..], &key[..]), (&id_key(7_500, 0)[..], &id_key(9_500, 5)[..]));
        assert_eq!(
            IdRow::decode(value),
            Ok(IdRow {
                offset: 8,
                time_ms: 9_750
            })
        );
        put_ids(9, &Marks(vec![mark(0)]), window(false), 9_750, &mut effects);
        assert_eq!(effects.rows().len(), 2, "a batch without ids changes nothing");
    }
}
