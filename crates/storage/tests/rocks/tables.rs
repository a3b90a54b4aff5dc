//! Stores that are opened with other tables than before.

use jangada_storage::conformance::rows::{NAMED, NUMBERED, PLAIN, TABLES, all, numbered_rows, put_all};
use jangada_storage::conformance::write_synced;
use jangada_storage::{Recovery, RocksStore, Store, StoreError, StoreOptions};
use jangada_types::{GroupId, Table};

use crate::directory::{Directory, open_with, small_options};

const GROUP: GroupId = GroupId(1);

fn with(disk: &Directory, tables: &[&'static Table]) -> StoreOptions {
    StoreOptions {
        tables: tables.to_vec(),
        ..small_options(disk.path())
    }
}

fn open(disk: &Directory, tables: &[&'static Table]) -> RocksStore {
    let (store, Recovery { lost_tail }) = open_with(with(disk, tables));
    assert_eq!(lost_tail, None, "nothing is missing");
    store.open_group(GROUP).expect("it opens");
    store
}

/// Rows of the first hundreds, a hundred for each of these rounds.
fn put_round(store: &RocksStore, tables: &[&'static Table], round: u64) {
    for number in round * 100..(round + 1) * 100 {
        let rows = numbered_rows(number..number + 1);
        let ops = tables.iter().flat_map(|table| put_all(table, &rows)).collect();
        write_synced(store, GROUP, ops).expect("it is written");
    }
}

#[test]
fn a_table_that_a_later_build_declares_is_empty_at_first_and_takes_nothing_from_the_others() {
    let disk = Directory::new();
    put_round(&open(&disk, &[&NUMBERED]), &[&NUMBERED], 0);
    let store = open(&disk, &[&NUMBERED]);
    put_round(&store, &[&NUMBERED], 1);
    drop(store);
    let store = open(&disk, &TABLES);
    assert_eq!(all(&store, GROUP, &NUMBERED), numbered_rows(0..200));
    assert!(all(&store, GROUP, &PLAIN).is_empty() && all(&store, GROUP, &NAMED).is_empty());
    put_round(&store, &TABLES, 2);
    drop(store);
    for _ in 0..2 {
        let store = open(&disk, &TABLES);
        assert_eq!(all(&store, GROUP, &NUMBERED), numbered_rows(0..300));
        assert_eq!(all(&store, GROUP, &PLAIN), numbered_rows(200..300));
    }
}

#[test]
fn a_store_with_a_table_that_is_not_declared_is_not_opened() {
    let disk = Directory::new();
    drop(open(&disk, &TABLES));
    let opened = RocksStore::open(with(&disk, &[&NUMBERED]), Box::new(|_| ()));
    match opened.err() {
        Some(StoreError::LaterVersion(text)) => assert!(text.contains("plain") && text.contains("named"), "{text}"),
        other => panic!("{other:?}"),
    }
    drop(open(&disk, &TABLES));
}
