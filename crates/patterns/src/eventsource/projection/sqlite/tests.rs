//! The store of a projection in a real database, without a log: what it keeps and how far it has come are one.

use super::*;
use crate::eventsource::Commit;
use proptest::prelude::*;

/// Of each key the offsets that were applied, in their order; an event of 0 is refused by the database.
struct Applied;

impl SqliteView for Applied {
    type Event = i64;

    const TABLES: &'static [&'static str] = &["applied"];

    fn create(&self, db: &Connection, tables: &Tables) -> rusqlite::Result<()> {
        let table = tables.name("applied");
        db.execute_batch(&format!(
            "CREATE TABLE {table} (place INTEGER PRIMARY KEY, partition INTEGER, at INTEGER, event INTEGER CHECK (event <> 0))"
        ))
    }

    fn apply(&self, db: &Connection, tables: &Tables, committed: &Committed<i64>) -> rusqlite::Result<()> {
        let sql = format!(
            "INSERT INTO {} (partition, at, event) VALUES (?1, ?2, ?3)",
            tables.name("applied")
        );
        for event in &committed.commit.events {
            db.execute(&sql, params![committed.partition, committed.offset, event])?;
        }
        Ok(())
    }
}

const PARTITIONS: u32 = 2;

/// A store on a connection of its own, as another process has one.
fn store(folder: &tempfile::TempDir) -> Store<Applied> {
    let db = open_database(&folder.path().join("view.db")).expect("a database");
    let store = Store {
        db: Arc::new(Mutex::new(db)),
        name: "applied".into(),
        view: Arc::new(Applied),
    };
    store.create_first(PARTITIONS).expect("it is created");
    store
}

fn committed(partition: u32, offset: i64, event: i64) -> Committed<i64> {
    Committed {
        key: "k".to_owned(),
        partition,
        offset,
        timestamp_ms: 0,
        commit: Commit {
            id: String::new(),
            events: vec![event],
        },
    }
}

/// What readers see: of a partition the offsets, and the position.
fn seen(reader: &SqliteReader, partition: u32) -> (Vec<i64>, i64) {
    let offsets = reader.query(|db| {
        let mut found = db.prepare("SELECT at FROM applied WHERE partition = ?1 ORDER BY place")?;
        found.query_map([partition], |row| row.get(0))?.collect()
    });
    let position = reader.positions().expect("it is read")[&partition];
    (offsets.expect("it is read"), position)
}

fn reader(folder: &tempfile::TempDir) -> SqliteReader {
    SqliteReader::open(&folder.path().join("view.db"), "applied").expect("it is opened")
}

/// Stores what partition 0 has between two offsets.
fn advance(store: &Store<Applied>, generation: i64, (from, to): (i64, i64)) -> rusqlite::Result<Stored> {
    let commits: Vec<_> = (from..to).map(|offset| committed(0, offset, 1)).collect();
    let other = positions(&lock(&store.db), "applied", generation)?
        .get(&1)
        .copied()
        .unwrap_or(0);
    let moved = (
        BTreeMap::from([(0, from), (1, other)]),
        BTreeMap::from([(0, to), (1, other)]),
    );
    store.store(generation, &commits, &moved)
}

#[test]
fn a_commit_that_the_view_refuses_leaves_neither_rows_nor_a_position() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, reader) = (store(&folder), reader(&folder));
    let moved = (BTreeMap::from([(0, 0), (1, 0)]), BTreeMap::from([(0, 2), (1, 0)]));
    let refused = store.store(1, &[committed(0, 0, 1), committed(0, 1, 0)], &moved);
    refused.expect_err("the database refuses it");
    assert_eq!(seen(&reader, 0), (vec![], 0));
    assert_eq!(advance(&store, 1, (0, 2)), Ok(Stored::Yes));
    assert_eq!(seen(&reader, 0), (vec![0, 1], 2));
}

#[test]
fn of_two_processes_at_one_place_one_applies_its_batch() {
    let folder = tempfile::tempdir().expect("a folder");
    let (here, there, reader) = (store(&folder), store(&folder), reader(&folder));
    assert_eq!(advance(&here, 1, (0, 3)), Ok(Stored::Yes));
    assert_eq!(advance(&there, 1, (0, 2)), Ok(Stored::Moved), "the other one was first");
    assert_eq!(advance(&there, 1, (3, 4)), Ok(Stored::Yes));
    assert_eq!(seen(&reader, 0), (vec![0, 1, 2, 3], 4));
}

#[test]
fn a_rebuild_takes_over_when_it_has_come_as_far_and_not_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, reader) = (store(&folder), reader(&folder));
    assert_eq!(advance(&store, 1, (0, 3)), Ok(Stored::Yes));
    assert_eq!(store.rebuild(PARTITIONS), Ok(2));
    assert_eq!(store.rebuild(PARTITIONS), Ok(2), "it was begun before");
    assert_eq!(advance(&store, 2, (0, 2)), Ok(Stored::Yes));
    assert_eq!(reader.generations().expect("it is read"), (1, Some(2)));
    assert_eq!(seen(&reader, 0), (vec![0, 1, 2], 3), "readers see what they saw");
    assert_eq!(advance(&store, 1, (3, 4)), Ok(Stored::Yes), "the live one goes on");
    assert_eq!(advance(&store, 2, (2, 3)), Ok(Stored::Yes));
    assert_eq!(reader.generations().expect("it is read").0, 1);
    assert_eq!(advance(&store, 2, (3, 4)), Ok(Stored::Yes));
    assert_eq!(reader.generations().expect("it is read"), (2, None));
    assert_eq!(seen(&reader, 0), (vec![0, 1, 2, 3], 4));
    assert_eq!(advance(&store, 1, (4, 5)), Ok(Stored::Moved), "the old one is gone");
    assert_eq!(advance(&store, 2, (4, 5)), Ok(Stored::Yes));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Several processes store batches of any size, of either generation, from where the database says or from where they were before; one
    /// of them begins a rebuild now and then. Readers never go back, and see each offset once, up to the position.
    #[test]
    fn readers_see_each_commit_once_up_to_the_position_and_never_go_back(
        turns in prop::collection::vec((0_usize..3, any::<bool>(), 0_i64..4, any::<bool>(), 0_u8..12), 1..60),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let stores = [store(&folder), store(&folder), store(&folder)];
        let reader = reader(&folder);
        let mut known: BTreeMap<(usize, i64), i64> = BTreeMap::new();
        let mut before = 0;
        for (process, is_live, more, is_stale, rebuild) in turns {
            let store = &stores[process];
            if rebuild == 0 {
                store.rebuild(PARTITIONS).expect("it begins");
            }
            let (live, building) = reader.generations().expect("it is read");
            let generation = if is_live { live } else { building.unwrap_or(live) };
            let now = positions(&lock(&store.db), "applied", generation).expect("it is read")[&0];
            let from = match is_stale {
                true => known.get(&(process, generation)).copied().unwrap_or(0),
                false => now,
            };
            let stored = advance(store, generation, (from, from + more)).expect("it is stored");
            if more > 0 {
                prop_assert_eq!(stored == Stored::Yes, from == now);
            }
            known.insert((process, generation), from + if stored == Stored::Yes { more } else { 0 });
            let (offsets, position) = seen(&reader, 0);
            prop_assert_eq!(offsets, (0..position).collect::<Vec<_>>());
            prop_assert!(position >= before, "{} after {}", position, before);
            before = position;
        }
    }
}
