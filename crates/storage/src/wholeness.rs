//! Looks, before the database is opened, whether the write-ahead log has every commit that the rest of the store counts on.
//!
//! ```text
//!            files of all families have it     the write-ahead log must have it
//!  commits  |---------------------------------|====================================|- - - -
//!           1                              flushed                              marked     not acknowledged
//! ```
//!
//! RocksDB notices neither a missing nor an emptied log file, nor zeros in one, and replays what comes behind it: the store
//! would have a hole, and no end that is missing. Here every commit from the flushed ones to the mark must be there.
//!
//! Above the mark nothing must be there, but what is must have no gap either. A power failure may keep a later block or file
//! that was not synced, and lose one before. RocksDB would replay what lies behind such a gap, so it is cut off first: no sync
//! that anybody was told of covers it. As RocksDB syncs log files before it flushes what they hold, no family's files have
//! anything from behind such a gap; if one has, it is none of a power failure, but damage.
//!
//! What makes that safe to demand, at any moment of a crash: RocksDB lets a log file go only after the manifest says that
//! every family has flushed what it holds, and each family's files then have the number of the last commit in it
//! (`commit_rows`); a file that is written over is one of those; the mark follows the sync of all log files; and a torn or
//! unwritten end lies above the mark. What may have gaps is told by the mark's file: commits of builds that did not number
//! each family, and what an operator gave up.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamilyDescriptor, DB, LogLevel, Options};

use crate::commit_rows;
use crate::error::StoreError;
use crate::tables::Tables;
use crate::wal;

/// Files that are kept open for the look.
const OPEN_FILES_MAX: i32 = 64;

/// Commits that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The number of the first commit that is missing.
    pub(crate) first: u64,
    /// The last that is known to be.
    pub(crate) last: u64,
    /// Later ones are there.
    pub(crate) is_hole: bool,
}

/// What the files of the database have without the write-ahead log.
pub(crate) struct Flushed {
    /// Up to this commit they have everything.
    pub(crate) commit: u64,
    /// The last commit that any family has.
    pub(crate) last: u64,
    /// The families that there are. Where one is not there yet, the database is of an earlier build.
    pub(crate) families: Vec<&'static str>,
}

/// Opens the database for reading only and without its write-ahead log. `aside` is a directory for files that RocksDB
/// writes meanwhile; it is removed again. `None`: there is no database.
pub(crate) fn flushed(path: &Path, aside: &Path, tables: &Tables) -> Result<Option<Flushed>, StoreError> {
    if !path.join("CURRENT").exists() {
        return Ok(None);
    }
    let clear = || match std::fs::remove_dir_all(aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", aside, error)),
        _ => Ok(()),
    };
    clear()?;
    std::fs::create_dir(aside).map_err(|error| StoreError::io("create", aside, error))?;
    let mut options = Options::default();
    // There is no log file there, so none is replayed.
    options.set_wal_dir(aside);
    options.set_db_log_dir(aside);
    options.set_log_level(LogLevel::Error);
    options.set_max_open_files(OPEN_FILES_MAX);
    let looked = inspect(path, &options, tables);
    clear()?;
    looked.map(Some)
}

fn inspect(path: &Path, options: &Options, tables: &Tables) -> Result<Flushed, StoreError> {
    let there = DB::list_cf(options, path)?;
    let mut families = tables.families();
    families.retain(|name| there.iter().any(|n| n == name));
    // All must be named, also those that only a later build knows.
    let named = there
        .iter()
        .map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors_read_only(options, path, named, false)?;
    Ok(Flushed {
        commit: commit_rows::least(&db, tables, &families)?,
        last: commit_rows::greatest(&db, tables, &families)?,
        families,
    })
}

/// What the write-ahead log has.
#[derive(Debug)]
pub(crate) enum Log {
    /// Everything that must be there, and no gap.
    Whole,
    /// These commits are missing.
    Lacks(Missing),
    /// Everything that must be there, and more behind a gap.
    GoesOn(BehindGap),
}

/// The part of the log behind a gap that begins above the mark.
#[derive(Debug)]
pub(crate) struct BehindGap {
    /// The first commit that is not there.
    missing: u64,
    /// The first behind the gap.
    found: u64,
    /// The file that has it, and where the part before it ends.
    file: PathBuf,
    keep: u64,
    /// The files after that.
    later: Vec<PathBuf>,
}

/// Looks for the commits after `whole_to`, up to the mark and to the log's own end.
pub(crate) fn read_log_end(path: &Path, whole_to: u64, flushed: &Flushed, marked: u64) -> Result<Log, StoreError> {
    let mut next = whole_to.max(flushed.commit) + 1;
    let mut files = wal::list(path)?.into_iter();
    while let Some((number, file)) = files.next() {
        // Where the last commit before a gap ends, and the first one behind it.
        let (mut keep, mut behind) = (0, None);
        wal::commits(number, &file, |point, end| {
            if point.sequence > next || behind.is_some() {
                behind.get_or_insert(point.sequence);
                return;
            }
            keep = end;
            next += u64::from(point.sequence == next);
        })?;
        let Some(found) = behind else { continue };
        if next > marked && next > flushed.last {
            return Ok(Log::GoesOn(BehindGap {
                missing: next,
                found,
                file,
                keep,
                later: files.map(|(_, file)| file).collect(),
            }));
        }
        return Ok(Log::Lacks(Missing {
            first: next,
            last: found - 1,
            is_hole: true,
        }));
    }
    Ok(match next <= marked {
        false => Log::Whole,
        true => Log::Lacks(Missing {
            first: next,
            last: marked,
            is_hole: false,
        }),
    })
}

impl BehindGap {
    /// Ends the log before the gap. Cut short by a crash, it is done again at the next start: a gap is still there then.
    pub(crate) fn cut_off(self, path: &Path) -> Result<(), StoreError> {
        let Self {
            missing,
            found,
            file,
            keep,
            later,
        } = self;
        tracing::warn!(
            missing,
            found,
            file = %file.display(),
            keep,
            files_after = later.len(),
            "the write-ahead log is cut off before commits that were never acknowledged: others before them were not written when \
             the machine stopped"
        );
        let mut gone = later;
        if keep > 0 {
            let cut = OpenOptions::new().write(true).open(&file);
            cut.and_then(|cut| {
                cut.set_len(keep)?;
                cut.sync_all()
            })
            .map_err(|error| StoreError::io("cut", &file, error))?;
        } else {
            gone.push(file);
        }
        for file in gone {
            fs::remove_file(&file).map_err(|error| StoreError::io("remove", &file, error))?;
        }
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(|error| StoreError::io("sync", path, error))
    }
}
