//! Many threads at once: order, completions, shutdown.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use jangada_storage::conformance::{Disk, entries, entry, write_synced};
use jangada_storage::{Durability, LogPosition, Op, RocksStore, StateKind, Store, StoreError};
use jangada_types::GroupId;

use crate::directory::Directory;

const THREADS: u64 = 8;
const WRITES: u64 = 500;

fn durability(number: u64) -> Durability {
    if number.is_multiple_of(5) {
        Durability::Synced
    } else {
        Durability::Lazy
    }
}

#[test]
fn every_thread_is_answered_once_per_write_and_in_its_order() {
    let disk = Directory::new();
    let store = disk.open();
    let answers = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, answers) = (&store, &answers);
            scope.spawn(move || {
                let group = GroupId(thread);
                store.open_group(group).unwrap();
                let (sender, receiver) = mpsc::sync_channel(WRITES as usize);
                for number in 0..WRITES {
                    let sender = sender.clone();
                    let done = Box::new(move |result: Result<(), StoreError>| {
                        result.unwrap();
                        sender.send(number).unwrap();
                    });
                    store.write(
                        group,
                        vec![Op::Append(vec![entry(number, 1)])],
                        durability(number),
                        Some(done),
                    );
                }
                drop(sender);
                let order: Vec<u64> = receiver.into_iter().collect();
                assert_eq!(order, (0..WRITES).collect::<Vec<_>>());
                answers.fetch_add(order.len(), Relaxed);
            });
        }
    });
    assert_eq!(answers.load(Relaxed) as u64, THREADS * WRITES);
    let statistics = store.statistics();
    assert_eq!(statistics.writes, THREADS * WRITES);
    assert!(
        statistics.syncs < statistics.writes,
        "writes of many threads share a sync"
    );
    assert_eq!(statistics.queue_bytes, 0);
    drop(store);
    let store = disk.open();
    for thread in 0..THREADS {
        store.open_group(GroupId(thread)).unwrap();
        assert_eq!(
            store.read_log(GroupId(thread), 0..WRITES, usize::MAX).unwrap(),
            entries(0..WRITES, 1)
        );
    }
}

#[test]
fn the_last_write_in_the_order_of_completions_is_what_stays() {
    let disk = Directory::new();
    let store = disk.open();
    let group = GroupId(1);
    store.open_group(group).unwrap();
    let completed = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, completed) = (&store, &completed);
            scope.spawn(move || {
                for number in 0..WRITES {
                    let value = Bytes::from(format!("{thread} {number}"));
                    let (completed, kept) = (completed.clone(), value.clone());
                    let done = Box::new(move |result: Result<(), StoreError>| {
                        result.unwrap();
                        completed.lock().unwrap().push(kept);
                    });
                    let put = Op::PutState {
                        kind: StateKind::GROUP,
                        suffix: None,
                        value,
                    };
                    store.write(group, vec![put], durability(number), Some(done));
                }
            });
        }
    });
    let before_written = store.get_state(group, StateKind::GROUP, None).unwrap();
    write_synced(&store, group, Vec::new()).unwrap();
    let last = completed.lock().unwrap().last().cloned();
    assert_eq!(completed.lock().unwrap().len() as u64, THREADS * WRITES);
    assert_eq!(before_written, last);
    drop(store);
    let store = disk.open();
    store.open_group(group).unwrap();
    assert_eq!(store.get_state(group, StateKind::GROUP, None).unwrap(), last);
}

#[test]
fn readers_never_see_two_histories_joined() {
    let disk = Directory::new();
    let store = disk.open();
    let group = GroupId(1);
    store.open_group(group).unwrap();
    let large = |index, term| {
        let mut entry = entry(index, term);
        entry.body = Bytes::from(vec![term as u8; 30_000]);
        entry
    };
    let finished = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each history replaces the upper half of the one before, far more than the tails may hold.
            for term in 1..=20_u64 {
                let next = store.bounds(group).next_index().unwrap_or(0);
                let fresh = (next..next + 60).map(|index| large(index, term)).collect();
                write_synced(&store, group, vec![Op::Append(fresh)]).unwrap();
                let ops = vec![
                    Op::TruncateAfter(Some(LogPosition { term, index: next + 30 })),
                    Op::Purge {
                        upto: next + 5,
                        upto_term: term,
                    },
                ];
                store.write(group, ops, Durability::Lazy, None);
            }
            finished.store(1, Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while finished.load(Relaxed) == 0 {
                    let first = store.bounds(group).first_index();
                    let found = store.read_log(group, first..u64::MAX, 3 << 20).unwrap();
                    for pair in found.windows(2) {
                        assert_eq!(pair[0].index + 1, pair[1].index);
                        assert!(pair[0].term <= pair[1].term);
                    }
                    for entry in &found {
                        assert_eq!(entry.body[0], entry.term as u8);
                    }
                }
            });
        }
    });
}

#[test]
fn shutdown_writes_what_is_queued_and_refuses_the_rest() {
    let disk = Directory::new();
    let store: RocksStore = disk.open();
    let group = GroupId(1);
    store.open_group(group).unwrap();
    let (sender, receiver) = mpsc::sync_channel(WRITES as usize);
    for number in 0..100 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<(), StoreError>| sender.send(result.is_ok()).unwrap());
        store.write(
            group,
            vec![Op::Append(vec![entry(number, 1)])],
            durability(number),
            Some(done),
        );
    }
    store.shutdown();
    drop(sender);
    assert_eq!(receiver.iter().filter(|ok| *ok).count(), 100);
    assert!(matches!(
        write_synced(&store, group, Vec::new()),
        Err(StoreError::ShuttingDown)
    ));
    assert_eq!(store.read_log(group, 0..100, usize::MAX).unwrap().len(), 100);
    drop(store);
    let store = disk.open();
    store.open_group(group).unwrap();
    assert_eq!(store.bounds(group).next_index(), Some(100));
}
