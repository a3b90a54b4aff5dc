//! Settings of the store's memory and disk.

use std::path::PathBuf;
use std::time::Duration;

use jangada_log::TABLES;
use jangada_storage::StoreOptions;
use serde::{Deserialize, Serialize};

use super::{Kind, Problem, Setting};

/// When flushes and compactions bypass the page cache (O_DIRECT).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectIo {
    /// Where the file system supports it.
    #[default]
    Auto,
    /// On no file system.
    Off,
}

impl Setting for DirectIo {
    fn kind(&self) -> Kind {
        Kind::Text
    }

    fn show(&self) -> String {
        match self {
            DirectIo::Auto => "\"auto\"".to_owned(),
            DirectIo::Off => "\"off\"".to_owned(),
        }
    }
}

settings! {
    /// Memory and disk of the store. One store serves all partitions of a broker. Its memory is bounded by the sum of
    /// `tail_bytes`, `memtables_bytes`, `block_cache_bytes` and the limits of requests in `limits`.
    StorageSettings {
        keys {
            /// Size of the cache of recent log entries of all partitions, for replication, applying and consumers at the end of
            /// the log, bytes. Entries that are not written yet are kept beyond it.
            tail_bytes: u64 = 134_217_728, range(1_048_576, 68_719_476_736);
            /// Size of one memory table, bytes. A file of the write-ahead log has about the same size.
            memtable_bytes: u64 = 67_108_864, range(1_048_576, 2_147_483_648);
            /// Size of all memory tables together, those being flushed included, bytes. At least twice `memtable_bytes`.
            memtables_bytes: u64 = 268_435_456, range(2_097_152, 17_179_869_184);
            /// Size of the cache of blocks read from disk, indexes and filters included, bytes.
            block_cache_bytes: u64 = 67_108_864, range(1_048_576, 68_719_476_736);
            /// Total size of the write-ahead log, bytes. It bounds what a start after a crash replays. At least `memtable_bytes`.
            wal_bytes: u64 = 268_435_456, range(1_048_576, 17_179_869_184);
            /// Number of old files of the write-ahead log that are kept to be overwritten: a sync of an overwritten file is faster
            /// than one of a growing file.
            wal_recycled_files: u32 = 5, range(0, 64);
            /// Log entries of at least this size go to blob files, which compaction does not rewrite, bytes.
            blob_bytes_min: u64 = 2_048, range(0, 1_048_576);
            /// Size of a blob file, bytes. A small file mostly holds entries of one partition, and is deleted as a whole when they
            /// are purged.
            blob_file_bytes: u64 = 16_777_216, range(1_048_576, 1_073_741_824);
            /// Number of files that the store keeps open.
            open_files_max: u32 = 2_000, range(64, 1_000_000);
            /// The least time between two rounds that free the space of purged records, milliseconds.
            reclaim_interval_ms: u64 = 5_000, range(100, 3_600_000);
            /// Whether flushes and compactions bypass the page cache: where the file system supports it (`auto`), or never
            /// (`off`). With `off` the newest records that do not fit into `tail_bytes` are read from the page cache, and writing
            /// costs about twice the CPU.
            direct_io: DirectIo = DirectIo::Auto, one_of(&["auto", "off"]);
            /// Free space to keep on the disk, bytes. Below it, producing is refused with DISK_FULL while reading goes on.
            disk_reserve_bytes: u64 = 1_073_741_824, range(0, 1_099_511_627_776);
            /// Number of threads that read from disk.
            read_threads: u32 = 4, range(1, 64);
        }
        sections {}
    }
}

impl StorageSettings {
    /// The options of a store in this directory.
    pub fn store_options(&self, directory: PathBuf) -> StoreOptions {
        let size = |bytes: u64| usize::try_from(bytes).expect("usize has 64 bits");
        StoreOptions {
            disk_reserve_bytes: self.disk_reserve_bytes,
            tail_bytes: size(self.tail_bytes),
            memtable_bytes: size(self.memtable_bytes),
            memtables_bytes: size(self.memtables_bytes),
            wal_bytes: self.wal_bytes,
            wal_recycled_files: size(u64::from(self.wal_recycled_files)),
            blob_bytes_min: self.blob_bytes_min,
            blob_file_bytes: self.blob_file_bytes,
            block_cache_bytes: size(self.block_cache_bytes),
            open_files_max: i32::try_from(self.open_files_max).expect("the bound is below 2^31"),
            direct_io: self.direct_io == DirectIo::Auto,
            reclaim_interval: Duration::from_millis(self.reclaim_interval_ms),
            tables: TABLES.to_vec(),
            ..StoreOptions::new(directory)
        }
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if self.memtables_bytes < self.memtable_bytes.saturating_mul(2) {
            let message = format!(
                "is {}, must be at least twice storage.memtable_bytes ({}): one is filled while another is flushed",
                self.memtables_bytes, self.memtable_bytes
            );
            problems.push(Problem::new("storage.memtables_bytes", message));
        }
        if self.wal_bytes < self.memtable_bytes {
            let message = format!(
                "is {}, must be at least storage.memtable_bytes ({}), or tables are flushed before they are full",
                self.wal_bytes, self.memtable_bytes
            );
            problems.push(Problem::new("storage.wal_bytes", message));
        }
    }
}
