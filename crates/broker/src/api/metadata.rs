//! The cluster as this broker knows it, from memory: brokers, topics, leaders.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Broker, Image, Topic, TopicKind};
use jangada_types::{BrokerId, GroupId, LeaderEpoch};

use super::call::cluster::{KnowsLeaders, KnowsVersion};
use super::resolve::TopicRef;
use crate::error::RequestError;
use crate::node::Node;

/// How long a request waits for the version that it asks for.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The metadata of one version, with the leaders of the moment.
pub(crate) struct Metadata {
    pub cluster_id: String,
    pub version: u64,
    /// The broker that leads the metadata.
    pub controller: Option<BrokerId>,
    /// All brokers, and whether this one has heard of each lately. Their addresses depend on the listener.
    pub brokers: Vec<(Broker, bool)>,
    /// The topics that were asked for, by name.
    pub topics: Vec<TopicMetadata>,
}

/// A topic with its leaders.
pub(crate) struct TopicMetadata {
    pub topic: Arc<Topic>,
    /// The leaders by partition.
    pub leaders: Vec<Option<(BrokerId, LeaderEpoch)>>,
}

/// The metadata, as soon as they have a version. Of the topics that are asked for those are left out that do not exist, and internal
/// ones; none asked for: all but those of queues.
///
/// # Errors
/// NOT_READY: this broker does not have the version within 5 s.
pub(crate) async fn get(node: &Node, topics: &[TopicRef], min_version: u64) -> Result<Metadata, RequestError> {
    let image = node.metadata.wait_for_version(min_version, VERSION_TIMEOUT).await?;
    let registry = node.registry();
    let brokers = image
        .brokers()
        .map(|broker| (broker.clone(), registry.is_alive(broker.id)));
    let topics = wanted(&image, topics).into_iter().map(|topic| TopicMetadata {
        leaders: leaders_of(node, &topic),
        topic,
    });
    Ok(Metadata {
        cluster_id: registry.identity().cluster_id.clone(),
        version: image.version(),
        controller: node.replicas.leader_of(GroupId::METADATA).map(|(broker, _)| broker),
        brokers: brokers.collect(),
        topics: topics.collect(),
    })
}

fn wanted(image: &Image, asked: &[TopicRef]) -> Vec<Arc<Topic>> {
    if asked.is_empty() {
        let is_users = |topic: &&Arc<Topic>| topic.kind == TopicKind::Log;
        return image.topics_by_name().filter(is_users).cloned().collect();
    }
    let found = asked.iter().filter_map(|asked| match asked {
        TopicRef::Id(id) => image.topic(*id),
        TopicRef::Name(name) => image.topic_named(name),
    });
    let mut topics: Vec<Arc<Topic>> = found.filter(|topic| topic.kind.is_of_records()).cloned().collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics.dedup_by(|a, b| a.id == b.id);
    topics
}

fn leaders_of(node: &Node, topic: &Topic) -> Vec<Option<(BrokerId, LeaderEpoch)>> {
    let leader = |group| {
        let leader = node.replicas.leader_of(group);
        leader.map(|(broker, term)| (broker, LeaderEpoch::from_term(term)))
    };
    topic
        .partitions
        .iter()
        .map(|partition| leader(partition.group))
        .collect()
}

/// Whether this broker knows a leader for every partition of a topic. True of one that it does not have.
///
/// # Errors
/// NOT_READY: this broker does not have the version within 5 s.
pub(super) async fn knows_leaders(node: &Node, asked: &KnowsLeaders) -> Result<bool, RequestError> {
    let image = node
        .metadata
        .wait_for_version(asked.min_version, VERSION_TIMEOUT)
        .await?;
    Ok(image.topic(asked.topic).is_none_or(|topic| all_led(node, topic)))
}

/// Returns when this broker's metadata have a version: the brokers that it hears of.
///
/// # Errors
/// NOT_READY: they do not have it within 5 s.
pub(super) async fn knows_version(node: &Node, asked: &KnowsVersion) -> Result<Vec<BrokerId>, RequestError> {
    let known = node.metadata.wait_for_version(asked.min_version, VERSION_TIMEOUT);
    let image = known.await?;
    let brokers = image.brokers().map(|broker| broker.id);
    Ok(brokers.filter(|broker| node.registry().is_alive(*broker)).collect())
}

fn all_led(node: &Node, topic: &Topic) -> bool {
    let mut partitions = topic.partitions.iter();
    partitions.all(|partition| node.replicas.leader_of(partition.group).is_some())
}
