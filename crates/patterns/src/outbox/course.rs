//! The course of a relay: which rows are sent next, and how far it is, whatever becomes of a transaction.

use std::sync::Arc;

use jangada_client::{ClientError, TransactionOutcome};

use super::relay::Relayed;
use super::rows::{OutboxRow, OutboxRows, RowsMax};
use crate::error::PatternError;

/// Sends rows, with how far the outbox is sent, all in one transaction.
pub(super) trait Sends: Send {
    /// Sends rows and the position behind them, all or none.
    fn send(&mut self, rows: Vec<OutboxRow>, up_to: i64) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// Finds out what became of the last transaction, when [`send`](Self::send) could not tell.
    fn resolve(&mut self) -> impl Future<Output = Result<TransactionOutcome, ClientError>> + Send;
}

/// Sends the rows of an outbox from a position on. It knows no cluster: [`Sends`] does.
pub(super) struct Course<R, S> {
    rows: R,
    sender: S,
    name: Arc<str>,
    most: RowsMax,
    /// All rows up to this id are sent.
    position: i64,
    /// The last row, and the number of rows, of a commit whose outcome is not known as yet.
    unresolved: Option<(i64, usize)>,
    relayed: Relayed,
}

impl<R: OutboxRows, S: Sends> Course<R, S> {
    /// A course of the outbox of this name, whose rows up to a position are sent, at most so many in one transaction.
    pub fn new(name: Arc<str>, (rows, most): (R, RowsMax), sender: S, position: i64) -> Self {
        Self {
            rows,
            sender,
            name,
            most,
            position,
            unresolved: None,
            relayed: Relayed::default(),
        }
    }

    /// The id of the last row that is sent.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// What it has done so far.
    pub fn relayed(&self) -> Relayed {
        self.relayed
    }

    /// Sends the rows that are there now, one transaction of them at most. Returns how many; 0: there is none, or the transaction was
    /// aborted.
    pub async fn relay_some(&mut self) -> Result<usize, PatternError> {
        self.resolve().await?;
        let rows = self.rows.rows_after(self.position, self.most).await?;
        let Some(last) = rows.last() else { return Ok(0) };
        let (last, count) = (last.id, rows.len());
        match self.sender.send(rows, last).await {
            Ok(()) => self.moved(last, count).await?,
            Err(ClientError::TransactionUnknown(_)) => {
                self.unresolved = Some((last, count));
                self.resolve().await?;
            }
            Err(ClientError::TransactionAborted { cause }) if !is_final(&cause) => {
                tracing::warn!(%cause, outbox = %self.name, "a transaction of the relay was aborted; its rows come again");
                self.relayed.aborted += 1;
                return Ok(0);
            }
            Err(ClientError::TransactionTimedOut(_)) => {
                self.relayed.aborted += 1;
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(count)
    }

    /// Finds out what became of a commit whose outcome is not known.
    async fn resolve(&mut self) -> Result<(), PatternError> {
        let Some((last, count)) = self.unresolved else {
            return Ok(());
        };
        let outcome = self.sender.resolve().await?;
        self.unresolved = None;
        match outcome {
            TransactionOutcome::Committed => self.moved(last, count).await,
            TransactionOutcome::Aborted => {
                self.relayed.aborted += 1;
                Ok(())
            }
        }
    }

    async fn moved(&mut self, last: i64, count: usize) -> Result<(), PatternError> {
        self.position = last;
        self.relayed.rows += count as u64;
        self.relayed.transactions += 1;
        // Whatever becomes of this, the rows are not sent again.
        self.rows.sent(last).await
    }
}

/// Whether the same rows would fail again.
fn is_final(cause: &ClientError) -> bool {
    matches!(
        cause,
        ClientError::UnknownTopic { .. } | ClientError::RecordTooLarge { .. } | ClientError::Refused(_)
    )
}

#[cfg(test)]
mod tests;
