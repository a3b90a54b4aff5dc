//! One pass over one partition: reads piece by piece off the runtime's workers, writes piece by piece, and keeps to a rate.
//!
//! Whatever ends it in the middle, a crash, a snapshot, a change of the log start, leaves a mixture of old and new, and both are right.
//! The next pass begins where the last one that has ended began.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_log::IndexEntry;
use jangada_log::compaction::{KeyMap, Pass, Tally, Unreadable};
use jangada_log::tables::cleaned::Stamp;
use jangada_machine::EncodedCommand;
use jangada_storage::StoreError;
use jangada_types::{GroupId, Offset};
use tokio::time::Instant;

use super::cleaner::Cleaner;
use super::dirt::{Dirt, Looked};
use crate::disk;
use crate::partition::{self, Partition, compacting};
use crate::settings::CompactionSettings;

/// Bytes that are read at once, and that are written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Between two looks whether the store has written what waits for it.
const STORE_BUSY: Duration = Duration::from_millis(20);
/// Between two looks whether the disk has room again.
const DISK_LOW: Duration = Duration::from_secs(1);

/// Keeps a pass to a rate, and behind the writes of clients, and off a disk that is nearly full: what it writes takes room before what it
/// replaces gives room back.
pub(super) struct Pacer {
    bytes_per_second: u64,
    shared: Arc<partition::Shared>,
    since: Instant,
    has_told: bool,
}

impl Pacer {
    pub fn new(settings: &CompactionSettings, shared: &Arc<partition::Shared>) -> Self {
        Self {
            bytes_per_second: settings.bytes_per_second.max(1),
            shared: shared.clone(),
            since: Instant::now(),
            has_told: false,
        }
    }

    /// Waits until as many bytes may have been read and written since the last call.
    pub async fn pace(&mut self, bytes: u64) {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        tokio::time::sleep_until(self.since + due).await;
        while self.shared.store.queue_bytes() > self.shared.queue_bytes_max / 2 {
            tokio::time::sleep(STORE_BUSY).await;
        }
        while let Some((free, limit)) = disk::below_half(&*self.shared.store) {
            if !std::mem::replace(&mut self.has_told, true) {
                tracing::warn!(
                    free,
                    limit,
                    "compaction waits until the disk has more bytes free than half of the reserve"
                );
            }
            tokio::time::sleep(DISK_LOW).await;
        }
        self.since = Instant::now();
    }
}

/// Why a pass did not end.
enum Stopped {
    /// It has no use any more, for this reason.
    Vain(&'static str),
    Store(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What became of a piece.
struct Step {
    pass: Pass,
    next: Offset,
    bytes: u64,
    /// Keys are missing from the map from here on.
    is_full: bool,
    /// The first batch of it that cannot be read.
    unreadable: Option<(Offset, Unreadable)>,
}

/// What a pass did.
struct Done {
    upto: Offset,
    tally: Tally,
    /// The first batch that stays as it is.
    stuck: Option<(Offset, Unreadable)>,
}

impl Cleaner {
    /// Cleans a partition. `None`: it did not end.
    pub(super) async fn clean(
        &self,
        partition: &Arc<Partition>,
        looked: &Looked,
        dirt: &mut Dirt,
        pacer: Pacer,
    ) -> Option<Tally> {
        let began = Instant::now();
        match self.pass(partition, looked, dirt, pacer).await {
            Ok(Done { upto, tally, stuck }) => {
                let (took, horizon) = (began.elapsed(), looked.bounds.horizon);
                let Tally {
                    records_gone,
                    stored_bytes,
                    ..
                } = tally;
                tracing::info!(
                    partition = %partition.hosted.name, %upto, %horizon, records_gone, stored_bytes, ?took, "compacted"
                );
                let before = self.status.ended(&partition.hosted, &tally, dirt.cleaned());
                if let Some((offset, error)) = stuck.filter(|_| before != tally.batches_stuck) {
                    let batches = tally.batches_stuck;
                    tracing::warn!(
                        partition = %partition.hosted.name, batches, first = %offset, %error,
                        "batches cannot be compacted, and stay as they are"
                    );
                }
                Some(tally)
            }
            Err(Stopped::Vain(why)) => {
                let rest = dirt.failed();
                tracing::info!(partition = %partition.hosted.name, why, ?rest, "compaction has stopped in the middle");
                None
            }
            Err(Stopped::Store(error)) => {
                let rest = dirt.failed();
                tracing::warn!(
                    partition = %partition.hosted.name, %error, ?rest,
                    "compaction was given up, and is tried again after a rest"
                );
                None
            }
        }
    }

    async fn pass(
        &self,
        partition: &Arc<Partition>,
        looked: &Looked,
        dirt: &mut Dirt,
        mut pacer: Pacer,
    ) -> Result<Done, Stopped> {
        let (store, group) = (self.shared.store.clone(), partition.hosted.id());
        let (first, second) = self.random.new_id().as_u64_pair();
        let secret = u128::from(first) << 64 | u128::from(second);
        let map_bytes = usize::try_from(self.settings.map_bytes).unwrap_or(usize::MAX);
        let (records, ceiling, horizon) = (looked.records, looked.ceiling, looked.bounds.horizon);
        let mut pass = self
            .blocking(move || {
                let aborted = compacting::read_aborted(&*store, group, ceiling)?;
                let map = KeyMap::new(secret, records, map_bytes);
                Ok(Pass::new(map, ceiling, horizon).without(aborted))
            })
            .await?;
        let knows_keys = looked.bounds.key_index.is_some();
        if knows_keys {
            pass = pass.collecting_tombstones();
        }
        let mut at = looked.dirty_from;
        while at < ceiling {
            let from = looked.dirty_from;
            let step = self.step_of(group, (at, ceiling), pass, move |pass, row, command| {
                pass.learn_entry(row, command, from)
            });
            let step = step.await?;
            (pass, at) = (step.pass, step.next);
            pacer.pace(step.bytes).await;
            if step.is_full {
                break;
            }
            still_compacts(partition)?;
        }
        let upto = pass.upto();
        let log_start = partition.view.log_start();
        let (mut at, mut stuck) = (log_start, None);
        while at < upto {
            let step = self.step_of(group, (at, upto), pass, |pass, row, command| {
                pass.clean(row, command).map(|()| true)
            });
            let step = step.await?;
            (pass, at) = (step.pass, step.next);
            stuck = stuck.or(step.unreadable);
            let tombstones = pass.take_tombstones();
            let writes = pass.take_writes();
            let bytes = step.bytes + writes.bytes as u64;
            if !partition.forget_keys(tombstones).await {
                return Err(Stopped::Vain("the index of keys has ended"));
            }
            let is_empty = writes.entries.is_empty() && writes.rows.is_empty();
            if !is_empty {
                partition.rewrite(writes, knows_keys).await.map_err(Stopped::Vain)?;
            }
            pacer.pace(bytes).await;
            still_compacts(partition)?;
        }
        let tally = pass.tally();
        let stamp = Stamp {
            at_ms: self.shared.clock.now_ms(),
            stored_bytes: tally.stored_bytes,
            waits_from: pass.waits_from().unwrap_or(Offset(i64::MAX)),
            gone_bytes: tally.gone_bytes,
            whole_below: pass.whole_below(),
        };
        // Nobody is told of it before it is on the disk.
        let mut cleaned = dirt.cleaned().cloned().unwrap_or_default();
        let changes = cleaned.ended(upto, stamp);
        if !partition.write_cleaned(changes).await {
            return Err(Stopped::Vain("the replica is being closed"));
        }
        *dirt.cleaned_mut() = cleaned;
        dirt.ended(log_start);
        Ok(Done { upto, tally, stuck })
    }

    /// Reads a piece, and shows its batches to the pass until it has enough.
    async fn step_of(
        &self,
        group: GroupId,
        (at, below): (Offset, Offset),
        mut pass: Pass,
        mut take: impl FnMut(&mut Pass, &IndexEntry, EncodedCommand) -> Result<bool, Unreadable> + Send + 'static,
    ) -> Result<Step, Stopped> {
        let store = self.shared.store.clone();
        let step = self.blocking(move || {
            let Some(piece) = compacting::read_piece(&*store, group, at, below, PIECE_BYTES)? else {
                return Ok(None);
            };
            let (mut is_full, mut unreadable) = (false, None);
            for (row, command) in piece.rows {
                let command = command.unwrap_or_else(|| EncodedCommand::new(&[], Bytes::new()));
                match take(&mut pass, &row, command) {
                    Ok(true) => {}
                    Ok(false) => {
                        is_full = true;
                        break;
                    }
                    Err(error) => {
                        unreadable.get_or_insert((row.base_offset, error));
                    }
                }
            }
            Ok(Some(Step {
                pass,
                next: piece.next,
                bytes: piece.bytes,
                is_full,
                unreadable,
            }))
        });
        let gone =
            "what was to be read is not there: the log starts further on, a snapshot has come, or rows are missing";
        step.await?.ok_or(Stopped::Vain(gone))
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.shared.registry.blocking().run(work).await;
        done.unwrap_or_else(|error| Err(StoreError::Database(error.to_string())))
    }
}

/// A pass may take an hour, and the topic have other settings by then.
fn still_compacts(partition: &Partition) -> Result<(), Stopped> {
    match partition.config().cleanup_policy.compacts() {
        true => Ok(()),
        false => Err(Stopped::Vain("the topic is not compacted any more")),
    }
}
