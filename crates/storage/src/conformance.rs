//! Scenarios that every [`Store`] must pass, whatever it keeps its data in.
//!
//! A test of an implementation gives a [`Disk`] and calls [`check_all`], or single scenarios. Scenarios panic when the
//! store is wrong. [`rows`] has those of tables.

pub mod rows;

use std::ops::Range;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use jangada_types::{GroupId, RowChange};

use self::rows::{NUMBERED, TABLES, numbered, numbered_row, numbered_rows, put_all};
use crate::error::StoreError;
use crate::store::{Durability, LogBounds, LogEntry, LogPosition, Op, StateKind, Store, next_state};

/// Where a store keeps its data, so that it can be opened again.
pub trait Disk {
    /// The store under test.
    type Store: Store;

    /// Opens the store with [`TABLES`]. The one opened before is gone by then, after an orderly end.
    fn open(&self) -> Self::Store;
}

/// How long a completion may take before it counts as lost.
const TIMEOUT: Duration = Duration::from_secs(30);

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
const C: GroupId = GroupId(3);

/// Runs all scenarios, each on a disk of its own.
pub fn check_all<D: Disk>(new_disk: impl Fn() -> D) {
    let scenarios: [fn(&D); 18] = [
        appended_entries_are_read_back,
        reads_respect_range_and_byte_cap,
        truncation_makes_room_for_another_history,
        truncation_of_everything_leaves_the_purged_position,
        purge_removes_the_start_and_keeps_its_position,
        purge_beyond_the_end_empties_the_log,
        rewritten_entries_keep_their_places_with_their_rows,
        state_rows_are_kept_apart,
        rows::rows_are_found_from_a_key_on,
        rows::rows_have_the_value_that_was_put_last,
        rows::rows_come_and_go_in_each_table,
        rows::rows_are_shown_until_there_are_enough,
        rows::rows_are_cut_off_with_the_log_as_their_table_says,
        rows::a_row_that_cannot_be_read_is_damage_of_its_group,
        a_deleted_group_is_as_new_and_its_neighbours_stay,
        all_groups_with_data_are_listed,
        completions_come_once_and_in_order,
        a_group_that_is_opened_again_sees_what_was_queued,
    ];
    for scenario in scenarios {
        scenario(&new_disk());
    }
}

/// An entry whose head and body tell its index and term.
pub fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        index,
        term,
        head: Bytes::from(format!("head {index}.{term}")),
        body: Bytes::from(format!("body {index}.{term} {}", "x".repeat(100))),
    }
}

/// Consecutive entries of one term.
pub fn entries(range: Range<u64>, term: u64) -> Vec<LogEntry> {
    range.map(|index| entry(index, term)).collect()
}

/// Writes and waits until it is durable.
pub fn write_synced(store: &impl Store, group: GroupId, ops: Vec<Op>) -> Result<(), StoreError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done = Box::new(move |result| {
        let _ = sender.send(result);
    });
    store.write(group, ops, Durability::Synced, Some(done));
    receiver.recv_timeout(TIMEOUT).expect("a completion is called")
}

fn write(store: &impl Store, group: GroupId, ops: Vec<Op>) {
    write_synced(store, group, ops).expect("a healthy store writes");
}

/// Queues a write that is not waited for, so that what follows sees it before it is on disk.
fn queue(store: &impl Store, group: GroupId, ops: Vec<Op>) {
    store.write(group, ops, Durability::Lazy, None);
}

fn at(term: u64, index: u64) -> Option<LogPosition> {
    Some(LogPosition { term, index })
}

fn read_all(store: &impl Store, group: GroupId) -> Vec<LogEntry> {
    store
        .read_log(group, 0..u64::MAX, usize::MAX)
        .expect("the log is readable")
}

/// Checks a condition on a store, then on the store after it was opened again.
fn now_and_after_reopening<D: Disk>(disk: &D, store: D::Store, groups: &[GroupId], check: impl Fn(&D::Store)) {
    check(&store);
    drop(store);
    let store = disk.open();
    for group in groups {
        store.open_group(*group).expect("the group opens again");
    }
    check(&store);
}

/// Appends are visible at once and after reopening.
pub fn appended_entries_are_read_back<D: Disk>(disk: &D) {
    let store = disk.open();
    assert_eq!(store.open_group(A).expect("a new group opens"), LogBounds::default());
    queue(&store, A, vec![Op::Append(entries(0..3, 1))]);
    assert_eq!(
        store.bounds(A),
        LogBounds {
            purged: None,
            last: at(1, 2)
        }
    );
    assert_eq!(store.read_log_cached(A, 0..3, usize::MAX), Some(entries(0..3, 1)));
    write(
        &store,
        A,
        vec![Op::Append(entries(3..5, 2)), Op::Append(entries(5..6, 3))],
    );
    now_and_after_reopening(disk, store, &[A], |store| {
        assert_eq!(
            store.bounds(A),
            LogBounds {
                purged: None,
                last: at(3, 5)
            }
        );
        let expected = [entries(0..3, 1), entries(3..5, 2), entries(5..6, 3)].concat();
        assert_eq!(read_all(store, A), expected);
        for entry in expected {
            assert_eq!(store.term_at(A, entry.index).expect("readable"), Some(entry.term));
        }
        assert_eq!(store.term_at(A, 6).expect("readable"), None);
    });
}

/// Ranges may go beyond the log; the byte cap is kept except for the first entry.
pub fn reads_respect_range_and_byte_cap<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    write(&store, A, vec![Op::Append(entries(1..20, 1))]);
    let one = entry(1, 1).payload_len();
    now_and_after_reopening(disk, store, &[A], |store| {
        let indexes = |range, max_bytes| -> Vec<u64> {
            let found = store.read_log(A, range, max_bytes).expect("readable");
            found.iter().map(|entry| entry.index).collect()
        };
        assert_eq!(indexes(3..6, usize::MAX), [3, 4, 5]);
        assert_eq!(indexes(0..3, usize::MAX), [1, 2]);
        assert_eq!(indexes(18..90, usize::MAX), [18, 19]);
        assert_eq!(indexes(5..19, 1), [5]);
        assert_eq!(indexes(5..19, 0), [5]);
        assert!((1..=3).contains(&indexes(5..19, 3 * one + 10).len()));
        assert!(indexes(20..30, usize::MAX).is_empty());
        assert!(indexes(6..6, usize::MAX).is_empty());
        assert_eq!(store.read_log_cached(A, 20..30, usize::MAX), Some(Vec::new()));
    });
}

/// Entries after the kept one are gone, and others take their place.
pub fn truncation_makes_room_for_another_history<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    write(&store, A, vec![Op::Append(entries(0..10, 1))]);
    queue(&store, A, vec![Op::TruncateAfter(at(1, 6))]);
    assert_eq!(store.bounds(A).last, at(1, 6));
    assert_eq!(read_all(&store, A), entries(0..7, 1));
    assert_eq!(store.term_at(A, 7).expect("readable"), None);
    write(
        &store,
        A,
        vec![Op::TruncateAfter(at(1, 4)), Op::Append(entries(5..8, 2))],
    );
    queue(&store, A, vec![Op::TruncateAfter(at(2, 100))]);
    now_and_after_reopening(disk, store, &[A], |store| {
        assert_eq!(store.bounds(A).last, at(2, 7));
        assert_eq!(read_all(store, A), [entries(0..5, 1), entries(5..8, 2)].concat());
    });
    let store = disk.open();
    store.open_group(A).expect("opens");
    // The entry that is kept is on disk only.
    queue(&store, A, vec![Op::TruncateAfter(at(1, 4))]);
    assert_eq!(store.bounds(A).last, at(1, 4));
    now_and_after_reopening(disk, store, &[A], |store| assert_eq!(store.bounds(A).last, at(1, 4)));
}

/// `TruncateAfter(None)` removes what is left, and the log goes on where it would have.
pub fn truncation_of_everything_leaves_the_purged_position<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    store.open_group(B).expect("opens");
    write(
        &store,
        A,
        vec![Op::Append(entries(0..10, 1)), Op::Purge { upto: 3, upto_term: 1 }],
    );
    write(&store, A, vec![Op::TruncateAfter(None)]);
    write(&store, B, vec![Op::Append(entries(0..10, 1)), Op::TruncateAfter(None)]);
    let store = {
        now_and_after_reopening(disk, store, &[A, B], |store| {
            assert_eq!(
                store.bounds(A),
                LogBounds {
                    purged: at(1, 3),
                    last: at(1, 3)
                }
            );
            assert_eq!(store.bounds(B), LogBounds::default());
            assert!(read_all(store, A).is_empty());
        });
        disk.open()
    };
    store.open_group(A).expect("opens");
    write(&store, A, vec![Op::Append(entries(4..6, 2))]);
    assert_eq!(read_all(&store, A), entries(4..6, 2));
}

/// Purged entries are gone; the log id of the last one is known.
pub fn purge_removes_the_start_and_keeps_its_position<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    write(
        &store,
        A,
        vec![Op::Append(entries(0..5, 1)), Op::Append(entries(5..10, 2))],
    );
    queue(&store, A, vec![Op::Purge { upto: 5, upto_term: 2 }]);
    queue(&store, A, vec![Op::Purge { upto: 2, upto_term: 1 }]);
    now_and_after_reopening(disk, store, &[A], |store| {
        assert_eq!(
            store.bounds(A),
            LogBounds {
                purged: at(2, 5),
                last: at(2, 9)
            }
        );
        assert_eq!(read_all(store, A), entries(6..10, 2));
        assert_eq!(store.term_at(A, 5).expect("readable"), Some(2));
        assert_eq!(store.term_at(A, 4).expect("readable"), None);
        assert!(store.read_log(A, 0..6, usize::MAX).expect("readable").is_empty());
    });
}

/// After a snapshot was installed the log is empty and goes on after it.
pub fn purge_beyond_the_end_empties_the_log<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    store.open_group(B).expect("opens");
    write(&store, A, vec![Op::Append(entries(0..5, 1))]);
    queue(
        &store,
        A,
        vec![Op::Purge {
            upto: 100,
            upto_term: 7,
        }],
    );
    queue(&store, B, vec![Op::Purge { upto: 8, upto_term: 2 }]);
    let empty = |store: &D::Store| {
        assert_eq!(
            store.bounds(A),
            LogBounds {
                purged: at(7, 100),
                last: at(7, 100)
            }
        );
        assert_eq!(
            store.bounds(B),
            LogBounds {
                purged: at(2, 8),
                last: at(2, 8)
            }
        );
        assert!(read_all(store, A).is_empty());
        assert_eq!(store.term_at(A, 3).expect("readable"), None);
        assert_eq!(store.term_at(A, 100).expect("readable"), Some(7));
    };
    now_and_after_reopening(disk, store, &[A, B], empty);
    let store = disk.open();
    store.open_group(A).expect("opens");
    write(&store, A, vec![Op::Append(entries(101..103, 8))]);
    assert_eq!(read_all(&store, A), entries(101..103, 8));
}

/// Entries are rewritten where they stand, in memory and on disk, in one write with their rows. What is not in the log is left out.
pub fn rewritten_entries_keep_their_places_with_their_rows<D: Disk>(disk: &D) {
    let emptied = |index, term| LogEntry {
        body: Bytes::new(),
        ..entry(index, term)
    };
    let row = |index| {
        let (key, value) = numbered_row(index);
        let table = &NUMBERED;
        (index, RowChange::Put { table, key, value })
    };
    let store = disk.open();
    store.open_group(A).expect("opens");
    write(
        &store,
        A,
        vec![Op::Append(entries(0..10, 1)), Op::Append(entries(10..12, 2))],
    );
    drop(store);
    let store = disk.open();
    store.open_group(A).expect("opens");
    write(
        &store,
        A,
        vec![Op::Append(entries(12..20, 2)), Op::Purge { upto: 3, upto_term: 1 }],
    );
    let rewrite = Op::Rewrite {
        entries: vec![
            emptied(2, 1),
            emptied(5, 1),
            emptied(11, 2),
            emptied(15, 2),
            emptied(90, 2),
        ],
        rows: vec![row(2), row(5), row(15), row(90)],
    };
    write(&store, A, vec![rewrite]);
    // A group that was opened again, and one that was not, see the same.
    now_and_after_reopening(disk, store, &[A], |store| {
        assert_eq!(
            store.bounds(A),
            LogBounds {
                purged: at(1, 3),
                last: at(2, 19)
            }
        );
        let expected: Vec<LogEntry> = (4..20)
            .map(|index| match index {
                5 => emptied(5, 1),
                11 | 15 => emptied(index, 2),
                _ => entry(index, if index < 10 { 1 } else { 2 }),
            })
            .collect();
        assert_eq!(read_all(store, A), expected);
        assert_eq!(store.term_at(A, 11).expect("readable"), Some(2));
        assert_eq!(numbered(store, A, 0, 10), [numbered_row(5), numbered_row(15)]);
    });
    let store = disk.open();
    store.open_group(A).expect("opens");
    queue(
        &store,
        A,
        vec![Op::Rewrite {
            entries: vec![emptied(6, 1)],
            rows: vec![],
        }],
    );
    write(
        &store,
        A,
        vec![Op::TruncateAfter(at(1, 6)), Op::Append(entries(7..9, 3))],
    );
    let expected = [vec![entry(4, 1), emptied(5, 1), emptied(6, 1)], entries(7..9, 3)].concat();
    assert_eq!(read_all(&store, A), expected);
}

/// Rows of state are kept by group, kind and suffix, and scans are ordered.
pub fn state_rows_are_kept_apart<D: Disk>(disk: &D) {
    let put = |kind, suffix, value: &str| Op::PutState {
        kind,
        suffix,
        value: Bytes::from(value.to_owned()),
    };
    let store = disk.open();
    for group in [A, B, GroupId::NODE] {
        store.open_group(group).expect("opens");
    }
    write(
        &store,
        A,
        vec![
            put(StateKind::VOTE, None, "old"),
            put(StateKind::CHECKPOINT, Some(300), "c"),
            put(StateKind::CHECKPOINT, Some(2), "a"),
            put(StateKind::CHECKPOINT, Some(10), "b"),
            put(StateKind::CHECKPOINT, Some(11), "gone"),
            put(StateKind::GROUP, None, "gone"),
            put(StateKind::STATE_CHUNK, Some(1 << 32), "first"),
            put(StateKind::STATE_CHUNK, Some(2 << 32), "gone"),
            put(StateKind::STATE_CHUNK, Some((3 << 32) - 1), "gone"),
            put(StateKind::STATE_CHUNK, Some(3 << 32), "last"),
        ],
    );
    queue(&store, B, vec![put(StateKind::VOTE, None, "of b")]);
    queue(&store, GroupId::NODE, vec![put(StateKind::NODE, Some(7), "node")]);
    queue(
        &store,
        A,
        vec![
            put(StateKind::VOTE, None, "new"),
            Op::DeleteState {
                kind: StateKind::CHECKPOINT,
                suffix: Some(11),
            },
            Op::DeleteState {
                kind: StateKind::GROUP,
                suffix: None,
            },
            Op::DeleteStateRange {
                kind: StateKind::STATE_CHUNK,
                suffixes: 2 << 32..3 << 32,
            },
            Op::DeleteStateRange {
                kind: StateKind::STATE_CHUNK,
                suffixes: 3 << 32..3 << 32,
            },
        ],
    );
    now_and_after_reopening(disk, store, &[A, B, GroupId::NODE], |store| {
        let get = |group, kind, suffix| {
            let value = store.get_state(group, kind, suffix).expect("readable");
            value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
        };
        assert_eq!(get(A, StateKind::VOTE, None).as_deref(), Some("new"));
        assert_eq!(get(B, StateKind::VOTE, None).as_deref(), Some("of b"));
        assert_eq!(get(GroupId::NODE, StateKind::NODE, Some(7)).as_deref(), Some("node"));
        assert_eq!(get(A, StateKind::GROUP, None), None);
        assert_eq!(get(A, StateKind::CHECKPOINT, Some(11)), None);
        let scanned = store.scan_state(A, StateKind::CHECKPOINT).expect("readable");
        let scanned: Vec<_> = scanned.iter().map(|(suffix, value)| (*suffix, &value[..])).collect();
        assert_eq!(scanned, [(2, &b"a"[..]), (10, b"b"), (300, b"c")]);
        assert!(store.scan_state(B, StateKind::CHECKPOINT).expect("readable").is_empty());
        let next = |group, kind, from| next_state(store, group, kind, from).expect("readable");
        let chunks = [0, 1 << 32, (1 << 32) + 1, (3 << 32) + 1].map(|from| next(A, StateKind::STATE_CHUNK, from));
        assert_eq!(chunks, [Some(1 << 32), Some(1 << 32), Some(3 << 32), None]);
        assert_eq!(
            (next(A, StateKind::CHECKPOINT, 0), next(A, StateKind::CHECKPOINT, 301)),
            (Some(2), None),
            "no row of another kind is taken for one of this"
        );
        assert_eq!(next(B, StateKind::STATE_CHUNK, 0), None);
    });
}

/// Deleting a group removes its log, rows and state, and nothing of other groups.
pub fn a_deleted_group_is_as_new_and_its_neighbours_stay<D: Disk>(disk: &D) {
    let store = disk.open();
    let rows = numbered_rows(0..3);
    let all = |store: &D::Store, group| numbered(store, group, 0, 10);
    for group in [A, B, C] {
        store.open_group(group).expect("opens");
        let value = Bytes::from_static(b"vote");
        let mut ops = vec![
            Op::Append(entries(0..5, 1)),
            Op::Purge { upto: 1, upto_term: 1 },
            Op::PutState {
                kind: StateKind::VOTE,
                suffix: None,
                value,
            },
        ];
        for table in TABLES {
            ops.extend(put_all(table, &rows));
        }
        write(&store, group, ops);
    }
    queue(&store, B, vec![Op::DeleteGroup]);
    now_and_after_reopening(disk, store, &[A, B, C], |store| {
        assert_eq!(store.bounds(B), LogBounds::default());
        assert!(read_all(store, B).is_empty());
        for table in TABLES {
            assert!(rows::all(store, B, table).is_empty(), "{table:?}");
        }
        assert_eq!(store.get_state(B, StateKind::VOTE, None).expect("readable"), None);
        assert_eq!(store.get_state(B, StateKind::PURGED, None).expect("readable"), None);
        assert!(store.scan_state(B, StateKind::VOTE).expect("readable").is_empty());
        for group in [A, C] {
            assert_eq!(read_all(store, group), entries(2..5, 1));
            for table in TABLES {
                assert_eq!(rows::all(store, group, table), rows, "{table:?}");
            }
            assert!(
                store
                    .get_state(group, StateKind::VOTE, None)
                    .expect("readable")
                    .is_some()
            );
        }
    });
    let store = disk.open();
    store.open_group(B).expect("opens");
    let mut ops = vec![Op::Append(entries(0..2, 9))];
    ops.extend(put_all(&NUMBERED, &rows[..1]));
    queue(&store, B, ops);
    now_and_after_reopening(disk, store, &[B], |store| {
        assert_eq!(read_all(store, B), entries(0..2, 9));
        assert_eq!(all(store, B), rows[..1]);
    });
}

/// `groups` names every group with data, also what is only queued, and not the node.
pub fn all_groups_with_data_are_listed<D: Disk>(disk: &D) {
    let store = disk.open();
    for group in [A, B, C, GroupId::NODE, GroupId(0), GroupId(9)] {
        store.open_group(group).expect("opens");
    }
    let vote = |kind| Op::PutState {
        kind,
        suffix: None,
        value: Bytes::from_static(b"v"),
    };
    write(&store, A, vec![Op::Append(entries(0..1, 1))]);
    write(&store, C, vec![vote(StateKind::VOTE)]);
    queue(&store, GroupId(0), put_all(&NUMBERED, &numbered_rows(0..1)));
    queue(&store, GroupId::NODE, vec![vote(StateKind::NODE)]);
    queue(&store, B, vec![vote(StateKind::VOTE)]);
    queue(&store, B, vec![Op::DeleteGroup]);
    now_and_after_reopening(disk, store, &[], |store| {
        assert_eq!(store.groups().expect("readable"), [GroupId(0), A, C]);
    });
}

/// Each completion is called once, in the order of the writes; a write to a closed group is answered too.
pub fn completions_come_once_and_in_order<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    store.open_group(B).expect("opens");
    let (sender, receiver) = mpsc::sync_channel(1000);
    for number in 0..300 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<(), StoreError>| {
            result.expect("a healthy store writes");
            sender.send(number).expect("somebody listens");
        });
        let group = if number % 3 == 0 { A } else { B };
        let durability = if number % 7 == 0 {
            Durability::Synced
        } else {
            Durability::Lazy
        };
        let next = store.bounds(group).next_index().unwrap_or(0);
        store.write(
            group,
            vec![Op::Append(entries(next..next + 1, 1))],
            durability,
            Some(done),
        );
    }
    drop(sender);
    for number in 0..300 {
        assert_eq!(receiver.recv_timeout(TIMEOUT).expect("a completion is called"), number);
    }
    assert!(receiver.recv().is_err(), "no completion is called twice");
    store.close_group(B);
    assert!(matches!(
        write_synced(&store, B, Vec::new()),
        Err(StoreError::GroupNotOpen(B))
    ));
    assert!(matches!(store.read_log(B, 0..1, 1), Err(StoreError::GroupNotOpen(B))));
}

/// Closing a group loses nothing that is queued.
pub fn a_group_that_is_opened_again_sees_what_was_queued<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    queue(
        &store,
        A,
        vec![Op::Append(entries(0..50, 1)), Op::Purge { upto: 9, upto_term: 1 }],
    );
    store.close_group(A);
    let bounds = store.open_group(A).expect("opens again");
    assert_eq!(
        bounds,
        LogBounds {
            purged: at(1, 9),
            last: at(1, 49)
        }
    );
    assert_eq!(read_all(&store, A), entries(10..50, 1));
}
