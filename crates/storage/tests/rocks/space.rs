//! Purged entries and deleted groups give their space back while their neighbours stay.

use std::time::Duration;

use bytes::Bytes;
use jangada_storage::conformance::{Disk, write_synced};
use jangada_storage::{Durability, LogEntry, Op, RocksStore, Store, StoreOptions};
use jangada_types::GroupId;

use crate::directory::{Directory, eventually, files, open_with, small_options};

const BODY: usize = 64 << 10;

fn fill(store: &RocksStore, groups: u64, entries: u64) {
    for group in 0..groups {
        store.open_group(GroupId(group)).unwrap();
    }
    for index in 0..entries {
        for group in 0..groups {
            let body = Bytes::from(vec![group as u8; BODY]);
            let entry = LogEntry {
                index,
                term: 1,
                head: Bytes::new(),
                body,
            };
            store.write(GroupId(group), vec![Op::Append(vec![entry])], Durability::Lazy, None);
        }
        if index % 16 == 0 {
            write_synced(store, GroupId(0), Vec::new()).unwrap();
        }
    }
    write_synced(store, GroupId(0), Vec::new()).unwrap();
}

/// Bytes of tables and blobs; WALs are kept for recycling and do not count.
fn data_bytes(disk: &Directory) -> u64 {
    let data = |file: &std::path::Path| file.extension().is_some_and(|end| end == "sst" || end == "blob");
    files(disk.path())
        .iter()
        .filter(|(file, _)| data(file))
        .map(|(_, length)| length)
        .sum()
}

fn assert_whole(store: &RocksStore, group: u64, range: std::ops::Range<u64>) {
    let mut next = range.start;
    while next < range.end {
        let found = store.read_log(GroupId(group), next..range.end, 8 << 20).unwrap();
        for entry in found {
            assert_eq!(entry.index, next);
            assert_eq!((entry.body.len(), entry.body[BODY - 1]), (BODY, group as u8));
            next += 1;
        }
    }
}

#[test]
fn a_purged_log_gives_its_space_back_and_its_neighbour_stays() {
    let disk = Directory::new();
    // A flush writes 4 MiB of each group, so most files of 1 MiB hold one group only.
    let (store, _) = open_with(StoreOptions {
        memtable_bytes: 8 << 20,
        memtables_bytes: 32 << 20,
        wal_bytes: 24 << 20,
        ..small_options(disk.path())
    });
    let entries = 800;
    fill(&store, 2, entries);
    let one_group = entries * BODY as u64;
    eventually("both groups are on disk", || data_bytes(&disk) > one_group * 17 / 10);
    write_synced(
        &store,
        GroupId(0),
        vec![Op::Purge {
            upto: entries - 1,
            upto_term: 1,
        }],
    )
    .unwrap();
    // What the group shared with its neighbour may stay.
    eventually("the purged space is free", || data_bytes(&disk) < one_group * 13 / 10);
    assert_whole(&store, 1, 0..entries);
    drop(store);
    let store = disk.open();
    store.open_group(GroupId(1)).unwrap();
    assert_whole(&store, 1, 0..entries);
}

#[test]
fn deleted_groups_that_share_files_with_others_give_their_space_back() {
    let disk = Directory::new();
    let store = disk.open();
    let (groups, entries) = (32, 100);
    fill(&store, groups, entries);
    let one_group = entries * BODY as u64;
    eventually("all groups are on disk", || {
        data_bytes(&disk) > one_group * groups * 9 / 10
    });
    for group in (0..groups).filter(|group| group % 2 == 0) {
        write_synced(&store, GroupId(group), vec![Op::DeleteGroup]).unwrap();
    }
    // A quarter of the rest may be garbage.
    eventually("most of the deleted space is free", || {
        data_bytes(&disk) < one_group * groups / 2 * 14 / 10
    });
    for group in (0..groups).filter(|group| group % 2 == 1) {
        assert_whole(&store, group, 0..entries);
    }
}

#[test]
fn what_was_purged_right_before_a_restart_gives_its_space_back() {
    let disk = Directory::new();
    let options = || StoreOptions {
        memtable_bytes: 8 << 20,
        memtables_bytes: 32 << 20,
        wal_bytes: 24 << 20,
        reclaim_interval: Duration::from_secs(3600),
        ..small_options(disk.path())
    };
    let (store, _) = open_with(options());
    // Too few flushes for RocksDB to compact by itself.
    let entries = 640;
    fill(&store, 1, entries);
    let one_group = entries * BODY as u64;
    eventually("the group is on disk", || data_bytes(&disk) > one_group * 3 / 4);
    write_synced(
        &store,
        GroupId(0),
        vec![Op::Purge {
            upto: entries - 1,
            upto_term: 1,
        }],
    )
    .unwrap();
    drop(store);
    // A flush that was under way is given up.
    assert!(data_bytes(&disk) > one_group / 3);
    let (_store, _) = open_with(options());
    eventually("the purged space is free", || data_bytes(&disk) < one_group / 5);
}

/// The purge lies in the write-ahead log alone, and so little beside it that replaying it fills no memtable.
#[test]
fn a_purge_that_is_in_no_file_gives_its_space_back_after_a_restart() {
    let disk = Directory::new();
    let options = || StoreOptions {
        memtable_bytes: 8 << 20,
        memtables_bytes: 32 << 20,
        wal_bytes: 24 << 20,
        reclaim_interval: Duration::from_secs(3600),
        ..small_options(disk.path())
    };
    let (store, _) = open_with(options());
    // Too few flushes for RocksDB to compact by itself.
    let entries = 256;
    fill(&store, 1, entries);
    drop(store);
    let one_group = entries * BODY as u64;
    let (store, _) = open_with(options());
    eventually("what was replayed is on disk", || {
        data_bytes(&disk) > one_group * 9 / 10
    });
    store.open_group(GroupId(0)).unwrap();
    write_synced(
        &store,
        GroupId(0),
        vec![Op::Purge {
            upto: entries - 1,
            upto_term: 1,
        }],
    )
    .unwrap();
    drop(store);
    assert!(data_bytes(&disk) > one_group * 9 / 10);
    let (_store, _) = open_with(options());
    eventually("the purged space is free", || data_bytes(&disk) < one_group / 5);
}
