//! `GroupService`. The leader of a group's shard takes the calls about it; any broker says who that is, and lists the
//! groups of all.

use std::sync::Arc;

use jangada_controller::Image;
use jangada_coordinator::CommitRequest;
use jangada_proto::v1::group_service_server::GroupService;
use jangada_proto::v1::*;
use jangada_types::{Reason, TopicId};
use tonic::{Request, Response, Status};

use super::gathering::Gathering;
use super::group_list::GroupList;
use super::group_wire as wire;
use crate::admission::{Call, call_of};
use crate::api::context::RequestContext;
use crate::api::groups::{self, GroupCoordinator};
use crate::error::RequestError;
use crate::forward::was_passed_on;
use crate::listener::Protocol;
use crate::node::Node;

/// A row of a request takes more in memory than in its message.
const BYTES_PER_WIRE_BYTE: usize = 2;
/// And a request something at least.
const REQUEST_BYTES: usize = 512;

/// See `group.proto`.
pub(crate) struct Groups {
    node: Arc<Node>,
    /// For all who ask at a time: those of all brokers, or only of this one.
    lists: Gathering<bool, Result<Arc<ListGroupsResponse>>>,
}

type Result<T, E = RequestError> = std::result::Result<T, E>;

impl Groups {
    pub fn new(node: Arc<Node>) -> Self {
        let of_list = node.clone();
        Self {
            node,
            lists: Gathering::new(move |everywhere| {
                let list = GroupList { node: of_list.clone() };
                async move {
                    match everywhere {
                        true => list.all().await.map(Arc::new),
                        false => list.here().await.map(Arc::new),
                    }
                }
            }),
        }
    }

    async fn list(&self, everywhere: bool) -> Result<ListGroupsResponse> {
        let list = self.lists.get(everywhere).await;
        let list = list.ok_or_else(|| RequestError::new(Reason::Internal, "listing the groups failed"))??;
        Ok(Arc::unwrap_or_clone(list))
    }

    /// An answer, or an error on its way out.
    fn answer<T>(&self, call: &Call, result: Result<T>) -> Result<Response<T>, Status> {
        let answer = result.map(Response::new);
        answer.map_err(|error| self.node.refused(error, &call.context.listener).into())
    }

    /// Where the coordinator of a group is, for a client that came by this listener.
    async fn find(&self, group: &str, listener: &str) -> Result<FindCoordinatorResponse> {
        let (broker, shard) = groups::find_coordinator(&self.node, group).await?;
        Ok(FindCoordinatorResponse {
            broker_id: broker.id.get(),
            address: broker.address_at(listener, Protocol::Grpc.name()).to_owned(),
            shard: shard.get(),
        })
    }

    async fn beat(&self, request: HeartbeatRequest, context: &RequestContext) -> Result<HeartbeatResponse> {
        let bytes = room_for(&request);
        let coordinator = GroupCoordinator::of(&self.node, request.group.as_str()).await?;
        let min_metadata_version = request.min_metadata_version;
        let request = wire::heartbeat_of(request, context.peer.ip().to_string().into())?;
        let answer = coordinator
            .heartbeat(context, request, min_metadata_version, bytes)
            .await?;
        let Some(answer) = answer else {
            return Ok(HeartbeatResponse::default());
        };
        Ok(HeartbeatResponse {
            member_epoch: answer.epoch.get().into(),
            heartbeat_interval_ms: answer.heartbeat_interval_ms,
            assignment_version: answer.assignment_version,
            assignment: answer
                .assignment
                .map(|set| wire::set_to(&self.node.metadata.image(), &set)),
        })
    }

    async fn commit(&self, request: CommitOffsetsRequest, context: &RequestContext) -> Result<CommitOffsetsResponse> {
        let bytes = room_for(&request);
        let coordinator = GroupCoordinator::of(&self.node, request.group.as_str()).await?;
        let named = request.offsets.iter().filter_map(|offset| offset.partition.as_ref());
        let ids: Vec<_> = named
            .filter_map(|partition| TopicId::from_slice(&partition.topic_id))
            .collect();
        let image = coordinator.begin_commit(&ids).await?;
        let offsets = request
            .offsets
            .into_iter()
            .map(|offset| wire::commit_of(&image, offset));
        let commit = CommitRequest {
            group: request.group.into(),
            member: (!request.member_id.is_empty()).then(|| (request.member_id.into(), request.member_epoch)),
            offsets: offsets.collect::<Result<_>>()?,
        };
        coordinator.commit(context, commit, bytes).await?;
        Ok(CommitOffsetsResponse {})
    }

    async fn fetch(&self, request: FetchOffsetsRequest) -> Result<FetchOffsetsResponse> {
        groups::check_count(request.partitions.len())?;
        let coordinator = GroupCoordinator::of(&self.node, request.group).await?;
        let image = self.node.metadata.image();
        let wanted = partitions_of(&image, &request.partitions).collect::<Result<Vec<_>>>()?;
        let group = coordinator.read().await?;
        Ok(FetchOffsetsResponse {
            offsets: wire::offsets_to(&image, group.as_deref(), &wanted),
        })
    }

    async fn describe(&self, name: &str) -> Result<DescribeGroupResponse> {
        let coordinator = GroupCoordinator::of(&self.node, name).await?;
        let image = self.node.metadata.image();
        let group = coordinator.read().await?.ok_or_else(|| {
            RequestError::new(
                Reason::UnknownGroup,
                format!("there is no group {name:?}: list the groups to see what exists"),
            )
        })?;
        Ok(DescribeGroupResponse {
            group: name.to_owned(),
            state: group.state().as_str().to_owned(),
            coordinator_id: self.node.broker().get(),
            epoch: group.epoch.get(),
            assignment_epoch: group.assignment_epoch.get(),
            members: group
                .members
                .iter()
                .map(|(id, member)| wire::member_to(&image, &group, id, member))
                .collect(),
        })
    }

    async fn delete(&self, name: &str) -> Result<DeleteGroupResponse> {
        let deleted = GroupCoordinator::of(&self.node, name).await?.delete().await?;
        Ok(DeleteGroupResponse { deleted })
    }

    async fn delete_offsets_of(
        &self,
        request: DeleteOffsetsRequest,
        context: &RequestContext,
    ) -> Result<DeleteOffsetsResponse> {
        groups::check_count(request.partitions.len())?;
        let bytes = room_for(&request);
        let coordinator = GroupCoordinator::of(&self.node, request.group.as_str()).await?;
        if request.partitions.is_empty() {
            return Err(RequestError::new(
                Reason::InvalidRequest,
                "the request names no partition: name at least one",
            ));
        }
        let partitions = partitions_of(&self.node.metadata.image(), &request.partitions).collect::<Result<_>>()?;
        let deleted = coordinator.delete_offsets(context, partitions, bytes).await?;
        Ok(DeleteOffsetsResponse { deleted })
    }
}

/// The partitions that a request names, in its order.
fn partitions_of(
    image: &Image,
    named: &[TopicPartition],
) -> impl Iterator<Item = Result<jangada_coordinator::TopicPartition>> {
    named.iter().map(|partition| wire::partition(image, Some(partition)))
}

/// What a request takes until Raft lets go of its command, bytes.
fn room_for(request: &impl prost::Message) -> usize {
    request.encoded_len() * BYTES_PER_WIRE_BYTE + REQUEST_BYTES
}

#[tonic::async_trait]
impl GroupService for Groups {
    async fn find_coordinator(
        &self,
        request: Request<FindCoordinatorRequest>,
    ) -> Result<Response<FindCoordinatorResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.find(&request.get_ref().group, &call.context.listener).await)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.beat(request.into_inner(), &call.context).await)
    }

    async fn commit_offsets(
        &self,
        request: Request<CommitOffsetsRequest>,
    ) -> Result<Response<CommitOffsetsResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.commit(request.into_inner(), &call.context).await)
    }

    async fn fetch_offsets(
        &self,
        request: Request<FetchOffsetsRequest>,
    ) -> Result<Response<FetchOffsetsResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.fetch(request.into_inner()).await)
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsResponse>, Status> {
        let call = call_of(&request);
        let everywhere = !was_passed_on(&self.node.metadata.image(), &request);
        self.answer(&call, self.list(everywhere).await)
    }

    async fn describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<DescribeGroupResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.describe(&request.get_ref().group).await)
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.delete(&request.get_ref().group).await)
    }

    async fn delete_offsets(
        &self,
        request: Request<DeleteOffsetsRequest>,
    ) -> Result<Response<DeleteOffsetsResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.delete_offsets_of(request.into_inner(), &call.context).await)
    }
}
