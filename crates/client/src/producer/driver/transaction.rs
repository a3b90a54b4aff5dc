//! What the driver does for a producer whose records are parts of transactions: a transaction of which one record is not stored can only be
//! aborted, so everything else of it is dropped at once.

use std::sync::Arc;

use tonic::Code;

use super::Driver;
use crate::error::ClientError;
use crate::wire_error::Failure;

impl Driver {
    /// Whether a transaction has begun of which the driver does not know yet: what is in the queues is of that one, and is looked at
    /// when the signals are taken, which say so.
    pub(super) fn has_begun_anew(&self) -> bool {
        self.shared.transactional_id.is_some() && self.shared.signals().identity.is_some()
    }

    /// Notes that the open transaction has failed, and drops the rest of it. Nothing for a producer without transactions.
    pub(super) fn fail_transaction(&mut self, error: &ClientError) {
        if self.shared.transactional_id.is_none() || self.failed {
            return;
        }
        self.failed = true;
        let first = self
            .shared
            .signals()
            .failed
            .get_or_insert_with(|| error.clone())
            .clone();
        self.discard(&ClientError::TransactionAborted { cause: Arc::new(first) });
    }

    /// Handles that a lane cannot go on under its numbers, as the partition no longer knows them.
    pub(super) fn lose_transaction(&mut self, id: u64) {
        let Some(state) = self.lanes.get(&id) else { return };
        let unknown = || Failure::local(Code::Aborted, "the partition no longer knows the transaction", true);
        let failure = state.last_failure.clone().unwrap_or_else(unknown);
        let error = ClientError::Refused(failure.rejection(&state.queue.context()));
        self.fail_transaction(&error);
    }

    /// Drops everything that is not settled.
    pub(super) fn discard(&mut self, error: &ClientError) {
        let lanes: Vec<u64> = self.lanes.keys().copied().collect();
        for id in lanes {
            self.drop_unsettled(id, error);
        }
    }

    /// Drops what was still sent to a lane in a transaction that has failed.
    pub(super) fn discard_lane(&mut self, id: u64) {
        let error = self.shared.failure().unwrap_or(ClientError::Closed);
        self.drop_unsettled(id, &error);
    }

    fn drop_unsettled(&mut self, id: u64, error: &ClientError) {
        let Some(state) = self.lanes.get_mut(&id) else { return };
        let mut batches: Vec<_> = state.lane.reset().into_iter().map(|(batch, _)| batch).collect();
        batches.extend(state.queue.lock().expire(|_| true));
        state.blocked_until = None;
        state.backoff.reset();
        state.trouble.ends();
        for batch in batches {
            self.report(batch, Err(error.clone()));
        }
    }
}
