//! `GroupService`. The leader of a group's shard takes the calls about it; any broker says who that is, and lists the
//! groups of all.

use std::sync::Arc;

use jangada_proto::v1::group_service_server::GroupService;
use jangada_proto::v1::*;
use jangada_types::TopicId;
use tonic::{Request, Response, Status};

use super::{cluster_wire, group_wire as wire, status};
use crate::admission::{Call, call_of};
use crate::api::call::groups::{Commit, DeleteGroup, DeleteOffsets, DescribeGroup, ReadOffsets};
use crate::api::carry_out;
use crate::api::cluster::ClusterView;
use crate::api::context::RequestContext;
use crate::api::groups::{self, GroupCoordinator};
use crate::error::RequestError;
use crate::forward::was_passed_on;
use crate::listener::Protocol;
use crate::node::Node;

/// The service `GroupService` (`group.proto`).
pub(crate) struct Groups {
    node: Arc<Node>,
    view: Arc<ClusterView>,
}

type Result<T, E = RequestError> = std::result::Result<T, E>;

impl Groups {
    pub fn new(node: Arc<Node>, view: Arc<ClusterView>) -> Self {
        Self { node, view }
    }

    async fn list(&self, everywhere: bool) -> Result<ListGroupsResponse> {
        let list = match everywhere {
            true => Arc::unwrap_or_clone(self.view.groups().await?),
            false => carry_out::groups_here(&self.node).await?,
        };
        Ok(cluster_wire::groups_to(list))
    }

    /// An answer, or an error on its way out.
    fn answer<T>(&self, call: &Call, result: Result<T>) -> Result<Response<T>, Status> {
        status::answer(&self.node, call, result)
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
        let coordinator = GroupCoordinator::of(&self.node, context, &request.group).await?;
        let heartbeat = wire::heartbeat_of(request, context.peer.ip().to_string().into())?;
        let answer = coordinator.heartbeat(heartbeat).await?;
        Ok(wire::heartbeat_answer_to(&self.node.metadata.image(), answer))
    }

    async fn commit(&self, request: CommitOffsetsRequest, context: &RequestContext) -> Result<CommitOffsetsResponse> {
        let bytes = wire::room_for(&request);
        let coordinator = GroupCoordinator::of(&self.node, context, &request.group).await?;
        let named = request.offsets.iter().filter_map(|offset| offset.partition.as_ref());
        let ids: Vec<_> = named
            .filter_map(|partition| TopicId::from_slice(&partition.topic_id))
            .collect();
        let image = coordinator.begin_commit(&ids).await?;
        let (request, transaction) = wire::commit_of(&image, request)?;
        let commit = Commit {
            request,
            transaction,
            bytes,
        };
        coordinator.commit(commit).await?;
        Ok(CommitOffsetsResponse {})
    }

    async fn fetch(&self, request: FetchOffsetsRequest, context: &RequestContext) -> Result<FetchOffsetsResponse> {
        groups::check_count(request.partitions.len())?;
        let coordinator = GroupCoordinator::of(&self.node, context, &request.group).await?;
        let image = self.node.metadata.image();
        let wanted = ReadOffsets {
            partitions: wire::partitions_of(&image, &request.partitions).collect::<Result<_>>()?,
            require_stable: request.require_stable,
            group: request.group.into(),
        };
        let offsets = coordinator.offsets(wanted).await?;
        Ok(wire::offsets_to(&image, offsets))
    }

    async fn describe(&self, name: &str, context: &RequestContext) -> Result<DescribeGroupResponse> {
        let coordinator = GroupCoordinator::of(&self.node, context, name).await?;
        let described = coordinator.describe(DescribeGroup { group: name.into() }).await?;
        Ok(wire::description_to(&self.node.metadata.image(), name, described))
    }

    async fn delete(&self, name: &str, context: &RequestContext) -> Result<DeleteGroupResponse> {
        let coordinator = GroupCoordinator::of(&self.node, context, name).await?;
        let deleted = coordinator.delete(DeleteGroup { group: name.into() }).await?;
        Ok(DeleteGroupResponse { deleted })
    }

    async fn delete_offsets_of(
        &self,
        request: DeleteOffsetsRequest,
        context: &RequestContext,
    ) -> Result<DeleteOffsetsResponse> {
        groups::check_count(request.partitions.len())?;
        let coordinator = GroupCoordinator::of(&self.node, context, &request.group).await?;
        let wanted = DeleteOffsets {
            bytes: wire::room_for(&request),
            partitions: wire::partitions_of(&self.node.metadata.image(), &request.partitions).collect::<Result<_>>()?,
            group: request.group.into(),
        };
        let deleted = coordinator.delete_offsets(wanted).await?;
        Ok(DeleteOffsetsResponse { deleted })
    }
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
        self.answer(&call, self.fetch(request.into_inner(), &call.context).await)
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
        self.answer(&call, self.describe(&request.get_ref().group, &call.context).await)
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.delete(&request.get_ref().group, &call.context).await)
    }

    async fn delete_offsets(
        &self,
        request: Request<DeleteOffsetsRequest>,
    ) -> Result<Response<DeleteOffsetsResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.delete_offsets_of(request.into_inner(), &call.context).await)
    }
}
