//! A WAL that lost its tail is noticed, however it was lost, although RocksDB opens without complaint.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jangada_storage::conformance::{Disk, entries, write_synced};
use jangada_storage::{LogEntry, LostTailCause, Op, Past, RocksStore, Store};
use jangada_types::GroupId;

use crate::directory::{Directory, copy, files, open_small};

const GROUP: GroupId = GroupId(1);

/// The newest WAL: the one with the highest number that has anything in it.
fn newest_wal(directory: &Path) -> (PathBuf, u64) {
    let mut wals: Vec<_> = files(&directory.join("rocksdb"))
        .into_iter()
        .filter(|(file, length)| file.extension().is_some_and(|extension| extension == "log") && *length > 0)
        .collect();
    wals.sort();
    wals.pop().unwrap()
}

fn append(store: &RocksStore, count: u64) {
    for _ in 0..count {
        let next = store.bounds(GROUP).next_index().unwrap_or(0);
        write_synced(store, GROUP, vec![Op::Append(entries(next..next + 1, 1))]).unwrap();
    }
}

/// What an idle store leaves when its process dies, with damage done to it.
fn after_crash(damage: impl FnOnce(&Path)) -> Directory {
    let original = Directory::new();
    let crashed = Directory::new();
    let store = original.open();
    store.open_group(GROUP).unwrap();
    append(&store, 30);
    // Everything is durable and marked, but RocksDB has flushed nothing and is not closed.
    store.shutdown();
    copy(original.path(), crashed.path());
    damage(crashed.path());
    crashed
}

fn cause(crashed: &Directory) -> Option<LostTailCause> {
    crashed.open_recovered().1.lost_tail.map(|lost| lost.cause)
}

#[test]
fn a_plain_crash_is_no_lost_tail() {
    let crashed = after_crash(|_| ());
    assert_eq!(cause(&crashed), None);
    let store = crashed.open();
    assert_eq!(store.open_group(GROUP).unwrap().next_index(), Some(30));
}

#[test]
fn a_wal_cut_on_a_record_boundary_is_noticed() {
    let original = Directory::new();
    let crashed = Directory::new();
    let store = original.open();
    store.open_group(GROUP).unwrap();
    append(&store, 20);
    let (_, boundary) = newest_wal(original.path());
    append(&store, 10);
    store.shutdown();
    copy(original.path(), crashed.path());
    let (wal, length) = newest_wal(crashed.path());
    assert!(boundary < length);
    OpenOptions::new()
        .write(true)
        .open(wal)
        .unwrap()
        .set_len(boundary)
        .unwrap();
    assert_eq!(cause(&crashed), Some(LostTailCause::Behind));
}

#[test]
fn a_deleted_wal_is_noticed() {
    let crashed = after_crash(|directory| std::fs::remove_file(newest_wal(directory).0).unwrap());
    assert_eq!(cause(&crashed), Some(LostTailCause::Behind));
}

#[test]
fn a_flipped_bit_in_the_middle_of_the_wal_is_noticed() {
    let crashed = after_crash(|directory| flip(&newest_wal(directory)));
    assert_eq!(cause(&crashed), Some(LostTailCause::Behind));
}

fn flip((file, length): &(PathBuf, u64)) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], length / 2).unwrap();
}

#[test]
fn a_flipped_bit_in_a_recycled_wal_is_noticed() {
    let original = Directory::new();
    let crashed = Directory::new();
    let store = original.open();
    store.open_group(GROUP).unwrap();
    // Several memtables' worth, so that the newest WAL is an old file written over.
    let body = Bytes::from(vec![7; 50_000]);
    for index in 0..200 {
        let entry = LogEntry {
            index,
            term: 1,
            head: Bytes::new(),
            body: body.clone(),
        };
        write_synced(&store, GROUP, vec![Op::Append(vec![entry])]).unwrap();
    }
    store.shutdown();
    copy(original.path(), crashed.path());
    let log = std::fs::read_to_string(crashed.path().join("rocksdb/LOG")).unwrap();
    assert!(log.contains("from recycle list"), "a WAL was recycled");
    // The commits of this WAL stand at its beginning; what comes after them is from its former life.
    let (wal, _) = newest_wal(crashed.path());
    let file = OpenOptions::new().read(true).write(true).open(wal).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1000).unwrap();
    assert_eq!(cause(&crashed), Some(LostTailCause::Behind));
}

#[test]
fn a_deleted_database_is_noticed() {
    let crashed = after_crash(|directory| std::fs::remove_dir_all(directory.join("rocksdb")).unwrap());
    assert_eq!(cause(&crashed), Some(LostTailCause::Behind));
}

#[test]
fn a_missing_or_damaged_mark_is_noticed() {
    let crashed = after_crash(|directory| std::fs::remove_file(directory.join("commit-mark")).unwrap());
    assert_eq!(cause(&crashed), Some(LostTailCause::MarkMissing));
    let crashed = after_crash(|directory| std::fs::write(directory.join("commit-mark"), b"junk").unwrap());
    assert_eq!(cause(&crashed), Some(LostTailCause::MarkDamaged));
}

#[test]
fn another_history_of_the_same_length_is_noticed() {
    let other = Directory::new();
    let store = other.open();
    store.open_group(GROUP).unwrap();
    append(&store, 29);
    write_synced(&store, GROUP, vec![Op::Append(entries(29..30, 2))]).unwrap();
    drop(store);
    let crashed = after_crash(|directory| {
        std::fs::copy(other.path().join("commit-mark"), directory.join("commit-mark")).unwrap();
    });
    assert_eq!(cause(&crashed), Some(LostTailCause::Diverged));
}

#[test]
fn the_doubt_stays_until_the_tail_is_confirmed() {
    let crashed = after_crash(|directory| std::fs::remove_file(newest_wal(directory).0).unwrap());
    let (store, recovery) = crashed.open_recovered();
    store.open_group(GROUP).unwrap();
    // More commits than were lost: the database is past its old mark then.
    append(&store, 100);
    drop(store);
    let (store, still) = crashed.open_recovered();
    assert_eq!(still, recovery);
    store.confirm_tail().unwrap();
    drop(store);
    let (store, confirmed) = open_small(crashed.path());
    assert_eq!(confirmed.lost_tail, None);
    assert_eq!(store.open_group(GROUP).unwrap().next_index(), Some(100));
}

#[test]
fn a_tail_that_was_confirmed_before_anything_was_written_stays_confirmed() {
    let crashed = after_crash(|directory| std::fs::remove_file(newest_wal(directory).0).unwrap());
    let (store, recovery) = crashed.open_recovered();
    assert!(recovery.lost_tail.is_some());
    store.confirm_tail().unwrap();
    drop(store);
    assert_eq!(cause(&crashed), None);
}

#[test]
fn a_store_that_peers_know_to_be_put_back_stays_in_doubt_until_it_is_confirmed() {
    let directory = Directory::new();
    let store = directory.open();
    store.open_group(GROUP).unwrap();
    let first = store.begin_start(7).unwrap();
    append(&store, 3);
    let told = store.durable_commit();
    assert!(told > first.list[0].after);
    let lost = store.keep_put_back(told + 40, told).unwrap();
    drop(store);
    for _ in 0..2 {
        let (store, recovery) = directory.open_recovered();
        assert_eq!(recovery.lost_tail, Some(lost));
        drop(store);
    }
    let (store, _) = directory.open_recovered();
    store.confirm_tail().unwrap();
    drop(store);
    let store = directory.open();
    let starts = store.begin_start(8).unwrap();
    assert_eq!(starts.accepted_loss, told + 40);
    assert!(starts.list[1].after > told + 40, "no number is given twice: {starts:?}");
    assert_eq!(starts.past(9, told + 40, store.durable_commit()), Past::There);
    assert_eq!(starts.past(9, told + 41, store.durable_commit()), Past::Unknown);
}

#[test]
fn only_what_is_marked_and_no_note_of_the_nodes_own_is_told() {
    let directory = Directory::new();
    let store = directory.open();
    store.open_group(GROUP).unwrap();
    append(&store, 5);
    // The mark of a commit is under way while it is acknowledged; the next commit waits for it.
    append(&store, 1);
    let told = store.durable_commit();
    assert!(told >= 5, "{told}");
    store.begin_start(7).unwrap();
    store.begin_start(8).unwrap();
    store.begin_start(9).unwrap();
    let (settled, bound) = (store.durable_commit(), 6);
    assert_eq!(settled, bound, "notes of starts are left out");
}
