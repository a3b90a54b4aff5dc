//! What there is to clean in one partition, as far as its rows were looked at.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_log::compaction::{Ceilings, Survey};
use jangada_log::tables::cleaned::Cleaned;
use jangada_replication::saved_index;
use jangada_storage::{Store, StoreError};
use jangada_types::{GroupId, Offset};
use tokio::time::Instant;

use super::cleaner::Cleaner;
use super::status::is_same;
use crate::partition::{Bounds, Partition, compacting};
use crate::replica::Hosted;

/// The offset behind all that can be, as a bound that bounds nothing.
const FAR: Offset = Offset(i64::MAX);
/// The saved state of a replica changes with each MiB of its log, or each 1,024 entries.
const READ_SAVED_EVERY: Duration = Duration::from_secs(2);
/// What the log start has passed is taken from what was counted so often at most: that reads all rows that are clean.
const COUNT_AGAIN_EVERY: Duration = Duration::from_secs(30);
/// Rows that are read first: of a partition that waits there is seldom more to see.
const ROWS_FIRST: usize = 16;
/// The rest before a partition is tried again that could not be cleaned: at first, and at most.
const REST_MIN: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(300);

/// What is known of one partition between two passes.
#[derive(Default)]
pub(super) struct Dirt {
    /// The replica as it was opened: one that was deleted and comes back has the same id, and none of its data.
    of: Weak<Hosted>,
    cleaned: Option<Cleaned>,
    /// What is left of the clean part, if that was counted.
    clean: Option<Clean>,
    /// Rows below it are counted.
    surveyed: Offset,
    dirty_bytes: u64,
    oldest_ms: Option<i64>,
    /// How far the saved state reached when it was read, and when that was.
    saved: Option<(u64, Instant)>,
    /// What the last look found, by these rules, when nothing but other bounds changes it.
    settled: Option<(LookRules, Looked)>,
    /// Tries in a row that have failed, and when the next one is.
    failures: u32,
    retry_at: Option<Instant>,
}

/// What is left of the batches from the log start to the end of the last pass.
#[derive(Clone, Copy, Debug)]
struct Clean {
    log_start: Offset,
    upto: Offset,
    stored_bytes: u64,
    gone_bytes: u64,
    at: Instant,
}

/// What a look goes by beside the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LookRules {
    /// How long a record is left alone, milliseconds.
    pub lag_min_ms: u64,
    /// The log start moves by itself, and how many bytes are left decides how far.
    pub deletes: bool,
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
    /// Of a replica of which nothing is known.
    pub fn new(hosted: &Arc<Hosted>) -> Self {
        Self {
            of: Arc::downgrade(hosted),
            ..Self::default()
        }
    }

    /// Whether it is of this replica, as it was opened.
    pub fn is_of(&self, hosted: &Arc<Hosted>) -> bool {
        is_same(&self.of, hosted)
    }

    /// Where passes have ended, if that was read.
    pub fn cleaned(&self) -> Option<&Cleaned> {
        self.cleaned.as_ref()
    }

    /// Bytes that passes have taken of what is there.
    pub fn gone_bytes(&self) -> u64 {
        match self.clean {
            Some(clean) => clean.gone_bytes,
            None => {
                let last = self.cleaned.as_ref().and_then(Cleaned::last);
                last.map_or(0, |(_, stamp)| stamp.gone_bytes)
            }
        }
    }

    /// What was cleaned, to be changed: what was counted as dirty is clean now.
    pub fn cleaned_mut(&mut self) -> &mut Cleaned {
        (self.surveyed, self.dirty_bytes, self.oldest_ms) = (Offset(0), 0, None);
        self.settled = None;
        self.cleaned.get_or_insert_default()
    }

    /// A pass has ended that began at this log start.
    pub fn ended(&mut self, log_start: Offset) {
        self.clean = self
            .cleaned
            .as_ref()
            .and_then(Cleaned::last)
            .map(|(upto, stamp)| Clean {
                log_start,
                upto,
                stored_bytes: stamp.stored_bytes,
                gone_bytes: stamp.gone_bytes,
                at: Instant::now(),
            });
        (self.failures, self.retry_at) = (0, None);
    }

    /// It could not be cleaned. How long it is left alone, so that others have their turn.
    pub fn failed(&mut self) -> Duration {
        let rest = REST_MIN.saturating_mul(1 << self.failures.min(10)).min(REST_MAX);
        self.failures += 1;
        self.retry_at = Some(Instant::now() + rest);
        rest
    }

    /// Whether it is left alone for now.
    pub fn rests(&self) -> bool {
        self.retry_at.is_some_and(|at| Instant::now() < at)
    }

    /// Counts the rows that have come. Blocks.
    fn look(
        &mut self,
        store: &dyn Store,
        group: GroupId,
        bounds: Bounds,
        (rules, now_ms): (LookRules, i64),
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
        match last {
            Some((upto, _)) => self.count_clean(store, group, (bounds.log_start, upto), rules)?,
            None => self.clean = None,
        }
        let stored_bytes = self.clean.map(|clean| clean.stored_bytes);
        let (ceiling, is_settled) = self.count(store, group, bounds, (rules, now_ms))?;
        let survey = Survey {
            clean_bytes: stored_bytes.unwrap_or_else(|| last.map_or(0, |(_, stamp)| stamp.stored_bytes)),
            dirty_bytes: self.dirty_bytes,
            oldest_dirty_ms: self.oldest_ms,
            horizon_moved: last.is_some_and(|(_, stamp)| bounds.horizon > stamp.waits_from),
        };
        let looked = Looked {
            survey,
            dirty_from,
            ceiling: ceiling.max(dirty_from),
            bounds,
            records: (ceiling.get() - dirty_from.get()).max(0).unsigned_abs(),
        };
        let is_counted = self.clean.is_none_or(|clean| clean.log_start == bounds.log_start);
        self.settled = (is_settled && is_counted).then_some((rules, looked));
        Ok(looked)
    }

    /// What the last look found, if another one would find the same.
    fn settled(&self, bounds: Bounds, rules: LookRules) -> Option<Looked> {
        let (by, looked) = self.settled?;
        (by == rules && looked.bounds == bounds).then_some(looked)
    }

    /// Counts anew what is left of the clean part, once the log start has passed some of it: the last pass has counted that as well.
    fn count_clean(
        &mut self,
        store: &dyn Store,
        group: GroupId,
        (log_start, upto): (Offset, Offset),
        rules: LookRules,
    ) -> Result<(), StoreError> {
        let is_due = match self.clean {
            Some(clean) if clean.upto == upto => clean.log_start < log_start && clean.at.elapsed() >= COUNT_AGAIN_EVERY,
            // Since the process has begun nobody has counted. It matters where the log start moves by itself.
            _ => rules.deletes,
        };
        if !is_due {
            return Ok(());
        }
        let (mut at, mut stored_bytes, mut gone_bytes) = (log_start, 0, 0);
        while at < upto {
            let rows = compacting::rows_behind(store, group, at, compacting::ROWS_MAX)?;
            let below = rows.iter().take_while(|row| row.first_offset() < upto);
            let before = at;
            for row in below {
                stored_bytes += u64::from(row.size_bytes);
                gone_bytes += u64::from(row.original_bytes.saturating_sub(row.size_bytes));
                at = Offset(row.last_offset.get() + 1);
            }
            if at == before {
                break;
            }
        }
        self.clean = Some(Clean {
            log_start,
            upto,
            stored_bytes,
            gone_bytes,
            at: Instant::now(),
        });
        Ok(())
    }

    /// Whether the saved state covers an entry. It is read again when it does not, though not all the time.
    fn is_saved(&mut self, store: &dyn Store, group: GroupId, raft_index: u64) -> Result<bool, StoreError> {
        let is_news = self.saved.is_none_or(|(_, at)| at.elapsed() >= READ_SAVED_EVERY);
        if is_news && self.saved.is_none_or(|(saved, _)| raft_index > saved) {
            self.saved = Some((saved_index(store, group)?.unwrap_or(0), Instant::now()));
        }
        Ok(self.saved.is_some_and(|(saved, _)| raft_index <= saved))
    }

    /// Counts rows up to the first that a pass must leave alone. Whether only other bounds would let it come further.
    fn count(
        &mut self,
        store: &dyn Store,
        group: GroupId,
        bounds: Bounds,
        (rules, now_ms): (LookRules, i64),
    ) -> Result<(Offset, bool), StoreError> {
        let young_from_ms = match i64::try_from(rules.lag_min_ms).unwrap_or(i64::MAX) {
            0 => None,
            lag_ms => Some(now_ms.saturating_sub(lag_ms)),
        };
        if bounds.high_watermark <= bounds.log_start {
            return Ok((self.surveyed, true));
        }
        let newest = Offset(bounds.high_watermark.get() - 1);
        let Some(newest) = compacting::row_holding(store, group, newest)? else {
            // It is written a moment after its batch can be read. Another look finds it, though nothing is appended any more.
            return Ok((self.surveyed, false));
        };
        let mut ceilings = Ceilings {
            newest_batch: newest.base_offset,
            last_stable: bounds.decided,
            saved: FAR,
            young: FAR,
            key_index: bounds.key_index,
        };
        let mut limit = ROWS_FIRST;
        loop {
            let rows = compacting::rows_behind(store, group, self.surveyed, limit)?;
            limit = compacting::ROWS_MAX;
            let Some(last) = rows.last().copied() else {
                return Ok((ceilings.lowest().min(self.surveyed), false));
            };
            for row in rows {
                if row.last_offset < ceilings.lowest() && !self.is_saved(store, group, row.raft_index)? {
                    ceilings.saved = row.first_offset();
                }
                if young_from_ms.is_some_and(|young_from_ms| row.max_timestamp_ms >= young_from_ms) {
                    ceilings.young = row.first_offset();
                }
                if row.last_offset >= ceilings.lowest() {
                    let is_settled = ceilings.saved == FAR && ceilings.young == FAR;
                    let ceiling = ceilings.lowest().min(row.first_offset()).max(self.surveyed);
                    return Ok((ceiling, is_settled));
                }
                self.dirty_bytes += u64::from(row.size_bytes);
                let oldest = self
                    .oldest_ms
                    .map_or(row.max_timestamp_ms, |ms| ms.min(row.max_timestamp_ms));
                self.oldest_ms = Some(oldest);
                self.surveyed = Offset(row.last_offset.get() + 1);
            }
            if self.surveyed <= last.base_offset {
                return Ok((self.surveyed, false));
            }
        }
    }
}

impl Cleaner {
    /// Looks at what there is to clean. `None`: it cannot be read now.
    pub(super) async fn look(&self, partition: &Arc<Partition>, dirt: &mut Dirt) -> Option<Looked> {
        let bounds = partition.compaction_bounds().await;
        let config = partition.config();
        let rules = LookRules {
            lag_min_ms: config.compaction_lag_min_ms,
            deletes: config.cleanup_policy.deletes(),
        };
        if let Some(looked) = dirt.settled(bounds, rules) {
            return Some(looked);
        }
        let (store, group) = (self.shared.store.clone(), partition.hosted.id());
        let mut taken = std::mem::take(dirt);
        let now_ms = self.shared.clock.now_ms();
        let looked = self.shared.registry.blocking().run(move || {
            let looked = taken.look(&*store, group, bounds, (rules, now_ms));
            (taken, looked)
        });
        let Ok((taken, looked)) = looked.await else { return None };
        *dirt = taken;
        match looked {
            Ok(looked) => Some(looked),
            Err(error) => {
                let rest = dirt.failed();
                tracing::warn!(
                    partition = %partition.hosted.name, %error, ?rest,
                    "what there is to compact cannot be read; it is tried again after a rest"
                );
                None
            }
        }
    }
}
