//! `TransactionService`. The leader of an id's shard takes the calls about it; any broker says who that is, and lists the ids of all.

use std::sync::Arc;

use jangada_proto::v1::transaction_service_server::TransactionService;
use jangada_proto::v1::*;
use tonic::{Request, Response, Status};

use super::{names, status, transaction_wire as wire};
use crate::admission::{Call, call_of};
use crate::api::call::transactions::{
    AbortTransaction, DescribeProducers, DescribeTransaction, TransactionDescription, TransactionList,
};
use crate::api::context::RequestContext;
use crate::api::transactions::{self, TransactionCoordinator};
use crate::error::RequestError;
use crate::listener::Protocol;
use crate::node::Node;

/// The service `TransactionService` (`transaction.proto`).
pub(crate) struct Transactions {
    pub node: Arc<Node>,
}

type Answer<T> = Result<Response<T>, Status>;
type Result<T, E = RequestError> = std::result::Result<T, E>;

impl Transactions {
    /// An answer, or an error on its way out.
    fn answer<T>(&self, call: &Call, result: Result<T>) -> Answer<T> {
        status::answer(&self.node, call, result)
    }

    async fn coordinator<'a>(&'a self, context: &'a RequestContext, id: &str) -> Result<TransactionCoordinator<'a>> {
        TransactionCoordinator::of(&self.node, context, id).await
    }

    /// Where the coordinator of an id is, for a client that came by this listener.
    async fn find(&self, id: &str, listener: &str) -> Result<FindTransactionCoordinatorResponse> {
        let (broker, shard) = transactions::find_coordinator(&self.node, id).await?;
        Ok(FindTransactionCoordinatorResponse {
            broker_id: broker.id.get(),
            address: broker.address_at(listener, Protocol::Grpc.name()).to_owned(),
            shard: shard.get(),
        })
    }

    async fn list(&self, request: ListTransactionsRequest) -> ListTransactionsResponse {
        let now_ms = u64::try_from(self.node.env.clock.now_ms()).unwrap_or_default();
        let is_wanted = |row: &TransactionDescription| {
            let is_state = request.states.is_empty() || request.states.iter().any(|name| name == row.state.as_str());
            let is_older = || row.started_ms > 0 && now_ms.saturating_sub(row.started_ms) >= request.older_than_ms;
            is_state && (request.older_than_ms == 0 || is_older())
        };
        let TransactionList {
            mut transactions,
            missing_shards,
        } = transactions::list_everywhere(&self.node).await;
        transactions.retain(is_wanted);
        let list = TransactionList {
            transactions,
            missing_shards,
        };
        wire::list_to(&self.node.metadata.image(), list)
    }
}

#[tonic::async_trait]
impl TransactionService for Transactions {
    async fn find_transaction_coordinator(
        &self,
        request: Request<FindTransactionCoordinatorRequest>,
    ) -> Answer<FindTransactionCoordinatorResponse> {
        let call = call_of(&request);
        let found = self.find(&request.get_ref().transactional_id, &call.context.listener);
        self.answer(&call, found.await)
    }

    async fn init_transactions(&self, request: Request<InitTransactionsRequest>) -> Answer<InitTransactionsResponse> {
        let call = call_of(&request);
        let init = async {
            let wanted = wire::init_of(request.into_inner())?;
            let coordinator = self.coordinator(&call.context, &wanted.id).await?;
            coordinator.init(wanted).await
        };
        self.answer(&call, init.await.map(wire::initialized_to))
    }

    async fn end_transaction(&self, request: Request<EndTransactionRequest>) -> Answer<EndTransactionResponse> {
        let call = call_of(&request);
        let end = async {
            let wanted = wire::end_of(request.into_inner())?;
            let coordinator = self.coordinator(&call.context, &wanted.id).await?;
            coordinator.end(wanted).await
        };
        self.answer(&call, end.await.map(wire::ended_to))
    }

    async fn describe_transaction(
        &self,
        request: Request<DescribeTransactionRequest>,
    ) -> Answer<DescribeTransactionResponse> {
        let call = call_of(&request);
        let describe = async {
            let id: Arc<str> = request.into_inner().transactional_id.into();
            let coordinator = self.coordinator(&call.context, &id).await?;
            let described = coordinator.describe(DescribeTransaction { id: id.clone() }).await?;
            Ok(wire::described_to(&self.node.metadata.image(), described))
        };
        self.answer(&call, describe.await)
    }

    async fn list_transactions(&self, request: Request<ListTransactionsRequest>) -> Answer<ListTransactionsResponse> {
        let call = call_of(&request);
        self.answer(&call, Ok(self.list(request.into_inner()).await))
    }

    async fn abort_transaction(&self, request: Request<AbortTransactionRequest>) -> Answer<AbortTransactionResponse> {
        let call = call_of(&request);
        let abort = async {
            let id: Arc<str> = request.into_inner().transactional_id.into();
            let coordinator = self.coordinator(&call.context, &id).await?;
            coordinator.abort(AbortTransaction { id: id.clone() }).await
        };
        let aborted = abort.await;
        self.answer(&call, aborted.map(|aborted| AbortTransactionResponse { aborted }))
    }

    async fn describe_producers(
        &self,
        request: Request<DescribeProducersRequest>,
    ) -> Answer<DescribeProducersResponse> {
        let call = call_of(&request);
        let describe = async {
            let partition = names::partition(request.into_inner().partition)?;
            transactions::describe_producers(&self.node, &call.context, DescribeProducers { partition }).await
        };
        self.answer(&call, describe.await.map(wire::producers_to))
    }
}
