//! The last offset of every key of a partition whose topic has `key.index.enable`, on each replica.
//!
//! A task follows the log behind what is applied and writes, in one write, the keys of a run of batches and how far it
//! came (row KEYS). Committed records never change, so each row is a true statement for good, whatever became of the
//! replica meanwhile: stopped, killed, started from a snapshot, the index switched off and on. What lies below the log
//! start counts as none; the store drops such rows when it compacts. The task begins where it ended, or at the log start
//! if that is later, so the index of a topic that had none is built in the same way.
//!
//! Records of transactions count when those are committed. So rows end at the last stable offset, and leave out what was aborted; what
//! lies behind that is known in memory (`undecided_keys`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_log::PartitionState;
use jangada_log::compaction::TakenTombstone;
use jangada_log::tables::key_rows::{KEY_INDEX, encode_offset};
use jangada_log::tables::offset_index::{begins_at, follow};
use jangada_replication::{DerivedRows, Written, snapshot_machine};
use jangada_storage::{StateKind, Store, StoreError};
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, INDEXED_KEY_BYTES_MAX};
use jangada_types::table::row::RowBuffer;
use jangada_types::{GroupId, Offset, RowChange};
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::View;
use super::aborted_rows::stored_within;
use super::index_reads::rows_from;
use super::isolation::{Ends, Isolation, visible};
use super::key_locks::KeyLocks;
use super::rows::{Assembled, assemble, keep_below, read_entries};
use super::undecided_keys::{Behind, KeyedAt, UndecidedKeys};
use crate::pool::Pool;

const VERSION: u8 = 1;
/// Bytes of batches that one run reads at most.
const RUN_BYTES: usize = 1 << 20;
/// Rows of the offset index that one run reads at most.
const RUN_ROWS: usize = 1024;
/// Keys and bytes of keys at which a run ends, since the size of a packed batch says little about either. A run may end in the
/// middle of a batch, which is then unpacked again for the next run.
const RUN_KEYS: usize = 65_536;
const RUN_KEY_BYTES: usize = 4 << 20;
/// Rows of one write at most, as the commits of all groups wait behind it.
const WRITE_KEYS: usize = 8_192;
/// The time before the next try when the batches to be read are not there (a purge or a snapshot is under way) or reading failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The index of keys of one replica, with the task that keeps it. It is dropped when the topic's setting is taken back or the replica
/// closes; the rows stay.
pub(crate) struct KeyIndex {
    pub locks: Arc<KeyLocks>,
    /// Whether every batch that was proposed before the locks were there is applied.
    pub barrier_applied: AtomicBool,
    reached: watch::Receiver<Offset>,
    undecided: Arc<Mutex<UndecidedKeys>>,
    forgets: mpsc::Sender<Forget>,
    task: AbortHandle,
}

/// Tombstones that compaction is about to take: a key that names one is deleted, or the key would be none on a replica whose index is
/// built later, and this one's not. The task does it, as it alone writes the index.
struct Forget {
    tombstones: Vec<TakenTombstone>,
    done: oneshot::Sender<()>,
}

impl Drop for KeyIndex {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The index of keys of a partition, if its topic has one. Admission holds the reader's lock until the batch is proposed, so that the
/// index is not switched between a look-up and its command. Switching takes the writer's lock, so that two tasks never write the index
/// of one partition.
pub(crate) struct KeptIndex(RwLock<Option<Arc<KeyIndex>>>);

/// The index as it stays until this is dropped.
pub(crate) type IndexGuard<'a> = RwLockReadGuard<'a, Option<Arc<KeyIndex>>>;

impl KeptIndex {
    pub fn new(index: Option<KeyIndex>) -> Self {
        Self(RwLock::new(index.map(Arc::new)))
    }

    pub async fn held(&self) -> IndexGuard<'_> {
        self.0.read().await
    }

    /// Returns when every guard that was given before the call is dropped.
    pub async fn pass(&self) {
        drop(self.0.write().await);
    }

    /// Starts the index if `wanted`, or else ends it. Waits until all guards are dropped and the task has ended.
    pub async fn keep(&self, wanted: bool, start: impl FnOnce() -> KeyIndex) {
        if self.0.read().await.is_some() == wanted {
            return;
        }
        let mut kept = self.0.write().await;
        if let Some(index) = kept.take() {
            index.end().await;
        }
        if wanted {
            *kept = Some(Arc::new(start()));
        }
    }
}

impl KeyIndex {
    /// Begins to follow the log. Needs a runtime.
    pub fn start(group: GroupId, store: Arc<dyn Store>, rows: DerivedRows, view: Arc<View>, reads: Pool) -> Self {
        let (sender, reached) = watch::channel(Offset(0));
        let (forgets, to_forget) = mpsc::channel(1);
        let undecided = Arc::<Mutex<UndecidedKeys>>::default();
        let follower = Follower {
            undecided: undecided.clone(),
            group,
            store,
            rows,
            view,
            reads,
        };
        Self {
            locks: Arc::default(),
            barrier_applied: AtomicBool::new(false),
            reached,
            undecided,
            forgets,
            task: tokio::spawn(follower.run(sender, to_forget)).abort_handle(),
        }
    }

    /// The offset below which the index has rows of all that counts.
    pub fn indexed(&self) -> Offset {
        self.undecided.lock().from()
    }

    /// What is known of a key behind what the index has rows of. Who asks it first, and then for the row, misses nothing: rows are there
    /// before this is forgotten.
    pub fn behind(&self, key: &[u8]) -> Behind {
        self.undecided.lock().find(key)
    }

    /// Deletes the keys whose last records are these. False: the task has ended.
    pub async fn forget(&self, tombstones: Vec<TakenTombstone>) -> bool {
        let (done, forgotten) = oneshot::channel();
        self.forgets.send(Forget { tombstones, done }).await.is_ok() && forgotten.await.is_ok()
    }

    /// Ends the task. Nothing is written by it after this has returned.
    async fn end(&self) {
        self.task.abort();
        let mut reached = self.reached.clone();
        // The task has the sender: when that is gone, so is the task.
        while reached.changed().await.is_ok() {}
    }

    pub fn is_barrier_applied(&self) -> bool {
        self.barrier_applied.load(Ordering::Acquire)
    }

    /// Returns when all records below `end` are in the index, or known behind it. False: the task has ended.
    pub async fn reaches(&self, end: Offset) -> bool {
        self.reached.clone().wait_for(|reached| *reached >= end).await.is_ok()
    }
}

struct Follower {
    group: GroupId,
    store: Arc<dyn Store>,
    rows: DerivedRows,
    view: Arc<View>,
    undecided: Arc<Mutex<UndecidedKeys>>,
    /// Reads that may wait for the disk at once, over all partitions.
    reads: Pool,
}

impl Follower {
    async fn run(self, reached: watch::Sender<Offset>, mut to_forget: mpsc::Receiver<Forget>) {
        let mut watched = self.view.watch_ends();
        let group = self.group;
        let mut next = loop {
            match self.blocking(move |store| read_marker(store, group)).await {
                Ok(marker) => break marker.unwrap_or(Offset(0)),
                Err(error) if self.is_over(&error) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        loop {
            let Ends {
                last_stable: decided,
                high_watermark: end,
            } = *watched.borrow_and_update();
            next = next.max(self.view.log_start());
            let (upto, is_full) = {
                let mut undecided = self.undecided.lock();
                undecided.decided(next);
                (undecided.upto(), undecided.is_full())
            };
            reached.send_replace(upto);
            if let Ok(forget) = to_forget.try_recv() {
                self.forget(forget).await;
                continue;
            }
            if next >= decided && (upto >= end || is_full) {
                tokio::select! {
                    changed = watched.changed() => if changed.is_err() { return },
                    Some(forget) = to_forget.recv() => self.forget(forget).await,
                }
                continue;
            }
            let has_transactions = self.view.has_transactions();
            let went_on = if next < decided {
                let run = move |store: &dyn Store| index_run(store, group, next..decided, has_transactions);
                match self.blocking(run).await {
                    Ok(Some(run)) => {
                        next = run.next;
                        // A caught-up index does not wait for the disk; one that is being built must not outrun it.
                        let written = self.write(run);
                        if next < decided && !written.wait().await {
                            return;
                        }
                        Ok(true)
                    }
                    read => read.map(|_| false),
                }
            } else {
                let read = self.blocking(move |store| scan_run(store, group, upto..end)).await;
                read.map(|found| match found {
                    Some((records, upto)) => {
                        self.undecided.lock().add(records, upto);
                        true
                    }
                    None => false,
                })
            };
            match went_on {
                Ok(true) => {}
                Err(error) if self.is_over(&error) => return,
                Ok(false) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Whoever asked hears nothing when it cannot be done.
    async fn forget(&self, Forget { tombstones, done }: Forget) {
        let group = self.group;
        let named = self.blocking(move |store| {
            let mut named = Vec::new();
            for TakenTombstone { key, offset } in tombstones {
                let row = store.get_row(group, &KEY_INDEX, &key)?;
                if row.as_deref() == Some(&encode_offset(offset)[..]) {
                    let table = &KEY_INDEX;
                    named.push(RowChange::Delete { table, key });
                }
            }
            Ok(named)
        });
        let Ok(named) = named.await else { return };
        if named.is_empty() || self.rows.write(named, None).wait().await {
            let _ = done.send(());
        }
    }

    /// Queues the rows of a run. They are readable when this returns.
    fn write(&self, run: Run) -> Written {
        let mut marker = BytesMut::with_capacity(9);
        marker.put_u8(VERSION);
        marker.put_i64(run.next.get());
        let mut buffer = RowBuffer::default();
        let mut rows = Vec::with_capacity(run.keys.len().min(WRITE_KEYS));
        for (key, offset) in run.keys {
            // Rows before their marker do no harm: they are true, and are written again if the marker does not come.
            if rows.len() == WRITE_KEYS {
                drop(self.rows.write(std::mem::take(&mut rows), None));
            }
            let (key, value) = buffer.copy(&key, &encode_offset(offset));
            let table = &KEY_INDEX;
            rows.push(RowChange::Put { table, key, value });
        }
        self.rows.write(rows, Some((StateKind::KEYS, marker.freeze())))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        let read = self.reads.run(move || read(&*store)).await;
        read.unwrap_or_else(|error| Err(StoreError::Database(error.message)))
    }

    /// Whether reading again is of no use.
    fn is_over(&self, error: &StoreError) -> bool {
        let over = matches!(
            error,
            StoreError::GroupNotOpen(_) | StoreError::ShuttingDown | StoreError::Fenced(_) | StoreError::Damaged { .. }
        );
        if !over {
            tracing::warn!(group = %self.group, %error, "the index of keys could not be read on; trying again");
        }
        over
    }
}

/// The keys of a run of batches, each with its last offset, and the offset at which the next run begins.
struct Run {
    keys: HashMap<Bytes, Offset>,
    key_bytes: usize,
    next: Offset,
}

impl Run {
    fn is_full(&self) -> bool {
        self.keys.len() >= RUN_KEYS || self.key_bytes >= RUN_KEY_BYTES
    }
}

fn read_marker(store: &dyn Store, group: GroupId) -> Result<Option<Offset>, StoreError> {
    let Some(row) = store.get_state(group, StateKind::KEYS, None)? else {
        return Ok(None);
    };
    let mut input = &row[..];
    // Another version's index is built anew; its rows are written over or are below the log start some day.
    let known = input.try_get_u8() == Ok(VERSION);
    Ok(known.then(|| input.try_get_i64().ok()).flatten().map(Offset))
}

/// The keys of the next batches, without those of transactions that were aborted. All are decided. `None`: they are not there.
fn index_run(
    store: &dyn Store,
    group: GroupId,
    range: Range<Offset>,
    has_transactions: bool,
) -> Result<Option<Run>, StoreError> {
    let Some((mut batches, next)) = read_batches(store, group, range.clone())? else {
        return Ok(None);
    };
    if has_transactions {
        let aborted = stored_within(store, group, range.start..next)?;
        batches = visible(batches, Isolation::Committed, aborted);
    }
    Ok(Some(read_run(group, batches, range.start, next)))
}

/// The keys of the next batches, of which some may not be decided, and where they end. `None`: they are not there.
fn scan_run(
    store: &dyn Store,
    group: GroupId,
    range: Range<Offset>,
) -> Result<Option<(Vec<KeyedAt>, Offset)>, StoreError> {
    let Some((batches, next)) = read_batches(store, group, range.clone())? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for batch in BatchIter::new(batches) {
        let Ok((header, batch)) = batch else { break };
        if header.attributes.is_control() {
            continue;
        }
        // What cannot be decoded is told when it is decided.
        let records = Records::new(&batch, DECOMPRESSED_BYTES_MAX);
        for record in records.into_iter().flatten().map_while(Result::ok) {
            let key = record.key.filter(|key| key.len() <= INDEXED_KEY_BYTES_MAX);
            if let Some(key) = key.filter(|_| record.offset >= range.start) {
                if found.len() == RUN_KEYS {
                    return Ok(Some((found, record.offset)));
                }
                found.push(KeyedAt {
                    key: Bytes::copy_from_slice(&key),
                    offset: record.offset,
                    is_transactional: header.attributes.is_transactional(),
                });
            }
        }
    }
    Ok(Some((found, next)))
}

/// The next batches, and where they end. `None`: they are not there.
fn read_batches(
    store: &dyn Store,
    group: GroupId,
    range: Range<Offset>,
) -> Result<Option<(Bytes, Offset)>, StoreError> {
    let mut rows = rows_from(store, group, range.start, RUN_ROWS, RUN_BYTES)?;
    keep_below(&mut rows, range.end);
    let mut checked = follow(&rows);
    if begins_at(&rows, range.start).is_err() {
        // Without the rows below the snapshot nothing is missing. It comes in the write that takes them away, so it is read last.
        let from = range.start.max(snapshot_position(store, group)?);
        if from >= range.end {
            return Ok(None);
        }
        checked = checked.and_then(|()| begins_at(&rows, from));
    }
    checked.map_err(|gap| store.damage().report(group, gap.0))?;
    let entries = read_entries(store, group, &rows, RUN_BYTES)?;
    // An entry may be gone by a purge or a snapshot meanwhile. If it is not, whoever fetches it will tell.
    let Ok(Assembled { batches, next, .. }) = assemble(&rows, &entries) else {
        return Ok(None);
    };
    Ok((next > range.start).then_some((batches, next)))
}

/// The offset below which the offset index has no rows, because a snapshot stands in for them.
fn snapshot_position(store: &dyn Store, group: GroupId) -> Result<Offset, StoreError> {
    let state = snapshot_machine::<PartitionState>(store, group)?;
    Ok(state.map_or(Offset(0), |state| state.next_offset()))
}

/// The keys of batches that end before `next`, from an offset on, until the run is full.
fn read_run(group: GroupId, batches: Bytes, from: Offset, next: Offset) -> Run {
    let mut run = Run {
        keys: HashMap::new(),
        key_bytes: 0,
        next,
    };
    for batch in BatchIter::new(batches) {
        // The key of a control record is none of a producer's.
        if matches!(&batch, Ok((header, _)) if header.attributes.is_control()) {
            continue;
        }
        match batch.and_then(|(_, batch)| collect(&batch, from, &mut run)) {
            Ok(None) => {}
            Ok(Some(rest)) => {
                run.next = rest;
                break;
            }
            // From before the setting: the leader decodes what it takes since. No consumer can read it either.
            Err(error) => tracing::warn!(%group, %error, "a batch cannot be decoded; its keys are not indexed"),
        }
    }
    run
}

/// Adds a batch's keys, from an offset on. Where the run is full: the offset from which they are missing.
fn collect(batch: &Bytes, from: Offset, run: &mut Run) -> Result<Option<Offset>, jangada_types::BatchError> {
    for record in Records::new(batch, DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        let key = record.key.filter(|key| key.len() <= INDEXED_KEY_BYTES_MAX);
        let Some(key) = key.filter(|_| record.offset >= from) else {
            continue;
        };
        if let Some(offset) = run.keys.get_mut(&key) {
            *offset = record.offset;
        } else if run.is_full() {
            return Ok(Some(record.offset));
        } else {
            run.key_bytes += key.len();
            // A copy: the slice would keep its whole batch in memory.
            run.keys.insert(Bytes::copy_from_slice(&key), record.offset);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
