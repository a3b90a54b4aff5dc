//! The calls to the coordinator of a transactional id.

use std::sync::Arc;
use std::time::Duration;

use jangada_proto::v1;
use jangada_types::{ProducerEpoch, ProducerId, Reason};

use crate::attempts::CallFailed;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::group::Coordinator;
use crate::wire_error::Failure;

/// A producer id with the epoch of one transaction.
pub(super) type Identity = (ProducerId, ProducerEpoch);

/// The coordinator of one transactional id.
pub(super) struct Calls {
    id: Arc<str>,
    coordinator: Coordinator,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Committed,
    Aborted,
    /// It is open, or has not begun: its end has not come to the coordinator.
    Open,
    /// Later ones have ended, or another producer has the id.
    Unknown,
}

impl Calls {
    pub fn new(cluster: Arc<Cluster>, id: Arc<str>) -> Self {
        Self {
            coordinator: Coordinator::of_transactions(cluster, id.clone()),
            id,
        }
    }

    pub fn context(&self, what: &str) -> String {
        format!("{what} of transactional id {}", self.id)
    }

    /// Begins a life of the producer; or goes on with this one, under an epoch after it.
    pub async fn init(&self, timeout: Duration, before: Option<Identity>) -> Result<Identity, CallFailed> {
        let request = v1::InitTransactionsRequest {
            transactional_id: self.id.to_string(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            producer_id: before.map(|(id, _)| id.get()),
            producer_epoch: before.map(|(_, epoch)| epoch.get().into()),
        };
        let call = self
            .coordinator
            .call_transactions(self.coordinator.deadline(), |mut service| {
                let request = request.clone();
                async move { service.init_transactions(request).await }
            });
        let answer = call.await?;
        identity(answer.producer_id, answer.producer_epoch)
    }

    /// Ends a transaction. Returns the identity of the next one, and whether the outcome is to be seen everywhere.
    pub async fn end(&self, transaction: Identity, commit: bool, early: bool) -> Result<(Identity, bool), CallFailed> {
        let request = v1::EndTransactionRequest {
            transactional_id: self.id.to_string(),
            producer_id: transaction.0.get(),
            producer_epoch: transaction.1.get().into(),
            commit,
            early,
        };
        let call = self
            .coordinator
            .call_transactions(self.coordinator.deadline(), |mut service| {
                let request = request.clone();
                async move { service.end_transaction(request).await }
            });
        let answer = call.await?;
        Ok((identity(answer.producer_id, answer.producer_epoch)?, answer.visible))
    }

    /// Asks what became of a transaction.
    pub async fn find(&self, transaction: Identity) -> Result<Found, ClientError> {
        let call = self
            .coordinator
            .call_transactions(self.coordinator.deadline(), |mut service| {
                let request = v1::DescribeTransactionRequest {
                    transactional_id: self.id.to_string(),
                };
                async move { service.describe_transaction(request).await }
            });
        let answer = call.await.map_err(|failed| {
            let failed = failed.without_effect();
            failed.into_error(&self.context("describe the transaction"))
        })?;
        let state = answer.transaction.unwrap_or_default();
        Ok(found(&state, transaction))
    }
}

/// What a description says of one transaction.
fn found(state: &v1::TransactionState, (id, epoch): Identity) -> Found {
    let wanted = (id.get(), i32::from(epoch.get()));
    // The next producer has another id when the epochs are used up. A broker of an earlier build does not name the last one.
    let last_id = state.last_producer_id.unwrap_or(state.producer_id);
    match state.last_epoch {
        Some(last) if (last_id, last) == wanted && state.last_committed => Found::Committed,
        Some(last) if (last_id, last) == wanted => Found::Aborted,
        _ if (state.producer_id, state.producer_epoch) == wanted => Found::Open,
        _ => Found::Unknown,
    }
}

fn identity(id: i64, epoch: i32) -> Result<Identity, CallFailed> {
    let epoch = i16::try_from(epoch).ok().filter(|epoch| *epoch >= 0);
    match epoch {
        Some(epoch) if id >= 0 => Ok((ProducerId(id), ProducerEpoch(epoch))),
        _ => {
            let mut failure = Failure::local(tonic::Code::InvalidArgument, "a producer id or epoch below 0", true);
            failure.reason = Some(Reason::InvalidRequest);
            Err(CallFailed {
                failure,
                in_doubt: true,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_tells_of_the_last_transaction_and_the_present_one() {
        let state = v1::TransactionState {
            producer_id: 7,
            producer_epoch: 5,
            last_epoch: Some(4),
            last_committed: true,
            ..Default::default()
        };
        let of = |id, epoch| found(&state, (ProducerId(id), ProducerEpoch(epoch)));
        assert_eq!(of(7, 4), Found::Committed);
        assert_eq!(of(7, 5), Found::Open);
        assert_eq!((of(7, 3), of(8, 4)), (Found::Unknown, Found::Unknown));
        let aborted = v1::TransactionState {
            last_committed: false,
            ..state.clone()
        };
        assert_eq!(found(&aborted, (ProducerId(7), ProducerEpoch(4))), Found::Aborted);
        // The commit took the last epoch, and gave the next transaction another producer id.
        let used_up = v1::TransactionState {
            producer_id: 8,
            producer_epoch: 0,
            last_epoch: Some(i32::from(i16::MAX) - 1),
            last_producer_id: Some(7),
            ..state
        };
        let of = |id, epoch| found(&used_up, (ProducerId(id), ProducerEpoch(epoch)));
        assert_eq!(of(7, i16::MAX - 1), Found::Committed);
        assert_eq!((of(8, 0), of(8, i16::MAX - 1)), (Found::Open, Found::Unknown));
    }
}
