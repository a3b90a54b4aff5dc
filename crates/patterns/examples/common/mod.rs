//! What the examples share: their flags, their worker processes, the killer of those, and how they say what they see.
//!
//! - [`Flags`]: the brokers, the folder, how long to go on, the nemesis and its seed.
//! - [`Crew`]: worker processes, each this program again with `--role`. Who dies is started again. With a nemesis they die often.
//! - [`Check`]: what must hold in the end.
//! - [`open`]: an SQLite database that several processes use.

#![allow(dead_code, reason = "each example uses its part of it")]
#![allow(clippy::print_stdout, reason = "an example explains itself as it prints")]
#![allow(clippy::disallowed_methods, reason = "an example stands outside the simulation")]

mod check;
mod crew;
mod flags;

use std::path::Path;
use std::time::Duration;

use jangada_client::{Admin, ClientError, NewTopic};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

pub use check::Check;
pub use crew::{Crew, worker};
pub use flags::Flags;

/// Whatever goes wrong in an example ends it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Tells what happens, with who tells it.
pub fn say(who: &str, text: impl std::fmt::Display) {
    println!("{who:>12} | {text}");
}

/// Opens a database of the example's folder, which is created if it is not there. A process that is killed loses nothing of it that was
/// committed; only a machine without power would.
pub async fn open(folder: &Path, name: &str) -> Result<SqlitePool, Error> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join(format!("{name}.db")))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(30));
    Ok(SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await?)
}

/// Creates a topic, if it is not there, with as many replicas as there are brokers, at most three.
pub async fn create_topic(
    admin: &Admin,
    name: &str,
    partitions: u32,
    settings: &[(&str, &str)],
) -> Result<(), ClientError> {
    let mut topic = NewTopic::new(name, partitions, replicas(admin).await?);
    topic.config = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    topic.if_not_exists = true;
    admin.create_topic(topic).await.map(drop)
}

/// How many replicas a topic of an example has.
pub async fn replicas(admin: &Admin) -> Result<u32, ClientError> {
    let brokers = admin.describe_cluster().await?.brokers.len();
    Ok(u32::try_from(brokers.clamp(1, 3)).expect("three at most"))
}

/// One number of a database.
pub async fn number(pool: &SqlitePool, query: &'static str) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
}

/// The next multiple of a number above 0.
pub fn round_up(number: i64, to: i64) -> i64 {
    number + (to - number % to) % to
}
