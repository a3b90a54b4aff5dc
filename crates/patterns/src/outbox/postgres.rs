//! An outbox in PostgreSQL.

use futures::StreamExt as _;
use jangada_client::{Env, ProducerRecord};
use sqlx::postgres::{PgConnection, PgPool};

use super::methods::{Columns, DELETE, SELECT, outbox_methods};
use super::rows::{OutboxRow, OutboxRows, RowsMax, check, headers_to_json, record_of};
use crate::error::PatternError;
use crate::postgres;

/// The lock of those who create the table, and its columns.
const CREATE: (i64, &str) = (
    7_306_093_471,
    "CREATE TABLE IF NOT EXISTS jangada_outbox (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic TEXT NOT NULL,
        key BYTEA,
        value BYTEA,
        headers TEXT NOT NULL,
        put_at_ms BIGINT NOT NULL
    )",
);
/// Held until the transaction has ended, so that ids are in the order of the commits, and none comes below one that was read.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7306093472)";
const INSERT: &str =
    "INSERT INTO jangada_outbox (topic, key, value, headers, put_at_ms) VALUES ($1, $2, $3, $4, $5) RETURNING id";

/// An outbox in a PostgreSQL database: the table `jangada_outbox` of the connection's schema. It is used as
/// [`SqliteOutbox`](super::SqliteOutbox) is.
///
/// Transactions that put records take turns from their first [`put`](Self::put) to their end: let it be the last thing that they do.
#[derive(Clone)]
pub struct PostgresOutbox {
    pool: PgPool,
    env: Env,
    keeps_sent: bool,
}

impl PostgresOutbox {
    /// Creates the table, if it is not there.
    ///
    /// # Errors
    /// [`PatternError::Database`].
    pub async fn create(pool: PgPool, env: Env) -> Result<Self, PatternError> {
        let created = postgres::create(&pool, CREATE).await;
        created.map_err(PatternError::database("create the table of the outbox"))?;
        Ok(Self {
            pool,
            env,
            keeps_sent: false,
        })
    }

    /// Writes a record into the outbox, as a part of the caller's transaction. Returns the row's id. Its time and partition are not kept.
    ///
    /// # Errors
    /// [`PatternError::Config`] for a record that names a partition; [`PatternError::Database`].
    pub async fn put(&self, transaction: &mut PgConnection, record: &ProducerRecord) -> Result<i64, PatternError> {
        check(record)?;
        let put = async {
            // A statement of its own: the id is taken when the lock is there.
            sqlx::query(LOCK).execute(&mut *transaction).await?;
            sqlx::query_scalar::<_, i64>(INSERT)
                .bind(&*record.topic)
                .bind(record.key.as_deref())
                .bind(record.value.as_deref())
                .bind(headers_to_json(&record.headers))
                .bind(self.env.clock.now_ms())
                .fetch_one(&mut *transaction)
                .await
        };
        put.await
            .map_err(PatternError::database("put a record into the outbox"))
    }
}

outbox_methods!(PostgresOutbox);
