//! The replicas of single partitions: their lists, and the deletion of their data.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::{GroupId, PartitionIndex, Reason, Rejection, ReplicaId, TopicId};

use crate::command::RENEWAL_FEATURE_LEVEL;
use crate::image::{Image, Partition};
use crate::reply::Reply;
use crate::rules;

impl Image {
    pub(super) fn set_replicas(&mut self, group: GroupId, replicas: &[ReplicaId]) -> Result<Reply, Rejection> {
        let found = rules::live_group(self, group)?;
        let place = format!("partition {} of topic {:?}", found.index, found.topic.name);
        rules::replica_list(self, &place, replicas)?;
        // A broker that may be deleting its old replica's data right now must not count on that data.
        let is_deleting = |replica: &&ReplicaId| found.is_leaving(replica.broker) && !found.replicas.contains(replica);
        if let Some(replica) = replicas.iter().find(is_deleting) {
            return Err(Rejection::new(
                Reason::InvalidReplicas,
                format!(
                    "{place} was given replica {replica}, which is still deleting its former data of it: try again later"
                ),
            ));
        }
        let (topic, index) = (found.topic.id, found.index);
        let partition = self.partition_mut(topic, index);
        let leaving: BTreeSet<ReplicaId> = partition
            .leaving
            .iter()
            .chain(partition.replicas.iter().filter(|replica| !replicas.contains(replica)))
            .copied()
            .collect();
        partition.leaving = leaving.into_iter().collect();
        partition.reassign(replicas.to_vec());
        Ok(Reply::ReplicasSet { version: self.version })
    }

    pub(super) fn renew_replica(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        checked: &[ReplicaId],
    ) -> Result<Reply, Rejection> {
        let found = rules::live_group(self, group)?;
        let version = self.version;
        if found.leaving.contains(&replica)
            && let Some(replica) = found.replica_on(replica.broker)
        {
            return Ok(Reply::ReplicaRenewed { replica, version });
        }
        rules::may_renew(self, &found, replica)?;
        rules::is_as_checked(&found, checked)?;
        let incarnation = rules::next_incarnation(rules::broker(self, replica.broker)?)?;
        rules::all_have_level(self, RENEWAL_FEATURE_LEVEL)?;
        let (topic, index) = (found.topic.id, found.index);
        self.feature_level = self.feature_level.max(RENEWAL_FEATURE_LEVEL);
        let broker = Arc::make_mut(&mut self.brokers).get_mut(&replica.broker);
        broker.expect("the broker was found above").last_incarnation = incarnation;
        let renewed = ReplicaId::new(replica.broker, incarnation);
        let partition = self.partition_mut(topic, index);
        let is_renewed = |listed: &ReplicaId| if *listed == replica { renewed } else { *listed };
        partition.reassign(partition.replicas.iter().map(is_renewed).collect());
        let place = partition.leaving.partition_point(|leaving| *leaving < replica);
        partition.leaving.insert(place, replica);
        Ok(Reply::ReplicaRenewed {
            replica: renewed,
            version,
        })
    }

    pub(super) fn replica_deleted(&mut self, replica: ReplicaId, groups: &[GroupId]) -> Reply {
        let mut settled = 0u32;
        for group in groups {
            if self.settle_tombstone(replica, *group) || self.settle_leaving(replica, *group) {
                settled = settled.saturating_add(1);
            }
        }
        Reply::ReplicaDeleted { settled }
    }

    fn settle_tombstone(&mut self, replica: ReplicaId, group: GroupId) -> bool {
        let Some(tombstone) = self.tombstones.get(&group).filter(|t| t.replicas.contains(&replica)) else {
            return false;
        };
        let rest = tombstone.without(replica);
        let tombstones = Arc::make_mut(&mut self.tombstones);
        if rest.replicas.is_empty() {
            tombstones.remove(&group);
        } else {
            tombstones.insert(group, rest);
        }
        true
    }

    fn settle_leaving(&mut self, replica: ReplicaId, group: GroupId) -> bool {
        let Some(found) = self.partition_of_group(group).filter(|p| p.leaving.contains(&replica)) else {
            return false;
        };
        let (topic, index) = (found.topic.id, found.index);
        self.partition_mut(topic, index)
            .leaving
            .retain(|leaving| *leaving != replica);
        true
    }

    /// Only for a partition that was just looked up.
    fn partition_mut(&mut self, topic: TopicId, index: PartitionIndex) -> &mut Partition {
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(&topic)
            .expect("the topic was just found");
        let index = usize::try_from(index.get()).expect("a u32 fits");
        &mut Arc::make_mut(topic).partitions[index]
    }
}
