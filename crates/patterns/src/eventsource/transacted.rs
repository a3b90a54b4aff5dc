//! Records that are written in one transaction, whose end is always found out.

use std::time::Duration;

use jangada_client::{ClientError, ProducerRecord, TransactionOutcome, TransactionalProducer};
use tokio::time::sleep;

use crate::error::PatternError;

/// How often a coordinator that does not answer is asked what became of a transaction, each time for the client's `retry_timeout`.
const RESOLVE_ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Writes the records, all or none.
///
/// # Errors
/// Nothing was written, unless the error is [`ClientError::TransactionUnknown`].
pub(super) async fn write(
    producer: &mut TransactionalProducer,
    records: Vec<ProducerRecord>,
) -> Result<(), PatternError> {
    let transaction = producer.begin().await?;
    for record in records {
        // The delivery is not awaited: the commit fails if it did.
        drop(transaction.send(record).await?);
    }
    match transaction.commit().await {
        Ok(_) => Ok(()),
        Err(unknown @ ClientError::TransactionUnknown(_)) => resolve(producer, unknown).await,
        Err(error) => Err(error.into()),
    }
}

async fn resolve(producer: &mut TransactionalProducer, unknown: ClientError) -> Result<(), PatternError> {
    for _ in 0..RESOLVE_ATTEMPTS {
        match producer.resolve().await {
            Ok(TransactionOutcome::Committed) => return Ok(()),
            Ok(TransactionOutcome::Aborted) => {
                let cause = std::sync::Arc::new(unknown);
                return Err(ClientError::TransactionAborted { cause }.into());
            }
            Err(error) if error.is_retryable() => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(unknown.into())
}
