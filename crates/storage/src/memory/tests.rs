//! The conformance scenarios in memory, and what only this store can show: what a crash loses, and disks that fail.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jangada_types::GroupId;

use super::{MemoryDisk, MemoryStore};
use crate::conformance::rows::TABLES;
use crate::conformance::{Disk, check_all, entries, write_synced};
use crate::error::StoreError;
use crate::store::{Durability, Op, StateKind, Store, StoreCondition};

const GROUP: GroupId = GroupId(1);

impl Disk for MemoryDisk {
    type Store = MemoryStore;

    fn open(&self) -> MemoryStore {
        MemoryStore::open(self, &TABLES, Box::new(|cause| panic!("fenced: {cause}"))).expect("the one before is gone")
    }
}

#[test]
fn memory_store_conforms() {
    check_all(MemoryDisk::new);
}

/// Opens the store and the group.
fn open(disk: &MemoryDisk) -> MemoryStore {
    let store = disk.open();
    store.open_group(GROUP).expect("opens");
    store
}

fn append(from: u64, to: u64) -> Vec<Op> {
    vec![Op::Append(entries(from..to, 1))]
}

/// Writes, and tells how it ends.
fn written(store: &MemoryStore, ops: Vec<Op>, durability: Durability) -> Receiver<Result<(), StoreError>> {
    let (sender, ended) = channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    store.write(GROUP, ops, durability, Some(done));
    ended
}

fn last_index(store: &MemoryStore) -> Option<u64> {
    store.bounds(GROUP).last.map(|last| last.index)
}

#[test]
fn a_crash_loses_lazy_writes_after_the_last_synced_one_and_nothing_else() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    assert!(written(&store, append(0, 3), Durability::Lazy).try_recv().is_ok());
    assert!(written(&store, append(3, 5), Durability::Synced).try_recv().is_ok());
    assert!(written(&store, append(5, 9), Durability::Lazy).try_recv().is_ok());
    assert_eq!(last_index(&store), Some(8));
    disk.crash();
    let after = open(&disk);
    assert_eq!(last_index(&after), Some(4));
    assert_eq!(after.read_log(GROUP, 0..9, usize::MAX).unwrap(), entries(0..5, 1));
    // The process that was cut off cannot reach the disk any more, nor does its end.
    let late = written(&store, append(9, 10), Durability::Synced).try_recv().unwrap();
    assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    assert_eq!(last_index(&store), Some(9), "it reads what it had");
    drop(store);
    assert_eq!(last_index(&after), Some(4));
    assert!(matches!(
        MemoryStore::open(&disk, &TABLES, Box::new(|_| ())),
        Err(StoreError::InUse(_))
    ));
}

#[test]
fn an_orderly_end_loses_nothing() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    drop(written(&store, append(0, 3), Durability::Lazy));
    store.shutdown();
    let refused = written(&store, append(3, 4), Durability::Lazy).try_recv().unwrap();
    assert!(matches!(refused, Err(StoreError::ShuttingDown)), "{refused:?}");
    assert_eq!(last_index(&open(&disk)), Some(2));
}

#[test]
fn a_write_whose_sync_is_held_is_visible_and_unanswered_and_lost_at_a_crash() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    store.hold_syncs();
    let first = written(&store, append(0, 2), Durability::Synced);
    let second = written(&store, append(2, 3), Durability::Lazy);
    assert_eq!(last_index(&store), Some(2));
    assert!(store.queue_bytes() > 0);
    assert!(
        first.try_recv().is_err() && second.try_recv().is_err(),
        "answers keep their order"
    );
    store.release_syncs();
    assert!(matches!(
        (first.try_recv(), second.try_recv()),
        (Ok(Ok(())), Ok(Ok(())))
    ));
    assert_eq!(store.queue_bytes(), 0);
    store.hold_syncs();
    let lost = written(&store, append(3, 4), Durability::Synced);
    disk.crash();
    drop(store);
    assert!(matches!(lost.try_recv(), Ok(Err(StoreError::Fenced(_)))));
    assert_eq!(last_index(&open(&disk)), Some(2));
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_disk_is_opened_again() {
    let disk = MemoryDisk::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let on_fence = Box::new(move |cause: &str| heard.lock().unwrap().push(cause.to_owned()));
    let store = MemoryStore::open(&disk, &TABLES, on_fence).unwrap();
    store.open_group(GROUP).unwrap();
    write_synced(&store, GROUP, append(0, 2)).unwrap();
    let durable = store.durable_commit();
    disk.set_failure(Some("Input/output error"));
    drop(written(&store, append(2, 3), Durability::Lazy));
    let failed = write_synced(&store, GROUP, append(3, 4));
    assert!(matches!(failed, Err(StoreError::Fenced(_))), "{failed:?}");
    disk.set_failure(None);
    for durability in [Durability::Lazy, Durability::Synced] {
        let next = store.bounds(GROUP).next_index().unwrap();
        let after = written(&store, append(next, next + 1), durability).try_recv().unwrap();
        assert!(matches!(after, Err(StoreError::Fenced(_))), "{durability:?}: {after:?}");
    }
    assert_eq!(*told.lock().unwrap(), ["Input/output error"]);
    assert!(matches!(store.condition(), StoreCondition::Fenced(_)));
    assert_eq!(store.durable_commit(), durable);
    drop(store);
    assert_eq!(last_index(&open(&disk)), Some(1));
}

#[test]
fn a_completion_may_write() {
    let store = Arc::new(open(&MemoryDisk::new()));
    let order = Arc::new(Mutex::new(Vec::new()));
    let (writer, noted) = (store.clone(), order.clone());
    let outer = Box::new(move |_| {
        let inner = noted.clone();
        let done = Box::new(move |_| inner.lock().unwrap().push("inner"));
        writer.write(GROUP, append(1, 2), Durability::Synced, Some(done));
        noted.lock().unwrap().push("outer");
    });
    store.write(GROUP, append(0, 1), Durability::Synced, Some(outer));
    assert_eq!(*order.lock().unwrap(), ["outer", "inner"]);
}

#[test]
fn entries_of_an_earlier_run_are_read_as_from_a_disk() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write_synced(&store, GROUP, append(0, 4)).unwrap();
    assert_eq!(store.read_log_cached(GROUP, 1..9, usize::MAX), Some(entries(1..4, 1)));
    drop(store);
    let store = open(&disk);
    write_synced(&store, GROUP, append(4, 6)).unwrap();
    assert_eq!(store.read_log_cached(GROUP, 3..9, usize::MAX), None);
    assert_eq!(store.read_log_cached(GROUP, 4..9, usize::MAX), Some(entries(4..6, 1)));
}

#[test]
fn starts_and_commits_go_on_where_the_last_run_ended() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    assert_eq!(store.begin_start(7).unwrap().list.len(), 1);
    write_synced(&store, GROUP, append(0, 1)).unwrap();
    let told = store.durable_commit();
    assert!(told > 0);
    let note = Op::PutState {
        kind: StateKind::NODE,
        suffix: None,
        value: Bytes::new(),
    };
    write_synced(&store, GroupId::NODE, vec![note]).unwrap();
    assert_eq!(store.durable_commit(), told, "the node's own notes are not told");
    drop(store);
    let starts = open(&disk).begin_start(8).unwrap();
    assert_eq!((starts.list[0].id, starts.list[1].id), (7, 8));
    assert!(starts.list[1].after >= told);
}

#[test]
fn a_scrub_reads_everything_in_pieces() {
    let store = open(&MemoryDisk::new());
    write_synced(&store, GROUP, append(0, 50)).unwrap();
    let (mut cursor, mut bytes, mut pieces) = (Some(Default::default()), 0, 0);
    while let Some(from) = cursor {
        let piece = store.scrub(GROUP, from, 1000).unwrap();
        bytes += piece.bytes;
        pieces += 1;
        cursor = piece.next;
    }
    let payload: usize = entries(0..50, 1).iter().map(|entry| entry.payload_len()).sum();
    assert_eq!(bytes, payload as u64);
    assert!(pieces > 5, "{pieces}");
    assert_eq!(store.statistics().scrubbed_bytes, bytes);
}
