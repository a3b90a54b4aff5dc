//! Tables of rows: what is kept on disk for each group beside its log and its state, found again by key.
//!
//! A table is declared once, as a `static`, by the crate that makes its rows. The store keeps rows of any declared table and
//! knows nothing of what they mean: how keys are ordered, what a row may look like and when it goes is said here.
//!
//! ```text
//!  owner of the rows                     store
//!  static TABLE: Table = ...     --->    a column family of that name, opened with the store
//!  RowChange::Put / Delete / ... --->    in the group's write, visible at once
//!  decode(key, value)            <---    reads by key, scans from a key on
//! ```
//!
//! [`row`] has what rows are encoded and decoded with.

pub mod row;

use std::fmt;

use bytes::Bytes;

use self::row::RowError;

/// Number of a table, for good: it is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u8);

/// How the keys of a table are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// A number of eight bytes, big-endian, so that the order of the bytes is that of the numbers. Not `u64::MAX`.
    Number,
    /// Any bytes, in their own order.
    Bytes,
}

/// The code that makes the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The state machine, when it applies commands.
    Applied,
    /// A task that follows the log, on each replica by itself. Rows that are missing can be made again.
    Derived,
}

/// What becomes of rows when the start of the log moves. A position is what a state machine counts in: offsets of records.
#[derive(Clone, Copy, Debug)]
pub enum CutOff {
    /// They stay until their owner deletes them.
    Never,
    /// The key is the position that the row is about: rows below the log's start go in the write that moves it, and all go when
    /// a snapshot takes the log's place.
    ByKey,
    /// The function reads the position that a row is about. Below the log's start the row has no meaning any more, and is deleted
    /// the next time the store compacts the table. Readers must not rely on its being gone.
    WhenCompacted(fn(key: &[u8], value: &[u8]) -> Option<u64>),
}

/// The log entry that a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryOfRow {
    /// Its Raft index.
    pub index: u64,
    /// Its Raft term.
    pub term: u64,
}

/// Judges a row that is read to find damage. It gets what it gave for the row before, if that is known, and gives what the next
/// row is judged by.
pub type RowCheck = fn(before: Option<u64>, key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError>;

/// Reads which log entry a row is about.
pub type ReadEntry = fn(key: &[u8], value: &[u8]) -> Result<EntryOfRow, RowError>;

/// The declaration of a table, with which the store keeps its rows.
pub struct Table {
    /// Tells it from others, where its name would be too long.
    pub id: TableId,
    /// Name of its column family.
    pub name: &'static str,
    /// How keys are made.
    pub keys: KeyForm,
    /// Size of each value, if all have the same, or the size that most have. What the store itself keeps in the table then has it, too.
    pub value_bytes: Option<usize>,
    /// So many rows with the highest keys stay in memory after they are written: reading at the end needs no disk. Only with
    /// [`KeyForm::Number`].
    pub recent_rows: usize,
    /// Rows are looked up one by one, and often in vain.
    pub bloom_filter: bool,
    /// The code that makes the rows.
    pub origin: Origin,
    /// What becomes of rows when the log's start moves.
    pub cut_off: CutOff,
    /// A new replica gets the rows with the snapshot: the log entries that it gets do not make them. They are of the moment when they
    /// are sent, which is later than the snapshot's state, so what applying a command does to them must not depend on what they are.
    /// Rows of other tables come from applying the log, or are derived from it. Only of tables with [`Origin::Applied`].
    pub in_snapshot: bool,
    /// Judges a row.
    pub check: RowCheck,
    /// The log entry that a row is about, if it is about one: a log and a table that do not fit each other are damaged.
    pub entry: Option<ReadEntry>,
}

impl Table {
    /// A table of any rows with keys of this form. What is special about it is said by the declaration.
    pub const fn new(id: TableId, name: &'static str, keys: KeyForm) -> Self {
        Self {
            id,
            name,
            keys,
            value_bytes: None,
            recent_rows: 0,
            bloom_filter: false,
            origin: Origin::Applied,
            cut_off: CutOff::Never,
            in_snapshot: false,
            check: |_, _, _| Ok(None),
            entry: None,
        }
    }

    /// What is to be deleted when the log begins at this position from now on; `None` says that a snapshot takes its place.
    pub fn cut_off_at(&'static self, start: Option<u64>) -> Option<RowChange> {
        match self.cut_off {
            CutOff::ByKey => Some(RowChange::DeleteRange {
                table: self,
                from: Bytes::from_static(&NUMBER_MIN),
                to: Some(start.map_or(Bytes::from_static(&NUMBER_END), number_key)),
            }),
            CutOff::Never | CutOff::WhenCompacted(_) => None,
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Table {}

/// The lowest key of [`KeyForm::Number`].
const NUMBER_MIN: [u8; 8] = [0; 8];
/// Behind the keys of all positions, which are offsets.
const NUMBER_END: [u8; 8] = i64::MAX.to_be_bytes();

/// A key of [`KeyForm::Number`].
pub fn number_key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// The number of such a key.
pub fn number_of(key: &[u8]) -> Result<u64, RowError> {
    let bytes = key.try_into();
    let bytes = bytes.map_err(|_| RowError::Damaged(format!("a key has {} bytes, not 8", key.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

/// A change of the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// Adds a row, or takes the place of the one with the same key.
    Put {
        /// The table of the row.
        table: &'static Table,
        /// The row's key.
        key: Bytes,
        /// The row's value.
        value: Bytes,
    },
    /// Removes a row, if it is there.
    Delete {
        /// The table of the row.
        table: &'static Table,
        /// The row's key.
        key: Bytes,
    },
    /// Removes the rows of a range of keys.
    DeleteRange {
        /// The table of the rows.
        table: &'static Table,
        /// First key of the range.
        from: Bytes,
        /// First key behind it; none: it has no end.
        to: Option<Bytes>,
    },
}

impl RowChange {
    /// The table that it is about.
    pub fn table(&self) -> &'static Table {
        match self {
            Self::Put { table, .. } | Self::Delete { table, .. } | Self::DeleteRange { table, .. } => table,
        }
    }

    /// Bytes of keys and value.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key, .. } => key.len(),
            Self::DeleteRange { from, to, .. } => from.len() + to.as_ref().map_or(0, Bytes::len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BY_KEY: Table = Table {
        cut_off: CutOff::ByKey,
        ..Table::new(TableId(1), "by key", KeyForm::Number)
    };
    static KEPT: Table = Table::new(TableId(2), "kept", KeyForm::Number);

    #[test]
    fn numbers_come_back_and_other_keys_are_refused() {
        for number in [0, 1, 255, 256, i64::MAX as u64] {
            assert_eq!(number_of(&number_key(number)), Ok(number));
        }
        assert!(number_key(255) < number_key(256));
        assert!(number_of(b"short").is_err() && number_of(b"much too long").is_err());
    }

    #[test]
    fn rows_below_the_start_are_cut_off_where_the_key_is_the_position() {
        let cut = |start| match BY_KEY.cut_off_at(start) {
            Some(RowChange::DeleteRange { from, to: Some(to), .. }) => (number_of(&from), number_of(&to)),
            other => panic!("{other:?}"),
        };
        assert_eq!(cut(Some(7)), (Ok(0), Ok(7)));
        assert_eq!(cut(None), (Ok(0), Ok(i64::MAX as u64)));
        assert_eq!(KEPT.cut_off_at(Some(7)), None);
    }
}
