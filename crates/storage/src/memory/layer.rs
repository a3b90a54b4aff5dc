//! The data of all groups in ordered maps, and what operations make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow, Range};

use bytes::Bytes;
use jangada_types::{GroupId, RowChange};

use crate::codec;
use crate::error::StoreError;
use crate::store::{KeyRange, LogBounds, LogEntry, LogPosition, Op, StateKind};
use crate::tables::{STATE, Tables, delete_states, state_key};

/// Rows of one table of one group.
pub(super) type Rows = BTreeMap<Bytes, Bytes>;

/// Where something is that can be damaged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    /// The entry of an index.
    Entry(u64),
    /// A row, by the slot of its table and its key.
    Row(usize, Bytes),
}

/// Everything of one group.
#[derive(Clone, Default)]
pub(super) struct GroupData {
    purged: Option<LogPosition>,
    log: BTreeMap<u64, LogEntry>,
    /// Entries from here on were appended since the group was opened: they are read without waiting.
    recent_from: Option<u64>,
    /// By slot of the table; a table without a row may be missing.
    rows: BTreeMap<usize, Rows>,
    /// What cannot be read. All of it is there.
    rotten: BTreeSet<Spot>,
}

/// The data of a node.
#[derive(Clone, Default)]
pub(super) struct Layer {
    /// Writes that it has.
    pub sequence: u64,
    groups: BTreeMap<GroupId, GroupData>,
}

impl Layer {
    /// What a group has, if it has anything.
    pub fn group(&self, group: GroupId) -> Option<&GroupData> {
        self.groups.get(&group)
    }

    /// The group is opened: nothing of it was appended since.
    pub fn open(&mut self, group: GroupId) -> LogBounds {
        let data = self.groups.entry(group).or_default();
        data.recent_from = None;
        data.bounds()
    }

    /// Groups with an entry or a row, ascending, without the node.
    pub fn groups(&self) -> Vec<GroupId> {
        let with_data = self.groups.iter().filter(|(_, data)| !data.is_empty());
        with_data
            .map(|(group, _)| *group)
            .filter(|group| *group != GroupId::NODE)
            .collect()
    }

    /// Carries out one write. Panics when it contradicts what is there: that is a bug of the caller.
    pub fn write(&mut self, group: GroupId, ops: &[Op], tables: &Tables) {
        self.sequence += 1;
        let data = self.groups.entry(group).or_default();
        for op in ops {
            data.apply(group, op, tables);
        }
        if !data.rotten.is_empty() {
            data.forget_rot(ops, tables);
        }
    }

    /// Chooses among all entries and rows, but for those of the node and of the metadata.
    pub fn choose_spot(&self, choose: impl FnOnce(usize) -> usize) -> Option<(GroupId, Spot)> {
        let spared = [GroupId::NODE, GroupId::METADATA];
        let groups = || self.groups.iter().filter(|(group, _)| !spared.contains(group));
        let count: usize = groups().map(|(_, data)| data.spots()).sum();
        let mut at = if count > 0 { choose(count) % count } else { return None };
        for (group, data) in groups() {
            match at.checked_sub(data.spots()) {
                None => return data.spot(at).map(|spot| (*group, spot)),
                Some(rest) => at = rest,
            }
        }
        None
    }

    /// Damages what is there.
    pub fn rot(&mut self, group: GroupId, spot: &Spot) {
        if let Some(data) = self.groups.get_mut(&group).filter(|data| data.has(spot)) {
            data.rotten.insert(spot.clone());
        }
    }

    /// Whether it was written since the group was opened, and so is in memory.
    pub fn is_recent(&self, group: GroupId, spot: &Spot) -> bool {
        let recent_from = self.groups.get(&group).and_then(|data| data.recent_from);
        matches!(spot, Spot::Entry(index) if recent_from.is_some_and(|from| from <= *index))
    }
}

impl GroupData {
    fn is_empty(&self) -> bool {
        self.log.is_empty() && self.rows.values().all(BTreeMap::is_empty)
    }

    pub fn bounds(&self) -> LogBounds {
        let last = self.log.last_key_value().map(|(_, entry)| LogPosition {
            term: entry.term,
            index: entry.index,
        });
        LogBounds {
            purged: self.purged,
            last: last.or(self.purged),
        }
    }

    /// Term of an entry, or of the purged position.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        let purged = self.purged.filter(|purged| purged.index == index);
        let entry = || self.log.get(&index).map(|entry| entry.term);
        purged.map(|purged| purged.term).or_else(entry)
    }

    /// Entries of a range, at least one if there is any, else no more than so many bytes.
    pub fn log(&self, range: Range<u64>, max_bytes: usize) -> Vec<LogEntry> {
        let mut found = Vec::new();
        if range.is_empty() {
            return found;
        }
        let mut bytes = 0_usize;
        for entry in self.log.range(range).map(|(_, entry)| entry) {
            bytes = bytes.saturating_add(entry.payload_len());
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        found
    }

    /// Like [`GroupData::log`], but `None` when the first entry was not appended since the group was opened.
    pub fn recent_log(&self, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>> {
        let found = self.log(range, max_bytes);
        let first = found.first().map(|entry| entry.index);
        first
            .is_none_or(|first| self.recent_from.is_some_and(|from| from <= first))
            .then_some(found)
    }

    pub fn row(&self, slot: usize, key: &[u8]) -> Option<&Bytes> {
        self.rows.get(&slot)?.get(key)
    }

    /// Rows of a range of keys, ascending.
    pub fn rows(&self, slot: usize, keys: KeyRange<'_>) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let is_empty = keys.to.is_some_and(|to| to <= keys.from);
        let to = keys.to.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.get(&slot).filter(|_| !is_empty);
        rows.into_iter()
            .flat_map(move |rows| rows.range::<[u8], _>((Bound::Included(keys.from), to)))
    }

    /// Shows the entries from an index on until the visitor has enough.
    pub fn each_entry(&self, from: u64, visitor: &mut dyn FnMut(&LogEntry) -> ControlFlow<()>) {
        let _ = self.log.range(from..).try_for_each(|(_, entry)| visitor(entry));
    }

    /// How many entries and rows there are.
    fn spots(&self) -> usize {
        self.log.len() + self.rows.values().map(BTreeMap::len).sum::<usize>()
    }

    fn spot(&self, at: usize) -> Option<Spot> {
        let entries = self.log.keys().map(|index| Spot::Entry(*index));
        let rows = self
            .rows
            .iter()
            .flat_map(|(slot, rows)| rows.keys().map(|key| Spot::Row(*slot, key.clone())));
        entries.chain(rows).nth(at)
    }

    fn has(&self, spot: &Spot) -> bool {
        match spot {
            Spot::Entry(index) => self.log.contains_key(index),
            Spot::Row(slot, key) => self.row(*slot, key).is_some(),
        }
    }

    /// What was written anew, or removed, is sound.
    fn forget_rot(&mut self, ops: &[Op], tables: &Tables) {
        let mut rotten = std::mem::take(&mut self.rotten);
        for op in ops {
            match op {
                Op::Append(entries) | Op::Rewrite { entries, .. } => {
                    for entry in entries {
                        rotten.remove(&Spot::Entry(entry.index));
                    }
                }
                Op::PutState { kind, suffix, .. } => {
                    let key = state_key(*kind, suffix.unwrap_or(0));
                    rotten.remove(&Spot::Row(tables.slot(&STATE), key));
                }
                Op::Row(RowChange::Put { table, key, .. }) => {
                    rotten.remove(&Spot::Row(tables.slot(table), key.clone()));
                }
                _ => {}
            }
        }
        rotten.retain(|spot| self.has(spot));
        self.rotten = rotten;
    }

    /// The entries can be read.
    pub fn check_entries(&self, entries: &[LogEntry]) -> Result<(), StoreError> {
        let is_rotten = |entry: &&LogEntry| self.rotten.contains(&Spot::Entry(entry.index));
        match entries.iter().find(is_rotten).filter(|_| !self.rotten.is_empty()) {
            Some(entry) => Err(StoreError::Corrupt(format!("entry {}: wrong checksum", entry.index))),
            None => Ok(()),
        }
    }

    /// The row can be read.
    pub fn check_row(&self, slot: usize, key: &[u8]) -> Result<(), StoreError> {
        if self.rotten.is_empty() || !self.rotten.contains(&Spot::Row(slot, Bytes::copy_from_slice(key))) {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!("a row of table {slot}: wrong checksum")))
    }

    fn apply(&mut self, group: GroupId, op: &Op, tables: &Tables) {
        match op {
            Op::Append(entries) => self.append(group, entries),
            Op::TruncateAfter(keep) => self.truncate(group, *keep),
            Op::Rewrite { entries, rows } => self.rewrite(group, entries, rows, tables),
            Op::Purge { upto, upto_term } => {
                self.purge(
                    LogPosition {
                        term: *upto_term,
                        index: *upto,
                    },
                    tables,
                );
            }
            Op::PutState { kind, suffix, value } => {
                assert!(
                    *kind != StateKind::PURGED && *kind != StateKind::COMMIT,
                    "rows of the store's own"
                );
                self.put_state(*kind, suffix.unwrap_or(0), value.clone(), tables);
            }
            Op::DeleteState { kind, suffix } => {
                let key = state_key(*kind, suffix.unwrap_or(0));
                self.change(&RowChange::Delete { table: &STATE, key }, tables);
            }
            Op::DeleteStateRange { kind, suffixes } => self.change(&delete_states(*kind, suffixes), tables),
            Op::Row(change) => {
                assert!(*change.table() != STATE, "rows of state have operations of their own");
                self.change(change, tables);
            }
            Op::CutOff(start) => {
                for change in tables.declared().iter().filter_map(|table| table.cut_off_at(*start)) {
                    self.change(&change, tables);
                }
            }
            Op::DeleteGroup => {
                assert!(group != GroupId::NODE, "the node's own rows are not deleted as a whole");
                *self = Self::default();
            }
        }
    }

    fn append(&mut self, group: GroupId, entries: &[LogEntry]) {
        for entry in entries {
            let bounds = self.bounds();
            assert!(
                bounds.next_index().is_none_or(|next| next == entry.index),
                "group {group}: entry {} appended after {:?}",
                entry.index,
                bounds.last,
            );
            assert!(
                bounds.last.is_none_or(|last| last.term <= entry.term),
                "group {group}: entry {} of term {} appended after {:?}",
                entry.index,
                entry.term,
                bounds.last,
            );
            self.recent_from.get_or_insert(entry.index);
            self.log.insert(entry.index, entry.clone());
        }
    }

    fn rewrite(&mut self, group: GroupId, entries: &[LogEntry], rows: &[(u64, RowChange)], tables: &Tables) {
        for entry in entries {
            let Some(known) = self.log.get_mut(&entry.index) else {
                continue;
            };
            assert!(
                known.term == entry.term,
                "group {group}: entry {} is rewritten in term {}, and has term {}",
                entry.index,
                entry.term,
                known.term,
            );
            *known = entry.clone();
        }
        for (index, change) in rows {
            if self.log.contains_key(index) {
                self.change(change, tables);
            }
        }
    }

    fn truncate(&mut self, group: GroupId, keep: Option<LogPosition>) {
        let bounds = self.bounds();
        let first = bounds.first_index();
        if keep.is_some_and(|keep| bounds.last.is_none_or(|last| last.index <= keep.index)) || self.log.is_empty() {
            return;
        }
        if let Some(keep) = keep {
            let known = self.log.get(&keep.index).map(|entry| entry.term);
            assert!(
                keep.index + 1 >= first && known.is_none_or(|term| term == keep.term),
                "group {group}: truncated to {keep:?}, and the log begins at {first} and has term {known:?} there",
            );
        }
        self.log.split_off(&keep.map_or(0, |keep| keep.index + 1));
        self.forget_recent();
    }

    fn purge(&mut self, upto: LogPosition, tables: &Tables) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.log = self.log.split_off(&(upto.index + 1));
        self.purged = Some(upto);
        self.forget_recent();
        let value = Bytes::copy_from_slice(&codec::encode_purged(upto));
        self.put_state(StateKind::PURGED, 0, value, tables);
    }

    /// No entry is recent any more, if those that were are gone.
    fn forget_recent(&mut self) {
        let last = self.log.last_key_value().map(|(index, _)| *index);
        self.recent_from = self.recent_from.filter(|from| last.is_some_and(|last| *from <= last));
    }

    fn put_state(&mut self, kind: StateKind, suffix: u64, value: Bytes, tables: &Tables) {
        let key = state_key(kind, suffix);
        let table = &STATE;
        self.change(&RowChange::Put { table, key, value }, tables);
    }

    fn change(&mut self, change: &RowChange, tables: &Tables) {
        let rows = self.rows.entry(tables.slot(change.table())).or_default();
        match change {
            RowChange::Put { key, value, .. } => {
                rows.insert(key.clone(), value.clone());
            }
            RowChange::Delete { key, .. } => {
                rows.remove(key);
            }
            RowChange::DeleteRange { from, to, .. } => {
                if to.as_ref().is_some_and(|to| to <= from) {
                    return;
                }
                let mut within = rows.split_off(from);
                if let Some(to) = to {
                    rows.append(&mut within.split_off(to));
                }
            }
        }
    }
}
