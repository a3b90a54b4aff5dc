//! What the store does when its disk fails or is slow: the device under the writer is exchanged.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak, mpsc};

use jangada_types::GroupId;
use parking_lot::{Condvar, Mutex};
use rocksdb::WriteBatch;
use tempfile::TempDir;

use crate::conformance::{entries, entry, write_synced};
use crate::database::Database;
use crate::error::StoreError;
use crate::keys;
use crate::options::StoreOptions;
use crate::rocks::RocksStore;
use crate::scrub_cursor::{ScrubCursor, Scrubbed};
use crate::store::{Durability, LogBounds, LogPosition, Op, StateKind, Store, StoreCondition};
use crate::tables::LOG;
use crate::writer::Device;

const GROUP: GroupId = GroupId(1);

/// A device whose syncs or writes fail, or wait, when told.
#[derive(Default)]
struct Switches {
    fail_write: AtomicBool,
    fail_sync: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

impl Switches {
    fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.released.notify_all();
    }
}

struct Faulty {
    database: Arc<Database>,
    switches: Arc<Switches>,
}

impl Device for Faulty {
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut held = self.switches.held.lock();
        while *held {
            self.switches.released.wait(&mut held);
        }
        if self.switches.fail_write.load(Relaxed) {
            return Err(StoreError::Database("no write".into()));
        }
        self.database.write(batch)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if self.switches.fail_sync.load(Relaxed) {
            return Err(StoreError::Database("no sync".into()));
        }
        self.database.sync()
    }
}

struct Rig {
    store: RocksStore,
    database: Weak<Database>,
    switches: Arc<Switches>,
    fenced: Arc<AtomicU32>,
    directory: TempDir,
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let switches = Arc::new(Switches::default());
    let fenced = Arc::new(AtomicU32::new(0));
    let counted = fenced.clone();
    let on_fence = Box::new(move |_: &str| {
        counted.fetch_add(1, Relaxed);
    });
    let faulty = switches.clone();
    let mut opened = Weak::new();
    let (store, _) = RocksStore::open_on(StoreOptions::new(directory.path()), on_fence, |database| {
        opened = Arc::downgrade(&database);
        Box::new(Faulty {
            database,
            switches: faulty,
        })
    })
    .unwrap();
    store.open_group(GROUP).unwrap();
    Rig {
        store,
        database: opened,
        switches,
        fenced,
        directory,
    }
}

fn append(store: &RocksStore, index: u64) -> Result<(), StoreError> {
    write_synced(store, GROUP, vec![Op::Append(vec![entry(index, 1)])])
}

fn assert_fenced(rig: &Rig, reason: &str) {
    assert!(matches!(append(&rig.store, 1), Err(StoreError::Fenced(_))));
    // The disk is well again, but what it did is not known.
    rig.switches.fail_sync.store(false, Relaxed);
    rig.switches.fail_write.store(false, Relaxed);
    for index in 2..5 {
        assert!(matches!(append(&rig.store, index), Err(StoreError::Fenced(_))));
    }
    assert_eq!(rig.fenced.load(Relaxed), 1);
    let StoreCondition::Fenced(found) = rig.store.condition() else {
        panic!("not fenced")
    };
    assert!(found.contains(reason), "{found}");
    assert!(matches!(rig.store.open_group(GroupId(9)), Err(StoreError::Fenced(_))));
    assert_eq!(rig.store.read_log(GROUP, 0..1, 1).unwrap(), entries(0..1, 1));
}

#[test]
fn a_failed_sync_ends_all_acknowledgements() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    rig.switches.fail_sync.store(true, Relaxed);
    assert_fenced(&rig, "no sync");
}

#[test]
fn a_failed_write_ends_all_acknowledgements() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    rig.switches.fail_write.store(true, Relaxed);
    assert_fenced(&rig, "no write");
}

#[test]
fn what_was_acknowledged_before_the_fence_is_there_afterwards() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    rig.switches.fail_write.store(true, Relaxed);
    assert!(append(&rig.store, 1).is_err());
    drop(rig.store);
    let options = StoreOptions::new(rig.directory.path());
    let (store, recovery) = RocksStore::open(options, Box::new(|_| ())).unwrap();
    assert_eq!(recovery.lost_tail, None);
    assert_eq!(store.open_group(GROUP).unwrap().next_index(), Some(1));
}

#[test]
fn everything_queued_behind_a_slow_disk_shares_one_commit() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    let before = rig.store.statistics();
    rig.switches.hold(true);
    let (sender, receiver) = mpsc::sync_channel(100);
    for index in 1..100 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<(), StoreError>| sender.send(result).unwrap());
        rig.store.write(
            GROUP,
            vec![Op::Append(vec![entry(index, 1)])],
            Durability::Synced,
            Some(done),
        );
    }
    // Not written, but visible and counted.
    assert_eq!(rig.store.bounds(GROUP).next_index(), Some(100));
    assert_eq!(
        rig.store.read_log_cached(GROUP, 0..100, usize::MAX),
        Some(entries(0..100, 1))
    );
    assert!(rig.store.statistics().queue_bytes > 99 * 100);
    assert!(receiver.try_recv().is_err());
    rig.switches.hold(false);
    for _ in 1..100 {
        receiver.recv().unwrap().unwrap();
    }
    let after = rig.store.statistics();
    assert!(after.commits - before.commits <= 2, "the first one, then all others");
    assert!(after.syncs - before.syncs <= 2);
}

#[test]
fn entries_that_are_not_written_are_never_evicted() {
    let rig = rig();
    rig.switches.hold(true);
    let body = bytes::Bytes::from(vec![1; 1 << 20]);
    let count = 140;
    for index in 0..count {
        let mut entry = entry(index, 1);
        entry.body = body.clone();
        rig.store
            .write(GROUP, vec![Op::Append(vec![entry])], Durability::Synced, None);
    }
    // More than the budget of 128 MiB, all in memory.
    let found = rig.store.read_log_cached(GROUP, 0..count, usize::MAX).unwrap();
    assert_eq!(found.len() as u64, count);
    rig.switches.hold(false);
    write_synced(&rig.store, GROUP, Vec::new()).unwrap();
    let statistics = rig.store.statistics();
    assert!(statistics.tail_bytes <= 128 << 20, "{} bytes", statistics.tail_bytes);
    assert!(
        rig.store.read_log_cached(GROUP, 0..1, 1).is_none(),
        "the oldest went first"
    );
    assert!(rig.store.read_log_cached(GROUP, count - 1..count, 1).is_some());
    assert_eq!(
        rig.store.read_log(GROUP, 0..count, usize::MAX).unwrap().len() as u64,
        count
    );
}

#[test]
fn a_panic_of_a_completion_fences_the_store() {
    let rig = rig();
    rig.store.write(
        GROUP,
        Vec::new(),
        Durability::Synced,
        Some(Box::new(|_| panic!("on purpose"))),
    );
    let result = append(&rig.store, 0);
    assert!(
        matches!(result, Err(StoreError::ShuttingDown | StoreError::Fenced(_))),
        "{result:?}"
    );
    while rig.fenced.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    assert!(matches!(rig.store.condition(), StoreCondition::Fenced(_)));
}

#[test]
fn a_damaged_group_can_be_deleted() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    rig.store.close_group(GROUP);
    let mut damage = WriteBatch::default();
    let mut database = rig.database.upgrade().unwrap();
    damage.put_cf(&database.family(LOG), keys::log(GROUP, 0), b"\x09 of a later version");
    database.write(damage).unwrap();
    drop(database);
    assert!(matches!(rig.store.open_group(GROUP), Err(StoreError::LaterVersion(_))));
    assert_eq!(rig.store.damage().all(), [], "another version's data is sound");
    let mut damage = WriteBatch::default();
    let mut database = rig.database.upgrade().unwrap();
    damage.put_cf(&database.family(LOG), keys::log(GROUP, 0), b"\x01cut");
    database.write(damage).unwrap();
    drop(database);
    assert!(matches!(
        rig.store.open_group(GROUP),
        Err(StoreError::Damaged { group: GROUP, .. })
    ));
    assert!(rig.store.damage().of(GROUP).is_some());
    delete(&rig.store).unwrap();
    assert_eq!(rig.store.groups().unwrap(), []);
    assert_eq!(rig.store.open_group(GROUP).unwrap(), LogBounds::default());
}

/// What a read would have met, damage or a lack of descriptors, must not keep the log from being truncated and going on.
#[test]
fn a_truncation_reads_nothing() {
    let rig = rig();
    for index in 0..5 {
        append(&rig.store, index).unwrap();
    }
    rig.store.close_group(GROUP);
    let mut unreadable = WriteBatch::default();
    let mut database = rig.database.upgrade().unwrap();
    unreadable.put_cf(&database.family(LOG), keys::log(GROUP, 2), b"\x01cut");
    database.write(unreadable).unwrap();
    drop(database);
    rig.store.open_group(GROUP).unwrap();
    let keep = LogPosition { term: 1, index: 2 };
    let ops = vec![Op::TruncateAfter(Some(keep)), Op::Append(vec![entry(3, 2)])];
    write_synced(&rig.store, GROUP, ops).unwrap();
    assert_eq!(rig.store.bounds(GROUP).next_index(), Some(4));
    assert_eq!(rig.store.damage().all(), []);
}

#[test]
fn nothing_is_written_to_a_group_once_it_is_deleted() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    rig.switches.hold(true);
    let (sender, deleted) = mpsc::sync_channel(1);
    let done = Box::new(move |result| sender.send(result).unwrap());
    rig.store.delete_group(GROUP, Vec::new(), done);
    assert!(matches!(append(&rig.store, 0), Err(StoreError::GroupNotOpen(GROUP))));
    rig.switches.hold(false);
    deleted.recv().unwrap().unwrap();
    assert_eq!(rig.store.groups().unwrap(), []);
}

fn delete(store: &RocksStore) -> Result<(), StoreError> {
    let (sender, deleted) = mpsc::sync_channel(1);
    store.delete_group(GROUP, Vec::new(), Box::new(move |result| sender.send(result).unwrap()));
    deleted.recv().unwrap()
}

/// All pieces of one scrub; the bytes that were sound.
fn scrub(store: &RocksStore) -> Result<u64, StoreError> {
    let mut cursor = ScrubCursor::default();
    let mut sound = 0;
    loop {
        let Scrubbed { bytes, next } = store.scrub(GROUP, cursor, 1000)?;
        sound += bytes;
        match next {
            Some(next) => cursor = next,
            None => return Ok(sound),
        }
    }
}

/// A store with entries of which none is in memory.
fn at_rest(entries_end: u64) -> (RocksStore, TempDir) {
    let rig = rig();
    write_synced(&rig.store, GROUP, vec![Op::Append(entries(0..entries_end, 1))]).unwrap();
    let directory = rig.directory;
    drop(rig.store);
    let (store, _) = RocksStore::open(StoreOptions::new(directory.path()), Box::new(|_| ())).unwrap();
    store.open_group(GROUP).unwrap();
    (store, directory)
}

#[test]
fn a_scrub_reads_everything_and_goes_on_over_purges_and_appends() {
    let (store, _directory) = at_rest(100);
    let all = scrub(&store).unwrap();
    assert!(all > 100 * 100, "{all} bytes");
    assert_eq!(store.statistics().scrubbed_bytes, all);
    let first = store.scrub(GROUP, ScrubCursor::default(), 1000).unwrap();
    assert!(first.bytes >= 1000 && first.bytes < 2000, "{first:?}");
    let purge = Op::Purge { upto: 49, upto_term: 1 };
    write_synced(&store, GROUP, vec![purge, Op::Append(entries(100..110, 1))]).unwrap();
    let mut next = first.next;
    while let Some(cursor) = next {
        next = store.scrub(GROUP, cursor, 1000).unwrap().next;
    }
    assert_eq!(store.damage().all(), []);
}

#[test]
fn a_scrub_finds_what_is_missing_in_the_middle_of_a_log_and_at_its_end() {
    for missing in [0, 50, 99] {
        let (store, _directory) = at_rest(100);
        let database = store.database();
        let mut damage = WriteBatch::default();
        damage.delete_cf(&database.family(LOG), keys::log(GROUP, missing));
        Database::write(database, damage).unwrap();
        let error = scrub(&store).unwrap_err();
        assert!(
            error.to_string().contains(&format!("log entry {missing} is missing")),
            "{error}"
        );
        assert!(store.damage().of(GROUP).is_some());
    }
}

#[test]
fn a_deleted_group_keeps_what_it_is_left_with() {
    let rig = rig();
    append(&rig.store, 0).unwrap();
    let left = Op::PutState {
        kind: StateKind::REPLICA,
        suffix: None,
        value: b"left".as_slice().into(),
    };
    let (sender, deleted) = mpsc::sync_channel(1);
    let done = Box::new(move |result| sender.send(result).unwrap());
    rig.store.delete_group(GROUP, vec![left], done);
    deleted.recv().unwrap().unwrap();
    let row = |store: &RocksStore| store.peek_state(GROUP, StateKind::REPLICA).unwrap();
    assert_eq!(row(&rig.store).as_deref(), Some(&b"left"[..]));
    assert_eq!(rig.store.open_group(GROUP).unwrap(), LogBounds::default());
    assert_eq!(row(&rig.store).as_deref(), Some(&b"left"[..]));
    delete(&rig.store).unwrap();
    assert_eq!(row(&rig.store), None);
}
