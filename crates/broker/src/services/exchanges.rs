//! `ExchangeService`. Any broker takes a call: metadata commands go to the metadata's leader by themselves, and messages to the leaders
//! of the partitions that they are for.

use std::sync::Arc;

use jangada_proto::v1::exchange_service_server::ExchangeService;
use jangada_proto::v1::*;
use tonic::{Request, Response, Status};

use super::exchange_wire as wire;
use super::record_wire::invalid;
use super::{queue_wire, status};
use crate::admission::{Call, call_of};
use crate::api::publish::{self, PublishWanted};
use crate::api::{exchanges, produce};
use crate::error::RequestError;
use crate::node::Node;

type Answer<T> = Result<Response<T>, Status>;

/// The service `ExchangeService` (`exchange.proto`).
pub(crate) struct Exchanges {
    pub node: Arc<Node>,
}

impl Exchanges {
    /// An answer, or an error on its way out.
    fn answer<T>(&self, call: &Call, result: Result<T, RequestError>) -> Answer<T> {
        status::answer(&self.node, call, result)
    }

    async fn create(&self, request: CreateExchangeRequest) -> Result<CreateExchangeResponse, RequestError> {
        self.node.stopping.refuse()?;
        let created = exchanges::create(&self.node, wire::wanted_of(request)?).await?;
        Ok(CreateExchangeResponse {
            exchange_id: wire::exchange_id_to(created.id),
            created: created.created,
            version: created.version,
        })
    }

    fn list(&self) -> Result<ListExchangesResponse, RequestError> {
        self.node.stopping.refuse()?;
        let (exchanges, version) = exchanges::list(&self.node);
        let exchanges = exchanges
            .iter()
            .map(|(exchange, log)| wire::info_to((exchange, log.as_deref())));
        let exchanges = exchanges.collect();
        Ok(ListExchangesResponse { exchanges, version })
    }

    async fn describe(&self, request: DescribeExchangeRequest) -> Result<DescribeExchangeResponse, RequestError> {
        self.node.stopping.refuse()?;
        let found = exchanges::describe(&self.node, &request.name, request.skip_bindings as usize).await?;
        Ok(DescribeExchangeResponse {
            exchange: Some(wire::info_to((&found.exchange, found.log.as_deref()))),
            bindings: found.bindings.iter().map(wire::binding_to).collect(),
            bound_from: found.bound_from.iter().map(ToString::to_string).collect(),
            version: found.version,
        })
    }

    async fn delete(&self, request: DeleteExchangeRequest) -> Result<DeleteExchangeResponse, RequestError> {
        self.node.stopping.refuse()?;
        let version = exchanges::delete(&self.node, &request.name, request.if_unused).await?;
        Ok(DeleteExchangeResponse { version })
    }

    async fn bind(&self, request: BindRequest) -> Result<BindResponse, RequestError> {
        self.node.stopping.refuse()?;
        let bindings = wire::bindings_of(request.bindings)?;
        let version = exchanges::bind(&self.node, &request.name, &bindings).await?;
        Ok(BindResponse { version })
    }

    async fn unbind(&self, request: BindRequest) -> Result<BindResponse, RequestError> {
        self.node.stopping.refuse()?;
        let bindings = wire::bindings_of(request.bindings)?;
        let version = exchanges::unbind(&self.node, &request.name, &bindings).await?;
        Ok(BindResponse { version })
    }

    async fn trace(&self, request: TraceMessageRequest) -> Result<TraceMessageResponse, RequestError> {
        self.node.stopping.refuse()?;
        let headers: Vec<_> = request.headers.into_iter().map(queue_wire::header_of).collect();
        let traced = exchanges::trace(&self.node, &request.name, &request.routing_key, &headers).await?;
        Ok(wire::traced_to(traced))
    }

    async fn publish_all(&self, call: &Call, request: PublishRequest) -> Result<PublishResponse, RequestError> {
        self.node.stopping.refuse()?;
        if request.messages.is_empty() {
            return Err(invalid("the request has no messages: publish at least one"));
        }
        let wanted = PublishWanted {
            exchange: request.exchange,
            messages: request.messages.into_iter().map(wire::publish_message_of).collect(),
            order_key: (!request.order_key.is_empty()).then_some(request.order_key),
            timeout: produce::timeout(&self.node, request.timeout_ms)?,
        };
        let outcomes = publish::publish(&self.node, &call.context, wanted).await?;
        Ok(wire::published_to(outcomes, |error| {
            self.node.refused(error, &call.context.listener)
        }))
    }
}

#[tonic::async_trait]
impl ExchangeService for Exchanges {
    async fn create_exchange(&self, request: Request<CreateExchangeRequest>) -> Answer<CreateExchangeResponse> {
        let call = call_of(&request);
        self.answer(&call, self.create(request.into_inner()).await)
    }

    async fn list_exchanges(&self, request: Request<ListExchangesRequest>) -> Answer<ListExchangesResponse> {
        let call = call_of(&request);
        self.answer(&call, self.list())
    }

    async fn describe_exchange(&self, request: Request<DescribeExchangeRequest>) -> Answer<DescribeExchangeResponse> {
        let call = call_of(&request);
        self.answer(&call, self.describe(request.into_inner()).await)
    }

    async fn delete_exchange(&self, request: Request<DeleteExchangeRequest>) -> Answer<DeleteExchangeResponse> {
        let call = call_of(&request);
        self.answer(&call, self.delete(request.into_inner()).await)
    }

    async fn bind(&self, request: Request<BindRequest>) -> Answer<BindResponse> {
        let call = call_of(&request);
        self.answer(&call, Self::bind(self, request.into_inner()).await)
    }

    async fn unbind(&self, request: Request<BindRequest>) -> Answer<BindResponse> {
        let call = call_of(&request);
        self.answer(&call, Self::unbind(self, request.into_inner()).await)
    }

    async fn trace_message(&self, request: Request<TraceMessageRequest>) -> Answer<TraceMessageResponse> {
        let call = call_of(&request);
        self.answer(&call, self.trace(request.into_inner()).await)
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Answer<PublishResponse> {
        let call = call_of(&request);
        let published = self.publish_all(&call, request.into_inner()).await;
        self.answer(&call, published)
    }
}
