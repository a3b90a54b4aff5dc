//! A damaged block of a table concerns all groups with rows in it, and none that is filled again behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use jangada_types::GroupId;
use jangada_types::table::number_key;
use tempfile::TempDir;

use crate::conformance::rows::{NAMED, NUMBERED, TABLES, numbered, numbered_rows, put, put_all};
use crate::conformance::{entries, write_synced};
use crate::error::StoreError;
use crate::options::StoreOptions;
use crate::places::Place;
use crate::rocks::RocksStore;
use crate::scrub_cursor::ScrubCursor;
use crate::store::{LogBounds, LogPosition, Op, StateKind, Store, first_at_or_after};
use crate::tables::LOG;

const GROUPS: [GroupId; 4] = [GroupId(1), GroupId(2), GroupId(3), GroupId(9)];
/// Entries of each group: so few that all groups share one block of each family.
const ENTRIES: u64 = 40;

fn open(directory: &Path) -> RocksStore {
    let mut options = StoreOptions::new(directory);
    options.blob_bytes_min = 1024 * 1024;
    options.disk_reserve_bytes = 0;
    options.tables = TABLES.to_vec();
    RocksStore::open(options, Box::new(|_| {})).expect("it opens").0
}

fn fill(store: &RocksStore, group: GroupId) {
    store.open_group(group).expect("it opens");
    let vote = Op::PutState {
        kind: StateKind::VOTE,
        suffix: None,
        value: "vote".into(),
    };
    let mut ops = vec![
        Op::Append(entries(0..ENTRIES, 1)),
        put(&NAMED, "key", "offset 5 "),
        vote,
    ];
    ops.extend(put_all(&NUMBERED, &numbered_rows(0..ENTRIES)));
    write_synced(store, group, ops).expect("it is written");
}

fn flush(store: &RocksStore) {
    let database = store.database();
    for family in database.tables().families() {
        database
            .raw()
            .flush_cf(&database.family(family))
            .expect("it is flushed");
    }
}

fn delete(store: &RocksStore, group: GroupId, leave: Vec<Op>) {
    let (sender, receiver) = mpsc::channel();
    store.delete_group(group, leave, Box::new(move |result| drop(sender.send(result))));
    receiver.recv().expect("it is answered").expect("it is deleted");
}

/// Deletes a group and keeps its place for another replica.
fn renew(store: &RocksStore, group: GroupId, owner: &'static str) {
    let owner = Op::PutState {
        kind: StateKind::REPLICA,
        suffix: None,
        value: owner.into(),
    };
    delete(store, group, vec![owner]);
}

/// The tables of these families.
fn tables(store: &RocksStore, families: &[&str]) -> Vec<PathBuf> {
    let folder = store.database().raw().path().to_owned();
    let files = store.database().raw().live_files().expect("they can be listed");
    let of_family = files
        .iter()
        .filter(|file| families.contains(&file.column_family_name.as_str()));
    of_family
        .map(|file| folder.join(file.name.trim_start_matches('/')))
        .collect()
}

/// A bit flips in the first block of each file.
fn flip(files: &[PathBuf]) {
    for path in files {
        let mut bytes = fs::read(path).expect("it can be read");
        bytes[60] ^= 1;
        fs::write(path, bytes).expect("it is ours");
    }
}

/// A store whose groups share one damaged block in each of three families. Later commits lie in sound tables.
fn damaged() -> (TempDir, RocksStore) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    for group in GROUPS {
        fill(&store, group);
    }
    flush(&store);
    let shared = tables(&store, &[LOG, NUMBERED.name, NAMED.name]);
    assert_eq!(shared.len(), 3);
    fill(&store, GroupId(20));
    flush(&store);
    drop(store);
    flip(&shared);
    let store = open(directory.path());
    (directory, store)
}

fn is_damaged<T>(read: &Result<T, StoreError>) -> bool {
    matches!(read, Err(StoreError::Damaged { .. }))
}

fn scrub(store: &RocksStore, group: GroupId) -> Result<(), StoreError> {
    let mut next = Some(ScrubCursor::default());
    while let Some(cursor) = next {
        next = store.scrub(group, cursor, 1024)?.next;
    }
    Ok(())
}

/// Everything that [`fill`] wrote is there, after some of its log went.
fn check_filled(store: &RocksStore, group: GroupId, owner: &'static str) {
    let bounds = store.open_group(group).expect("it opens");
    let at = |index| Some(LogPosition { term: 1, index });
    assert_eq!((bounds.purged, bounds.last), (at(9), at(ENTRIES - 1)), "{group}");
    let read = store.read_log(group, 0..ENTRIES, usize::MAX).expect("it can be read");
    assert_eq!(read, entries(10..ENTRIES, 1));
    assert_eq!(store.term_at(group, ENTRIES - 1).expect("it can be read"), Some(1));
    let found = numbered(store, group, ENTRIES - 1, 5);
    assert_eq!(found, numbered_rows(ENTRIES - 1..ENTRIES));
    let first_from = |number| {
        let found = first_at_or_after(store, group, &NUMBERED, &number_key(number), |key, _| Ok(key.to_vec()));
        found.expect("it can be read")
    };
    assert_eq!(first_from(25), Some(number_key(25).to_vec()));
    assert_eq!(first_from(1000), None);
    let named = |key: &[u8]| store.get_row(group, &NAMED, key).expect("it can be read");
    assert_eq!((named(b"key"), named(b"other")), (Some("offset 5 ".into()), None));
    let state = |kind| store.get_state(group, kind, None).expect("it can be read");
    assert_eq!(
        (state(StateKind::VOTE), state(StateKind::REPLICA)),
        (Some("vote".into()), Some(owner.into()))
    );
    let rows = store.scan_state(group, StateKind::VOTE).expect("it can be read");
    assert_eq!(rows, [(0, "vote".into())]);
    scrub(store, group).expect("it is sound");
}

fn purge(store: &RocksStore, group: GroupId) {
    let upto = Op::Purge { upto: 9, upto_term: 1 };
    write_synced(store, group, vec![upto]).expect("it is written");
}

#[test]
fn the_stores_own_rows_are_sound_though_no_table_would_have_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    store.open_group(GroupId::NODE).expect("it opens");
    fill(&store, GroupId(1));
    flush(&store);
    scrub(&store, GroupId::NODE).expect("nothing is damaged");
    assert_eq!(store.damage().all(), []);
}

#[test]
fn groups_whose_rows_share_a_damaged_block_are_all_filled_again_and_stay_readable() {
    let (directory, store) = damaged();
    // Whoever is read first finds it, and also one whose own rows lie behind it.
    assert!(GROUPS.iter().all(|group| is_damaged(&store.open_group(*group))));
    assert!(store.damaged_file().is_some());
    for group in GROUPS {
        renew(&store, group, "2");
        assert_eq!(
            store.peek_state(group, StateKind::REPLICA).expect("it can be read"),
            Some("2".into())
        );
        assert_eq!(store.open_group(group).expect("nothing is there"), LogBounds::default());
        fill(&store, group);
        purge(&store, group);
    }
    for group in GROUPS {
        check_filled(&store, group, "2");
    }
    drop(store);
    // From the log, and from tables.
    for is_flushed in [false, true] {
        let store = open(directory.path());
        for group in GROUPS {
            check_filled(&store, group, "2");
        }
        if !is_flushed {
            flush(&store);
        }
    }
}

#[test]
fn a_second_damage_is_filled_again_behind_the_first_one() {
    let (directory, store) = damaged();
    for group in GROUPS {
        assert!(is_damaged(&store.open_group(group)));
        renew(&store, group, "2");
        fill(&store, group);
    }
    let before = tables(&store, &[LOG, NUMBERED.name, NAMED.name]);
    flush(&store);
    let mut second = tables(&store, &[LOG, NUMBERED.name, NAMED.name]);
    second.retain(|file| !before.contains(file));
    assert_eq!(second.len(), 3);
    store.open_group(GroupId::NODE).expect("its log is not read");
    let note = Op::PutState {
        kind: StateKind::SCRUB,
        suffix: None,
        value: "later".into(),
    };
    write_synced(&store, GroupId::NODE, vec![note]).expect("it is written");
    flush(&store);
    drop(store);
    flip(&second);
    let store = open(directory.path());
    for group in GROUPS {
        assert!(is_damaged(&store.open_group(group)), "{group}");
        renew(&store, group, "3");
        fill(&store, group);
        purge(&store, group);
    }
    drop(store);
    let store = open(directory.path());
    for group in GROUPS {
        check_filled(&store, group, "3");
    }
}

#[test]
fn a_group_that_was_moved_and_is_deleted_for_good_is_forgotten() {
    let (directory, store) = damaged();
    let (kept, gone) = (GROUPS[0], GROUPS[1]);
    for group in [kept, gone] {
        assert!(is_damaged(&store.open_group(group)));
        renew(&store, group, "2");
        fill(&store, group);
        purge(&store, group);
    }
    delete(&store, gone, Vec::new());
    drop(store);
    let store = open(directory.path());
    check_filled(&store, kept, "2");
    assert_eq!(store.place_of(gone), Place::Group(gone));
}

#[test]
fn without_damage_a_group_keeps_its_place() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, GROUPS[0]);
    renew(&store, GROUPS[0], "2");
    assert_eq!(store.place_of(GROUPS[0]), Place::Group(GROUPS[0]));
}
