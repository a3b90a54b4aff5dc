//! Rows that a task makes from a group's log, on each replica by itself, beside the state machine; and entries of the log that it
//! rewrites.
//!
//! They are written through the group's own writer, so that a replica that is given up, or closed, has no other. Between them and
//! what the state machine writes there is no order, and none is needed: they lie in tables of their own, and say what the log says.

use bytes::Bytes;
use jangada_machine::EncodedCommand;
use jangada_storage::{LogEntry, Op, StateKind, Store, StoreError};
use jangada_types::table::Origin;
use jangada_types::{GroupId, LogPosition, RowChange};

use crate::damage::unreadable;
use crate::group::Group;
use crate::log_store::{Durable, LogStore};
use crate::snapshot::record;

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
        let mut ops = derived(rows);
        ops.extend(reached.map(|(kind, value)| Op::PutState {
            kind,
            suffix: None,
            value,
        }));
        Written(self.log.start_lazy(ops))
    }

    /// Queues rows; [`Written::wait`] returns when they and all that the group has written before are on the disk, so that others may count
    /// on it. Panics as [`DerivedRows::write`] does.
    pub fn write_synced(&self, rows: Vec<RowChange>) -> Written {
        Written(self.log.start_synced(derived(rows)))
    }

    /// Queues commands in the place of those in the log, with changes of rows, each with the index of the entry that it is about. What is
    /// not in the log any more is left out. Replicas that apply the commands must come to the state of those that applied what was there.
    pub fn rewrite(&self, commands: Vec<(LogPosition, EncodedCommand)>, rows: Vec<(u64, RowChange)>) -> Written {
        let entries = commands.into_iter().map(|(LogPosition { term, index }, command)| {
            let (head, body) = command.into_log();
            LogEntry {
                index,
                term,
                head,
                body,
            }
        });
        let entries = entries.collect();
        Written(self.log.start_lazy(vec![Op::Rewrite { entries, rows }]))
    }
}

/// Changes of derived rows.
fn derived(rows: Vec<RowChange>) -> Vec<Op> {
    let is_derived = |change: &RowChange| change.table().origin == Origin::Derived;
    assert!(rows.iter().all(is_derived), "rows of a table that is not derived");
    rows.into_iter().map(Op::Row).collect()
}

/// The command of an entry; `None`: it has none, as a change of members has not.
pub fn command_of(entry: &LogEntry) -> Option<EncodedCommand> {
    let is_command = entry.head.starts_with(&EncodedCommand::PREFIX);
    is_command.then(|| EncodedCommand::from_log(entry.head.clone(), entry.body.clone()))
}

/// The index of the last entry that the saved state of a group covers: those behind it are applied again when the replica is opened.
/// `None`: no state is saved. Blocks.
///
/// # Errors
/// [`StoreError::Damaged`] when it cannot be read, and what reading runs into.
pub fn saved_index(store: &dyn Store, group: GroupId) -> Result<Option<u64>, StoreError> {
    let Some(row) = store.get_state(group, StateKind::APPLIED, None)? else {
        return Ok(None);
    };
    let record = record::decode_state(&row).map_err(|cause| unreadable(store, group, "the saved state", &cause))?;
    Ok(record.meta.last_log_id.map(|id| id.index))
}
