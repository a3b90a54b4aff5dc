//! The offset index: where the batch of an offset lies in the Raft log. One row for each batch, which applying it adds.
//!
//! ```text
//! key    last offset u64, big-endian
//! value  1 | base offset u64 | raft index u64 | epoch u32 | max timestamp i64 | running max i64 | size u32
//! value  2 | as of version 1 | original size u32 | offsets before it u32
//! ```
//!
//! The second form is that of a batch that was compacted. A batch of which nothing is left has a row of size 0, until compaction merges
//! it into the row behind it: that one then stands for the offsets and the original bytes of both. So rows follow each other without a
//! gap whatever was compacted, and a row that is missing is damage as ever.

use bytes::Bytes;
use jangada_machine::Effects;
use jangada_types::table::row::{RowReader, RowWriter};
use jangada_types::table::{CutOff, EntryOfRow, KeyForm, number_of};
use jangada_types::{LeaderEpoch, Offset, RowChange, RowError, Table, TableId};

const VERSION: u8 = 1;
const VERSION_COMPACTED: u8 = 2;
const VALUE_BYTES: usize = 1 + 8 + 8 + 4 + 8 + 8 + 4;
const VALUE_BYTES_COMPACTED: usize = VALUE_BYTES + 4 + 4;

const _: () = assert!(VALUE_BYTES == 41 && VALUE_BYTES_COMPACTED == 49, "the format on disk");

/// The offset index of a partition.
pub static OFFSET_INDEX: Table = Table {
    value_bytes: Some(VALUE_BYTES),
    recent_rows: 64,
    cut_off: CutOff::ByKey,
    check: check_follows,
    entry: Some(entry_of),
    ..Table::new(TableId(1), "index", KeyForm::Number)
};

/// One row: where the batch that ends at `last_offset` lies in the Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the batch's last record, the key of the row.
    pub last_offset: Offset,
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Raft index of the entry that holds the batch.
    pub raft_index: u64,
    /// Leader epoch (the Raft term) in which it was proposed.
    pub epoch: LeaderEpoch,
    /// Largest timestamp in the batch, in milliseconds since 1970.
    pub max_timestamp_ms: i64,
    /// Largest timestamp in this and all earlier batches: it never falls, so it can be searched by halving.
    pub running_max_timestamp_ms: i64,
    /// Size of the batch in bytes, as it is stored; 0: compaction has left nothing of it.
    pub size_bytes: u32,
    /// Bytes of the batches that the row stands for, when they were appended.
    pub original_bytes: u32,
    /// Offsets right before the batch that the row stands for, too: of batches of which nothing is left.
    pub offsets_before: u32,
}

/// The key of the row that ends at an offset. Negative offsets, which only searches have, come before all rows.
pub fn key_of(last_offset: Offset) -> [u8; 8] {
    u64::try_from(last_offset.get()).unwrap_or(0).to_be_bytes()
}

/// The value of a row, in either form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexValue {
    /// That of a batch that is as it was appended.
    Whole([u8; VALUE_BYTES]),
    /// That of a batch that was compacted.
    Compacted([u8; VALUE_BYTES_COMPACTED]),
}

impl AsRef<[u8]> for IndexValue {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Whole(value) => value,
            Self::Compacted(value) => value,
        }
    }
}

impl IndexEntry {
    /// The first offset that the row stands for.
    pub fn first_offset(&self) -> Offset {
        Offset(self.base_offset.get() - i64::from(self.offsets_before))
    }

    /// Whether the row says no more than one of a batch that was never compacted.
    fn is_whole(&self) -> bool {
        self.original_bytes == self.size_bytes && self.offsets_before == 0
    }

    fn put_fields<const N: usize>(&self, value: &mut RowWriter<N>) {
        value.put(&self.base_offset.get().to_le_bytes());
        value.put(&self.raft_index.to_le_bytes());
        value.put(&self.epoch.get().to_le_bytes());
        value.put(&self.max_timestamp_ms.to_le_bytes());
        value.put(&self.running_max_timestamp_ms.to_le_bytes());
        value.put(&self.size_bytes.to_le_bytes());
    }

    /// The row's key and value.
    pub fn encode(&self) -> ([u8; 8], IndexValue) {
        assert!(self.last_offset >= Offset(0), "a row ends at a real offset");
        let value = if self.is_whole() {
            let mut value = RowWriter::new(VERSION);
            self.put_fields(&mut value);
            IndexValue::Whole(value.finish())
        } else {
            let mut value = RowWriter::new(VERSION_COMPACTED);
            self.put_fields(&mut value);
            value.put(&self.original_bytes.to_le_bytes());
            value.put(&self.offsets_before.to_le_bytes());
            IndexValue::Compacted(value.finish())
        };
        (key_of(self.last_offset), value)
    }

    /// Puts the row into the table.
    pub fn put_into(&self, effects: &mut Effects) {
        let (key, value) = self.encode();
        effects.put(&OFFSET_INDEX, &key, value.as_ref());
    }

    /// The change that puts the row into the table.
    pub fn put(&self) -> RowChange {
        let (key, value) = self.encode();
        RowChange::Put {
            table: &OFFSET_INDEX,
            key: Bytes::copy_from_slice(&key),
            value: Bytes::copy_from_slice(value.as_ref()),
        }
    }

    /// The change that takes the row out of the table.
    pub fn deletion(&self) -> RowChange {
        RowChange::Delete {
            table: &OFFSET_INDEX,
            key: Bytes::copy_from_slice(&key_of(self.last_offset)),
        }
    }

    /// The row that a change puts into the table; none: it is no such change.
    pub fn of_change(change: &RowChange) -> Option<Result<Self, RowError>> {
        match change {
            RowChange::Put { table, key, value } if **table == OFFSET_INDEX => Some(Self::decode(key, value)),
            _ => None,
        }
    }

    /// The reverse of [`IndexEntry::encode`].
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, RowError> {
        let is_compacted = value.first() == Some(&VERSION_COMPACTED);
        let version = if is_compacted { VERSION_COMPACTED } else { VERSION };
        let mut reader = RowReader::new("index row", version, value)?;
        let last_offset = i64::try_from(number_of(key)?);
        let mut entry = Self {
            last_offset: Offset(last_offset.map_err(|_| reader.damaged())?),
            base_offset: Offset(reader.i64()?),
            raft_index: reader.u64()?,
            epoch: LeaderEpoch(reader.u32()?),
            max_timestamp_ms: reader.i64()?,
            running_max_timestamp_ms: reader.i64()?,
            size_bytes: reader.u32()?,
            original_bytes: 0,
            offsets_before: 0,
        };
        entry.original_bytes = entry.size_bytes;
        if is_compacted {
            entry.original_bytes = reader.u32()?;
            entry.offsets_before = reader.u32()?;
        }
        reader.finish()?;
        Ok(entry)
    }
}

/// Offsets that should be there and are not: which were expected, and which were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap(pub String);

/// Checks that the first row stands for the offset.
///
/// # Errors
/// It has not, or there is no row.
pub fn begins_at(rows: &[IndexEntry], offset: Offset) -> Result<(), Gap> {
    match rows.first() {
        Some(first) if first.first_offset() <= offset => Ok(()),
        Some(first) => Err(Gap(format!(
            "offset {offset} is missing, the next one in the index is {}",
            first.first_offset()
        ))),
        None => Err(Gap(format!("offset {offset} is missing, the index ends before it"))),
    }
}

/// Checks that each row begins where the one before ends.
///
/// # Errors
/// One does not.
pub fn follow(rows: &[IndexEntry]) -> Result<(), Gap> {
    for pair in rows.windows(2) {
        let [before, row] = [pair[0], pair[1]];
        let expected = before.last_offset.get() + 1;
        if row.first_offset().get() != expected || row.raft_index <= before.raft_index {
            return Err(Gap(format!(
                "after offset {} (entry {}) the index goes on with {} (entry {})",
                before.last_offset,
                before.raft_index,
                row.first_offset(),
                row.raft_index
            )));
        }
    }
    Ok(())
}

/// Each row begins where the one before ends.
fn check_follows(before: Option<u64>, key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError> {
    let row = IndexEntry::decode(key, value)?;
    let first = u64::try_from(row.first_offset().get()).unwrap_or(u64::MAX);
    match before {
        Some(expected) if expected != first => Err(RowError::Damaged(format!(
            "the index has a row from offset {first} on where offset {expected} belongs"
        ))),
        _ => Ok(Some(row.last_offset.get().unsigned_abs() + 1)),
    }
}

fn entry_of(key: &[u8], value: &[u8]) -> Result<EntryOfRow, RowError> {
    let row = IndexEntry::decode(key, value)?;
    Ok(EntryOfRow {
        index: row.raft_index,
        term: u64::from(row.epoch.get()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> IndexEntry {
        IndexEntry {
            last_offset: Offset(9),
            base_offset: Offset(2),
            raft_index: 3,
            epoch: LeaderEpoch(4),
            max_timestamp_ms: 5,
            running_max_timestamp_ms: -1,
            size_bytes: 7,
            original_bytes: 7,
            offsets_before: 0,
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let (key, value) = row().encode();
        let golden: &[u8] = b"\x01\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\x05\0\0\0\0\0\0\0\
            \xff\xff\xff\xff\xff\xff\xff\xff\x07\0\0\0";
        assert_eq!((key, value.as_ref()), ([0, 0, 0, 0, 0, 0, 0, 9], golden));
        assert_eq!(IndexEntry::decode(&key, value.as_ref()), Ok(row()));
        assert_eq!(key_of(Offset(-5)), key_of(Offset(0)));
        let compacted = IndexEntry {
            size_bytes: 0,
            original_bytes: 258,
            offsets_before: 2,
            ..row()
        };
        let (key, value) = compacted.encode();
        let fields = &golden[1..VALUE_BYTES - 4];
        let expected = [b"\x02", fields, b"\0\0\0\0\x02\x01\0\0\x02\0\0\0"].concat();
        assert_eq!(value.as_ref(), expected);
        assert_eq!(IndexEntry::decode(&key, value.as_ref()), Ok(compacted));
        assert_eq!(compacted.first_offset(), Offset(0));
    }

    #[test]
    fn damaged_rows_are_refused() {
        let (key, value) = row().encode();
        let value = value.as_ref();
        assert!(IndexEntry::decode(&key, &value[..40]).is_err());
        assert!(IndexEntry::decode(&key, &[value, b"x"].concat()).is_err());
        assert!(IndexEntry::decode(&[0xff; 8], value).is_err());
        assert!(IndexEntry::decode(&key[1..], value).is_err());
        assert!(IndexEntry::decode(&key, &[2; 41]).is_err(), "the second form is longer");
        assert!(IndexEntry::decode(&key, &[2; 49]).is_ok());
        assert!(matches!(
            IndexEntry::decode(&key, &[3; 49]),
            Err(RowError::LaterVersion(_))
        ));
    }

    #[test]
    fn a_row_that_does_not_begin_where_the_one_before_ends_is_damage() {
        let (key, value) = row().encode();
        let value = value.as_ref();
        assert_eq!(check_follows(None, &key, value), Ok(Some(10)));
        assert_eq!(check_follows(Some(2), &key, value), Ok(Some(10)));
        assert!(matches!(check_follows(Some(3), &key, value), Err(RowError::Damaged(_))));
        let merged = IndexEntry {
            offsets_before: 2,
            ..row()
        };
        let (key, value) = merged.encode();
        assert_eq!(check_follows(Some(0), &key, value.as_ref()), Ok(Some(10)));
        assert!(check_follows(Some(2), &key, value.as_ref()).is_err());
    }
}
