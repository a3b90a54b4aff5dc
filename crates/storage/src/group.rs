//! One open group in memory: the bounds of its log, its tail, and what is queued for it.
//!
//! Everything here is behind the group's lock. A write holds that lock from before it takes its place in the commit
//! queue until its effects are visible, so the order of the queue is the order of the effects. Lock order: group, then
//! queue.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::{GroupId, RowChange, Table};
use parking_lot::{Mutex, MutexGuard};

use crate::codec;
use crate::database::Database;
use crate::error::StoreError;
use crate::pending::PendingRows;
use crate::places::{Moved, Place};
use crate::store::{LogBounds, LogEntry, LogPosition, Op, StateKind};
use crate::tables::{STATE, Tables, delete_states, state_key};
use crate::tail::{Tail, TailBudget};

/// What an operation writes to RocksDB, with every range resolved.
pub(crate) enum Change {
    Append(Vec<LogEntry>),
    /// Entries in the place of others.
    Rewrite(Vec<LogEntry>),
    /// Entries from the first index up to, but not including, the second.
    DeleteLog(u64, u64),
    Row(RowChange),
    /// Rows below this position need not stay where a table drops them when it is compacted.
    Floor(u64),
    DeleteGroup,
    /// What comes after it lies elsewhere, and the row of places says where.
    Move(Moved),
}

/// Memory of an operation beside its payload, bytes.
const CHANGE_OVERHEAD: usize = size_of::<Change>();

impl Change {
    /// Memory that the queue is charged with.
    pub(crate) fn bytes(&self) -> usize {
        let payload = match self {
            Self::Append(entries) | Self::Rewrite(entries) => entries.iter().map(crate::tail::entry_bytes).sum(),
            Self::Row(change) => change.payload_len(),
            Self::Move(moved) => moved.row.len(),
            Self::DeleteLog(..) | Self::Floor(_) | Self::DeleteGroup => 0,
        };
        payload + CHANGE_OVERHEAD
    }
}

/// An open group.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    /// Where its rows lie.
    pub(crate) place: Place,
    state: Mutex<GroupState>,
}

/// What the lock of a group protects.
pub(crate) struct GroupState {
    id: GroupId,
    pub(crate) bounds: LogBounds,
    /// The group was deleted for good: nothing is written any more, or it would be left behind.
    pub(crate) deleted: bool,
    /// Index of the first entry that is there; none when there is no entry.
    pub(crate) first: Option<u64>,
    /// Counts everything that removes entries. A read that found it changed after looking into RocksDB looks again.
    pub(crate) removals: u64,
    /// Counts writes that change rows which are old. A scan that found it changed after it had begun looks again: rows in memory of before
    /// and rows on disk of after need not follow one another.
    pub(crate) rewrites: u64,
    pub(crate) tail: Tail,
    tables: Arc<Tables>,
    /// By slot of the table.
    rows: Vec<PendingRows>,
}

impl Group {
    /// Loads a group of which nothing is queued.
    pub(crate) fn load(
        id: GroupId,
        place: Place,
        database: &Database,
        budget: Arc<TailBudget>,
    ) -> Result<Self, StoreError> {
        if id == GroupId::NODE {
            // It has no log. What its families have beside the state are the numbers of commits, at the end of each table, and
            // a damaged one there must not keep the node from its own rows.
            return Ok(Self::blank(id, place, database.tables().clone(), budget));
        }
        let purged = database.purged(place)?;
        let ends = database.log_ends(place)?;
        if let (Some(purged), Some((first, _))) = (purged, ends)
            && first != purged.index + 1
        {
            return Err(StoreError::Corrupt(format!(
                "the log is purged up to {}, and its first entry is {first}",
                purged.index
            )));
        }
        let bounds = LogBounds {
            purged,
            last: ends.map(|(_, last)| last).or(purged),
        };
        let tables = database.tables();
        let loaded = Self::blank(id, place, tables.clone(), budget);
        let mut state = loaded.state.lock();
        state.bounds = bounds;
        state.first = ends.map(|(first, _)| first);
        for (slot, table) in tables.all().iter().enumerate() {
            if table.recent_rows > 0 {
                state.rows[slot] = PendingRows::new(table.recent_rows, database.last_row(place, table)?);
            }
        }
        drop(state);
        Ok(loaded)
    }

    /// A group of which nothing is known.
    pub(crate) fn blank(id: GroupId, place: Place, tables: Arc<Tables>, budget: Arc<TailBudget>) -> Self {
        let rows = tables
            .all()
            .iter()
            .map(|table| PendingRows::new(table.recent_rows, None));
        let state = GroupState {
            id,
            bounds: LogBounds::default(),
            deleted: false,
            first: None,
            removals: 0,
            rewrites: 0,
            tail: Tail::new(budget),
            rows: rows.collect(),
            tables,
        };
        Self {
            id,
            place,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock()
    }
}

impl GroupState {
    /// Term of an entry, or of the purged one, if it is known without asking RocksDB.
    pub(crate) fn term_in_memory(&self, index: u64) -> Option<u64> {
        let ends = [self.bounds.purged, self.bounds.last];
        ends.into_iter()
            .flatten()
            .find(|position| position.index == index)
            .map(|position| position.term)
            .or_else(|| self.tail.get(index).map(|entry| entry.term))
    }

    /// Everything up to this position is in RocksDB.
    pub(crate) fn written(&mut self, position: u64) {
        for rows in &mut self.rows {
            rows.written(position);
        }
    }

    /// What is in memory of a table's rows.
    pub(crate) fn rows(&self, table: &'static Table) -> &PendingRows {
        &self.rows[self.tables.slot(table)]
    }

    /// Carries out an operation in memory and says what is to be written.
    pub(crate) fn apply(&mut self, op: Op, position: u64, changes: &mut Vec<Change>) {
        match op {
            Op::Append(entries) => self.append(entries, position, changes),
            Op::TruncateAfter(keep) => self.truncate(keep, changes),
            Op::Rewrite { entries, rows } => self.rewrite(entries, rows, position, changes),
            Op::Purge { upto, upto_term } => {
                self.purge(
                    LogPosition {
                        term: upto_term,
                        index: upto,
                    },
                    position,
                    changes,
                );
            }
            Op::PutState { kind, suffix, value } => {
                assert!(
                    kind != StateKind::PURGED && kind != StateKind::COMMIT,
                    "rows of the store's own"
                );
                self.put_state(kind, suffix.unwrap_or(0), value, position, changes);
            }
            Op::DeleteState { kind, suffix } => {
                let key = state_key(kind, suffix.unwrap_or(0));
                self.row(RowChange::Delete { table: &STATE, key }, position, changes);
            }
            Op::DeleteStateRange { kind, suffixes } => {
                let change = delete_states(kind, &suffixes);
                self.row(change, position, changes);
            }
            Op::Row(change) => {
                assert!(*change.table() != STATE, "rows of state have operations of their own");
                self.row(change, position, changes);
            }
            Op::CutOff(start) => self.cut_off(start, position, changes),
            Op::DeleteGroup => self.delete(position, changes),
        }
    }

    fn append(&mut self, entries: Vec<LogEntry>, position: u64, changes: &mut Vec<Change>) {
        for entry in &entries {
            assert!(
                self.bounds.next_index().is_none_or(|next| next == entry.index),
                "group {}: entry {} appended after {:?}",
                self.id,
                entry.index,
                self.bounds.last,
            );
            assert!(
                self.bounds.last.is_none_or(|last| last.term <= entry.term),
                "group {}: entry {} of term {} appended after {:?}",
                self.id,
                entry.index,
                entry.term,
                self.bounds.last,
            );
            self.first.get_or_insert(entry.index);
            self.bounds.last = Some(LogPosition {
                term: entry.term,
                index: entry.index,
            });
            self.tail.push(entry.clone(), position);
        }
        changes.push(Change::Append(entries));
    }

    fn rewrite(
        &mut self,
        mut entries: Vec<LogEntry>,
        rows: Vec<(u64, RowChange)>,
        position: u64,
        changes: &mut Vec<Change>,
    ) {
        let last = self.bounds.last.map(|last| last.index);
        let present = self.first.zip(last).map(|(first, last)| first..=last);
        let is_present = |index: u64| present.as_ref().is_some_and(|present| present.contains(&index));
        entries.retain(|entry| is_present(entry.index));
        for entry in &entries {
            let known = self.term_in_memory(entry.index);
            assert!(
                known.is_none_or(|term| term == entry.term),
                "group {}: entry {} is rewritten in term {}, and has term {known:?}",
                self.id,
                entry.index,
                entry.term,
            );
            self.tail.replace(entry, position);
        }
        if !entries.is_empty() {
            changes.push(Change::Rewrite(entries));
        }
        self.rewrites += u64::from(!rows.is_empty());
        for (_, change) in rows.into_iter().filter(|(index, _)| is_present(*index)) {
            self.row(change, position, changes);
        }
    }

    fn truncate(&mut self, keep: Option<LogPosition>, changes: &mut Vec<Change>) {
        let (Some(first), Some(last)) = (self.first, self.bounds.last) else {
            return;
        };
        if keep.is_some_and(|keep| keep.index >= last.index) {
            return;
        }
        match keep {
            Some(keep) if keep.index >= first => {
                let known = self.term_in_memory(keep.index);
                assert!(
                    known.is_none_or(|term| term == keep.term),
                    "group {}: truncated to {keep:?}, which has term {known:?}",
                    self.id,
                );
                self.bounds.last = Some(keep);
                changes.push(Change::DeleteLog(keep.index + 1, last.index + 1));
            }
            _ => {
                assert!(
                    keep.is_none_or(|keep| keep.index + 1 >= self.bounds.first_index()),
                    "group {}: truncated to {keep:?}, below what is purged",
                    self.id,
                );
                self.bounds.last = self.bounds.purged;
                self.first = None;
                changes.push(Change::DeleteLog(first, last.index + 1));
            }
        }
        self.tail.truncate_after(self.first.and(keep).map(|keep| keep.index));
        self.removals += 1;
    }

    fn purge(&mut self, upto: LogPosition, position: u64, changes: &mut Vec<Change>) {
        if self.bounds.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        if let Some(first) = self.first.filter(|first| *first <= upto.index) {
            changes.push(Change::DeleteLog(first, upto.index + 1));
        }
        if self.bounds.last.is_none_or(|last| last.index <= upto.index) {
            self.bounds.last = Some(upto);
            self.first = None;
        } else {
            self.first = Some(upto.index + 1);
        }
        self.bounds.purged = Some(upto);
        self.tail.drop_through(upto.index);
        self.removals += 1;
        let value = Bytes::copy_from_slice(&codec::encode_purged(upto));
        self.put_state(StateKind::PURGED, 0, value, position, changes);
    }

    fn put_state(&mut self, kind: StateKind, suffix: u64, value: Bytes, position: u64, changes: &mut Vec<Change>) {
        let key = state_key(kind, suffix);
        let table = &STATE;
        self.row(RowChange::Put { table, key, value }, position, changes);
    }

    fn row(&mut self, change: RowChange, position: u64, changes: &mut Vec<Change>) {
        self.rows[self.tables.slot(change.table())].apply(&change, position);
        changes.push(Change::Row(change));
    }

    fn cut_off(&mut self, start: Option<u64>, position: u64, changes: &mut Vec<Change>) {
        let tables = self.tables.clone();
        for change in tables.declared().iter().filter_map(|table| table.cut_off_at(start)) {
            self.row(change, position, changes);
        }
        // A snapshot may be of a log that begins anywhere: what is true of rows that outlive it is not known.
        changes.extend(start.map(Change::Floor));
    }

    fn delete(&mut self, position: u64, changes: &mut Vec<Change>) {
        assert!(
            self.id != GroupId::NODE,
            "the node's own rows are not deleted as a whole"
        );
        self.bounds = LogBounds::default();
        self.first = None;
        self.tail.truncate_after(None);
        for rows in &mut self.rows {
            rows.delete_all(position);
        }
        self.removals += 1;
        changes.push(Change::DeleteGroup);
    }
}
