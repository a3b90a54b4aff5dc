//! What a replica's log, tables and records cannot be: damage, which is told to the store and stops the group.

use std::io;

use jangada_storage::{Store, StoreError, first_at_or_after};
use jangada_types::table::{CutOff, ReadEntry, number_key};
use jangada_types::{GroupId, Offset, Table};

use crate::codec::CodecError;
use crate::raft_types::LogId;
use crate::raft_types::next_index;

/// A record of a group that cannot be read: damage, unless a later version wrote it.
pub(crate) fn unreadable(store: &dyn Store, group: GroupId, what: &str, cause: &CodecError) -> StoreError {
    match cause {
        CodecError::Version { .. } => StoreError::LaterVersion(format!("group {group}: {what}: {cause}")),
        cause => store.damage().report(group, format!("{what}: {cause}")),
    }
}

/// Rows that are about log entries lie within the log: the first one of each table is about an entry that is not purged, and the
/// one of the last position of the saved state, if it is there, about one that is there. What lies between is looked at when it
/// is read.
pub(crate) fn check_tables(store: &dyn Store, group: GroupId, position: Offset) -> io::Result<()> {
    let cut_by_key = |table: &&&Table| matches!(table.cut_off, CutOff::ByKey);
    for table in store.tables().iter().filter(cut_by_key) {
        if let Some(entry_of) = table.entry {
            check_table(store, group, table, entry_of, position)?;
        }
    }
    Ok(())
}

fn check_table(
    store: &dyn Store,
    group: GroupId,
    table: &'static Table,
    entry_of: ReadEntry,
    position: Offset,
) -> io::Result<()> {
    let entry_from = |key: &[u8]| first_at_or_after(store, group, table, key, entry_of).map_err(io::Error::other);
    let damaged = |what: String| io::Error::other(store.damage().report(group, what));
    let begin = store.bounds(group).first_index();
    if let Some(first) = entry_from(b"")?.filter(|entry| entry.index < begin) {
        return Err(damaged(format!(
            "the table {} begins with a row of entry {}, and the log begins at {begin}",
            table.name, first.index
        )));
    }
    let Some(last) = u64::try_from(position.get()).ok().and_then(|next| next.checked_sub(1)) else {
        return Ok(());
    };
    let Some(entry) = entry_from(&number_key(last))? else {
        return Ok(());
    };
    let term = store.term_at(group, entry.index).map_err(io::Error::other)?;
    if term == Some(entry.term) {
        return Ok(());
    }
    let found = term.map_or_else(|| "nothing".to_owned(), |term| format!("an entry of term {term}"));
    Err(damaged(format!(
        "the row of position {last} in the table {} is of entry {} of term {}, and the log has there {found}",
        table.name, entry.index, entry.term
    )))
}

/// An entry is applied only right behind the one before: one that is left out would shift all offsets after it.
pub(crate) fn check_next(store: &dyn Store, group: GroupId, applied: Option<LogId>, index: u64) -> io::Result<()> {
    let expected = next_index(applied);
    if index == expected {
        return Ok(());
    }
    let what = format!("entry {index} is to be applied where entry {expected} belongs");
    Err(io::Error::other(store.damage().report(group, what)))
}
