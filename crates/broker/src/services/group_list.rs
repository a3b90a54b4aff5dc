//! The groups of all shards: each broker knows those of the shards that it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Broker, Topic};
use jangada_proto::v1::{GroupSummary, ListGroupsRequest, ListGroupsResponse};
use jangada_types::{BrokerId, Reason};

use crate::error::RequestError;
use crate::forward::forward;
use crate::groups::CoordinatorReplica;
use crate::node::Node;

/// How long listing waits for another broker.
const LISTED_WITHIN: Duration = Duration::from_secs(4);

/// See the module text.
pub(super) struct GroupList {
    pub node: Arc<Node>,
}

impl GroupList {
    /// Groups of the shards that this broker leads; the other shards are named as missing.
    async fn list_here(&self, topic: &Topic) -> ListGroupsResponse {
        let coordinator_id = self.node.broker().get();
        let lists = topic.indexed().map(|(index, partition)| async move {
            let Some(shard) = self.node.replicas.front::<CoordinatorReplica>(partition.group) else {
                return (index, None);
            };
            let list = shard.read(|state| {
                let groups = state.groups().map(|(name, group)| GroupSummary {
                    group: name.to_string(),
                    state: group.state().as_str().to_owned(),
                    members: u32::try_from(group.members.len()).unwrap_or(u32::MAX),
                    coordinator_id,
                    epoch: group.epoch.get(),
                });
                groups.collect::<Vec<_>>()
            });
            (index, list.await.ok())
        });
        let mut response = ListGroupsResponse::default();
        for (index, list) in futures::future::join_all(lists).await {
            match list {
                Some(groups) => response.groups.extend(groups),
                None => response.missing_shards.push(index.get()),
            }
        }
        response
    }

    async fn list_at(&self, broker: &Broker) -> Option<ListGroupsResponse> {
        let asked = forward(self.node.registry(), broker, None, ListGroupsRequest {}, LISTED_WITHIN);
        asked.await.ok()
    }

    /// Those of the shards that this broker leads, for another one that asks.
    pub async fn here(&self) -> Result<ListGroupsResponse, RequestError> {
        match self.node.metadata.image().coordinator() {
            Some(topic) => Ok(self.list_here(topic).await),
            None => Err(RequestError::new(
                Reason::NotReady,
                "this broker does not know the coordinator yet",
            )),
        }
    }

    /// Those of all brokers that answer.
    pub async fn all(&self) -> Result<ListGroupsResponse, RequestError> {
        let image = self.node.metadata.image();
        // Who only looks creates nothing: that would keep older brokers out.
        let Some(topic) = image.coordinator() else {
            return Ok(ListGroupsResponse::default());
        };
        let leaders: BTreeSet<BrokerId> = topic
            .partitions
            .iter()
            .filter_map(|partition| self.node.replicas.leader_of(partition.group))
            .map(|(broker, _)| broker)
            .filter(|broker| *broker != self.node.broker())
            .collect();
        let others = leaders.into_iter().filter_map(|leader| image.broker(leader));
        let others = others.map(|broker| self.list_at(broker));
        let (here, others) = tokio::join!(self.list_here(topic), futures::future::join_all(others));
        let mut missing: BTreeSet<u32> = (0..).take(topic.partitions.len()).collect();
        // A group that two brokers name is of a shard that changed hands meanwhile.
        let mut groups = BTreeMap::new();
        for list in others.into_iter().flatten().chain([here]) {
            let unknown: BTreeSet<u32> = list.missing_shards.into_iter().collect();
            missing.retain(|shard| unknown.contains(shard));
            groups.extend(list.groups.into_iter().map(|group| (group.group.clone(), group)));
        }
        Ok(ListGroupsResponse {
            groups: groups.into_values().collect(),
            missing_shards: missing.into_iter().collect(),
        })
    }
}
