//! `AdminService`. Any broker takes a call: metadata commands go to the metadata's leader by themselves; a call about
//! one partition is passed on to the broker that leads it.
//!
//! - [`create`]: creating topics, and more partitions of one.
//! - [`transfer`]: moving leaderships.
//! - [`trim`]: dropping records.
//! - [`states`]: what partitions are like.
//! - [`damage`]: the damaged replicas of all brokers.
//! - [`describe`]: the cluster, and a topic's settings.
//! - [`fields`]: fields that several responses have.

mod create;
mod damage;
mod describe;
mod fields;
mod states;
mod transfer;
mod trim;

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::{Broker, Image, Reply, TopicKind, admission};
use jangada_proto::v1::admin_service_server::AdminService;
use jangada_proto::v1::*;
use jangada_replication::transport::dialer::CallError;
use jangada_types::{BrokerId, Reason, TopicId};
use tonic::{Request, Response, Status};

use self::create::{create_partitions, create_topic, need_level_of};
pub(super) use self::damage::damage_here;
use self::describe::{config_entries, describe_cluster};
use self::fields::{count, replicas, topic_id};
use self::states::{Asked, states_of};
pub(crate) use self::states::{id_of, voters_of};
use self::transfer::transfer_leader;
use self::trim::trim_partition;
use super::gathering::Gathering;
use super::names;
use crate::admission::{Call, call_of};
use crate::api::resolve;
use crate::error::RequestError;
use crate::forward::{CALL_TIMEOUT, Forwarded, forward, was_passed_on};
use crate::listener::Protocol;
use crate::node::Node;
use crate::target::Target;

/// See `admin.proto`.
pub(crate) struct Admin {
    node: Arc<Node>,
    /// For all who ask at a time: looking at all partitions is work, also of other brokers.
    states: Gathering<Asked, Arc<Vec<PartitionState>>>,
    cluster: Gathering<(), Arc<DescribeClusterResponse>>,
}

impl Admin {
    pub fn new(node: Arc<Node>) -> Self {
        let (of_states, of_cluster) = (node.clone(), node.clone());
        Self {
            node,
            states: Gathering::new(move |asked| {
                let node = of_states.clone();
                async move { Arc::new(states_of(&node, asked).await) }
            }),
            cluster: Gathering::new(move |()| {
                let node = of_cluster.clone();
                async move { Arc::new(describe_cluster(&node).await) }
            }),
        }
    }

    async fn states(&self, topic: Option<TopicId>, only_local: bool) -> Result<Vec<PartitionState>, RequestError> {
        let states = self.states.get(Asked { topic, only_local }).await;
        let states = states.ok_or_else(|| RequestError::new(Reason::Internal, "looking at the partitions failed"))?;
        Ok(Arc::unwrap_or_clone(states))
    }

    /// An answer, or an error with the address of the leader that it names.
    fn answer<T>(&self, call: &Call, result: Result<T, RequestError>) -> Answer<T> {
        let told = |error| self.node.metadata.with_leader_address(error, &call.context.listener);
        Ok(Response::new(result.map_err(told)?))
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_topic(&self, request: Request<CreateTopicRequest>) -> Answer<CreateTopicResponse> {
        Ok(Response::new(create_topic(&self.node, request.into_inner()).await?))
    }

    async fn list_topics(&self, _request: Request<ListTopicsRequest>) -> Answer<ListTopicsResponse> {
        let image = self.node.metadata.image();
        let topics = image.topics_by_name().filter(|topic| topic.kind == TopicKind::Log);
        let topics = topics.map(|topic| TopicSummary {
            name: topic.name.to_string(),
            topic_id: topic_id(topic),
            partitions: count(topic.partitions.len()),
            replicas: replicas(topic),
        });
        Ok(Response::new(ListTopicsResponse {
            topics: topics.collect(),
        }))
    }

    async fn describe_topic(&self, request: Request<DescribeTopicRequest>) -> Answer<DescribeTopicResponse> {
        let DescribeTopicRequest { name, topic_id: id } = request.into_inner();
        let image = self.node.metadata.image();
        let topic = resolve::topic(&image, &names::topic(&id, name)?)?;
        let partitions = self.states(Some(topic.id), false).await?;
        Ok(Response::new(DescribeTopicResponse {
            name: topic.name.to_string(),
            topic_id: topic_id(topic),
            replicas: replicas(topic),
            config: config_entries(topic),
            partitions,
        }))
    }

    async fn alter_topic(&self, request: Request<AlterTopicRequest>) -> Answer<AlterTopicResponse> {
        let request = request.into_inner();
        let set: BTreeMap<String, String> = request.set.into_iter().collect();
        need_level_of(&self.node, set.keys().chain(&request.unset)).await?;
        let image = self.node.metadata.image();
        let topic = resolve::topic(&image, &names::topic(&request.topic_id, request.name)?)?;
        let command =
            admission::validate_alter_topic(&image, &topic.name, &set, &request.unset).map_err(RequestError::from)?;
        let (_, version) = self.node.metadata.propose(&command).await?;
        Ok(Response::new(AlterTopicResponse { version }))
    }

    async fn create_partitions(&self, request: Request<CreatePartitionsRequest>) -> Answer<CreatePartitionsResponse> {
        Ok(Response::new(
            create_partitions(&self.node, request.into_inner()).await?,
        ))
    }

    async fn delete_topic(&self, request: Request<DeleteTopicRequest>) -> Answer<DeleteTopicResponse> {
        let DeleteTopicRequest { name, topic_id: id } = request.into_inner();
        let image = self.node.metadata.image();
        let topic = resolve::topic(&image, &names::topic(&id, name)?)?;
        let command = admission::validate_delete_topic(&image, &topic.name).map_err(RequestError::from)?;
        let (_, version) = self.node.metadata.propose(&command).await?;
        Ok(Response::new(DeleteTopicResponse { version }))
    }

    async fn trim_partition(&self, request: Request<TrimPartitionRequest>) -> Answer<TrimPartitionResponse> {
        let call = call_of(&request);
        let wanted = names::partition(request.get_ref().partition.clone())?;
        let target = resolve::partition_of_records(&self.node.metadata.image(), &wanted)?;
        if let Some(leader) = elsewhere(&self.node, &target, &request) {
            return pass_on(&self.node, &call, (&target, &leader), request.into_inner()).await;
        }
        let before = request.get_ref().before_offset;
        self.answer(&call, trim_partition(&self.node, &target, before).await)
    }

    async fn describe_cluster(&self, request: Request<DescribeClusterRequest>) -> Answer<DescribeClusterResponse> {
        let call = call_of(&request);
        if was_passed_on(&self.node.metadata.image(), &request) {
            return Ok(Response::new(damage_here(&self.node)));
        }
        let cluster = self.cluster.get(()).await;
        let cluster = cluster.ok_or_else(|| RequestError::new(Reason::Internal, "looking at the cluster failed"))?;
        let mut cluster = Arc::unwrap_or_clone(cluster);
        // It was gathered for all who ask, by whatever listener.
        let image = self.node.metadata.image();
        for state in &mut cluster.brokers {
            if let Some(broker) = image.broker(BrokerId(state.broker_id)) {
                state.address = broker
                    .address_at(&call.context.listener, Protocol::Grpc.name())
                    .to_owned();
            }
        }
        Ok(Response::new(cluster))
    }

    async fn describe_partitions(
        &self,
        request: Request<DescribePartitionsRequest>,
    ) -> Answer<DescribePartitionsResponse> {
        let image = self.node.metadata.image();
        let forwarded = was_passed_on(&image, &request);
        let topic = topic_of(&image, request.get_ref())?;
        let partitions = self.states(topic, forwarded).await?;
        Ok(Response::new(DescribePartitionsResponse { partitions }))
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Answer<TransferLeaderResponse> {
        let call = call_of(&request);
        let wanted = names::partition(request.get_ref().partition.clone())?;
        let target = resolve::partition(&self.node.metadata.image(), &wanted)?;
        if let Some(leader) = elsewhere(&self.node, &target, &request) {
            return pass_on(&self.node, &call, (&target, &leader), request.into_inner()).await;
        }
        let to = BrokerId(request.get_ref().to_broker_id);
        self.answer(&call, transfer_leader(&self.node, &target, to).await)
    }

    async fn remove_broker(&self, request: Request<RemoveBrokerRequest>) -> Answer<RemoveBrokerResponse> {
        let broker = BrokerId(request.into_inner().broker_id);
        let command =
            admission::validate_remove_broker(&self.node.metadata.image(), broker).map_err(RequestError::from)?;
        let (_, version) = self.node.metadata.propose(&command).await?;
        tracing::info!(%broker, "took a broker out of the cluster");
        Ok(Response::new(RemoveBrokerResponse { version }))
    }

    async fn replace_broker(&self, request: Request<ReplaceBrokerRequest>) -> Answer<ReplaceBrokerResponse> {
        let broker = BrokerId(request.into_inner().broker_id);
        let alive = self.node.registry().is_alive(broker);
        let command = admission::validate_replace_broker(&self.node.metadata.image(), broker, alive)
            .map_err(RequestError::from)?;
        match self.node.metadata.propose(&command).await?.0 {
            Reply::BrokerReplaced { incarnation, .. } => Ok(Response::new(ReplaceBrokerResponse {
                incarnation: incarnation.get(),
            })),
            other => {
                Err(RequestError::new(Reason::Internal, format!("not the reply to a replacement: {other:?}")).into())
            }
        }
    }
}

/// The topic whose partitions are asked for; none: those of all.
fn topic_of(image: &Image, request: &DescribePartitionsRequest) -> Result<Option<TopicId>, RequestError> {
    let DescribePartitionsRequest { topic: name, topic_id } = request;
    match name.is_empty() && topic_id.is_empty() {
        true => Ok(None),
        false => Ok(Some(resolve::topic(image, &names::topic(topic_id, name.clone())?)?.id)),
    }
}

/// The broker that leads the partition, unless it is this one or the call was passed on already.
fn elsewhere<T>(node: &Node, target: &Target, request: &Request<T>) -> Option<Broker> {
    let image = node.metadata.image();
    if was_passed_on(&image, request) {
        return None;
    }
    let (leader, _) = node.replicas.live_leader_of(target.group)?;
    image
        .broker(leader)
        .filter(|leader| leader.id != node.broker())
        .cloned()
}

/// Passes a call on to the leader of its partition.
async fn pass_on<R: Forwarded>(
    node: &Node,
    call: &Call,
    (target, leader): (&Target, &Broker),
    request: R,
) -> Answer<R::Answer> {
    let answer = forward(node.registry(), leader, Some(&call.context), request, CALL_TIMEOUT).await;
    answer.map(Response::new).map_err(|error| {
        let error = match error {
            CallError::Failed(status) if !status.details().is_empty() => return status,
            error => error,
        };
        // Not the leader's own words: it could not be reached, or was silent.
        let name = format!("partition {}-{}", target.topic.name, target.index);
        let message = format!("{name}: broker {} leads it and does not answer: {error}", leader.id);
        let refused = RequestError::new(Reason::LeaderNotAvailable, message);
        match error.was_not_sent() {
            true => refused.into(),
            false => refused.unknown().into(),
        }
    })
}

/// Drops records of a partition that is led here.
pub(super) async fn trim_here(
    node: &Arc<Node>,
    request: TrimPartitionRequest,
) -> Result<TrimPartitionResponse, RequestError> {
    let wanted = names::partition(request.partition)?;
    let target = resolve::partition_of_records(&node.metadata.image(), &wanted)?;
    trim_partition(node, &target, request.before_offset).await
}

/// Hands over the leadership of a partition that is led here.
pub(super) async fn transfer_here(
    node: &Arc<Node>,
    request: TransferLeaderRequest,
) -> Result<TransferLeaderResponse, RequestError> {
    let wanted = names::partition(request.partition)?;
    let target = resolve::partition(&node.metadata.image(), &wanted)?;
    transfer_leader(node, &target, BrokerId(request.to_broker_id)).await
}

/// The state of partitions as far as this broker knows it.
pub(super) async fn partitions_here(
    node: &Arc<Node>,
    request: &DescribePartitionsRequest,
) -> Result<DescribePartitionsResponse, RequestError> {
    let asked = Asked {
        topic: topic_of(&node.metadata.image(), request)?,
        only_local: true,
    };
    let partitions = states_of(node, asked).await;
    Ok(DescribePartitionsResponse { partitions })
}
