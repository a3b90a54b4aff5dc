//! Reads the aborted transactions of a partition from their table.

use std::ops::{ControlFlow, Range};

use jangada_log::AbortedTransaction;
use jangada_log::tables::ABORTED;
use jangada_log::tables::aborted::pick;
use jangada_log::tables::offset_index::key_of;
use jangada_storage::{KeyRange, Store, StoreError};
use jangada_types::{GroupId, Offset};

/// Those with records in these offsets, from the table. Blocks.
pub(super) fn stored_within(
    store: &dyn Store,
    group: GroupId,
    within: Range<Offset>,
) -> Result<Vec<AbortedTransaction>, StoreError> {
    let mut picked = Vec::new();
    let from = key_of(within.start);
    store.scan_rows(group, &ABORTED, KeyRange::from(&from), usize::MAX, &mut |key, value| {
        let row = AbortedTransaction::decode(key, value)?;
        Ok(match pick(&row, within.end, &mut picked) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })?;
    Ok(picked)
}
