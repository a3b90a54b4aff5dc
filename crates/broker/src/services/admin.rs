//! `AdminService`. Any broker takes a call: metadata commands go to the metadata's leader by themselves; a call about
//! one partition is passed on to the broker that leads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::admission::{self, CreateTopic, NewTopic};
use jangada_controller::{Image, Reply, Topic, TopicKind};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::admin_service_server::AdminService;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::{self, *};
use jangada_replication::Group;
use jangada_types::{BrokerId, GroupId, Offset, PartitionIndex, Reason, ReplicaId, TopicId};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::RequestError;
use crate::node::Node;
use crate::partitions::{self, Target, find, find_any};

/// Marks a call that another broker passed on, so that it is not passed on for ever.
pub(super) const FORWARDED: &str = "jangada-forwarded";
/// How long creating a topic waits until all brokers know all leaders.
const CREATED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a broker that does not know all leaders yet.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How long a transfer of leadership may take.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);
/// A call to another broker.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Calls to other brokers at once.
const PARALLEL: usize = 16;

/// See `admin.proto`.
pub(crate) struct Admin {
    pub node: Arc<Node>,
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
        let image = self.node.metadata.image();
        let topic = partitions::named(&image, &request.into_inner().name)?;
        let partitions = partition_states(&self.node, &image, std::slice::from_ref(topic), false).await;
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
        let command = admission::validate_alter_topic(&self.node.metadata.image(), &request.name, &set, &request.unset)
            .map_err(RequestError::from)?;
        let (_, version) = self.node.metadata.propose(&command).await?;
        Ok(Response::new(AlterTopicResponse { version }))
    }

    async fn delete_topic(&self, request: Request<DeleteTopicRequest>) -> Answer<DeleteTopicResponse> {
        let command = admission::validate_delete_topic(&self.node.metadata.image(), &request.into_inner().name)
            .map_err(RequestError::from)?;
        let (_, version) = self.node.metadata.propose(&command).await?;
        Ok(Response::new(DeleteTopicResponse { version }))
    }

    async fn trim_partition(&self, request: Request<TrimPartitionRequest>) -> Answer<TrimPartitionResponse> {
        let target = find(&self.node.metadata.image(), request.get_ref().partition.as_ref())?;
        if let Some(mut leader) = elsewhere(&self.node, &target, &request)? {
            return leader.trim_partition(forward(request.into_inner())).await;
        }
        let partition = self.node.leader(&target).await?;
        let before = match request.get_ref().before_offset {
            -1 => None,
            offset if offset < 0 => {
                return Err(RequestError::new(
                    Reason::OffsetOutOfRange,
                    format!("offset {offset} is negative; -1 is the high watermark"),
                )
                .into());
            }
            offset => Some(Offset(offset)),
        };
        let log_start = partition.trim(before).await?;
        Ok(Response::new(TrimPartitionResponse {
            log_start_offset: log_start.get(),
        }))
    }

    async fn describe_cluster(&self, _request: Request<DescribeClusterRequest>) -> Answer<DescribeClusterResponse> {
        Ok(Response::new(describe_cluster(&self.node).await))
    }

    async fn describe_partitions(
        &self,
        request: Request<DescribePartitionsRequest>,
    ) -> Answer<DescribePartitionsResponse> {
        let forwarded = request.metadata().contains_key(FORWARDED);
        let image = self.node.metadata.image();
        let name = request.into_inner().topic;
        let topics: Vec<Arc<Topic>> = if name.is_empty() {
            image.topics_by_name().cloned().collect()
        } else {
            vec![partitions::named(&image, &name)?.clone()]
        };
        let partitions = partition_states(&self.node, &image, &topics, forwarded).await;
        Ok(Response::new(DescribePartitionsResponse { partitions }))
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Answer<TransferLeaderResponse> {
        let target = find_any(&self.node.metadata.image(), request.get_ref().partition.as_ref())?;
        if let Some(mut leader) = elsewhere(&self.node, &target, &request)? {
            return leader.transfer_leader(forward(request.into_inner())).await;
        }
        Ok(Response::new(
            transfer_leader(&self.node, &target, BrokerId(request.get_ref().to_broker_id)).await?,
        ))
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

fn topic_id(topic: &Topic) -> bytes::Bytes {
    topic.id.as_bytes().to_vec().into()
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn replicas(topic: &Topic) -> u32 {
    topic
        .partitions
        .first()
        .map_or(0, |partition| count(partition.replicas.len()))
}

pub(super) fn forward<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    request.set_timeout(CALL_TIMEOUT);
    request
}

pub(super) fn channel(address: &str) -> Result<Channel, RequestError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| RequestError::new(Reason::Internal, format!("address {address}: {error}")))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy())
}

/// The broker that leads the partition, unless it is this one or the call was passed on already.
fn elsewhere<T>(
    node: &Node,
    target: &Target,
    request: &Request<T>,
) -> Result<Option<AdminServiceClient<Channel>>, RequestError> {
    let leader = node
        .leader_of(target.group)
        .map(|(broker, _)| broker)
        .filter(|broker| *broker != node.broker());
    let Some(leader) = leader.filter(|_| !request.metadata().contains_key(FORWARDED)) else {
        return Ok(None);
    };
    let image = node.metadata.image();
    let Some(broker) = image.broker(leader) else {
        return Ok(None);
    };
    Ok(Some(AdminServiceClient::new(channel(&broker.address)?)))
}

async fn create_topic(node: &Arc<Node>, request: CreateTopicRequest) -> Result<CreateTopicResponse, RequestError> {
    let image = node.metadata.image();
    let config: BTreeMap<String, String> = request.config.into_iter().collect();
    let wanted = NewTopic {
        name: &request.name,
        partitions: request.partitions,
        replicas: request.replicas,
        config: &config,
        if_not_exists: request.if_not_exists,
    };
    let existing = |topic: &Topic| CreateTopicResponse {
        topic_id: topic_id(topic),
        created: false,
        version: image.version(),
    };
    if let CreateTopic::Exists(topic) = admission::validate_create_topic(&image, &wanted)? {
        await_leaders(node, &request.name, image.version()).await?;
        return Ok(existing(&topic));
    }
    // Brokers that are down take replicas only when there are too few others.
    let mut brokers = image.broker_views();
    let alive = brokers
        .iter()
        .filter(|broker| node.registry().is_alive(broker.replica.broker))
        .count();
    if alive >= request.replicas as usize {
        brokers.retain(|broker| node.registry().is_alive(broker.replica.broker));
    }
    let id = TopicId::from_u128(node.seams.ids.new_id().as_u128());
    let seed = u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("eight bytes"));
    let command = admission::place_topic(&wanted, &brokers, id, seed)?;
    let version = match node.metadata.propose(&command).await {
        Ok((_, version)) => version,
        // Sent twice, and the first one was it.
        Err(error) if error.reason == Reason::TopicExists => {
            let image = node.metadata.image();
            match image.topic_named(&request.name) {
                Some(topic) if topic.id == id => image.version(),
                Some(topic) if request.if_not_exists => return Ok(existing(topic)),
                _ => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    await_leaders(node, &request.name, version).await?;
    Ok(CreateTopicResponse {
        topic_id: id.as_bytes().to_vec().into(),
        created: true,
        version,
    })
}

/// Returns when every live broker knows a leader for every partition of the topic.
async fn await_leaders(node: &Arc<Node>, name: &str, version: u64) -> Result<(), RequestError> {
    let image = node.metadata.image();
    let live: Vec<_> = image
        .brokers()
        .filter(|broker| node.registry().is_alive(broker.id))
        .collect();
    let waits = live
        .into_iter()
        .map(|broker| broker_knows_leaders(node, broker.id, broker.address.clone(), name, version));
    let known = futures::future::join_all(waits).await;
    match known.into_iter().find(|known| !known.1) {
        None => Ok(()),
        Some((broker, _)) => Err(RequestError::new(
            Reason::LeaderNotAvailable,
            format!(
                "topic {name:?} exists, but broker {broker} does not know all its leaders after {CREATED_WITHIN:?}; \
                 see `jangada cluster health`"
            ),
        )
        .unknown()),
    }
}

async fn broker_knows_leaders(
    node: &Arc<Node>,
    broker: BrokerId,
    address: String,
    name: &str,
    version: u64,
) -> (BrokerId, bool) {
    let deadline = Instant::now() + CREATED_WITHIN;
    let Ok(channel) = channel(&address) else {
        return (broker, false);
    };
    let mut client =
        MetadataServiceClient::new(channel).max_decoding_message_size(jangada_types::limits::RESPONSE_BYTES_MAX);
    loop {
        let request = GetMetadataRequest {
            topics: vec![name.to_owned()],
            topic_ids: Vec::new(),
            min_version: version,
        };
        let mut request = Request::new(request);
        request.set_timeout(CALL_TIMEOUT);
        let all_led = match client.get_metadata(request).await {
            Ok(response) => {
                let response = response.into_inner();
                // Deleted meanwhile: there is nothing left to wait for.
                response
                    .topics
                    .first()
                    .is_none_or(|topic| topic.partitions.iter().all(|partition| partition.leader_id != 0))
            }
            // It died meanwhile: who is dead need not know.
            Err(_) if !node.registry().is_alive(broker) => true,
            Err(_) => false,
        };
        if all_led || Instant::now() >= deadline {
            return (broker, all_led);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn config_entries(topic: &Topic) -> Vec<ConfigEntry> {
    let entry = |key: &jangada_types::topic_config::ConfigKey| {
        let set = topic.config.get(key.name);
        ConfigEntry {
            key: key.name.to_owned(),
            value: set.cloned().unwrap_or_else(|| key.default.to_owned()),
            is_set: set.is_some(),
            default_value: key.default.to_owned(),
            documentation: format!("{} Allowed: {}.", key.documentation, key.allowed),
        }
    };
    jangada_types::topic_config::KEYS.iter().map(entry).collect()
}

/// The state of all partitions of the topics: those led here from memory, the others from their leaders.
async fn partition_states(
    node: &Arc<Node>,
    image: &Arc<Image>,
    topics: &[Arc<Topic>],
    only_local: bool,
) -> Vec<PartitionState> {
    let mut states: BTreeMap<(String, u32), PartitionState> = BTreeMap::new();
    let mut led_elsewhere: BTreeSet<BrokerId> = BTreeSet::new();
    let mut local = Vec::new();
    for topic in topics {
        for (index, partition) in topic.indexed() {
            let state = bare_state(node, topic, index, partition.group);
            match node.hosted(partition.group).filter(|group| group.status().ready) {
                Some(led) => local.push((state, led)),
                None => {
                    led_elsewhere.extend(
                        node.leader_of(partition.group)
                            .map(|(broker, _)| broker)
                            .filter(|broker| *broker != node.broker()),
                    );
                    states.insert((state.topic.clone(), state.partition), state);
                }
            }
        }
    }
    let here = futures::stream::iter(local)
        .map(|(state, led)| leaders_view(node, state, led))
        .buffer_unordered(1024);
    let here: Vec<PartitionState> = here.collect().await;
    states.extend(
        here.into_iter()
            .map(|state| ((state.topic.clone(), state.partition), state)),
    );
    if !only_local {
        let name = if topics.len() == 1 {
            topics[0].name.to_string()
        } else {
            String::new()
        };
        let asked = futures::stream::iter(led_elsewhere)
            .map(|broker| ask_leader(image, broker, name.clone()))
            .buffer_unordered(PARALLEL);
        let answers: Vec<Vec<PartitionState>> = asked.collect().await;
        for state in answers.into_iter().flatten().filter(|state| state.high_watermark >= 0) {
            states
                .entry((state.topic.clone(), state.partition))
                .and_modify(|known| *known = state);
        }
    }
    states.into_values().collect()
}

async fn ask_leader(image: &Arc<Image>, broker: BrokerId, topic: String) -> Vec<PartitionState> {
    let Some(broker) = image.broker(broker) else {
        return Vec::new();
    };
    let Ok(channel) = channel(&broker.address) else {
        return Vec::new();
    };
    let mut client =
        AdminServiceClient::new(channel).max_decoding_message_size(jangada_types::limits::RESPONSE_BYTES_MAX);
    match client
        .describe_partitions(forward(DescribePartitionsRequest { topic }))
        .await
    {
        Ok(response) => response.into_inner().partitions,
        // Shown without what only the leader knows.
        Err(_) => Vec::new(),
    }
}

/// What every broker knows.
fn bare_state(node: &Node, topic: &Topic, index: PartitionIndex, group: GroupId) -> PartitionState {
    let leader = node.leader_of(group);
    let replicas = topic
        .partition(index)
        .map(|partition| partition.replicas.iter().map(|replica| replica.broker.get()).collect())
        .unwrap_or_default();
    PartitionState {
        topic: topic.name.to_string(),
        topic_id: topic_id(topic),
        partition: index.get(),
        leader_id: leader.map_or(0, |(broker, _)| broker.get()),
        leader_epoch: leader.map_or(0, |(_, term)| u32::try_from(term).unwrap_or(u32::MAX)),
        replicas,
        in_sync: Vec::new(),
        high_watermark: -1,
        log_start_offset: -1,
        size_bytes: 0,
    }
}

/// What the leader knows. In sync is who reaches what is committed now within two heartbeats.
async fn leaders_view(node: &Arc<Node>, mut state: PartitionState, group: Group) -> PartitionState {
    let heartbeat = Duration::from_millis(node.settings.raft.heartbeat_ms);
    let committed = group.committed_next();
    let deadline = Instant::now() + 2 * heartbeat;
    loop {
        let in_sync = in_sync(&group, committed, 2 * heartbeat + heartbeat / 2);
        let all = state.replicas.iter().all(|broker| in_sync.contains(broker));
        if all || Instant::now() >= deadline {
            state.in_sync = state
                .replicas
                .iter()
                .copied()
                .filter(|broker| in_sync.contains(broker))
                .collect();
            break;
        }
        tokio::time::sleep(heartbeat / 4).await;
    }
    // A shard of the coordinator has no offsets; 0 says that its leader answered.
    let partition = node.partitions.get(group.id());
    let view = partition.as_ref().map(|partition| &partition.view);
    state.high_watermark = view.map_or(0, |view| view.high_watermark().get());
    state.log_start_offset = view.map_or(0, |view| view.log_start().get());
    state.size_bytes = view.map_or(0, |view| view.retained_bytes());
    state
}

fn in_sync(group: &Group, committed: u64, heard_within: Duration) -> Vec<u32> {
    let progress = group.progress().unwrap_or_default();
    let in_sync = progress
        .iter()
        .filter(|p| p.matched_next >= committed && p.silent_for.is_some_and(|silent| silent <= heard_within));
    in_sync.map(|p| p.replica.broker.get()).collect()
}

async fn describe_cluster(node: &Arc<Node>) -> DescribeClusterResponse {
    let image = node.metadata.image();
    let topics: Vec<Arc<Topic>> = image.topics_by_name().cloned().collect();
    let partitions = partition_states(node, &image, &topics, false).await;
    let members = node.metadata.group.members();
    let brokers = image.brokers().map(|broker| {
        let replica = broker.replica();
        let role = if members.voters.contains(&replica) {
            "voter"
        } else if members.learners.contains(&replica) {
            "learner"
        } else {
            "none"
        };
        let id = broker.id.get();
        BrokerState {
            broker_id: id,
            address: broker.address.clone(),
            internal_address: broker.internal_address.clone(),
            rack: broker.rack.clone(),
            alive: node.registry().is_alive(broker.id),
            metadata_role: role.to_owned(),
            leaders: count(partitions.iter().filter(|state| state.leader_id == id).count()),
            replicas: count(partitions.iter().filter(|state| state.replicas.contains(&id)).count()),
            incarnation: broker.incarnation.get(),
        }
    });
    DescribeClusterResponse {
        cluster_id: node.registry().identity().cluster_id.clone(),
        version: image.version(),
        controller_id: node.leader_of(GroupId::METADATA).map_or(0, |(broker, _)| broker.get()),
        brokers: brokers.collect(),
        topics: count(topics.iter().filter(|topic| topic.kind == TopicKind::Log).count()),
        partitions: count(partitions.len()),
        leaderless_partitions: count(partitions.iter().filter(|state| state.leader_id == 0).count()),
        under_replicated_partitions: count(
            partitions
                .iter()
                .filter(|state| state.in_sync.len() < state.replicas.len())
                .count(),
        ),
    }
}

async fn transfer_leader(
    node: &Arc<Node>,
    target: &Target,
    to: BrokerId,
) -> Result<v1::TransferLeaderResponse, RequestError> {
    let image = node.metadata.image();
    let name = format!("partition {}-{}", target.topic.name, target.index);
    if image.broker(to).is_none() {
        return Err(RequestError::new(
            Reason::UnknownBroker,
            format!("there is no broker {to}"),
        ));
    }
    let replicas: Vec<ReplicaId> = target
        .topic
        .partition(target.index)
        .map(|partition| partition.replicas.clone())
        .unwrap_or_default();
    let Some(replica) = replicas.iter().find(|replica| replica.broker == to) else {
        let holders: Vec<String> = replicas.iter().map(|replica| replica.broker.to_string()).collect();
        let message = format!(
            "{name}: broker {to} holds no replica of it; brokers {} do",
            holders.join(", ")
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    };
    let group = node.leading_group(target).await?;
    if *replica == group.replica() {
        return Ok(v1::TransferLeaderResponse {
            leader_id: to.get(),
            leader_epoch: u32::try_from(group.status().term).unwrap_or(u32::MAX),
        });
    }
    if !node.registry().is_alive(to) {
        let message = format!(
            "{name}: broker {to} is not alive; the leader stays broker {}",
            node.broker()
        );
        return Err(RequestError::new(Reason::LeaderNotAvailable, message));
    }
    let status = group
        .transfer_leader(*replica, TRANSFER_WITHIN)
        .await
        .map_err(|error| {
            RequestError::new(
                Reason::LeaderNotAvailable,
                format!("{name}: broker {to} did not take over: {error}"),
            )
            .unknown()
        })?;
    if status.leader != Some(*replica) {
        let who = status
            .leader
            .map_or("nobody yet".to_owned(), |leader| format!("broker {}", leader.broker));
        let message = format!("{name}: broker {to} did not take over in time; {who} was elected instead");
        return Err(RequestError::new(Reason::LeaderNotAvailable, message));
    }
    Ok(v1::TransferLeaderResponse {
        leader_id: to.get(),
        leader_epoch: u32::try_from(status.term).unwrap_or(u32::MAX),
    })
}
