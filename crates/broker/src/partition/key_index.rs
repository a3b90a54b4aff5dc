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
use jangada_storage::{Durability, Op, StateKind, Store, StoreError};
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, INDEXED_KEY_BYTES_MAX};
use jangada_types::{GroupId, Offset};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::View;
use super::fetch::{assemble, keep_below, rows_within};
use super::key_locks::KeyLocks;
use crate::pool::Pool;

const VERSION: u8 = 1;
/// Batches that are read at once, bytes.
const RUN_BYTES: usize = 1 << 20;
/// And rows of the offset index.
const RUN_ROWS: usize = 1024;
/// Before looking again when what is to be read is not there (a purge or a snapshot is under way) or reading failed.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module text. Dropped when the topic's setting is taken back or the replica closes; the rows stay.
pub(crate) struct KeyIndex {
    pub locks: Arc<KeyLocks>,
    /// Everything that was proposed before the locks were there is applied.
    pub settled: AtomicBool,
    reached: watch::Receiver<Offset>,
    task: AbortHandle,
}

impl Drop for KeyIndex {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeyIndex {
    /// Begins to follow the log. Needs a runtime.
    pub fn start(group: GroupId, store: Arc<dyn Store>, view: Arc<View>, reads: Pool) -> Self {
        let (sender, reached) = watch::channel(Offset(0));
        let follower = Follower {
            group,
            store,
            view,
            reads,
        };
        Self {
            locks: Arc::default(),
            settled: AtomicBool::new(false),
            reached,
            task: tokio::spawn(follower.run(sender)).abort_handle(),
        }
    }

    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Returns when all records below `end` are in the index. False: the task has ended.
    pub async fn reaches(&self, end: Offset) -> bool {
        self.reached.clone().wait_for(|reached| *reached >= end).await.is_ok()
    }
}

struct Follower {
    group: GroupId,
    store: Arc<dyn Store>,
    view: Arc<View>,
    /// Reads that may wait for the disk at once, over all partitions.
    reads: Pool,
}

impl Follower {
    async fn run(self, reached: watch::Sender<Offset>) {
        let mut high_watermark = self.view.watch_high_watermark();
        let group = self.group;
        let mut next = loop {
            match self.blocking(move |store| read_marker(store, group)).await {
                Ok(marker) => break marker.unwrap_or(Offset(0)),
                Err(error) if self.is_over(&error) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        loop {
            let end = *high_watermark.borrow_and_update();
            next = next.max(self.view.log_start());
            reached.send_replace(next);
            if next >= end {
                if high_watermark.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.blocking(move |store| index_run(store, group, next..end)).await {
                Ok(Some(run)) => {
                    next = run.next;
                    // A caught-up index does not wait for the disk; one that is being built must not outrun it.
                    let written = self.write(run);
                    if next < end && written.await.is_err() {
                        return;
                    }
                }
                Ok(None) => tokio::time::sleep(PAUSE).await,
                Err(error) if self.is_over(&error) => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Queues a run; readable when this returns. The answer says that it is written.
    fn write(&self, run: Run) -> tokio::sync::oneshot::Receiver<()> {
        let (done, written) = tokio::sync::oneshot::channel();
        let mut marker = BytesMut::with_capacity(9);
        marker.put_u8(VERSION);
        marker.put_i64(run.next.get());
        let ops = vec![
            Op::PutKeys(run.keys.into_iter().collect()),
            Op::PutState {
                kind: StateKind::KEYS,
                suffix: None,
                value: marker.freeze(),
            },
        ];
        let completion = Box::new(move |result: Result<(), StoreError>| {
            if result.is_ok() {
                let _ = done.send(());
            }
        });
        self.store.write(self.group, ops, Durability::Lazy, Some(completion));
        written
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        let read = self.reads.run(move || read(&*store)).await;
        read.unwrap_or_else(|error| Err(StoreError::Corrupt(error.message)))
    }

    /// Whether there is no use in trying again.
    fn is_over(&self, error: &StoreError) -> bool {
        let over = matches!(
            error,
            StoreError::GroupNotOpen(_) | StoreError::ShuttingDown | StoreError::Fenced(_)
        );
        if !over {
            tracing::error!(group = %self.group, %error, "the index of keys cannot go on");
        }
        over
    }
}

/// What a run of batches says.
struct Run {
    keys: HashMap<Bytes, Offset>,
    next: Offset,
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
    let mut rows = rows_within(store.index_at_or_after(group, range.start, RUN_ROWS)?, RUN_BYTES);
    keep_below(&mut rows, range.end);
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(None);
    };
    let indexes = first.raft_index..last.raft_index + 1;
    let entries = store.read_log(group, indexes, RUN_BYTES.max(first.size_bytes as usize))?;
    let (batches, next) = assemble(&rows, &entries);
    if next <= range.start || batches.is_empty() {
        return Ok(None);
    }
    let mut keys = HashMap::new();
    for batch in BatchIter::new(batches) {
        let read = batch.and_then(|(_, batch)| collect(&batch, &mut keys));
        if let Err(error) = read {
            // From before the setting: the leader decodes what it takes since. No consumer can read it either.
            tracing::warn!(%group, %error, "a batch cannot be decoded; its keys are not indexed");
        }
    }
    Ok(Some(Run { keys, next }))
}

fn collect(batch: &Bytes, keys: &mut HashMap<Bytes, Offset>) -> Result<(), jangada_types::BatchError> {
    for record in Records::new(batch, DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        let Some(key) = record.key.filter(|key| key.len() <= INDEXED_KEY_BYTES_MAX) else {
            continue;
        };
        match keys.get_mut(&key) {
            Some(offset) => *offset = record.offset,
            // A copy: the slice would keep its whole batch in memory.
            None => drop(keys.insert(Bytes::copy_from_slice(&key), record.offset)),
        }
    }
    Ok(())
}
