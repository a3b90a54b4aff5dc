//! Rows of the index of keys: the last offset of each key. A task makes them from the log, on each replica by itself.
//!
//! ```text
//! key    a record's key
//! value  1 | last offset i64
//! ```

use jangada_types::table::row::{RowReader, RowWriter};
use jangada_types::table::{CutOff, KeyForm, Origin};
use jangada_types::{Offset, RowError, Table, TableId};

const VERSION: u8 = 1;
const VALUE_BYTES: usize = 1 + 8;

/// The index of keys. A row below the log start means nothing, and is deleted some time later.
pub static KEY_INDEX: Table = Table {
    value_bytes: Some(VALUE_BYTES),
    bloom_filter: true,
    origin: Origin::Derived,
    cut_off: CutOff::WhenCompacted(position_of),
    check: check_value,
    ..Table::new(TableId(2), "keys", KeyForm::Bytes)
};

/// The value that says where a key occurs last.
pub fn encode_offset(offset: Offset) -> [u8; VALUE_BYTES] {
    let mut value = RowWriter::new(VERSION);
    value.put(&offset.get().to_le_bytes());
    value.finish()
}

/// The reverse of [`encode_offset`].
pub fn decode_offset(value: &[u8]) -> Result<Offset, RowError> {
    let mut reader = RowReader::new("last offset of a key", VERSION, value)?;
    let offset = reader.i64()?;
    reader.finish()?;
    Ok(Offset(offset))
}

fn position_of(_key: &[u8], value: &[u8]) -> Option<u64> {
    // One that cannot be is left for whoever reads it.
    u64::try_from(decode_offset(value).ok()?.get()).ok()
}

fn check_value(_before: Option<u64>, _key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError> {
    decode_offset(value).map(|_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_pinned() {
        let value = encode_offset(Offset(258));
        assert_eq!(value, *b"\x01\x02\x01\0\0\0\0\0\0");
        assert_eq!(decode_offset(&value), Ok(Offset(258)));
        assert_eq!(position_of(b"key", &value), Some(258));
        for bad in [&value[..8], &[&value[..], b"x"].concat(), b""] {
            assert!(matches!(decode_offset(bad), Err(RowError::Damaged(_))));
            assert_eq!(position_of(b"key", bad), None);
        }
    }
}
