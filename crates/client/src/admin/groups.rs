//! Consumer groups from outside. Field names are those of `group.proto`; what is 0 or -1 there for "not known" is `None`.

use jangada_proto::v1;
use jangada_types::{BrokerId, Reason, TopicId};

use super::Admin;
use super::types::topic_id;
use crate::attempts::CallFailed;
use crate::cluster::Repeat;
use crate::error::ClientError;
use crate::group::{Assignor, Coordinator, OffsetCommit, TopicPartition, fetch_offsets, group_service};

/// The groups of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// The groups, ordered by name.
    pub groups: Vec<GroupSummary>,
    /// Shards of the coordinator that did not answer in time: their groups are missing.
    pub missing_shards: Vec<u32>,
}

/// A group in the list of all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// The group's name.
    pub group: String,
    /// Empty, Assigning, Reconciling, Stable.
    pub state: String,
    /// Number of members.
    pub members: u32,
    /// The broker that coordinates it.
    pub coordinator_id: BrokerId,
    /// Counts changes of members, subscriptions and topics.
    pub epoch: u32,
}

/// A group with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// The group's name.
    pub group: String,
    /// Empty, Assigning, Reconciling, Stable.
    pub state: String,
    /// The broker that coordinates it.
    pub coordinator_id: BrokerId,
    /// Counts changes of members, subscriptions and topics.
    pub epoch: u32,
    /// The epoch for which the targets were computed.
    pub assignment_epoch: u32,
    /// The members, ordered by member id.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The member's id.
    pub member_id: String,
    /// `None`: not static.
    pub instance_id: Option<String>,
    /// The client id that the member gave itself.
    pub client_id: String,
    /// Address that the member connected from.
    pub client_host: String,
    /// Failure domain of the member; empty if unknown.
    pub rack: String,
    /// Stable, Behind (has not heard of the newest target), Revoking, Waiting (for others to give up), Away.
    pub state: String,
    /// The assignment epoch that the member has taken up.
    pub epoch: u32,
    /// Topics that the member subscribes to by name.
    pub topics: Vec<String>,
    /// Pattern of topic names that the member subscribes to, besides `topics`.
    pub pattern: Option<String>,
    /// Partitions that the member owns, including those that it has yet to give up.
    pub owned: Vec<OwnedPartition>,
    /// Partitions that the member should own.
    pub target: Vec<TopicPartition>,
    /// How long the member may be silent before its session ends, milliseconds.
    pub session_timeout_ms: u32,
    /// How long the member may take to give up partitions, milliseconds.
    pub rebalance_timeout_ms: u32,
    /// The assignor that the member prefers.
    pub assignor: Assignor,
}

/// A partition that a member owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPartition {
    /// The partition that is owned.
    pub partition: TopicPartition,
    /// The member's epoch when it got the partition: it has not paused since.
    pub since_epoch: u32,
    /// True if the member was told to give the partition up and has not acknowledged that yet.
    pub revoking: bool,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The partition that the offset was committed for.
    pub partition: TopicPartition,
    /// The next record to read. `None`: none is committed.
    pub offset: Option<i64>,
    /// The leader epoch of the last record that was read, when known.
    pub leader_epoch: Option<u32>,
    /// Text that the consumer committed along with the offset.
    pub metadata: String,
    /// The coordinator's clock, milliseconds since the Unix epoch. `None`: none is committed.
    pub committed_at_ms: Option<i64>,
}

impl Admin {
    /// All groups.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no broker answers.
    pub async fn list_groups(&self) -> Result<GroupListing, ClientError> {
        let answer = self.cluster.call_any("list groups", Repeat::Always, |channel| {
            let mut service = group_service(channel);
            async move { service.list_groups(v1::ListGroupsRequest {}).await }
        });
        let answer = answer.await.map_err(|failed| failed.into_error("list groups"))?;
        let groups = answer.groups.into_iter().map(|group| GroupSummary {
            group: group.group,
            state: group.state,
            members: group.members,
            coordinator_id: BrokerId(group.coordinator_id),
            epoch: group.epoch,
        });
        Ok(GroupListing {
            groups: groups.collect(),
            missing_shards: answer.missing_shards,
        })
    }

    /// A group with its members and what they own, linearizable.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_GROUP`.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, ClientError> {
        let context = format!("describe group {group}");
        let coordinator = self.coordinator(group);
        let answer = coordinator.call(coordinator.deadline(), |mut service| {
            let request = v1::DescribeGroupRequest {
                group: group.to_owned(),
            };
            async move { service.describe_group(request).await }
        });
        let answer = answer.await.map_err(|failed| failed.into_error(&context))?;
        let members: Result<_, _> = answer
            .members
            .into_iter()
            .map(|member| GroupMember::from_wire(member, &context))
            .collect();
        Ok(GroupDescription {
            group: answer.group,
            state: answer.state,
            coordinator_id: BrokerId(answer.coordinator_id),
            epoch: answer.epoch,
            assignment_epoch: answer.assignment_epoch,
            members: members?,
        })
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// When an attempt ended without an answer and the next one does not find the group, it is taken for deleted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_GROUP`, or with `GROUP_NOT_EMPTY`.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let coordinator = self.coordinator(group);
        let deleted = coordinator.call(coordinator.deadline(), |mut service| {
            let request = v1::DeleteGroupRequest {
                group: group.to_owned(),
            };
            async move { service.delete_group(request).await }
        });
        match deleted.await {
            Ok(_) => Ok(()),
            Err(CallFailed {
                failure,
                in_doubt: true,
            }) if failure.reason == Some(Reason::UnknownGroup) => Ok(()),
            Err(failed) => Err(failed.into_error(&format!("delete group {group}"))),
        }
    }

    /// Committed offsets of a group, linearizable: of these partitions, in the order asked, or of all that have one.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`]; [`ClientError::Refused`] with `UNKNOWN_GROUP`.
    pub async fn fetch_offsets(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Vec<CommittedOffset>, ClientError> {
        let context = format!("fetch offsets of group {group}");
        let wanted = partitions.unwrap_or_default();
        if partitions.is_some_and(<[_]>::is_empty) {
            return Ok(Vec::new());
        }
        let offsets = fetch_offsets(
            &self.coordinator(group),
            wanted.iter().map(TopicPartition::wire).collect(),
            false,
        )
        .await?;
        let mut committed = Vec::with_capacity(offsets.len());
        for (index, offset) in offsets.into_iter().enumerate() {
            let partition = match wanted.get(index) {
                Some(partition) => partition.clone(),
                None => partition_from_wire(offset.partition.unwrap_or_default(), &context)?,
            };
            committed.push(CommittedOffset {
                partition,
                offset: (offset.offset >= 0).then_some(offset.offset),
                leader_epoch: offset.leader_epoch,
                metadata: offset.metadata,
                committed_at_ms: (offset.offset >= 0).then_some(offset.committed_at_ms),
            });
        }
        Ok(committed)
    }

    /// Commits offsets from outside, all or none, while the group has no members.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `GROUP_NOT_EMPTY`; [`ClientError::Config`] for none or negative offsets.
    pub async fn commit_offsets(&self, group: &str, offsets: &[OffsetCommit]) -> Result<(), ClientError> {
        if let Some(bad) = offsets.iter().find(|commit| commit.offset < 0) {
            let text = format!("offset {} of {}: offsets begin at 0", bad.offset, bad.partition);
            return Err(ClientError::Config(text));
        }
        let coordinator = self.coordinator(group);
        let committed = coordinator.call(coordinator.deadline(), |mut service| {
            let request = v1::CommitOffsetsRequest {
                group: group.to_owned(),
                offsets: offsets.iter().map(OffsetCommit::wire).collect(),
                ..v1::CommitOffsetsRequest::default()
            };
            async move { service.commit_offsets(request).await }
        });
        match committed.await {
            Ok(_) => Ok(()),
            Err(failed) => Err(failed.into_error(&format!("commit offsets of group {group}"))),
        }
    }

    /// Deletes offsets of a group without members; partitions without a committed offset are passed over. Returns how
    /// many offsets were deleted: when an attempt ended without an answer, only those of the last attempt.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_GROUP`, or with `GROUP_NOT_EMPTY`.
    pub async fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<u32, ClientError> {
        let coordinator = self.coordinator(group);
        let deleted = coordinator.call(coordinator.deadline(), |mut service| {
            let request = v1::DeleteOffsetsRequest {
                group: group.to_owned(),
                partitions: partitions.iter().map(TopicPartition::wire).collect(),
            };
            async move { service.delete_offsets(request).await }
        });
        match deleted.await {
            Ok(answer) => Ok(answer.deleted),
            Err(failed) => Err(failed.into_error(&format!("delete offsets of group {group}"))),
        }
    }

    /// All partitions of a topic, as groups name them.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn topic_partitions(&self, topic: &str) -> Result<Vec<TopicPartition>, ClientError> {
        let found = self.cluster.topic(&topic.into()).await?;
        let partition = |partition| TopicPartition {
            topic: found.name.clone(),
            topic_id: found.id,
            partition,
        };
        Ok((0..found.partitions.len() as u32).map(partition).collect())
    }

    fn coordinator(&self, group: &str) -> Coordinator {
        Coordinator::new(self.cluster.clone(), group.into())
    }
}

impl GroupMember {
    fn from_wire(member: v1::GroupMember, context: &str) -> Result<Self, ClientError> {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let owned = member.owned.into_iter().map(|owned| {
            Ok(OwnedPartition {
                partition: partition_from_wire(owned.partition.unwrap_or_default(), context)?,
                since_epoch: owned.since_epoch,
                revoking: owned.revoking,
            })
        });
        let mut target = Vec::new();
        for topic in member.target.unwrap_or_default().topics {
            let id = topic_id(&topic.topic_id, context)?;
            let partition = |partition: u32| named(&topic.topic, id, partition);
            target.extend(topic.partitions.iter().map(|index| partition(*index)));
        }
        let subscription = member.subscription.unwrap_or_default();
        Ok(Self {
            owned: owned.collect::<Result<_, ClientError>>()?,
            target,
            member_id: member.member_id,
            instance_id: some(member.instance_id),
            client_id: member.client_id,
            client_host: member.client_host,
            rack: member.rack,
            state: member.state,
            epoch: member.epoch,
            topics: subscription.topics,
            pattern: some(subscription.pattern),
            session_timeout_ms: member.session_timeout_ms,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            assignor: Assignor::from_wire(member.assignor),
        })
    }
}

fn partition_from_wire(partition: v1::TopicPartition, context: &str) -> Result<TopicPartition, ClientError> {
    let id = topic_id(&partition.topic_id, context)?;
    Ok(named(&partition.topic, id, partition.partition))
}

fn named(topic: &str, topic_id: TopicId, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.into(),
        topic_id,
        partition,
    }
}
