//! The tables that a store was opened with, and the one that it declares itself: the rows of state.

use std::ops::Range;

use bytes::Bytes;
use jangada_types::table::{KeyForm, Origin};
use jangada_types::{RowChange, Table, TableId};

use crate::error::StoreError;
use crate::store::StateKind;

/// Rows of state: vote, checkpoints, what the node keeps of itself. Key: `kind u8 | suffix u64`.
pub(crate) static STATE: Table = Table::new(TableId(0), "state", KeyForm::Bytes);

/// Name of the column family of log entries, which is no table.
pub(crate) const LOG: &str = "log";

/// Length of a key of [`STATE`].
const STATE_KEY_LEN: usize = 1 + 8;

/// The keys of all kinds without a suffix, so that the rows that are written with every append need no allocation.
static UNSUFFIXED: [[u8; STATE_KEY_LEN]; 256] = {
    let mut keys = [[0; STATE_KEY_LEN]; 256];
    let mut kind = 0;
    while kind < 256 {
        keys[kind][0] = kind as u8;
        kind += 1;
    }
    keys
};

/// Key of a row of state.
pub(crate) fn state_key(kind: StateKind, suffix: u64) -> Bytes {
    match suffix {
        0 => Bytes::from_static(&UNSUFFIXED[usize::from(kind.0)]),
        suffix => {
            let mut key = UNSUFFIXED[usize::from(kind.0)];
            key[1..].copy_from_slice(&suffix.to_be_bytes());
            Bytes::copy_from_slice(&key)
        }
    }
}

/// Suffix of such a key.
pub(crate) fn state_suffix(key: &[u8]) -> Option<u64> {
    let key: &[u8; STATE_KEY_LEN] = key.try_into().ok()?;
    Some(u64::from_be_bytes(key[1..].try_into().expect("eight bytes")))
}

/// Deletes the rows of state of one kind with these suffixes.
pub(crate) fn delete_states(kind: StateKind, suffixes: &Range<u64>) -> RowChange {
    RowChange::DeleteRange {
        table: &STATE,
        from: state_key(kind, suffixes.start),
        to: Some(state_key(kind, suffixes.end)),
    }
}

/// The tables that a store was opened with. The place of a table among them is its slot.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    /// By rising id, but for [`STATE`], which comes last: its commit row is the last of a batch.
    all: Vec<&'static Table>,
    /// Slots by id.
    slots: [Option<u8>; 256],
}

impl Tables {
    /// Checks the declarations.
    pub(crate) fn new(declared: &[&'static Table]) -> Result<Self, StoreError> {
        let mut all = declared.to_vec();
        all.sort_by_key(|table| table.id);
        all.push(&STATE);
        let mut slots = [None; 256];
        for (slot, table) in all.iter().enumerate() {
            let taken = slots[usize::from(table.id.0)].replace(u8::try_from(slot).expect("ids are bytes"));
            let is_named_twice = all[..slot].iter().any(|other| other.name == table.name);
            if taken.is_some() || is_named_twice || [LOG, "default"].contains(&table.name) {
                return Err(StoreError::Setting("tables: each has an id and a name of its own"));
            }
            if table.recent_rows > 0 && table.keys != KeyForm::Number {
                return Err(StoreError::Setting("tables: only rows with numbers stay in memory"));
            }
            if table.in_snapshot && table.origin == Origin::Derived {
                return Err(StoreError::Setting("tables: derived rows go with no snapshot"));
            }
        }
        Ok(Self { all, slots })
    }

    /// All, [`STATE`] last.
    pub(crate) fn all(&self) -> &[&'static Table] {
        &self.all
    }

    /// Those that were declared to the store.
    pub(crate) fn declared(&self) -> &[&'static Table] {
        &self.all[..self.all.len() - 1]
    }

    /// The place of a table among all. Panics when the store was opened without it: that is a bug of the caller.
    pub(crate) fn slot(&self, table: &'static Table) -> usize {
        let slot = self.slots[usize::from(table.id.0)].map(usize::from);
        let slot = slot.filter(|slot| self.all[*slot].name == table.name);
        slot.unwrap_or_else(|| panic!("the store was opened without the table {table:?}"))
    }

    /// Names of all column families, in the order in which commits number them.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        [LOG]
            .into_iter()
            .chain(self.all.iter().map(|table| table.name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ONE: Table = Table::new(TableId(1), "one", KeyForm::Number);
    static TWO: Table = Table::new(TableId(2), "two", KeyForm::Bytes);

    #[test]
    fn each_table_has_a_slot_and_state_is_last() {
        let tables = Tables::new(&[&TWO, &ONE]).unwrap();
        assert_eq!(tables.families(), ["log", "one", "two", "state"]);
        assert_eq!((tables.slot(&ONE), tables.slot(&TWO), tables.slot(&STATE)), (0, 1, 2));
        assert_eq!(tables.declared(), [&ONE, &TWO]);
    }

    #[test]
    fn tables_that_are_taken_for_one_another_are_refused() {
        static SAME_ID: Table = Table::new(TableId(1), "other", KeyForm::Number);
        static SAME_NAME: Table = Table::new(TableId(9), "one", KeyForm::Number);
        static NO_ID: Table = Table::new(TableId(0), "none", KeyForm::Number);
        static LOG_AGAIN: Table = Table::new(TableId(9), "log", KeyForm::Number);
        static NOT_RECENT: Table = Table {
            recent_rows: 1,
            ..Table::new(TableId(9), "named", KeyForm::Bytes)
        };
        static NOT_APPLIED: Table = Table {
            in_snapshot: true,
            origin: Origin::Derived,
            ..Table::new(TableId(9), "named", KeyForm::Bytes)
        };
        for bad in [&SAME_ID, &SAME_NAME, &NO_ID, &LOG_AGAIN, &NOT_RECENT, &NOT_APPLIED] {
            assert!(Tables::new(&[&ONE, bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    #[should_panic(expected = "without the table two")]
    fn a_table_that_the_store_was_not_opened_with_is_a_bug() {
        Tables::new(&[&ONE]).unwrap().slot(&TWO);
    }

    #[test]
    fn keys_of_state_come_back() {
        assert_eq!(state_key(StateKind::CHECKPOINT, 1)[..], [6, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(state_key(StateKind::VOTE, 0)[..], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        for suffix in [0, 1, u64::MAX] {
            assert_eq!(state_suffix(&state_key(StateKind(255), suffix)), Some(suffix));
        }
        assert_eq!(state_suffix(b"short"), None);
    }
}
