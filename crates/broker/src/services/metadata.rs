//! `MetadataService`: the cluster as this broker knows it, from memory.

use std::sync::Arc;

use jangada_proto::v1::metadata_service_server::MetadataService;
use jangada_proto::v1::{GetMetadataRequest, GetMetadataResponse};
use tonic::{Request, Response, Status};

use super::{cluster_wire, names, status};
use crate::admission::call_of;
use crate::api::metadata;
use crate::api::resolve::TopicRef;
use crate::error::RequestError;
use crate::node::Node;

/// The service `MetadataService` (`metadata.proto`).
pub(crate) struct MetadataOf {
    pub node: Arc<Node>,
}

impl MetadataOf {
    async fn get(&self, request: GetMetadataRequest, listener: &str) -> Result<GetMetadataResponse, RequestError> {
        let by_name = request.topics.into_iter().map(|name| Ok(TopicRef::Name(name)));
        let by_id = request.topic_ids.iter().map(|id| names::topic_id(id).map(TopicRef::Id));
        let topics: Vec<TopicRef> = by_name.chain(by_id).collect::<Result<_, RequestError>>()?;
        let metadata = metadata::get(&self.node, &topics, request.min_version).await?;
        Ok(cluster_wire::metadata_to(metadata, listener))
    }
}

#[tonic::async_trait]
impl MetadataService for MetadataOf {
    async fn get_metadata(
        &self,
        request: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        let call = call_of(&request);
        let metadata = self.get(request.into_inner(), &call.context.listener).await;
        status::answer(&self.node, &call, metadata)
    }
}
