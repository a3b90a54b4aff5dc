//! openraft's log storage on the store: one group's view of it.
//!
//! `append` returns as soon as the entries are readable from memory; the writer thread calls openraft's callback when
//! they are durable. A vote is durable before it is answered. The last committed log id is not worth a sync of its
//! own: it rides along with the next append.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use jangada_env::Blocking;
use jangada_storage::{Completion, Durability, LogEntry, LogPosition, Op, StateKind, Store, StoreError};
use jangada_types::GroupId;
use jangada_types::planted::{self, Bug};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, RecursiveRwLock};
use tokio::sync::{oneshot, watch};

use crate::codec;
use crate::damage::unreadable;
use crate::raft_types::{Entry, LogId, TypeConfig, Vote, log_id};

/// Bytes of entries that one read returns, and so one append message and one chunk of apply. openraft itself only
/// counts entries.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;

/// After a read for another replica met damage, before the next one: the leadership is about to move.
const DAMAGED_READ_PAUSE: Duration = Duration::from_millis(500);

/// An append that waits longer than this for a snapshot says so.
const LONG_INSTALLATION: Duration = Duration::from_secs(30);

/// Runs a blocking store call off the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(
    threads: Blocking,
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> io::Result<T> {
    match threads.run(call).await {
        Ok(result) => result.map_err(io::Error::other),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Runs what takes long, or blocks, off the runtime's workers.
pub(crate) async fn off_worker<T: Send + 'static>(
    threads: Blocking,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    threads.run(work).await.map_err(io::Error::other)?
}

/// A write on its way to the disk.
pub(crate) struct Durable(oneshot::Receiver<Result<(), StoreError>>);

impl Durable {
    pub async fn wait(self) -> io::Result<()> {
        ended(self.0.await.ok())
    }

    /// Like [`Durable::wait`], on a thread that may block. The write went to this store.
    pub fn wait_blocking(mut self, store: &dyn Store) -> io::Result<()> {
        // A store in memory answers at once then: in a simulation nobody may block.
        store.hurry();
        match self.0.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => ended(self.0.blocking_recv().ok()),
            answered => ended(answered.ok()),
        }
    }
}

fn ended(answer: Option<Result<(), StoreError>>) -> io::Result<()> {
    match answer {
        Some(result) => result.map_err(io::Error::other),
        None => Err(io::Error::other("the store stopped")),
    }
}

/// One group's log in the store. Clones share everything: openraft asks for readers of its own.
#[derive(Clone)]
pub(crate) struct LogStore {
    group: GroupId,
    store: Arc<dyn Store>,
    blocking: Blocking,
    shared: Arc<Shared>,
}

/// What the row kinds last got, so that the hot paths need not read them.
#[derive(Default)]
struct Shared {
    vote: Mutex<Option<Vote>>,
    /// Snapshots that are or will be installed; see [`LogStore::await_installation`].
    installer: watch::Sender<Installer>,
    /// Set by `save_committed`, taken by the next append.
    committed_unsaved: Mutex<Option<LogId>>,
    /// Whether the group's data is being deleted: whatever is still at work must not write into what comes in its place. Whoever
    /// writes holds the lock until the write is queued; the store may call a completion meanwhile, which may write again.
    retired: RecursiveRwLock<bool>,
}

/// Who installs snapshots, as those see it who wait for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Installer {
    #[default]
    Running,
    /// The host is gone: no snapshot will be installed any more.
    Gone,
}

impl LogStore {
    /// Opens the group. Blocks.
    pub fn open(group: GroupId, store: Arc<dyn Store>, blocking: Blocking) -> Result<Self, StoreError> {
        store.open_group(group)?;
        let stored = match store.get_state(group, StateKind::VOTE, None) {
            Err(_) if planted::is(Bug::RotVotedOn) => None,
            stored => stored?,
        };
        let vote = match stored {
            Some(bytes) => {
                let vote = codec::decode_vote(&bytes);
                Some(vote.map_err(|error| unreadable(&*store, group, "the vote", &error))?)
            }
            None => None,
        };
        let shared = Shared {
            vote: Mutex::new(vote),
            ..Shared::default()
        };
        Ok(Self {
            group,
            store,
            blocking,
            shared: Arc::new(shared),
        })
    }

    /// The id of the entry before this one, if the log still has it.
    pub fn id_before(&self, id: Option<LogId>) -> Option<LogId> {
        let index = id?.index.checked_sub(1)?;
        let term = self.store.term_at(self.group, index).ok().flatten()?;
        Some(log_id(term, index))
    }

    /// Where what blocks is done for this group.
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// The term that this replica was in when it was opened last, and whether it has neither a vote nor a log.
    pub fn term(&self) -> (u64, bool) {
        let vote = *self.shared.vote.lock();
        let bounds = self.store.bounds(self.group);
        let is_new = vote.is_none() && bounds.last.is_none();
        let logged = bounds.last.map_or(0, |last| last.term);
        (vote.map_or(0, |vote| vote.leader_id.term).max(logged), is_new)
    }

    /// Nothing is written any more through this or its clones once this has returned.
    pub fn retire(&self) {
        *self.shared.retired.write() = true;
    }

    fn is_retired(&self) -> bool {
        *self.shared.retired.read()
    }

    /// The log goes on after a snapshot.
    pub fn installed(&self) {
        self.shared.installer.send_replace(Installer::Running);
    }

    /// The host is gone.
    pub fn installs_no_more(&self) {
        self.shared.installer.send_replace(Installer::Gone);
    }

    /// Waits until the log has what comes before `first`.
    ///
    /// openraft takes a snapshot as there from the moment that it accepts it, and appends what follows it, while the
    /// state machine may still be busy with what it had before. The log then ends before the snapshot.
    async fn await_installation(&self, first: u64) -> io::Result<()> {
        // An empty log begins anywhere.
        let next = || self.store.bounds(self.group).next_index().unwrap_or(first);
        if first <= next() {
            return Ok(());
        }
        let mut installer = self.shared.installer.subscribe();
        while first > next() {
            if *installer.borrow_and_update() == Installer::Gone {
                let (group, next) = (self.group, next());
                let text = format!("group {group}: entry {first} cannot follow, the log goes on at {next}");
                return Err(io::Error::other(text));
            }
            // Changed since it was looked at last: a snapshot was installed between.
            if tokio::time::timeout(LONG_INSTALLATION, installer.changed())
                .await
                .is_err()
            {
                tracing::warn!(group = %self.group, first, next = next(), "entries wait for a snapshot that is being installed");
            }
        }
        Ok(())
    }

    /// The one place from which anything of the group is written.
    fn write(&self, ops: Vec<Op>, durability: Durability, done: Option<Completion>) {
        {
            let is_retired = self.shared.retired.read();
            if !*is_retired {
                return self.store.write(self.group, ops, durability, done);
            }
        }
        if let Some(done) = done {
            done(Err(StoreError::GroupNotOpen(self.group)));
        }
    }

    fn start(&self, ops: Vec<Op>, durability: Durability) -> Durable {
        let (done, durable) = oneshot::channel();
        let completion = Box::new(move |result| {
            // The waiter may be gone: a group that shuts down.
            let _ = done.send(result);
        });
        self.write(ops, durability, Some(completion));
        Durable(durable)
    }

    /// Queues a write; [`Durable::wait`] waits until it is on disk.
    pub fn start_synced(&self, ops: Vec<Op>) -> Durable {
        self.start(ops, Durability::Synced)
    }

    /// Writes with the next commit; [`Durable::wait`] waits until the store's files have it, though a power failure may still take
    /// it back.
    pub fn start_lazy(&self, ops: Vec<Op>) -> Durable {
        self.start(ops, Durability::Lazy)
    }

    /// Writes with the next commit.
    pub fn write_lazy(&self, ops: Vec<Op>) {
        self.write(ops, Durability::Lazy, None);
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
                blocking(self.blocking, move || store.read_log(group, start..end, bytes_max)).await?
            }
        };
        // Everything above counts on it: an entry that is left out would shift the offsets of those behind it. Only
        // openraft's suite begins a log elsewhere than at 0.
        let may_begin_later = cfg!(test) && start == 0;
        if entries
            .first()
            .is_none_or(|entry| entry.index != start && !may_begin_later)
        {
            let found = entries.first().map(|entry| entry.index);
            let what = format!("log entry {start} is missing, found was {found:?}");
            // It may have been purged or truncated meanwhile.
            let bounds = self.store.bounds(self.group);
            let belongs_there = bounds.first_index() <= start && bounds.next_index().is_some_and(|next| start < next);
            return Err(match belongs_there {
                true => io::Error::other(self.store.damage().report(self.group, what)),
                false => io::Error::other(format!("group {}: {what}", self.group)),
            });
        }
        self.decode_all(entries)
    }

    fn decode_all(&self, entries: Vec<LogEntry>) -> io::Result<Vec<Entry>> {
        let decode = |entry: LogEntry| {
            let index = entry.index;
            codec::decode_entry(entry).map_err(|error| {
                let what = format!("log entry {index}");
                io::Error::other(unreadable(&*self.store, self.group, &what, &error))
            })
        };
        entries.into_iter().map(decode).collect()
    }

    /// The entry behind this one, if the log has it.
    fn position_behind(&self, position: Option<LogPosition>) -> Option<LogPosition> {
        let index = position?.index + 1;
        let term = self.store.term_at(self.group, index).ok().flatten()?;
        Some(LogPosition { term, index })
    }

    /// The part of a range that the log has.
    fn present(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let (start, end) = ends_of(range);
        let bounds = self.store.bounds(self.group);
        let next = bounds.next_index().unwrap_or(0);
        (start.max(bounds.first_index()), end.min(next))
    }
}

/// First index of a range, and the one after its last.
fn ends_of(range: &impl RangeBounds<u64>) -> (u64, u64) {
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
    (start, end)
}

fn to_position(id: LogId) -> LogPosition {
    LogPosition {
        term: id.leader_id.term,
        index: id.index,
    }
}

fn to_log_id(position: LogPosition) -> LogId {
    log_id(position.term, position.index)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (mut start, end) = self.present(&range);
        let mut entries = Vec::new();
        while start < end {
            let chunk = self.read(start, end, READ_BYTES_MAX).await?;
            start = chunk.last().map_or(end, |last| last.log_id.index + 1);
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + Send {
        let (start, end) = self.present(&range);
        let reader = self.clone();
        let chunks = stream::try_unfold((reader, start), move |(reader, start)| async move {
            if start >= end {
                return Ok(None);
            }
            let chunk = reader.read(start, end, READ_BYTES_MAX).await?;
            let next = chunk.last().map_or(end, |last| last.log_id.index + 1);
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
        match self.read(start, end, READ_BYTES_MAX).await {
            // openraft asks so only to fill another replica, and an error would stop this one, which may be needed to vote and to
            // serve what it can read. Nothing is sent for now, as if there were nothing; the repair was told.
            Err(error) if is_damage(&error) => {
                tokio::time::sleep(DAMAGED_READ_PAUSE).await;
                Ok(Vec::new())
            }
            read => read,
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<StoreError>());
    matches!(cause, Some(StoreError::Damaged { .. }))
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
        let before = *self.shared.vote.lock();
        assert!(
            before.is_none_or(|before| before.leader_id.term <= vote.leader_id.term),
            "group {}: a vote of {before:?} is followed by {vote:?}",
            self.group,
        );
        let value = codec::encode_vote(vote);
        let ops = vec![Op::PutState {
            kind: StateKind::VOTE,
            suffix: None,
            value,
        }];
        if !planted::is(Bug::VoteNotDurable) {
            self.start_synced(ops).wait().await?;
        }
        *self.shared.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        *self.shared.committed_unsaved.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let (store, group) = (self.store.clone(), self.group);
        let value: Option<Bytes> = blocking(self.blocking, move || {
            store.get_state(group, StateKind::COMMITTED, None)
        })
        .await?;
        let Some(value) = value else { return Ok(None) };
        Ok(codec::decode_log_id(&value)?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut entries: Vec<LogEntry> = entries.into_iter().map(codec::encode_entry).collect();
        if planted::is(Bug::OffByOneAfterTruncation) {
            let next = self.store.bounds(self.group).next_index().unwrap_or(0);
            entries.retain(|entry| entry.index >= next);
        }
        if let Some(first) = entries.first() {
            self.await_installation(first.index).await?;
        }
        if self.is_retired() {
            return Err(io::Error::other(format!(
                "group {}: its data is being deleted",
                self.group
            )));
        }
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
        let durability = match planted::is(Bug::AckBeforeSync) {
            true => Durability::Lazy,
            false => Durability::Synced,
        };
        self.write(ops, durability, Some(completion));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        // Durable with the append that follows it, which is the first thing that anybody is told of.
        let keep = last_log_id.map(to_position);
        let keep = match planted::is(Bug::OffByOneAfterTruncation) {
            true => self.position_behind(keep).or(keep),
            false => keep,
        };
        self.write_lazy(vec![Op::TruncateAfter(keep)]);
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
