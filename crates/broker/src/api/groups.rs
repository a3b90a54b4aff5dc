//! Consumer groups, at the broker that coordinates them.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Broker, Image, admission};
use jangada_coordinator::limits::OFFSETS_PER_COMMIT_MAX;
use jangada_coordinator::{
    Answer, CommandKind, CommitRequest, Group, HeartbeatRequest, HeartbeatResponse, PartitionSet,
};
use jangada_types::{PartitionIndex, Reason, TopicId, partition_for_key, validate_topic_name};

use super::context::RequestContext;
use crate::admission::Resource;
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::node::Node;
use crate::replica::LEADER_RETRY;
use crate::target::Target;

/// How long finding a coordinator waits for its leader: shards may just have been created.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for the version of the metadata that it asks for.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);
/// How long a commit waits for a topic that this broker does not know (yet).
const TOPIC_PATIENCE: Duration = Duration::from_millis(500);

/// The shard of the coordinator that holds a group, wherever it is led.
///
/// # Errors
/// INVALID_GROUP_NAME; NOT_READY while the shards cannot be created.
pub(crate) async fn shard_of(node: &Node, group: &str) -> Result<Target, RequestError> {
    validate_topic_name(group).map_err(|error| {
        RequestError::new(
            Reason::InvalidGroupName,
            format!("group name {group:?}: the rules are those of topic names, and {error}"),
        )
    })?;
    let topic = node.coordinator.get().await?;
    let shards = u32::try_from(topic.partitions.len()).expect("a topic has few partitions");
    let index = partition_for_key(group.as_bytes(), shards);
    Ok(Target::of(&topic, index).expect("the index was chosen among the topic's"))
}

/// The broker that coordinates a group, and the index of the shard that holds it. Any broker may be asked.
///
/// # Errors
/// INVALID_GROUP_NAME, SHUTTING_DOWN, NOT_READY; LEADER_NOT_AVAILABLE: no live leader was known for 10 s.
pub(crate) async fn find_coordinator(node: &Node, group: &str) -> Result<(Broker, PartitionIndex), RequestError> {
    node.stopping.refuse()?;
    let shard = shard_of(node, group).await?;
    let registry = node.registry();
    let mut leaders = registry.leaders().watch();
    let find = async {
        loop {
            leaders.borrow_and_update();
            if node.replicas.has_lost_quorum(shard.group) {
                // This broker cannot learn of the next leader; others may know it.
                return None;
            }
            let leader = node.replicas.leader_of(shard.group).map(|(broker, _)| broker);
            let image = node.metadata.image();
            if let Some(leader) = leader.filter(|leader| registry.is_alive(*leader))
                && let Some(broker) = image.broker(leader)
            {
                return Some(broker.clone());
            }
            if leaders.changed().await.is_err() {
                return None;
            }
        }
    };
    let found = tokio::time::timeout(FIND_TIMEOUT, find).await;
    let broker = found.ok().flatten().ok_or_else(|| {
        let message = format!(
            "group {group:?}: shard {} has no leader that broker {} knows of; see `jangada cluster health`",
            shard.index,
            node.broker()
        );
        RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
    })?;
    Ok((broker, shard.index))
}

/// The coordinator of one group, which is this broker.
pub(crate) struct GroupCoordinator {
    node: Arc<Node>,
    replica: Arc<CoordinatorReplica>,
    group: Arc<str>,
}

impl GroupCoordinator {
    /// Finds it here, after a moment of waiting for an election.
    ///
    /// # Errors
    /// INVALID_GROUP_NAME, SHUTTING_DOWN, NOT_LEADER, LEADER_NOT_AVAILABLE, NOT_READY.
    pub async fn of(node: &Arc<Node>, group: impl Into<Arc<str>>) -> Result<Self, RequestError> {
        let group = group.into();
        node.stopping.refuse()?;
        let shard = shard_of(node, &group).await?;
        Ok(Self {
            node: node.clone(),
            replica: node.leaders.leading(&shard).await?,
            group,
        })
    }

    /// A member says that it is alive, joins or leaves. `None`: it has left. The request takes so many bytes until Raft lets go
    /// of its command.
    ///
    /// # Errors
    /// Those of `Heartbeat` in the contract.
    pub async fn heartbeat(
        &self,
        context: &RequestContext,
        request: HeartbeatRequest,
        min_metadata_version: u64,
        bytes: usize,
    ) -> Result<Option<HeartbeatResponse>, RequestError> {
        if request.epoch == 0 {
            self.let_groups_remember();
        }
        if min_metadata_version > 0 {
            let metadata = &self.node.metadata;
            metadata
                .wait_for_version(min_metadata_version, VERSION_PATIENCE)
                .await?;
        }
        // A member that leaves makes room for others. The room is taken after everything that waits, where it would keep others
        // out; until here the request has its share of what is received.
        let leaves = request.epoch < 0;
        let room = (!leaves).then(|| context.caller.try_take(Resource::Heartbeats, bytes));
        let room = room.transpose()?;
        self.node.groups.learn(&self.node.metadata.image());
        let answer = self
            .replica
            .decide(room, |leader, image, now| leader.heartbeat(image, request, now))
            .await?;
        self.node.metrics.groups.heartbeats.inc();
        match answer {
            Answer::Heartbeat(answer) => Ok(Some(answer)),
            Answer::Left => Ok(None),
            other => Err(not_the_answer(&other)),
        }
    }

    /// Raises the cluster's feature level, if all brokers are new enough, so that groups remember how many partitions their
    /// topics had. Nothing waits for it: until then a group does without.
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

    /// Makes sure that a commit may be written, and gives the metadata, after a moment of waiting for topics that it does not
    /// have: one that was created a moment ago.
    ///
    /// # Errors
    /// DISK_FULL, STORE_FENCED.
    pub async fn begin_commit(&self, topics: &[TopicId]) -> Result<Arc<Image>, RequestError> {
        self.node.partitions.check_disk(&self.replica.hosted)?;
        let metadata = &self.node.metadata;
        let knows_all = |image: &Arc<Image>| topics.iter().all(|id| image.topic(*id).is_some());
        let image = metadata.image();
        if knows_all(&image) {
            return Ok(image);
        }
        let _ = tokio::time::timeout(TOPIC_PATIENCE, metadata.watch().wait_for(knows_all)).await;
        Ok(metadata.image())
    }

    /// Commits offsets. The request takes so many bytes until Raft lets go of its command.
    ///
    /// # Errors
    /// Those of `CommitOffsets` in the contract.
    pub async fn commit(
        &self,
        context: &RequestContext,
        commit: CommitRequest,
        bytes: usize,
    ) -> Result<(), RequestError> {
        let room = context.caller.try_take(Resource::Commits, bytes)?;
        self.node.groups.learn(&self.node.metadata.image());
        let decided = self
            .replica
            .decide(Some(room), |leader, image, now| leader.commit(image, commit, now));
        match decided.await? {
            Answer::Committed => Ok(()),
            other => Err(not_the_answer(&other)),
        }
    }

    /// The group as it is, at least as new as everything that was answered before. `None`: there is no such group.
    ///
    /// # Errors
    /// NOT_LEADER, LEADER_NOT_AVAILABLE, QUORUM_TIMEOUT.
    pub async fn read(&self) -> Result<Option<Arc<Group>>, RequestError> {
        self.replica.read(|state| state.shared_group(&self.group)).await
    }

    /// Deletes a group without members: so many offsets.
    ///
    /// # Errors
    /// Those of `DeleteGroup` in the contract.
    pub async fn delete(&self) -> Result<u32, RequestError> {
        let group = self.group.clone();
        let decided = self
            .replica
            .decide(None, |leader, image, now| leader.delete_group(image, group, now));
        match decided.await? {
            Answer::Deleted { count } => Ok(count),
            other => Err(not_the_answer(&other)),
        }
    }

    /// Deletes a group's offsets of some partitions: so many had one.
    ///
    /// # Errors
    /// Those of `DeleteOffsets` in the contract.
    pub async fn delete_offsets(
        &self,
        context: &RequestContext,
        partitions: PartitionSet,
        bytes: usize,
    ) -> Result<u32, RequestError> {
        let room = context.caller.try_take(Resource::Commits, bytes)?;
        let group = self.group.clone();
        let decided = self.replica.decide(Some(room), |leader, image, now| {
            leader.delete_offsets(image, group, partitions, now)
        });
        match decided.await? {
            Answer::Deleted { count } => Ok(count),
            other => Err(not_the_answer(&other)),
        }
    }
}

/// As many as one commit has, at most: each is looked up, and answered with its topic's name or written.
///
/// # Errors
/// INVALID_REQUEST.
pub(crate) fn check_count(partitions: usize) -> Result<(), RequestError> {
    if partitions <= OFFSETS_PER_COMMIT_MAX {
        return Ok(());
    }
    let message = format!(
        "the request names {partitions} partitions: at most {OFFSETS_PER_COMMIT_MAX}, ask for the others in another one"
    );
    Err(RequestError::new(Reason::InvalidRequest, message)
        .with("actual", partitions)
        .with("limit", OFFSETS_PER_COMMIT_MAX))
}

fn not_the_answer(answer: &Answer) -> RequestError {
    RequestError::new(Reason::Internal, format!("the coordinator answered {answer:?}"))
}
