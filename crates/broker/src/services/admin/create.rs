//! Creating a topic or more partitions of one, and waiting until every broker knows who leads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::admission::{self, CreateTopic, NewTopic};
use jangada_controller::{Broker, CommandKind, Image, Partition, Topic};
use jangada_log::PartitionCommandKind;
use jangada_proto::v1::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicRequest, CreateTopicResponse, GetMetadataRequest,
};
use jangada_types::feature_level::BATCH_CHECKS_FEATURE_LEVEL;
use jangada_types::topic_config::key;
use jangada_types::{BrokerId, Reason, TopicId};
use tokio::time::{Instant, timeout_at};

use super::fields::topic_id;
use crate::api::resolve;
use crate::cluster::placement::can_take_replicas;
use crate::error::RequestError;
use crate::forward::{CALL_TIMEOUT, forward};
use crate::node::Node;
use crate::services::names;

/// How long creating a topic waits until all brokers know all leaders.
const CREATED_WITHIN: Duration = Duration::from_secs(30);
/// Between two questions to a broker that does not know all leaders yet: at first, and at most. The answer names every
/// partition of the topic.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(25);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(500);
/// Between two looks here, while leaders are elected.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A broker that does not know a setting would refuse it where the others take it.
pub(super) async fn need_level_of(node: &Node, settings: impl Iterator<Item = &String>) -> Result<(), RequestError> {
    match settings.filter_map(|name| level_of(name)).max() {
        Some(level) => node.metadata.require_feature_level(level).await,
        None => Ok(()),
    }
}

/// From which feature level on brokers know a topic's setting; `None`: they always did.
fn level_of(setting: &str) -> Option<u32> {
    match setting {
        // It came with the appends that it is for.
        key::KEY_INDEX => Some(PartitionCommandKind::ConditionalAppend.since()),
        key::TIMESTAMP_BEFORE_MAX_MS | key::TIMESTAMP_AFTER_MAX_MS | key::COMPRESSED_VALIDATION => {
            Some(BATCH_CHECKS_FEATURE_LEVEL)
        }
        _ => None,
    }
}

pub(super) async fn create_topic(
    node: &Arc<Node>,
    request: CreateTopicRequest,
) -> Result<CreateTopicResponse, RequestError> {
    let image = node.metadata.image();
    let (partitions, replicas) = counts_of(node, &image, &request);
    let config: BTreeMap<String, String> = request.config.into_iter().collect();
    let wanted = NewTopic {
        name: &request.name,
        partitions,
        replicas,
        config: &config,
        if_not_exists: request.if_not_exists,
    };
    need_level_of(node, config.keys()).await?;
    let existing = |topic: &Topic, version| CreateTopicResponse {
        topic_id: topic_id(topic),
        created: false,
        version,
        partitions: topic.partitions.len() as u32,
        replicas: topic.partitions[0].replicas.len() as u32,
    };
    if let CreateTopic::Exists(topic) = admission::validate_create_topic(&image, &wanted)? {
        await_leaders(node, &topic.name, topic.id, image.version()).await?;
        return Ok(existing(&topic, image.version()));
    }
    let id = TopicId::from_u128(node.seams.ids.new_id().as_u128());
    let brokers = can_take_replicas(node.registry(), &image, replicas as usize);
    let command = admission::place_topic(&wanted, &brokers, id, seed_of(id))?;
    admission::validate_replicas_per_broker(&command, &brokers, node.settings.cluster.replicas_per_broker_max)?;
    let version = match node.metadata.propose(&command).await {
        Ok((_, version)) => version,
        // Sent twice, and the first one was it.
        Err(error) if error.reason == Reason::TopicExists => {
            let image = node.metadata.image();
            match image.topic_named(&request.name) {
                Some(topic) if topic.id == id => image.version(),
                // Somebody was faster: their topic may have no leaders yet.
                Some(topic) if request.if_not_exists => {
                    await_leaders(node, &topic.name, topic.id, image.version()).await?;
                    return Ok(existing(topic, image.version()));
                }
                _ => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    await_leaders(node, &request.name, id, version).await?;
    Ok(CreateTopicResponse {
        topic_id: id.as_bytes().to_vec().into(),
        created: true,
        version,
        partitions,
        replicas,
    })
}

/// How many partitions and replicas: what the request says, or the settings. Brokers count that are down at the moment, too, for the
/// topic stays with what it gets.
fn counts_of(node: &Node, image: &Image, request: &CreateTopicRequest) -> (u32, u32) {
    let defaults = &node.settings.cluster;
    let brokers = u32::try_from(image.brokers().len()).unwrap_or(u32::MAX);
    let or = |asked: u32, default: u32| if asked == 0 { default } else { asked };
    (
        or(request.partitions, defaults.default_partitions),
        or(request.replicas, defaults.default_replicas.min(brokers)),
    )
}

pub(super) async fn create_partitions(
    node: &Arc<Node>,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, RequestError> {
    let CreatePartitionsRequest { name, total, topic_id } = request;
    let image = node.metadata.image();
    let found = resolve::topic(&image, &names::topic(&topic_id, name)?)?;
    let Some(topic) = admission::validate_add_partitions(&image, &found.name, total)? else {
        await_leaders(node, &found.name, found.id, image.version()).await?;
        return Ok(CreatePartitionsResponse {
            version: image.version(),
        });
    };
    node.metadata
        .require_feature_level(CommandKind::AddPartitions.since())
        .await?;
    let brokers = can_take_replicas(node.registry(), &image, topic.partitions[0].replicas.len());
    let seed = seed_of(TopicId::from_u128(node.seams.ids.new_id().as_u128()));
    let command = admission::place_partitions(topic, total, &brokers, seed)?;
    admission::validate_replicas_per_broker(&command, &brokers, node.settings.cluster.replicas_per_broker_max)?;
    let version = match node.metadata.propose(&command).await {
        Ok((_, version)) => version,
        // Somebody was faster, perhaps this very call the first time that it was sent.
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
    Ok(CreatePartitionsResponse { version })
}

/// A random number from a random id.
fn seed_of(id: TopicId) -> u64 {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("eight bytes"))
}

/// Returns when every live broker knows a leader for every partition of the topic, or the topic is gone.
async fn await_leaders(node: &Arc<Node>, name: &str, topic: TopicId, version: u64) -> Result<(), RequestError> {
    let deadline = Instant::now() + CREATED_WITHIN;
    let lacks = |broker: BrokerId| {
        RequestError::new(
            Reason::LeaderNotAvailable,
            format!(
                "topic {name:?} exists, but broker {broker} does not know all its leaders after {CREATED_WITHIN:?}; \
                 see `jangada cluster health`"
            ),
        )
        .unknown()
    };
    // Leaders announce themselves to all brokers at once: when this one knows them, the others do, or will in a moment.
    timeout_at(deadline, known_here(node, topic))
        .await
        .map_err(|_| lacks(node.broker()))?;
    let image = node.metadata.image();
    let others = image
        .brokers()
        .filter(|broker| broker.id != node.broker() && node.registry().is_alive(broker.id));
    let waits = others.map(|broker| async move {
        let known = timeout_at(deadline, known_by(node, broker, topic, version)).await;
        known.unwrap_or_else(|_| Err(lacks(broker.id)))
    });
    futures::future::try_join_all(waits).await.map(drop)
}

/// Returns when this broker knows them.
async fn known_here(node: &Node, topic: TopicId) {
    let mut image = node.metadata.watch();
    let mut leaders = node.registry().leaders().watch();
    // Each change of a leader wakes this: those that were seen to have one are looked at once more at the end.
    let mut led = 0;
    loop {
        leaders.borrow_and_update();
        let topic = image.borrow_and_update().topic(topic).cloned();
        let Some(topic) = topic else { return };
        let is_led = |partition: &Partition| node.replicas.leader_of(partition.group).is_some();
        led += topic
            .partitions
            .iter()
            .skip(led)
            .take_while(|partition| is_led(partition))
            .count();
        if led >= topic.partitions.len() {
            led = topic
                .partitions
                .iter()
                .take_while(|partition| is_led(partition))
                .count();
            if led == topic.partitions.len() {
                return;
            }
        }
        tokio::select! {
            changed = image.changed() => if changed.is_err() { return },
            changed = leaders.changed() => {
                if changed.is_err() { return }
                // A topic of one partition needs no burst to be awaited.
                if topic.partitions.len() > 1 {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
}

/// Returns when another broker knows them. It says so only when it is asked: from here there is nothing to watch.
async fn known_by(node: &Node, broker: &Broker, topic: TopicId, version: u64) -> Result<(), RequestError> {
    let mut pause = ASK_AGAIN_MIN;
    loop {
        let request = GetMetadataRequest {
            topics: Vec::new(),
            topic_ids: vec![topic.as_bytes().to_vec().into()],
            min_version: version,
        };
        let all_led = match forward(node.registry(), broker, None, request, CALL_TIMEOUT).await {
            Ok(metadata) => {
                let mut partitions = metadata.topics.iter().flat_map(|topic| &topic.partitions);
                partitions.all(|partition| partition.leader_id != 0)
            }
            // It died meanwhile: who is dead need not know.
            Err(_) => !node.registry().is_alive(broker.id),
        };
        if all_led {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
}
