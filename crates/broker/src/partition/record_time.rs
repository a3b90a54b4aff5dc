//! The time of one record, and how old the oldest messages of a queue are.

use jangada_queue::QueueId;
use jangada_queue::engine::{Oldest, SlotCounts};
use jangada_types::Offset;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;

use super::Partition;
use crate::error::RequestError;
use crate::queues::{Desk, OldestAge};

impl Partition {
    /// The timestamp of the record at this offset, milliseconds since the Unix epoch; none: it is not there any more.
    ///
    /// # Errors
    /// Those of reading.
    async fn record_time(&self, offset: Offset) -> Result<Option<i64>, RequestError> {
        if offset < self.view.log_start() || offset >= self.view.high_watermark() {
            return Ok(None);
        }
        let (batches, _) = self.read_for_queues(offset, 1).await?;
        for batch in BatchIter::new(batches) {
            let (_, batch) = batch.map_err(|error| self.undecodable(&error))?;
            for record in Records::new(&batch, DECOMPRESSED_BYTES_MAX).map_err(|error| self.undecodable(&error))? {
                let record = record.map_err(|error| self.undecodable(&error))?;
                if record.offset == offset {
                    return Ok(Some(record.timestamp_ms));
                }
            }
        }
        Ok(None)
    }

    /// The ages of the oldest messages of a queue that may go out, by lane. Reads the records of those that have changed since the last
    /// look; one that cannot be read is left out.
    pub async fn oldest_ages(&self, desk: &Desk, queue: QueueId, counts: &SlotCounts, now_ms: i64) -> Vec<OldestAge> {
        let mut ages = Vec::with_capacity(counts.oldest.len());
        for Oldest { lane, offset } in counts.oldest.iter().copied() {
            let time_ms = match desk.oldest_time(queue, lane, offset) {
                Some(time_ms) => time_ms,
                None => {
                    let at = Offset(i64::try_from(offset).unwrap_or(i64::MAX));
                    let Ok(Some(time_ms)) = self.record_time(at).await else {
                        continue;
                    };
                    desk.set_oldest_time(queue, lane, (offset, time_ms));
                    time_ms
                }
            };
            let age_ms = u64::try_from(now_ms.saturating_sub(time_ms)).unwrap_or(0);
            ages.push(OldestAge { lane, age_ms });
        }
        ages
    }
}
