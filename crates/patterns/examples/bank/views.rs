//! What is asked of the bank: balances, in SQLite, and what became of each transfer, in a compacted topic.

use jangada_patterns::eventsource::{Committed, Rows, SqliteView, Tables, TopicReader, TopicView};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::account::Event;

/// The balance of each account, what is under way from it, and the lowest balance that it ever had.
pub struct Balances;

impl SqliteView for Balances {
    type Event = Event;

    const TABLES: &'static [&'static str] = &["balances"];

    fn create(&self, db: &Connection, tables: &Tables) -> rusqlite::Result<()> {
        let balances = tables.name("balances");
        db.execute_batch(&format!(
            "CREATE TABLE {balances} (account TEXT PRIMARY KEY, balance INTEGER, under_way INTEGER, lowest INTEGER)"
        ))
    }

    fn apply(&self, db: &Connection, tables: &Tables, committed: &Committed<Event>) -> rusqlite::Result<()> {
        let balances = tables.name("balances");
        for event in &committed.commit.events {
            let account = &committed.key;
            if let Event::Opened { amount } = event {
                let sql = format!("INSERT INTO {balances} VALUES (?1, ?2, 0, ?2)");
                db.prepare_cached(&sql)?.execute(params![account, *amount as i64])?;
                continue;
            }
            let (balance, under_way) = match event {
                Event::Withdrawn { amount, .. } => (-(*amount as i64), *amount as i64),
                Event::Deposited { amount, .. } => (*amount as i64, 0),
                Event::TakenBack { amount, .. } => (*amount as i64, -(*amount as i64)),
                Event::Settled { amount, .. } => (0, -(*amount as i64)),
                Event::Opened { .. } | Event::Refused { .. } => continue,
            };
            let sql = format!(
                "UPDATE {balances} SET balance = balance + ?2, under_way = under_way + ?3, lowest = min(lowest, balance + ?2)
                 WHERE account = ?1"
            );
            db.prepare_cached(&sql)?.execute(params![account, balance, under_way])?;
        }
        Ok(())
    }
}

/// What became of a transfer: how often each part of it happened. The parts are in two streams, which come in any order; counts are the
/// same in each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub refused: u32,
    pub withdrawn: u32,
    pub deposited: u32,
    pub settled: u32,
    pub taken_back: u32,
}

impl Statement {
    /// Whether nothing of it is left to be done, and each part happened once.
    pub fn is_whole(&self) -> bool {
        let parts = [
            self.refused,
            self.withdrawn,
            self.deposited,
            self.settled,
            self.taken_back,
        ];
        [[1, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 0, 1]].contains(&parts)
    }

    pub fn read(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_default()
    }
}

/// A statement for each transfer.
pub struct Statements;

impl TopicView for Statements {
    type Event = Event;

    fn apply(&self, rows: &mut Rows, committed: &Committed<Event>) {
        for event in &committed.commit.events {
            let (Event::Withdrawn { transfer, .. }
            | Event::Refused { transfer, .. }
            | Event::Deposited { transfer, .. }
            | Event::Settled { transfer, .. }
            | Event::TakenBack { transfer, .. }) = event
            else {
                continue;
            };
            let mut statement = rows
                .get(transfer)
                .map(|value| Statement::read(value))
                .unwrap_or_default();
            let part = match event {
                Event::Withdrawn { .. } => &mut statement.withdrawn,
                Event::Refused { .. } => &mut statement.refused,
                Event::Deposited { .. } => &mut statement.deposited,
                Event::Settled { .. } => &mut statement.settled,
                Event::TakenBack { .. } | Event::Opened { .. } => &mut statement.taken_back,
            };
            *part += 1;
            rows.set(transfer, serde_json::to_vec(&statement).expect("five numbers are JSON"));
        }
    }
}

/// How many transfers have begun.
pub fn known(statements: &TopicReader) -> u32 {
    statements.rows().len() as u32
}

/// How many transfers have ended.
pub fn ended(statements: &TopicReader) -> u32 {
    let rows = statements.rows();
    rows.values().filter(|value| Statement::read(value).is_whole()).count() as u32
}
