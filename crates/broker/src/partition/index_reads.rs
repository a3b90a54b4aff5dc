//! Looks rows of the offset index up in the store. Everything here blocks.

use std::ops::{ControlFlow, Range};

use jangada_log::tables::offset_index::{IndexEntry, OFFSET_INDEX, key_of};
use jangada_storage::{KeyRange, Store, StoreError};
use jangada_types::{GroupId, Offset};

/// Rows from the one that holds an offset on, until there are `limit` or their batches have `max_bytes`, at least one.
pub(super) fn rows_from(
    store: &dyn Store,
    group: GroupId,
    offset: Offset,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<IndexEntry>, StoreError> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    store.scan_rows(
        group,
        &OFFSET_INDEX,
        KeyRange::from(&key_of(offset)),
        limit,
        &mut |key, value| {
            let row = IndexEntry::decode(key, value)?;
            bytes += row.size_bytes as usize;
            if bytes > max_bytes && !rows.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            rows.push(row);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(rows)
}

/// The row that holds an offset, or the one behind it.
pub(super) fn row_at(store: &dyn Store, group: GroupId, offset: Offset) -> Result<Option<IndexEntry>, StoreError> {
    jangada_storage::first_at_or_after(store, group, &OFFSET_INDEX, &key_of(offset), IndexEntry::decode)
}

/// The first row of these offsets with a batch that has a record at or after a time.
///
/// The running maximum never falls, so halving the offsets finds the first row where it reaches the time. Only if that is the
/// very first row the maximum may come from a row before it; then rows are looked at one by one.
pub(super) fn row_by_timestamp(
    store: &dyn Store,
    group: GroupId,
    within: Range<Offset>,
    timestamp_ms: i64,
) -> Result<Option<IndexEntry>, StoreError> {
    let reaches = |row: &IndexEntry| row.running_max_timestamp_ms >= timestamp_ms;
    let (mut low, mut high) = (within.start.get().max(0), within.end.get() - 1);
    if !row_at(store, group, Offset(high))?.is_some_and(|last| reaches(&last)) {
        return Ok(None);
    }
    // The first row that reaches it ends at an offset in low..=high.
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(row) = row_at(store, group, Offset(middle))? else {
            return Ok(None);
        };
        match reaches(&row) {
            true => high = middle,
            false => low = row.last_offset.get() + 1,
        }
    }
    let (from, to) = (key_of(Offset(low)), key_of(within.end));
    let keys = KeyRange {
        from: &from,
        to: Some(&to),
    };
    let mut found = None;
    store.scan_rows(group, &OFFSET_INDEX, keys, usize::MAX, &mut |key, value| {
        let row = IndexEntry::decode(key, value)?;
        if row.max_timestamp_ms < timestamp_ms {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(row);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use jangada_storage::{Durability, Op};
    use jangada_types::{LeaderEpoch, RowChange};

    use super::*;
    use crate::testing::Alone;

    const GROUP: GroupId = GroupId(1);

    /// Rows of batches of ten records with these times.
    fn rows(timestamps: &[i64]) -> Vec<IndexEntry> {
        let mut running = i64::MIN;
        let rows = timestamps.iter().enumerate().map(|(at, timestamp)| {
            running = running.max(*timestamp);
            let base = at as i64 * 10;
            IndexEntry {
                last_offset: Offset(base + 9),
                base_offset: Offset(base),
                raft_index: at as u64 + 1,
                epoch: LeaderEpoch(3),
                max_timestamp_ms: *timestamp,
                running_max_timestamp_ms: running,
                size_bytes: 100,
                original_bytes: 100,
                offsets_before: 0,
            }
        });
        rows.collect()
    }

    fn put(store: &dyn Store, rows: &[IndexEntry]) {
        let ops = rows.iter().map(|row| {
            let (key, value) = row.encode();
            Op::Row(RowChange::Put {
                table: &OFFSET_INDEX,
                key: key.to_vec().into(),
                value: value.as_ref().to_vec().into(),
            })
        });
        store.write(GROUP, ops.collect(), Durability::Lazy, None);
    }

    #[tokio::test]
    async fn rows_are_read_until_they_have_enough_bytes() {
        let alone = Alone::start();
        alone.store.open_group(GROUP).expect("it opens");
        let all = rows(&[0; 20]);
        put(&*alone.store, &all);
        let read = |offset, limit, max_bytes| {
            rows_from(&*alone.store, GROUP, Offset(offset), limit, max_bytes).expect("readable")
        };
        assert_eq!(read(15, 100, 250), all[1..3]);
        assert_eq!(read(15, 100, 300), all[1..4]);
        assert_eq!(read(15, 2, 5000), all[1..3]);
        assert_eq!(read(15, 100, 0), all[1..2], "at least one");
        assert_eq!(read(0, 100, usize::MAX), all);
        assert!(read(200, 100, 0).is_empty());
        alone.registry.shutdown().await;
    }

    /// Also when times go back and forth, and for rows that are on disk or in memory only.
    #[tokio::test]
    async fn the_first_row_that_reaches_a_time_is_found() {
        let mut timestamps: Vec<i64> = (0..300).map(|at| at * 10).collect();
        timestamps[50] = 2000;
        let all = rows(&timestamps);
        let alone = Alone::start();
        let store = &*alone.store;
        store.open_group(GROUP).expect("it opens");
        put(store, &all[..290]);
        store.close_group(GROUP);
        // What was queued is written by then.
        store.open_group(GROUP).expect("it opens again");
        put(store, &all[290..]);
        for from in [0, 5, 300, 505, 510, 2500, 2995] {
            for end in [2500, 2996, 3000] {
                for timestamp in [-5, 0, 1, 100, 495, 500, 501, 1999, 2000, 2001, 2890, 2990, 2991] {
                    let is_first =
                        |row: &&IndexEntry| row.last_offset >= Offset(from) && row.max_timestamp_ms >= timestamp;
                    let expected = all.iter().find(is_first).filter(|row| row.last_offset < Offset(end));
                    let found = row_by_timestamp(store, GROUP, Offset(from)..Offset(end), timestamp);
                    let found = found.expect("readable").filter(|row| row.last_offset < Offset(end));
                    assert_eq!(found.as_ref(), expected, "{from}..{end}, time {timestamp}");
                }
            }
        }
        alone.registry.shutdown().await;
    }
}
