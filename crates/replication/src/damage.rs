//! What a replica's log, index and records cannot be: damage, which is told to the store and stops the group.

use std::io;

use bytes::Bytes;
use jangada_storage::{StateKind, Store, StoreError};
use jangada_types::{GroupId, Offset};

use crate::codec::{self, CodecError};
use crate::raft_types::LogId;
use crate::raft_types::next_index;

/// A record of a group that cannot be read: damage, unless a later version wrote it.
pub(crate) fn unreadable(store: &dyn Store, group: GroupId, what: &str, cause: &CodecError) -> StoreError {
    match cause {
        CodecError::Version { .. } => StoreError::LaterVersion(format!("group {group}: {what}: {cause}")),
        cause => store.damage().report(group, format!("{what}: {cause}")),
    }
}

/// The offset index lies within the log: its first row is of an entry that is not purged, and the row of the last offset
/// of the saved state, if it is there, of one that is. What lies between is looked at when it is read.
pub(crate) fn check_index(store: &dyn Store, group: GroupId, position: Offset) -> io::Result<()> {
    let row_at = |offset| {
        let rows = store.index_at_or_after(group, offset, 1).map_err(io::Error::other)?;
        Ok::<_, io::Error>(rows.first().copied())
    };
    let damaged = |what: String| io::Error::other(store.damage().report(group, what));
    let begin = store.bounds(group).first_index();
    if let Some(row) = row_at(Offset(0))?.filter(|row| row.raft_index < begin) {
        return Err(damaged(format!(
            "the index begins with offset {} in entry {}, and the log begins at {begin}",
            row.base_offset, row.raft_index
        )));
    }
    let last = Offset(position.get() - 1);
    let Some(row) = row_at(last)?.filter(|_| last >= Offset(0)) else {
        return Ok(());
    };
    let term = store.term_at(group, row.raft_index).map_err(io::Error::other)?;
    if term == Some(u64::from(row.epoch.get())) {
        return Ok(());
    }
    let found = term.map_or_else(|| "nothing".to_owned(), |term| format!("an entry of term {term}"));
    Err(damaged(format!(
        "offset {last} is in entry {} of term {}, and the log has there {found}",
        row.raft_index, row.epoch
    )))
}

/// What the state machine's state was at the group's snapshot; `None`: there is none. Of a group whose log is its data the offset
/// index begins at its position: rows below go in the write that brings the snapshot, and only then.
///
/// # Errors
/// [`StoreError::Damaged`] when it cannot be read, and what reading runs into.
pub fn snapshot_state(store: &dyn Store, group: GroupId) -> Result<Option<Bytes>, StoreError> {
    let Some(row) = store.get_state(group, StateKind::SNAPSHOT, None)? else {
        return Ok(None);
    };
    match codec::decode_state(&row) {
        Ok(record) => Ok(Some(record.state)),
        Err(cause) => Err(unreadable(store, group, "the snapshot", &cause)),
    }
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
