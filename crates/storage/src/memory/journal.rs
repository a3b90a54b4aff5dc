//! What has changed on a disk in memory since somebody asked last.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_types::{GroupId, Table};

use crate::store::{Op, StateKind};
use crate::tables::Tables;

/// What of a group has changed on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The lowest index at which entries were appended, removed at the log's end, or rewritten.
    pub log_from: Option<u64>,
    /// The votes that were written since the group was deleted last, oldest first.
    pub votes: Vec<Bytes>,
    /// Rows of state or of tables have changed, or the log's head was cut off.
    pub rows: bool,
    /// All of the group was deleted, before what else is told here.
    pub deleted: bool,
}

/// What has changed on a disk since it was asked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What has changed of each group.
    pub groups: BTreeMap<GroupId, Changed>,
    /// Anything may have: the disk was never asked before, or was changed by other means than writes.
    pub everything: bool,
}

/// What [`Changes`] are gathered from. Nothing is kept before somebody asks.
#[derive(Default)]
pub(super) struct Journal {
    is_asked: bool,
    changes: Changes,
    /// The tables, by their slots.
    tables: Vec<&'static Table>,
}

impl Journal {
    /// These operations have become durable.
    pub fn note(&mut self, group: GroupId, ops: &[Op], tables: &Tables) {
        if self.tables.len() != tables.all().len() {
            self.tables = tables.all().to_vec();
        }
        if !self.is_asked {
            return;
        }
        let changed = self.changes.groups.entry(group).or_default();
        for op in ops {
            changed.note(op);
        }
    }

    /// What has changed since this was called last.
    pub fn take(&mut self) -> Changes {
        let everything = !std::mem::replace(&mut self.is_asked, true);
        let mut changes = std::mem::take(&mut self.changes);
        changes.everything |= everything;
        changes
    }

    /// The tables, by their slots. None before the first write.
    pub fn tables(&self) -> &[&'static Table] {
        &self.tables
    }

    /// The disk was changed by other means.
    pub fn forget(&mut self) {
        self.changes = Changes {
            everything: true,
            ..Changes::default()
        };
    }
}

impl Changed {
    fn touch_log(&mut self, index: u64) {
        self.log_from = Some(self.log_from.map_or(index, |from| from.min(index)));
    }

    fn note(&mut self, op: &Op) {
        match op {
            Op::Append(entries) => entries.iter().take(1).for_each(|entry| self.touch_log(entry.index)),
            Op::TruncateAfter(keep) => self.touch_log(keep.map_or(0, |keep| keep.index + 1)),
            Op::Rewrite { entries, .. } => {
                entries.iter().for_each(|entry| self.touch_log(entry.index));
                self.rows = true;
            }
            Op::PutState { kind, value, .. } if *kind == StateKind::VOTE => self.votes.push(value.clone()),
            Op::DeleteGroup => {
                *self = Self {
                    deleted: true,
                    log_from: Some(0),
                    rows: true,
                    votes: Vec::new(),
                };
            }
            Op::Purge { .. }
            | Op::PutState { .. }
            | Op::DeleteState { .. }
            | Op::DeleteStateRange { .. }
            | Op::Row(_)
            | Op::CutOff(_) => self.rows = true,
        }
    }
}
