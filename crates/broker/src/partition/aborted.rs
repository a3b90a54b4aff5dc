//! The aborted transactions of a partition, for readers who leave out what they wrote: the last ones in memory, all in the table
//! `aborted`.

use std::collections::VecDeque;
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

/// Aborted transactions kept in memory, so that reading at the end of the log does not ask the disk for them.
const RECENT_MAX: usize = 256;

/// The last aborted transactions, by their markers.
#[derive(Default)]
pub(super) struct RecentAborted {
    rows: VecDeque<AbortedTransaction>,
    /// All whose markers lie at or above this offset are here.
    all_from: Offset,
}

impl RecentAborted {
    /// Of a replica whose state was read, and has this end.
    pub fn begin(end: Offset) -> Self {
        Self {
            rows: VecDeque::new(),
            all_from: end,
        }
    }

    /// Adds further ones, in their order.
    pub fn add(&mut self, further: impl Iterator<Item = AbortedTransaction>) {
        self.rows.extend(further);
        let excess = self.rows.len().saturating_sub(RECENT_MAX);
        if let Some(last) = self.rows.drain(..excess).next_back() {
            self.all_from = Offset(last.marker.get() + 1);
        }
    }

    /// Those with records in these offsets; `None`: they are not all here.
    pub fn within(&self, within: Range<Offset>) -> Option<Vec<AbortedTransaction>> {
        if within.start < self.all_from {
            return None;
        }
        let start = self.rows.partition_point(|row| row.marker < within.start);
        let mut picked = Vec::new();
        for row in self.rows.range(start..) {
            if !pick(row, within.end, &mut picked) {
                break;
            }
        }
        Some(picked)
    }
}

/// Those with records in these offsets, from the table. Blocks.
fn stored_within(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: i64, marker: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(first),
            first: Offset(first),
            marker: Offset(marker),
            stable_after: Offset(marker + 1),
        }
    }

    #[test]
    fn what_is_not_all_in_memory_is_asked_for_elsewhere() {
        let mut recent = RecentAborted::begin(Offset(100));
        assert_eq!(recent.within(Offset(99)..Offset(200)), None);
        assert_eq!(recent.within(Offset(100)..Offset(200)), Some(Vec::new()));
        let count = RECENT_MAX as i64 + 2;
        recent.add((0..count).map(|at| row(100 + 2 * at, 101 + 2 * at)));
        assert_eq!(recent.within(Offset(103)..Offset(200)), None, "the first two have gone");
        let two = recent.within(Offset(105)..Offset(107)).expect("they are here");
        assert_eq!(two, [row(104, 105), row(106, 107)]);
    }
}
