//! The aborted transactions of a partition: one row for each, which applying its marker adds. Readers leave out what they wrote.
//!
//! ```text
//! key    offset of the marker u64, big-endian
//! value  1 | producer id i64 | first offset i64 | last stable offset behind the marker i64
//! ```
//!
//! A row follows from the log: whoever applies a marker has applied, or got with a checkpoint, where its transaction began.

use bytes::Bytes;
use jangada_machine::Effects;
use jangada_types::table::row::{RowReader, RowWriter};
use jangada_types::table::{CutOff, KeyForm, number_of};
use jangada_types::{Offset, ProducerId, RowChange, RowError, Table, TableId};

use super::offset_index::key_of;
use crate::transactions::AbortedTransaction;

const VERSION: u8 = 1;
const VALUE_BYTES: usize = 1 + 8 + 8 + 8;

/// The aborted transactions of a partition.
pub static ABORTED: Table = Table {
    value_bytes: Some(VALUE_BYTES),
    cut_off: CutOff::ByKey,
    check: check_value,
    ..Table::new(TableId(5), "aborted", KeyForm::Number)
};

impl AbortedTransaction {
    /// The row's key and value.
    pub fn encode(&self) -> ([u8; 8], [u8; VALUE_BYTES]) {
        let mut value = RowWriter::new(VERSION);
        value.put(&self.producer_id.get().to_le_bytes());
        value.put(&self.first.get().to_le_bytes());
        value.put(&self.stable_after.get().to_le_bytes());
        (key_of(self.marker), value.finish())
    }

    /// The change that takes the row out of the table that a marker at this offset has added.
    pub fn deletion(marker: Offset) -> RowChange {
        RowChange::Delete {
            table: &ABORTED,
            key: Bytes::copy_from_slice(&key_of(marker)),
        }
    }

    /// The marker whose row a change takes out of the table; `None`: it is no such change.
    pub fn deleted_by(change: &RowChange) -> Option<Offset> {
        match change {
            RowChange::Delete { table, key } if **table == ABORTED => {
                let marker = number_of(key).ok().and_then(|marker| i64::try_from(marker).ok());
                marker.map(Offset)
            }
            _ => None,
        }
    }

    /// Puts the row into the table.
    pub(crate) fn put_into(&self, effects: &mut Effects) {
        let (key, value) = self.encode();
        effects.put(&ABORTED, &key, &value);
    }

    /// The reverse of [`AbortedTransaction::encode`].
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, RowError> {
        let mut reader = RowReader::new("row of an aborted transaction", VERSION, value)?;
        let marker = i64::try_from(number_of(key)?);
        let aborted = Self {
            marker: Offset(marker.map_err(|_| reader.damaged())?),
            producer_id: ProducerId(reader.i64()?),
            first: Offset(reader.i64()?),
            stable_after: Offset(reader.i64()?),
        };
        if aborted.first >= aborted.marker {
            return Err(reader.damaged());
        }
        reader.finish()?;
        Ok(aborted)
    }
}

fn check_value(_before: Option<u64>, key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError> {
    AbortedTransaction::decode(key, value).map(|_| None)
}

/// Picks the aborted transactions with records in `from..end`, of rows in their order that begin at or below the first marker at or
/// above `from`. `false`: the rows that follow have none any more.
pub fn pick(row: &AbortedTransaction, end: Offset, picked: &mut Vec<AbortedTransaction>) -> bool {
    if row.first < end {
        picked.push(*row);
    }
    row.stable_after < end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(1000),
            first: Offset(2),
            marker: Offset(9),
            stable_after: Offset(5),
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let (key, value) = row().encode();
        let golden: &[u8] = b"\x01\xe8\x03\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0";
        assert_eq!((key, &value[..]), ([0, 0, 0, 0, 0, 0, 0, 9], golden));
        assert_eq!(AbortedTransaction::decode(&key, &value), Ok(row()));
        let deletion = AbortedTransaction::deletion(Offset(9));
        assert_eq!(AbortedTransaction::deleted_by(&deletion), Some(Offset(9)));
    }

    #[test]
    fn damaged_rows_are_refused() {
        let (key, value) = row().encode();
        let decode = |key: &[u8], value: &[u8]| AbortedTransaction::decode(key, value);
        assert!(decode(&key, &value[..24]).is_err());
        assert!(decode(&key, &[&value[..], b"x"].concat()).is_err());
        assert!(
            decode(&key_of(Offset(2)), &value).is_err(),
            "it would begin at its marker"
        );
        assert!(matches!(decode(&key, &[2; 25]), Err(RowError::LaterVersion(_))));
    }
}
