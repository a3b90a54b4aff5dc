//! RocksDB below a simulation: the store that brokers have in production, in a directory in memory, while all else is simulated. So the
//! same seeds try whether the store in memory is honest.
//!
//! The store has threads of its own, which a seed knows nothing of. So each write is made durable and waited for before `write` returns,
//! and its completion is called then, on the simulation's thread, in the order of the writes. What else depends on how far those threads
//! are is answered as if they had nothing to do. The same seed gives the same run, also here.
//!
//! ```text
//!  simulation's thread                               RocksStore's threads
//!  write() -> queue --------------------------------> WAL, sync
//!             waits for this write <----------------- completion
//!             -> completions that are due, in order
//! ```
//!
//! | fault | here |
//! |---|---|
//! | a process is killed | it reaches its store no more; what it wrote is there |
//! | power fails | the same: nothing is ever unsynced, as each write is synced before it is answered |
//! | EIO, full, slow, rot, a directory that is put back | not here: these are of the disk in memory |

#![allow(
    clippy::disallowed_methods,
    reason = "the real store has a real directory, and is waited for on the system's clock"
)]

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::{fs, io, process, thread};

use bytes::Bytes;
use jangada_storage::{
    Completion, Damage, Durability, KeyRange, LogBounds, LogEntry, LostTail, NodeStore, OnFence, Op, Recovery,
    RocksStore, RowVisitor, ScrubCursor, Scrubbed, Starts, StateKind, Store, StoreCondition, StoreError, StoreFactory,
    StoreOptions, StoreStatistics,
};
use jangada_types::{GroupId, Table};
use parking_lot::Mutex;
use tracing::subscriber::{NoSubscriber, with_default};

use crate::host::Host;

/// A file system in memory, whose syncs cost nothing.
const ROOT: &str = "/dev/shm";
/// Small, so that files are written and read in a run of a minute, and several brokers have room.
const MEMTABLE_BYTES: usize = 1 << 20;
/// What is said of writes of a process that was killed.
const CUT_OFF: &str = "the process was killed";
/// The mark follows each sync at once; it is looked at so often before it counts as lost.
const MARK_LOOKS_MAX: u32 = 10_000_000;

/// The directories of all hosts of a simulation. They are gone when this is dropped.
pub struct RocksDisks {
    directory: PathBuf,
    disks: Mutex<BTreeMap<String, Arc<RocksDisk>>>,
}

impl RocksDisks {
    /// Directories for the run of a seed.
    ///
    /// # Errors
    /// The system's, when there is no room in memory.
    pub fn new(seed: u64) -> io::Result<Self> {
        // Several runs may go on at once in one process, also of one seed.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, SeqCst);
        let directory = Path::new(ROOT).join(format!("jangada-sim-{}-{seed}-{run}", process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            disks: Mutex::default(),
        })
    }

    /// From its next start on the host's broker has its store here.
    pub fn install(&self, host: &Host) {
        let disk = self.of(host.name());
        host.set_stores(Some(disk.clone()));
        host.on_kill(Some(Box::new(move |_| disk.cut_off())));
    }

    /// The host's directory is empty from now on. Its process does not run.
    ///
    /// # Errors
    /// The system's.
    pub fn wipe(&self, host: &Host) -> io::Result<()> {
        let disk = self.of(host.name());
        disk.cut_off();
        match fs::remove_dir_all(&disk.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn of(&self, name: &str) -> Arc<RocksDisk> {
        let mut disks = self.disks.lock();
        let disk = || {
            Arc::new(RocksDisk {
                directory: self.directory.join(name),
                open: Mutex::default(),
            })
        };
        disks.entry(name.to_owned()).or_insert_with(disk).clone()
    }
}

impl Drop for RocksDisks {
    fn drop(&mut self) {
        for disk in self.disks.lock().values() {
            disk.cut_off();
        }
        // Whoever still has a store open holds its files, not their names.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory of one host.
struct RocksDisk {
    directory: PathBuf,
    open: Mutex<Weak<InlineStore>>,
}

impl RocksDisk {
    /// Whoever has the store open reaches it no more.
    fn cut_off(&self) {
        if let Some(store) = self.open.lock().upgrade() {
            store.is_cut_off.store(true, SeqCst);
        }
    }
}

impl StoreFactory for RocksDisk {
    fn exists(&self, _directory: &Path) -> bool {
        self.directory.join("rocksdb").join("CURRENT").exists()
    }

    fn open(&self, options: StoreOptions, on_fence: OnFence) -> Result<(Arc<dyn NodeStore>, Recovery), StoreError> {
        let options = StoreOptions {
            directory: self.directory.clone(),
            disk_reserve_bytes: 0,
            tail_bytes: 16 * MEMTABLE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
            memtables_bytes: 4 * MEMTABLE_BYTES,
            wal_bytes: 4 * MEMTABLE_BYTES as u64,
            wal_recycled_files: 2,
            block_cache_bytes: 2 * MEMTABLE_BYTES,
            blob_file_bytes: MEMTABLE_BYTES as u64,
            direct_io: false,
            reclaim_interval: std::time::Duration::MAX,
            ..options
        };
        let (store, recovery) = InlineStore::open(options, on_fence)?;
        let store = Arc::new(store);
        *self.open.lock() = Arc::downgrade(&store);
        Ok((store, recovery))
    }
}

/// A completion that is due, and with what.
type Settled = (Completion, Result<(), StoreError>);

/// Completions that are due, in the order of their writes.
#[derive(Default)]
struct Settling {
    due: VecDeque<Settled>,
    /// Somebody calls them, and goes on with those that come meanwhile.
    is_settling: bool,
}

/// RocksDB's store, each write of which is done when `write` returns.
struct InlineStore {
    inner: RocksStore,
    settling: Mutex<Settling>,
    is_cut_off: AtomicBool,
    /// The number of the last commit: each write is one.
    commit: AtomicU64,
    /// That of the last one which is not the node's own.
    told: AtomicU64,
}

impl InlineStore {
    fn open(options: StoreOptions, on_fence: OnFence) -> Result<(Self, Recovery), StoreError> {
        // What it logs has real times in it.
        let (inner, recovery) = with_default(NoSubscriber::default(), || RocksStore::open(options, on_fence))?;
        let commit = inner.durable_commit();
        let store = Self {
            inner,
            settling: Mutex::default(),
            is_cut_off: AtomicBool::new(false),
            commit: AtomicU64::new(commit),
            told: AtomicU64::new(commit),
        };
        Ok((store, recovery))
    }

    fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(SeqCst)
    }

    /// Waits for a write, and answers it.
    fn finish(&self, group: GroupId, written: &Receiver<Result<(), StoreError>>, done: Option<Completion>) {
        let result = written.recv().unwrap_or(Err(StoreError::ShuttingDown));
        if result.is_ok() {
            let commit = self.commit.fetch_add(1, SeqCst) + 1;
            if group != GroupId::NODE {
                self.told.store(commit, SeqCst);
            }
        }
        self.answer(done, result);
    }

    /// Calls a completion behind those that are due. Whoever comes while another does it leaves his to the other.
    fn answer(&self, done: Option<Completion>, result: Result<(), StoreError>) {
        let Some(done) = done else { return };
        {
            let mut settling = self.settling.lock();
            settling.due.push_back((done, result));
            if std::mem::replace(&mut settling.is_settling, true) {
                return;
            }
        }
        loop {
            let next = {
                let mut settling = self.settling.lock();
                let next = settling.due.pop_front();
                settling.is_settling = next.is_some();
                next
            };
            let Some((done, result)) = next else { return };
            done(result);
        }
    }

    fn refuse(&self, done: Option<Completion>) {
        self.answer(done, Err(StoreError::Fenced(CUT_OFF.into())));
    }
}

/// A channel for the result of one write.
fn awaited() -> (Completion, Receiver<Result<(), StoreError>>) {
    let (sender, receiver) = sync_channel(1);
    let completion: Completion = Box::new(move |result| {
        // The receiver waits.
        let _ = sender.send(result);
    });
    (completion, receiver)
}

impl NodeStore for InlineStore {
    fn begin_start(&self, id: u64) -> Result<Starts, StoreError> {
        let starts = self.inner.begin_start(id)?;
        self.commit.fetch_add(1, SeqCst);
        Ok(starts)
    }

    fn keep_put_back(&self, remembered: u64, last: u64) -> Result<LostTail, StoreError> {
        self.inner.keep_put_back(remembered, last)
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

impl Store for InlineStore {
    fn open_group(&self, group: GroupId) -> Result<LogBounds, StoreError> {
        self.inner.open_group(group)
    }

    fn close_group(&self, group: GroupId) {
        self.inner.close_group(group);
    }

    fn delete_group(&self, group: GroupId, leave: Vec<Op>, done: Completion) {
        if self.is_cut_off() {
            return self.refuse(Some(done));
        }
        let (completion, written) = awaited();
        self.inner.delete_group(group, leave, completion);
        self.finish(group, &written, Some(done));
    }

    fn write(&self, group: GroupId, ops: Vec<Op>, _durability: Durability, done: Option<Completion>) {
        if self.is_cut_off() {
            return self.refuse(done);
        }
        let (completion, written) = awaited();
        self.inner.write(group, ops, Durability::Synced, Some(completion));
        self.finish(group, &written, done);
    }

    fn bounds(&self, group: GroupId) -> LogBounds {
        self.inner.bounds(group)
    }

    fn read_log(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.inner.read_log(group, range, max_bytes)
    }

    fn read_log_cached(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>> {
        self.inner.read_log_cached(group, range, max_bytes)
    }

    fn term_at(&self, group: GroupId, index: u64) -> Result<Option<u64>, StoreError> {
        self.inner.term_at(group, index)
    }

    fn get_state(&self, group: GroupId, kind: StateKind, suffix: Option<u64>) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_state(group, kind, suffix)
    }

    fn peek_state(&self, group: GroupId, kind: StateKind) -> Result<Option<Bytes>, StoreError> {
        self.inner.peek_state(group, kind)
    }

    /// What is at rest depends on how far RocksDB's threads are, so nothing is read.
    fn scrub(&self, _group: GroupId, _cursor: ScrubCursor, _max_bytes: u64) -> Result<Scrubbed, StoreError> {
        Ok(Scrubbed { bytes: 0, next: None })
    }

    fn scan_state(&self, group: GroupId, kind: StateKind) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.inner.scan_state(group, kind)
    }

    fn tables(&self) -> &[&'static Table] {
        self.inner.tables()
    }

    fn get_row(&self, group: GroupId, table: &'static Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get_row(group, table, key)
    }

    fn scan_rows(
        &self,
        group: GroupId,
        table: &'static Table,
        keys: KeyRange<'_>,
        limit: usize,
        visitor: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.inner.scan_rows(group, table, keys, limit, visitor)
    }

    fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        self.inner.groups()
    }

    fn damage(&self) -> &Damage {
        self.inner.damage()
    }

    fn condition(&self) -> StoreCondition {
        self.inner.condition()
    }

    fn damaged_file(&self) -> Option<String> {
        self.inner.damaged_file()
    }

    /// Nothing waits when a write has returned.
    fn queue_bytes(&self) -> usize {
        0
    }

    /// The mark follows the sync on a thread of its own: it is waited for, so that the same number is told each time.
    fn durable_commit(&self) -> u64 {
        let told = self.told.load(SeqCst);
        for _ in 0..MARK_LOOKS_MAX {
            if self.inner.durable_commit() >= told || self.inner.condition() != StoreCondition::Healthy {
                break;
            }
            thread::yield_now();
        }
        self.inner.durable_commit()
    }

    fn statistics(&self) -> StoreStatistics {
        self.inner.statistics()
    }
}

#[cfg(test)]
mod tests {
    use jangada_storage::conformance::rows::TABLES;
    use jangada_storage::conformance::{Disk, check_all, entries, write_synced};

    use super::*;

    const GROUP: GroupId = GroupId(1);

    /// A directory that is gone with its test.
    struct Directory(RocksDisks);

    impl Directory {
        fn new() -> Self {
            Self(RocksDisks::new(0).expect("there is memory"))
        }
    }

    impl Disk for Directory {
        type Store = InlineStore;

        fn open(&self) -> InlineStore {
            let options = StoreOptions {
                directory: self.0.of("host").directory.clone(),
                tables: TABLES.to_vec(),
                disk_reserve_bytes: 0,
                direct_io: false,
                ..StoreOptions::new("/elsewhere")
            };
            let opened = InlineStore::open(options, Box::new(|cause| panic!("{cause}")));
            opened.expect("it opens").0
        }
    }

    #[test]
    fn it_keeps_what_stores_promise() {
        check_all(Directory::new);
    }

    #[test]
    fn a_write_is_done_when_it_returns_and_completions_keep_their_order() {
        let directory = Directory::new();
        let store = Arc::new(Disk::open(&directory));
        store.open_group(GROUP).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (writer, noted) = (store.clone(), order.clone());
        let outer: Completion = Box::new(move |_| {
            let inner = noted.clone();
            let done: Completion = Box::new(move |_| inner.lock().push("inner"));
            writer.write(GROUP, vec![Op::Append(entries(1..2, 1))], Durability::Lazy, Some(done));
            noted.lock().push("outer");
        });
        let before = store.durable_commit();
        store.write(GROUP, vec![Op::Append(entries(0..1, 1))], Durability::Lazy, Some(outer));
        assert_eq!(*order.lock(), ["outer", "inner"]);
        assert_eq!(store.durable_commit(), before + 2, "each write is a commit");
    }

    #[test]
    fn whoever_was_killed_writes_no_more_and_what_was_written_is_there() {
        let directory = Directory::new();
        let store = Disk::open(&directory);
        store.open_group(GROUP).unwrap();
        write_synced(&store, GROUP, vec![Op::Append(entries(0..3, 1))]).unwrap();
        store.is_cut_off.store(true, SeqCst);
        let refused = write_synced(&store, GROUP, vec![Op::Append(entries(3..4, 1))]);
        assert!(matches!(refused, Err(StoreError::Fenced(_))), "{refused:?}");
        drop(store);
        let store = Disk::open(&directory);
        let bounds = store.open_group(GROUP).unwrap();
        assert_eq!(bounds.last.map(|last| last.index), Some(2));
    }
}
