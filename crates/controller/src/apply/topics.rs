//! Topics: creation, alteration, deletion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::{GroupId, Reason, ReplicaId, TopicId};

use crate::image::{Image, Partition, Tombstone, Topic};
use crate::reply::{Rejection, Reply};
use crate::rules;

impl Image {
    pub(super) fn create_topic(
        &mut self,
        id: TopicId,
        name: &str,
        config: &BTreeMap<String, String>,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Reply, Rejection> {
        rules::topic_name(name)?;
        // Before the id: a proposal that was applied twice finds its own id in the rejection, and so knows that it
        // succeeded.
        rules::topic_name_is_free(self, name)?;
        if id == TopicId::default() || self.topic(id).is_some() {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!("topic {name:?} was proposed with id {id}, which is taken: propose it with another random id"),
            ));
        }
        rules::config(name, config)?;
        rules::partition_count(name, assignments.len())?;
        for (index, replicas) in assignments.iter().enumerate() {
            rules::replica_list(self, &format!("partition {index} of topic {name:?}"), replicas)?;
        }
        let first_group = GroupId(self.next_group_id);
        let groups = u64::try_from(assignments.len()).expect("the number of partitions was checked");
        // The last id is `GroupId::NODE`, which is no group; it stays out of reach as `next_group_id` may at most
        // become it.
        self.next_group_id = self.next_group_id.checked_add(groups).ok_or_else(|| {
            Rejection::new(
                Reason::Internal,
                format!("the cluster has used up its group ids at topic {name:?}"),
            )
        })?;
        let partition = |(group, replicas): (u64, &Vec<ReplicaId>)| Partition {
            group: GroupId(group),
            replicas: replicas.clone(),
            leaving: Vec::new(),
            is_reassigned: false,
        };
        let name: Arc<str> = Arc::from(name);
        let topic = Topic {
            id,
            name: Arc::clone(&name),
            partitions: (first_group.get()..).zip(assignments).map(partition).collect(),
            config: config.clone(),
        };
        Arc::make_mut(&mut self.topics).insert(id, Arc::new(topic));
        Arc::make_mut(&mut self.topics_by_name).insert(name, id);
        Arc::make_mut(&mut self.topics_by_group).insert(first_group, id);
        Ok(Reply::TopicCreated {
            topic_id: id,
            first_group,
            version: self.version,
        })
    }

    pub(super) fn alter_topic(
        &mut self,
        id: TopicId,
        set: &BTreeMap<String, String>,
        unset: &[String],
    ) -> Result<Reply, Rejection> {
        let config = rules::merged_config(rules::topic_by_id(self, id)?, set, unset)?;
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(&id)
            .expect("the topic was found above");
        Arc::make_mut(topic).config = config;
        Ok(Reply::TopicAltered { version: self.version })
    }

    pub(super) fn delete_topic(&mut self, id: TopicId) -> Result<Reply, Rejection> {
        rules::topic_by_id(self, id)?;
        let topic = Arc::make_mut(&mut self.topics)
            .remove(&id)
            .expect("the topic was found above");
        Arc::make_mut(&mut self.topics_by_name).remove(&topic.name);
        Arc::make_mut(&mut self.topics_by_group).remove(&topic.first_group());
        Arc::make_mut(&mut self.tombstones).extend(topic.partitions.iter().map(|partition| {
            let owing: BTreeSet<ReplicaId> = partition.replicas.iter().chain(&partition.leaving).copied().collect();
            let tombstone = Tombstone {
                replicas: owing.into_iter().collect(),
            };
            (partition.group, tombstone)
        }));
        Ok(Reply::TopicDeleted { version: self.version })
    }
}
