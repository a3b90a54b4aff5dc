//! Rows that go into the row behind them, as those of a compacted log do, while others read them.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_storage::conformance::{entries, write_synced};
use jangada_storage::{KeyRange, Op, RocksStore, ScrubCursor, Store, StoreOptions};
use jangada_types::table::{CutOff, KeyForm, number_key, number_of};
use jangada_types::{GroupId, RowChange, RowError, Table, TableId};

use crate::directory::{Directory, open_with, small_options};

/// Each row has the first number that it stands for, and begins where the one before ends.
static FOLLOWING: Table = Table {
    recent_rows: 64,
    cut_off: CutOff::ByKey,
    check: follows,
    ..Table::new(TableId(1), "following", KeyForm::Number)
};

const GROUP: GroupId = GroupId(1);
const ROWS: u64 = 400;

fn follows(before: Option<u64>, key: &[u8], value: &[u8]) -> Result<Option<u64>, RowError> {
    let damaged = || RowError::Damaged("a row does not begin where the one before ends".to_owned());
    let first = u64::from_le_bytes(value.try_into().map_err(|_| damaged())?);
    match before {
        Some(expected) if expected != first => Err(damaged()),
        _ => Ok(Some(number_of(key)? + 1)),
    }
}

fn put(number: u64, first: u64) -> RowChange {
    RowChange::Put {
        table: &FOLLOWING,
        key: number_key(number),
        value: Bytes::copy_from_slice(&first.to_le_bytes()),
    }
}

/// A row goes into the next one.
fn merge(number: u64) -> [RowChange; 2] {
    let table = &FOLLOWING;
    let key = number_key(number);
    [RowChange::Delete { table, key }, put(number + 1, number)]
}

fn rewrite(rows: impl IntoIterator<Item = RowChange>) -> Vec<Op> {
    vec![Op::Rewrite {
        entries: Vec::new(),
        rows: rows.into_iter().map(|row| (0, row)).collect(),
    }]
}

/// A group whose log has one entry, about which all rows are.
fn filled(disk: &Directory, groups: u64) -> RocksStore {
    let options = StoreOptions {
        tables: vec![&FOLLOWING],
        ..small_options(disk.path())
    };
    let store = open_with(options).0;
    for group in (1..=groups).map(GroupId) {
        store.open_group(group).expect("it opens");
        let rows = (0..ROWS).map(|number| Op::Row(put(number, number)));
        let ops = [Op::Append(entries(0..1, 1))].into_iter().chain(rows);
        write_synced(&store, group, ops.collect()).expect("it is written");
    }
    store
}

#[test]
fn a_scrub_takes_no_row_for_damage_that_took_over_the_one_before_between_two_pieces() {
    const GROUPS: u64 = 12;
    let disk = Directory::new();
    let store = filled(&disk, GROUPS);
    for group in 1..=GROUPS {
        let (mut cursor, mut pieces) = (ScrubCursor::default(), 0);
        // The boundaries lie at another row in each group.
        let max_bytes = 150 + 13 * group;
        loop {
            let piece = store.scrub(GroupId(group), cursor, max_bytes);
            let Some(next) = piece.expect("nothing is damaged").next else {
                break;
            };
            (cursor, pieces) = (next, pieces + 1);
            if pieces == 4 {
                let pairs = (0..ROWS).step_by(2).flat_map(merge);
                write_synced(&store, GroupId(group), rewrite(pairs)).expect("it is written");
            }
        }
        assert!(pieces > 8, "{pieces} pieces");
        assert_eq!(store.damage().of(GroupId(group)), None);
    }
    // One that is missing is still found, wherever a piece ends.
    for number in 101..=140 {
        let table = &FOLLOWING;
        let key = number_key(number);
        if number % 2 == 1 {
            write_synced(&store, GROUP, rewrite([RowChange::Delete { table, key }])).expect("it is written");
            let mut cursor = ScrubCursor::default();
            let found = loop {
                match store.scrub(GROUP, cursor, 180) {
                    Ok(piece) => match piece.next {
                        Some(next) => cursor = next,
                        None => break false,
                    },
                    Err(_) => break true,
                }
            };
            assert!(found, "row {number} is missing");
            write_synced(&store, GROUP, rewrite([put(number, number - 1)])).expect("it is written");
        }
    }
}

/// The newest rows are in memory, and those before them on the disk: both of one moment.
#[test]
fn a_scan_shows_rows_of_one_moment_while_some_are_merged() {
    let disk = Directory::new();
    let store = filled(&disk, 1);
    // The last row that is on disk only, and the first one that stays in memory.
    let last_on_disk = ROWS - 64 - 1;
    let is_over = AtomicBool::new(false);
    let until = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < until {
                write_synced(&store, GROUP, rewrite(merge(last_on_disk))).expect("it is written");
                let split = [put(last_on_disk, last_on_disk), put(last_on_disk + 1, last_on_disk + 1)];
                write_synced(&store, GROUP, rewrite(split)).expect("it is written");
            }
            is_over.store(true, Relaxed);
        });
        while !is_over.load(Relaxed) {
            let (mut next, from) = (Some(ROWS - 80), number_key(ROWS - 80));
            let shown = store.scan_rows(
                GROUP,
                &FOLLOWING,
                KeyRange::from(&from),
                usize::MAX,
                &mut |key, value| {
                    next = follows(next, key, value)?;
                    Ok(ControlFlow::Continue(()))
                },
            );
            shown.expect("each row begins where the one before ends");
            assert_eq!(next, Some(ROWS));
        }
    });
}
