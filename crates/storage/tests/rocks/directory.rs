//! A data directory of a test: opens stores with settings that make small data go through every path.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jangada_storage::conformance::Disk;
use jangada_storage::conformance::rows::TABLES;
use jangada_storage::{Recovery, RocksStore, StoreOptions};
use tempfile::TempDir;

/// A directory that goes with the test.
pub struct Directory {
    root: TempDir,
}

impl Directory {
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn open_recovered(&self) -> (RocksStore, Recovery) {
        open_small(self.path())
    }
}

impl Disk for Directory {
    type Store = RocksStore;

    fn open(&self) -> RocksStore {
        let (store, recovery) = self.open_recovered();
        assert_eq!(recovery.lost_tail, None);
        store
    }
}

/// Memtables and WALs of 1 MiB, so that flushes, recycled WALs and evictions happen within a test.
pub fn small_options(path: &Path) -> StoreOptions {
    StoreOptions {
        disk_reserve_bytes: 0,
        tail_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        // A mebibyte for each family, which allocates no less.
        memtables_bytes: 5 << 20,
        wal_bytes: 3 << 20,
        blob_file_bytes: 1 << 20,
        reclaim_interval: Duration::from_millis(100),
        tables: TABLES.to_vec(),
        ..StoreOptions::new(path)
    }
}

pub fn open_small(path: &Path) -> (RocksStore, Recovery) {
    open_with(small_options(path))
}

pub fn open_with(options: StoreOptions) -> (RocksStore, Recovery) {
    RocksStore::open(options, Box::new(|reason| panic!("fenced: {reason}"))).unwrap()
}

/// All files below a directory with their sizes in bytes.
pub fn files(path: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        // RocksDB deletes files at any time.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), metadata.len()));
        }
    }
    found
}

/// Copies a directory of a store that is open and idle: what a crash at this moment would leave.
pub fn copy(from: &Path, to: &Path) {
    for (file, _) in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

/// Waits for a condition.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
