//! Creating, changing and deleting topics: commands to the metadata's leader, which any broker proposes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::admission::{self, CreateTopic, NewTopic};
use jangada_controller::{CommandKind, Image, Topic, TopicKind};
use jangada_log::PartitionCommandKind;
use jangada_types::feature_level::{BATCH_CHECKS_FEATURE_LEVEL, COMPACTION_FEATURE_LEVEL, GROUP_LAG_FEATURE_LEVEL};
use jangada_types::topic_config::key;
use jangada_types::{Reason, TopicId};

use super::leaders_known::await_leaders;
use super::resolve::{self, TopicRef};
use crate::cluster::placement::can_take_replicas;
use crate::error::RequestError;
use crate::node::Node;

/// The topic that is wanted.
pub(crate) struct TopicWanted {
    pub name: String,
    /// 0: as the settings say.
    pub partitions: u32,
    /// 0: as the settings say.
    pub replicas: u32,
    pub config: BTreeMap<String, String>,
    /// A topic of that name that is there already is the answer, and no error.
    pub if_not_exists: bool,
}

/// The topic that is there now.
pub(crate) struct TopicCreated {
    pub id: TopicId,
    /// False: it was there before.
    pub created: bool,
    /// The version of the metadata that has it.
    pub version: u64,
    pub partitions: u32,
    pub replicas: u32,
}

impl TopicCreated {
    fn existing(topic: &Topic, version: u64) -> Self {
        Self {
            id: topic.id,
            created: false,
            version,
            partitions: count(topic.partitions.len()),
            replicas: replicas_of(topic),
        }
    }
}

/// A number of things in memory.
pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// How many replicas each partition of a topic has.
pub(crate) fn replicas_of(topic: &Topic) -> u32 {
    let first = topic.partitions.first();
    first.map_or(0, |partition| count(partition.replicas.len()))
}

/// The topics of records, by name.
pub(crate) fn list(node: &Node) -> Vec<Arc<Topic>> {
    let image = node.metadata.image();
    let topics = image.topics_by_name().filter(|topic| topic.kind == TopicKind::Log);
    topics.cloned().collect()
}

/// Creates a topic, and returns when every broker knows who leads its partitions.
///
/// # Errors
/// Those of `CreateTopic` in the contract.
pub(crate) async fn create(node: &Arc<Node>, wanted: TopicWanted) -> Result<TopicCreated, RequestError> {
    let image = node.metadata.image();
    let (partitions, replicas) = counts_or_defaults(node, &image, wanted.partitions, wanted.replicas);
    let new = NewTopic {
        name: &wanted.name,
        partitions,
        replicas,
        config: &wanted.config,
        if_not_exists: wanted.if_not_exists,
    };
    let settings = wanted.config.iter().map(|(name, value)| (name, Some(&**value)));
    require_level_of(node, settings).await?;
    if let CreateTopic::Exists(topic) = admission::validate_create_topic(&image, &new)? {
        await_leaders(node, &topic.name, topic.id, image.version()).await?;
        return Ok(TopicCreated::existing(&topic, image.version()));
    }
    let id = TopicId::from_u128(node.env.random.new_id().as_u128());
    let brokers = can_take_replicas(node.registry(), &image, replicas as usize);
    let command = admission::place_topic(&new, &brokers, id, seed_of(id))?;
    admission::validate_replicas_per_broker(&command, &brokers, node.settings.cluster.replicas_per_broker_max)?;
    let version = match node.metadata.propose(&command).await {
        Ok((_, version)) => version,
        // Sent twice, and the first one was it.
        Err(error) if error.reason == Reason::TopicExists => {
            let image = node.metadata.image();
            match image.topic_named(&wanted.name) {
                Some(topic) if topic.id == id => image.version(),
                // Another client was faster: its topic may have no leaders yet.
                Some(topic) if wanted.if_not_exists => {
                    await_leaders(node, &topic.name, topic.id, image.version()).await?;
                    return Ok(TopicCreated::existing(topic, image.version()));
                }
                _ => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    await_leaders(node, &wanted.name, id, version).await?;
    Ok(TopicCreated {
        id,
        created: true,
        version,
        partitions,
        replicas,
    })
}

/// How many partitions and replicas: what the request says, or the settings. Brokers count that are down at the moment, too, for the
/// topic stays with what it gets.
pub(super) fn counts_or_defaults(node: &Node, image: &Image, partitions: u32, replicas: u32) -> (u32, u32) {
    let defaults = &node.settings.cluster;
    let brokers = count(image.brokers().len());
    let or = |asked: u32, default: u32| if asked == 0 { default } else { asked };
    (
        or(partitions, defaults.default_partitions),
        or(replicas, defaults.default_replicas.min(brokers)),
    )
}

/// Gives a topic more partitions, so many in all, and returns when every broker knows who leads them: the version of the metadata that
/// has them.
///
/// # Errors
/// Those of `CreatePartitions` in the contract.
pub(crate) async fn create_partitions(node: &Arc<Node>, topic: &TopicRef, total: u32) -> Result<u64, RequestError> {
    let image = node.metadata.image();
    let found = resolve::topic(&image, topic)?;
    let Some(topic) = admission::validate_add_partitions(&image, &found.name, total)? else {
        await_leaders(node, &found.name, found.id, image.version()).await?;
        return Ok(image.version());
    };
    node.metadata
        .require_feature_level(CommandKind::AddPartitions.since())
        .await?;
    let brokers = can_take_replicas(node.registry(), &image, topic.partitions[0].replicas.len());
    let seed = seed_of(TopicId::from_u128(node.env.random.new_id().as_u128()));
    let command = admission::place_partitions(topic, total, &brokers, seed)?;
    admission::validate_replicas_per_broker(&command, &brokers, node.settings.cluster.replicas_per_broker_max)?;
    let version = match node.metadata.propose(&command).await {
        Ok((_, version)) => version,
        // Another client was faster, or this very call the first time that it was sent.
        Err(error) if error.reason == Reason::InvalidPartitions => {
            let image = node.metadata.image();
            let has = image.topic(topic.id).map(|topic| topic.partitions.len());
            if has != Some(total as usize) {
                return Err(error);
            }
            image.version()
        }
        Err(error) => return Err(error),
    };
    await_leaders(node, &topic.name, topic.id, version).await?;
    Ok(version)
}

/// Changes a topic's settings: the version of the metadata that has them.
///
/// # Errors
/// Those of `AlterTopic` in the contract.
pub(crate) async fn alter(
    node: &Node,
    topic: &TopicRef,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<u64, RequestError> {
    let settings = set.iter().map(|(name, value)| (name, Some(&**value)));
    require_level_of(node, settings.chain(unset.iter().map(|name| (name, None)))).await?;
    let image = node.metadata.image();
    let topic = resolve::topic(&image, topic)?;
    let command = admission::validate_alter_topic(&image, &topic.name, set, unset)?;
    let (_, version) = node.metadata.propose(&command).await?;
    Ok(version)
}

/// Deletes a topic: the version of the metadata that has it no more.
///
/// # Errors
/// Those of `DeleteTopic` in the contract.
pub(crate) async fn delete(node: &Node, topic: &TopicRef) -> Result<u64, RequestError> {
    let image = node.metadata.image();
    let topic = resolve::topic(&image, topic)?;
    let command = admission::validate_delete_topic(&image, &topic.name)?;
    let (_, version) = node.metadata.propose(&command).await?;
    Ok(version)
}

/// A broker that does not know a setting would refuse it where the others take it.
async fn require_level_of<'a>(
    node: &Node,
    settings: impl Iterator<Item = (&'a String, Option<&'a str>)>,
) -> Result<(), RequestError> {
    match settings.filter_map(|(name, value)| level_of(name, value)).max() {
        Some(level) => node.metadata.require_feature_level(level).await,
        None => Ok(()),
    }
}

/// From which feature level on brokers know a topic's setting, with this value if it is set; `None`: they always did.
fn level_of(setting: &str, value: Option<&str>) -> Option<u32> {
    match setting {
        // It came with the appends that it is for.
        key::KEY_INDEX => Some(PartitionCommandKind::ConditionalAppend.since()),
        key::TIMESTAMP_BEFORE_MAX_MS | key::TIMESTAMP_AFTER_MAX_MS | key::COMPRESSED_VALIDATION => {
            Some(BATCH_CHECKS_FEATURE_LEVEL)
        }
        key::MAX_GROUP_LAG | key::MAX_GROUP_LAG_GROUPS => Some(GROUP_LAG_FEATURE_LEVEL),
        key::DIRTY_RATIO | key::COMPACTION_LAG_MIN_MS | key::COMPACTION_LAG_MAX_MS | key::DELETE_RETENTION_MS => {
            Some(COMPACTION_FEATURE_LEVEL)
        }
        // Earlier brokers know one policy, by name.
        key::CLEANUP_POLICY if value.is_some_and(|value| value != "delete") => Some(COMPACTION_FEATURE_LEVEL),
        _ => None,
    }
}

/// A random number from a random id.
pub(super) fn seed_of(id: TopicId) -> u64 {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("eight bytes"))
}
