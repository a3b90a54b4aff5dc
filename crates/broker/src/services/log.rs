//! `LogService`: the entrance to produce and fetch.

use std::sync::Arc;

use jangada_proto::v1::list_offsets_request::Position as Asked;
use jangada_proto::v1::log_service_server::LogService;
use jangada_proto::v1::{
    FetchRequest, FetchResponse, FetchStreamRequest, InitProducerRequest, InitProducerResponse, ListOffsetsRequest,
    ListOffsetsResponse, ProduceRequest, ProduceResponse, ProduceStreamRequest,
};
use jangada_types::{Offset, ProducerEpoch, ProducerId, Reason};
use tonic::{Request, Response, Status, Streaming};

use super::{fetch, names, produce};
use crate::admission::call_of;
use crate::api::offsets::{self, Position};
use crate::api::resolve;
use crate::error::RequestError;
use crate::node::Node;

/// See `log.proto`.
pub(crate) struct Log {
    pub node: Arc<Node>,
}

impl Log {
    /// An error on its way out.
    fn fail(&self, listener: &str, error: RequestError) -> Status {
        self.node.refused(error, listener).into()
    }
}

#[tonic::async_trait]
impl LogService for Log {
    async fn produce(&self, request: Request<ProduceRequest>) -> Result<Response<ProduceResponse>, Status> {
        let call = call_of(&request);
        produce::unary(&self.node, &call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| self.fail(&call.context.listener, error))
    }

    type ProduceStreamStream = produce::Answers;

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let call = call_of(&request);
        produce::stream(self.node.clone(), call.clone(), request.into_inner())
            .map(Response::new)
            .map_err(|error| self.fail(&call.context.listener, error))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<FetchResponse>, Status> {
        let call = call_of(&request);
        fetch::unary(&self.node, &call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| self.fail(&call.context.listener, error))
    }

    type FetchStreamStream = fetch::Pushed;

    async fn fetch_stream(
        &self,
        request: Request<Streaming<FetchStreamRequest>>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        let call = call_of(&request);
        fetch::stream(self.node.clone(), call.clone(), request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| self.fail(&call.context.listener, error))
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let call = call_of(&request);
        list_offsets(&self.node, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| self.fail(&call.context.listener, error))
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let call = call_of(&request);
        init_producer(&self.node, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| self.fail(&call.context.listener, error))
    }
}

async fn list_offsets(node: &Arc<Node>, request: ListOffsetsRequest) -> Result<ListOffsetsResponse, RequestError> {
    let wanted = names::partition(request.partition)?;
    let target = resolve::partition_of_records(&node.metadata.image(), &wanted)?;
    let position = match request.position {
        Some(Asked::Earliest(_)) => Position::Earliest,
        Some(Asked::Latest(_)) => Position::Latest,
        Some(Asked::TimestampMs(timestamp_ms)) => Position::Timestamp(timestamp_ms),
        None => {
            return Err(RequestError::new(
                Reason::InvalidRequest,
                "the request names no position: set earliest, latest or timestamp_ms",
            ));
        }
    };
    let found = offsets::find(node, &target, position).await?;
    Ok(ListOffsetsResponse {
        offset: found.offset.map_or(-1, Offset::get),
        timestamp_ms: found.timestamp_ms.unwrap_or(-1),
        leader_epoch: found.leader_epoch.get(),
    })
}

async fn init_producer(node: &Node, request: InitProducerRequest) -> Result<InitProducerResponse, RequestError> {
    node.stopping.refuse()?;
    let (producer_id, epoch) = match (request.producer_id, request.producer_epoch) {
        (None, None) => node.producer_ids.new_producer().await?,
        (Some(id), Some(epoch)) => {
            let invalid = || {
                RequestError::new(
                    Reason::InvalidRequest,
                    format!("producer epoch {epoch} is not from 0 to 32767"),
                )
            };
            let epoch = i16::try_from(epoch)
                .ok()
                .filter(|epoch| *epoch >= 0)
                .ok_or_else(invalid)?;
            node.producer_ids
                .next_epoch(ProducerId(id), ProducerEpoch(epoch))
                .await?
        }
        _ => {
            return Err(RequestError::new(
                Reason::InvalidRequest,
                "producer_id and producer_epoch go together",
            ));
        }
    };
    Ok(InitProducerResponse {
        producer_id: producer_id.get(),
        producer_epoch: i32::from(epoch.get()),
    })
}
