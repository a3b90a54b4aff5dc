//! The aborted transactions of a partition, for readers who leave out what they wrote: the last ones in memory
//! (`recent_aborted`), all in the table `aborted`.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use jangada_log::AbortedTransaction;
use jangada_log::tables::ABORTED;
use jangada_log::tables::aborted::pick;
use jangada_log::tables::offset_index::key_of;
use jangada_storage::{KeyRange, Store, StoreError};
use jangada_types::{GroupId, Offset, ProducerId};

use super::Partition;
use super::isolation::{Isolation, Reading, begins_with_transactions, visible};
use crate::error::RequestError;

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

impl Partition {
    /// The aborted transactions with records in these offsets, by their markers. All are known of what lies below the last stable
    /// offset.
    pub(super) async fn aborted_within(&self, within: Range<Offset>) -> Result<Vec<AbortedTransaction>, RequestError> {
        if let Some(recent) = self.view.recent_aborted(within.clone()) {
            return Ok(recent);
        }
        let (store, group) = (self.shared.store.clone(), self.hosted.group.id());
        let read = move || stored_within(&*store, group, within);
        let read = self.shared.read_pool.run(read).await?;
        read.map_err(|error| self.hosted.store_error(&error))
    }

    /// Of batches that were read up to `next`, what the reader sees, and the aborted transactions that are named to it, by their first
    /// offsets.
    pub(super) async fn seen_by(
        &self,
        reading: Reading,
        batches: Bytes,
        next: Offset,
    ) -> Result<(Bytes, Vec<(ProducerId, Offset)>), RequestError> {
        let Some(first) = begins_with_transactions(&batches) else {
            return Ok((batches, Vec::new()));
        };
        let aborted = match reading.isolation {
            Isolation::Committed => self.aborted_within(first..next).await?,
            Isolation::Uncommitted => Vec::new(),
        };
        if reading.aborted_list {
            let mut named: Vec<_> = aborted
                .iter()
                .map(|aborted| (aborted.producer_id, aborted.first))
                .collect();
            named.sort_unstable_by_key(|(_, first)| *first);
            return Ok((batches, named));
        }
        Ok((visible(batches, reading.isolation, aborted), Vec::new()))
    }
}
