//! `AdminService`. Any broker takes a call: metadata commands go to the metadata's leader by themselves; a call about
//! one partition is passed on to the broker that leads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_proto::v1::admin_service_server::AdminService;
use jangada_proto::v1::*;
use jangada_types::BrokerId;
use tonic::{Request, Response, Status};

use super::{cluster_wire, names, passed_wire, status};
use crate::admission::{Call, call_of};
use crate::api::cluster::{self, ClusterView};
use crate::api::context::{RequestContext, Route};
use crate::api::topics::{self, TopicWanted};
use crate::api::{carry_out, partition_admin, resolve};
use crate::error::RequestError;
use crate::forward::was_passed_on;
use crate::node::Node;

/// The service `AdminService` (`admin.proto`).
pub(crate) struct Admin {
    node: Arc<Node>,
    view: Arc<ClusterView>,
}

impl Admin {
    pub fn new(node: Arc<Node>, view: Arc<ClusterView>) -> Self {
        Self { node, view }
    }

    /// Who makes a call; brokers below feature level 6 pass calls on as a client.
    fn context<T>(&self, call: &Call, request: &Request<T>) -> RequestContext {
        let mut context = call.context.clone();
        if was_passed_on(&self.node.metadata.image(), request) {
            context.route = Route::Passed(None);
        }
        context
    }

    /// An answer, or an error on its way out.
    fn answer<T>(&self, call: &Call, result: Result<T, RequestError>) -> Answer<T> {
        status::answer(&self.node, call, result)
    }

    async fn describe(&self, request: DescribeTopicRequest) -> Result<DescribeTopicResponse, RequestError> {
        let image = self.node.metadata.image();
        let topic = resolve::topic(&image, &names::topic(&request.topic_id, request.name)?)?;
        let partitions = self.view.partitions(Some(topic.id)).await?;
        Ok(DescribeTopicResponse {
            name: topic.name.to_string(),
            topic_id: cluster_wire::topic_id(topic.id),
            replicas: topics::replicas_of(topic),
            config: cluster_wire::config_entries(topic),
            partitions: cluster_wire::partitions_to(partitions),
        })
    }

    async fn create(&self, request: CreateTopicRequest) -> Result<CreateTopicResponse, RequestError> {
        let wanted = TopicWanted {
            name: request.name,
            partitions: request.partitions,
            replicas: request.replicas,
            config: request.config.into_iter().collect(),
            if_not_exists: request.if_not_exists,
        };
        let created = topics::create(&self.node, wanted).await?;
        Ok(CreateTopicResponse {
            topic_id: cluster_wire::topic_id(created.id),
            created: created.created,
            version: created.version,
            partitions: created.partitions,
            replicas: created.replicas,
        })
    }

    async fn alter(&self, request: AlterTopicRequest) -> Result<AlterTopicResponse, RequestError> {
        let set: BTreeMap<String, String> = request.set.into_iter().collect();
        let topic = names::topic(&request.topic_id, request.name)?;
        let version = topics::alter(&self.node, &topic, &set, &request.unset).await?;
        Ok(AlterTopicResponse { version })
    }

    async fn grow(&self, request: CreatePartitionsRequest) -> Result<CreatePartitionsResponse, RequestError> {
        let topic = names::topic(&request.topic_id, request.name)?;
        let version = topics::create_partitions(&self.node, &topic, request.total).await?;
        Ok(CreatePartitionsResponse { version })
    }

    async fn delete(&self, request: DeleteTopicRequest) -> Result<DeleteTopicResponse, RequestError> {
        let topic = names::topic(&request.topic_id, request.name)?;
        let version = topics::delete(&self.node, &topic).await?;
        Ok(DeleteTopicResponse { version })
    }

    async fn trim(
        &self,
        context: &RequestContext,
        request: TrimPartitionRequest,
    ) -> Result<TrimPartitionResponse, RequestError> {
        let trimmed = partition_admin::trim(&self.node, context, passed_wire::trim_of(request)?);
        trimmed.await.map(passed_wire::trimmed)
    }

    async fn transfer(
        &self,
        context: &RequestContext,
        request: TransferLeaderRequest,
    ) -> Result<TransferLeaderResponse, RequestError> {
        let transferred = partition_admin::transfer_leader(&self.node, context, passed_wire::transfer_of(request)?);
        transferred.await.map(passed_wire::transferred)
    }

    async fn partitions(
        &self,
        context: &RequestContext,
        request: DescribePartitionsRequest,
    ) -> Result<DescribePartitionsResponse, RequestError> {
        let wanted = passed_wire::states_of(&self.node.metadata.image(), request)?;
        let partitions = match context.route {
            Route::Passed(_) => carry_out::partitions_here(&self.node, wanted).await,
            Route::Follow | Route::PassOn => Arc::unwrap_or_clone(self.view.partitions(wanted.topic).await?),
        };
        Ok(DescribePartitionsResponse {
            partitions: partitions.into_iter().map(cluster_wire::partition_to).collect(),
        })
    }

    async fn cluster(&self, context: &RequestContext) -> Result<DescribeClusterResponse, RequestError> {
        match context.route {
            Route::Passed(_) => Ok(cluster_wire::damage_to(carry_out::damage_here(&self.node))),
            Route::Follow | Route::PassOn => {
                let cluster = Arc::unwrap_or_clone(self.view.describe().await?);
                Ok(cluster_wire::cluster_to(cluster, &context.listener))
            }
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_topic(&self, request: Request<CreateTopicRequest>) -> Answer<CreateTopicResponse> {
        let call = call_of(&request);
        self.answer(&call, self.create(request.into_inner()).await)
    }

    async fn list_topics(&self, _request: Request<ListTopicsRequest>) -> Answer<ListTopicsResponse> {
        let topics = topics::list(&self.node).into_iter().map(|topic| TopicSummary {
            name: topic.name.to_string(),
            topic_id: cluster_wire::topic_id(topic.id),
            partitions: topics::count(topic.partitions.len()),
            replicas: topics::replicas_of(&topic),
        });
        Ok(Response::new(ListTopicsResponse {
            topics: topics.collect(),
        }))
    }

    async fn describe_topic(&self, request: Request<DescribeTopicRequest>) -> Answer<DescribeTopicResponse> {
        let call = call_of(&request);
        self.answer(&call, self.describe(request.into_inner()).await)
    }

    async fn alter_topic(&self, request: Request<AlterTopicRequest>) -> Answer<AlterTopicResponse> {
        let call = call_of(&request);
        self.answer(&call, self.alter(request.into_inner()).await)
    }

    async fn create_partitions(&self, request: Request<CreatePartitionsRequest>) -> Answer<CreatePartitionsResponse> {
        let call = call_of(&request);
        self.answer(&call, self.grow(request.into_inner()).await)
    }

    async fn delete_topic(&self, request: Request<DeleteTopicRequest>) -> Answer<DeleteTopicResponse> {
        let call = call_of(&request);
        self.answer(&call, self.delete(request.into_inner()).await)
    }

    async fn trim_partition(&self, request: Request<TrimPartitionRequest>) -> Answer<TrimPartitionResponse> {
        let call = call_of(&request);
        let context = self.context(&call, &request);
        self.answer(&call, self.trim(&context, request.into_inner()).await)
    }

    async fn describe_cluster(&self, request: Request<DescribeClusterRequest>) -> Answer<DescribeClusterResponse> {
        let call = call_of(&request);
        let context = self.context(&call, &request);
        self.answer(&call, self.cluster(&context).await)
    }

    async fn describe_partitions(
        &self,
        request: Request<DescribePartitionsRequest>,
    ) -> Answer<DescribePartitionsResponse> {
        let call = call_of(&request);
        let context = self.context(&call, &request);
        self.answer(&call, self.partitions(&context, request.into_inner()).await)
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Answer<TransferLeaderResponse> {
        let call = call_of(&request);
        let context = self.context(&call, &request);
        self.answer(&call, self.transfer(&context, request.into_inner()).await)
    }

    async fn remove_broker(&self, request: Request<RemoveBrokerRequest>) -> Answer<RemoveBrokerResponse> {
        let call = call_of(&request);
        let broker = BrokerId(request.into_inner().broker_id);
        let removed = cluster::remove_broker(&self.node, broker).await;
        self.answer(&call, removed.map(|version| RemoveBrokerResponse { version }))
    }

    async fn replace_broker(&self, request: Request<ReplaceBrokerRequest>) -> Answer<ReplaceBrokerResponse> {
        let call = call_of(&request);
        let broker = BrokerId(request.into_inner().broker_id);
        let replaced = cluster::replace_broker(&self.node, broker).await;
        let response = replaced.map(|incarnation| ReplaceBrokerResponse {
            incarnation: incarnation.get(),
        });
        self.answer(&call, response)
    }
}
