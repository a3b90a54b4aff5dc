//! Reads a group's rows as they lie in RocksDB, so that damage is found before a reader needs what is damaged.
//!
//! A scrub goes through the families of one group in pieces of bounded size, each with an iterator of its own, so that it
//! pins no files. Checksums of blocks and of blobs are verified, the block cache is left alone, entries of the log must follow
//! one another, and each table judges its rows. What is still in memory is at rest nowhere and is not looked at.

use std::sync::atomic::Ordering::Relaxed;

use crate::codec;
use crate::commit_rows;
use crate::database::{Database, row_key};
use crate::error::StoreError;
use crate::group::Group;
use crate::places;
use crate::scrub_cursor::{ScrubCursor, Scrubbed};
use crate::tables::LOG;

/// Reads about `max_bytes` from the cursor on.
pub(crate) fn piece(
    group: &Group,
    database: &Database,
    mut cursor: ScrubCursor,
    max_bytes: u64,
) -> Result<Scrubbed, StoreError> {
    let tables = database.tables().all();
    let table = cursor.family.checked_sub(1).map(|slot| tables[slot]);
    let family = table.map_or(LOG, |table| table.name);
    let log = table.is_none().then(|| LogPart::of(group));
    if let Some(log) = &log {
        // What was purged meanwhile is no concern any more.
        let start = cursor.next.unwrap_or(log.first).max(log.first);
        cursor.next = Some(start);
        cursor.key = group.place.log(start).to_vec();
    }
    let start = match cursor.key.is_empty() {
        true => group.place.start().to_vec(),
        false => cursor.key.clone(),
    };
    let mut next = cursor.next;
    let mut is_first = true;
    let (mut rows, mut last_key) = (0_u64, Vec::new());
    let mut check = |key: &[u8], value: &[u8]| -> Result<(), StoreError> {
        let is_next = !std::mem::take(&mut is_first) || key == cursor.key;
        let Some(table) = table else {
            let index = places::number_of(key).unwrap_or(u64::MAX);
            if next.is_some_and(|next| next != index) {
                return Err(StoreError::Corrupt(missing(next, index)));
            }
            codec::decode_log(index, value)?;
            next = Some(index + 1);
            return Ok(());
        };
        if commit_rows::check(group.id, table, key, value)? {
            return Ok(());
        }
        rows += 1;
        last_key.clear();
        last_key.extend_from_slice(key);
        // Rows may have gone between two pieces.
        let before = next.filter(|_| is_next);
        next = (table.check)(before, row_key(group.place, table, key)?, value)?;
        Ok(())
    };
    let read = database.scrub(family, &start, &group.place.end(), max_bytes, &mut check);
    let (bytes, rest) = match read {
        // Rows went while they were read: what is left is judged in the next piece.
        Err(_) if log.as_ref().is_some_and(|log| log.has_changed(group)) => (0, Some(cursor.key.clone())),
        read => read?,
    };
    if rest.is_none()
        && let (Some(log), Some(next)) = (&log, next)
        && next < log.on_disk_until
        && !log.has_changed(group)
    {
        return Err(StoreError::Corrupt(missing(Some(next), log.on_disk_until)));
    }
    database.counters().scrubbed_bytes.fetch_add(bytes, Relaxed);
    let next = match rest {
        // The piece's last row is read once more: until then it may have gone into the one behind it, as rows of what was compacted do, and
        // two rows of different moments must not be held against each other.
        Some(_) if rows > 1 => Some(ScrubCursor {
            family: cursor.family,
            key: last_key,
            next: None,
        }),
        Some(key) => Some(ScrubCursor {
            family: cursor.family,
            key,
            next,
        }),
        None => (cursor.family < tables.len()).then(|| ScrubCursor {
            family: cursor.family + 1,
            ..ScrubCursor::default()
        }),
    };
    Ok(Scrubbed { bytes, next })
}

fn missing(expected: Option<u64>, found: u64) -> String {
    let expected = expected.unwrap_or_default();
    format!("log entry {expected} is missing on disk; the next one is {found}")
}

/// What a log has on disk.
struct LogPart {
    first: u64,
    /// Entries up to here were written before the scrub began.
    on_disk_until: u64,
    removals: u64,
}

impl LogPart {
    fn of(group: &Group) -> Self {
        let state = group.lock();
        let next = state.bounds.next_index().unwrap_or(0);
        Self {
            first: state.first.unwrap_or(next),
            on_disk_until: match state.first {
                Some(_) => state.tail.first_index().unwrap_or(next),
                None => 0,
            },
            removals: state.removals,
        }
    }

    fn has_changed(&self, group: &Group) -> bool {
        group.lock().removals != self.removals
    }
}
