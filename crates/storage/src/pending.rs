//! The pending writes of one table of one group: what was queued but is not in RocksDB yet. Reads look here first, so that they
//! see every write that has returned.
//!
//! Of a table with recent rows the newest ones stay after they are written, so that reading at its end needs no disk:
//!
//! ```text
//!  on disk only          complete from here on: all in memory
//!    |------------------|-------------------------------------|
//!                        written, recent      not written yet
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use jangada_types::RowChange;

/// A row that was put, or deleted.
struct Pending {
    /// The row's value; `None` when the row was deleted.
    value: Option<Bytes>,
    /// Position in the commit queue; the row is in RocksDB once the writer has passed it.
    position: u64,
}

/// A range of keys that was deleted, though RocksDB has rows of it until the position is written.
#[derive(Clone)]
struct Deleted {
    from: Bytes,
    /// None: to the end.
    to: Option<Bytes>,
    position: u64,
}

impl Deleted {
    fn has(&self, key: &[u8]) -> bool {
        key >= &self.from[..] && self.to.as_ref().is_none_or(|to| key < &to[..])
    }
}

/// Rows that stay in memory after they were written.
struct Recent {
    rows_max: usize,
    /// All rows from here on are in memory.
    complete_from: Bound<Bytes>,
}

impl Recent {
    /// This row is on disk only.
    fn left(&mut self, key: Bytes) {
        let is_behind = match &self.complete_from {
            Bound::Unbounded => true,
            Bound::Included(known) | Bound::Excluded(known) => key >= *known,
        };
        if is_behind {
            self.complete_from = Bound::Excluded(key);
        }
    }
}

/// The rows of one table of one group that reads find in memory.
pub(crate) struct PendingRows {
    rows: BTreeMap<Bytes, Pending>,
    /// Keys whose rows leave memory when they are written, in the order of the writes.
    leaving: VecDeque<(u64, Bytes)>,
    /// Those that are not written. They are few: each takes what is below the log's start, or everything.
    deleted: Vec<Deleted>,
    recent: Option<Recent>,
}

/// How to answer a scan.
pub(crate) struct View {
    /// Rows in memory, which take precedence; deleted ones have no value.
    pub(crate) memory: Vec<(Bytes, Option<Bytes>)>,
    /// The key from which on RocksDB must be asked; none: memory has all.
    pub(crate) disk_from: Option<Bytes>,
    hidden: Vec<Deleted>,
}

impl View {
    /// Whether a row of RocksDB was deleted.
    pub(crate) fn is_hidden(&self, key: &[u8]) -> bool {
        self.hidden.iter().any(|deleted| deleted.has(key))
    }
}

impl PendingRows {
    /// For a table that keeps so many recent rows, and whose last row on disk is this.
    pub(crate) fn new(recent_rows: usize, last: Option<(Bytes, Bytes)>) -> Self {
        let complete_from = match &last {
            Some((key, _)) => Bound::Included(key.clone()),
            None => Bound::Unbounded,
        };
        let rows = last.map(|(key, value)| {
            let value = Some(value);
            (key, Pending { value, position: 0 })
        });
        Self {
            rows: rows.into_iter().collect(),
            leaving: VecDeque::new(),
            deleted: Vec::new(),
            recent: (recent_rows > 0).then_some(Recent {
                rows_max: recent_rows,
                complete_from,
            }),
        }
    }

    pub(crate) fn apply(&mut self, change: &RowChange, position: u64) {
        match change {
            RowChange::Put { key, value, .. } => self.set(key, Some(value.clone()), position),
            RowChange::Delete { key, .. } => self.set(key, None, position),
            RowChange::DeleteRange { from, to, .. } => self.delete_range(from, to.as_ref(), position),
        }
    }

    fn set(&mut self, key: &Bytes, value: Option<Bytes>, position: u64) {
        if self.recent.is_none() || value.is_none() {
            self.leaving.push_back((position, key.clone()));
        }
        self.rows.insert(key.clone(), Pending { value, position });
    }

    fn delete_range(&mut self, from: &Bytes, to: Option<&Bytes>, position: u64) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let mut within = self.rows.split_off(from);
        if let Some(to) = to {
            let mut behind = within.split_off(to);
            self.rows.append(&mut behind);
        }
        self.deleted.push(Deleted {
            from: from.clone(),
            to: to.cloned(),
            position,
        });
    }

    /// The group is deleted.
    pub(crate) fn delete_all(&mut self, position: u64) {
        self.rows.clear();
        self.leaving.clear();
        self.deleted = vec![Deleted {
            from: Bytes::new(),
            to: None,
            position,
        }];
        if let Some(recent) = &mut self.recent {
            recent.complete_from = Bound::Unbounded;
        }
    }

    /// Whether no row from this key on is on disk only.
    fn is_complete_from(&self, key: &[u8]) -> bool {
        self.recent.as_ref().is_some_and(|recent| match &recent.complete_from {
            Bound::Unbounded => true,
            Bound::Included(first) => key >= &first[..],
            Bound::Excluded(before) => key > &before[..],
        })
    }

    /// `Some` if RocksDB need not be asked.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        match self.rows.get(key) {
            Some(row) => Some(row.value.clone()),
            None => {
                let is_known = self.is_complete_from(key) || self.deleted.iter().any(|deleted| deleted.has(key));
                is_known.then_some(None)
            }
        }
    }

    /// The rows of a range of keys, at most so many that are not deleted.
    pub(crate) fn view(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> View {
        let mut view = View {
            memory: Vec::new(),
            disk_from: None,
            hidden: Vec::new(),
        };
        if to.is_some_and(|to| to <= from) {
            return view;
        }
        let mut live = 0;
        for (key, row) in self
            .rows
            .range::<[u8], _>((Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded)))
        {
            if live == limit {
                break;
            }
            live += usize::from(row.value.is_some());
            view.memory.push((key.clone(), row.value.clone()));
        }
        if !self.is_complete_from(from) {
            view.disk_from = self.first_visible(from);
            view.hidden = self.deleted.clone();
        }
        view
    }

    /// The first key from this one on that is not in a deleted range.
    fn first_visible(&self, from: &[u8]) -> Option<Bytes> {
        let mut first = Bytes::copy_from_slice(from);
        while let Some(deleted) = self.deleted.iter().find(|deleted| deleted.has(&first)) {
            first = deleted.to.clone()?;
        }
        Some(first)
    }

    /// Everything up to this position is in RocksDB.
    pub(crate) fn written(&mut self, position: u64) {
        if !self.deleted.is_empty() {
            self.deleted.retain(|deleted| deleted.position > position);
        }
        while let Some((_, key)) = self.leaving.pop_front_if(|(at, _)| *at <= position) {
            // A later write may have set it again.
            let has_gone = |row: &Pending| row.position <= position && (self.recent.is_none() || row.value.is_none());
            if self.rows.get(&key).is_some_and(has_gone) {
                self.rows.remove(&key);
            }
        }
        let Some(recent) = &mut self.recent else { return };
        while self.rows.len() > recent.rows_max {
            match self.rows.first_entry() {
                Some(oldest) if oldest.get().position <= position => recent.left(oldest.remove_entry().0),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::table::{KeyForm, number_key};
    use jangada_types::{Table, TableId};

    use super::*;

    const RECENT: usize = 64;

    static TABLE: Table = Table::new(TableId(1), "rows", KeyForm::Number);

    fn put(rows: &mut PendingRows, key: &'static str, value: &'static str, position: u64) {
        let change = RowChange::Put {
            table: &TABLE,
            key: key.into(),
            value: value.into(),
        };
        rows.apply(&change, position);
    }

    fn put_number(rows: &mut PendingRows, number: u64, position: u64) {
        let change = RowChange::Put {
            table: &TABLE,
            key: number_key(number),
            value: Bytes::new(),
        };
        rows.apply(&change, position);
    }

    fn delete(rows: &mut PendingRows, from: &'static str, to: Option<&'static str>, position: u64) {
        let change = RowChange::DeleteRange {
            table: &TABLE,
            from: from.into(),
            to: to.map(Into::into),
        };
        rows.apply(&change, position);
    }

    fn found(rows: &PendingRows, key: &str) -> Option<Option<String>> {
        let value = rows.get(key.as_bytes())?;
        Some(value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
    }

    fn value(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()))
    }

    #[test]
    fn rows_go_when_their_last_write_is_in_rocksdb() {
        let mut rows = PendingRows::new(0, None);
        put(&mut rows, "a", "1", 1);
        put(&mut rows, "b", "2", 1);
        put(&mut rows, "a", "3", 2);
        assert_eq!(found(&rows, "a"), value("3"));
        rows.written(1);
        assert_eq!((found(&rows, "a"), found(&rows, "b")), (value("3"), None));
        let change = RowChange::Delete {
            table: &TABLE,
            key: "b".into(),
        };
        rows.apply(&change, 3);
        assert_eq!(found(&rows, "b"), Some(None));
        rows.written(3);
        assert_eq!((found(&rows, "a"), found(&rows, "b")), (None, None));
        assert!(rows.rows.is_empty() && rows.leaving.is_empty());
    }

    #[test]
    fn what_was_deleted_is_hidden_until_that_is_written() {
        let mut rows = PendingRows::new(0, None);
        put(&mut rows, "a", "1", 1);
        rows.delete_all(2);
        put(&mut rows, "c", "9", 3);
        assert_eq!((found(&rows, "a"), found(&rows, "c")), (Some(None), value("9")));
        let view = rows.view(b"", None, usize::MAX);
        assert_eq!((view.memory.len(), view.disk_from), (1, None));
        rows.written(2);
        assert_eq!((found(&rows, "a"), found(&rows, "c")), (None, value("9")));
        rows.written(3);
        assert_eq!(found(&rows, "c"), None);
        assert_eq!(rows.view(b"", None, usize::MAX).disk_from, Some(Bytes::new()));
    }

    #[test]
    fn a_deleted_range_takes_its_rows_and_no_others() {
        let mut rows = PendingRows::new(0, None);
        for key in ["a", "b", "c", "d"] {
            put(&mut rows, key, "1", 1);
        }
        delete(&mut rows, "b", Some("d"), 2);
        delete(&mut rows, "x", Some("b"), 2);
        let all = ["a", "b", "c", "d", "e"].map(|key| found(&rows, key));
        assert_eq!(all, [value("1"), Some(None), Some(None), value("1"), None]);
        put(&mut rows, "c", "2", 3);
        assert_eq!(found(&rows, "c"), value("2"));
        let view = rows.view(b"b", Some(b"e"), usize::MAX);
        assert_eq!(
            view.disk_from.as_deref(),
            Some(&b"d"[..]),
            "what is deleted is not looked for"
        );
        assert!(view.is_hidden(b"bb") && !view.is_hidden(b"d"));
        assert_eq!(rows.view(b"a", Some(b"e"), 1).memory.len(), 1);
        delete(&mut rows, "d", None, 4);
        assert_eq!(rows.view(b"b", None, usize::MAX).disk_from, None);
        rows.written(4);
        assert_eq!(found(&rows, "b"), None);
    }

    #[test]
    fn the_newest_rows_are_answered_from_memory() {
        let mut rows = PendingRows::new(RECENT, None);
        for number in 0..200 {
            put_number(&mut rows, number, number);
        }
        let view = |rows: &PendingRows, number| {
            let view = rows.view(&number_key(number), None, usize::MAX);
            (view.disk_from, view.memory.len())
        };
        assert_eq!(view(&rows, 0), (None, 200));
        rows.written(150);
        assert_eq!(view(&rows, 0), (Some(number_key(0)), RECENT));
        let first = 200 - RECENT as u64;
        assert_eq!(view(&rows, first), (None, RECENT));
        assert_eq!(rows.get(&number_key(1000)), Some(None), "there is none behind the last");
        assert_eq!(rows.get(&number_key(3)), None);
    }

    #[test]
    fn rows_that_are_not_written_are_never_evicted() {
        let mut rows = PendingRows::new(RECENT, Some((number_key(5), Bytes::new())));
        for number in 6..300 {
            put_number(&mut rows, number, 10);
        }
        rows.written(9);
        let view = rows.view(&number_key(6), None, usize::MAX);
        assert_eq!((view.disk_from, view.memory.len()), (None, 294));
    }

    #[test]
    fn a_row_that_comes_late_makes_nothing_complete() {
        let mut rows = PendingRows::new(1, Some((number_key(50), Bytes::new())));
        put_number(&mut rows, 60, 1);
        rows.written(1);
        put_number(&mut rows, 20, 2);
        rows.written(2);
        assert_eq!(
            (rows.get(&number_key(30)), rows.get(&number_key(51))),
            (None, Some(None))
        );
    }

    #[test]
    fn deleted_rows_are_not_looked_for_on_disk() {
        let mut rows = PendingRows::new(RECENT, Some((number_key(50), Bytes::new())));
        let change = RowChange::DeleteRange {
            table: &TABLE,
            from: number_key(0),
            to: Some(number_key(20)),
        };
        rows.apply(&change, 7);
        let disk_from = |rows: &PendingRows| rows.view(&number_key(0), None, usize::MAX).disk_from;
        assert_eq!(disk_from(&rows), Some(number_key(20)));
        rows.written(7);
        assert_eq!(disk_from(&rows), Some(number_key(0)));
    }

    #[test]
    fn a_recent_row_that_was_deleted_leaves_memory_when_that_is_written() {
        let mut rows = PendingRows::new(RECENT, None);
        put_number(&mut rows, 1, 1);
        let change = RowChange::Delete {
            table: &TABLE,
            key: number_key(1),
        };
        rows.apply(&change, 2);
        assert_eq!(rows.get(&number_key(1)), Some(None));
        rows.written(2);
        assert!(rows.rows.is_empty());
        assert_eq!(rows.get(&number_key(1)), Some(None), "memory is complete");
    }
}
