//! The consumer groups of all shards: each broker knows those of the shards that it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::Topic;
use jangada_types::{BrokerId, PartitionIndex, Reason};

use super::call::cluster::{GroupList, GroupSummary, ListGroups};
use super::passing::{ask, whole};
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::node::Node;

/// How long listing waits for another broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// The groups of the shards that this broker leads; the other shards are named as missing.
///
/// # Errors
/// NOT_READY: this broker does not know the shards.
pub(super) async fn of_this_broker(node: &Arc<Node>) -> Result<GroupList, RequestError> {
    match node.metadata.image().coordinator() {
        Some(topic) => Ok(list_here(node, topic).await),
        None => Err(RequestError::new(
            Reason::NotReady,
            "this broker does not know the coordinator yet",
        )),
    }
}

/// The groups that all brokers list which answer. A shard that has no leader for the moment is waited for, see [`whole`].
pub(super) async fn of_all_brokers(node: &Arc<Node>) -> GroupList {
    whole(|| gather(node), |list| list.missing_shards.is_empty()).await
}

async fn gather(node: &Arc<Node>) -> GroupList {
    let image = node.metadata.image();
    // Who only lists creates nothing: that would keep older brokers out.
    let Some(topic) = image.coordinator() else {
        return GroupList::default();
    };
    let leaders: BTreeSet<BrokerId> = topic
        .partitions
        .iter()
        .filter_map(|partition| node.replicas.leader_of(partition.group))
        .map(|(broker, _)| broker)
        .filter(|broker| *broker != node.broker())
        .collect();
    let others = leaders
        .into_iter()
        .map(|broker| ask(node, broker, ListGroups, ANSWER_TIMEOUT));
    let (here, others) = tokio::join!(list_here(node, topic), futures::future::join_all(others));
    let mut missing: BTreeSet<PartitionIndex> = topic.indexed().map(|(index, _)| index).collect();
    // A group that two brokers name is of a shard that changed hands meanwhile.
    let mut groups = BTreeMap::new();
    for list in others.into_iter().flatten().chain([here]) {
        missing.retain(|shard| list.missing_shards.contains(shard));
        groups.extend(list.groups.into_iter().map(|group| (group.group.clone(), group)));
    }
    GroupList {
        groups: groups.into_values().collect(),
        missing_shards: missing,
    }
}

async fn list_here(node: &Arc<Node>, topic: &Topic) -> GroupList {
    let coordinator = node.broker();
    let lists = topic.indexed().map(|(index, partition)| async move {
        let Some(shard) = node.replicas.front::<CoordinatorReplica>(partition.group) else {
            return (index, None);
        };
        let list = shard.read(|state| {
            let groups = state.groups().map(|(name, group)| GroupSummary {
                group: name.to_string(),
                state: group.state().as_str().to_owned(),
                members: u32::try_from(group.members.len()).unwrap_or(u32::MAX),
                coordinator,
                epoch: group.epoch.get(),
            });
            groups.collect::<Vec<_>>()
        });
        (index, list.await.ok())
    });
    let mut list = GroupList::default();
    for (index, groups) in futures::future::join_all(lists).await {
        match groups {
            Some(groups) => list.groups.extend(groups),
            None => {
                list.missing_shards.insert(index);
            }
        }
    }
    list
}
