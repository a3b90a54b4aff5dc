//! An inbox in SQLite.

use futures::future::BoxFuture;
use jangada_client::Env;
use sqlx::Transaction;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};

use super::methods::{CLAIM, FORGET, RESULT, STORE, inbox_methods};
use crate::error::PatternError;
use crate::events::SeenEvents;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS jangada_inbox (
    consumer TEXT NOT NULL,
    id TEXT NOT NULL,
    result BLOB,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (consumer, id)
) WITHOUT ROWID";

/// An inbox in an SQLite database: the table `jangada_inbox`, which several consumers may share.
///
/// ```no_run
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// use jangada_client::Env;
/// use jangada_patterns::inbox::SqliteInbox;
///
/// let inbox = SqliteInbox::create(pool, "ledger", Env::system()).await?;
/// let mut transaction = inbox.begin().await?;
/// match inbox.claim(&mut transaction, "payment-7").await? {
///     Some(earlier) => println!("it had its effect before: {earlier:?}"),
///     None => {
///         sqlx::query("UPDATE balances SET cents = cents + 500").execute(&mut *transaction).await?;
///         inbox.store(&mut transaction, "payment-7", b"booked").await?;
///     }
/// }
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteInbox {
    pool: SqlitePool,
    consumer: String,
    env: Env,
}

impl SqliteInbox {
    /// Creates the table, if it is not there. Ids are noted for each consumer by itself.
    ///
    /// # Errors
    /// [`PatternError::Database`].
    pub async fn create(pool: SqlitePool, consumer: impl Into<String>, env: Env) -> Result<Self, PatternError> {
        let created = sqlx::query(CREATE).execute(&pool).await;
        created.map_err(PatternError::database("create the table of the inbox"))?;
        Ok(Self {
            pool,
            consumer: consumer.into(),
            env,
        })
    }

    /// Begins a transaction that may write: one that begins by reading fails when another one has written meanwhile.
    ///
    /// # Errors
    /// [`PatternError::Database`].
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>, PatternError> {
        let begun = self.pool.begin_with("BEGIN IMMEDIATE").await;
        begun.map_err(PatternError::database("begin a transaction"))
    }
}

inbox_methods!(SqliteInbox, SqliteConnection);

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
    use std::time::Duration;

    /// An inbox on a connection pool of its own, as another process has one.
    async fn inbox(folder: &tempfile::TempDir, consumer: &str) -> SqliteInbox {
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("app.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePool::connect_with(options).await.expect("a database");
        let effects = sqlx::query("CREATE TABLE IF NOT EXISTS effects (id TEXT NOT NULL)");
        effects.execute(&pool).await.expect("it is created");
        SqliteInbox::create(pool, consumer, Env::system())
            .await
            .expect("it is created")
    }

    async fn effect(inbox: &SqliteInbox, id: &str, commits: bool) -> Option<Vec<u8>> {
        let mut transaction = inbox.begin().await.expect("it begins");
        let before = inbox.claim(&mut transaction, id).await.expect("it is claimed");
        if before.is_none() {
            let effect = sqlx::query("INSERT INTO effects VALUES (?)").bind(id);
            effect.execute(&mut *transaction).await.expect("it is written");
            inbox
                .store(&mut transaction, id, id.as_bytes())
                .await
                .expect("it is stored");
        }
        match commits {
            true => transaction.commit().await.expect("it is committed"),
            false => transaction.rollback().await.expect("it is rolled back"),
        }
        before
    }

    #[tokio::test]
    async fn an_id_has_one_effect_and_its_result_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = inbox(&folder, "ledger").await;
        assert_eq!(effect(&here, "a", false).await, None);
        assert_eq!(effect(&here, "a", true).await, None, "rolled back, it never was");
        assert_eq!(effect(&here, "a", true).await.as_deref(), Some(&b"a"[..]));
        let other = inbox(&folder, "mail").await;
        assert_eq!(
            effect(&other, "a", true).await,
            None,
            "another consumer has ids of its own"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_processes_one_has_the_effect() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let inbox = inbox(&folder, "ledger").await;
            tasks.push(tokio::spawn(async move {
                let mut new = 0;
                for id in 0..20 {
                    new += u32::from(effect(&inbox, &id.to_string(), true).await.is_none());
                }
                new
            }));
        }
        let mut new = 0;
        for task in tasks {
            new += task.await.expect("it ends");
        }
        let inbox = inbox(&folder, "ledger").await;
        let effects = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM effects")
            .fetch_one(&inbox.pool)
            .await;
        assert_eq!((new, effects.expect("it is counted")), (20, 20));
    }

    #[tokio::test]
    async fn what_is_forgotten_counts_as_new() {
        let folder = tempfile::tempdir().expect("a folder");
        let inbox = inbox(&folder, "ledger").await;
        effect(&inbox, "a", true).await;
        let other = self::inbox(&folder, "mail").await;
        effect(&other, "a", true).await;
        assert_eq!(inbox.forget_before(0).await.expect("it is forgotten"), 0);
        assert!(inbox.is_seen("a").await.expect("it is looked up"));
        assert_eq!(inbox.forget_before(i64::MAX).await.expect("it is forgotten"), 1);
        assert!(!inbox.is_seen("a").await.expect("it is looked up"));
        assert!(
            other.is_seen("a").await.expect("it is looked up"),
            "another consumer keeps its ids"
        );
        inbox.note("a").await.expect("it is noted");
        assert!(inbox.is_seen("a").await.expect("it is looked up"));
    }
}
