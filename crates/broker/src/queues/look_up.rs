//! The rows that an engine wants, as ranges of the table of marks.

use bytes::Bytes;
use jangada_machine::{Row, RowRange};
use jangada_queue::engine::{Rows, RowsWanted};
use jangada_queue::tables::{MARKS, MarkRow, RowKind, key_of};
use jangada_types::RowError;

/// The range of rows.
pub(super) fn range_of(wanted: &RowsWanted) -> RowRange {
    let (kind, from, to, limit) = match *wanted {
        RowsWanted::Batches { from, limit } => (RowKind::Batch, (0, from), (1, 0), limit),
        RowsWanted::Timers { after, limit } => (RowKind::Timer, behind(after.0, after.1), (u64::MAX, u64::MAX), limit),
        RowsWanted::Key { key, after, limit } => (RowKind::Key, behind(key, after), behind(key, u64::MAX), limit),
        RowsWanted::Lane { lane, from, limit } => {
            let lane = u64::from(lane);
            (RowKind::Lane, (lane, from), (lane + 1, 0), limit)
        }
        RowsWanted::Origin { old } => (RowKind::Origin, (old, 0), (old + 1, 0), 1),
    };
    let key = |(a, b)| Bytes::copy_from_slice(&key_of(kind, a, b));
    RowRange {
        table: &MARKS,
        from: key(from),
        to: Some(key(to)),
        limit,
    }
}

/// The place behind another one.
fn behind(a: u64, b: u64) -> (u64, u64) {
    match b.checked_add(1) {
        Some(b) => (a, b),
        None => (a.saturating_add(1), 0),
    }
}

/// The rows that were read of such a range.
///
/// # Errors
/// One is damaged, or a later build wrote it.
pub(super) fn rows_of(rows: &[Row], limit: usize) -> Result<Rows, RowError> {
    let read: Result<Vec<MarkRow>, RowError> = rows.iter().map(|(key, value)| MarkRow::decode(key, value)).collect();
    Ok(Rows {
        is_all: rows.len() < limit,
        rows: read?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(wanted: &RowsWanted, kind: RowKind, a: u64, b: u64) -> bool {
        let (range, key) = (range_of(wanted), key_of(kind, a, b));
        range.from[..] <= key[..] && range.to.is_none_or(|to| key[..] < to[..])
    }

    #[test]
    fn a_range_has_the_rows_that_are_wanted_and_no_others() {
        let batches = RowsWanted::Batches { from: 7, limit: 9 };
        assert!(within(&batches, RowKind::Batch, 0, 7) && within(&batches, RowKind::Batch, 0, u64::MAX));
        assert!(!within(&batches, RowKind::Batch, 0, 6) && !within(&batches, RowKind::Timer, 0, 8));
        let after = (5, u64::MAX);
        let timers = RowsWanted::Timers { after, limit: 9 };
        assert!(within(&timers, RowKind::Timer, 6, 0) && !within(&timers, RowKind::Timer, 5, u64::MAX));
        let key = RowsWanted::Key {
            key: 3,
            after: 8,
            limit: 9,
        };
        assert!(within(&key, RowKind::Key, 3, 9) && within(&key, RowKind::Key, 3, u64::MAX));
        assert!(!within(&key, RowKind::Key, 3, 8) && !within(&key, RowKind::Key, 4, 0));
        let lane = RowsWanted::Lane {
            lane: 2,
            from: 4,
            limit: 9,
        };
        assert!(within(&lane, RowKind::Lane, 2, 4) && !within(&lane, RowKind::Lane, 3, 4));
        let origin = RowsWanted::Origin { old: 6 };
        assert!(within(&origin, RowKind::Origin, 6, 0) && !within(&origin, RowKind::Origin, 7, 0));
    }
}
