//! A correct log with transactions, in one thread.

use crate::call::{Record, Value};

/// What is at an offset.
#[derive(Clone, Debug)]
struct Slot {
    /// None: a marker.
    value: Option<Value>,
    key: Option<String>,
    transaction: Option<u64>,
}

/// A partition without mistakes.
#[derive(Clone, Debug, Default)]
pub struct Log {
    slots: Vec<Slot>,
    /// Open transactions with their first offset.
    open: Vec<(u64, usize)>,
    aborted: Vec<u64>,
    pub compacted: bool,
}

impl Log {
    /// A partition of which each key's last record is kept.
    pub fn compacted() -> Self {
        Self {
            compacted: true,
            ..Self::default()
        }
    }

    pub fn end(&self) -> i64 {
        offset(self.slots.len())
    }

    /// The last stable offset.
    pub fn stable(&self) -> i64 {
        offset(
            self.open
                .iter()
                .map(|(_, first)| *first)
                .min()
                .unwrap_or(self.slots.len()),
        )
    }

    pub fn append(&mut self, value: Value, key: Option<String>, transaction: Option<u64>) -> i64 {
        if let Some(id) = transaction
            && !self.open.iter().any(|(other, _)| *other == id)
        {
            self.open.push((id, self.slots.len()));
        }
        self.slots.push(Slot {
            value: Some(value),
            key,
            transaction,
        });
        offset(self.slots.len() - 1)
    }

    /// Ends a transaction, if it has written here.
    pub fn end_transaction(&mut self, id: u64, commit: bool) {
        let Some(at) = self.open.iter().position(|(other, _)| *other == id) else {
            return;
        };
        self.open.remove(at);
        if !commit {
            self.aborted.push(id);
        }
        self.slots.push(Slot {
            value: None,
            key: None,
            transaction: Some(id),
        });
    }

    /// The last offset of a key whose record counts; -1: none.
    pub fn last_of(&self, key: &str) -> i64 {
        let last = self.slots.iter().rposition(|slot| slot.key.as_deref() == Some(key));
        last.map_or(-1, offset)
    }

    /// Committed records from an offset on, at most so many offsets; and the next position.
    pub fn poll(&self, from: i64, count: usize) -> (Vec<Record>, i64) {
        let to = self.stable().min(from.saturating_add(offset(count)));
        let records = (from..to).filter_map(|at| {
            let slot = &self.slots[index(at)];
            let is_aborted = slot.transaction.is_some_and(|id| self.aborted.contains(&id));
            let value = slot.value.clone().filter(|_| !is_aborted)?;
            Some((at, Some(value)))
        });
        (records.collect(), to.max(from))
    }

    /// What is there at the end: everything, with markers, or what committed readers see; of a compacted log the last of each key, and
    /// some others if `keep` says so.
    pub fn contents(&self, raw: bool, mut keep: impl FnMut() -> bool) -> Vec<Record> {
        let mut last = std::collections::HashMap::new();
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(key) = &slot.key {
                last.insert(key.as_str(), at);
            }
        }
        let is_there = |(at, slot): &(usize, &Slot)| {
            let is_aborted = slot.transaction.is_some_and(|id| self.aborted.contains(&id));
            if !raw && (is_aborted || slot.value.is_none()) {
                return false;
            }
            let is_last = slot.key.as_deref().is_some_and(|key| last[key] == *at);
            !self.compacted || is_last || keep()
        };
        let there = self.slots.iter().enumerate().filter(is_there);
        there.map(|(at, slot)| (offset(at), slot.value.clone())).collect()
    }
}

fn offset(at: usize) -> i64 {
    i64::try_from(at).expect("offsets fit")
}

fn index(offset: i64) -> usize {
    usize::try_from(offset).expect("offsets are not negative")
}
