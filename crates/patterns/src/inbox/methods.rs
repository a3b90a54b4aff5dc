//! What an inbox does alike in every database. sqlx has no trait for how many rows a statement has changed, so it is a macro and no generic
//! type: each database's inbox has these methods by its own connection.

// Both databases number parameters so.
pub(super) const CLAIM: &str =
    "INSERT INTO jangada_inbox (consumer, id, at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
pub(super) const STORE: &str = "UPDATE jangada_inbox SET result = $1 WHERE consumer = $2 AND id = $3";
pub(super) const RESULT: &str = "SELECT result FROM jangada_inbox WHERE consumer = $1 AND id = $2";
pub(super) const FORGET: &str = "DELETE FROM jangada_inbox WHERE consumer = $1 AND at_ms < $2";

/// Gives an inbox with a `pool`, a `consumer` and an `env` its methods, by the type of its connections.
macro_rules! inbox_methods {
    ($inbox:ident, $connection:ident) => {
        impl $inbox {
            /// Notes an id in the caller's transaction; waits while another one that has noted it is open. `None`: it is new, and its
            /// effect belongs into this transaction. `Some`: it had its effect before, with this result; empty if none was stored.
            ///
            /// # Errors
            /// [`PatternError::Database`].
            pub async fn claim(
                &self,
                transaction: &mut $connection,
                id: &str,
            ) -> Result<Option<Vec<u8>>, PatternError> {
                let claim = async {
                    let at_ms = self.env.clock.now_ms();
                    let claimed = sqlx::query(CLAIM)
                        .bind(self.consumer.as_str())
                        .bind(id)
                        .bind(at_ms);
                    if claimed.execute(&mut *transaction).await?.rows_affected() > 0 {
                        return Ok(None);
                    }
                    let result = sqlx::query_scalar::<_, Option<Vec<u8>>>(RESULT)
                        .bind(self.consumer.as_str())
                        .bind(id);
                    Ok(Some(
                        result.fetch_one(&mut *transaction).await?.unwrap_or_default(),
                    ))
                };
                claim
                    .await
                    .map_err(PatternError::database("note an id in the inbox"))
            }

            /// Stores the result of an id that was claimed, in the same transaction.
            ///
            /// # Errors
            /// [`PatternError::Database`].
            pub async fn store(
                &self,
                transaction: &mut $connection,
                id: &str,
                result: &[u8],
            ) -> Result<(), PatternError> {
                let stored = sqlx::query(STORE)
                    .bind(result)
                    .bind(self.consumer.as_str())
                    .bind(id);
                let stored = stored.execute(transaction).await;
                stored.map_err(PatternError::database("store a result in the inbox"))?;
                Ok(())
            }

            /// Forgets ids that were noted before this time, milliseconds since the Unix epoch. Returns how many.
            ///
            /// # Errors
            /// [`PatternError::Database`].
            pub async fn forget_before(&self, at_ms: i64) -> Result<u64, PatternError> {
                let forgotten = sqlx::query(FORGET)
                    .bind(self.consumer.as_str())
                    .bind(at_ms)
                    .execute(&self.pool);
                let forgotten = forgotten
                    .await
                    .map_err(PatternError::database("forget ids of the inbox"))?;
                Ok(forgotten.rows_affected())
            }
        }

        /// The durable memory of a [subscriber](crate::events::Subscriber). An event is noted after its handler: one whose process died
        /// between the two comes again. Where that must not be, the handler claims the id itself.
        impl SeenEvents for $inbox {
            fn is_seen<'a>(&'a self, event: &'a str) -> BoxFuture<'a, Result<bool, PatternError>> {
                Box::pin(async move {
                    let found = sqlx::query_scalar::<_, Option<Vec<u8>>>(RESULT)
                        .bind(self.consumer.as_str())
                        .bind(event);
                    let found = found.fetch_optional(&self.pool).await;
                    Ok(found
                        .map_err(PatternError::database("look for an id in the inbox"))?
                        .is_some())
                })
            }

            fn note<'a>(&'a self, event: &'a str) -> BoxFuture<'a, Result<(), PatternError>> {
                Box::pin(async move {
                    let at_ms = self.env.clock.now_ms();
                    let noted = sqlx::query(CLAIM)
                        .bind(self.consumer.as_str())
                        .bind(event)
                        .bind(at_ms);
                    let noted = noted.execute(&self.pool).await;
                    noted
                        .map_err(PatternError::database("note an id in the inbox"))
                        .map(drop)
                })
            }
        }
    };
}
pub(super) use inbox_methods;
