//! `GroupService`. The leader of a group's shard takes the calls about it; any broker says who that is, and lists the
//! groups of all.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Image, admission};
use jangada_coordinator::limits::OFFSETS_PER_COMMIT_MAX;
use jangada_coordinator::{Answer, CommandKind, CommitRequest, PartitionSet};
use jangada_proto::v1::group_service_server::GroupService;
use jangada_proto::v1::*;
use jangada_types::{Reason, partition_for_key, validate_topic_name};
use tonic::{Request, Response, Status};

use super::forward::FORWARDED;
use super::gathering::Gathering;
use super::group_list::GroupList;
use super::group_wire as wire;
use crate::admission::{Call, Caller, Resource, call_of};
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::node::Node;
use crate::target::Target;

/// How long a request waits for the version of the metadata that it asks for.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);
/// How long a commit waits for a topic that this broker does not know (yet).
const TOPIC_PATIENCE: Duration = Duration::from_millis(500);
/// How long finding a coordinator waits for its leader: shards may just have been created.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// A row of a request takes more in memory than in its message.
const BYTES_PER_WIRE_BYTE: usize = 2;
/// And a request something at least.
const REQUEST_BYTES: usize = 512;
/// After this time a client should ask again.
const RETRY: Duration = Duration::from_millis(50);

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

    /// The shard of a group, which this broker leads.
    async fn shard(&self, group: &str) -> Result<Arc<CoordinatorReplica>> {
        self.node.stopping.refuse()?;
        self.node.leaders.leading(&self.shard_of(group).await?).await
    }

    async fn shard_of(&self, group: &str) -> Result<Target> {
        check_name(group)?;
        let topic = self.node.coordinator.get().await?;
        let shards = u32::try_from(topic.partitions.len()).expect("a topic has few partitions");
        let index = partition_for_key(group.as_bytes(), shards);
        Ok(Target::of(&topic, index).expect("the index was chosen among the topic's"))
    }

    /// Where the leader of a group's shard is, for a client that came by this listener.
    async fn find(&self, group: &str, listener: &str) -> Result<FindCoordinatorResponse> {
        self.node.stopping.refuse()?;
        let Target { index, group: id, .. } = self.shard_of(group).await?;
        let registry = self.node.registry();
        let mut leaders = registry.leaders().watch();
        let find = async {
            loop {
                leaders.borrow_and_update();
                if self.node.replicas.has_lost_quorum(id) {
                    // It cannot learn who does; others may know.
                    return None;
                }
                let leader = self.node.replicas.leader_of(id).map(|(broker, _)| broker);
                let image = self.node.metadata.image();
                if let Some(leader) = leader.filter(|leader| registry.is_alive(*leader))
                    && let Some(broker) = image.broker(leader)
                {
                    return Some(FindCoordinatorResponse {
                        broker_id: leader.get(),
                        address: broker.address_at(listener).to_owned(),
                        shard: index.get(),
                    });
                }
                if leaders.changed().await.is_err() {
                    return None;
                }
            }
        };
        let found = tokio::time::timeout(FOUND_WITHIN, find).await;
        found.ok().flatten().ok_or_else(|| {
            let message = format!(
                "group {group:?}: shard {index} has no leader that broker {} knows of; see `jangada cluster health`",
                self.node.broker()
            );
            RequestError::new(Reason::LeaderNotAvailable, message).retry_after(RETRY)
        })
    }

    /// Raises the cluster's feature level, if all brokers are new enough, so that groups remember how many partitions their
    /// topics had. Nobody waits for it: until then a group does without.
    fn let_groups_remember(&self) {
        let level = CommandKind::SetTargetRemembering.since();
        let image = self.node.metadata.image();
        if image.feature_level() >= level || admission::validate_raise_feature_level(&image, level).is_err() {
            return;
        }
        let node = self.node.clone();
        tokio::spawn(async move {
            if let Err(error) = node.metadata.require_feature_level(level).await {
                tracing::debug!(%error, "the feature level was not raised");
            }
        });
    }

    async fn beat(&self, request: HeartbeatRequest, caller: &Arc<Caller>) -> Result<HeartbeatResponse> {
        // Who leaves makes room for others.
        let leaves = request.member_epoch < 0;
        let bytes = room_for(&request);
        let shard = self.shard(&request.group).await?;
        if request.member_epoch == 0 {
            self.let_groups_remember();
        }
        if request.min_metadata_version > 0 {
            let wanted = request.min_metadata_version;
            self.node.metadata.wait_for_version(wanted, VERSION_PATIENCE).await?;
        }
        let client_host = caller.peer().ip().to_string();
        let request = wire::heartbeat_of(request, client_host.into())?;
        // Only now: what waits above would keep others out. Until here the request has its share of what is received.
        let room = (!leaves).then(|| caller.try_take(Resource::Heartbeats, bytes));
        let room = room.transpose()?;
        self.node.groups.learn(&self.node.metadata.image());
        let answer = shard
            .decide(room, |leader, image, now| leader.heartbeat(image, request, now))
            .await?;
        self.node.metrics.groups.heartbeats.inc();
        match answer {
            Answer::Heartbeat(answer) => Ok(HeartbeatResponse {
                member_epoch: answer.epoch.get().into(),
                heartbeat_interval_ms: answer.heartbeat_interval_ms,
                assignment_version: answer.assignment_version,
                assignment: answer
                    .assignment
                    .map(|set| wire::set_to(&self.node.metadata.image(), &set)),
            }),
            Answer::Left => Ok(HeartbeatResponse::default()),
            other => Err(not_the_answer(&other)),
        }
    }

    async fn commit(&self, request: CommitOffsetsRequest, caller: &Arc<Caller>) -> Result<CommitOffsetsResponse> {
        let bytes = room_for(&request);
        let shard = self.shard(&request.group).await?;
        self.node.partitions.check_disk(&shard.hosted)?;
        let image = self.image_with_topics(&request.offsets).await;
        let offsets = request
            .offsets
            .into_iter()
            .map(|offset| wire::commit_of(&image, offset));
        let offsets = offsets.collect::<Result<_>>()?;
        let member = (!request.member_id.is_empty()).then(|| (request.member_id.into(), request.member_epoch));
        let commit = CommitRequest {
            group: request.group.into(),
            member,
            offsets,
        };
        // Only now, as with heartbeats.
        let room = caller.try_take(Resource::Commits, bytes)?;
        self.node.groups.learn(&image);
        match shard
            .decide(Some(room), |leader, image, now| leader.commit(image, commit, now))
            .await?
        {
            Answer::Committed => Ok(CommitOffsetsResponse {}),
            other => Err(not_the_answer(&other)),
        }
    }

    /// The metadata, after a moment of waiting for topics that it does not have: one that was created a moment ago.
    async fn image_with_topics(&self, offsets: &[PartitionOffset]) -> Arc<Image> {
        let ids = offsets.iter().filter_map(|offset| offset.partition.as_ref());
        let ids: Vec<_> = ids
            .filter_map(|partition| jangada_types::TopicId::from_slice(&partition.topic_id))
            .collect();
        let knows_all = |image: &Arc<Image>| ids.iter().all(|id| image.topic(*id).is_some());
        let image = self.node.metadata.image();
        if knows_all(&image) {
            return image;
        }
        let mut watch = self.node.metadata.watch();
        let _ = tokio::time::timeout(TOPIC_PATIENCE, watch.wait_for(knows_all)).await;
        self.node.metadata.image()
    }

    async fn fetch(&self, request: FetchOffsetsRequest) -> Result<FetchOffsetsResponse> {
        check_count(&request.partitions)?;
        let shard = self.shard(&request.group).await?;
        let image = self.node.metadata.image();
        let wanted = request
            .partitions
            .iter()
            .map(|partition| wire::partition(&image, Some(partition)));
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        let group = shard.read(|state| state.shared_group(&request.group)).await?;
        Ok(FetchOffsetsResponse {
            offsets: wire::offsets_to(&image, group.as_deref(), &wanted),
        })
    }

    async fn describe(&self, name: &str) -> Result<DescribeGroupResponse> {
        let shard = self.shard(name).await?;
        let image = self.node.metadata.image();
        let coordinator_id = self.node.broker().get();
        let group = shard.read(|state| state.shared_group(name)).await?;
        let group = group.ok_or_else(|| {
            RequestError::new(
                Reason::UnknownGroup,
                format!("there is no group {name:?}: list the groups to see what exists"),
            )
        })?;
        Ok(DescribeGroupResponse {
            group: name.to_owned(),
            state: group.state().as_str().to_owned(),
            coordinator_id,
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
        let shard = self.shard(name).await?;
        match shard
            .decide(None, |leader, image, now| leader.delete_group(image, name.into(), now))
            .await?
        {
            Answer::Deleted { count } => Ok(DeleteGroupResponse { deleted: count }),
            other => Err(not_the_answer(&other)),
        }
    }

    async fn delete_some(&self, request: DeleteOffsetsRequest, caller: &Arc<Caller>) -> Result<DeleteOffsetsResponse> {
        check_count(&request.partitions)?;
        let bytes = room_for(&request);
        let shard = self.shard(&request.group).await?;
        if request.partitions.is_empty() {
            return Err(RequestError::new(
                Reason::InvalidRequest,
                "the request names no partition: name at least one",
            ));
        }
        let image = self.node.metadata.image();
        let partitions = request
            .partitions
            .iter()
            .map(|partition| wire::partition(&image, Some(partition)));
        let partitions = partitions.collect::<Result<PartitionSet>>()?;
        let room = caller.try_take(Resource::Commits, bytes)?;
        let name = request.group.into();
        match shard
            .decide(Some(room), |leader, image, now| {
                leader.delete_offsets(image, name, partitions, now)
            })
            .await?
        {
            Answer::Deleted { count } => Ok(DeleteOffsetsResponse { deleted: count }),
            other => Err(not_the_answer(&other)),
        }
    }
}

/// What a request takes until Raft lets go of its command, bytes.
fn room_for(request: &impl prost::Message) -> usize {
    request.encoded_len() * BYTES_PER_WIRE_BYTE + REQUEST_BYTES
}

fn check_name(group: &str) -> Result<()> {
    validate_topic_name(group).map_err(|error| {
        RequestError::new(
            Reason::InvalidGroupName,
            format!("group name {group:?}: the rules are those of topic names, and {error}"),
        )
    })
}

/// As many as one commit has, at most: each is looked up, and answered with its topic's name or written.
fn check_count(partitions: &[TopicPartition]) -> Result<()> {
    let count = partitions.len();
    if count <= OFFSETS_PER_COMMIT_MAX {
        return Ok(());
    }
    let message = format!(
        "the request names {count} partitions: at most {OFFSETS_PER_COMMIT_MAX}, ask for the others in another one"
    );
    Err(RequestError::new(Reason::InvalidRequest, message)
        .with("actual", count)
        .with("limit", OFFSETS_PER_COMMIT_MAX))
}

fn not_the_answer(answer: &Answer) -> RequestError {
    RequestError::new(Reason::Internal, format!("the coordinator answered {answer:?}"))
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
        self.answer(&call, self.beat(request.into_inner(), call.caller()).await)
    }

    async fn commit_offsets(
        &self,
        request: Request<CommitOffsetsRequest>,
    ) -> Result<Response<CommitOffsetsResponse>, Status> {
        let call = call_of(&request);
        self.answer(&call, self.commit(request.into_inner(), call.caller()).await)
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
        let everywhere = !request.metadata().contains_key(FORWARDED);
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
        self.answer(&call, self.delete_some(request.into_inner(), call.caller()).await)
    }
}
