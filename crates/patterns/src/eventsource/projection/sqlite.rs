//! A projection into SQLite: tables, and the position in the same transaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jangada_client::{Client, Consumer, ConsumerConfig, Env, StartAt};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::has_come_as_far;
use crate::error::PatternError;
use crate::eventsource::reader::{Committed, next};

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a reader that waits for an offset looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How often a projection without new events looks whether a rebuild was begun.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);

/// How long a projection stands by that was overtaken by the same one in another process.
const STANDBY: Duration = Duration::from_secs(1);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS jangada_projection (
        name TEXT PRIMARY KEY, live INTEGER NOT NULL, building INTEGER);
    CREATE TABLE IF NOT EXISTS jangada_position (
        name TEXT, generation INTEGER, partition INTEGER, position INTEGER NOT NULL, PRIMARY KEY (name, generation, partition));
";

/// What a projection keeps in SQLite.
///
/// A new program may change what `apply` does and [rebuild](SqliteProjection::rebuild), when the old one has stopped, which would fill the
/// new generation in its own way. Until the switch it applies new events to the old tables, too. So tables of another shape are another
/// projection, with another name and other [`TABLES`](Self::TABLES), beside the old one until nobody reads that any more.
pub trait SqliteView: Send + Sync + 'static {
    /// The events that it is made of.
    type Event: DeserializeOwned + Send + Sync + 'static;

    /// The names of its tables. Readers find the live generation of each under its name, as an SQL view.
    const TABLES: &'static [&'static str];

    /// Creates the tables of a generation, under the names that [`Tables::name`] gives them.
    ///
    /// # Errors
    /// What SQLite says.
    fn create(&self, db: &Connection, tables: &Tables) -> rusqlite::Result<()>;

    /// Brings the tables up to date. It is called within a transaction, which has the position, too; it must depend on nothing but the
    /// tables and the commit, so that a rebuild comes to the same.
    ///
    /// # Errors
    /// What SQLite says: the commit is then applied again.
    fn apply(&self, db: &Connection, tables: &Tables, committed: &Committed<Self::Event>) -> rusqlite::Result<()>;
}

/// The names of the tables of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    generation: i64,
}

impl Tables {
    /// The name of a table, or of an index, in this generation.
    pub fn name(&self, table: &str) -> String {
        format!("{table}_g{}", self.generation)
    }
}

/// Keeps a view in SQLite as new as the topic. Several processes may have the same one: the position is part of each transaction's
/// condition, so each commit is applied once.
pub struct SqliteProjection<V> {
    client: Client,
    env: Env,
    topic: String,
    partitions: u32,
    store: Store<V>,
}

struct Store<V> {
    db: Arc<Mutex<Connection>>,
    name: Arc<str>,
    view: Arc<V>,
}

impl<V> Clone for Store<V> {
    fn clone(&self) -> Self {
        Self {
            db: self.db.clone(),
            name: self.name.clone(),
            view: self.view.clone(),
        }
    }
}

/// A generation that is being read for.
struct Following {
    generation: i64,
    consumer: Consumer,
    /// The positions as they are in the database.
    positions: BTreeMap<u32, i64>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// It is stored with the new positions.
    Yes,
    /// Another process was first: the positions in the database are others.
    Moved,
}

fn lock(db: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    db.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    Ok(db)
}

/// The generation that is read, and the one that is being filled.
fn generations(db: &Connection, name: &str) -> rusqlite::Result<Option<(i64, Option<i64>)>> {
    let sql = "SELECT live, building FROM jangada_projection WHERE name = ?1";
    db.query_row(sql, [name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

fn positions(db: &Connection, name: &str, generation: i64) -> rusqlite::Result<BTreeMap<u32, i64>> {
    let sql = "SELECT partition, position FROM jangada_position WHERE name = ?1 AND generation = ?2";
    let mut found = db.prepare_cached(sql)?;
    let rows = found.query_map(params![name, generation], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

impl<V: SqliteView> SqliteProjection<V> {
    /// Opens the database, and creates the first generation if there is none. Several projections of one database have different names and
    /// tables.
    ///
    /// # Errors
    /// [`PatternError::Client`] and [`PatternError::Sqlite`].
    pub async fn open(
        client: &Client,
        topic: &str,
        (path, name): (&Path, &str),
        view: V,
    ) -> Result<Self, PatternError> {
        let partitions = client.topic(topic).await?.partitions.len() as u32;
        let db = open_database(path).map_err(PatternError::sqlite("open the projection's database"))?;
        let store = Store {
            db: Arc::new(Mutex::new(db)),
            name: name.into(),
            view: Arc::new(view),
        };
        store
            .create_first(partitions)
            .map_err(PatternError::sqlite("create the projection"))?;
        Ok(Self {
            client: client.clone(),
            env: Env::system(),
            topic: topic.to_owned(),
            partitions,
            store,
        })
    }

    /// Begins to fill a new generation beside the live one, which takes its place when it has come as far. [`run`](Self::run) does it, of
    /// this process or of another one; after a crash it goes on. Returns the number of the new generation, which may have been begun
    /// before; [`SqliteReader::generations`] says when it is live.
    ///
    /// # Errors
    /// [`PatternError::Sqlite`].
    pub fn rebuild(&self) -> Result<i64, PatternError> {
        self.store
            .rebuild(self.partitions)
            .map_err(PatternError::sqlite("begin to rebuild the projection"))
    }

    /// A reader of the same database.
    ///
    /// # Errors
    /// [`PatternError::Sqlite`].
    pub fn reader(&self, path: &Path) -> Result<SqliteReader, PatternError> {
        SqliteReader::open(path, &self.store.name)
    }

    /// Keeps the live generation up to date, and fills the one that is being built, until `stop` is ready.
    ///
    /// # Errors
    /// [`PatternError::Unreadable`] for a record that is no commit; [`PatternError::Sqlite`]; [`PatternError::Client`] that no retry mends.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<(), PatternError> {
        let stop = std::pin::pin!(stop);
        let work = async {
            let (mut live, mut building) = (None, None);
            loop {
                let found = generations(&lock(&self.store.db), &self.store.name);
                let found = found.map_err(PatternError::sqlite("read the projection's generations"))?;
                let (live_now, building_now) = found.unwrap_or((1, None));
                let live = self.follow(&mut live, live_now).await?;
                let filled = match building_now {
                    Some(generation) => Some(self.follow(&mut building, generation).await?),
                    None => None,
                };
                self.step(live, filled).await?;
            }
        };
        tokio::select! {
            () = stop => Ok(()),
            ended = work => ended,
        }
    }

    /// Applies the next batch of either generation.
    async fn step(
        &self,
        live: &mut Option<Following>,
        mut built: Option<&mut Option<Following>>,
    ) -> Result<(), PatternError> {
        let filled = built.as_mut().and_then(|built| built.as_mut());
        let (records, of_live) = {
            let of_live = live.as_mut().map(|live| &mut live.consumer);
            tokio::select! {
                records = next_of(filled.map(|filled| &mut filled.consumer)) => (records?, false),
                records = next_of(of_live) => (records?, true),
                // It has caught up, and no event comes: it is switched all the same.
                () = sleep(IDLE_INTERVAL) => (Vec::new(), built.is_none()),
            }
        };
        let place = match of_live {
            true => live,
            false => built.expect("a batch of it came"),
        };
        let following = place.as_mut().expect("it is followed");
        let commits: Vec<_> = records.iter().map(Committed::read).collect::<Result<_, _>>()?;
        let reached = (0..self.partitions)
            .filter_map(|partition| Some((partition, following.consumer.position(&self.topic, partition)?)))
            .collect();
        let moved = (following.positions.clone(), reached);
        if of_live && commits.is_empty() && moved.0 == moved.1 {
            return Ok(());
        }
        let (store, generation) = (self.store.clone(), following.generation);
        let after = moved.1.clone();
        let storing = self
            .env
            .blocking
            .run(move || store.store(generation, &commits, &moved))
            .await;
        let stored = storing.map_err(|_| PatternError::Config("the runtime ended".to_owned()))?;
        match stored.map_err(PatternError::sqlite("apply events to the projection"))? {
            Stored::Yes => following.positions = after,
            // It begins anew at what the database says, and stands by while the other one goes on.
            Stored::Moved => {
                *place = None;
                sleep(STANDBY).await;
            }
        }
        Ok(())
    }

    /// Has a generation followed from where the database says.
    async fn follow<'f>(
        &self,
        following: &'f mut Option<Following>,
        generation: i64,
    ) -> Result<&'f mut Option<Following>, PatternError> {
        if following
            .as_ref()
            .is_some_and(|following| following.generation == generation)
        {
            return Ok(following);
        }
        let found = positions(&lock(&self.store.db), &self.store.name, generation);
        let positions = found.map_err(PatternError::sqlite("read the projection's positions"))?;
        let mut consumer = self.client.consumer(ConsumerConfig::default())?;
        let starts = positions
            .iter()
            .map(|(partition, at)| (&*self.topic, *partition, StartAt::Offset(*at)));
        consumer.assign(starts.collect()).await?;
        *following = Some(Following {
            generation,
            consumer,
            positions,
        });
        Ok(following)
    }
}

/// The next records of a consumer; of none, never.
async fn next_of(consumer: Option<&mut Consumer>) -> Result<Vec<jangada_client::ConsumedRecord>, PatternError> {
    match consumer {
        Some(consumer) => Ok(next(consumer).await?),
        None => std::future::pending().await,
    }
}

impl<V: SqliteView> Store<V> {
    fn create_first(&self, partitions: u32) -> rusqlite::Result<()> {
        let mut db = lock(&self.db);
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute_batch(SCHEMA)?;
        if generations(&change, &self.name)?.is_none() {
            let sql = "INSERT INTO jangada_projection (name, live) VALUES (?1, 1)";
            change.execute(sql, [&*self.name])?;
            self.create_generation(&change, 1, partitions)?;
            self.show(&change, 1)?;
        }
        change.commit()
    }

    fn create_generation(&self, db: &Transaction<'_>, generation: i64, partitions: u32) -> rusqlite::Result<()> {
        self.view.create(db, &Tables { generation })?;
        for partition in 0..partitions {
            let sql = "INSERT INTO jangada_position VALUES (?1, ?2, ?3, 0)";
            db.execute(sql, params![&*self.name, generation, partition])?;
        }
        Ok(())
    }

    /// Makes a generation the one that is found under the tables' names.
    fn show(&self, db: &Transaction<'_>, generation: i64) -> rusqlite::Result<()> {
        for table in V::TABLES {
            let name = Tables { generation }.name(table);
            db.execute_batch(&format!(
                "DROP VIEW IF EXISTS {table}; CREATE VIEW {table} AS SELECT * FROM {name};"
            ))?;
        }
        Ok(())
    }

    fn rebuild(&self, partitions: u32) -> rusqlite::Result<i64> {
        let mut db = lock(&self.db);
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (live, building) = generations(&change, &self.name)?.unwrap_or((1, None));
        if let Some(building) = building {
            return Ok(building);
        }
        let generation = live + 1;
        let sql = "UPDATE jangada_projection SET building = ?2 WHERE name = ?1";
        change.execute(sql, params![&*self.name, generation])?;
        self.create_generation(&change, generation, partitions)?;
        change.commit()?;
        Ok(generation)
    }

    /// Applies commits to a generation and moves its positions, if they are still as they were, all in one transaction; and makes it the
    /// live one when it was being built and has come as far.
    fn store(
        &self,
        generation: i64,
        commits: &[Committed<V::Event>],
        (before, after): &(BTreeMap<u32, i64>, BTreeMap<u32, i64>),
    ) -> rusqlite::Result<Stored> {
        let mut db = lock(&self.db);
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (partition, position) in after.iter().filter(|(partition, at)| before.get(partition) != Some(at)) {
            let sql = "UPDATE jangada_position SET position = ?4
                       WHERE name = ?1 AND generation = ?2 AND partition = ?3 AND position = ?5";
            let known = before.get(partition);
            let changed = params![&*self.name, generation, partition, position, known];
            if change.prepare_cached(sql)?.execute(changed)? == 0 {
                return Ok(Stored::Moved);
            }
        }
        for commit in commits {
            self.view.apply(&change, &Tables { generation }, commit)?;
        }
        self.switch(&change, generation)?;
        change.commit()?;
        Ok(Stored::Yes)
    }

    fn switch(&self, change: &Transaction<'_>, generation: i64) -> rusqlite::Result<()> {
        let Some((live, Some(building))) = generations(change, &self.name)? else {
            return Ok(());
        };
        if building != generation {
            return Ok(());
        }
        let shown = positions(change, &self.name, live)?;
        let built = positions(change, &self.name, building)?;
        if !has_come_as_far(&built, &shown) {
            return Ok(());
        }
        self.show(change, building)?;
        for table in V::TABLES {
            let old = Tables { generation: live }.name(table);
            change.execute_batch(&format!("DROP TABLE {old};"))?;
        }
        let sql = "DELETE FROM jangada_position WHERE name = ?1 AND generation = ?2";
        change.execute(sql, params![&*self.name, live])?;
        let sql = "UPDATE jangada_projection SET live = ?2, building = NULL WHERE name = ?1";
        change.execute(sql, params![&*self.name, building])?;
        tracing::info!(projection = %self.name, from = live, to = building, "the rebuilt projection is live");
        Ok(())
    }
}

/// Reads a projection in SQLite, from any process.
pub struct SqliteReader {
    db: Mutex<Connection>,
    name: String,
}

impl SqliteReader {
    /// Opens a database that a projection of this name is in. Where none was ever [opened](SqliteProjection::open) the file is made, and
    /// what is asked of it fails until there is one.
    ///
    /// # Errors
    /// [`PatternError::Sqlite`].
    pub fn open(path: &Path, name: &str) -> Result<Self, PatternError> {
        let db = open_database(path).map_err(PatternError::sqlite("open the projection's database"))?;
        let (db, name) = (Mutex::new(db), name.to_owned());
        Ok(Self { db, name })
    }

    /// Makes a query, under the tables' own names.
    ///
    /// # Errors
    /// [`PatternError::Sqlite`] with what the query's closure failed with.
    pub fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, PatternError> {
        query(&lock(&self.db)).map_err(PatternError::sqlite("query the projection"))
    }

    /// The number of the live generation, and of the one that is being built.
    ///
    /// # Errors
    /// [`PatternError::Sqlite`].
    pub fn generations(&self) -> Result<(i64, Option<i64>), PatternError> {
        let found = self.query(|db| generations(db, &self.name))?;
        found.ok_or_else(|| PatternError::Config(format!("the database has no projection {:?}", self.name)))
    }

    /// Of each partition the offset below which the live generation has everything.
    ///
    /// # Errors
    /// [`PatternError::Sqlite`].
    pub fn positions(&self) -> Result<BTreeMap<u32, i64>, PatternError> {
        self.query(|db| {
            // One transaction, or a switch could come between.
            let looking = db.unchecked_transaction()?;
            let live = generations(&looking, &self.name)?.map_or(1, |(live, _)| live);
            positions(&looking, &self.name, live)
        })
    }

    /// Waits until the projection has everything below an offset: of one's own command that is its offset + 1. After it a query sees what
    /// the command did.
    ///
    /// # Errors
    /// [`PatternError::Late`] after `within`: the projection is behind, or nobody runs it.
    pub async fn wait_for(&self, partition: u32, offset: i64, within: Duration) -> Result<(), PatternError> {
        let until = Instant::now() + within;
        while self
            .positions()?
            .get(&partition)
            .is_none_or(|position| *position < offset)
        {
            if Instant::now() >= until {
                let what = format!(
                    "projection {:?} did not come to offset {offset} of partition {partition}",
                    self.name
                );
                return Err(PatternError::Late { what });
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
