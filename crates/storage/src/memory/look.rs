//! What is durable on a disk in memory, for those who judge it from outside while a store has it open: the synced layer in place, without a
//! copy, and what of it has changed since they looked last.
//!
//! Whoever looks holds the disk's lock, and calls no store meanwhile.

use std::ops::ControlFlow;

use bytes::Bytes;
use jangada_types::{GroupId, Table};

use super::disk::{DiskState, MemoryDisk};
use super::journal::Changes;
use super::layer::GroupData;
use crate::store::{KeyRange, LogBounds, LogEntry, StateKind};
use crate::tables::{STATE, state_key, state_suffix};

/// The synced layer of a disk.
pub struct DurableView<'a>(&'a DiskState);

/// What is durable of one group.
pub struct GroupView<'a> {
    data: &'a GroupData,
    tables: &'a [&'static Table],
}

impl MemoryDisk {
    /// Shows what is durable. The disk is locked meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&DurableView<'_>) -> T) -> T {
        look(&DurableView(&self.state()))
    }

    /// What has changed since this was called last.
    pub fn take_changes(&self) -> Changes {
        self.state().journal.take()
    }
}

impl<'a> DurableView<'a> {
    /// Groups with an entry or a row, ascending, without the node.
    pub fn groups(&self) -> Vec<GroupId> {
        self.0.synced.groups()
    }

    /// One group, if it was ever written.
    pub fn group(&self, group: GroupId) -> Option<GroupView<'a>> {
        let data = self.0.synced.group(group)?;
        let tables = self.0.journal.tables();
        Some(GroupView { data, tables })
    }
}

impl<'a> GroupView<'a> {
    /// First and last of the log.
    pub fn bounds(&self) -> LogBounds {
        self.data.bounds()
    }

    /// The term of an entry, or of the purged position.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.data.term_at(index)
    }

    /// Shows the entries from an index on until the visitor has enough.
    pub fn each_entry(&self, from: u64, visitor: &mut dyn FnMut(&LogEntry) -> ControlFlow<()>) {
        self.data.each_entry(from, visitor);
    }

    /// The row of state of a kind.
    pub fn state(&self, kind: StateKind) -> Option<&'a Bytes> {
        self.data.row(self.slot(&STATE)?, &state_key(kind, 0))
    }

    /// The rows of state of a kind, by their suffixes.
    pub fn states(&self, kind: StateKind) -> Vec<(u64, &'a Bytes)> {
        let (from, last) = (state_key(kind, 0), state_key(kind, u64::MAX));
        let Some(slot) = self.slot(&STATE) else {
            return Vec::new();
        };
        let rows = self.data.rows(slot, KeyRange::from(&from));
        let rows = rows.take_while(|(key, _)| **key <= last);
        rows.filter_map(|(key, value)| Some((state_suffix(key)?, value)))
            .collect()
    }

    /// The rows of a table from a key on, ascending.
    pub fn rows(&self, table: &'static Table, from: &[u8]) -> Vec<(&'a Bytes, &'a Bytes)> {
        let rows = |slot| self.data.rows(slot, KeyRange::from(from)).collect();
        self.slot(table).map(rows).unwrap_or_default()
    }

    /// The first row of a table.
    pub fn first_row(&self, table: &'static Table) -> Option<(&'a Bytes, &'a Bytes)> {
        self.data.rows(self.slot(table)?, KeyRange::from(b"")).next()
    }

    /// None before the first write.
    fn slot(&self, table: &'static Table) -> Option<usize> {
        self.tables.iter().position(|known| known.id == table.id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::journal::Changed;
    use super::*;
    use crate::conformance::{Disk, entries, write_synced};
    use crate::store::{LogPosition, Op, Store};

    const GROUP: GroupId = GroupId(1);

    fn put(kind: StateKind, value: &'static str) -> Op {
        Op::PutState {
            kind,
            suffix: None,
            value: value.into(),
        }
    }

    #[test]
    fn what_is_durable_is_seen_with_what_has_changed() {
        let disk = MemoryDisk::new();
        let store = Disk::open(&disk);
        store.open_group(GROUP).unwrap();
        assert!(disk.take_changes().everything, "nothing was kept before");
        write_synced(
            &store,
            GROUP,
            vec![Op::Append(entries(0..5, 1)), put(StateKind::VOTE, "a")],
        )
        .unwrap();
        let cut = Op::TruncateAfter(Some(LogPosition { term: 1, index: 2 }));
        write_synced(&store, GROUP, vec![cut, put(StateKind::VOTE, "b")]).unwrap();
        let changes = disk.take_changes();
        let expected = Changed {
            log_from: Some(0),
            votes: vec!["a".into(), "b".into()],
            ..Changed::default()
        };
        assert!(!changes.everything);
        assert_eq!(changes.groups, BTreeMap::from([(GROUP, expected)]));
        assert_eq!(disk.take_changes(), Changes::default());
        disk.look(|durable| {
            assert_eq!(durable.groups(), [GROUP]);
            let group = durable.group(GROUP).expect("it was written");
            assert_eq!(group.state(StateKind::VOTE).map(|vote| &vote[..]), Some(&b"b"[..]));
            assert_eq!(group.bounds().last, Some(LogPosition { term: 1, index: 2 }));
            let mut seen = Vec::new();
            group.each_entry(1, &mut |entry| {
                seen.push(entry.index);
                ControlFlow::Continue(())
            });
            assert_eq!(seen, [1, 2]);
        });
    }

    #[test]
    fn lazy_writes_are_not_seen_before_they_are_synced() {
        let disk = MemoryDisk::new();
        let store = Disk::open(&disk);
        store.open_group(GROUP).unwrap();
        let _ = disk.take_changes();
        store.write(
            GROUP,
            vec![put(StateKind::GROUP, "lazy")],
            crate::Durability::Lazy,
            None,
        );
        assert_eq!(disk.take_changes(), Changes::default());
        write_synced(&store, GROUP, vec![Op::Append(entries(0..1, 1))]).unwrap();
        let changed = disk.take_changes().groups.remove(&GROUP).expect("it was written");
        assert!(changed.rows && changed.log_from == Some(0));
    }
}
