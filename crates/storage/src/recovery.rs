//! Opens the database of a store, and judges whether everything is there that was acknowledged.
//!
//! In this order, so that no crash on the way forgets what was found: the directory is locked; the files of the write-ahead
//! log are made durable; the mark and the log are held against each other (`wholeness`), and a doubt is written down before
//! RocksDB replays the log, which may flush it and delete the files that told; the database is opened; its end is held
//! against the mark once more.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};

use crate::database::{Database, make_wals_durable};
use crate::error::StoreError;
use crate::mark::{CommitPoint, Found, LostTail, LostTailCause, MarkFile};
use crate::options::StoreOptions;
use crate::statistics::Counters;
use crate::tables::Tables;
use crate::wholeness::{self, Log, Missing};

/// What opening the store found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Acknowledged writes are missing, or it cannot be known that none are. The node must neither vote nor acknowledge
    /// until its peers have confirmed what it has. Every later opening says so again until
    /// [`RocksStore::confirm_tail`](crate::RocksStore::confirm_tail).
    pub lost_tail: Option<LostTail>,
}

/// The database of a store, and where its commits go on.
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) mark: MarkFile,
    pub(crate) point: CommitPoint,
    pub(crate) recovery: Recovery,
    /// Held for as long as the database is open.
    pub(crate) lock: DirectoryLock,
}

/// Opens or creates it. Blocks while the write-ahead log is read and replayed.
///
/// `compacts`: as for [`Database::open`].
pub(crate) fn open(
    options: &StoreOptions,
    mark_path: &Path,
    counters: Arc<Counters>,
    compacts: bool,
) -> Result<Opened, StoreError> {
    let tables = Arc::new(Tables::new(&options.tables)?);
    let directory = &options.directory;
    std::fs::create_dir_all(directory).map_err(|error| StoreError::io("create", directory, error))?;
    let lock = lock(directory)?;
    let path = directory.join("rocksdb");
    let (found, whole_from) = Found::read(mark_path)?;
    make_wals_durable(&path)?;
    let started = Instant::now();
    let before = inspect(&path, &directory.join("look"), &tables, found, whole_from)?;
    tracing::debug!(took = ?started.elapsed(), "looked whether the write-ahead log is whole");
    if let (Some(lost), Found::Mark(newest)) = (before.lost, found) {
        MarkFile::start(mark_path, newest, Err(lost))?;
    }

    let all = tables.families();
    let database = Database::open(&path, options, tables, counters, compacts)?;
    let recovered = database.commit_point()?;
    let lost_tail = match before.lost {
        Some(lost) => Some(lost),
        None => match found.judge(recovered) {
            None => behind(&database, &before.families, found, whole_from)?,
            lost => lost,
        },
    };
    if let Some(lost) = &lost_tail {
        tracing::error!(?lost, "acknowledged writes are missing");
    }
    // Numbers are never given twice, so that a later mark cannot be taken for an earlier one.
    let point = CommitPoint {
        sequence: recovered.sequence.max(found.sequence()),
        ..recovered
    };
    // From before this build, or of a family that was not there, nothing is known.
    let lacks_family = before.families.len() < all.len();
    let whole_from = whole_from.filter(|_| !lacks_family).unwrap_or(point.sequence);
    let mark = MarkFile::start(mark_path, point, lost_tail.map_or(Ok(whole_from), Err))?;
    Ok(Opened {
        database,
        mark,
        point,
        recovery: Recovery { lost_tail },
        lock,
    })
}

/// A lock on the directory, until this is dropped. It is given up by name: closing the file is not enough while a process that
/// was forked meanwhile has a copy of it, as each has for a moment before it runs its own program.
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock on the store's directory is given up with the process only");
        }
    }
}

/// Nobody else may look at the directory while this one does, nor write to it.
fn lock(directory: &Path) -> Result<DirectoryLock, StoreError> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(|error| StoreError::io("open", &path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => Err(StoreError::InUse(directory.to_owned())),
        Err(error) => Err(StoreError::io("lock", &path, error)),
    }
}

/// What was seen before the database was opened.
struct Before {
    lost: Option<LostTail>,
    /// The families that there were, as far as it was looked.
    families: Vec<&'static str>,
}

fn inspect(
    path: &Path,
    aside: &Path,
    tables: &Tables,
    found: Found,
    whole_from: Option<u64>,
) -> Result<Before, StoreError> {
    let unseen = |lost| Before {
        lost,
        families: tables.families(),
    };
    // Without a mark, or with a doubt, nothing that is seen would change the judgement.
    let Found::Mark(marked) = found else {
        return Ok(unseen(None));
    };
    let Some(flushed) = wholeness::flushed(path, aside, tables)? else {
        let missing = (marked.sequence > 0).then_some(Missing {
            first: 1,
            last: marked.sequence,
            is_hole: false,
        });
        return Ok(unseen(missing.map(|missing| lost(missing, marked))));
    };
    let mut missing = None;
    if let Some(whole_from) = whole_from {
        match wholeness::read_log_end(path, whole_from, &flushed, marked.sequence)? {
            Log::Whole => {}
            Log::Lacks(lacks) => missing = Some(lost(lacks, marked)),
            Log::GoesOn(behind) => behind.cut_off(path)?,
        }
    }
    Ok(Before {
        lost: missing,
        families: flushed.families,
    })
}

fn lost(missing: Missing, marked: CommitPoint) -> LostTail {
    let point = |sequence| CommitPoint { sequence, chain: 0 };
    LostTail {
        cause: if missing.is_hole {
            LostTailCause::Hole
        } else {
            LostTailCause::Behind
        },
        marked: if missing.is_hole { point(missing.last) } else { marked },
        recovered: point(missing.first - 1),
    }
}

/// Whether one of these families ends before the mark, whatever the look before said.
fn behind(
    database: &Database,
    families: &[&str],
    found: Found,
    whole_from: Option<u64>,
) -> Result<Option<LostTail>, StoreError> {
    let marked = found.newest();
    // Commits up to there need not have a row in each family.
    let has_rows = whole_from.is_some_and(|from| from < marked.sequence);
    let whole_to = if has_rows {
        database.whole_to(families)?
    } else {
        u64::MAX
    };
    let missing = (whole_to < marked.sequence).then(|| Missing {
        first: whole_to + 1,
        last: marked.sequence,
        is_hole: false,
    });
    Ok(missing.map(|missing| lost(missing, marked)))
}
