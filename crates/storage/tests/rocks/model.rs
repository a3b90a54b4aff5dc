//! Random operations on each store and on a model of a few maps must give the same answers, also after reopening.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_storage::conformance::rows::{self, NUMBERED, PLAIN, TABLES, numbered, numbered_row};
use jangada_storage::conformance::{Disk, write_synced};
use jangada_storage::{
    Durability, KeyRange, LogBounds, LogEntry, LogPosition, MemoryDisk, MemoryStore, Op, StateKind, Store,
};
use jangada_types::table::number_of;
use jangada_types::{GroupId, RowChange};
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
    PutNumbered {
        count: u64,
    },
    CutOff {
        percent: u64,
    },
    PutPlain {
        key: u8,
        value: u8,
    },
    DeletePlain {
        key: u8,
    },
    DeletePlainRange {
        from: u8,
        to: Option<u8>,
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
        4 => (1..60_u64).prop_map(|count| Step::PutNumbered { count }),
        1 => (0..110_u64).prop_map(|percent| Step::CutOff { percent }),
        6 => (0..20_u8, any::<u8>()).prop_map(|(key, value)| Step::PutPlain { key, value }),
        2 => (0..20_u8).prop_map(|key| Step::DeletePlain { key }),
        2 => (0..20_u8, proptest::option::of(0..22_u8)).prop_map(|(from, to)| Step::DeletePlainRange { from, to }),
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
    numbered: BTreeMap<u64, Bytes>,
    plain: BTreeMap<u8, u8>,
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
    fn apply(&mut self, step: &Step) -> Option<Vec<Op>> {
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
            Step::PutNumbered { count } => {
                let next = self.numbered.keys().last().map_or(0, |last| last + 1);
                let rows: Vec<_> = (0..count).map(|at| numbered_row(next + at * 3 + 2)).collect();
                for (key, value) in &rows {
                    self.numbered.insert(number_of(key).unwrap(), value.clone());
                }
                return Some(rows::put_all(&NUMBERED, &rows));
            }
            Step::CutOff { percent } => {
                let last = self.numbered.keys().last().copied().unwrap_or(0);
                let below = last * percent / 100;
                self.numbered.retain(|number, _| *number >= below);
                Op::CutOff(Some(below))
            }
            Step::PutPlain { key, value } => {
                self.plain.insert(key, value);
                rows::put(&PLAIN, vec![key], vec![value])
            }
            Step::DeletePlain { key } => {
                self.plain.remove(&key);
                let key = vec![key].into();
                Op::Row(RowChange::Delete { table: &PLAIN, key })
            }
            Step::DeletePlainRange { from, to } => {
                self.plain
                    .retain(|key, _| *key < from || to.is_some_and(|to| *key >= to));
                Op::Row(RowChange::DeleteRange {
                    table: &PLAIN,
                    from: vec![from].into(),
                    to: to.map(|to| vec![to].into()),
                })
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
        Some(vec![op])
    }

    fn check(&self, store: &impl Store, group: GroupId) {
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
        let end = self.numbered.keys().last().copied().unwrap_or(0) + 2;
        for from in [0, end / 3, end / 2, end.saturating_sub(4), end] {
            for limit in [1, 10, 1000] {
                let rows: Vec<_> = self
                    .numbered
                    .range(from..)
                    .map(|(number, _)| numbered_row(*number))
                    .take(limit)
                    .collect();
                assert_eq!(numbered(store, group, from, limit), rows);
            }
        }
        let plain = |keys: std::ops::Range<u8>, limit: usize| -> Vec<_> {
            let rows = self.plain.range(keys).take(limit);
            rows.map(|(key, value)| (Bytes::from(vec![*key]), Bytes::from(vec![*value])))
                .collect()
        };
        assert_eq!(rows::all(store, group, &PLAIN), plain(0..255, 1000));
        for (from, to, limit) in [(0, 5, 1000), (3, 12, 4), (11, 12, 2), (7, 30, 1)] {
            let keys = KeyRange {
                from: &[from],
                to: Some(&[to]),
            };
            assert_eq!(rows::scan(store, group, &PLAIN, keys, limit), plain(from..to, limit));
        }
        for key in [0, 7, 19] {
            let found = store.get_row(group, &PLAIN, &[key]).unwrap();
            assert_eq!(found.as_deref(), self.plain.get(&key).map(std::slice::from_ref));
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

/// The disk of a store in memory.
struct InMemory(MemoryDisk);

impl Disk for InMemory {
    type Store = MemoryStore;

    fn open(&self) -> MemoryStore {
        MemoryStore::open(&self.0, &TABLES, Box::new(|cause| panic!("fenced: {cause}"))).unwrap()
    }
}

fn open_all<D: Disk>(disk: &D) -> D::Store {
    let store = disk.open();
    for group in 0..GROUPS {
        store.open_group(GroupId(group)).unwrap();
    }
    store
}

fn compare<D: Disk>(disk: &D, steps: &[(u64, Step)]) {
    let mut store = open_all(disk);
    let mut models = vec![Model::default(); GROUPS as usize];
    for (group, step) in steps {
        let model = &mut models[*group as usize];
        let group = GroupId(*group);
        match (model.apply(step), step) {
            (Some(ops), _) => store.write(group, ops, Durability::Lazy, None),
            (None, Step::Sync) => write_synced(&store, group, Vec::new()).unwrap(),
            (None, Step::CloseAndOpen) => {
                store.close_group(group);
                store.open_group(group).unwrap();
            }
            (None, _) => {
                drop(store);
                store = open_all(disk);
            }
        }
        model.check(&store, group);
    }
    drop(store);
    let store = open_all(disk);
    for (group, model) in models.iter().enumerate() {
        model.check(&store, GroupId(group as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_and_model_agree(steps in proptest::collection::vec((0..GROUPS, step()), 1..80)) {
        compare(&Directory::new(), &steps);
    }

    #[test]
    fn memory_store_and_model_agree(steps in proptest::collection::vec((0..GROUPS, step()), 1..80)) {
        compare(&InMemory(MemoryDisk::new()), &steps);
    }
}
