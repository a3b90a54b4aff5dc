//! Looks, before the database is opened, whether the write-ahead log has every commit that the rest of the store counts on.
//!
//! ```text
//!            files of all families have it     the write-ahead log must have it
//!  commits  |---------------------------------|====================================|- - - -
//!           1                              flushed                              marked     not acknowledged
//! ```
//!
//! RocksDB notices neither a missing nor an emptied log file, nor zeros in one, and replays what comes behind it: the store
//! would have a hole, and no end that is missing. Here every commit from the flushed ones to the mark must be there, and
//! none may be left out before one that is there.
//!
//! What makes that safe to demand, at any moment of a crash: RocksDB lets a log file go only after the manifest says that
//! every family has flushed what it holds, and each family's files then have the number of the last commit in it
//! (`commit_rows`); a file that is written over is one of those; the mark follows the sync of all log files; and a torn or
//! unwritten end lies above the mark. What may have gaps is told by the mark's file: commits of builds that did not number
//! each family, and what an operator gave up.

use std::path::Path;

use rocksdb::{ColumnFamilyDescriptor, DB, LogLevel, Options};

use crate::commit_rows;
use crate::database::FAMILIES;
use crate::error::StoreError;
use crate::wal;

/// Files that are kept open for the look.
const OPEN_FILES_MAX: i32 = 64;

/// Commits that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The first.
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
    /// A family is not there yet: the database is of an earlier build.
    pub(crate) lacks_family: bool,
}

/// Opens the database for reading only and without its write-ahead log. `aside` is a directory for files that RocksDB
/// writes meanwhile; it is removed again. `None`: there is no database.
pub(crate) fn flushed(path: &Path, aside: &Path) -> Result<Option<Flushed>, StoreError> {
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
    let looked = look(path, &options);
    clear()?;
    looked.map(Some)
}

fn look(path: &Path, options: &Options) -> Result<Flushed, StoreError> {
    let there = DB::list_cf(options, path)?;
    let families: Vec<&str> = FAMILIES
        .into_iter()
        .filter(|name| there.iter().any(|n| n == name))
        .collect();
    // All must be named, also those that only a later build knows.
    let named = there
        .iter()
        .map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors_read_only(options, path, named, false)?;
    Ok(Flushed {
        commit: commit_rows::least(&db, &families)?,
        lacks_family: families.len() < FAMILIES.len(),
    })
}

/// The first commits after `whole_to` that the write-ahead log does not have, up to the mark or, if it goes further, to its
/// own end.
pub(crate) fn missing(path: &Path, whole_to: u64, marked: u64) -> Result<Option<Missing>, StoreError> {
    let mut next = whole_to + 1;
    let mut hole = None;
    for (number, file) in wal::list(path)? {
        wal::commits(number, &file, |point| {
            if point.sequence == next {
                next += 1;
            } else if point.sequence > next && hole.is_none() {
                hole = Some(Missing {
                    first: next,
                    last: point.sequence - 1,
                    is_hole: true,
                });
            }
        })?;
        if hole.is_some() {
            return Ok(hole);
        }
    }
    Ok((next <= marked).then_some(Missing {
        first: next,
        last: marked,
        is_hole: false,
    }))
}
