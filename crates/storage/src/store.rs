//! The contract between replication and the disk: groups, the operations on them, and what their completions mean.
//!
//! Every method is called from any thread. `write` waits for no write and no sync; all methods that are said to block go to a read pool
//! or another thread that may wait for the disk, never to a tokio worker.
//!
//! Invariants that every implementation holds (the `conformance` module checks them):
//! - operations of one group take effect in call order, and are visible to `bounds`, `read_log` and `term_at` when
//!   `write` returns;
//! - completions are called in the order of their `write` calls, each exactly once, also at shutdown;
//! - a `Synced` completion with `Ok` says that this write and all writes before it, of every group, are durable;
//! - after one failed write or sync nothing is acknowledged any more.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
pub use jangada_types::LogPosition;
use jangada_types::{GroupId, RowChange, RowError, Table};

use crate::damage::Damage;
use crate::error::StoreError;
use crate::scrub_cursor::{ScrubCursor, Scrubbed};
use crate::statistics::StoreStatistics;
use crate::tables::{STATE, state_key, state_suffix};

/// One entry of a group's Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Raft log index.
    pub index: u64,
    /// Raft term in which the entry was proposed.
    pub term: u64,
    /// Small header of the command, opaque to the store.
    pub head: Bytes,
    /// Payload, opaque to the store. It is shared, never copied in memory.
    pub body: Bytes,
}

impl LogEntry {
    /// Bytes of head and body, which is what limits and budgets count.
    pub fn payload_len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// What a row of the `state` column family is about. The store looks only at `PURGED` (its own) and passes on the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKind(pub u8);

impl StateKind {
    /// The vote of the group's replica.
    pub const VOTE: Self = Self(1);
    /// Last log id known to be committed.
    pub const COMMITTED: Self = Self(2);
    /// Last purged log id. The store writes it itself in [`Op::Purge`].
    pub const PURGED: Self = Self(3);
    /// Last applied log id and the state machine's state.
    pub const APPLIED: Self = Self(4);
    /// The current snapshot.
    pub const SNAPSHOT: Self = Self(5);
    /// A checkpoint of the state machine; the suffix is its Raft index.
    pub const CHECKPOINT: Self = Self(6);
    /// What the node knows about the group: topic, partition, configuration.
    pub const GROUP: Self = Self(7);
    /// What the node knows about itself.
    pub const NODE: Self = Self(8);
    /// How far the rows of keys reach that are derived from the log.
    pub const KEYS: Self = Self(9);
    /// The incarnation of the replica that the group's data belongs to, if it is not the broker's own.
    pub const REPLICA: Self = Self(10);
    /// A chunk of a state that one row does not hold; the suffix says of which state, and which chunk.
    pub const STATE_CHUNK: Self = Self(12);
    /// How far the scrub of all groups is. Under [`GroupId::NODE`].
    pub const SCRUB: Self = Self(11);
    /// The starts of the node's process (see `starts`). The store's own, under [`GroupId::NODE`].
    pub const STARTS: Self = Self(16);
    /// What the node remembers of a peer's commits; the suffix is the peer's broker id. Under [`GroupId::NODE`].
    pub const PEER: Self = Self(17);
    /// Groups whose rows do not lie under their number (see `places`). The store's own, under [`GroupId::NODE`].
    pub const PLACES: Self = Self(18);
    /// The commit sequence and hash of the last commit (see `mark`). The store's own, under [`GroupId::NODE`].
    pub const COMMIT: Self = Self(255);
}

/// One change of a group.
#[derive(Clone, Debug)]
pub enum Op {
    /// Appends entries: consecutive, the first right after the group's last index. Anything else is a bug and panics.
    Append(Vec<LogEntry>),
    /// Removes all entries after this one. `None` removes all that are left (those after the purged one).
    ///
    /// It has its term, so that a write never reads: a read that fails for a moment must not decide what becomes of the log.
    TruncateAfter(Option<LogPosition>),
    /// Removes all entries up to and with `upto`. The log id is kept, as the start of the log.
    ///
    /// `upto` may lie beyond the last entry (a snapshot was installed): the log is then empty and goes on after `upto`.
    /// An `upto` at or below what is purged already changes nothing.
    Purge {
        /// Last index to remove.
        upto: u64,
        /// The term of the entry at `upto`.
        upto_term: u64,
    },
    /// Puts entries in the place of those that are there, with rows that say so. What is about an entry that is not in the log any more
    /// is left out: it may have been purged meanwhile.
    ///
    /// Readers may get an entry as it was until the write is done: whoever rewrites entries sees to it that both forms are right.
    Rewrite {
        /// The entries, in any order, each with the term that it has. Another term is a bug and panics.
        entries: Vec<LogEntry>,
        /// Changes of rows, each with the index of the entry that it is about.
        rows: Vec<(u64, RowChange)>,
    },
    /// Writes one row of state.
    PutState {
        /// What the row is about.
        kind: StateKind,
        /// Tells rows of one kind apart; none is 0.
        suffix: Option<u64>,
        /// The value, opaque to the store.
        value: Bytes,
    },
    /// Removes one row of state.
    DeleteState {
        /// What the row is about.
        kind: StateKind,
        /// Tells rows of one kind apart; none is 0.
        suffix: Option<u64>,
    },
    /// Removes the rows of state of one kind whose suffixes lie in this range.
    DeleteStateRange {
        /// The kind of the rows.
        kind: StateKind,
        /// The suffixes of the rows that go.
        suffixes: Range<u64>,
    },
    /// Changes rows of a table.
    Row(RowChange),
    /// The log's start has moved to this position (`None`: a snapshot has taken the log's place): removes the rows of tables that
    /// are cut off with it, as each table declares.
    CutOff(Option<u64>),
    /// Removes everything of the group: log, tables and state. The group stays open, and is as new.
    DeleteGroup,
}

impl From<RowChange> for Op {
    fn from(change: RowChange) -> Self {
        Self::Row(change)
    }
}

const _: () = assert!(
    size_of::<Op>() == size_of::<RowChange>(),
    "a list of changes becomes one of operations where it lies"
);

/// A range of keys of a table.
#[derive(Clone, Copy, Debug)]
pub struct KeyRange<'a> {
    /// The first key.
    pub from: &'a [u8],
    /// The first key behind it; none: it has no end.
    pub to: Option<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// All keys from this one on; all there are from the empty one on.
    pub fn from(key: &'a [u8]) -> Self {
        Self { from: key, to: None }
    }
}

/// Takes rows, key and value, until it says that it has enough. It must not call the store. Its error is that of a row which it
/// cannot read, and becomes damage of the group.
pub type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, RowError> + 'a;

/// What a completion of a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Wait until this and everything before it is on disk.
    Synced,
    /// The write is not synced for its own sake: it goes with the next commit, or within 20 ms. Its completion says that RocksDB has it,
    /// not that it is durable.
    Lazy,
}

/// Called exactly once, on the writer thread. It must be short and never block.
pub type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// First and last of a group's log.
///
/// ```text
///   purged           last
///     |                |
/// ----x================x
///      entries present
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LogBounds {
    /// Last purged entry; none if nothing was ever purged.
    pub purged: Option<LogPosition>,
    /// Last entry; equal to `purged` when no entry is left.
    pub last: Option<LogPosition>,
}

impl LogBounds {
    /// Index of the first entry that is, or would be, in the log.
    pub fn first_index(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Index that the next appended entry may have; `None` says any (an empty log that was never purged).
    pub fn next_index(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }
}

/// Whether the store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCondition {
    /// Writes are taken.
    Healthy,
    /// Free space is below the reserve: the broker refuses to produce. The store itself still writes, so that votes and
    /// deletions go on.
    DiskLow {
        /// Free bytes when last looked.
        free: u64,
        /// Bytes that are to stay free.
        reserve: u64,
    },
    /// A write or sync failed. Nothing is acknowledged until the process starts again.
    Fenced(String),
}

/// Where the groups of one node are kept. An implementation holds the invariants that this file begins with.
pub trait Store: Send + Sync + 'static {
    /// Loads the bounds of the group and registers it in memory. Blocks. Opening an open group only returns its bounds.
    fn open_group(&self, group: GroupId) -> Result<LogBounds, StoreError>;

    /// Forgets the group in memory; what is queued is still written. Reads and writes need it open.
    fn close_group(&self, group: GroupId);

    /// Removes everything that a group has, also one that is damaged, as it need not be open: nothing of it is loaded.
    /// The group is closed by it, and writes that come later, from whoever had it open, are refused. Blocks while another
    /// group is being opened.
    ///
    /// `leave` is what it has from then on, in the same write: rows of state that say why it is empty.
    fn delete_group(&self, group: GroupId, leave: Vec<Op>, done: Completion);

    /// Queues operations as one atomic write. Effects on bounds and reads are visible when it returns. Never reads
    /// from disk, nor waits for a write or a sync.
    ///
    /// The completion of a write to a group that is not open gets an error. Panics when an append leaves a gap: that is
    /// a bug of the caller.
    fn write(&self, group: GroupId, ops: Vec<Op>, durability: Durability, done: Option<Completion>);

    /// First and last of the log. Panics when the group is not open.
    fn bounds(&self, group: GroupId) -> LogBounds;

    /// Entries of the range, from its first on, ending at `max_bytes` (at least one entry if the first is there), the
    /// range's end or the log's end. Blocks when entries must be read from disk; entries in memory are shared without a
    /// copy.
    ///
    /// What lies below the log's start is left out: the first entry is then a later one than asked for.
    fn read_log(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, StoreError>;

    /// As `read_log`, but from memory only and without blocking: `None` when the first entry of the range is not in
    /// memory. What it returns may end earlier than the range.
    fn read_log_cached(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>>;

    /// Term of the entry at this index (also of the purged log id), or `None` if it is not in the log. May block.
    fn term_at(&self, group: GroupId, index: u64) -> Result<Option<u64>, StoreError>;

    /// One row of state, as of all writes that have returned. Blocks.
    fn get_state(&self, group: GroupId, kind: StateKind, suffix: Option<u64>) -> Result<Option<Bytes>, StoreError>;

    /// As `get_state`, of a group that need not be open, as it may be damaged: nothing else of it is read. Blocks.
    fn peek_state(&self, group: GroupId, kind: StateKind) -> Result<Option<Bytes>, StoreError>;

    /// Reads about `max_bytes` of what a group has on disk, from the cursor on, with all checksums. Damage is an error, and
    /// told like that of any read. Blocks.
    fn scrub(&self, group: GroupId, cursor: ScrubCursor, max_bytes: u64) -> Result<Scrubbed, StoreError>;

    /// All rows of state of one kind, ascending by suffix, as of all writes that have returned. Blocks.
    fn scan_state(&self, group: GroupId, kind: StateKind) -> Result<Vec<(u64, Bytes)>, StoreError>;

    /// The tables that the store was opened with, by rising id.
    fn tables(&self) -> &[&'static Table];

    /// One row of a table, as of all writes that have returned. Blocks.
    fn get_row(&self, group: GroupId, table: &'static Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Shows the rows of a range of keys, ascending, at most `limit`, as of all writes that have returned, until the visitor has
    /// enough. Blocks.
    fn scan_rows(
        &self,
        group: GroupId,
        table: &'static Table,
        keys: KeyRange<'_>,
        limit: usize,
        visitor: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// All groups that have anything on disk, ascending, without [`GroupId::NODE`]. Blocks.
    fn groups(&self) -> Result<Vec<GroupId>, StoreError>;

    /// Where damage to a group's data is told. Reads that meet it tell it themselves.
    fn damage(&self) -> &Damage;

    /// Whether writes are taken. Cheap.
    fn condition(&self) -> StoreCondition;

    /// A file of the store that is damaged and that no compaction reads any more, in RocksDB's words. Space of purged entries
    /// is not given back from then on. Cheap.
    fn damaged_file(&self) -> Option<String>;

    /// Somebody is about to block until what is written is synced. Only a store needs it that has no thread of its own to sync.
    fn hurry(&self) {}

    /// Bytes that wait for the writer or are in its hands. Cheap.
    fn queue_bytes(&self) -> usize;

    /// The last commit that is durable and marked and holds anything but the node's own notes: what may be told to peers,
    /// since no power failure takes it back. Notes are left out, or nodes that note each other's commits would never rest.
    /// Cheap.
    fn durable_commit(&self) -> u64;

    /// Counters since the start. Cheap.
    fn statistics(&self) -> StoreStatistics;
}

/// The first row of a table with this key or a higher one, as `read` understands it. Blocks.
pub fn first_at_or_after<T>(
    store: &dyn Store,
    group: GroupId,
    table: &'static Table,
    key: &[u8],
    read: impl Fn(&[u8], &[u8]) -> Result<T, RowError>,
) -> Result<Option<T>, StoreError> {
    let mut found = None;
    store.scan_rows(group, table, KeyRange::from(key), 1, &mut |key, value| {
        found = Some(read(key, value)?);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// The lowest suffix, from this one on, of the rows of state of one kind; `None`: there is no such row. Blocks.
pub fn next_state(store: &dyn Store, group: GroupId, kind: StateKind, from: u64) -> Result<Option<u64>, StoreError> {
    let (from, last) = (state_key(kind, from), state_key(kind, u64::MAX));
    let mut found = None;
    store.scan_rows(group, &STATE, KeyRange::from(&from), 1, &mut |key, _| {
        found = (key <= &last[..]).then(|| state_suffix(key)).flatten();
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// One row of a table, as `read` understands its value. What it cannot read is told as damage of the group. Blocks.
pub fn read_row<T>(
    store: &dyn Store,
    group: GroupId,
    table: &'static Table,
    key: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, RowError>,
) -> Result<Option<T>, StoreError> {
    let Some(value) = store.get_row(group, table, key)? else {
        return Ok(None);
    };
    match read(&value) {
        Ok(row) => Ok(Some(row)),
        Err(RowError::Damaged(what)) => Err(store.damage().report(group, what)),
        Err(error) => Err(error.into()),
    }
}
