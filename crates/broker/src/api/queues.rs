//! Creating, changing and deleting queues: commands to the metadata's leader, which any broker proposes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::admission::{self, CreateQueue, NewQueue, QueueSource};
use jangada_controller::{
    Command, EXCHANGES_FEATURE_LEVEL, Image, QUEUES_FEATURE_LEVEL, Queue, QueueKind, QueueStart, Topic,
};
use jangada_types::{QueueId, Reason, TopicId};
use tokio::time::{Duration, Instant};

use super::leaders_known::await_leaders;
use super::queue_depth;
use super::resolve::{self, QueueName, TopicRef};
use super::topics::{self, replicas_of};
use crate::cluster::placement::can_take_replicas;
use crate::error::RequestError;
use crate::node::Node;

/// How long creating a view over an exchange's log waits for its slots.
const SLOTS_TIMEOUT: Duration = Duration::from_secs(30);

/// The queue that is wanted.
pub(crate) struct QueueWanted {
    pub name: String,
    pub messages: MessagesWanted,
    pub config: BTreeMap<String, String>,
    /// A queue of that name, with the same messages, that is there already is the answer, and no error.
    pub if_not_exists: bool,
}

/// Where the messages of a wanted queue are to be.
pub(crate) enum MessagesWanted {
    /// In a topic of its own.
    Own {
        /// 0: as the settings say.
        partitions: u32,
        /// 0: as the settings say.
        replicas: u32,
    },
    /// In an ordinary topic.
    Topic { topic: TopicRef, start: QueueStart },
    /// In the log of the exchange of this name.
    Exchange(String),
}

/// The queue that is there now.
pub(crate) struct QueueCreated {
    pub id: QueueId,
    /// False: it was there before.
    pub created: bool,
    /// The version of the metadata that has it.
    pub version: u64,
    pub partitions: u32,
    pub replicas: u32,
}

/// A queue with its topic.
pub(crate) struct QueueFound {
    pub queue: Arc<Queue>,
    pub topic: Arc<Topic>,
}

/// The queues, by name.
pub(crate) fn list(node: &Node) -> Vec<QueueFound> {
    let image = node.metadata.image();
    let found = image.queues_by_name().filter_map(|queue| found(&image, queue));
    found.collect()
}

/// One queue.
///
/// # Errors
/// UNKNOWN_QUEUE.
pub(crate) fn describe(node: &Node, name: &QueueName) -> Result<QueueFound, RequestError> {
    let image = node.metadata.image();
    let queue = resolve::queue(&image, name)?;
    found(&image, queue).ok_or_else(|| RequestError::new(Reason::Internal, "the queue's topic is not in the metadata"))
}

fn found(image: &Image, queue: &Arc<Queue>) -> Option<QueueFound> {
    Some(QueueFound {
        queue: queue.clone(),
        topic: image.topic(queue.topic_id)?.clone(),
    })
}

/// Creates a queue, and returns when every broker knows who leads its partitions.
///
/// # Errors
/// Those of `CreateQueue` in the contract.
pub(crate) async fn create(node: &Arc<Node>, wanted: QueueWanted) -> Result<QueueCreated, RequestError> {
    let image = node.metadata.image();
    let source = match &wanted.messages {
        MessagesWanted::Own { partitions, replicas } => {
            let (partitions, replicas) = topics::counts_or_defaults(node, &image, *partitions, *replicas);
            QueueSource::Own { partitions, replicas }
        }
        MessagesWanted::Topic { topic, start } => QueueSource::Topic {
            topic: resolve::topic(&image, topic)?,
            start: *start,
        },
        MessagesWanted::Exchange(name) => QueueSource::Exchange(resolve::exchange(&image, name)?),
    };
    let new = NewQueue {
        name: &wanted.name,
        source,
        config: &wanted.config,
        if_not_exists: wanted.if_not_exists,
    };
    if let CreateQueue::Exists(queue) = admission::validate_create_queue(&image, &new)? {
        return existing(node, &image, &queue).await;
    }
    let level = match source {
        QueueSource::Own { .. } | QueueSource::Topic { .. } => QUEUES_FEATURE_LEVEL,
        QueueSource::Exchange(_) => EXCHANGES_FEATURE_LEVEL,
    };
    node.metadata.require_feature_level(level).await?;
    let random = node.env.random.new_id().as_u128();
    let id = QueueId(random);
    let brokers = match source {
        QueueSource::Own { replicas, .. } => can_take_replicas(node.registry(), &image, replicas as usize),
        QueueSource::Topic { .. } | QueueSource::Exchange(_) => Vec::new(),
    };
    let seed = topics::seed_of(TopicId::from_u128(random));
    let command = admission::place_queue(&new, &brokers, id, seed)?;
    admission::validate_replicas_per_broker(&command, &brokers, node.settings.cluster.replicas_per_broker_max)?;
    match node.metadata.propose(&command).await {
        Ok(_) => {}
        // Sent twice, and the first one was it; or another client was faster.
        Err(error) if error.reason == Reason::QueueExists => {
            let image = node.metadata.image();
            let there = image.queue_by_name(&wanted.name);
            match there.filter(|queue| queue.id == id || wanted.if_not_exists) {
                Some(queue) if queue.id == id => {}
                Some(queue) => {
                    admission::validate_create_queue(&image, &new)?;
                    return existing(node, &image, queue).await;
                }
                None => return Err(error),
            }
        }
        Err(error) => return Err(error),
    }
    let image = node.metadata.image();
    let Some(queue) = image.queue(id) else {
        let message = format!(
            "queue {:?} was created, and deleted at once by another call",
            wanted.name
        );
        return Err(RequestError::new(Reason::UnknownQueue, message));
    };
    Ok(QueueCreated {
        created: true,
        ..existing(node, &image, queue).await?
    })
}

/// A queue that is there, once every broker knows who leads its partitions.
async fn existing(node: &Arc<Node>, image: &Image, queue: &Queue) -> Result<QueueCreated, RequestError> {
    let topic = image.topic(queue.topic_id);
    let topic = topic.ok_or_else(|| RequestError::new(Reason::Internal, "the queue's topic is not in the metadata"))?;
    let version = image.version();
    await_leaders(node, &topic.name, topic.id, version).await?;
    if queue.kind == QueueKind::Bound {
        await_slots(node, queue, topic).await?;
    }
    Ok(QueueCreated {
        id: queue.id,
        created: false,
        version,
        partitions: topics::count(topic.partitions.len()),
        replicas: replicas_of(topic),
    })
}

/// Returns when the queue has a slot in each partition of its exchange's log: from then on it gets what is published.
///
/// # Errors
/// NOT_READY, not definite: there is one without it after 30 s.
async fn await_slots(node: &Arc<Node>, queue: &Queue, topic: &Topic) -> Result<(), RequestError> {
    let deadline = Instant::now() + SLOTS_TIMEOUT;
    loop {
        // Each round asks again for up to a second.
        let depths = queue_depth::of_all_brokers(node, queue, topic).await;
        let Some((index, _)) = depths.iter().find(|(_, depth)| depth.is_none()) else {
            return Ok(());
        };
        if Instant::now() >= deadline || node.metadata.image().queue(queue.id).is_none() {
            let message = format!(
                "queue {:?} exists, but has no place in partition {index} of the exchange's log yet; see `jangada queue describe`",
                queue.name
            );
            return Err(RequestError::new(Reason::NotReady, message).unknown());
        }
    }
}

/// Changes a queue's settings: the version of the metadata that has them.
///
/// # Errors
/// Those of `AlterQueue` in the contract.
pub(crate) async fn alter(
    node: &Node,
    name: &QueueName,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<u64, RequestError> {
    let image = node.metadata.image();
    let queue = resolve::queue(&image, name)?;
    let command = admission::validate_alter_queue(&image, queue, set, unset)?;
    let (_, version) = node.metadata.propose(&command).await?;
    Ok(version)
}

/// Deletes a queue: the version of the metadata that has it no more.
///
/// # Errors
/// Those of `DeleteQueue` in the contract.
pub(crate) async fn delete(node: &Node, name: &QueueName) -> Result<u64, RequestError> {
    let image = node.metadata.image();
    let queue = resolve::queue(&image, name)?;
    let (_, version) = node
        .metadata
        .propose(&Command::DeleteQueue { queue_id: queue.id })
        .await?;
    Ok(version)
}
