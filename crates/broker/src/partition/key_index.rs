//! The last offset of every key of a partition whose topic has `key.index.enable`, on each replica.
//!
//! A task follows the log behind what is applied and writes, in one write, the keys of a run of batches and how far it
//! came (row KEYS). Committed records never change, so each row is a true statement for good, whatever became of the
//! replica meanwhile: stopped, killed, started from a snapshot, the index switched off and on. What lies below the log
//! start counts as none; the store drops such rows when it compacts. The task begins where it ended, or at the log start
//! if that is later, so the index of a topic that had none is built in the same way.

use std::collections::HashMap;
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
use tokio::sync::{RwLock, RwLockReadGuard, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::View;
use super::index_reads::rows_from;
use super::key_locks::KeyLocks;
use super::rows::{Assembled, assemble, keep_below, read_entries};
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
        let follower = Follower {
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
            forgets,
            task: tokio::spawn(follower.run(sender, to_forget)).abort_handle(),
        }
    }

    /// How far the index has come.
    pub fn reached(&self) -> Offset {
        *self.reached.borrow()
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

    /// Returns when all records below `end` are in the index. False: the task has ended.
    pub async fn reaches(&self, end: Offset) -> bool {
        self.reached.clone().wait_for(|reached| *reached >= end).await.is_ok()
    }
}

struct Follower {
    group: GroupId,
    store: Arc<dyn Store>,
    rows: DerivedRows,
    view: Arc<View>,
    /// Reads that may wait for the disk at once, over all partitions.
    reads: Pool,
}

impl Follower {
    async fn run(self, reached: watch::Sender<Offset>, mut to_forget: mpsc::Receiver<Forget>) {
        let mut ends = self.view.watch_ends();
        let group = self.group;
        let mut next = loop {
            match self.blocking(move |store| read_marker(store, group)).await {
                Ok(marker) => break marker.unwrap_or(Offset(0)),
                Err(error) if self.is_over(&error) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        loop {
            let end = ends.borrow_and_update().high_watermark;
            next = next.max(self.view.log_start());
            reached.send_replace(next);
            if let Ok(forget) = to_forget.try_recv() {
                self.forget(forget).await;
                continue;
            }
            if next >= end {
                tokio::select! {
                    changed = ends.changed() => if changed.is_err() { return },
                    Some(forget) = to_forget.recv() => self.forget(forget).await,
                }
                continue;
            }
            match self.blocking(move |store| index_run(store, group, next..end)).await {
                Ok(Some(run)) => {
                    next = run.next;
                    // A caught-up index does not wait for the disk; one that is being built must not outrun it.
                    let written = self.write(run);
                    if next < end && !written.wait().await {
                        return;
                    }
                }
                Ok(None) => tokio::time::sleep(PAUSE).await,
                Err(error) if self.is_over(&error) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
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

/// The keys of the next batches. `None`: they are not there.
fn index_run(store: &dyn Store, group: GroupId, range: std::ops::Range<Offset>) -> Result<Option<Run>, StoreError> {
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
    if next <= range.start {
        return Ok(None);
    }
    Ok(Some(read_run(group, batches, range.start, next)))
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
mod tests {
    use jangada_storage::{Durability, Op};
    use jangada_types::{BatchBuilder, Codec, TopicConfig};

    use super::super::testing::{self, Broker, GROUP, Options, TIMEOUT};
    use super::*;

    /// Batches behind one another, each with these keys.
    fn batches(of: &[Vec<Vec<u8>>]) -> (Bytes, Offset) {
        let mut out = BytesMut::new();
        let mut next = 0;
        for keys in of {
            let mut builder = BatchBuilder::new(Codec::Zstd);
            for key in keys {
                builder.append(0, Some(key), None, []).expect("it fits");
            }
            let start = out.len();
            out.extend_from_slice(&builder.build());
            jangada_types::batch::set_position(&mut out[start..], Offset(next), jangada_types::LeaderEpoch(1));
            next += i64::try_from(keys.len()).expect("few");
        }
        (out.freeze(), Offset(next))
    }

    /// An index whose task goes on until it is ended, and says when it has.
    fn endless(ended: Arc<AtomicBool>) -> KeyIndex {
        struct Says(Arc<AtomicBool>);
        impl Drop for Says {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let (sender, reached) = watch::channel(Offset(0));
        let holds = (Says(ended), sender);
        let task = tokio::spawn(async move {
            let _holds = holds;
            std::future::pending::<()>().await;
        });
        KeyIndex {
            locks: Arc::default(),
            barrier_applied: AtomicBool::new(false),
            reached,
            forgets: mpsc::channel(1).0,
            task: task.abort_handle(),
        }
    }

    #[tokio::test]
    async fn the_index_is_switched_when_no_batch_is_being_admitted_and_its_task_has_ended() {
        use futures::FutureExt as _;

        let ended = Arc::new(AtomicBool::new(false));
        let kept = KeptIndex::new(Some(endless(ended.clone())));
        let held = kept.held().await;
        let mut switching = Box::pin(kept.keep(false, || unreachable!("none is wanted")));
        assert!((&mut switching).now_or_never().is_none(), "a batch is being judged");
        // Who comes now sees what will be there.
        let mut next = Box::pin(kept.held());
        assert!((&mut next).now_or_never().is_none());
        assert!(held.is_some() && !ended.load(Ordering::Acquire));
        drop(held);
        switching.await;
        assert!(ended.load(Ordering::Acquire), "the old task may still write");
        assert!(next.await.is_none());
        kept.keep(true, || endless(Arc::default())).await;
        assert!(kept.held().await.is_some());
        kept.keep(true, || unreachable!("it is there")).await;
    }

    #[test]
    fn a_run_ends_at_so_many_keys_and_the_next_one_goes_on_there() {
        // Little when packed: counters.
        let numbered =
            |range: std::ops::Range<usize>| range.map(|n| format!("{n:08}").into_bytes()).collect::<Vec<_>>();
        let long = |range: std::ops::Range<usize>| range.map(|n| format!("{n:01024}").into_bytes()).collect::<Vec<_>>();
        let (packed, end) = batches(&[
            numbered(0..10),
            numbered(5..RUN_KEYS * 2 + 10),
            long(0..5_000),
            numbered(0..7),
        ]);
        assert!(packed.len() < 2 << 20, "{} bytes", packed.len());
        let mut expected = HashMap::new();
        for batch in BatchIter::new(packed.clone()) {
            for record in Records::new(&batch.expect("whole").1, DECOMPRESSED_BYTES_MAX).expect("decodes") {
                let record = record.expect("decodes");
                expected.insert(record.key.expect("each has one"), record.offset);
            }
        }
        let (mut found, mut next, mut runs) = (HashMap::new(), Offset(0), 0);
        while next < end {
            let run = read_run(GroupId(1), packed.clone(), next, end);
            assert!(run.next > next, "it stands still at {next}");
            assert!(run.keys.len() <= RUN_KEYS, "{} keys", run.keys.len());
            assert!(run.key_bytes <= RUN_KEY_BYTES + INDEXED_KEY_BYTES_MAX);
            next = run.next;
            found.extend(run.keys);
            runs += 1;
        }
        assert_eq!(found, expected);
        assert!((4..=6).contains(&runs), "{runs} runs");
    }

    /// One record with a key.
    fn record(key: &[u8], bytes: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(0, Some(key), Some(&vec![7; bytes]), []).expect("small");
        builder.build()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_that_are_missing_at_the_very_start_are_damage() {
        let broker = Broker::start(Options::default());
        let partition = broker.lead(TopicConfig::default()).await;
        for key in [b"a", b"b", b"c"] {
            testing::append(&partition, record(key, 1)).await.expect("written");
        }
        let store = &*broker.shared.store;
        let run = index_run(store, GROUP, Offset(0)..Offset(3))
            .expect("whole")
            .expect("there");
        assert_eq!((run.keys.len(), run.next), (3, Offset(3)));
        store.write(GROUP, vec![Op::CutOff(Some(2))], Durability::Lazy, None);
        let run = index_run(store, GROUP, Offset(2)..Offset(3))
            .expect("whole")
            .expect("there");
        assert_eq!((run.keys.len(), run.next), (1, Offset(3)));
        let Err(StoreError::Damaged { what, .. }) = index_run(store, GROUP, Offset(1)..Offset(3)) else {
            panic!("offset 1 was passed over");
        };
        assert!(what.contains("offset 1 is missing"), "{what}");
        store.write(GROUP, vec![Op::CutOff(Some(3))], Durability::Lazy, None);
        let gone = index_run(store, GROUP, Offset(1)..Offset(3));
        assert!(matches!(gone, Err(StoreError::Damaged { .. })), "all are missing");
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_that_went_with_a_snapshot_are_not_missing() {
        let broker = Broker::start(Options::default());
        let config = TopicConfig {
            segment_bytes: 1 << 16,
            ..TopicConfig::default()
        };
        let partition = broker.lead(config).await;
        let mut next = 0;
        while next < 20 {
            testing::append(&partition, record(b"key", 20_000))
                .await
                .expect("written");
            next += 1;
        }
        partition.trim(Some(Offset(15))).await.expect("it leads");
        let store = &*broker.shared.store;
        let purged = async {
            while index_first(store) == Offset(0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, purged)
            .await
            .expect("rows go with the purge");
        // As of a replica that has not applied the new log start, or was away.
        let run = index_run(store, GROUP, Offset(0)..Offset(next))
            .expect("whole")
            .expect("there");
        assert_eq!(run.next, Offset(next));
        assert!(snapshot_position(store, GROUP).expect("whole") > Offset(0));
        broker.stop().await;
    }

    /// Where the offset index begins.
    fn index_first(store: &dyn Store) -> Offset {
        let first = super::super::index_reads::row_at(store, GROUP, Offset(0)).expect("whole");
        first.expect("some stay").base_offset
    }
}
