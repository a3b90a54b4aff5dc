//! The conformance scenarios in memory, and what only this store can show: what a crash loses, and disks that fail.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jangada_types::GroupId;

use super::{MemoryDisk, MemoryStore, WriteMoment};
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

#[test]
fn a_crash_may_keep_the_first_of_the_writes_that_are_not_synced() {
    for kept in 0..=3_usize {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        assert!(written(&store, append(0, 2), Durability::Synced).try_recv().is_ok());
        store.hold_syncs();
        let held = written(&store, append(2, 4), Durability::Synced);
        drop(written(&store, append(4, 6), Durability::Lazy));
        drop(written(&store, append(6, 8), Durability::Synced));
        let choose = |count: usize| {
            assert_eq!(count, 3);
            kept
        };
        assert_eq!(disk.crash_keeping(choose), kept);
        assert!(held.try_recv().is_err(), "nobody was told");
        drop(store);
        assert_eq!(last_index(&open(&disk)), Some(1 + 2 * kept as u64));
    }
}

#[test]
fn a_sync_that_takes_time_covers_what_was_written_before_it_began() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let waits = Arc::new(Mutex::new(0));
    let counted = waits.clone();
    store.pace_syncs(Arc::new(move || *counted.lock().unwrap() += 1));
    let first = written(&store, append(0, 2), Durability::Synced);
    let upto = store.waits_for_sync().expect("somebody waits");
    let second = written(&store, append(2, 3), Durability::Synced);
    assert_eq!(*waits.lock().unwrap(), 2);
    store.sync_upto(upto);
    assert!(matches!(first.try_recv(), Ok(Ok(()))));
    assert!(second.try_recv().is_err(), "it came later");
    let told = store.durable_commit();
    store.hurry();
    assert!(matches!(second.try_recv(), Ok(Ok(()))));
    assert!(store.durable_commit() > told);
    assert_eq!(store.waits_for_sync(), None);
    assert_eq!(
        store.begin_start(7).unwrap().list.len(),
        1,
        "it does not wait for anybody"
    );
    let _unanswered = written(&store, append(3, 4), Durability::Synced);
    disk.crash();
    drop(store);
    assert_eq!(last_index(&open(&disk)), Some(2));
}

#[test]
fn a_store_is_cut_off_just_before_a_write_or_after_it() {
    for (moment, last) in [(WriteMoment::Before, 1), (WriteMoment::Synced, 2)] {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        let cut = disk.clone();
        disk.at_write(2, moment, Arc::new(move || cut.crash()));
        for index in 0..2 {
            assert!(matches!(write_synced(&store, GROUP, append(index, index + 1)), Ok(())) == (index == 0));
        }
        assert_eq!(last_index(&store), Some(1), "it goes on with what it has");
        drop(store);
        assert_eq!(last_index(&open(&disk)), Some(last - 1), "{moment:?}");
    }
}

#[test]
fn rot_is_told_by_reads_until_something_else_is_written() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let state = |value: &'static str| Op::PutState {
        kind: StateKind::VOTE,
        suffix: None,
        value: Bytes::from_static(value.as_bytes()),
    };
    write_synced(&store, GROUP, vec![state("one")]).unwrap();
    let read = || store.get_state(GROUP, StateKind::VOTE, None);
    assert!(read().is_ok());
    assert!(disk.rot(|count| count - 1).is_some());
    assert!(matches!(read(), Err(StoreError::Damaged { group: GROUP, .. })));
    assert!(store.damage().of(GROUP).is_some());
    write_synced(&store, GROUP, vec![state("another")]).unwrap();
    assert_eq!(read().unwrap().as_deref(), Some(&b"another"[..]));
    // What is in memory is read from there; the next run reads it from the disk.
    write_synced(&store, GROUP, append(0, 3)).unwrap();
    assert!(disk.rot(|_| 1).is_some());
    assert_eq!(store.read_log(GROUP, 0..3, usize::MAX).unwrap().len(), 3);
    drop(store);
    let store = open(&disk);
    assert_eq!(store.read_log(GROUP, 0..1, usize::MAX).unwrap().len(), 1);
    assert!(store.read_log(GROUP, 0..3, usize::MAX).is_err());
    write_synced(&store, GROUP, vec![Op::DeleteGroup]).unwrap();
    assert!(disk.rot(|_| 0).is_none(), "nothing is left");
}

#[test]
fn an_earlier_state_is_put_back() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write_synced(&store, GROUP, append(0, 3)).unwrap();
    let early = disk.image();
    write_synced(&store, GROUP, append(3, 9)).unwrap();
    disk.restore(&early);
    assert!(write_synced(&store, GROUP, append(9, 10)).is_err(), "it is cut off");
    assert_eq!(last_index(&open(&disk)), Some(2));
    disk.wipe();
    assert!(!disk.was_used());
    assert_eq!(last_index(&open(&disk)), None);
}
