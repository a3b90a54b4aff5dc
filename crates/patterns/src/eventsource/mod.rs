//! Event sourcing, with the side of commands and the side of queries apart (CQRS).
//!
//! ```text
//!  command ──► queue ──► serve() ──► Repository::execute ── expected key offset ──► topic of streams (a key: a stream)
//!                                        ▲ state in memory                            │         │
//!                                        └── Snapshots (compacted topic) ◄── follows ─┘         ▼
//!  query ──► SqliteReader, TopicReader ◄── tables or rows, with the position ◄── SqliteProjection, TopicProjection
//! ```
//!
//! - [`Aggregate`]: handles a command, which gives events, and applies an event. [`Stream`] and [`Commit`] are the pure core around it.
//! - [`Repository`]: loads a stream by its key, and appends what a command brings about, if nobody else has appended meanwhile.
//! - [`Snapshots`]: begin a repository without the whole log. Leaving them out rebuilds all states from the log.
//! - [`CommandMessage`] and [`serve()`]: commands through a work queue.
//! - [`SqliteProjection`], [`TopicProjection`]: what is asked of the events, kept with how far it has come; rebuilt beside the live one.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use jangada_client::{Client, ClientConfig};
//! use jangada_patterns::eventsource::{
//!     Aggregate, Committed, ExecuteError, Repository, RepositoryOptions, Snapshots, SqliteProjection, SqliteReader, SqliteView, Tables,
//! };
//! use jangada_patterns::rusqlite::{self, Connection, params};
//! use serde::{Deserialize, Serialize};
//!
//! enum Command {
//!     Deposit(u64),
//!     Withdraw(u64),
//! }
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! enum Event {
//!     Deposited(u64),
//!     Withdrawn(u64),
//! }
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("there is too little in the account")]
//! struct TooLittle;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Account {
//!     balance: u64,
//! }
//!
//! impl Aggregate for Account {
//!     type Command = Command;
//!     type Event = Event;
//!     type Refusal = TooLittle;
//!
//!     fn handle(&self, command: &Command) -> Result<Vec<Event>, TooLittle> {
//!         match *command {
//!             Command::Deposit(amount) => Ok(vec![Event::Deposited(amount)]),
//!             Command::Withdraw(amount) if amount > self.balance => Err(TooLittle),
//!             Command::Withdraw(amount) => Ok(vec![Event::Withdrawn(amount)]),
//!         }
//!     }
//!
//!     fn apply(&mut self, event: &Event) {
//!         match event {
//!             Event::Deposited(amount) => self.balance += amount,
//!             Event::Withdrawn(amount) => self.balance -= amount,
//!         }
//!     }
//! }
//!
//! struct Balances;
//!
//! impl SqliteView for Balances {
//!     type Event = Event;
//!     const TABLES: &'static [&'static str] = &["balances"];
//!
//!     fn create(&self, db: &Connection, tables: &Tables) -> rusqlite::Result<()> {
//!         db.execute_batch(&format!("CREATE TABLE {} (account TEXT PRIMARY KEY, balance INTEGER)", tables.name("balances")))
//!     }
//!
//!     fn apply(&self, db: &Connection, tables: &Tables, committed: &Committed<Event>) -> rusqlite::Result<()> {
//!         for event in &committed.commit.events {
//!             let change = match *event {
//!                 Event::Deposited(amount) => amount as i64,
//!                 Event::Withdrawn(amount) => -(amount as i64),
//!             };
//!             let table = tables.name("balances");
//!             let sql = format!("INSERT INTO {table} VALUES (?1, ?2) ON CONFLICT DO UPDATE SET balance = balance + ?2");
//!             db.execute(&sql, params![committed.key, change])?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:9400", "127.0.0.1:9401", "127.0.0.1:9402"])).await?;
//! Repository::<Account>::create(&client, "accounts", Some("account-snapshots"), (6, 3)).await?;
//!
//! // The side of commands. The one process that writes snapshots has `snapshots`, too, and calls `write` now and then.
//! let options = RepositoryOptions { snapshots: Some("account-snapshots".to_owned()), ..RepositoryOptions::default() };
//! let accounts = Repository::<Account>::open(&client, "accounts", options).await?;
//! let mut snapshots = Snapshots::open(&accounts, "account-snapshots").await?;
//! println!("{} accounts are in the snapshots", snapshots.write().await?);
//!
//! // The side of queries, in processes of their own.
//! let path = Path::new("balances.db");
//! let projection = SqliteProjection::open(&client, "accounts", (path, "balances"), Balances).await?;
//! tokio::spawn(async move { projection.run(std::future::pending()).await });
//!
//! accounts.execute("alice", "order-6", &Command::Deposit(10)).await?;
//! let done = match accounts.execute("alice", "order-7", &Command::Withdraw(10)).await {
//!     Ok(done) => done,
//!     Err(ExecuteError::Refused(TooLittle)) => return Ok(()),
//!     Err(error) => return Err(error.into()),
//! };
//! let balances = SqliteReader::open(path, "balances")?;
//! if let Some(offset) = done.offset {
//!     balances.wait_for(done.partition, offset + 1, Duration::from_secs(5)).await?;
//! }
//! let balance: i64 = balances.query(|db| db.query_row("SELECT balance FROM balances WHERE account = 'alice'", [], |row| row.get(0)))?;
//! # let _ = balance;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantee
//! - All events of a command are in the log together, or none. Of commands that were decided on the same state of a stream one is appended,
//!   over any change of leader; the others are decided anew.
//! - A command that is refused was refused on a state that was current after it was given.
//! - A command with an id is in its stream once, as long as no more than [`remember`](RepositoryOptions::remember) others have come after
//!   it.
//! - A projection has each event once, in the order of its stream: what it keeps and how far it has come change in one transaction. A
//!   rebuilt one takes the place of the live one only when it has come as far, so who waited for an offset goes on seeing it.
//!
//! # What can fail
//! - There is no transaction over two streams: [conditional records are refused in transactions](jangada_client::Condition). What
//!   concerns two goes by a process manager with ids for each part, or by a [saga](crate::saga).
//! - A hot stream: each commit is a round of the quorum, so its commands take turns, and [`ExecuteError::Conflict`] tells of those that
//!   were never first.
//! - The states of all streams are in the memory of every process with a repository.
//! - A record that is no commit of the aggregate stops reading, with its place. So nobody else writes to the topic, and its records are
//!   kept for ever; a projection that is read from the beginning needs all of them.
//!
//! # Where it comes from
//! Fowler, "Event Sourcing" (2005); Young, "CQRS Documents" (2010), which has the expected version and projections; Kleppmann, "Designing
//! Data-Intensive Applications" (2017), chapter 11. One record for all events of a command is the commit of NEventStore.

mod aggregate;
mod commands;
mod projection;
mod reader;
mod repository;
mod snapshots;
mod transacted;

pub use aggregate::{Aggregate, Commit, Decision, Stream};
pub use commands::{CommandMessage, serve};
pub use projection::sqlite::{SqliteProjection, SqliteReader, SqliteView, Tables};
pub use projection::topic::{Rows, TopicProjection, TopicReader, TopicView};
pub use reader::Committed;
pub use repository::{ExecuteError, Executed, Repository, RepositoryOptions};
pub use snapshots::Snapshots;
