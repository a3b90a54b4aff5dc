//! Every setting of the store, with unit, default, bounds and why. The rest of the crate takes numbers from here only.

use std::path::PathBuf;
use std::time::Duration;

use jangada_types::Table;

use crate::error::StoreError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes that one commit takes from the queue. More does not make the disk faster, but makes everybody wait longer for
/// one sync.
pub(crate) const COMMIT_BYTES_MAX: usize = 4 * MIB;

/// Lazy bytes in the queue that wake the writer although nobody waits for them.
pub(crate) const LAZY_BYTES_MAX: usize = 64 * KIB;

/// How long lazy operations wait for a commit to ride along with.
pub(crate) const LAZY_DELAY: Duration = Duration::from_millis(20);

/// How often the free space is looked at.
pub(crate) const RESERVE_INTERVAL: Duration = Duration::from_secs(1);

/// Entries of a purged range below which cleaning waits for more.
pub(crate) const RECLAIM_ENTRIES_MIN: u64 = 256;

/// How long a small purged range may wait.
pub(crate) const RECLAIM_DELAY_MAX: Duration = Duration::from_secs(30);

/// Garbage in blob files, bytes, below which live blobs are not moved to free it.
pub(crate) const BLOB_GARBAGE_MIN: u64 = 64 * MIB as u64;

/// Garbage as a percentage of everything in the log's files from which live blobs are moved. At 25 a byte of garbage
/// costs at most three bytes of copying.
pub(crate) const BLOB_GARBAGE_PERCENT: u64 = 25;

/// Settings of a store. `new` gives the defaults; fields may be changed before opening.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory of the database and of the commit mark. Created if missing.
    pub directory: PathBuf,

    /// Bytes that are to stay free on the file system: below them the condition is `DiskLow`. Default 1 GiB, at least 0
    /// (off). It must hold what is written after produce is refused: WALs, memtables that are flushed, a compaction.
    pub disk_reserve_bytes: u64,

    /// Bytes of recent log entries kept in memory, over all groups. Default 128 MiB, at least 1 MiB. Entries that are
    /// not written yet do not count as evictable and may exceed it.
    pub tail_bytes: usize,

    /// Bytes of one memtable of the log. Default 64 MiB, from 1 MiB to 2 GiB. A WAL has about the same size.
    pub memtable_bytes: usize,

    /// Bytes of all memtables of all column families together, those being flushed included. Default 256 MiB, at least
    /// twice `memtable_bytes`. With the tail, the block cache and the queue it bounds the store's memory.
    pub memtables_bytes: usize,

    /// Bytes of all WALs together that are kept for replay. Default 256 MiB, at least `memtable_bytes`. It bounds the
    /// time of a restart after a crash.
    pub wal_bytes: u64,

    /// Old WAL files that are kept and written over. Default 5: as many as `wal_bytes` holds, and one. A sync of
    /// written-over blocks has no file system metadata to write, which makes it about 1.7 times faster than that of a
    /// fresh file.
    pub wal_recycled_files: usize,

    /// Values from this size on go to blob files, bytes. Default 2 KiB. Compaction then moves only their keys.
    pub blob_bytes_min: u64,

    /// Bytes of a blob file. Default 16 MiB. A flush writes groups one after another, so small files mostly hold one
    /// group, and go as a whole when it is purged.
    pub blob_file_bytes: u64,

    /// Bytes of the cache for blocks of SST files, indexes and filters included. Default 64 MiB.
    pub block_cache_bytes: usize,

    /// Files that RocksDB keeps open. Default 512, at least 64: sockets need descriptors too.
    pub open_files_max: i32,

    /// Flushes and compactions write past the page cache where the file system can do that. Default true: filling cache
    /// pages with what was just in memory costs half of the CPU of a write, and their write-back stands in the way of
    /// the WAL's syncs. Reads go through the page cache either way.
    pub direct_io: bool,

    /// The least time between two rounds that give back the space of purged entries. Default 5 s; `Duration::MAX`: there are none, and
    /// what was replayed is not flushed for one.
    pub reclaim_interval: Duration,

    /// The tables of rows that there are beside the log and the state. Default none. Those that the directory does not have are
    /// created; one that it has and that is not named here keeps the store from opening.
    pub tables: Vec<&'static Table>,
}

impl StoreOptions {
    /// The defaults for a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            disk_reserve_bytes: 1024 * MIB as u64,
            tail_bytes: 128 * MIB,
            memtable_bytes: 64 * MIB,
            memtables_bytes: 256 * MIB,
            wal_bytes: 256 * MIB as u64,
            wal_recycled_files: 5,
            blob_bytes_min: 2 * KIB as u64,
            blob_file_bytes: 16 * MIB as u64,
            block_cache_bytes: 64 * MIB,
            open_files_max: 512,
            direct_io: true,
            reclaim_interval: Duration::from_secs(5),
            tables: Vec::new(),
        }
    }

    /// Checks the bounds.
    pub(crate) fn validate(&self) -> Result<(), StoreError> {
        let bounds = [
            (self.tail_bytes >= MIB, "tail_bytes must be at least 1 MiB"),
            (
                (MIB..=2048 * MIB).contains(&self.memtable_bytes),
                "memtable_bytes must be from 1 MiB to 2 GiB",
            ),
            (
                self.memtables_bytes >= 2 * self.memtable_bytes,
                "memtables_bytes must be at least twice memtable_bytes",
            ),
            (
                self.wal_bytes >= self.memtable_bytes as u64,
                "wal_bytes must be at least memtable_bytes",
            ),
            (
                self.blob_file_bytes >= MIB as u64,
                "blob_file_bytes must be at least 1 MiB",
            ),
            (self.open_files_max >= 64, "open_files_max must be at least 64"),
        ];
        match bounds.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(StoreError::Setting(rule)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_bounds() {
        assert!(StoreOptions::new("/nowhere").validate().is_ok());
    }

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        let options = StoreOptions {
            open_files_max: 1,
            ..StoreOptions::new("/nowhere")
        };
        assert!(options.validate().unwrap_err().to_string().contains("open_files_max"));
    }
}
