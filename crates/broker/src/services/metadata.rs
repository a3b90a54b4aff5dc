//! `MetadataService`: the cluster as this broker knows it, from memory.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Image, Topic, TopicKind};
use jangada_proto::v1;
use jangada_proto::v1::metadata_service_server::MetadataService;
use jangada_proto::v1::{GetMetadataRequest, GetMetadataResponse};
use jangada_types::{GroupId, LeaderEpoch, Reason, TopicId};
use tonic::{Request, Response, Status};

use crate::admission::call_of;
use crate::error::RequestError;
use crate::listener::Protocol;
use crate::node::Node;

/// How long a request waits for the version that it asks for.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);

/// See `metadata.proto`.
pub(crate) struct MetadataOf {
    pub node: Arc<Node>,
}

#[tonic::async_trait]
impl MetadataService for MetadataOf {
    async fn get_metadata(
        &self,
        request: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        let call = call_of(&request);
        let metadata = metadata(&self.node, request.into_inner(), &call.context.listener).await?;
        Ok(Response::new(metadata))
    }
}

/// What this broker knows of the cluster, for a client that came by this listener.
pub(super) async fn metadata(
    node: &Node,
    request: GetMetadataRequest,
    listener: &str,
) -> Result<GetMetadataResponse, RequestError> {
    let image = node
        .metadata
        .wait_for_version(request.min_version, VERSION_PATIENCE)
        .await?;
    let topics = wanted(&image, &request)?;
    let registry = node.registry();
    let brokers = image.brokers().map(|broker| v1::Broker {
        broker_id: broker.id.get(),
        address: broker.address_at(listener, Protocol::Grpc.name()).to_owned(),
        rack: broker.rack.clone(),
        alive: registry.is_alive(broker.id),
    });
    Ok(GetMetadataResponse {
        cluster_id: registry.identity().cluster_id.clone(),
        version: image.version(),
        brokers: brokers.collect(),
        topics: topics.iter().map(|topic| describe(node, topic)).collect(),
        controller_id: node
            .replicas
            .leader_of(GroupId::METADATA)
            .map_or(0, |(broker, _)| broker.get()),
    })
}

/// By name; those that do not exist are left out, and internal ones.
fn wanted(image: &Image, request: &GetMetadataRequest) -> Result<Vec<Arc<Topic>>, RequestError> {
    if request.topics.is_empty() && request.topic_ids.is_empty() {
        let topics = image.topics_by_name().filter(|topic| topic.kind == TopicKind::Log);
        return Ok(topics.cloned().collect());
    }
    let mut topics: Vec<Arc<Topic>> = request
        .topics
        .iter()
        .filter_map(|name| image.topic_named(name))
        .cloned()
        .collect();
    for id in &request.topic_ids {
        let id = TopicId::from_slice(id).ok_or_else(|| {
            RequestError::new(
                Reason::InvalidRequest,
                format!("a topic id has 16 bytes, this one has {}", id.len()),
            )
        })?;
        topics.extend(image.topic(id).cloned());
    }
    topics.retain(|topic| topic.kind == TopicKind::Log);
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics.dedup_by(|a, b| a.id == b.id);
    Ok(topics)
}

fn describe(node: &Node, topic: &Topic) -> v1::Topic {
    let partitions = topic.indexed().map(|(index, partition)| {
        let leader = node.replicas.leader_of(partition.group);
        v1::Partition {
            partition: index.get(),
            leader_id: leader.map_or(0, |(broker, _)| broker.get()),
            leader_epoch: leader.map_or(0, |(_, term)| LeaderEpoch::from_term(term).get()),
            replicas: partition.replicas.iter().map(|replica| replica.broker.get()).collect(),
        }
    });
    v1::Topic {
        name: topic.name.to_string(),
        topic_id: topic.id.as_bytes().to_vec().into(),
        partitions: partitions.collect(),
        config: topic.config.clone().into_iter().collect(),
    }
}
