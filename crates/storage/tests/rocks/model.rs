//! Random operations on `RocksStore` and on a model of a few maps must give the same answers, also after reopening.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_storage::conformance::{Disk, write_synced};
use jangada_storage::{Durability, IndexEntry, LogBounds, LogEntry, LogPosition, Op, RocksStore, StateKind, Store};
use jangada_types::{GroupId, LeaderEpoch, Offset};
use proptest::prelude::*;

use crate::directory::Directory;

const GROUPS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        body: usize,
    },
    /// Keeps this many per cent of the entries.
    Truncate {
        percent: u64,
    },
    /// Purges this many per cent of the entries, or goes this far beyond the end.
    Purge {
        percent: u64,
    },
    PutState {
        suffix: u64,
        value: u8,
    },
    DeleteState {
        suffix: u64,
    },
    PutIndex {
        count: i64,
        timestamp: i64,
    },
    DeleteIndexBelow {
        percent: i64,
    },
    DeleteGroup,
    Sync,
    Reopen,
    CloseAndOpen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..8_u64, prop_oneof![4 => 0..200_usize, 1 => 20_000..200_000_usize])
            .prop_map(|(count, body)| Step::Append { count, body }),
        2 => (0..110_u64).prop_map(|percent| Step::Truncate { percent }),
        2 => (0..120_u64).prop_map(|percent| Step::Purge { percent }),
        3 => (0..4_u64, any::<u8>()).prop_map(|(suffix, value)| Step::PutState { suffix, value }),
        1 => (0..4_u64).prop_map(|suffix| Step::DeleteState { suffix }),
        4 => (1..60_i64, 0..1000_i64).prop_map(|(count, timestamp)| Step::PutIndex { count, timestamp }),
        1 => (0..110_i64).prop_map(|percent| Step::DeleteIndexBelow { percent }),
        1 => Just(Step::DeleteGroup),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::CloseAndOpen),
    ]
}

/// What one group must look like.
#[derive(Clone, Default)]
struct Model {
    purged: Option<LogPosition>,
    log: BTreeMap<u64, LogEntry>,
    state: BTreeMap<u64, Bytes>,
    index: BTreeMap<i64, IndexEntry>,
    running_max: i64,
    term: u64,
}

impl Model {
    fn bounds(&self) -> LogBounds {
        let last = self.log.values().last().map(|entry| LogPosition {
            term: entry.term,
            index: entry.index,
        });
        LogBounds {
            purged: self.purged,
            last: last.or(self.purged),
        }
    }

    /// Carries out a step and says which operation does the same.
    fn apply(&mut self, step: &Step) -> Option<Op> {
        let first = self.bounds().first_index();
        let count = self.log.len() as u64;
        let op = match *step {
            Step::Append { count, body } => {
                let next = self.bounds().next_index().unwrap_or(0);
                let entries: Vec<_> = (next..next + count)
                    .map(|index| LogEntry {
                        index,
                        term: self.term,
                        head: Bytes::from(format!("{index}")),
                        body: Bytes::from(vec![(index + self.term) as u8; body]),
                    })
                    .collect();
                self.log
                    .extend(entries.iter().map(|entry| (entry.index, entry.clone())));
                Op::Append(entries)
            }
            Step::Truncate { percent } => {
                self.term += 1;
                let kept = first + count * percent / 100;
                self.log.retain(|index, _| *index < kept);
                Op::TruncateAfter(self.bounds().last)
            }
            Step::Purge { percent } => {
                let upto = first + count * percent / 100;
                let upto_term = self.log.get(&upto).map_or(self.term, |entry| entry.term);
                self.log.retain(|index, _| *index > upto);
                self.purged = Some(LogPosition {
                    term: upto_term,
                    index: upto,
                });
                Op::Purge { upto, upto_term }
            }
            Step::PutState { suffix, value } => {
                let value = Bytes::from(vec![value]);
                self.state.insert(suffix, value.clone());
                Op::PutState {
                    kind: StateKind::CHECKPOINT,
                    suffix: Some(suffix),
                    value,
                }
            }
            Step::DeleteState { suffix } => {
                self.state.remove(&suffix);
                Op::DeleteState {
                    kind: StateKind::CHECKPOINT,
                    suffix: Some(suffix),
                }
            }
            Step::PutIndex { count, timestamp } => {
                let next = self.index.keys().last().map_or(0, |last| last + 1);
                let mut rows = Vec::new();
                for at in 0..count {
                    self.running_max = self.running_max.max(timestamp + at % 7);
                    rows.push(IndexEntry {
                        last_offset: Offset(next + at * 3 + 2),
                        base_offset: Offset(next + at * 3),
                        raft_index: at as u64,
                        epoch: LeaderEpoch(1),
                        max_timestamp_ms: timestamp + at % 7,
                        running_max_timestamp_ms: self.running_max,
                        size_bytes: 1,
                    });
                }
                self.index.extend(rows.iter().map(|row| (row.last_offset.get(), *row)));
                Op::PutIndex(rows)
            }
            Step::DeleteIndexBelow { percent } => {
                let last = self.index.keys().last().copied().unwrap_or(0);
                let below = last * percent / 100;
                self.index.retain(|offset, _| *offset >= below);
                Op::DeleteIndexBelow(Offset(below))
            }
            Step::DeleteGroup => {
                *self = Self {
                    term: self.term + 1,
                    ..Self::default()
                };
                Op::DeleteGroup
            }
            Step::Sync | Step::Reopen | Step::CloseAndOpen => return None,
        };
        Some(op)
    }

    fn check(&self, store: &RocksStore, group: GroupId) {
        assert_eq!(store.bounds(group), self.bounds());
        let all: Vec<_> = self.log.values().cloned().collect();
        let found = store.read_log(group, 0..u64::MAX, usize::MAX).unwrap();
        assert_eq!(outline(&found), outline(&all));
        assert!(found == all, "a head or body differs");
        for entry in all.iter().step_by(5) {
            assert_eq!(store.term_at(group, entry.index).unwrap(), Some(entry.term));
        }
        let state: Vec<_> = self.state.clone().into_iter().collect();
        assert_eq!(store.scan_state(group, StateKind::CHECKPOINT).unwrap(), state);
        for suffix in 0..4 {
            let found = store.get_state(group, StateKind::CHECKPOINT, Some(suffix)).unwrap();
            assert_eq!(found.as_ref(), self.state.get(&suffix));
        }
        let end = self.index.keys().last().copied().unwrap_or(0) + 2;
        for from in [0, end / 3, end / 2, end - 4, end] {
            for limit in [1, 10, 1000] {
                let rows: Vec<_> = self.index.range(from..).map(|(_, row)| *row).take(limit).collect();
                assert_eq!(store.index_at_or_after(group, Offset(from), limit).unwrap(), rows);
            }
            for timestamp in [0, 300, 700, 1001] {
                let row = self.index.range(from..).map(|(_, row)| *row);
                let row = row.into_iter().find(|row| row.max_timestamp_ms >= timestamp);
                assert_eq!(store.index_by_timestamp(group, Offset(from), timestamp).unwrap(), row);
            }
        }
    }
}

/// Entries without their bodies, which are too long to print.
fn outline(entries: &[LogEntry]) -> Vec<(u64, u64, usize)> {
    entries
        .iter()
        .map(|entry| (entry.index, entry.term, entry.body.len()))
        .collect()
}

fn open_all(disk: &Directory) -> RocksStore {
    let store = disk.open();
    for group in 0..GROUPS {
        store.open_group(GroupId(group)).unwrap();
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_and_model_agree(steps in proptest::collection::vec((0..GROUPS, step()), 1..80)) {
        let disk = Directory::new();
        let mut store = open_all(&disk);
        let mut models = vec![Model::default(); GROUPS as usize];
        for (group, step) in &steps {
            let model = &mut models[*group as usize];
            let group = GroupId(*group);
            match (model.apply(step), step) {
                (Some(op), _) => store.write(group, vec![op], Durability::Lazy, None),
                (None, Step::Sync) => write_synced(&store, group, Vec::new()).unwrap(),
                (None, Step::CloseAndOpen) => {
                    store.close_group(group);
                    store.open_group(group).unwrap();
                }
                (None, _) => {
                    drop(store);
                    store = open_all(&disk);
                }
            }
            model.check(&store, group);
        }
        drop(store);
        let store = open_all(&disk);
        for (group, model) in models.iter().enumerate() {
            model.check(&store, GroupId(group as u64));
        }
    }
}
