//! What was queued but is not in RocksDB yet, for state and index: reads look here first, so that they see every write
//! that has returned.
//!
//! The index overlay also keeps some rows after they are written, so that reading at the end of a log needs no disk.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use jangada_types::Offset;

use crate::options::RECENT_INDEX_ROWS;
use crate::store::{IndexEntry, StateKind};

/// Rows of state that were put or deleted and are not written yet.
#[derive(Default)]
pub(crate) struct PendingState {
    /// The value (none: deleted) and the position in the commit queue.
    rows: BTreeMap<(StateKind, u64), (Option<Bytes>, u64)>,
    /// The group is being deleted: until this position is written, what RocksDB has is not to be seen.
    hidden_until: Option<u64>,
}

impl PendingState {
    pub(crate) fn put(&mut self, kind: StateKind, suffix: u64, value: Option<Bytes>, position: u64) {
        self.rows.insert((kind, suffix), (value, position));
    }

    pub(crate) fn delete_all(&mut self, position: u64) {
        self.rows.clear();
        self.hidden_until = Some(position);
    }

    /// `Some` if RocksDB need not be asked.
    pub(crate) fn get(&self, kind: StateKind, suffix: u64) -> Option<Option<Bytes>> {
        match self.rows.get(&(kind, suffix)) {
            Some((value, _)) => Some(value.clone()),
            None => self.hidden_until.map(|_| None),
        }
    }

    /// The pending rows of one kind, and whether RocksDB's rows are to be seen at all.
    pub(crate) fn scan(&self, kind: StateKind) -> (Vec<(u64, Option<Bytes>)>, bool) {
        let rows = self.rows.range((kind, 0)..=(kind, u64::MAX));
        let rows = rows.map(|((_, suffix), (value, _))| (*suffix, value.clone())).collect();
        (rows, self.hidden_until.is_none())
    }

    /// Everything up to this position is in RocksDB.
    pub(crate) fn written(&mut self, position: u64) {
        self.rows.retain(|_, (_, at)| *at > position);
        self.hidden_until = self.hidden_until.filter(|at| *at > position);
    }
}

/// Keys whose last offset was set and is not written yet.
#[derive(Default)]
pub(crate) struct PendingKeys {
    /// With the position in the commit queue.
    rows: HashMap<Bytes, (Offset, u64)>,
    /// What each write set, oldest first.
    writes: VecDeque<(u64, Vec<Bytes>)>,
    /// As in [`PendingState`].
    hidden_until: Option<u64>,
}

impl PendingKeys {
    pub(crate) fn put(&mut self, rows: &[(Bytes, Offset)], position: u64) {
        for (key, offset) in rows {
            self.rows.insert(key.clone(), (*offset, position));
        }
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        self.writes.push_back((position, keys));
    }

    pub(crate) fn delete_all(&mut self, position: u64) {
        self.rows.clear();
        self.writes.clear();
        self.hidden_until = Some(position);
    }

    /// `Some` if RocksDB need not be asked.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Offset>> {
        match self.rows.get(key) {
            Some((offset, _)) => Some(Some(*offset)),
            None => self.hidden_until.map(|_| None),
        }
    }

    /// Everything up to this position is in RocksDB.
    pub(crate) fn written(&mut self, position: u64) {
        while let Some((_, keys)) = self.writes.pop_front_if(|(at, _)| *at <= position) {
            for key in keys {
                // A later write may have set it again.
                if self.rows.get(&key).is_some_and(|(_, at)| *at <= position) {
                    self.rows.remove(&key);
                }
            }
        }
        self.hidden_until = self.hidden_until.filter(|at| *at > position);
    }
}

/// Rows of the index in memory: those not written yet, and the newest ones.
pub(crate) struct RecentIndex {
    /// By last offset, with the position in the commit queue.
    rows: BTreeMap<i64, (IndexEntry, u64)>,
    /// All rows that end at this offset or later are in memory.
    complete_from: i64,
    /// Rows below this offset are deleted, though RocksDB has them until the position is written.
    deleted_below: Option<(i64, u64)>,
}

/// How to answer a read of the index.
pub(crate) enum IndexView {
    /// From memory alone.
    Memory(Vec<IndexEntry>),
    /// From RocksDB, from this offset on, and these rows, which take precedence.
    Merge(Offset, Vec<IndexEntry>),
}

impl RecentIndex {
    /// For a group whose last row on disk is this.
    pub(crate) fn new(last: Option<IndexEntry>) -> Self {
        Self {
            complete_from: last.map_or(i64::MIN, |last| last.last_offset.get()),
            rows: last
                .map(|last| (last.last_offset.get(), (last, 0)))
                .into_iter()
                .collect(),
            deleted_below: None,
        }
    }

    pub(crate) fn put(&mut self, row: IndexEntry, position: u64) {
        self.rows.insert(row.last_offset.get(), (row, position));
    }

    pub(crate) fn delete_below(&mut self, offset: Offset, position: u64) {
        let offset = offset.get();
        self.rows = self.rows.split_off(&offset);
        let before = self.deleted_below.map_or(i64::MIN, |(offset, _)| offset);
        self.deleted_below = Some((offset.max(before), position));
    }

    pub(crate) fn delete_all(&mut self) {
        *self = Self::new(None);
    }

    /// Rows from `offset` on.
    pub(crate) fn view(&self, offset: Offset) -> IndexView {
        let from = offset.get();
        let rows = self.rows.range(from..).map(|(_, (row, _))| *row).collect();
        if from >= self.complete_from {
            return IndexView::Memory(rows);
        }
        let visible = self.deleted_below.map_or(from, |(below, _)| from.max(below));
        IndexView::Merge(Offset::from(visible), rows)
    }

    /// Everything up to this position is in RocksDB.
    pub(crate) fn written(&mut self, position: u64) {
        self.deleted_below = self.deleted_below.filter(|(_, at)| *at > position);
        while self.rows.len() > RECENT_INDEX_ROWS {
            match self.rows.first_entry() {
                Some(oldest) if oldest.get().1 <= position => {
                    let offset = *oldest.key();
                    oldest.remove();
                    self.complete_from = self.complete_from.max(offset + 1);
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::LeaderEpoch;

    use super::*;

    fn row(last_offset: i64) -> IndexEntry {
        IndexEntry {
            last_offset: Offset::from(last_offset),
            base_offset: Offset::from(last_offset),
            raft_index: 1,
            epoch: LeaderEpoch::from(1),
            max_timestamp_ms: 0,
            running_max_timestamp_ms: 0,
            size_bytes: 1,
        }
    }

    #[test]
    fn pending_state_hides_what_is_on_disk_until_it_is_written() {
        let mut state = PendingState::default();
        assert_eq!(state.get(StateKind::VOTE, 0), None);
        state.put(StateKind::VOTE, 0, Some(Bytes::from_static(b"v")), 1);
        assert_eq!(state.get(StateKind::VOTE, 0), Some(Some(Bytes::from_static(b"v"))));
        state.delete_all(2);
        state.put(StateKind::GROUP, 3, Some(Bytes::from_static(b"g")), 3);
        assert_eq!(state.get(StateKind::VOTE, 0), Some(None));
        assert_eq!(
            state.scan(StateKind::GROUP),
            (vec![(3, Some(Bytes::from_static(b"g")))], false)
        );
        state.written(2);
        assert_eq!(state.get(StateKind::VOTE, 0), None);
        assert_eq!(state.scan(StateKind::GROUP).0.len(), 1);
        state.written(3);
        assert_eq!(state.scan(StateKind::GROUP), (vec![], true));
    }

    #[test]
    fn pending_keys_go_when_their_last_write_is_in_rocksdb() {
        let mut keys = PendingKeys::default();
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        keys.put(&[(key("a"), Offset(1)), (key("b"), Offset(2))], 1);
        keys.put(&[(key("a"), Offset(3))], 2);
        assert_eq!(keys.get(b"a"), Some(Some(Offset(3))));
        keys.written(1);
        assert_eq!((keys.get(b"a"), keys.get(b"b")), (Some(Some(Offset(3))), None));
        keys.delete_all(3);
        keys.put(&[(key("b"), Offset(9))], 4);
        assert_eq!((keys.get(b"a"), keys.get(b"b")), (Some(None), Some(Some(Offset(9)))));
        keys.written(4);
        assert_eq!((keys.get(b"a"), keys.get(b"b")), (None, None));
        assert!(keys.rows.is_empty() && keys.writes.is_empty());
    }

    #[test]
    fn the_newest_rows_are_answered_from_memory() {
        let mut index = RecentIndex::new(None);
        for offset in 0..200 {
            index.put(row(offset), offset as u64);
        }
        assert!(matches!(index.view(Offset::from(0)), IndexView::Memory(rows) if rows.len() == 200));
        index.written(150);
        let IndexView::Merge(from, rows) = index.view(Offset::from(0)) else {
            panic!("evicted")
        };
        assert_eq!((from, rows.len()), (Offset::from(0), RECENT_INDEX_ROWS));
        let first = 200 - RECENT_INDEX_ROWS as i64;
        assert!(matches!(index.view(Offset::from(first)), IndexView::Memory(rows) if rows.len() == RECENT_INDEX_ROWS));
    }

    #[test]
    fn rows_that_are_not_written_are_never_evicted() {
        let mut index = RecentIndex::new(Some(row(5)));
        for offset in 6..300 {
            index.put(row(offset), 10);
        }
        index.written(9);
        assert!(matches!(index.view(Offset::from(6)), IndexView::Memory(rows) if rows.len() == 294));
    }

    #[test]
    fn deleted_rows_are_not_looked_for_on_disk() {
        let mut index = RecentIndex::new(Some(row(50)));
        index.delete_below(Offset::from(20), 7);
        assert!(matches!(index.view(Offset::from(0)), IndexView::Merge(from, _) if from == Offset::from(20)));
        index.written(7);
        assert!(matches!(index.view(Offset::from(0)), IndexView::Merge(from, _) if from == Offset::from(0)));
    }
}
