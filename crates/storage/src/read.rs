//! Reads that merge what is in memory with what is in RocksDB.
//!
//! The group's lock is never held while RocksDB is read. What removes entries (truncation, purge, deletion) counts up
//! `removals`; a read that finds the count changed afterwards looks again, so that it never joins entries of two
//! histories.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use jangada_types::{RowError, Table};

use crate::database::Database;
use crate::error::StoreError;
use crate::group::{Group, GroupState};
use crate::store::{KeyRange, LogEntry, RowVisitor, StateKind};
use crate::tables::{STATE, state_key, state_suffix};

/// The part of a range that the log has; `None` if it has none of it.
fn present(state: &GroupState, range: &Range<u64>) -> Option<Range<u64>> {
    let first = state.first?;
    let last = state.bounds.last?;
    let present = range.start.max(first)..range.end.min(last.index + 1);
    (!present.is_empty()).then_some(present)
}

/// Entries that are in memory, without blocking; `None` if the first of them is not.
pub(crate) fn log_cached(group: &Group, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>> {
    let state = group.lock();
    let mut found = Vec::new();
    if let Some(range) = present(&state, &range) {
        if state.tail.first_index().is_none_or(|first| first > range.start) {
            return None;
        }
        state.tail.read(range, &mut found, 0, max_bytes);
    }
    Some(found)
}

/// Entries from disk and from memory.
pub(crate) fn log(
    group: &Group,
    database: &Database,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    let mut found: Vec<LogEntry> = Vec::new();
    let mut bytes = 0_usize;
    let mut full = false;
    let mut removals = None;
    loop {
        let on_disk = {
            let state = group.lock();
            if removals != Some(state.removals) {
                // The first round, or what was read meanwhile may be of another history.
                removals = Some(state.removals);
                found.clear();
                (bytes, full) = (0, false);
            }
            let Some(mut rest) = present(&state, &range) else {
                return Ok(found);
            };
            rest.start += found.len() as u64;
            if full || rest.is_empty() {
                return Ok(found);
            }
            // The tail may begin later than in the last round, as it is evicted from the front.
            match state.tail.first_index() {
                Some(first) if first <= rest.start => {
                    state.tail.read(rest, &mut found, bytes, max_bytes);
                    return Ok(found);
                }
                Some(first) => rest.start..first.min(rest.end),
                None => rest,
            }
        };
        let read = database.read_log(group.place, on_disk.clone(), max_bytes.saturating_sub(bytes))?;
        if read.is_empty() && removals == Some(group.lock().removals) {
            return Err(missing(on_disk.start));
        }
        full = (read.len() as u64) < on_disk.end - on_disk.start;
        for entry in read {
            bytes = bytes.saturating_add(entry.payload_len());
            if bytes > max_bytes && !found.is_empty() {
                full = true;
                break;
            }
            found.push(entry);
        }
    }
}

fn missing(index: u64) -> StoreError {
    StoreError::Corrupt(format!("log entry {index} is missing on disk"))
}

/// Term of an entry or of the purged one.
pub(crate) fn term_at(group: &Group, database: &Database, index: u64) -> Result<Option<u64>, StoreError> {
    loop {
        let removals = {
            let state = group.lock();
            if let Some(term) = state.term_in_memory(index) {
                return Ok(Some(term));
            }
            if present(&state, &(index..index.saturating_add(1))).is_none() {
                return Ok(None);
            }
            state.removals
        };
        let term = database.term_at(group.place, index)?;
        if group.lock().removals == removals {
            return match term {
                Some(term) => Ok(Some(term)),
                None => Err(missing(index)),
            };
        }
    }
}

/// One row of state.
pub(crate) fn state(
    group: &Group,
    database: &Database,
    kind: StateKind,
    suffix: u64,
) -> Result<Option<Bytes>, StoreError> {
    row(group, database, &STATE, &state_key(kind, suffix))
}

/// One row of a table.
pub(crate) fn row(
    group: &Group,
    database: &Database,
    table: &'static Table,
    key: &[u8],
) -> Result<Option<Bytes>, StoreError> {
    let pending = group.lock().rows(table).get(key);
    match pending {
        Some(value) => Ok(value),
        None => database.row(group.place, table, key),
    }
}

/// All rows of state of one kind.
pub(crate) fn scan_state(group: &Group, database: &Database, kind: StateKind) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let (from, to) = (state_key(kind, 0), kind.0.checked_add(1).map(|next| [next]));
    let keys = KeyRange {
        from: &from,
        to: to.as_ref().map(|next| &next[..]),
    };
    let mut found = Vec::new();
    rows(group, database, &STATE, keys, usize::MAX, &mut |key, value| {
        let suffix =
            state_suffix(key).ok_or_else(|| RowError::Damaged("a row of state has a foreign key".to_owned()))?;
        found.push((suffix, Bytes::copy_from_slice(value)));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Rows of a table, those in memory before those on disk with the same key.
pub(crate) fn rows(
    group: &Group,
    database: &Database,
    table: &'static Table,
    keys: KeyRange<'_>,
    limit: usize,
    visitor: &mut RowVisitor<'_>,
) -> Result<(), StoreError> {
    while !rows_of_one_moment(group, database, table, keys, limit, visitor)? {}
    Ok(())
}

/// False: rows were rewritten between the looks into memory and into RocksDB, and the visitor was shown nothing.
fn rows_of_one_moment(
    group: &Group,
    database: &Database,
    table: &'static Table,
    keys: KeyRange<'_>,
    limit: usize,
    visitor: &mut RowVisitor<'_>,
) -> Result<bool, StoreError> {
    let (mut view, rewrites) = {
        let state = group.lock();
        (state.rows(table).view(keys.from, keys.to, limit), state.rewrites)
    };
    let mut memory = std::mem::take(&mut view.memory).into_iter().peekable();
    let mut shown = 0;
    // Break also says that there are as many as may be.
    let mut show = |key: &[u8], value: &[u8]| {
        if shown == limit {
            return Ok(ControlFlow::Break(()));
        }
        shown += 1;
        visitor(key, value)
    };
    if let Some(from) = &view.disk_from {
        let mut has_enough = false;
        let is_current = || group.lock().rewrites == rewrites;
        let is_shown = database.scan(group.place, table, (from, keys.to), is_current, &mut |key, value| {
            while let Some((before, pending)) = memory.next_if(|(pending, _)| pending[..] < *key) {
                if let Some(pending) = pending
                    && show(&before, &pending)?.is_break()
                {
                    has_enough = true;
                    return Ok(ControlFlow::Break(()));
                }
            }
            let step = match memory.next_if(|(pending, _)| pending[..] == *key) {
                Some((_, Some(pending))) => show(key, &pending)?,
                Some((_, None)) => ControlFlow::Continue(()),
                None if view.is_hidden(key) => ControlFlow::Continue(()),
                None => show(key, value)?,
            };
            has_enough = step.is_break();
            Ok(step)
        })?;
        if !is_shown {
            return Ok(false);
        }
        if has_enough {
            return Ok(true);
        }
    }
    for (key, value) in memory {
        if let Some(value) = value
            && show(&key, &value)?.is_break()
        {
            break;
        }
    }
    Ok(true)
}
