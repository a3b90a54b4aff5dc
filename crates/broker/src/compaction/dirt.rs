//! What there is to clean in one partition, as far as its rows were looked at.

use std::sync::Arc;
use std::time::Duration;

use jangada_log::compaction::{Ceilings, Survey};
use jangada_log::tables::cleaned::Cleaned;
use jangada_replication::saved_index;
use jangada_storage::{Store, StoreError};
use jangada_types::{GroupId, Offset};
use tokio::time::Instant;

use super::cleaner::Cleaner;
use crate::partition::{Bounds, Partition, compacting};

/// The offset behind all that can be, as a bound that bounds nothing.
const FAR: Offset = Offset(i64::MAX);
/// The saved state of a replica changes with each MiB of its log, or each 1,024 entries.
const READ_SAVED_EVERY: Duration = Duration::from_secs(2);

/// What is known of one partition between two passes.
#[derive(Default)]
pub(super) struct Dirt {
    cleaned: Option<Cleaned>,
    /// Rows below it are counted.
    surveyed: Offset,
    dirty_bytes: u64,
    oldest_ms: Option<i64>,
    /// How far the saved state reached when it was read, and when that was.
    saved: Option<(u64, Instant)>,
}

/// What a look found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    pub survey: Survey,
    /// Where what is dirty begins, and the first offset that a pass must leave alone.
    pub dirty_from: Offset,
    pub ceiling: Offset,
    pub bounds: Bounds,
    /// Records in between, at most.
    pub records: u64,
}

impl Dirt {
    /// Where passes have ended, if that was read.
    pub fn cleaned(&self) -> Option<&Cleaned> {
        self.cleaned.as_ref()
    }

    /// Bytes that passes have taken.
    pub fn gone_bytes(&self) -> u64 {
        let last = self.cleaned.as_ref().and_then(Cleaned::last);
        last.map_or(0, |(_, stamp)| stamp.gone_bytes)
    }

    /// What was cleaned, to be changed: what was counted as dirty is clean now.
    pub fn cleaned_mut(&mut self) -> &mut Cleaned {
        (self.surveyed, self.dirty_bytes, self.oldest_ms) = (Offset(0), 0, None);
        self.cleaned.get_or_insert_default()
    }

    /// Counts the rows that have come. Blocks.
    fn look(
        &mut self,
        store: &dyn Store,
        group: GroupId,
        bounds: Bounds,
        young_from_ms: i64,
    ) -> Result<Looked, StoreError> {
        if self.cleaned.is_none() {
            self.cleaned = Some(compacting::read_cleaned(store, group)?);
        }
        let cleaned = self.cleaned.get_or_insert_default();
        cleaned.cut_off(bounds.log_start);
        let last = cleaned.last();
        let dirty_from = last.map_or(bounds.log_start, |(offset, _)| offset.max(bounds.log_start));
        if self.surveyed < dirty_from {
            (self.surveyed, self.dirty_bytes, self.oldest_ms) = (dirty_from, 0, None);
        }
        let ceiling = self.count(store, group, bounds, young_from_ms)?;
        let survey = Survey {
            clean_bytes: last.map_or(0, |(_, stamp)| stamp.stored_bytes),
            dirty_bytes: self.dirty_bytes,
            oldest_dirty_ms: self.oldest_ms,
            horizon_moved: last.is_some_and(|(_, stamp)| bounds.horizon > stamp.horizon),
        };
        Ok(Looked {
            survey,
            dirty_from,
            ceiling: ceiling.max(dirty_from),
            bounds,
            records: (ceiling.get() - dirty_from.get()).max(0).unsigned_abs(),
        })
    }

    /// Whether the saved state covers an entry. It is read again when it does not, though not all the time.
    fn is_saved(&mut self, store: &dyn Store, group: GroupId, raft_index: u64) -> Result<bool, StoreError> {
        let is_news = self.saved.is_none_or(|(_, at)| at.elapsed() >= READ_SAVED_EVERY);
        if is_news && self.saved.is_none_or(|(saved, _)| raft_index > saved) {
            self.saved = Some((saved_index(store, group)?.unwrap_or(0), Instant::now()));
        }
        Ok(self.saved.is_some_and(|(saved, _)| raft_index <= saved))
    }

    /// Counts rows up to the first that a pass must leave alone.
    fn count(
        &mut self,
        store: &dyn Store,
        group: GroupId,
        bounds: Bounds,
        young_from_ms: i64,
    ) -> Result<Offset, StoreError> {
        let newest = Offset((bounds.high_watermark.get() - 1).max(0));
        let newest = compacting::row_holding(store, group, newest)?;
        let mut ceilings = Ceilings {
            newest_batch: newest.map_or(Offset(0), |row| row.base_offset),
            last_stable: bounds.decided,
            saved: FAR,
            young: FAR,
            key_index: bounds.key_index,
        };
        loop {
            let rows = compacting::rows_behind(store, group, self.surveyed)?;
            let Some(last) = rows.last().copied() else {
                return Ok(ceilings.lowest().min(self.surveyed));
            };
            for row in rows {
                if row.last_offset < ceilings.lowest() && !self.is_saved(store, group, row.raft_index)? {
                    ceilings.saved = row.first_offset();
                }
                if row.max_timestamp_ms >= young_from_ms {
                    ceilings.young = row.first_offset();
                }
                if row.last_offset >= ceilings.lowest() {
                    return Ok(ceilings.lowest().min(row.first_offset()).max(self.surveyed));
                }
                self.dirty_bytes += u64::from(row.size_bytes);
                let oldest = self
                    .oldest_ms
                    .map_or(row.max_timestamp_ms, |ms| ms.min(row.max_timestamp_ms));
                self.oldest_ms = Some(oldest);
                self.surveyed = Offset(row.last_offset.get() + 1);
            }
            if self.surveyed <= last.base_offset {
                return Ok(self.surveyed);
            }
        }
    }
}

impl Cleaner {
    /// Looks at what there is to clean. `None`: it cannot be read now.
    pub(super) async fn look(&self, partition: &Arc<Partition>, dirt: &mut Dirt) -> Option<Looked> {
        let bounds = partition.compaction_bounds().await;
        let lag_ms = i64::try_from(partition.config().compaction_lag_min_ms).unwrap_or(i64::MAX);
        let young_from_ms = match lag_ms {
            0 => i64::MAX,
            lag_ms => self.shared.clock.now_ms().saturating_sub(lag_ms),
        };
        let (store, group) = (self.shared.store.clone(), partition.hosted.id());
        let mut taken = std::mem::take(dirt);
        let looked = self.shared.registry.blocking().run(move || {
            let looked = taken.look(&*store, group, bounds, young_from_ms);
            (taken, looked)
        });
        let Ok((taken, looked)) = looked.await else { return None };
        *dirt = taken;
        match looked {
            Ok(looked) => Some(looked),
            Err(error) => {
                tracing::debug!(partition = %partition.hosted.name, %error, "what there is to compact cannot be read now");
                None
            }
        }
    }
}
