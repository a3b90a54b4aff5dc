//! Gives the space of purged entries and deleted groups back to the file system.
//!
//! A range deletion only hides rows. Files shrink when a compaction drops the keys (which also counts their blobs as
//! garbage), and a blob file goes when none of its blobs is live. So after a purge a thread of its own compacts the
//! purged range. As a flush writes groups one after another into small blob files, most files then go as a whole. What
//! stays behind are files that a purged group shared with others: when such garbage is a large part of the log, live
//! blobs are moved out of it, one range of keys at a time, oldest files first.
//!
//! `delete_file_in_range` would be cheaper but is wrong here: it does not count the blobs of the keys that it drops, so
//! their files would stay.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use jangada_types::GroupId;
use parking_lot::{Condvar, Mutex};
use rocksdb::{BottommostLevelCompaction, CompactOptions};

use crate::database::Database;
use crate::keys;
use crate::options::{BLOB_GARBAGE_MIN, BLOB_GARBAGE_PERCENT, RECLAIM_DELAY_MAX, RECLAIM_ENTRIES_MIN};
use crate::tables::LOG;

#[derive(Default)]
struct Notes {
    /// Raft indexes that were purged or truncated, per group.
    ranges: BTreeMap<GroupId, Range<u64>>,
    /// Groups that were deleted.
    groups: Vec<GroupId>,
    /// When the oldest of these was noted.
    since: Option<Instant>,
    stopped: bool,
}

impl Notes {
    /// Whether a round is worth it by now.
    fn due(&self) -> bool {
        let entries: u64 = self.ranges.values().map(|range| range.end - range.start).sum();
        !self.groups.is_empty()
            || entries >= RECLAIM_ENTRIES_MIN
            || self.since.is_some_and(|since| since.elapsed() >= RECLAIM_DELAY_MAX)
    }
}

/// What the writer tells the cleaning thread.
#[derive(Default)]
pub(crate) struct Reclaim {
    notes: Mutex<Notes>,
    wake: Condvar,
    paused: AtomicBool,
    /// Groups with blobs that cannot be read. While there are any no blobs are moved, as files have blobs of all groups.
    damaged_blobs: Mutex<BTreeSet<GroupId>>,
}

impl Reclaim {
    pub(crate) fn note_range(&self, group: GroupId, range: Range<u64>) {
        let mut notes = self.notes.lock();
        notes.since.get_or_insert_with(Instant::now);
        notes
            .ranges
            .entry(group)
            .and_modify(|noted| *noted = noted.start.min(range.start)..noted.end.max(range.end))
            .or_insert(range);
    }

    pub(crate) fn note_group(&self, group: GroupId) {
        let mut notes = self.notes.lock();
        notes.since.get_or_insert_with(Instant::now);
        notes.ranges.remove(&group);
        notes.groups.push(group);
    }

    /// No more compactions: a file that they would read is damaged.
    pub(crate) fn pause(&self) {
        self.paused.store(true, Relaxed);
    }

    /// No blobs are moved for now: one of this group, which would be read, is damaged.
    pub(crate) fn leave_blobs(&self, group: GroupId) {
        if self.damaged_blobs.lock().insert(group) {
            tracing::warn!(%group, "blobs are moved no more until the group's damaged ones are gone");
        }
    }

    /// The group's rows are deleted: nothing moves its blobs any more.
    pub(crate) fn blobs_are_gone(&self, group: GroupId) {
        self.damaged_blobs.lock().remove(&group);
    }

    fn blobs_stay(&self) -> bool {
        !self.damaged_blobs.lock().is_empty()
    }

    /// Lets `run` return after the compaction that is under way.
    pub(crate) fn stop(&self) {
        self.notes.lock().stopped = true;
        self.wake.notify_all();
    }

    fn stopped(&self) -> bool {
        self.notes.lock().stopped || self.paused.load(Relaxed)
    }

    /// The cleaning thread: a round per interval, if there is anything to do. `replayed` says that rows of the log were in the
    /// write-ahead log alone when the database was opened.
    pub(crate) fn run(&self, database: &Database, interval: Duration, replayed: bool) {
        if interval < Duration::MAX
            && let Err(error) = self.finish_earlier_work(database, replayed)
        {
            tracing::warn!(%error, "cannot see what is left to clean");
        }
        loop {
            let work = {
                let mut notes = self.notes.lock();
                while !notes.stopped && !self.wake.wait_for(&mut notes, interval).timed_out() {}
                if notes.stopped {
                    return;
                }
                if !notes.due() {
                    continue;
                }
                std::mem::take(&mut *notes)
            };
            self.round(database, work);
        }
    }

    /// What was noted before a restart is forgotten, but files with deletions show where there is something to drop.
    /// Once they are compacted to the last level nothing is left of them. Deletions that were replayed are in no file, unless so much
    /// was replayed that a memtable was full: a purge right before the restart would be forgotten. So they are flushed first.
    fn finish_earlier_work(&self, database: &Database, replayed: bool) -> Result<(), rocksdb::Error> {
        if replayed && !self.stopped() {
            database.raw().flush_cf(&database.family(LOG))?;
        }
        for file in database.raw().live_files()? {
            if file.column_family_name == LOG
                && file.num_deletions > 0
                && let (Some(start), Some(end)) = (file.start_key, file.end_key)
            {
                self.compact(database, LOG, &start, &end, false);
            }
        }
        self.move_blobs(database);
        Ok(())
    }

    fn round(&self, database: &Database, work: Notes) {
        let started = Instant::now();
        let before = LogFiles::of(database);
        for group in &work.groups {
            for family in database.tables().families() {
                self.compact(
                    database,
                    family,
                    &keys::group_start(*group),
                    &keys::group_end(*group),
                    false,
                );
            }
        }
        for (group, range) in &work.ranges {
            self.compact(
                database,
                LOG,
                &keys::log(*group, range.start),
                &keys::log(*group, range.end),
                false,
            );
        }
        self.move_blobs(database);
        let after = LogFiles::of(database);
        tracing::debug!(?before, ?after, took = ?started.elapsed(), "gave space back");
    }

    fn compact(&self, database: &Database, family: &str, start: &[u8], end: &[u8], rewrite: bool) {
        if self.stopped() {
            return;
        }
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        if rewrite {
            options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        }
        let raw = database.raw();
        raw.compact_range_cf_opt(&database.family(family), Some(start), Some(end), &options);
    }

    /// Moves live blobs out of files with garbage, if there is much of it.
    fn move_blobs(&self, database: &Database) {
        for age_cutoff in ["0.25", "0.5", "1.0"] {
            let stays = self.stopped() || self.blobs_stay();
            if stays || !LogFiles::of(database).worth_moving() {
                return;
            }
            if let Err(error) = self.move_blobs_older_than(database, age_cutoff) {
                tracing::warn!(%error, "cannot move blobs");
                return;
            }
        }
    }

    fn move_blobs_older_than(&self, database: &Database, age_cutoff: &str) -> Result<(), rocksdb::Error> {
        let ranges = key_ranges(database)?;
        let raw = database.raw();
        let log = database.family(LOG);
        raw.set_options_cf(
            &log,
            &[
                ("enable_blob_garbage_collection", "true"),
                ("blob_garbage_collection_age_cutoff", age_cutoff),
            ],
        )?;
        for (start, end) in ranges {
            if self.blobs_stay() || !LogFiles::of(database).worth_moving() {
                break;
            }
            self.compact(database, LOG, &start, &end, true);
        }
        raw.set_options_cf(&log, &[("enable_blob_garbage_collection", "false")])
    }
}

/// First and last key of a file.
type KeyRange = (Vec<u8>, Vec<u8>);

/// Key ranges of the log's files below L0: each is compacted on its own, so that only a part of the data is there twice
/// for a while.
fn key_ranges(database: &Database) -> Result<Vec<KeyRange>, rocksdb::Error> {
    let files = database.raw().live_files()?;
    let mut ranges: Vec<_> = files
        .into_iter()
        .filter(|file| file.column_family_name == LOG && file.level > 0)
        .filter_map(|file| Some((file.start_key?, file.end_key?)))
        .collect();
    ranges.sort();
    Ok(ranges)
}

/// Sizes of the log's files, bytes.
#[derive(Debug)]
struct LogFiles {
    tables: u64,
    blobs: u64,
    garbage: u64,
}

impl LogFiles {
    fn of(database: &Database) -> Self {
        let log = database.family(LOG);
        let property = |name: &str| {
            database
                .raw()
                .property_int_value_cf(&log, name)
                .ok()
                .flatten()
                .unwrap_or_default()
        };
        Self {
            tables: property("rocksdb.live-sst-files-size"),
            blobs: property("rocksdb.live-blob-file-size"),
            garbage: property("rocksdb.live-blob-file-garbage-size"),
        }
    }

    fn worth_moving(&self) -> bool {
        let all = self.tables + self.blobs;
        self.garbage >= BLOB_GARBAGE_MIN && self.garbage >= all / 100 * BLOB_GARBAGE_PERCENT
    }
}
