//! The RocksDB of a node: how it is set up, opened and read. No other module names a RocksDB option or a column family.
//!
//! Reads here see what is in RocksDB only; what is still queued is merged in by `group` and `read`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use jangada_types::table::{CutOff, KeyForm};
use jangada_types::{GroupId, Table};
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use rustix::fs::{Mode, OFlags};

use crate::codec;
use crate::commit_rows;
use crate::error::StoreError;
use crate::floors::Floors;
use crate::keys;
use crate::mark::CommitPoint;
use crate::options::StoreOptions;
use crate::places::{self, Place};
use crate::statistics::Counters;
use crate::store::{LogEntry, LogPosition, RowVisitor, StateKind};
use crate::tables::{LOG, STATE, Tables, state_key};
use crate::wal;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Judges a row, key and value.
pub(crate) type RowCheck<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// The column families of a database.
pub(crate) struct Families<'a> {
    pub(crate) log: Arc<BoundColumnFamily<'a>>,
    /// The families of tables; the place in the list is the table's slot.
    pub(crate) tables: Vec<Arc<BoundColumnFamily<'a>>>,
}

impl<'a> Families<'a> {
    /// That of the rows of state.
    pub(crate) fn state(&self) -> &Arc<BoundColumnFamily<'a>> {
        self.tables.last().expect("it is there")
    }
}

/// The open database.
pub(crate) struct Database {
    db: DB,
    counters: Arc<Counters>,
    tables: Arc<Tables>,
    floors: Floors,
}

impl Database {
    /// `compacts`: false when a file that compactions would read is damaged.
    pub(crate) fn open(
        path: &Path,
        options: &StoreOptions,
        tables: Arc<Tables>,
        counters: Arc<Counters>,
        compacts: bool,
    ) -> Result<Self, StoreError> {
        let floors = Floors::default();
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let of_tables = tables.all().iter();
        let of_tables = of_tables.map(|table| (table.name, table_options(table, &cache, &floors)));
        let families = [(LOG, log_options(options, &cache)?)].into_iter().chain(of_tables);
        let families = families.map(|(name, mut options)| {
            options.set_disable_auto_compactions(!compacts);
            ColumnFamilyDescriptor::new(name, options)
        });
        let mut database_options = database_options(options)?;
        database_options.set_use_direct_io_for_flush_and_compaction(options.direct_io && takes_direct_io(path)?);
        let db = DB::open_cf_descriptors(&database_options, path, families).map_err(|error| {
            let text: &str = error.as_ref();
            if text.contains("/LOCK") {
                StoreError::InUse(path.to_owned())
            } else if text.contains("olumn families not opened") {
                StoreError::LaterVersion(format!("the store has tables that this build does not declare: {text}"))
            } else {
                StoreError::from(error)
            }
        })?;
        Ok(Self {
            db,
            counters,
            tables,
            floors,
        })
    }

    pub(crate) fn family(&self, name: &str) -> Arc<BoundColumnFamily<'_>> {
        self.db
            .cf_handle(name)
            .expect("all column families are opened at the start")
    }

    pub(crate) fn families(&self) -> Families<'_> {
        let tables = self.tables.all().iter();
        Families {
            log: self.family(LOG),
            tables: tables.map(|table| self.family(table.name)).collect(),
        }
    }

    pub(crate) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// Writes a batch to the WAL's buffer and the memtables. Not durable yet.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        Ok(self.db.write_opt(batch, &WriteOptions::default())?)
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        Ok(self.db.flush_wal(true)?)
    }

    /// Where the chain of commits ends.
    pub(crate) fn commit_point(&self) -> Result<CommitPoint, StoreError> {
        let key = keys::state(GroupId::NODE, StateKind::COMMIT, 0);
        match self.db.get_pinned_cf(&self.family(STATE.name), key)? {
            Some(value) => codec::decode_commit(&value),
            None => Ok(CommitPoint::default()),
        }
    }

    /// Up to which commit these families have everything.
    pub(crate) fn whole_to(&self, families: &[&str]) -> Result<u64, StoreError> {
        commit_rows::least(&self.db, &self.tables, families)
    }

    /// Entries from `range.start` on until the range's end, the first gap or `max_bytes` (but at least one).
    pub(crate) fn read_log(
        &self,
        place: Place,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut rows = self.rows(LOG, &place.log(range.start), &place.log(range.end));
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let index = range.start + entries.len() as u64;
            if places::number_of(key) != Some(index) || (bytes + value.len() > max_bytes && bytes > 0) {
                break;
            }
            bytes += value.len();
            entries.push(codec::decode_log(index, value)?);
            rows.next();
        }
        rows.status()?;
        self.counters.entries_read.fetch_add(entries.len() as u64, Relaxed);
        self.counters.bytes_read.fetch_add(bytes as u64, Relaxed);
        Ok(entries)
    }

    /// Term of one entry.
    pub(crate) fn term_at(&self, place: Place, index: u64) -> Result<Option<u64>, StoreError> {
        match self.db.get_pinned_cf(&self.family(LOG), place.log(index))? {
            Some(value) => codec::decode_log_term(&value).map(Some),
            None => Ok(None),
        }
    }

    /// First and last entry of a group's log.
    pub(crate) fn log_ends(&self, place: Place) -> Result<Option<(u64, LogPosition)>, StoreError> {
        let mut rows = self.rows(LOG, &place.start(), &place.end());
        rows.seek_to_first();
        let Some((key, _)) = rows.item() else {
            rows.status()?;
            return Ok(None);
        };
        let first = places::number_of(key).ok_or_else(|| foreign_key(LOG, key))?;
        seek_to_last(place, &mut rows)?;
        let Some((key, value)) = rows.item() else {
            rows.status()?;
            return Err(StoreError::Corrupt(
                "the log has a first entry but no last one".to_owned(),
            ));
        };
        let index = places::number_of(key).ok_or_else(|| foreign_key(LOG, key))?;
        Ok(Some((
            first,
            LogPosition {
                term: codec::decode_log_term(value)?,
                index,
            },
        )))
    }

    /// Last purged log id of a group.
    pub(crate) fn purged(&self, place: Place) -> Result<Option<LogPosition>, StoreError> {
        self.state(place, StateKind::PURGED, 0)?
            .map(|value| codec::decode_purged(&value))
            .transpose()
    }

    /// One row of state.
    pub(crate) fn state(&self, place: Place, kind: StateKind, suffix: u64) -> Result<Option<Bytes>, StoreError> {
        self.row(place, &STATE, &state_key(kind, suffix))
    }

    /// One row of a table.
    pub(crate) fn row(&self, place: Place, table: &Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get_pinned_cf(&self.family(table.name), place.key(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Shows the rows of a table with keys from `from` on and, if there is an end, before `to`, ascending. False: once the iterator showed
    /// one moment, that was not the current one, and nothing was shown.
    pub(crate) fn scan(
        &self,
        place: Place,
        table: &Table,
        (from, to): (&[u8], Option<&[u8]>),
        is_current: impl FnOnce() -> bool,
        visitor: &mut RowVisitor<'_>,
    ) -> Result<bool, StoreError> {
        let end = to.map_or_else(|| place.end().to_vec(), |to| place.key(to));
        let mut rows = self.rows(table.name, &place.key(from), &end);
        // From here on the iterator shows one moment.
        if !is_current() {
            return Ok(false);
        }
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if visitor(row_key(place, table, key)?, value)?.is_break() {
                return Ok(true);
            }
            rows.next();
        }
        rows.status()?;
        Ok(true)
    }

    /// Last row of a table with numbers.
    pub(crate) fn last_row(&self, place: Place, table: &Table) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let mut rows = self.rows(table.name, &place.start(), &place.end());
        seek_to_last(place, &mut rows)?;
        let Some((key, value)) = rows.item() else {
            return Ok(rows.status().map(|()| None)?);
        };
        let key = Bytes::copy_from_slice(row_key(place, table, key)?);
        Ok(Some((key, Bytes::copy_from_slice(value))))
    }

    /// All groups with any row, ascending.
    pub(crate) fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        let mut found = std::collections::BTreeSet::new();
        for family in self.tables.families() {
            let mut rows = self.rows(
                family,
                &keys::group_start(GroupId::from(0)),
                &keys::group_start(GroupId::NODE),
            );
            rows.seek_to_first();
            while let Some(key) = rows.key() {
                let group = keys::group_of(key).ok_or_else(|| foreign_key(family, key))?;
                found.insert(group);
                rows.seek(keys::group_end(group));
            }
            rows.status()?;
        }
        Ok(found.into_iter().collect())
    }

    /// Reads rows of a family from the disk, with all checksums, until about `max_bytes` are read. Gives how many bytes it
    /// were and the key to go on with; none at the end.
    pub(crate) fn scrub(
        &self,
        family: &str,
        start: &[u8],
        end: &[u8],
        max_bytes: u64,
        check: &mut RowCheck<'_>,
    ) -> Result<(u64, Option<Vec<u8>>), StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        options.set_verify_checksums(true);
        // What readers need stays in the cache.
        options.fill_cache(false);
        let mut rows = self.db.raw_iterator_cf_opt(&self.family(family), options);
        rows.seek_to_first();
        let mut bytes = 0;
        while let Some((key, value)) = rows.item() {
            if bytes >= max_bytes {
                return Ok((bytes, Some(key.to_vec())));
            }
            check(key, value)?;
            bytes += (key.len() + value.len()) as u64;
            rows.next();
        }
        rows.status()?;
        Ok((bytes, None))
    }

    /// Whether rows or deletions of the log are in no file but the write-ahead log.
    pub(crate) fn has_log_in_memory(&self) -> Result<bool, StoreError> {
        let entries = self
            .db
            .property_int_value_cf(&self.family(LOG), rocksdb::properties::NUM_ENTRIES_ACTIVE_MEM_TABLE)?;
        Ok(entries.is_some_and(|entries| entries > 0))
    }

    /// Compactions that are under way go on; no more begin by themselves.
    pub(crate) fn stop_compacting(&self) -> Result<(), StoreError> {
        for family in self.tables.families() {
            let family = self.family(family);
            self.db
                .set_options_cf(&family, &[("disable_auto_compactions", "true")])?;
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The rows of a family in `start..end`. The caller positions the iterator.
    fn rows(&self, family: &str, start: &[u8], end: &[u8]) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        self.db.raw_iterator_cf_opt(&self.family(family), options)
    }

    /// Below which rows may go.
    pub(crate) fn floors(&self) -> &Floors {
        &self.floors
    }

    /// The RocksDB itself, for cleaning.
    pub(crate) fn raw(&self) -> &DB {
        &self.db
    }
}

/// Positions an iterator over the rows of a place at the last one. In a place apart only forward: see `places`.
fn seek_to_last(place: Place, rows: &mut DBRawIterator<'_>) -> Result<(), StoreError> {
    if !place.is_apart() {
        rows.seek_to_last();
        return Ok(());
    }
    rows.seek_to_first();
    let Some(mut low) = rows.key().and_then(places::number_of) else {
        return Ok(rows.status()?);
    };
    let mut high = u64::MAX;
    // There is a row at `low`, and none above `high`.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        rows.seek(place.number(middle));
        if let Some(number) = rows.key().and_then(places::number_of) {
            low = number;
        } else {
            rows.status()?;
            high = middle - 1;
        }
    }
    rows.seek(place.number(low));
    Ok(rows.status()?)
}

/// The row's own key.
pub(crate) fn row_key<'a>(place: Place, table: &Table, key: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let row_key = place.row_key(key);
    let row_key = row_key.filter(|row_key| table.keys == KeyForm::Bytes || row_key.len() == size_of::<u64>());
    row_key.ok_or_else(|| foreign_key(table.name, key))
}

fn foreign_key(family: &str, key: &[u8]) -> StoreError {
    StoreError::Corrupt(format!(
        "{family} has a key of {} bytes that is none of ours",
        key.len()
    ))
}

/// Syncs the WALs of a process that died, and lets the page cache forget them.
///
/// A commit that was written but not synced when the process was killed is in the page cache, so it would be replayed,
/// answered for and built upon, while RocksDB never syncs a file that it only replays: a power failure soon after would
/// take it from the middle of the log. What cannot be synced now was never on the disk; it must not come from the cache.
pub(crate) fn make_wals_durable(directory: &Path) -> Result<(), StoreError> {
    if !directory.exists() {
        return Ok(());
    }
    for (_, path) in wal::list(directory)? {
        let file = std::fs::File::open(&path).map_err(|error| StoreError::io("open", &path, error))?;
        file.sync_all().map_err(|error| StoreError::io("sync", &path, error))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|error| StoreError::io("read anew", &path, error))?;
    }
    let opened = std::fs::File::open(directory).map_err(|error| StoreError::io("open", directory, error))?;
    opened
        .sync_all()
        .map_err(|error| StoreError::io("sync", directory, error))
}

/// Whether the file system of a directory opens files past the page cache. Creates the directory.
fn takes_direct_io(directory: &Path) -> Result<bool, StoreError> {
    std::fs::create_dir_all(directory).map_err(|error| StoreError::io("create", directory, error))?;
    let probe = directory.join("direct-io.probe");
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::DIRECT;
    let opened = rustix::fs::open(&probe, flags, Mode::RUSR | Mode::WUSR).is_ok();
    match std::fs::remove_file(&probe) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", probe, error)),
        _ => Ok(opened),
    }
}

fn database_options(options: &StoreOptions) -> Result<Options, StoreError> {
    // What the crate does not wrap. This makes new options, so it comes first. A write that outruns the flushes is
    // slowed down to this rate, not to the default of 16 MB/s, before it has to stop. (`track_and_verify_wals`
    // was tried: it takes a file that was written over for one of another size, and says nothing about what the run of a
    // process before left. `wholeness` looks instead.)
    // After a crash the replayed WALs stay until their memtables are flushed in the ordinary way: a broker need not write
    // a second copy of them before it serves.
    let mut db =
        Options::default().get_options_from_string("delayed_write_rate=268435456;avoid_flush_during_recovery=true")?;
    db.create_if_missing(true);
    db.create_missing_column_families(true);

    // The writer flushes and syncs the WAL itself, once per commit.
    db.set_manual_wal_flush(true);
    // The only mode that recycles WALs. It opens after a lost tail: that is what the mark is for.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db.set_recycle_log_file_num(options.wal_recycled_files);
    db.set_max_total_wal_size(options.wal_bytes);
    db.set_db_write_buffer_size(options.memtables_bytes);

    // There is one writer: no queueing, no spinning.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);

    // Without direct I/O a flush writes back as it goes, so that its last sync does not stand in the WAL's way. A WAL's
    // pages set out before their sync, too.
    db.set_bytes_per_sync(MIB as u64);
    db.set_wal_bytes_per_sync(MIB as u64 / 2);
    // A quarter of them flush: two, so that one always writes while another waits for its sync.
    db.set_max_background_jobs(8);
    db.set_max_open_files(options.open_files_max);
    // Logs are read in order: let the kernel read ahead.
    db.set_advise_random_on_open(false);

    // RocksDB's own LOG file: small, without statistics.
    db.set_max_log_file_size(8 * MIB);
    db.set_keep_log_file_num(3);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    Ok(db)
}

fn block_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 * KIB);
    // Indexes and filters count against the cache, so that they cannot outgrow it.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    table
}

/// The log: values are large, come in order, are compressed already, and leave from the front.
fn log_options(options: &StoreOptions, cache: &Cache) -> Result<Options, StoreError> {
    let mut log = Options::default();
    log.set_block_based_table_factory(&block_options(cache));
    log.set_compression_type(DBCompressionType::None);
    log.set_write_buffer_size(options.memtable_bytes);
    log.set_max_write_buffer_number(4);

    log.set_enable_blob_files(true);
    log.set_min_blob_size(options.blob_bytes_min);
    log.set_blob_file_size(options.blob_file_bytes);
    log.set_blob_compression_type(DBCompressionType::None);
    // Off in ordinary compactions, which would move live blobs of the oldest files again and again: `reclaim` switches
    // it on when there is something to gain. Files without any live blob go without it.
    log.set_enable_blob_gc(false);

    // With blobs a file of L0 has only keys, some hundred KiB: many of them do no harm, and writes must not wait for
    // compaction.
    log.set_level_zero_file_num_compaction_trigger(8);
    log.set_level_zero_slowdown_writes_trigger(200);
    log.set_level_zero_stop_writes_trigger(400);
    log.set_soft_pending_compaction_bytes_limit(0);
    log.set_hard_pending_compaction_bytes_limit(0);
    // Small files at the top, so that cleaning one group's range touches little else; larger ones below, where values
    // without blobs end up.
    log.set_target_file_size_base(2 * MIB as u64);
    log.set_target_file_size_multiplier(4);
    log.set_max_bytes_for_level_base(128 * MIB as u64);
    Ok(log)
}

/// Tables: many small rows.
fn table_options(table: &Table, cache: &Cache, floors: &Floors) -> Options {
    let mut options = Options::default();
    let mut blocks = block_options(cache);
    if table.bloom_filter {
        blocks.set_bloom_filter(10.0, false);
    }
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(16 * MIB);
    options.set_max_write_buffer_number(4);
    options.set_level_zero_slowdown_writes_trigger(200);
    options.set_level_zero_stop_writes_trigger(400);
    if let CutOff::WhenCompacted(position_of) = table.cut_off {
        let floors = floors.clone();
        options.set_compaction_filter("floors", move |_, key, value| floors.judge(key, value, position_of));
    }
    options
}

#[cfg(test)]
mod tests {
    use jangada_types::TableId;

    use super::*;

    static NAMED: Table = Table {
        cut_off: CutOff::WhenCompacted(|_, value| Some(u64::from(*value.first()?))),
        ..Table::new(TableId(1), "named", KeyForm::Bytes)
    };

    #[test]
    fn compaction_drops_the_rows_of_what_was_purged() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = StoreOptions::new(directory.path());
        let tables = Arc::new(Tables::new(&[&NAMED]).expect("sound"));
        let database = Database::open(directory.path(), &options, tables, Arc::default(), true).expect("opens");
        let (purged, whole) = (GroupId(1), GroupId(2));
        let mut batch = WriteBatch::default();
        for group in [purged, whole] {
            for (key, position) in [(&b"old"[..], 9), (b"new", 10)] {
                batch.put_cf(&database.family(NAMED.name), keys::key(group, key), [position]);
            }
            batch.put_cf(&database.family(NAMED.name), keys::key(group, b"unread"), []);
        }
        database.write(batch).expect("writes");
        database.floors().raise(purged, 10);
        let family = database.family(NAMED.name);
        database.raw().flush_cf(&family).expect("flushes");
        let mut compact = rocksdb::CompactOptions::default();
        compact.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        database
            .raw()
            .compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &compact);
        let is_there =
            |group: GroupId, key: &[u8]| database.row(group.into(), &NAMED, key).expect("readable").is_some();
        let all = |group| [&b"old"[..], b"new", b"unread"].map(|key| is_there(group, key));
        assert_eq!(all(purged), [false, true, true]);
        assert_eq!(all(whole), [true, true, true]);
    }
}
