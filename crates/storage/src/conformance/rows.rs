//! Scenarios of tables of rows.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use jangada_types::table::{CutOff, KeyForm, number_key};
use jangada_types::{GroupId, RowChange, RowError, Table, TableId};

use super::{A, B, Disk, now_and_after_reopening, queue, write};
use crate::error::StoreError;
use crate::store::{KeyRange, Op, Store, first_at_or_after};

/// A table as that of offsets: rows come in order, are cut off with the log, and the newest ones stay in memory.
pub static NUMBERED: Table = Table {
    recent_rows: 64,
    cut_off: CutOff::ByKey,
    ..Table::new(TableId(1), "numbered", KeyForm::Number)
};

/// A table as that of record keys: rows come in any order, and go when the store compacts.
pub static NAMED: Table = Table {
    value_bytes: Some(9),
    bloom_filter: true,
    cut_off: CutOff::WhenCompacted(position_in_value),
    ..Table::new(TableId(2), "named", KeyForm::Bytes)
};

/// A table that says little but its name: its rows have keys.
pub static PLAIN: Table = Table {
    check: |_, key, _| match key {
        [] => Err(RowError::Damaged("a row without a key".to_owned())),
        _ => Ok(None),
    },
    ..Table::new(TableId(77), "plain", KeyForm::Bytes)
};

/// What the store of a [`Disk`] is opened with.
pub static TABLES: [&Table; 3] = [&NUMBERED, &NAMED, &PLAIN];

fn position_in_value(_key: &[u8], value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.strip_prefix("value ")?.parse().ok()
}

/// A row: key and value.
pub type Row = (Bytes, Bytes);

/// The row with a number for its key.
pub fn numbered_row(number: u64) -> Row {
    (number_key(number), Bytes::from(format!("value {number}")))
}

/// Rows with these numbers, as [`numbered_row`] makes them.
pub fn numbered_rows(numbers: Range<u64>) -> Vec<Row> {
    numbers.map(numbered_row).collect()
}

/// The operation that puts a row.
pub fn put(table: &'static Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    let (key, value) = (key.into(), value.into());
    Op::Row(RowChange::Put { table, key, value })
}

/// The operations that put these rows.
pub fn put_all(table: &'static Table, rows: &[Row]) -> Vec<Op> {
    let rows = rows.iter();
    rows.map(|(key, value)| put(table, key.clone(), value.clone()))
        .collect()
}

fn delete(table: &'static Table, key: &'static str) -> Op {
    let key = key.into();
    Op::Row(RowChange::Delete { table, key })
}

fn delete_range(table: &'static Table, from: &'static str, to: Option<&'static str>) -> Op {
    Op::Row(RowChange::DeleteRange {
        table,
        from: from.into(),
        to: to.map(Into::into),
    })
}

/// Rows of a range of keys.
pub fn scan(store: &impl Store, group: GroupId, table: &'static Table, keys: KeyRange<'_>, limit: usize) -> Vec<Row> {
    let mut found = Vec::new();
    let scanned = store.scan_rows(group, table, keys, limit, &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        Ok(ControlFlow::Continue(()))
    });
    scanned.expect("readable");
    found
}

/// All rows of a table.
pub fn all(store: &impl Store, group: GroupId, table: &'static Table) -> Vec<Row> {
    scan(store, group, table, KeyRange::from(b""), usize::MAX)
}

/// Rows of [`NUMBERED`] from a number on.
pub fn numbered(store: &impl Store, group: GroupId, from: u64, limit: usize) -> Vec<Row> {
    scan(store, group, &NUMBERED, KeyRange::from(&number_key(from)), limit)
}

/// The value of a row, as text.
fn text(store: &impl Store, group: GroupId, table: &'static Table, key: &str) -> Option<String> {
    let value = store.get_row(group, table, key.as_bytes()).expect("readable");
    value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
}

/// The first row with a key or a higher one, whether it is on disk or in memory only.
pub fn rows_are_found_from_a_key_on<D: Disk>(disk: &D) {
    let rows: Vec<Row> = (0..500).map(|at| numbered_row(at * 10 + 9)).collect();
    let store = disk.open();
    store.open_group(A).expect("opens");
    store.open_group(B).expect("opens");
    write(&store, A, put_all(&NUMBERED, &rows[..400]));
    queue(&store, B, put_all(&NUMBERED, &rows[..1]));
    queue(&store, A, put_all(&NUMBERED, &rows[400..]));
    queue(&store, A, vec![Op::CutOff(Some(100))]);
    now_and_after_reopening(disk, store, &[A, B], |store| {
        let found = |group, from, limit| numbered(store, group, from, limit);
        assert_eq!(found(A, 0, 3), rows[10..13]);
        assert_eq!(found(A, 100, 1), rows[10..11]);
        assert_eq!(found(A, 109, 1), rows[10..11]);
        assert_eq!(found(A, 110, 1), rows[11..12]);
        assert_eq!(found(A, 3985, 5), rows[398..403]);
        assert_eq!(found(A, 4995, 10), rows[499..]);
        assert_eq!(found(A, 0, 1000), rows[10..]);
        assert!(found(A, 5000, 10).is_empty());
        assert_eq!(found(B, 0, 10), rows[..1]);
        let (from, to) = (number_key(119), number_key(139));
        let keys = KeyRange {
            from: &from,
            to: Some(&to),
        };
        assert_eq!(scan(store, A, &NUMBERED, keys, 10), rows[11..13]);
        let get = |number| store.get_row(A, &NUMBERED, &number_key(number)).expect("readable");
        assert_eq!((get(109), get(110), get(99)), (Some(rows[10].1.clone()), None, None));
    });
}

/// Rows of groups and tables are kept apart, the last value counts, and a key is its bytes.
pub fn rows_have_the_value_that_was_put_last<D: Disk>(disk: &D) {
    let store = disk.open();
    for group in [A, B] {
        store.open_group(group).expect("opens");
    }
    write(
        &store,
        A,
        vec![put(&NAMED, "", "1"), put(&NAMED, "a", "2"), put(&NAMED, "ab", "3")],
    );
    let high = Bytes::from_static(b"\xff\xff");
    queue(&store, B, vec![put(&NAMED, "a", "7"), put(&NAMED, high.clone(), "8")]);
    queue(&store, A, vec![put(&NAMED, "a", "9"), put(&PLAIN, "a", "plain")]);
    now_and_after_reopening(disk, store, &[A, B], |store| {
        let of_a = ["", "a", "ab", "abc"].map(|key| text(store, A, &NAMED, key));
        assert_eq!(of_a, [Some("1".into()), Some("9".into()), Some("3".into()), None]);
        assert_eq!(text(store, A, &PLAIN, "a").as_deref(), Some("plain"));
        assert_eq!((text(store, A, &PLAIN, ""), text(store, B, &NAMED, "")), (None, None));
        assert_eq!(
            all(store, B, &NAMED),
            [("a".into(), "7".into()), (high.clone(), "8".into())]
        );
    });
    let store = disk.open();
    store.open_group(A).expect("opens");
    store.open_group(B).expect("opens");
    queue(&store, A, vec![Op::DeleteGroup]);
    queue(&store, A, vec![put(&NAMED, "ab", "0")]);
    now_and_after_reopening(disk, store, &[A, B], |store| {
        let found = (text(store, A, &NAMED, "a"), text(store, A, &NAMED, "ab"));
        assert_eq!(found, (None, Some("0".into())));
        assert_eq!(text(store, B, &NAMED, "a").as_deref(), Some("7"));
        assert_eq!(all(store, A, &NAMED), [("ab".into(), "0".into())]);
    });
}

/// Puts, deletions and deletions of ranges take effect in their order, before they are on disk and after, in any table whose keys
/// may be any bytes.
pub fn rows_come_and_go_in_each_table<D: Disk>(disk: &D) {
    for table in [&NAMED, &PLAIN] {
        let store = disk.open();
        for group in [A, B] {
            store.open_group(group).expect("opens");
            let keys = ["a", "b", "c", "d", "e", "f", "g"];
            write(&store, group, keys.map(|key| put(table, key, "old")).to_vec());
        }
        let names = |store: &D::Store, group| -> Vec<String> {
            let rows = all(store, group, table);
            rows.iter()
                .map(|(key, value)| format!("{}={}", key.escape_ascii(), value.escape_ascii()))
                .collect()
        };
        queue(
            &store,
            A,
            vec![
                delete(table, "a"),
                delete(table, "none"),
                delete_range(table, "c", Some("e")),
                put(table, "d", "new"),
                put(table, "cc", "new"),
                // Of no keys: nothing happens.
                delete_range(table, "e", Some("e")),
                delete_range(table, "f", Some("a")),
            ],
        );
        let expected = ["b=old", "cc=new", "d=new", "e=old", "f=old", "g=old"];
        assert_eq!(names(&store, A), expected);
        queue(&store, A, vec![delete_range(table, "f", None), put(table, "h", "new")]);
        queue(&store, A, vec![delete(table, "b"), put(table, "b", "again")]);
        let expected = ["b=again", "cc=new", "d=new", "e=old", "h=new"];
        now_and_after_reopening(disk, store, &[A, B], |store| {
            assert_eq!(names(store, A), expected, "{table:?}");
            assert_eq!(names(store, B).len(), 7, "the neighbour keeps its rows");
            assert_eq!(text(store, A, table, "g"), None);
        });
        let store = disk.open();
        store.open_group(A).expect("opens");
        store.open_group(B).expect("opens");
        write(&store, A, vec![delete_range(table, "", None)]);
        now_and_after_reopening(disk, store, &[A, B], |store| {
            assert!(names(store, A).is_empty());
            assert_eq!(names(store, B).len(), 7);
        });
    }
}

/// A scan ends at its limit or where its visitor has enough, with rows on disk, in memory and of both.
pub fn rows_are_shown_until_there_are_enough<D: Disk>(disk: &D) {
    let store = disk.open();
    store.open_group(A).expect("opens");
    let rows = numbered_rows(0..20);
    let even: Vec<Row> = rows.iter().step_by(2).cloned().collect();
    let odd: Vec<Row> = rows.iter().skip(1).step_by(2).cloned().collect();
    write(&store, A, put_all(&PLAIN, &even));
    queue(&store, A, put_all(&PLAIN, &odd));
    now_and_after_reopening(disk, store, &[A], |store| {
        for limit in [0, 1, 2, 7, 20, 21] {
            let found = scan(store, A, &PLAIN, KeyRange::from(b""), limit);
            assert_eq!(found, rows[..limit.min(20)], "at most {limit}");
        }
        let mut seen = 0;
        let scanned = store.scan_rows(A, &PLAIN, KeyRange::from(b""), usize::MAX, &mut |_, _| {
            seen += 1;
            Ok(match seen {
                5 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        });
        scanned.expect("readable");
        assert_eq!(seen, 5);
        let first = |key: Bytes| {
            let found = first_at_or_after(store, A, &PLAIN, &key, |key, _| Ok(Bytes::copy_from_slice(key)));
            found.expect("readable")
        };
        assert_eq!(first(number_key(7)), Some(number_key(7)));
        assert_eq!(first("\u{7f}".into()), None);
    });
}

/// A new start of the log takes rows below it from a table whose keys are positions, a snapshot takes all of them, and neither
/// touches a table that says nothing of the log. Rows that go when the store compacts are there or not.
pub fn rows_are_cut_off_with_the_log_as_their_table_says<D: Disk>(disk: &D) {
    let store = disk.open();
    let rows = numbered_rows(0..30);
    for group in [A, B] {
        store.open_group(group).expect("opens");
        for table in TABLES {
            write(&store, group, put_all(table, &rows));
        }
    }
    queue(&store, A, vec![Op::CutOff(Some(12))]);
    queue(&store, A, vec![Op::CutOff(Some(5))]);
    now_and_after_reopening(disk, store, &[A, B], |store| {
        assert_eq!(all(store, A, &NUMBERED), rows[12..]);
        assert_eq!(all(store, A, &PLAIN), rows);
        let named = all(store, A, &NAMED);
        assert!(named.ends_with(&rows[12..]) && rows.ends_with(&named[named.len() - 18..]));
        for table in TABLES {
            assert_eq!(all(store, B, table), rows, "{table:?} of the neighbour");
        }
    });
    let store = disk.open();
    store.open_group(A).expect("opens");
    let mut ops = vec![Op::CutOff(None)];
    ops.extend(put_all(&NUMBERED, &rows[..3]));
    queue(&store, A, ops);
    now_and_after_reopening(disk, store, &[A, B], |store| {
        assert_eq!(
            all(store, A, &NUMBERED),
            rows[..3],
            "what comes after the snapshot stays"
        );
        assert_eq!(all(store, A, &PLAIN), rows);
        assert!(all(store, A, &NAMED).ends_with(&rows[12..]), "they outlive a snapshot");
    });
}

/// What a visitor cannot read is told as damage, but not what a later version wrote.
pub fn a_row_that_cannot_be_read_is_damage_of_its_group<D: Disk>(disk: &D) {
    let store = disk.open();
    for group in [A, B] {
        store.open_group(group).expect("opens");
        write(&store, group, vec![put(&PLAIN, "key", "value")]);
    }
    let read = |group, error: RowError| {
        store.scan_rows(group, &PLAIN, KeyRange::from(b""), usize::MAX, &mut |_, _| {
            Err(error.clone())
        })
    };
    let later = read(A, RowError::LaterVersion("version 9".into()));
    assert!(matches!(later, Err(StoreError::LaterVersion(_))), "{later:?}");
    assert!(store.damage().of(A).is_none());
    let damaged = read(A, RowError::Damaged("half a row".into()));
    assert!(
        matches!(&damaged, Err(StoreError::Damaged { group: A, .. })),
        "{damaged:?}"
    );
    assert!(store.damage().of(A).is_some() && store.damage().of(B).is_none());
}
