//! `LogService`: the entrance to produce and fetch.

use std::sync::Arc;

use jangada_proto::v1::log_service_server::LogService;
use jangada_proto::v1::{
    FetchRequest, FetchResponse, FetchStreamRequest, InitProducerRequest, InitProducerResponse, ListOffsetsRequest,
    ListOffsetsResponse, ProduceRequest, ProduceResponse, ProduceStreamRequest,
};
use jangada_types::{ProducerEpoch, ProducerId};
use tonic::{Request, Response, Status, Streaming};

use super::record_wire::{self, invalid};
use super::{fetch, names, produce, status};
use crate::admission::call_of;
use crate::api::call::records::FindOffset;
use crate::api::context::RequestContext;
use crate::api::{offsets, producers};
use crate::error::RequestError;
use crate::node::Node;

/// The service `LogService` (`log.proto`).
pub(crate) struct Log {
    pub node: Arc<Node>,
}

#[tonic::async_trait]
impl LogService for Log {
    async fn produce(&self, request: Request<ProduceRequest>) -> Result<Response<ProduceResponse>, Status> {
        let call = call_of(&request);
        status::answer(
            &self.node,
            &call,
            produce::unary(&self.node, &call, request.into_inner()).await,
        )
    }

    type ProduceStreamStream = produce::Answers;

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let call = call_of(&request);
        status::answer(
            &self.node,
            &call,
            produce::stream(self.node.clone(), call.clone(), request.into_inner()),
        )
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<FetchResponse>, Status> {
        let call = call_of(&request);
        status::answer(
            &self.node,
            &call,
            fetch::unary(&self.node, &call, request.into_inner()).await,
        )
    }

    type FetchStreamStream = fetch::Pushed;

    async fn fetch_stream(
        &self,
        request: Request<Streaming<FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let call = call_of(&request);
        status::answer(
            &self.node,
            &call,
            fetch::stream(self.node.clone(), call.clone(), request.into_inner()).await,
        )
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let call = call_of(&request);
        status::answer(
            &self.node,
            &call,
            list_offsets(&self.node, &call.context, request.into_inner()).await,
        )
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let call = call_of(&request);
        status::answer(&self.node, &call, init_producer(&self.node, request.into_inner()).await)
    }
}

async fn list_offsets(
    node: &Arc<Node>,
    context: &RequestContext,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, RequestError> {
    let wanted = FindOffset {
        partition: names::partition(request.partition)?,
        position: record_wire::position(request.position)?,
        isolation: record_wire::isolation(request.isolation)?,
    };
    offsets::find(node, context, wanted).await.map(record_wire::found_to)
}

async fn init_producer(node: &Node, request: InitProducerRequest) -> Result<InitProducerResponse, RequestError> {
    let known = match (request.producer_id, request.producer_epoch) {
        (None, None) => None,
        (Some(id), Some(epoch)) => Some((ProducerId(id), producer_epoch(epoch)?)),
        _ => return Err(invalid("producer_id and producer_epoch go together")),
    };
    let (producer_id, epoch) = producers::init(node, known).await?;
    Ok(InitProducerResponse {
        producer_id: producer_id.get(),
        producer_epoch: i32::from(epoch.get()),
    })
}

fn producer_epoch(epoch: i32) -> Result<ProducerEpoch, RequestError> {
    let known = i16::try_from(epoch).ok().filter(|epoch| *epoch >= 0);
    known
        .map(ProducerEpoch)
        .ok_or_else(|| invalid(format!("producer epoch {epoch} is not from 0 to 32767")))
}
