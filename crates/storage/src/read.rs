//! Reads that merge what is in memory with what is in RocksDB.
//!
//! The group's lock is never held while RocksDB is read. What removes entries (truncation, purge, deletion) counts up
//! `removals`; a read that finds the count changed afterwards looks again, so that it never joins entries of two
//! histories.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use jangada_types::Offset;

use crate::database::Database;
use crate::error::StoreError;
use crate::group::{Group, GroupState};
use crate::overlay::IndexView;
use crate::store::{IndexEntry, LogEntry, StateKind};

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
    let pending = group.lock().pending.get(kind, suffix);
    match pending {
        Some(value) => Ok(value),
        None => database.state(group.place, kind, suffix),
    }
}

/// The last offset of a key.
pub(crate) fn key(group: &Group, database: &Database, key: &[u8]) -> Result<Option<Offset>, StoreError> {
    let pending = group.lock().keys.get(key);
    match pending {
        Some(offset) => Ok(offset),
        None => database.key(group.place, key),
    }
}

/// All rows of state of one kind.
pub(crate) fn scan_state(group: &Group, database: &Database, kind: StateKind) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let (pending, disk_visible) = group.lock().pending.scan(kind);
    let on_disk = if disk_visible {
        database.scan_state(group.place, kind)?
    } else {
        Vec::new()
    };
    let mut rows: BTreeMap<u64, Bytes> = on_disk.into_iter().collect();
    for (suffix, value) in pending {
        match value {
            Some(value) => rows.insert(suffix, value),
            None => rows.remove(&suffix),
        };
    }
    Ok(rows.into_iter().collect())
}

/// Rows of the index from an offset on.
pub(crate) fn index_at_or_after(
    group: &Group,
    database: &Database,
    offset: Offset,
    limit: usize,
) -> Result<Vec<IndexEntry>, StoreError> {
    let view = group.lock().index.view(offset);
    match view {
        IndexView::Memory(mut rows) => {
            rows.truncate(limit);
            Ok(rows)
        }
        IndexView::Merge(from, in_memory) => {
            let on_disk = database.index_from(group.place, from, limit)?;
            let mut rows: BTreeMap<Offset, IndexEntry> =
                on_disk.into_iter().map(|row| (row.last_offset, row)).collect();
            rows.extend(in_memory.into_iter().map(|row| (row.last_offset, row)));
            Ok(rows.into_values().take(limit).collect())
        }
    }
}

/// First row from an offset on that reaches a timestamp.
pub(crate) fn index_by_timestamp(
    group: &Group,
    database: &Database,
    from: Offset,
    timestamp_ms: i64,
) -> Result<Option<IndexEntry>, StoreError> {
    let reaches = |row: &IndexEntry| row.max_timestamp_ms >= timestamp_ms;
    let view = group.lock().index.view(from);
    let (on_disk, in_memory) = match view {
        IndexView::Memory(rows) => (None, rows),
        IndexView::Merge(from, rows) => (database.index_by_timestamp(group.place, from, timestamp_ms)?, rows),
    };
    // Rows come in the order of offsets, so the lower one of the two is the first.
    let in_memory = in_memory.into_iter().find(reaches);
    Ok([on_disk, in_memory]
        .into_iter()
        .flatten()
        .min_by_key(|row| row.last_offset))
}
