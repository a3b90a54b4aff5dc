//! Settings of a transactional producer.

use std::time::Duration;

use crate::error::ClientError;
use crate::producer::{Acks, ProducerConfig};

/// Settings of a [`TransactionalProducer`](crate::TransactionalProducer).
///
/// ```
/// use std::time::Duration;
/// use jangada_client::TransactionOptions;
///
/// let options = TransactionOptions { timeout: Duration::from_secs(20), ..TransactionOptions::default() };
/// ```
#[derive(Clone, Debug)]
pub struct TransactionOptions {
    /// A transaction that is open for longer is aborted by its coordinator. Readers of committed records wait for so long behind one whose
    /// producer has died. 1 ms up to the brokers' `transactions.max_timeout` (15 min). Default: 60 s.
    pub timeout: Duration,
    /// `commit` returns as soon as the outcome is durable, without waiting until all partitions know it. Default: false.
    pub early: bool,
    /// How records are gathered and sent. [`Acks::Quorum`] and `idempotent` are required.
    pub producer: ProducerConfig,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            early: false,
            producer: ProducerConfig::default(),
        }
    }
}

impl TransactionOptions {
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.producer.acks != Acks::Quorum || !self.producer.idempotent {
            let text = "a transactional producer needs Acks::Quorum and idempotent";
            return Err(ClientError::Config(text.to_owned()));
        }
        if !(1..=u128::from(u32::MAX)).contains(&self.timeout.as_millis()) {
            let text = format!("timeout {:?}: 1 ms to {} ms", self.timeout, u32::MAX);
            return Err(ClientError::Config(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_idempotent_and_acknowledged() {
        TransactionOptions::default().check().expect("the defaults");
        let mut options = TransactionOptions::default();
        options.producer.idempotent = false;
        options.check().expect_err("its batches would come twice");
        let options = TransactionOptions {
            timeout: Duration::ZERO,
            ..TransactionOptions::default()
        };
        options.check().expect_err("no time");
    }
}
