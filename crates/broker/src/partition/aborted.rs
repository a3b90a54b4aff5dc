//! The aborted transactions of a partition, for readers who leave out what they wrote: the last ones in memory
//! (`recent_aborted`), all in the table `aborted` (`aborted_rows`).

use std::ops::Range;

use bytes::Bytes;
use jangada_log::AbortedTransaction;
use jangada_types::{Offset, ProducerId};

use super::Partition;
use super::aborted_rows::stored_within;
use super::isolation::{Isolation, Reading, begins_with_transactions, visible};
use crate::error::RequestError;

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
