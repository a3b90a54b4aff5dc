//! The topics that exist, as the leader's broker knows them, and which of them a subscription means.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_types::{TopicId, is_internal_topic};

use crate::image::{SubscribedTopic, Subscription};
use crate::pattern::Patterns;

/// The topics of the cluster at one version of its metadata. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct TopicTable {
    version: u64,
    topics: Arc<Topics>,
    /// Whether every broker of the cluster can read targets after which a group remembers its topics.
    lets_remember: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Topics {
    by_name: BTreeMap<Arc<str>, SubscribedTopic>,
    by_id: BTreeMap<TopicId, Arc<str>>,
}

impl TopicTable {
    /// `version` is that of the metadata that the topics were read from; each topic is an id, a name and a number of
    /// partitions.
    pub fn new(version: u64, topics: impl IntoIterator<Item = (TopicId, Arc<str>, u32)>) -> Self {
        let by_name: BTreeMap<_, _> = topics
            .into_iter()
            .map(|(id, name, partitions)| (Arc::clone(&name), SubscribedTopic { id, name, partitions }))
            .collect();
        let by_id = by_name
            .values()
            .map(|topic| (topic.id, Arc::clone(&topic.name)))
            .collect();
        Self {
            version,
            topics: Arc::new(Topics { by_name, by_id }),
            lets_remember: false,
        }
    }

    /// This table, with `lets_remember` set if every broker of the cluster has feature level 5: groups then remember
    /// how many partitions a topic had when they began to read it.
    #[must_use]
    pub fn letting_groups_remember(self, lets_remember: bool) -> Self {
        Self { lets_remember, ..self }
    }

    pub(crate) fn lets_remember(&self) -> bool {
        self.lets_remember
    }

    /// The same topics at a later version, at which only other metadata had changed.
    pub fn at_version(&self, version: u64) -> Self {
        Self {
            version,
            topics: Arc::clone(&self.topics),
            lets_remember: self.lets_remember,
        }
    }

    /// Whether these are all topics that there are. They are ordered by id.
    pub fn is_all<'a>(&'a self, topics: impl IntoIterator<Item = (TopicId, &'a str, u32)>) -> bool {
        let known = self.topics.by_id.values().filter_map(|name| self.named(name));
        known.map(|topic| (topic.id, &*topic.name, topic.partitions)).eq(topics)
    }

    /// Whether the topics are the same, whatever the versions.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.topics, &other.topics) || self.topics == other.topics
    }

    /// The metadata's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The topic with this id.
    pub fn topic(&self, id: TopicId) -> Option<&SubscribedTopic> {
        self.topics.by_name.get(self.topics.by_id.get(&id)?)
    }

    /// The topic with this name.
    pub fn named(&self, name: &str) -> Option<&SubscribedTopic> {
        self.topics.by_name.get(name)
    }

    /// The topics that the subscription means and that exist, ordered by name. A pattern never means an internal topic.
    pub(crate) fn resolve<'a>(
        &'a self,
        subscription: &Subscription,
        patterns: &mut Patterns,
    ) -> BTreeMap<&'a str, &'a SubscribedTopic> {
        let named = subscription.topics.iter().filter_map(|name| self.named(name));
        let mut found: BTreeMap<_, _> = named.map(|topic| (&*topic.name, topic)).collect();
        if let Some(pattern) = &subscription.pattern {
            // The pattern compiled when its member joined. One that only a newer build accepts matches nothing here.
            if let Some(pattern) = patterns.compiled(pattern) {
                let matching = self
                    .topics
                    .by_name
                    .values()
                    .filter(|topic| !is_internal_topic(&topic.name));
                let matching = matching.filter(|topic| pattern.is_match(&topic.name));
                found.extend(matching.map(|topic| (&*topic.name, topic)));
            }
        }
        found
    }
}
