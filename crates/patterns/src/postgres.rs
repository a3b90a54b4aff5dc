//! What outbox and inbox share in PostgreSQL.

use sqlx::postgres::PgPool;

/// Creates a table that may be there. Two programs that do so at the same time would fail (a race of `IF NOT EXISTS`), so they take turns
/// by a lock that is held until the transaction ends.
pub(crate) async fn create(pool: &PgPool, (lock, table): (i64, &'static str)) -> sqlx::Result<()> {
    let mut transaction = pool.begin().await?;
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock);
    lock.execute(&mut *transaction).await?;
    sqlx::query(table).execute(&mut *transaction).await?;
    transaction.commit().await
}
