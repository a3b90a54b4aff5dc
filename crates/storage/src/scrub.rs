//! Reads a group's rows as they lie in RocksDB, so that damage is found before a reader needs what is damaged.
//!
//! A scrub goes through the families of one group in pieces of bounded size, each with an iterator of its own, so that it
//! pins no files. Checksums of blocks and of blobs are verified, the block cache is left alone, and entries of the log and
//! rows of the index must follow one another. What is still in memory is at rest nowhere and is not looked at.

use std::sync::atomic::Ordering::Relaxed;

use crate::codec;
use crate::database::{Database, INDEX, KEYS, LOG, STATE};
use crate::error::StoreError;
use crate::group::Group;
use crate::places;

/// The families, in the order in which they are read.
const FAMILIES: [&str; 4] = [LOG, INDEX, KEYS, STATE];

/// Where the scrub of a group goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    /// Index into the families.
    family: usize,
    /// First key to be read; empty: the family's first.
    key: Vec<u8>,
    /// Number that the next row of the log or the index must begin with, if it is known.
    next: Option<u64>,
}

/// One piece of a scrub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes of keys and values that were read and are sound.
    pub bytes: u64,
    /// Where to go on; none: the group is through.
    pub next: Option<ScrubCursor>,
}

/// Reads about `max_bytes` from the cursor on.
pub(crate) fn piece(
    group: &Group,
    database: &Database,
    mut cursor: ScrubCursor,
    max_bytes: u64,
) -> Result<Scrubbed, StoreError> {
    let family = FAMILIES[cursor.family];
    let log = (family == LOG).then(|| LogPart::of(group));
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
    let mut check = |key: &[u8], value: &[u8]| -> Result<(), StoreError> {
        let is_next = !std::mem::take(&mut is_first) || key == cursor.key;
        match family {
            LOG => {
                let index = places::number_of(key).unwrap_or(u64::MAX);
                if next.is_some_and(|next| next != index) {
                    return Err(StoreError::Corrupt(missing(next, index)));
                }
                codec::decode_log(index, value)?;
                next = Some(index + 1);
            }
            // Rows may have gone between two pieces.
            INDEX => next = Some(check_index(key, value, next.filter(|_| is_next))?),
            KEYS => {
                codec::decode_key_offset(value)?;
            }
            // Their form is a matter of the crates above.
            _ => {}
        }
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
        Some(key) => Some(ScrubCursor {
            family: cursor.family,
            key,
            next,
        }),
        None => (cursor.family + 1 < FAMILIES.len()).then(|| ScrubCursor {
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

/// The offset that the row after this one begins with.
fn check_index(key: &[u8], value: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
    let row = crate::database::index_row(key, value)?;
    let base = u64::try_from(row.base_offset.get()).unwrap_or(u64::MAX);
    if expected.is_some_and(|expected| expected != base) {
        return Err(StoreError::Corrupt(format!(
            "the index has a row from offset {base} on where offset {} belongs",
            expected.unwrap_or_default()
        )));
    }
    Ok(row.last_offset.get().unsigned_abs() + 1)
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
