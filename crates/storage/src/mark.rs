//! The commit mark: notices that the WAL lost its tail.
//!
//! RocksDB opens without complaint after its newest WAL was cut, deleted or damaged in the middle, and what was
//! acknowledged is then gone without a trace. So a small file outside the WAL says which commit was durable last:
//!
//! ```text
//! WAL     | write n  sync n | write n+1  sync n+1 | write n+2 ...
//! mark                      | mark n, fdatasync   | mark n+1, fdatasync
//! acks                 n-1..n                  n+1
//! ```
//!
//! Commit *n+1* is acknowledged when its sync and mark *n* are done. The mark is overwritten in place and in parallel
//! with the next sync, so it costs no wait of its own; when idle it is written at once. Every commit also writes its
//! number and a hash chained over all commits into the database, in the same batch. A database that ends before its
//! mark, or differs at it, has lost acknowledged writes ([`LostTail`]). The last acknowledged commit before a crash may
//! lie above the mark: that one is not covered.
//!
//! The file has three blocks: two slots that alternate, so that a torn write leaves the older mark, and one that keeps
//! a doubt over restarts until somebody confirms the tail. Without a doubt the third says after which commit the log has no
//! gaps (`wholeness`).

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::StoreError;

/// Number of a commit and the hash chained over all commits up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitPoint {
    /// Counts commits from 1 on. It never falls, also not after a lost tail.
    pub sequence: u64,
    /// Hash over the chain before and what the commit wrote.
    pub chain: u64,
}

/// Folds what a commit writes into the next point of the chain.
pub(crate) struct ChainHasher {
    sequence: u64,
    hasher: Xxh3,
}

impl ChainHasher {
    pub(crate) fn after(previous: CommitPoint) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&previous.chain.to_le_bytes());
        Self {
            sequence: previous.sequence + 1,
            hasher,
        }
    }

    pub(crate) fn update(&mut self, numbers: [u64; 3]) {
        for number in numbers {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    pub(crate) fn finish(self) -> CommitPoint {
        CommitPoint {
            sequence: self.sequence,
            chain: self.hasher.digest(),
        }
    }
}

/// Why the tail of the log is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostTailCause {
    /// The database ends before its mark.
    Behind,
    /// The database has another commit where the mark stands.
    Diverged,
    /// The database has commits but the mark file is gone.
    MarkMissing,
    /// No slot of the mark file can be read.
    MarkDamaged,
    /// Peers remember commits that the database lacks: the directory was put back, or a disk lost the mark as well.
    PutBack,
    /// The database ends at its mark or behind it, but lacks commits before: a file of the log is gone, cut or damaged.
    Hole,
}

/// Acknowledged writes are missing, or it cannot be known that none are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostTail {
    /// What told that acknowledged commits are missing.
    pub cause: LostTailCause,
    /// What was durable according to the mark (zero when there is none); of a hole its last commit.
    pub marked: CommitPoint,
    /// Where the database ended when this was noticed; of a hole the last commit before it.
    pub recovered: CommitPoint,
}

const BLOCK: usize = 4096;
const SLOT_OFFSETS: [u64; 2] = [0, BLOCK as u64];
const DOUBT_OFFSET: u64 = 2 * BLOCK as u64;
const FILE_LEN: usize = 3 * BLOCK;

const MAGIC: [u8; 7] = *b"jgdmark";
const VERSION: u8 = 1;
/// magic | version | kind | marked | recovered | checksum over all before.
const BODY_LEN: usize = 8 + 1 + 16 + 16;

const KIND_MARK: u8 = 1;
const KIND_DOUBT: u8 = 2;
/// In the place of a doubt: the commits after this one have no gap.
const KIND_WHOLE: u8 = 3;

fn encode_block(kind: u8, marked: CommitPoint, recovered: CommitPoint) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..7].copy_from_slice(&MAGIC);
    block[7] = VERSION;
    block[8] = kind;
    let numbers = [marked.sequence, marked.chain, recovered.sequence, recovered.chain];
    for (at, number) in block[9..BODY_LEN].chunks_exact_mut(8).zip(numbers) {
        at.copy_from_slice(&number.to_le_bytes());
    }
    let checksum = xxh3_64(&block[..BODY_LEN]);
    block[BODY_LEN..BODY_LEN + 8].copy_from_slice(&checksum.to_le_bytes());
    block
}

fn encode_whole(from: u64) -> [u8; BLOCK] {
    let point = CommitPoint {
        sequence: from,
        chain: 0,
    };
    encode_block(KIND_WHOLE, point, CommitPoint::default())
}

/// Kind and points of a block; `None` if it is torn, damaged or empty.
fn decode_block(block: &[u8]) -> Result<Option<(u8, CommitPoint, CommitPoint)>, StoreError> {
    let number = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes of a block"));
    if block[..7] != MAGIC || number(BODY_LEN) != xxh3_64(&block[..BODY_LEN]) {
        return Ok(None);
    }
    if block[7] != VERSION {
        return Err(StoreError::LaterVersion(format!(
            "mark file has version {}, known is {VERSION}",
            block[7]
        )));
    }
    let point = |at: usize| CommitPoint {
        sequence: number(at),
        chain: number(at + 8),
    };
    Ok(Some((block[8], point(9), point(25))))
}

fn doubt_block(lost: LostTail) -> [u8; BLOCK] {
    encode_block(KIND_DOUBT << 4 | cause_code(lost.cause), lost.marked, lost.recovered)
}

fn cause_code(cause: LostTailCause) -> u8 {
    match cause {
        LostTailCause::Behind => 0,
        LostTailCause::Diverged => 1,
        LostTailCause::MarkMissing => 2,
        LostTailCause::MarkDamaged => 3,
        LostTailCause::PutBack => 4,
        LostTailCause::Hole => 5,
    }
}

fn cause_from_code(code: u8) -> LostTailCause {
    match code {
        0 => LostTailCause::Behind,
        1 => LostTailCause::Diverged,
        2 => LostTailCause::MarkMissing,
        4 => LostTailCause::PutBack,
        5 => LostTailCause::Hole,
        _ => LostTailCause::MarkDamaged,
    }
}

/// What the mark file said before the database was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no file.
    Nothing,
    /// There is one, but neither slot can be read.
    Damaged,
    /// The newer of the two slots.
    Mark(CommitPoint),
    /// A doubt from before that nobody has confirmed, and the newer slot.
    Doubt(LostTail, CommitPoint),
}

impl Found {
    /// Reads the file: what it says, and after which commit there are no gaps, if it says that. Nothing is written.
    pub(crate) fn read(path: &Path) -> Result<(Self, Option<u64>), StoreError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Self::Nothing, None)),
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        if bytes.len() != FILE_LEN {
            return Ok((Self::Damaged, None));
        }
        let mut newest: Option<CommitPoint> = None;
        for offset in SLOT_OFFSETS {
            let block = &bytes[offset as usize..][..BLOCK];
            if let Some((KIND_MARK, point, _)) = decode_block(block)?
                && newest.is_none_or(|newest| point.sequence >= newest.sequence)
            {
                newest = Some(point);
            }
        }
        let Some(newest) = newest else {
            return Ok((Self::Damaged, None));
        };
        let third = &bytes[DOUBT_OFFSET as usize..];
        match decode_block(third)? {
            Some((kind, marked, recovered)) if kind >> 4 == KIND_DOUBT => {
                let lost = LostTail {
                    cause: cause_from_code(kind & 0xf),
                    marked,
                    recovered,
                };
                Ok((Self::Doubt(lost, newest), None))
            }
            Some((KIND_WHOLE, from, _)) => Ok((Self::Mark(newest), Some(from.sequence))),
            // It may have been a doubt, which must not be forgotten.
            None if third.iter().any(|byte| *byte != 0) => Ok((Self::Damaged, None)),
            _ => Ok((Self::Mark(newest), None)),
        }
    }

    /// The newest mark, as far as the file has one.
    pub(crate) fn newest(self) -> CommitPoint {
        match self {
            Self::Nothing | Self::Damaged => CommitPoint::default(),
            Self::Mark(newest) | Self::Doubt(_, newest) => newest,
        }
    }

    /// Compares with where the database ended.
    pub(crate) fn judge(self, recovered: CommitPoint) -> Option<LostTail> {
        let lost = |cause, marked| {
            Some(LostTail {
                cause,
                marked,
                recovered,
            })
        };
        match self {
            Self::Nothing if recovered.sequence == 0 => None,
            Self::Nothing => lost(LostTailCause::MarkMissing, CommitPoint::default()),
            Self::Damaged => lost(LostTailCause::MarkDamaged, CommitPoint::default()),
            Self::Mark(marked) if recovered.sequence < marked.sequence => lost(LostTailCause::Behind, marked),
            Self::Mark(marked) if recovered.sequence == marked.sequence && recovered.chain != marked.chain => {
                lost(LostTailCause::Diverged, marked)
            }
            Self::Mark(_) => None,
            Self::Doubt(lost_tail, _) => Some(lost_tail),
        }
    }

    /// Highest sequence that was ever given, as far as the file knows.
    pub(crate) fn sequence(self) -> u64 {
        match self {
            Self::Nothing | Self::Damaged => 0,
            Self::Mark(newest) => newest.sequence,
            Self::Doubt(lost_tail, newest) => newest.sequence.max(lost_tail.marked.sequence),
        }
    }
}

/// The open mark file.
pub(crate) struct MarkFile {
    path: PathBuf,
    file: File,
    next_slot: usize,
}

impl MarkFile {
    /// Makes the file anew, with where the chain goes on in both slots, and the doubt if there is one, or else after which
    /// commit there are no gaps. It takes the place of the old one as a whole, so that no crash leaves one that cannot be
    /// read: that is always damage.
    pub(crate) fn start(path: &Path, point: CommitPoint, rest: Result<u64, LostTail>) -> Result<Self, StoreError> {
        // Zeros are written, not only allocated, so that later syncs have no metadata to write.
        let mut blocks = [0; FILE_LEN];
        let mut put = |offset: u64, block: [u8; BLOCK]| blocks[offset as usize..][..BLOCK].copy_from_slice(&block);
        for slot in SLOT_OFFSETS {
            put(slot, encode_block(KIND_MARK, point, CommitPoint::default()));
        }
        put(
            DOUBT_OFFSET,
            match rest {
                Ok(whole_from) => encode_whole(whole_from),
                Err(lost) => doubt_block(lost),
            },
        );
        let new = path.with_extension("new");
        let directory = path.parent().expect("the mark lies in the data directory");
        let replace = || -> std::io::Result<File> {
            let file = File::create(&new)?;
            file.write_all_at(&blocks, 0)?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            File::open(directory)?.sync_all()?;
            Ok(file)
        };
        Ok(Self {
            path: path.to_owned(),
            file: replace().map_err(|error| StoreError::io("make", path, error))?,
            next_slot: 0,
        })
    }

    /// Writes the mark over the older slot and syncs it.
    pub(crate) fn write(&mut self, point: CommitPoint) -> Result<(), StoreError> {
        let block = encode_block(KIND_MARK, point, CommitPoint::default());
        self.put(SLOT_OFFSETS[self.next_slot], &block)?;
        self.next_slot ^= 1;
        Ok(())
    }

    /// Forgets the doubt. After `whole_from` there are no gaps.
    pub(crate) fn clear_doubt(path: &Path, whole_from: u64) -> Result<(), StoreError> {
        Self::write_doubt(path, &encode_whole(whole_from))
    }

    /// Keeps a doubt that came up while the store was open.
    pub(crate) fn keep_doubt(path: &Path, lost: LostTail) -> Result<(), StoreError> {
        Self::write_doubt(path, &doubt_block(lost))
    }

    fn write_doubt(path: &Path, block: &[u8; BLOCK]) -> Result<(), StoreError> {
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(|error| StoreError::io("open", path, error))?;
        Self {
            path: path.to_owned(),
            file,
            next_slot: 0,
        }
        .put(DOUBT_OFFSET, block)
    }

    fn put(&self, offset: u64, block: &[u8; BLOCK]) -> Result<(), StoreError> {
        self.file
            .write_all_at(block, offset)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| StoreError::io("write", &self.path, error))
    }
}

/// A mark that is to be written.
#[derive(Clone, Copy)]
struct Submitted {
    point: CommitPoint,
    /// What peers may be told once it is durable.
    told: u64,
}

#[derive(Default)]
struct MarkerState {
    submitted: Option<Submitted>,
    writing: bool,
    failed: Option<StoreError>,
    stop: bool,
}

/// Hands marks from the writer thread to the thread that writes them.
#[derive(Default)]
pub(crate) struct Marker {
    /// See [`crate::Store::durable_commit`].
    told: AtomicU64,
    state: Mutex<MarkerState>,
    changed: Condvar,
}

impl Marker {
    /// One whose file says already that everything up to `told` is durable.
    pub(crate) fn after(told: u64) -> Self {
        Self {
            told: AtomicU64::new(told),
            ..Self::default()
        }
    }

    /// See [`crate::Store::durable_commit`].
    pub(crate) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Starts writing a mark. Only one is under way at a time: call `wait_idle` first.
    pub(crate) fn submit(&self, point: CommitPoint, told: u64) {
        let mut state = self.state.lock();
        assert!(state.submitted.is_none() && !state.writing, "one mark at a time");
        state.submitted = Some(Submitted { point, told });
        self.changed.notify_all();
    }

    /// Waits until the submitted mark is durable.
    pub(crate) fn wait_idle(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while (state.submitted.is_some() || state.writing) && state.failed.is_none() {
            self.changed.wait(&mut state);
        }
        // The error is told once: whoever waits fences the store.
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Lets `run` return once what was submitted is written.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// The marking thread.
    pub(crate) fn run(&self, mut write: impl FnMut(CommitPoint) -> Result<(), StoreError>) {
        loop {
            let Submitted { point, told } = {
                let mut state = self.state.lock();
                loop {
                    if let Some(submitted) = state.submitted.take() {
                        state.writing = true;
                        break submitted;
                    }
                    if state.stop {
                        return;
                    }
                    self.changed.wait(&mut state);
                }
            };
            let result = write(point);
            if result.is_ok() {
                self.told.store(told, Ordering::Release);
            }
            let mut state = self.state.lock();
            state.writing = false;
            state.failed = result.err();
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn point(sequence: u64) -> CommitPoint {
        CommitPoint {
            sequence,
            chain: sequence * 7,
        }
    }

    #[test]
    fn the_newer_slot_counts_and_a_torn_write_leaves_the_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        assert_eq!(Found::read(&path).unwrap().0, Found::Nothing);
        let mut mark = MarkFile::start(&path, CommitPoint::default(), Ok(0)).unwrap();
        assert_eq!(Found::read(&path).unwrap().0, Found::Mark(CommitPoint::default()));
        for sequence in 1..=5 {
            mark.write(point(sequence)).unwrap();
            assert_eq!(Found::read(&path).unwrap().0, Found::Mark(point(sequence)));
        }
        let newest_slot = mark.next_slot ^ 1;
        mark.file
            .write_all_at(&[0xff; 8], SLOT_OFFSETS[newest_slot] + 20)
            .unwrap();
        assert_eq!(Found::read(&path).unwrap().0, Found::Mark(point(4)));
        mark.file
            .write_all_at(&[0xff; 8], SLOT_OFFSETS[newest_slot ^ 1] + 20)
            .unwrap();
        assert_eq!(Found::read(&path).unwrap().0, Found::Damaged);
    }

    #[test]
    fn a_start_never_leaves_a_file_that_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("mark"), directory.path().join("old"));
        // What a crash left of the file and of an earlier try to make it anew.
        std::fs::write(&path, [0xff; BLOCK]).unwrap();
        std::fs::write(path.with_extension("new"), [0xff; 2 * FILE_LEN]).unwrap();
        std::fs::hard_link(&path, &old).unwrap();
        let mut mark = MarkFile::start(&path, point(3), Ok(2)).unwrap();
        assert_eq!(Found::read(&path).unwrap().0, Found::Mark(point(3)));
        assert_eq!(
            std::fs::read(&old).unwrap(),
            [0xff; BLOCK],
            "it was replaced, not written over"
        );
        assert!(!path.with_extension("new").exists());
        mark.write(point(4)).unwrap();
        assert_eq!(Found::read(&path).unwrap().0, Found::Mark(point(4)));
    }

    #[test]
    fn a_doubt_survives_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let lost = LostTail {
            cause: LostTailCause::Diverged,
            marked: point(9),
            recovered: point(4),
        };
        let mut mark = MarkFile::start(&path, point(9), Err(lost)).unwrap();
        mark.write(point(10)).unwrap();
        let found = Found::read(&path).unwrap().0;
        assert_eq!(found, Found::Doubt(lost, point(10)));
        assert_eq!(found.judge(point(10)), Some(lost));
        assert_eq!(found.sequence(), 10);
        MarkFile::clear_doubt(&path, 10).unwrap();
        assert_eq!(Found::read(&path).unwrap(), (Found::Mark(point(10)), Some(10)));
        // What may have been a doubt is not forgotten.
        mark.put(DOUBT_OFFSET, &[1; BLOCK]).unwrap();
        assert_eq!(Found::read(&path).unwrap(), (Found::Damaged, None));
        // A build before this one leaves the place empty.
        mark.put(DOUBT_OFFSET, &[0; BLOCK]).unwrap();
        assert_eq!(Found::read(&path).unwrap(), (Found::Mark(point(10)), None));
    }

    #[test]
    fn the_database_is_judged_by_the_mark() {
        let cause = |found: Found, recovered| found.judge(recovered).map(|lost| lost.cause);
        assert_eq!(cause(Found::Nothing, point(0)), None);
        assert_eq!(cause(Found::Nothing, point(1)), Some(LostTailCause::MarkMissing));
        assert_eq!(cause(Found::Damaged, point(1)), Some(LostTailCause::MarkDamaged));
        assert_eq!(cause(Found::Mark(point(5)), point(4)), Some(LostTailCause::Behind));
        assert_eq!(cause(Found::Mark(point(5)), point(5)), None);
        assert_eq!(cause(Found::Mark(point(5)), point(6)), None);
        let other = CommitPoint { sequence: 5, chain: 1 };
        assert_eq!(cause(Found::Mark(point(5)), other), Some(LostTailCause::Diverged));
    }

    #[test]
    fn a_future_version_is_refused() {
        let mut block = encode_block(KIND_MARK, point(1), point(0));
        block[7] = 2;
        let checksum = xxh3_64(&block[..BODY_LEN]);
        block[BODY_LEN..BODY_LEN + 8].copy_from_slice(&checksum.to_le_bytes());
        assert!(decode_block(&block).is_err());
    }

    #[test]
    fn a_failed_mark_is_reported_to_the_waiter() {
        let marker = Arc::new(Marker::default());
        let thread = std::thread::spawn({
            let marker = marker.clone();
            move || {
                marker.run(|point| {
                    if point.sequence == 2 {
                        Err(StoreError::Corrupt("disk".into()))
                    } else {
                        Ok(())
                    }
                });
            }
        });
        marker.submit(point(1), 1);
        assert!(marker.wait_idle().is_ok());
        assert_eq!(marker.told(), 1);
        marker.submit(point(2), 2);
        assert!(marker.wait_idle().is_err());
        assert_eq!(marker.told(), 1, "peers are told only what is marked");
        marker.stop();
        thread.join().unwrap();
    }
}
