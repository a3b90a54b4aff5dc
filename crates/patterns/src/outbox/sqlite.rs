//! An outbox in SQLite.

use futures::StreamExt as _;
use jangada_client::{Env, ProducerRecord};
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::methods::{Columns, DELETE, SELECT, outbox_methods};
use super::rows::{OutboxRow, OutboxRows, RowsMax, check, headers_to_json, record_of};
use crate::error::PatternError;

/// `AUTOINCREMENT`: an id is never used again, also when its row is deleted.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS jangada_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    key BLOB,
    value BLOB,
    headers TEXT NOT NULL,
    put_at_ms INTEGER NOT NULL
)";
const INSERT: &str = "INSERT INTO jangada_outbox (topic, key, value, headers, put_at_ms) VALUES (?, ?, ?, ?, ?)";

/// An outbox in an SQLite database: the table `jangada_outbox`.
///
/// ```no_run
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// use jangada_client::{Env, ProducerRecord};
/// use jangada_patterns::outbox::SqliteOutbox;
///
/// let outbox = SqliteOutbox::create(pool.clone(), Env::system()).await?;
/// let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
/// sqlx::query("UPDATE accounts SET cents = cents - 500 WHERE name = 'alice'").execute(&mut *transaction).await?;
/// outbox.put(&mut transaction, &ProducerRecord::new("payments").with_key("alice").with_value("-500")).await?;
/// // Both, or neither.
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteOutbox {
    pool: SqlitePool,
    env: Env,
    keeps_sent: bool,
}

impl SqliteOutbox {
    /// Creates the table, if it is not there.
    ///
    /// # Errors
    /// [`PatternError::Database`].
    pub async fn create(pool: SqlitePool, env: Env) -> Result<Self, PatternError> {
        let created = sqlx::query(CREATE).execute(&pool).await;
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
    pub async fn put(&self, transaction: &mut SqliteConnection, record: &ProducerRecord) -> Result<i64, PatternError> {
        check(record)?;
        let inserted = sqlx::query(INSERT)
            .bind(&*record.topic)
            .bind(record.key.as_deref())
            .bind(record.value.as_deref())
            .bind(headers_to_json(&record.headers))
            .bind(self.env.clock.now_ms())
            .execute(transaction);
        let inserted = inserted
            .await
            .map_err(PatternError::database("put a record into the outbox"))?;
        Ok(inserted.last_insert_rowid())
    }
}

outbox_methods!(SqliteOutbox);

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    async fn outbox(folder: &tempfile::TempDir) -> SqliteOutbox {
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("app.db"))
            .create_if_missing(true);
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await
            .expect("a database");
        SqliteOutbox::create(pool, Env::system()).await.expect("it is created")
    }

    fn most(rows: usize) -> RowsMax {
        RowsMax {
            rows,
            bytes: usize::MAX,
        }
    }

    #[tokio::test]
    async fn a_row_is_there_if_its_transaction_is_committed() {
        let folder = tempfile::tempdir().expect("a folder");
        let outbox = outbox(&folder).await;
        let record = ProducerRecord::new("t")
            .with_key("k")
            .with_value("kept")
            .with_header("h", "1");
        let mut dropped = outbox.pool.begin().await.expect("it begins");
        outbox.put(&mut dropped, &record).await.expect("it is put");
        dropped.rollback().await.expect("it is rolled back");
        let mut kept = outbox.pool.begin().await.expect("it begins");
        let id = outbox.put(&mut kept, &record).await.expect("it is put");
        kept.commit().await.expect("it is committed");
        let rows = outbox.rows_after(0, most(10)).await.expect("it is read");
        assert_eq!(rows, [OutboxRow { id, record }]);
    }

    #[tokio::test]
    async fn rows_come_in_order_and_ids_are_never_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let outbox = outbox(&folder).await;
        let mut ids = Vec::new();
        for number in 0..5 {
            let record = ProducerRecord::new("t").with_value(number.to_string());
            let mut transaction = outbox.pool.begin().await.expect("it begins");
            ids.push(outbox.put(&mut transaction, &record).await.expect("it is put"));
            transaction.commit().await.expect("it is committed");
        }
        let rows = outbox.rows_after(ids[0], most(2)).await.expect("it is read");
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), ids[1..3]);
        outbox.sent(ids[2]).await.expect("they are deleted");
        let rows = outbox.rows_after(0, most(9)).await.expect("it is read");
        assert_eq!(
            rows.iter().map(|row| row.id).collect::<Vec<_>>(),
            ids[3..],
            "what is not sent stays"
        );
        let keeping = outbox.clone().keeping_sent();
        keeping.sent(ids[4]).await.expect("they are kept");
        assert_eq!(outbox.rows_after(0, most(9)).await.expect("it is read"), rows);
        outbox.sent(ids[4]).await.expect("they are deleted");
        assert_eq!(outbox.rows_after(0, most(9)).await.expect("it is read"), []);
        let mut transaction = outbox.pool.begin().await.expect("it begins");
        let next = outbox
            .put(&mut transaction, &ProducerRecord::new("t"))
            .await
            .expect("it is put");
        assert!(next > ids[4], "{next} was used before");
    }

    #[tokio::test]
    async fn large_rows_do_not_all_come_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let outbox = outbox(&folder).await;
        let mut transaction = outbox.pool.begin().await.expect("it begins");
        for _ in 0..5 {
            let record = ProducerRecord::new("t").with_value(vec![7; 100_000]);
            outbox.put(&mut transaction, &record).await.expect("it is put");
        }
        transaction.commit().await.expect("it is committed");
        let mut counts = Vec::new();
        for bytes in [0, 200_001, 250_000, usize::MAX] {
            let rows = outbox.rows_after(0, RowsMax { rows: 4, bytes }).await;
            counts.push(rows.expect("it is read").len());
        }
        assert_eq!(counts, [1, 1, 2, 4], "one at least");
    }

    #[tokio::test]
    async fn a_record_with_a_partition_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let outbox = outbox(&folder).await;
        let mut transaction = outbox.pool.begin().await.expect("it begins");
        let record = ProducerRecord::new("t").with_partition(3);
        let refused = outbox.put(&mut transaction, &record).await.expect_err("it is refused");
        assert!(matches!(refused, PatternError::Config(_)), "{refused}");
    }
}
