//! An inbox in PostgreSQL.

use futures::future::BoxFuture;
use jangada_client::Env;
use sqlx::Transaction;
use sqlx::postgres::{PgConnection, PgPool, Postgres};

use super::methods::{CLAIM, FORGET, RESULT, STORE, inbox_methods};
use crate::error::PatternError;
use crate::events::SeenEvents;
use crate::postgres;

/// The lock of those who create the table, and its columns.
const CREATE: (i64, &str) = (
    7_306_093_473,
    "CREATE TABLE IF NOT EXISTS jangada_inbox (
        consumer TEXT NOT NULL,
        id TEXT NOT NULL,
        result BYTEA,
        at_ms BIGINT NOT NULL,
        PRIMARY KEY (consumer, id)
    )",
);

/// An inbox in a PostgreSQL database: the table `jangada_inbox` of the connection's schema, which several consumers may share. It is used
/// as [`SqliteInbox`](super::SqliteInbox) is, in transactions that read committed, PostgreSQL's default.
#[derive(Clone)]
pub struct PostgresInbox {
    pool: PgPool,
    consumer: String,
    env: Env,
}

impl PostgresInbox {
    /// Creates the table, if it is not there. Ids are noted for each consumer by itself.
    ///
    /// # Errors
    /// [`PatternError::Database`].
    pub async fn create(pool: PgPool, consumer: impl Into<String>, env: Env) -> Result<Self, PatternError> {
        let created = postgres::create(&pool, CREATE).await;
        created.map_err(PatternError::database("create the table of the inbox"))?;
        Ok(Self {
            pool,
            consumer: consumer.into(),
            env,
        })
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`PatternError::Database`].
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, PatternError> {
        let begun = self.pool.begin().await;
        begun.map_err(PatternError::database("begin a transaction"))
    }
}

inbox_methods!(PostgresInbox, PgConnection);
