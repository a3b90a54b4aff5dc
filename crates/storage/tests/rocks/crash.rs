//! A process that is killed loses nothing that it acknowledged, and no doubt arises.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use jangada_storage::conformance::rows::{self, NUMBERED, PLAIN, numbered_row, numbered_rows};
use jangada_storage::conformance::{Disk, entry, write_synced};
use jangada_storage::{Durability, LogEntry, Op, RocksStore, Store};
use jangada_types::table::number_key;
use jangada_types::{GroupId, RowChange};

use crate::directory::{Directory, eventually, open_small};

const CHILD_DIRECTORY: &str = "JANGADA_CRASH_TEST_DIRECTORY";
const RUNS: usize = 20;
const GROUPS: u64 = 4;
/// Rows of the plain table that there are at once.
const PLAIN_ROWS: u64 = 10;

/// Large enough that memtables are flushed and WALs recycled while the child lives.
fn large_entry(index: u64) -> LogEntry {
    let mut entry = entry(index, 1);
    entry.body = Bytes::from(vec![index as u8; 20_000]);
    entry
}

/// RocksDB refuses to open a database whose last batch had an empty range in it, the second time.
#[test]
fn a_deletion_of_nothing_does_no_harm() {
    let disk = Directory::new();
    let nothing = [
        Op::CutOff(Some(0)),
        Op::Row(RowChange::DeleteRange {
            table: &PLAIN,
            from: "b".into(),
            to: Some("a".into()),
        }),
        Op::TruncateAfter(None),
        Op::Purge { upto: 0, upto_term: 0 },
        Op::DeleteGroup,
    ];
    for op in nothing {
        for ops in [vec![op], Vec::new(), Vec::new()] {
            let store = disk.open();
            store.open_group(GroupId(0)).unwrap();
            write_synced(&store, GroupId(0), ops).unwrap();
        }
    }
}

/// Not a test of its own: what the killed process does. Without its variable it does nothing.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let (store, recovery) = open_small(&directory.join("data"));
    assert_eq!(recovery.lost_tail, None);
    for group in 0..GROUPS {
        store.open_group(GroupId(group)).unwrap();
    }
    loop {
        write_to_all_groups(&store, directory);
    }
}

fn write_to_all_groups(store: &RocksStore, directory: &Path) {
    let acknowledged = directory.join("acknowledged");
    for group in 0..GROUPS {
        let next = store.bounds(GroupId(group)).next_index().unwrap_or(0);
        let acknowledged = acknowledged.clone();
        let done = Box::new(move |result: Result<(), _>| {
            result.unwrap();
            let mut file = OpenOptions::new().append(true).create(true).open(acknowledged).unwrap();
            // In one call, so that a kill does not tear the line.
            file.write_all(format!("{group} {next}\n").as_bytes()).unwrap();
        });
        let (key, value) = numbered_row(next);
        let mut ops = vec![
            Op::Append(vec![large_entry(next)]),
            rows::put(&NUMBERED, key.clone(), value.clone()),
            rows::put(&PLAIN, key, value),
        ];
        if let Some(old) = next.checked_sub(PLAIN_ROWS) {
            ops.push(Op::Row(RowChange::Delete {
                table: &PLAIN,
                key: number_key(old),
            }));
        }
        if next > 100 && next.is_multiple_of(50) {
            ops.push(Op::Purge {
                upto: next - 100,
                upto_term: 1,
            });
            ops.push(Op::CutOff(Some(next - 99)));
        }
        store.write(GroupId(group), ops, Durability::Synced, Some(done));
    }
    while store.statistics().queue_bytes > 1 << 20 {
        std::thread::yield_now();
    }
}

/// Last acknowledged index per group.
fn acknowledged(directory: &Path) -> BTreeMap<u64, u64> {
    let text = std::fs::read_to_string(directory.join("acknowledged")).unwrap_or_default();
    text.lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(group, index)| (group.parse().unwrap(), index.parse().unwrap()))
        .collect()
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let disk = Directory::new();
    for run in 1..=RUNS {
        let before = acknowledged(disk.path()).values().sum::<u64>();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_writes_until_it_is_killed"])
            .env(CHILD_DIRECTORY, disk.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let enough = before + 40 * run as u64;
        eventually("the child writes", || {
            acknowledged(disk.path()).values().sum::<u64>() > enough
        });
        child.kill().unwrap();
        child.wait().unwrap();

        let (store, recovery) = open_small(&disk.path().join("data"));
        assert_eq!(recovery.lost_tail, None, "run {run}");
        for (group, last) in acknowledged(disk.path()) {
            let bounds = store.open_group(GroupId(group)).unwrap();
            let range = bounds.first_index()..bounds.next_index().unwrap();
            assert!(
                range.contains(&last),
                "run {run}: group {group} lost {last} of {range:?}"
            );
            let rows_of = |table| rows::all(&store, GroupId(group), table);
            assert_eq!(rows_of(&NUMBERED), numbered_rows(range.clone()), "run {run}");
            let plain = range.end.saturating_sub(PLAIN_ROWS)..range.end;
            assert_eq!(rows_of(&PLAIN), numbered_rows(plain), "run {run}");
            let found = store.read_log(GroupId(group), range.clone(), usize::MAX).unwrap();
            assert_eq!(found, range.map(large_entry).collect::<Vec<_>>(), "run {run}");
        }
    }
}

#[test]
fn a_store_that_was_never_written_opens_again() {
    let disk = Directory::new();
    for _ in 0..3 {
        assert!(disk.open().groups().unwrap().is_empty());
    }
}

#[test]
fn a_second_process_is_refused() {
    let disk = Directory::new();
    let _store = disk.open();
    let again = RocksStore::open(crate::directory::small_options(disk.path()), Box::new(|_| ()));
    let error = again.err().unwrap();
    assert!(matches!(error, jangada_storage::StoreError::InUse(_)), "{error}");
}
