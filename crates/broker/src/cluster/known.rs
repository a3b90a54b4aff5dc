//! What the reconciler has taken from the image, so that it looks again only at what is new.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jangada_controller::{Image, Queue, Topic};
use jangada_types::{BrokerId, GroupId, ReplicaId, TopicConfig, TopicId};

/// A replica of this broker that was taken off a group, or whose group was deleted, and whose data may still be here.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    pub group: GroupId,
    pub replica: ReplicaId,
    /// The replica of this broker that comes after it.
    pub next: Option<ReplicaId>,
}

/// What the reconciler knows of the last image.
#[derive(Default)]
pub(super) struct Known {
    /// The version up to which all replicas were opened.
    pub opened: Option<u64>,
    /// The version that the rest is of.
    pub version: Option<u64>,
    /// Replicas that this broker was to have, of groups that are there.
    pub leaving: Vec<Leaving>,
    /// Settings of topics, and what they were read from.
    settings: HashMap<TopicId, (Arc<Topic>, Arc<TopicConfig>)>,
    /// The queues of each topic that has some, and the topic as it was then.
    queues: BTreeMap<TopicId, (Arc<Topic>, Vec<Arc<Queue>>)>,
    /// Groups that this broker leads and whose members are as the assignment says: in which term, by which topic.
    in_line: HashMap<GroupId, (u64, Arc<Topic>)>,
}

impl Known {
    /// Takes a new image. The topics that were known and have other settings now, perhaps.
    pub fn learn(&mut self, image: &Image, broker: BrokerId) -> Vec<Arc<Topic>> {
        self.version = Some(image.version());
        let leaving = image.leaving_of(broker).map(|(partition, replica)| Leaving {
            group: partition.group,
            replica,
            next: partition.replica_on(broker),
        });
        self.leaving = leaving.collect();
        self.settings.retain(|topic, _| image.topic(*topic).is_some());
        self.in_line
            .retain(|group, _| image.partition_of_group(*group).is_some());
        let is_new = |topic: &&Arc<Topic>| {
            let known = self.settings.get(&topic.id);
            topic.kind.is_of_records() && known.is_some_and(|(known, _)| !Arc::ptr_eq(known, topic))
        };
        image.topics().filter(is_new).cloned().collect()
    }

    /// Takes the queues of a new image. The topics whose queues are other ones now.
    pub fn learn_queues(&mut self, image: &Image) -> Vec<Arc<Topic>> {
        if image.queues().len() == 0 && self.queues.is_empty() {
            return Vec::new();
        }
        let mut by_topic: BTreeMap<TopicId, (Arc<Topic>, Vec<Arc<Queue>>)> = BTreeMap::new();
        for queue in image.queues() {
            if let Some(topic) = image.topic(queue.topic_id) {
                let of_topic = by_topic.entry(topic.id).or_insert_with(|| (topic.clone(), Vec::new()));
                of_topic.1.push(queue.clone());
            }
        }
        let before = std::mem::replace(&mut self.queues, by_topic);
        let is_as_before = |(topic, queues): &&(Arc<Topic>, Vec<Arc<Queue>>)| {
            before.get(&topic.id).is_some_and(|(known, before)| {
                let same = queues
                    .iter()
                    .zip(before)
                    .all(|(queue, before)| Arc::ptr_eq(queue, before));
                Arc::ptr_eq(known, topic) && queues.len() == before.len() && same
            })
        };
        let changed = self.queues.values().filter(|of_topic| !is_as_before(of_topic));
        let emptied = before.keys().filter(|topic| !self.queues.contains_key(topic));
        let emptied = emptied.filter_map(|topic| image.topic(*topic));
        changed.map(|(topic, _)| topic).chain(emptied).cloned().collect()
    }

    /// The settings of a topic, read once. An error is for the log.
    pub fn settings_of(&mut self, topic: &Arc<Topic>) -> Result<Arc<TopicConfig>, String> {
        if let Some((known, config)) = self.settings.get(&topic.id)
            && Arc::ptr_eq(known, topic)
        {
            return Ok(config.clone());
        }
        let config = topic
            .settings()
            .map_err(|error| format!("the settings of the topic cannot be used: {error}"))?;
        let config = Arc::new(config);
        self.settings.insert(topic.id, (topic.clone(), config.clone()));
        Ok(config)
    }

    /// Whether the members of a group that is led here were seen to be as its topic says.
    pub fn is_in_line(&self, group: GroupId, term: u64, topic: &Arc<Topic>) -> bool {
        self.in_line
            .get(&group)
            .is_some_and(|(seen_term, seen)| *seen_term == term && Arc::ptr_eq(seen, topic))
    }

    /// Remembers that the members of a group that is led here are as its topic says.
    pub fn are_in_line(&mut self, group: GroupId, term: u64, topic: Arc<Topic>) {
        self.in_line.insert(group, (term, topic));
    }

    /// Looks at the members of all groups again.
    pub fn forget_members(&mut self) {
        self.in_line.clear();
    }
}
