//! Rows that a task makes from a group's log, on each replica by itself, beside the state machine.
//!
//! They are written through the group's own writer, so that a replica that is given up, or closed, has no other. Between them and
//! what the state machine writes there is no order, and none is needed: they lie in tables of their own, and say what the log says.

use bytes::Bytes;
use jangada_storage::{Op, StateKind};
use jangada_types::RowChange;
use jangada_types::table::Origin;

use crate::group::Group;
use crate::log_store::{Durable, LogStore};

/// Writes derived rows of one group. Clones share it.
#[derive(Clone)]
pub struct DerivedRows {
    log: LogStore,
}

/// Rows on their way to the disk.
pub struct Written(Durable);

impl Written {
    /// Returns when the store's files have them. False: they are not written, or nobody knows.
    pub async fn wait(self) -> bool {
        self.0.wait().await.is_ok()
    }
}

impl Group {
    /// What writes rows that are derived from this group's log.
    pub fn derived_rows(&self) -> DerivedRows {
        DerivedRows {
            log: self.log().clone(),
        }
    }
}

impl DerivedRows {
    /// Queues rows, and in the same write the row of state that says how far they reach, if any. They are readable when this
    /// returns. Panics when a table is not declared as derived: its rows are the state machine's.
    pub fn write(&self, rows: Vec<RowChange>, reached: Option<(StateKind, Bytes)>) -> Written {
        let is_derived = |change: &RowChange| change.table().origin == Origin::Derived;
        assert!(rows.iter().all(is_derived), "rows of a table that is not derived");
        let mut ops: Vec<Op> = rows.into_iter().map(Op::Row).collect();
        ops.extend(reached.map(|(kind, value)| Op::PutState {
            kind,
            suffix: None,
            value,
        }));
        Written(self.log.start_lazy(ops))
    }
}
