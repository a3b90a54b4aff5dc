//! What an outbox does alike in every database, by a macro, as sqlx's types let no one generic type do it.

pub(super) const SELECT: &str =
    "SELECT id, topic, key, value, headers FROM jangada_outbox WHERE id > $1 ORDER BY id LIMIT $2";
pub(super) const DELETE: &str = "DELETE FROM jangada_outbox WHERE id <= $1";

/// What [`SELECT`] gives.
pub(super) type Columns = (i64, String, Option<Vec<u8>>, Option<Vec<u8>>, String);

/// Gives an outbox with a `pool` and `keeps_sent` its methods, but that which writes.
macro_rules! outbox_methods {
    ($outbox:ident) => {
        impl $outbox {
            /// Rows that are sent stay in the table, to be compared with what came of them. They are deleted otherwise.
            #[must_use]
            pub fn keeping_sent(mut self) -> Self {
                self.keeps_sent = true;
                self
            }
        }

        impl OutboxRows for $outbox {
            async fn rows_after(&self, after: i64, most: RowsMax) -> Result<Vec<OutboxRow>, PatternError> {
                let limit = i64::try_from(most.rows).unwrap_or(i64::MAX);
                // One after the other: those beyond the bytes are never all in memory.
                let mut read = sqlx::query_as::<_, Columns>(SELECT)
                    .bind(after)
                    .bind(limit)
                    .fetch(&self.pool);
                let (mut rows, mut bytes) = (Vec::new(), 0);
                while let Some(columns) = read.next().await {
                    let (id, topic, key, value, headers) =
                        columns.map_err(PatternError::database("read the outbox"))?;
                    let row = record_of(id, &topic, (key, value), &headers)?;
                    if !most.takes((rows.len(), &mut bytes), &row) {
                        break;
                    }
                    rows.push(row);
                }
                Ok(rows)
            }

            async fn sent(&self, up_to: i64) -> Result<(), PatternError> {
                if self.keeps_sent {
                    return Ok(());
                }
                let deleted = sqlx::query(DELETE).bind(up_to).execute(&self.pool).await;
                deleted.map_err(PatternError::database("delete what is sent from the outbox"))?;
                Ok(())
            }
        }
    };
}
pub(super) use outbox_methods;
