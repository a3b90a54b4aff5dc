//! Topics: creation, growth, alteration, deletion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::planted::{self, Bug};
use jangada_types::{GroupId, Reason, Rejection, ReplicaId, TopicId};

use crate::command::CommandKind;
use crate::image::{COORDINATOR_TOPIC, Image, Partition, Tombstone, Topic, TopicKind};
use crate::reply::Reply;
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
        // The name is judged before the id: a proposal that was applied twice finds its own id in the rejection, and so
        // knows that it succeeded.
        rules::topic_name_is_free(self, name)?;
        rules::config(name, config)?;
        self.add_topic(id, TopicKind::Log, name, config, assignments)
    }

    /// Several brokers may propose this command at once: the first one wins, and all learn the outcome.
    pub(super) fn create_coordinator(
        &mut self,
        id: TopicId,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Reply, Rejection> {
        if let Some(topic) = self.coordinator() {
            return Ok(Reply::TopicCreated {
                topic_id: topic.id,
                first_group: topic.first_group(),
                version: self.version,
            });
        }
        rules::all_have_level(self, CommandKind::CreateCoordinator.since())?;
        let created = self.add_topic(
            id,
            TopicKind::Coordinator,
            COORDINATOR_TOPIC,
            &BTreeMap::new(),
            assignments,
        )?;
        self.feature_level = self.feature_level.max(CommandKind::CreateCoordinator.since());
        Ok(created)
    }

    /// Adds a topic whose name and settings were judged.
    pub(super) fn add_topic(
        &mut self,
        id: TopicId,
        kind: TopicKind,
        name: &str,
        config: &BTreeMap<String, String>,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Reply, Rejection> {
        if id == TopicId::default() || self.topic(id).is_some() {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                format!("topic {name:?} was proposed with id {id}, which is taken: propose it with another random id"),
            ));
        }
        let partitions = self.new_partitions(name, 0, assignments)?;
        let name: Arc<str> = Arc::from(name);
        let topic = Topic {
            id,
            kind,
            name: Arc::clone(&name),
            partitions,
            config: config.clone(),
        };
        let first_group = topic.first_group();
        Arc::make_mut(&mut self.runs).extend(topic.runs());
        let before = Arc::make_mut(&mut self.topics).insert(id, Arc::new(topic));
        let other = Arc::make_mut(&mut self.topics_by_name).insert(name, id);
        assert!(
            before.is_none() && other.is_none(),
            "topic {id} takes the place of another one"
        );
        Ok(Reply::TopicCreated {
            topic_id: id,
            first_group,
            version: self.version,
        })
    }

    /// Judges partitions for a topic that has `existing` ones, and gives them their groups. On an error nothing has
    /// changed.
    fn new_partitions(
        &mut self,
        name: &str,
        existing: usize,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Vec<Partition>, Rejection> {
        rules::partition_count(name, existing.saturating_add(assignments.len()))?;
        for (index, replicas) in (existing..).zip(assignments) {
            rules::replica_list(self, &format!("partition {index} of topic {name:?}"), replicas)?;
        }
        let first_group = self.next_group_id;
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
            first: Vec::new(),
        };
        Ok((first_group..).zip(assignments).map(partition).collect())
    }

    /// Adds partitions from index `existing` on. A proposal that was applied twice is rejected the second time, as the
    /// topic then has more than `existing`.
    pub(super) fn add_partitions(
        &mut self,
        id: TopicId,
        existing: u32,
        assignments: &[Vec<ReplicaId>],
    ) -> Result<Reply, Rejection> {
        let topic = rules::topic_by_id(self, id)?;
        rules::may_grow(topic)?;
        let name = Arc::clone(&topic.name);
        let actual = topic.partitions.len();
        if usize::try_from(existing) != Ok(actual) || assignments.is_empty() {
            return Err(Rejection::new(
                Reason::InvalidPartitions,
                format!(
                    "{} partitions were to be added to {existing} of topic {name:?}, which has {actual}: look at it, then \
                     try again",
                    assignments.len()
                ),
            )
            .with("expected", existing)
            .with("actual", actual));
        }
        rules::all_have_level(self, CommandKind::AddPartitions.since())?;
        let added = self.new_partitions(&name, actual, assignments)?;
        self.feature_level = self.feature_level.max(CommandKind::AddPartitions.since());
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(&id)
            .expect("the topic was found above");
        Arc::make_mut(topic).partitions.extend(added);
        // The last run may have become longer; all others are there already.
        Arc::make_mut(&mut self.runs).extend(topic.runs());
        Ok(Reply::TopicAltered { version: self.version })
    }

    pub(super) fn alter_topic(
        &mut self,
        id: TopicId,
        set: &BTreeMap<String, String>,
        unset: &[String],
    ) -> Result<Reply, Rejection> {
        let topic = rules::topic_by_id(self, id)?;
        rules::is_users(topic)?;
        let config = rules::merged_config(self, topic, set, unset)?;
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(&id)
            .expect("the topic was found above");
        Arc::make_mut(topic).config = config;
        Ok(Reply::TopicAltered { version: self.version })
    }

    pub(super) fn delete_topic(&mut self, id: TopicId) -> Result<Reply, Rejection> {
        rules::may_delete(self, rules::topic_by_id(self, id)?)?;
        self.remove_topic(id);
        Ok(Reply::TopicDeleted { version: self.version })
    }

    /// Removes a topic that is there; its groups get tombstones.
    pub(super) fn remove_topic(&mut self, id: TopicId) {
        let topic = Arc::make_mut(&mut self.topics)
            .remove(&id)
            .expect("the topic was found before");
        Arc::make_mut(&mut self.topics_by_name).remove(&topic.name);
        if planted::is(Bug::GroupIdReused) {
            let last = topic.partitions.iter().map(|partition| partition.group.get()).max();
            self.next_group_id = last
                .filter(|last| last + 1 == self.next_group_id)
                .unwrap_or(self.next_group_id);
        }
        Arc::make_mut(&mut self.runs).retain(|_, run| run.topic != id);
        Arc::make_mut(&mut self.tombstones).extend(topic.partitions.iter().map(|partition| {
            let owing: BTreeSet<ReplicaId> = partition.replicas.iter().chain(&partition.leaving).copied().collect();
            let tombstone = Tombstone {
                replicas: owing.into_iter().collect(),
            };
            (partition.group, tombstone)
        }));
    }
}
