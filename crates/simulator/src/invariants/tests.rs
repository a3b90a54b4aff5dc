//! A sound group is sound, and each violation that is made by hand is found.

use bytes::{BufMut, Bytes, BytesMut};
use jangada_log::tables::OFFSET_INDEX;
use jangada_log::{IndexEntry, PartitionCommandKind, PartitionState, TABLES};
use jangada_machine::Machine;
use jangada_storage::{Durability, LogEntry, LogPosition, MemoryDisk, MemoryStore, Op, StateKind, Store};
use jangada_types::{GroupId, LeaderEpoch, Offset};

use super::Invariants;
use crate::roles::team::Finding;

const GROUP: GroupId = GroupId(7);
const COMMAND: [u8; 4] = [1, 1, 1, 1];

/// Three brokers with a replica each.
struct World {
    disks: Vec<MemoryDisk>,
    stores: Vec<MemoryStore>,
    invariants: Invariants,
}

fn vote(term: u64, broker: u8, is_elected: bool) -> Op {
    let mut row = BytesMut::new();
    row.put_u8(1);
    row.put_u64(term);
    row.put_slice(&[0, 0, 0, broker, 0, 0, 0, 1, u8::from(is_elected)]);
    put(StateKind::VOTE, row.freeze())
}

fn put(kind: StateKind, value: Bytes) -> Op {
    let suffix = None;
    Op::PutState { kind, suffix, value }
}

fn log_id(term: u64, index: u64) -> Vec<u8> {
    [&[1][..], &term.to_be_bytes(), &index.to_be_bytes()].concat()
}

fn committed(term: u64, index: u64) -> Op {
    put(StateKind::COMMITTED, [vec![1], log_id(term, index)].concat().into())
}

fn membership() -> Vec<u8> {
    let replica = |broker| [0, 0, 0, broker, 0, 0, 0, 1];
    let replicas = [[0, 3].to_vec(), [1, 2, 3].map(replica).concat()].concat();
    [vec![1, 1], replicas.clone(), replicas].concat()
}

/// A state record as of this entry.
fn state(term: u64, index: u64, body: &[u8]) -> Bytes {
    let (id, members) = (log_id(term, index), membership());
    let len = u32::try_from(members.len()).unwrap().to_be_bytes();
    [vec![1], id, log_id(0, 0), len.to_vec(), members, body.to_vec()]
        .concat()
        .into()
}

fn entry(term: u64, index: u64, body: &'static str) -> LogEntry {
    LogEntry {
        index,
        term,
        head: Bytes::from_static(&COMMAND),
        body: Bytes::from_static(body.as_bytes()),
    }
}

fn append(entries: &[(u64, u64, &'static str)]) -> Op {
    let entries = entries.iter().map(|(term, index, body)| entry(*term, *index, body));
    Op::Append(entries.collect())
}

fn keep(term: u64, index: u64) -> Op {
    Op::TruncateAfter(Some(LogPosition { term, index }))
}

fn index_row(offset: i64, raft_index: u64, term: u32) -> Op {
    let row = IndexEntry {
        last_offset: Offset(offset),
        base_offset: Offset(offset),
        raft_index,
        epoch: LeaderEpoch(term),
        max_timestamp_ms: 0,
        running_max_timestamp_ms: 0,
        size_bytes: 70,
        original_bytes: 70,
        offsets_before: 0,
    };
    Op::Row(row.put())
}

impl World {
    /// The leader of term 1 is broker 1; entries 0 to 3 are on all disks, and those up to 2 are committed.
    fn new() -> Self {
        let disks: Vec<MemoryDisk> = (0..3).map(|_| MemoryDisk::new()).collect();
        let mut invariants = Invariants::default();
        let mut stores = Vec::new();
        for (disk, broker) in disks.iter().zip(1..) {
            invariants.watch(broker, &format!("broker-{broker}"), disk);
            let store = MemoryStore::open(disk, &TABLES, Box::new(|cause| panic!("{cause}")));
            stores.push(store.expect("nobody has it open"));
        }
        let mut world = Self {
            disks,
            stores,
            invariants,
        };
        let members = LogEntry {
            index: 0,
            term: 0,
            head: Bytes::from_static(&[1, 2]),
            body: membership().into(),
        };
        for broker in 1..=3 {
            world.store(broker).open_group(GROUP).expect("it is new");
            world.write(broker, vec![vote(1, 1, true), Op::Append(vec![members.clone()])]);
            let entries = append(&[(1, 1, "a"), (1, 2, "b"), (1, 3, "c")]);
            world.write(broker, vec![entries, committed(1, 2)]);
        }
        world.holds();
        world
    }

    fn store(&self, broker: usize) -> &MemoryStore {
        &self.stores[broker - 1]
    }

    fn write(&self, broker: usize, ops: Vec<Op>) {
        self.store(broker).write(GROUP, ops, Durability::Synced, None);
    }

    fn look(&mut self) -> Result<(), Finding> {
        self.invariants.look()
    }

    fn holds(&mut self) {
        self.look().expect("nothing is wrong");
    }

    fn finds(&mut self, expected: &str) {
        let finding = self.look().expect_err(expected);
        assert!(finding.contains(expected), "{finding}");
    }
}

#[test]
fn a_sound_group_goes_on() {
    let mut world = World::new();
    assert_eq!((world.invariants.groups(), world.invariants.committed()), (1, 3));
    // Entry 3 was not committed: another leader has another one, and what it appends is committed.
    for broker in 1..=3 {
        world.write(broker, vec![vote(2, 2, false)]);
        world.write(broker, vec![vote(2, 2, true)]);
        world.write(broker, vec![keep(1, 2), append(&[(2, 3, "d"), (2, 4, "e")])]);
        world.holds();
    }
    world.write(2, vec![committed(2, 4)]);
    world.holds();
    let snapshot = put(StateKind::SNAPSHOT, state(2, 3, b"state"));
    let purge = Op::Purge { upto: 3, upto_term: 2 };
    world.write(1, vec![snapshot, purge]);
    world.holds();
    assert_eq!(world.invariants.committed(), 5);
}

#[test]
fn a_vote_that_goes_back_is_found_also_between_two_looks() {
    let mut world = World::new();
    world.write(2, vec![vote(3, 3, false)]);
    world.write(2, vec![vote(2, 1, false)]);
    world.write(2, vec![vote(4, 1, false)]);
    world.finds("broker-2, group 7: the vote goes back");
}

#[test]
fn a_second_vote_in_a_term_is_found() {
    let mut world = World::new();
    world.write(3, vec![vote(2, 3, false)]);
    world.write(3, vec![vote(2, 2, false)]);
    world.finds("the vote goes back: 3.1 is a candidate in term 2");
}

#[test]
fn a_vote_that_is_gone_is_found() {
    let mut world = World::new();
    let (kind, suffix) = (StateKind::VOTE, None);
    world.write(1, vec![Op::DeleteState { kind, suffix }]);
    world.finds("the vote is gone");
}

#[test]
fn two_leaders_of_a_term_are_found() {
    let mut world = World::new();
    world.write(1, vec![vote(2, 1, true)]);
    world.write(3, vec![vote(2, 3, true)]);
    world.finds("term 2 has two leaders: 1.1 on the disk of broker-1, and 3.1 on that of broker-3");
}

#[test]
fn an_entry_that_differs_is_found() {
    let mut world = World::new();
    world.write(1, vec![append(&[(1, 4, "mine")])]);
    world.write(2, vec![append(&[(1, 4, "yours")])]);
    world.finds("entry 4 of term 1 is another one than on the disk of broker-1");
}

#[test]
fn what_compaction_has_taken_records_of_may_differ() {
    let mut world = World::new();
    let compacted = LogEntry {
        head: Bytes::copy_from_slice(&[1, 1, 1, PartitionCommandKind::CompactedAppend.byte(), 1, 0, 0, 0, 9]),
        ..entry(1, 1, "a little")
    };
    let rewrite = |entries| Op::Rewrite {
        entries,
        rows: Vec::new(),
    };
    world.write(2, vec![rewrite(vec![compacted.clone()])]);
    world.holds();
    world.write(3, vec![rewrite(vec![entry(1, 1, "something else")])]);
    world.finds("entry 1 of term 1 is another one");
}

#[test]
fn an_entry_of_a_term_that_was_never_voted_in_is_found() {
    let mut world = World::new();
    world.write(1, vec![append(&[(2, 4, "x")])]);
    world.finds("the log ends with entry 4 of term 2, and the vote is of term 1");
}

#[test]
fn a_committed_entry_that_is_another_one_is_found() {
    let mut world = World::new();
    world.write(3, vec![vote(2, 3, true)]);
    world.write(3, vec![keep(1, 1), append(&[(2, 2, "x")]), committed(2, 2)]);
    world.finds("the committed entry 2 was of term 1, and is of term 2");
}

#[test]
fn a_committed_entry_that_is_gone_is_found() {
    let mut world = World::new();
    world.write(3, vec![keep(1, 1)]);
    world.finds("entry 2 (term 1) is said to be committed, and the log ends at");
}

#[test]
fn an_entry_that_a_minority_has_committed_is_found() {
    let mut world = World::new();
    world.write(1, vec![append(&[(1, 4, "x")]), committed(1, 4)]);
    world.finds("entry 4 (term 1) is committed and lies on the disks of {BrokerId(1)} only");
}

#[test]
fn a_disk_that_was_replaced_or_damaged_is_forgiven_and_no_other_is() {
    let mut world = World::new();
    let empty = MemoryDisk::new();
    world.invariants.replaced_by(3, "broker-3b", &empty);
    world.holds();
    world.invariants.rotten(2);
    world.write(2, vec![keep(0, 0)]);
    world.holds();
    world.write(1, vec![append(&[(1, 4, "x")]), committed(1, 4)]);
    world.finds("is committed and lies on the disks of");
}

#[test]
fn a_disk_that_was_put_back_begins_anew() {
    let mut world = World::new();
    world.write(2, vec![vote(5, 2, false)]);
    world.holds();
    let disk = world.disks[1].clone();
    world.invariants.replaced_by(2, "broker-2", &disk);
    world.write(2, vec![vote(6, 2, false)]);
    world.holds();
}

#[test]
fn a_group_that_was_deleted_is_judged_no_more_and_one_that_is_filled_again_is() {
    let mut world = World::new();
    let renewed = put(StateKind::REPLICA, Bytes::from_static(&[1, 0, 0, 0, 2]));
    world
        .store(3)
        .delete_group(GROUP, vec![renewed], Box::new(|deleted| deleted.expect("it can be")));
    world.holds();
    world
        .store(2)
        .delete_group(GROUP, Vec::new(), Box::new(|deleted| deleted.expect("it can be")));
    world.holds();
    let mut world = World::new();
    for broker in [2, 3] {
        let renewed = put(StateKind::REPLICA, Bytes::from_static(&[1, 0, 0, 0, 2]));
        world
            .store(broker)
            .delete_group(GROUP, vec![renewed], Box::new(|deleted| deleted.expect("it can be")));
    }
    world.finds("is committed and lies on the disks of {BrokerId(1)} only");
}

#[test]
fn a_log_that_is_purged_above_its_snapshot_is_found() {
    let mut world = World::new();
    world.write(1, vec![Op::Purge { upto: 1, upto_term: 1 }]);
    world.finds("the log is purged up to entry 1, and the snapshot covers nothing");
    let mut world = World::new();
    let snapshot = put(StateKind::SNAPSHOT, state(1, 1, b"state"));
    world.write(1, vec![snapshot, Op::Purge { upto: 2, upto_term: 1 }]);
    world.finds("the log is purged up to entry 2, and the snapshot covers entries up to 1 (term 1)");
}

#[test]
fn a_state_beyond_the_logs_end_is_found() {
    let mut world = World::new();
    world.write(1, vec![put(StateKind::APPLIED, state(1, 9, b"state"))]);
    world.finds("entry 9 (term 1) is said to be committed, and the log ends at");
}

#[test]
fn states_of_the_same_entry_that_differ_are_found() {
    let mut world = World::new();
    world.write(1, vec![put(StateKind::APPLIED, state(1, 2, b"one"))]);
    let position = 4_i64.to_be_bytes();
    let checkpoint = |body| [vec![1], position.to_vec(), state(1, 2, body).to_vec()].concat();
    let put_checkpoint = |body| Op::PutState {
        kind: StateKind::CHECKPOINT,
        suffix: Some(2),
        value: checkpoint(body).into(),
    };
    world.write(2, vec![put_checkpoint(b"one")]);
    world.holds();
    world.write(3, vec![put_checkpoint(b"two")]);
    world.finds(
        "broker-3, group 7: checkpoint 2: the state as of entry 2 (term 1) is another one than on the disk of broker-1",
    );
}

/// A partition's state with this log start and this end.
fn partition(start: i64, end: i64) -> Vec<u8> {
    let mut state = PartitionState::default().snapshot().to_vec();
    state[1..9].copy_from_slice(&end.to_be_bytes());
    state[9..17].copy_from_slice(&start.to_be_bytes());
    state
}

#[test]
fn watermarks_that_are_not_in_order_are_found() {
    let mut world = World::new();
    let rows = vec![index_row(0, 1, 1), index_row(1, 2, 1)];
    world.write(
        1,
        [rows, vec![put(StateKind::APPLIED, state(1, 2, &partition(1, 2)))]].concat(),
    );
    world.holds();
    world.write(1, vec![put(StateKind::APPLIED, state(1, 3, &partition(3, 2)))]);
    let finding = world.look().expect_err("the log starts behind its end");
    assert!(finding.contains("the saved state 0: "), "{finding}");
}

#[test]
fn an_index_that_does_not_fit_the_log_is_found() {
    let mut world = World::new();
    world.write(1, vec![index_row(0, 1, 1)]);
    world.holds();
    world.write(1, vec![index_row(2, 2, 1)]);
    world.finds("the offset index: after offset 0");
    let mut world = World::new();
    world.write(1, vec![index_row(0, 1, 1), index_row(1, 2, 2)]);
    world.finds("the row of offset 1 is about entry 2 of term 2");
    let mut world = World::new();
    world.write(1, vec![index_row(0, 1, 1)]);
    world.write(1, vec![put(StateKind::APPLIED, state(1, 2, &partition(0, 2)))]);
    world.finds("the offset index ends at 0, and the saved state at 2");
    assert_eq!(OFFSET_INDEX.name, "index");
}
