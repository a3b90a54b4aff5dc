//! Consumer groups: asked at the broker that coordinates them, which this broker passes calls on to.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Broker, Image, TopicKind, admission};
use jangada_coordinator::limits::OFFSETS_PER_COMMIT_MAX;
use jangada_coordinator::{
    Answer, CommandKind, Committed, Group, HeartbeatResponse, StageRequest, Subscription, TopicPartition,
    TransactionRef, require_stable,
};
use jangada_transactions::Producer;
use jangada_types::{BrokerId, PartitionIndex, Reason, TopicId, validate_topic_name};

use super::call::Passable;
use super::call::groups::{
    Commit, DeleteGroup, DeleteOffsets, DescribeGroup, GroupDescription, Heartbeat, MemberDescription, PartitionOffset,
    ReadOffsets,
};
use super::call::transactions::JoinTransaction;
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, pass_on};
use super::shards::{leader_of_shard, shard_of_name};
use super::transactions;
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::quota::Resource;
use crate::target::Target;

/// How long a request waits for the version of the metadata that it asks for.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time a transaction with offsets may have ended.
const STABLE_RETRY: Duration = Duration::from_millis(50);
/// How long a commit waits for a topic that this broker does not know (yet).
const TOPIC_TIMEOUT: Duration = Duration::from_millis(500);

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
    shard_of_name(node, group).await
}

/// The broker that coordinates a group, and the index of the shard that holds it. Any broker may be asked.
///
/// # Errors
/// INVALID_GROUP_NAME, SHUTTING_DOWN, NOT_READY; LEADER_NOT_AVAILABLE: no live leader was known for 10 s.
pub(crate) async fn find_coordinator(node: &Node, group: &str) -> Result<(Broker, PartitionIndex), RequestError> {
    node.stopping.refuse()?;
    let shard = shard_of(node, group).await?;
    let broker = leader_of_shard(node, &shard, ("group", group)).await?;
    Ok((broker, shard.index))
}

/// Refuses a member that names a queue's own topic. Patterns do not match such topics.
fn refuse_queues(image: &Image, subscription: &Subscription) -> Result<(), RequestError> {
    let is_queue = |name: &&Arc<str>| {
        image
            .topic_named(name)
            .is_some_and(|topic| topic.kind == TopicKind::Queue)
    };
    match subscription.topics.iter().find(is_queue) {
        Some(name) => Err(RequestError::new(
            Reason::WrongQueueKind,
            format!(
                "{name:?} is a queue: its consumers share its messages without a group; receive from it with the queue service"
            ),
        )),
        None => Ok(()),
    }
}

/// The coordinator of one group: this broker, or another one that calls are passed on to.
pub(crate) struct GroupCoordinator<'a> {
    node: &'a Arc<Node>,
    context: &'a RequestContext,
    shard: Target,
    lead: Lead<CoordinatorReplica>,
}

impl<'a> GroupCoordinator<'a> {
    /// Finds it, after a moment of waiting for an election.
    ///
    /// # Errors
    /// INVALID_GROUP_NAME, SHUTTING_DOWN, NOT_LEADER, LEADER_NOT_AVAILABLE, NOT_READY.
    pub async fn of(node: &'a Arc<Node>, context: &'a RequestContext, group: &str) -> Result<Self, RequestError> {
        node.stopping.refuse()?;
        let shard = shard_of(node, group).await?;
        let lead = node.leaders.find(&shard, context.route).await?;
        Ok(Self {
            node,
            context,
            shard,
            lead,
        })
    }

    async fn pass_on<R: Passable>(&self, leader: BrokerId, request: R) -> Result<R::Answer, RequestError> {
        pass_on(self.node, self.context, (&self.shard, leader), request, PASS_TIMEOUT).await
    }

    /// A member says that it is alive, joins or leaves. `None`: it has left.
    ///
    /// # Errors
    /// Those of `Heartbeat` in the contract.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Option<HeartbeatResponse>, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, heartbeat).await,
        };
        let Heartbeat {
            request,
            min_metadata_version,
            bytes,
        } = heartbeat;
        if request.epoch == 0 {
            self.let_groups_remember();
        }
        if min_metadata_version > 0 {
            let metadata = &self.node.metadata;
            metadata.wait_for_version(min_metadata_version, VERSION_TIMEOUT).await?;
        }
        if let Some(subscription) = &request.subscription {
            refuse_queues(&self.node.metadata.image(), subscription)?;
        }
        // A member that leaves makes room for others. The room is taken after everything that waits, where it would keep others
        // out; until here the request has its share of what is received.
        let leaves = request.epoch < 0;
        let room = (!leaves).then(|| self.context.caller.try_take(Resource::Heartbeats, bytes));
        let room = room.transpose()?;
        self.node.groups.learn(&self.node.metadata.image());
        let answer = replica
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
        if let Lead::Here(replica) = &self.lead {
            self.node.partitions.check_disk(&replica.hosted)?;
        }
        let metadata = &self.node.metadata;
        let knows_all = |image: &Arc<Image>| topics.iter().all(|id| image.topic(*id).is_some());
        let image = metadata.image();
        if knows_all(&image) {
            return Ok(image);
        }
        let _ = tokio::time::timeout(TOPIC_TIMEOUT, metadata.watch().wait_for(knows_all)).await;
        Ok(metadata.image())
    }

    /// Commits offsets.
    ///
    /// # Errors
    /// Those of `CommitOffsets` in the contract.
    pub async fn commit(&self, commit: Commit) -> Result<(), RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, commit).await,
        };
        let Commit {
            request,
            transaction,
            bytes,
        } = commit;
        let room = self.context.caller.try_take(Resource::Commits, bytes)?;
        self.node.groups.learn(&self.node.metadata.image());
        let staged = match transaction {
            Some(transaction) => Some(self.join(&request.group, transaction).await?),
            None => None,
        };
        let decided = replica.decide(Some(room), |leader, image, now| match staged {
            None => leader.commit(image, request, now),
            Some(transaction) => {
                let commit = request;
                leader.stage_offsets(image, StageRequest { commit, transaction }, now)
            }
        });
        match decided.await? {
            Answer::Committed | Answer::Staged => Ok(()),
            other => Err(not_the_answer(&other)),
        }
    }

    /// Makes the group a part of the transaction before anything is staged, so that its end comes here.
    async fn join(
        &self,
        group: &Arc<str>,
        (id, producer): (Arc<str>, Producer),
    ) -> Result<TransactionRef, RequestError> {
        let join = JoinTransaction {
            id,
            producer,
            partitions: Vec::new(),
            groups: vec![group.clone()],
            adds: true,
            metadata_version: 0,
        };
        Ok(TransactionRef {
            producer_id: producer.id,
            epoch: producer.epoch,
            seq: transactions::join(self.node, join).await?,
        })
    }

    /// The group's offsets, at least as new as everything that was answered before.
    ///
    /// # Errors
    /// Those of `FetchOffsets` in the contract.
    pub async fn offsets(&self, wanted: ReadOffsets) -> Result<Vec<PartitionOffset>, RequestError> {
        match &self.lead {
            Lead::Here(replica) => {
                let group = replica.read(|state| state.shared_group(&wanted.group)).await?;
                if let Some(group) = group.as_deref().filter(|_| wanted.require_stable) {
                    check_stable(group, &wanted)?;
                }
                Ok(offsets_of(group.as_deref(), &wanted.partitions))
            }
            Lead::At(leader) => self.pass_on(*leader, wanted).await,
        }
    }

    /// The group and its members, at least as new as everything that was answered before.
    ///
    /// # Errors
    /// Those of `DescribeGroup` in the contract.
    pub async fn describe(&self, wanted: DescribeGroup) -> Result<GroupDescription, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        let name = &wanted.group;
        let group = replica.read(|state| state.shared_group(name)).await?.ok_or_else(|| {
            RequestError::new(
                Reason::UnknownGroup,
                format!("there is no group {name:?}: list the groups to see what exists"),
            )
        })?;
        Ok(description_of(&group, self.node.broker()))
    }

    /// Deletes a group without members: so many offsets.
    ///
    /// # Errors
    /// Those of `DeleteGroup` in the contract.
    pub async fn delete(&self, wanted: DeleteGroup) -> Result<u32, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        let decided = replica.decide(None, |leader, image, now| leader.delete_group(image, wanted.group, now));
        match decided.await? {
            Answer::Deleted { count } => Ok(count),
            other => Err(not_the_answer(&other)),
        }
    }

    /// Deletes a group's offsets of some partitions: so many had one.
    ///
    /// # Errors
    /// Those of `DeleteOffsets` in the contract.
    pub async fn delete_offsets(&self, wanted: DeleteOffsets) -> Result<u32, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        let DeleteOffsets {
            group,
            partitions,
            bytes,
        } = wanted;
        if partitions.is_empty() {
            return Err(RequestError::new(
                Reason::InvalidRequest,
                "the request names no partition: name at least one",
            ));
        }
        let room = self.context.caller.try_take(Resource::Commits, bytes)?;
        let decided = replica.decide(Some(room), |leader, image, now| {
            leader.delete_offsets(image, group, partitions, now)
        });
        match decided.await? {
            Answer::Deleted { count } => Ok(count),
            other => Err(not_the_answer(&other)),
        }
    }
}

/// Refuses offsets that an open transaction may replace.
fn check_stable(group: &Group, wanted: &ReadOffsets) -> Result<(), RequestError> {
    let stable = require_stable(&wanted.group, group, &wanted.partitions);
    stable.map_err(|refused| RequestError::from(refused).retry_after(STABLE_RETRY))
}

/// Offsets of a group: those that are asked for, in their order, or all.
fn offsets_of(group: Option<&Group>, wanted: &[TopicPartition]) -> Vec<PartitionOffset> {
    if wanted.is_empty() {
        let all = group.into_iter().flat_map(|group| &group.offsets);
        let offset = |(partition, committed): (&TopicPartition, &Committed)| PartitionOffset {
            partition: *partition,
            committed: Some(committed.clone()),
            added: false,
        };
        return all.map(offset).collect();
    }
    let offset = |partition: &TopicPartition| {
        let committed = group.and_then(|group| group.committed(partition.topic, partition.partition));
        PartitionOffset {
            partition: *partition,
            committed: committed.cloned(),
            added: committed.is_none() && group.is_some_and(|group| group.is_added(*partition)),
        }
    };
    wanted.iter().map(offset).collect()
}

fn description_of(group: &Group, coordinator: BrokerId) -> GroupDescription {
    let members = group.members.iter().map(|(id, member)| {
        let spec = &member.spec;
        MemberDescription {
            id: id.clone(),
            instance_id: spec.instance_id.clone(),
            client_id: spec.client_id.clone(),
            client_host: spec.client_host.clone(),
            rack: spec.rack.clone(),
            state: group.member_state(member),
            epoch: member.epoch,
            subscription: spec.subscription.clone(),
            owned: member.holdings.clone(),
            target: member.target.clone(),
            session_timeout_ms: spec.session_timeout_ms,
            rebalance_timeout_ms: spec.rebalance_timeout_ms,
            assignor: spec.assignor,
        }
    });
    GroupDescription {
        state: group.state(),
        coordinator,
        epoch: group.epoch,
        assignment_epoch: group.assignment_epoch,
        members: members.collect(),
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
