//! A write-ahead log with a hole is noticed, whichever of its files was harmed and however, or the harm does none: everything
//! that was acknowledged is there. And an unharmed store is never doubted.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jangada_storage::conformance::rows::{self, NUMBERED, numbered_row, numbered_rows};
use jangada_storage::conformance::{Disk, write_synced};
use jangada_storage::{LogEntry, LostTailCause, Op, RocksStore, StateKind, Store, StoreError, StoreOptions};
use jangada_types::GroupId;

use crate::directory::{Directory, copy, files, open_small, open_with, small_options};

const GROUPS: u64 = 3;
/// Damages of the random test.
const RANDOM_DAMAGES: u64 = 300;

fn body(index: u64) -> Bytes {
    // Small ones stay in the memtable's files, large ones go to blobs.
    let bytes = if index.is_multiple_of(5) { 20_000 } else { 300 };
    Bytes::from(vec![index as u8; bytes])
}

/// One commit: an entry of a group, the row of the entry before, now and then a row of state.
fn append(store: &RocksStore, group: GroupId) {
    let next = store.bounds(group).next_index().unwrap_or(0);
    let mut ops = vec![Op::Append(vec![LogEntry {
        index: next,
        term: 1,
        head: Bytes::new(),
        body: body(next),
    }])];
    if next > 0 {
        let (key, value) = numbered_row(next - 1);
        ops.push(rows::put(&NUMBERED, key, value));
    }
    if next.is_multiple_of(7) {
        ops.push(Op::PutState {
            kind: StateKind::APPLIED,
            suffix: None,
            value: Bytes::copy_from_slice(&next.to_le_bytes()),
        });
    }
    write_synced(store, group, ops).unwrap();
}

fn open_groups(store: &RocksStore) {
    for group in 0..GROUPS {
        store.open_group(GroupId(group)).unwrap();
    }
}

fn fill(store: &RocksStore, commits: u64) {
    open_groups(store);
    for commit in 0..commits {
        append(store, GroupId(commit % GROUPS));
    }
}

/// The files of the log, oldest first.
fn wals(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut wals: Vec<_> = files(&directory.join("rocksdb"))
        .into_iter()
        .filter(|(file, _)| file.extension().is_some_and(|extension| extension == "log"))
        .collect();
    wals.sort();
    wals
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Delete,
    Empty,
    Zero,
    /// Cut at a share of its length.
    Cut,
    /// One bit is flipped.
    Flip,
    /// A block of zeros.
    ZeroBlock,
}

const HARMS: [Harm; 6] = [
    Harm::Delete,
    Harm::Empty,
    Harm::Zero,
    Harm::Cut,
    Harm::Flip,
    Harm::ZeroBlock,
];

impl Harm {
    fn to(self, path: &Path, length: u64, random: u64) {
        let at = if length == 0 { 0 } else { random % length };
        let file = || OpenOptions::new().read(true).write(true).open(path).unwrap();
        match self {
            Self::Delete => std::fs::remove_file(path).unwrap(),
            Self::Empty => file().set_len(0).unwrap(),
            Self::Zero => file().write_all_at(&vec![0; length as usize], 0).unwrap(),
            Self::Cut => file().set_len(at).unwrap(),
            Self::Flip if length > 0 => {
                let mut byte = [0];
                file().read_exact_at(&mut byte, at).unwrap();
                file().write_all_at(&[byte[0] ^ (1 << (random % 8))], at).unwrap();
            }
            Self::Flip => {}
            Self::ZeroBlock => {
                let start = at / 32_768 * 32_768;
                let bytes = (length - start).min(32_768);
                file().write_all_at(&vec![0; bytes as usize], start).unwrap();
            }
        }
    }
}

/// What became of a harmed store.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It says that acknowledged writes are missing.
    Doubt(LostTailCause),
    /// It does not open.
    Refused,
    /// Everything is there.
    Whole,
}

fn look(directory: &Path, lengths: &[u64]) -> Found {
    let opened = RocksStore::open(small_options(directory), Box::new(|reason| panic!("fenced: {reason}")));
    let (store, recovery) = match opened {
        Ok(opened) => opened,
        Err(StoreError::Corrupt(_) | StoreError::Database(_)) => return Found::Refused,
        Err(error) => panic!("{error}"),
    };
    if let Some(lost) = recovery.lost_tail {
        drop(store);
        let (_store, again) = open_small(directory);
        assert_eq!(again.lost_tail, Some(lost), "it is not forgotten");
        return Found::Doubt(lost.cause);
    }
    for (group, length) in lengths.iter().enumerate() {
        let group = GroupId(group as u64);
        let bounds = store.open_group(group).unwrap();
        let next = bounds.next_index().unwrap_or(0);
        assert!(next >= *length, "{group}: {bounds:?} of {length}");
        // What was not acknowledged may be there, but then as a whole, too.
        let entries = store.read_log(group, 0..next, usize::MAX).unwrap();
        let expected = (0..next).map(|index| (index, body(index)));
        assert!(
            entries.into_iter().map(|entry| (entry.index, entry.body)).eq(expected),
            "{group}: an entry is missing"
        );
        assert_eq!(
            rows::all(&store, group, &NUMBERED),
            numbered_rows(0..next.saturating_sub(1)),
            "{group}: a row is missing"
        );
        if next > 0 {
            let saved = store.get_state(group, StateKind::APPLIED, None).unwrap().unwrap();
            assert_eq!(&saved[..], ((next - 1) / 7 * 7).to_le_bytes());
        }
    }
    Found::Whole
}

/// A store as its process' death left it after so many commits, with several files of the log, and the length of each group.
fn crashed(commits: u64) -> (Directory, Vec<u64>) {
    let (original, crashed) = (Directory::new(), Directory::new());
    let store = original.open();
    fill(&store, commits / 2);
    drop(store);
    // The rest by another run: the files of the one before are replayed and stay.
    let store = original.open();
    fill(&store, commits - commits / 2);
    let lengths = lengths(&store);
    store.shutdown();
    copy(original.path(), crashed.path());
    (crashed, lengths)
}

fn lengths(store: &RocksStore) -> Vec<u64> {
    let next = |group| store.bounds(GroupId(group)).next_index().unwrap_or(0);
    (0..GROUPS).map(next).collect()
}

#[test]
fn every_harm_to_every_file_of_the_log_is_noticed_or_does_none() {
    let (mut noticed, mut tried) = (0, 0);
    for commits in [40, 400, 1100] {
        let (original, lengths) = crashed(commits);
        let count = wals(original.path()).len();
        assert!(count >= 2, "{count} files");
        assert_eq!(look_at_copy(&original, &lengths, |_| ()), Found::Whole);
        for number in 0..count {
            for harm in HARMS {
                let found = look_at_copy(&original, &lengths, |copied| {
                    let (path, length) = wals(copied)[number].clone();
                    harm.to(&path, length, length / 2);
                });
                tried += 1;
                noticed += u32::from(found != Found::Whole);
            }
        }
    }
    println!("{noticed} of {tried} harms were noticed, the others did none");
    assert!(
        noticed * 3 > tried,
        "{noticed} of {tried}: the files have nothing to lose"
    );
}

fn look_at_copy(original: &Directory, lengths: &[u64], harm: impl FnOnce(&Path)) -> Found {
    let copied = Directory::new();
    copy(original.path(), copied.path());
    harm(copied.path());
    look(copied.path(), lengths)
}

#[test]
fn random_harm_to_one_file_is_noticed_or_does_none() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let stores: Vec<_> = [60, 300, 700, 1500].into_iter().map(crashed).collect();
    let mut noticed = 0;
    for _ in 0..RANDOM_DAMAGES {
        let (original, lengths) = &stores[next() as usize % stores.len()];
        let harm = HARMS[next() as usize % HARMS.len()];
        let (chosen, at) = (next(), next());
        let found = look_at_copy(original, lengths, |copied| {
            let wals = wals(copied);
            let (path, length) = &wals[chosen as usize % wals.len()];
            harm.to(path, *length, at);
        });
        noticed += u32::from(found != Found::Whole);
    }
    println!("{noticed} of {RANDOM_DAMAGES} harms were noticed, the others did none");
}

#[test]
fn a_file_of_the_middle_that_is_gone_is_a_hole_until_it_is_confirmed() {
    let (harmed, _) = crashed(40);
    // The first run's file is needed, and is not the last.
    let (first, _) = wals(harmed.path()).into_iter().find(|(_, length)| *length > 0).unwrap();
    std::fs::remove_file(first).unwrap();
    let (store, recovery) = harmed.open_recovered();
    let lost = recovery.lost_tail.unwrap();
    assert_eq!(lost.cause, LostTailCause::Hole);
    assert_eq!(
        (lost.recovered.sequence, lost.marked.sequence),
        (0, 20),
        "the first run's commits"
    );
    store.confirm_tail().unwrap();
    drop(store);
    // What was given up is not asked for again; what comes now is.
    let (store, recovery) = harmed.open_recovered();
    assert_eq!(recovery.lost_tail, None);
    let group = GroupId(GROUPS);
    store.open_group(group).unwrap();
    for _ in 0..20 {
        append(&store, group);
    }
    store.shutdown();
    let copied = Directory::new();
    copy(harmed.path(), copied.path());
    assert_eq!(copied.open_recovered().1.lost_tail, None);
    let (last, _) = wals(harmed.path())
        .into_iter()
        .rfind(|(_, length)| *length > 0)
        .unwrap();
    let copied = Directory::new();
    copy(harmed.path(), copied.path());
    std::fs::remove_file(copied.path().join(last.strip_prefix(harmed.path()).unwrap())).unwrap();
    assert_eq!(
        copied.open_recovered().1.lost_tail.map(|lost| lost.cause),
        Some(LostTailCause::Behind)
    );
}

/// A power failure keeps or loses what was not synced block by block and file by file, in no order.
#[test]
fn what_a_power_failure_left_behind_a_gap_above_the_mark_is_left_out_and_never_doubted() {
    let original = Directory::new();
    // Nothing is flushed, not for lack of room and not to find what was purged: RocksDB syncs the log before that.
    let open = || {
        let roomy = StoreOptions {
            memtable_bytes: 16 << 20,
            memtables_bytes: 128 << 20,
            wal_bytes: 64 << 20,
            reclaim_interval: Duration::MAX,
            ..small_options(original.path())
        };
        open_with(roomy).0
    };
    let store = open();
    fill(&store, 20);
    let acknowledged = lengths(&store);
    drop(store);
    // Nothing that comes now will have been synced.
    let synced = wals(original.path());
    let mark = std::fs::read(original.path().join("commit-mark")).unwrap();
    for _ in 0..3 {
        fill(&open(), 40);
    }
    std::fs::write(original.path().join("commit-mark"), mark).unwrap();
    let (mut tried, mut left_out) = (0, 0);
    for (number, (file, length)) in wals(original.path()).iter().enumerate() {
        if synced.iter().any(|(known, _)| known == file) {
            continue;
        }
        for harm in HARMS {
            for part in [1, 2] {
                let copied = Directory::new();
                copy(original.path(), copied.path());
                harm.to(&wals(copied.path())[number].0, *length, length * part / 3);
                assert_eq!(
                    look(copied.path(), &acknowledged),
                    Found::Whole,
                    "{number} {harm:?} {part}"
                );
                let (store, _) = open_small(copied.path());
                open_groups(&store);
                tried += 1;
                left_out += u32::from(lengths(&store).iter().sum::<u64>() < 140);
                // What was left out is not there again after the numbers of its commits were given to others.
                fill(&store, 5);
                let longer = lengths(&store);
                store.shutdown();
                let again = Directory::new();
                copy(copied.path(), again.path());
                drop(store);
                assert_eq!(
                    look(again.path(), &longer),
                    Found::Whole,
                    "{number} {harm:?} {part}, later"
                );
            }
        }
    }
    println!("{left_out} of {tried} times something was left out");
    assert!(left_out * 2 > tried, "{left_out} of {tried}");
}

#[test]
fn a_database_whose_catalogue_is_gone_is_noticed() {
    for file in ["CURRENT", "MANIFEST"] {
        let (harmed, lengths) = crashed(100);
        for (path, _) in files(&harmed.path().join("rocksdb")) {
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(file))
            {
                std::fs::remove_file(path).unwrap();
            }
        }
        assert_ne!(look(harmed.path(), &lengths), Found::Whole, "{file}");
    }
}

/// Cut where a flush was written down, the catalogue wants files of the log that are gone by rights.
#[test]
fn a_cut_catalogue_is_noticed_or_does_no_harm() {
    let (original, lengths) = crashed(1100);
    let manifest = |directory: &Path| {
        let found = files(&directory.join("rocksdb"));
        let mut found = found.into_iter().filter(|(path, _)| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST"))
        });
        found.next().unwrap()
    };
    for eighth in 0..8 {
        look_at_copy(&original, &lengths, |copied| {
            let (path, length) = manifest(copied);
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(length * eighth / 8).unwrap();
        });
    }
}

/// As a build before this one left it: nothing says after which commit there are no gaps.
#[test]
fn a_store_of_an_earlier_build_is_not_doubted() {
    let (old, lengths) = crashed(400);
    let mark = OpenOptions::new()
        .write(true)
        .open(old.path().join("commit-mark"))
        .unwrap();
    mark.write_all_at(&[0; 4096], 8192).unwrap();
    assert_eq!(look(old.path(), &lengths), Found::Whole);
    // From now on it is.
    let (store, _) = open_small(old.path());
    fill(&store, 30);
    store.shutdown();
    let copied = Directory::new();
    copy(old.path(), copied.path());
    for (wal, _) in wals(copied.path()) {
        std::fs::remove_file(wal).unwrap();
    }
    assert!(copied.open_recovered().1.lost_tail.is_some());
}

#[test]
fn an_unharmed_store_is_never_doubted() {
    let disk = Directory::new();
    let mut lengths = vec![0; GROUPS as usize];
    for run in 0..25 {
        let store = disk.open();
        fill(&store, 10 + run * 17 % 90);
        for (group, length) in lengths.iter_mut().enumerate() {
            *length = store.bounds(GroupId(group as u64)).next_index().unwrap_or(0);
        }
        // A crash at this moment, while memtables are flushed and files of the log go.
        let copied = Directory::new();
        store.shutdown();
        copy(disk.path(), copied.path());
        drop(store);
        assert_eq!(look(copied.path(), &lengths), Found::Whole, "run {run}");
    }
}
