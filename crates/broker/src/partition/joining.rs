//! Asking the coordinator of a transactional id, before the first batch of a transaction is proposed here, or the first message of a queue
//! acknowledged in it (`joins`).

use std::time::Duration;

use jangada_queue::TransactionId;
use jangada_types::{ProducerEpoch, ProducerId, Reason};

use super::Partition;
use super::joins::{InTransaction, Join};
use crate::error::RequestError;
use crate::replica::LEADER_RETRY;

/// How long a batch waits for the coordinator. The batches behind it in its stream wait as long.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

impl Partition {
    /// The transaction that messages of a queue are acknowledged in, which this partition is a part of then: its end comes here, and
    /// decides about them.
    ///
    /// # Errors
    /// As for a batch: NOT_LEADER, those of the coordinator, NOT_READY when it does not answer. Nothing was done then.
    pub async fn join_to_acknowledge(
        &self,
        transaction: &InTransaction,
        (producer, epoch): (ProducerId, ProducerEpoch),
    ) -> Result<TransactionId, RequestError> {
        let seq = self.join(transaction, (producer, epoch)).await?;
        Ok(TransactionId { producer, epoch, seq })
    }

    /// The number of the transaction that a batch belongs to, which this partition is a part of then.
    pub(super) async fn join(
        &self,
        transaction: &InTransaction,
        (producer_id, producer_epoch): (ProducerId, ProducerEpoch),
    ) -> Result<u64, RequestError> {
        let term = self.hosted.leader_epoch()?;
        let joined = self.joins.of(term, producer_id, producer_epoch);
        if let Some(seq) = joined.seq.get() {
            return Ok(*seq);
        }
        let ask = async {
            let open = self.driver.with_machine(|state| state.open_transaction_of(producer_id));
            if let Some((epoch, open)) = open
                && epoch == producer_epoch
            {
                return Ok(open.seq);
            }
            let Some(transactions) = self.shared.transactions.get() else {
                return Err(self.no_coordinator(transaction, "this broker is starting"));
            };
            let join = Join {
                transactional_id: transaction.transactional_id.clone(),
                producer_id,
                producer_epoch,
                partition: self.hosted.id(),
                adds: transaction.adds,
            };
            transactions.join(join).await.map_err(|error| self.refuse(error))
        };
        let asked = tokio::time::timeout(JOIN_TIMEOUT, joined.seq.get_or_try_init(|| ask)).await;
        match asked {
            Ok(seq) => seq.copied(),
            Err(_) => Err(self.no_coordinator(transaction, "it did not answer in time")),
        }
    }

    fn no_coordinator(&self, transaction: &InTransaction, why: &str) -> RequestError {
        let message = format!(
            "partition {}: the coordinator of the transactional id {:?} is not available: {why}; nothing was done, try again",
            self.hosted.name, transaction.transactional_id
        );
        RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY)
    }
}
