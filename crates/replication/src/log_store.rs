//! openraft's log storage on the store: one group's view of it.
//!
//! `append` returns as soon as the entries are readable from memory; the writer thread calls openraft's callback when
//! they are durable. A vote is durable before it is answered. The last committed log id is not worth a sync of its
//! own: it rides along with the next append.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use jangada_storage::{Durability, LogEntry, LogPosition, Op, StateKind, Store, StoreError};
use jangada_types::GroupId;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::codec;
use crate::raft_types::{Entry, LogId, TypeConfig, Vote, log_id};

/// Bytes of entries that one read returns, and so one append message and one chunk of apply. openraft itself only
/// counts entries.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;

/// Runs a blocking store call off the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result.map_err(io::Error::other),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// A write on its way to the disk.
pub(crate) struct Durable(oneshot::Receiver<Result<(), StoreError>>);

impl Durable {
    pub async fn wait(self) -> io::Result<()> {
        match self.0.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the store stopped")),
        }
    }
}

/// One group's log in the store. Clones share everything: openraft asks for readers of its own.
#[derive(Clone)]
pub(crate) struct LogStore {
    group: GroupId,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

/// What the row kinds last got, so that the hot paths need not read them.
#[derive(Default)]
struct Shared {
    vote: Mutex<Option<Vote>>,
    /// The group is being deleted: nothing is written any more, or it would be left behind.
    retired: AtomicBool,
    /// Set by `save_committed`, taken by the next append.
    committed_unsaved: Mutex<Option<LogId>>,
}

impl LogStore {
    /// Opens the group. Blocks.
    pub fn open(group: GroupId, store: Arc<dyn Store>) -> Result<Self, StoreError> {
        store.open_group(group)?;
        let vote = match store.get_state(group, StateKind::VOTE, None)? {
            Some(bytes) => Some(
                codec::decode_vote(&bytes).map_err(|error| StoreError::Corrupt(format!("group {group}: {error}")))?,
            ),
            None => None,
        };
        let shared = Shared {
            vote: Mutex::new(vote),
            ..Shared::default()
        };
        Ok(Self {
            group,
            store,
            shared: Arc::new(shared),
        })
    }

    /// From now on nothing is saved: the group is being deleted.
    pub fn retire(&self) {
        self.shared.retired.store(true, Ordering::Release);
    }

    pub fn is_retired(&self) -> bool {
        self.shared.retired.load(Ordering::Acquire)
    }

    /// Queues a write; [`Durable::wait`] waits for it.
    pub fn start_synced(&self, ops: Vec<Op>) -> Durable {
        let (done, durable) = oneshot::channel();
        let completion = Box::new(move |result| {
            // The waiter may be gone: a group that shuts down.
            let _ = done.send(result);
        });
        self.store.write(self.group, ops, Durability::Synced, Some(completion));
        Durable(durable)
    }

    /// Writes with the next commit.
    pub fn write_lazy(&self, ops: Vec<Op>) {
        if !self.is_retired() {
            self.store.write(self.group, ops, Durability::Lazy, None);
        }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn group(&self) -> GroupId {
        self.group
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = match self.store.read_log_cached(self.group, start..end, bytes_max) {
            Some(entries) => entries,
            None => {
                let (store, group) = (self.store.clone(), self.group);
                blocking(move || store.read_log(group, start..end, bytes_max)).await?
            }
        };
        decode_all(entries)
    }

    fn end_of(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let bounds = self.store.bounds(self.group);
        let next = bounds.last.map_or(0, |last| last.index + 1);
        (start.max(bounds.first_index()), end.min(next))
    }
}

fn decode_all(entries: Vec<LogEntry>) -> io::Result<Vec<Entry>> {
    entries
        .into_iter()
        .map(|entry| codec::decode_entry(entry).map_err(io::Error::from))
        .collect()
}

fn to_log_id(position: LogPosition) -> LogId {
    log_id(position.term, position.index)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (mut start, end) = self.end_of(&range);
        let mut entries = Vec::new();
        while start < end {
            let chunk = self.read(start, end, READ_BYTES_MAX).await?;
            let Some(last) = chunk.last() else {
                return Err(io::Error::other(format!(
                    "group {}: log entry {start} is missing",
                    self.group
                )));
            };
            start = last.log_id.index + 1;
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + Send {
        let (start, end) = self.end_of(&range);
        let reader = self.clone();
        let chunks = stream::try_unfold((reader, start), move |(reader, start)| async move {
            if start >= end {
                return Ok(None);
            }
            let chunk = reader.read(start, end, READ_BYTES_MAX).await?;
            let Some(last) = chunk.last() else {
                return Err(io::Error::other(format!(
                    "group {}: log entry {start} is missing",
                    reader.group
                )));
            };
            let next = last.log_id.index + 1;
            Ok(Some((chunk, (reader, next))))
        });
        // `TryStream::try_flatten` would need inner streams of results; the chunks are plain.
        Box::pin(chunks.flat_map(|chunk| match chunk {
            Ok(entries) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        }))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.shared.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, end, READ_BYTES_MAX).await?;
        if entries.is_empty() && start < end {
            return Err(io::Error::other(format!(
                "group {}: log entries {start} to {end} are missing",
                self.group
            )));
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let bounds = self.store.bounds(self.group);
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(to_log_id),
            last_log_id: bounds.last.map(to_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let value = codec::encode_vote(vote);
        let ops = vec![Op::PutState {
            kind: StateKind::VOTE,
            suffix: None,
            value,
        }];
        self.start_synced(ops).wait().await?;
        *self.shared.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        *self.shared.committed_unsaved.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let (store, group) = (self.store.clone(), self.group);
        let value: Option<Bytes> = blocking(move || store.get_state(group, StateKind::COMMITTED, None)).await?;
        let Some(value) = value else { return Ok(None) };
        Ok(codec::decode_log_id(&value)?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<LogEntry> = entries.into_iter().map(codec::encode_entry).collect();
        let mut ops = Vec::with_capacity(2);
        if !entries.is_empty() {
            ops.push(Op::Append(entries));
        }
        if let Some(committed) = self.shared.committed_unsaved.lock().take() {
            let value = codec::encode_log_id(Some(committed));
            ops.push(Op::PutState {
                kind: StateKind::COMMITTED,
                suffix: None,
                value,
            });
        }
        let completion =
            Box::new(move |result: Result<(), StoreError>| callback.io_completed(result.map_err(io::Error::other)));
        self.store.write(self.group, ops, Durability::Synced, Some(completion));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        // Durable with the append that follows it, which is the first thing that anybody is told of.
        self.write_lazy(vec![Op::TruncateAfter(last_log_id.map(|id| id.index))]);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.write_lazy(vec![Op::Purge {
            upto: log_id.index,
            upto_term: log_id.leader_id.term,
        }]);
        Ok(())
    }
}
