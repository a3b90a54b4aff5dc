//! Checks before a command is proposed, against the image that the leader of group 0 has now: they keep commands that
//! would be rejected out of the log, and know more than apply does, such as which brokers are alive. Apply decides.
//! Where nothing is left to choose, the result is the command to propose.

pub mod exchanges;

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_routing::Exchange;
use jangada_types::{BrokerId, GroupId, ProducerEpoch, ProducerId, QueueId, Reason, Rejection, ReplicaId, TopicId};

use crate::command::{Command, RENEWAL_FEATURE_LEVEL};
use crate::endpoints::Endpoints;
use crate::image::{Image, Topic, TopicKind};
use crate::placement::{BrokerView, PlacementError, place};
use crate::queues::{Queue, QueueKind, QueueStart};
use crate::{exchange_rules, queue_rules, rules};

/// A topic that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct NewTopic<'a> {
    /// The topic's name.
    pub name: &'a str,
    /// Number of partitions.
    pub partitions: u32,
    /// Number of replicas of each partition.
    pub replicas: u32,
    /// The settings that differ from the defaults.
    pub config: &'a BTreeMap<String, String>,
    /// Accept the topic that exists instead of an error.
    pub if_not_exists: bool,
}

/// The action for a wanted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateTopic {
    /// Do nothing: the topic exists, and that was allowed.
    Exists(Arc<Topic>),
    /// Choose a topic id and a placement, and propose the topic.
    Create,
}

/// Judges a wanted topic.
pub fn validate_create_topic(image: &Image, wanted: &NewTopic<'_>) -> Result<CreateTopic, Rejection> {
    rules::topic_name(wanted.name)?;
    let is_users = |topic: &&Arc<Topic>| wanted.if_not_exists && topic.kind != TopicKind::Queue;
    if let Some(topic) = image.topic_named(wanted.name).filter(is_users) {
        return Ok(CreateTopic::Exists(Arc::clone(topic)));
    }
    rules::topic_name_is_free(image, wanted.name)?;
    validate_counts(image, wanted.name, wanted.partitions, wanted.replicas)?;
    rules::config(wanted.name, wanted.config)?;
    Ok(CreateTopic::Create)
}

fn validate_counts(image: &Image, name: &str, partitions: u32, replicas: u32) -> Result<(), Rejection> {
    rules::partition_count(name, usize::try_from(partitions).unwrap_or(usize::MAX))?;
    let brokers = image.brokers().len();
    if replicas == 0 || usize::try_from(replicas).unwrap_or(usize::MAX) > brokers {
        return Err(Rejection::new(
            Reason::InvalidReplicas,
            format!(
                "topic {name:?} was asked for with {replicas} replicas: ask for 1 to {brokers}, the number of brokers"
            ),
        )
        .with("limit", brokers)
        .with("actual", replicas));
    }
    Ok(())
}

/// Places a topic that was judged to be created. `topic_id` and `seed` are random; `brokers` are those that can take
/// replicas now.
pub fn place_topic(
    wanted: &NewTopic<'_>,
    brokers: &[BrokerView],
    topic_id: TopicId,
    seed: u64,
) -> Result<Command, Rejection> {
    let assignments = placed(wanted.name, brokers, wanted.partitions, wanted.replicas, seed)?;
    Ok(Command::CreateTopic {
        topic_id,
        name: wanted.name.to_owned(),
        config: wanted.config.clone(),
        assignments,
    })
}

/// Judges the growth of a topic to `total` partitions. `None`: the topic has as many already.
pub fn validate_add_partitions<'a>(image: &'a Image, name: &str, total: u32) -> Result<Option<&'a Topic>, Rejection> {
    let topic = rules::topic_by_name(image, name)?;
    let wanted = usize::try_from(total).unwrap_or(usize::MAX);
    let existing = topic.partitions.len();
    if wanted == existing {
        return Ok(None);
    }
    rules::partition_count(name, wanted)?;
    rules::may_grow(topic)?;
    if wanted < existing {
        return Err(Rejection::new(
            Reason::InvalidPartitions,
            format!(
                "topic {name:?} has {existing} partitions and was asked to have {wanted}: partitions can't be taken away; \
                 create another topic"
            ),
        )
        .with("limit", existing)
        .with("actual", wanted));
    }
    Ok(Some(topic))
}

/// Places the partitions that a topic gets to have `total`, each with as many replicas as its first one. `brokers` are
/// those that can take replicas now, `seed` is random.
pub fn place_partitions(topic: &Topic, total: u32, brokers: &[BrokerView], seed: u64) -> Result<Command, Rejection> {
    let existing = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    let replicas = u32::try_from(topic.partitions[0].replicas.len()).unwrap_or(u32::MAX);
    let assignments = placed(&topic.name, brokers, total.saturating_sub(existing), replicas, seed)?;
    Ok(Command::AddPartitions {
        topic_id: topic.id,
        existing,
        assignments,
    })
}

/// Judges the placement in a command: no broker may come to have more than `max` replicas. `brokers` are those that the
/// placement was chosen among.
pub fn validate_replicas_per_broker(command: &Command, brokers: &[BrokerView], max: u32) -> Result<(), Rejection> {
    let (Command::CreateTopic { assignments, .. }
    | Command::CreateOwnedQueue { assignments, .. }
    | Command::CreateLoggedExchange { assignments, .. }
    | Command::AddPartitions { assignments, .. }) = command
    else {
        return Ok(());
    };
    let mut wanted: BTreeMap<ReplicaId, u32> = BTreeMap::new();
    for replica in assignments.iter().flatten() {
        *wanted.entry(*replica).or_default() += 1;
    }
    let has = |replica: ReplicaId| {
        brokers
            .iter()
            .find(|view| view.replica == replica)
            .map_or(0, |view| view.replicas)
    };
    let Some((replica, more)) = wanted
        .into_iter()
        .find(|(replica, more)| has(*replica).saturating_add(*more) > max)
    else {
        return Ok(());
    };
    let (broker, has) = (replica.broker, has(replica));
    Err(Rejection::new(
        Reason::TooManyReplicas,
        format!(
            "broker {broker} has {has} replicas and would get {more} more, above the bound of {max} \
             (cluster.replicas_per_broker_max): ask for fewer partitions or replicas, add brokers, or delete topics"
        ),
    )
    .with("broker", broker)
    .with("limit", max)
    .with("actual", has.saturating_add(more)))
}

fn placed(
    name: &str,
    brokers: &[BrokerView],
    partitions: u32,
    replicas: u32,
    seed: u64,
) -> Result<Vec<Vec<ReplicaId>>, Rejection> {
    place(brokers, partitions, replicas, seed).map_err(|error| {
        let reason = match error {
            PlacementError::TooFewBrokers { .. } | PlacementError::NoReplicas => Reason::InvalidReplicas,
            PlacementError::DuplicateBroker(_) => Reason::Internal,
        };
        Rejection::new(reason, format!("topic {name:?} can't be placed: {error}"))
    })
}

/// Judges an alteration of a topic's settings.
pub fn validate_alter_topic(
    image: &Image,
    name: &str,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<Command, Rejection> {
    let topic = rules::topic_by_name(image, name)?;
    if set.is_empty() && unset.is_empty() {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            format!("topic {name:?}: nothing to change; name at least one setting"),
        ));
    }
    rules::is_users(topic)?;
    rules::merged_config(image, topic, set, unset)?;
    Ok(Command::AlterTopic {
        topic_id: topic.id,
        set: set.clone(),
        unset: unset.to_vec(),
    })
}

/// Judges the deletion of a topic.
pub fn validate_delete_topic(image: &Image, name: &str) -> Result<Command, Rejection> {
    let topic = rules::topic_by_name(image, name)?;
    rules::may_delete(image, topic)?;
    Ok(Command::DeleteTopic { topic_id: topic.id })
}

/// A queue that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct NewQueue<'a> {
    /// The queue's name.
    pub name: &'a str,
    /// Where its messages are.
    pub source: QueueSource<'a>,
    /// The settings that differ from the defaults.
    pub config: &'a BTreeMap<String, String>,
    /// Accept the queue that exists instead of an error, if its messages are there too.
    pub if_not_exists: bool,
}

/// Where the messages of a wanted queue are.
#[derive(Clone, Copy, Debug)]
pub enum QueueSource<'a> {
    /// In a topic of its own, with so many partitions and replicas of each.
    Own {
        /// Number of partitions.
        partitions: u32,
        /// Number of replicas of each partition.
        replicas: u32,
    },
    /// In an ordinary topic.
    Topic {
        /// The topic whose records are to be its messages.
        topic: &'a Topic,
        /// Where the queue begins in it.
        start: QueueStart,
    },
    /// In the log of an exchange, from its end on.
    Exchange(&'a Exchange),
}

/// The action for a wanted queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateQueue {
    /// Do nothing: the queue exists, and that was allowed.
    Exists(Arc<Queue>),
    /// Choose a queue id, and a placement if it has a topic of its own, and propose the queue.
    Create,
}

/// Judges a wanted queue.
pub fn validate_create_queue(image: &Image, wanted: &NewQueue<'_>) -> Result<CreateQueue, Rejection> {
    queue_rules::queue_name(wanted.name)?;
    if let Some(queue) = image.queue_by_name(wanted.name).filter(|_| wanted.if_not_exists) {
        validate_same_source(image, queue, wanted)?;
        return Ok(CreateQueue::Exists(Arc::clone(queue)));
    }
    queue_rules::name_is_free(image, wanted.name)?;
    queue_rules::has_room(image)?;
    match wanted.source {
        QueueSource::Own { partitions, replicas } => {
            validate_counts(image, wanted.name, partitions, replicas)?;
            queue_rules::config(image, wanted.name, wanted.name, QueueKind::Owned.scope(), wanted.config)?;
        }
        QueueSource::Topic { topic, start } => {
            queue_rules::may_be_read(image, wanted.name, topic)?;
            let scope = QueueKind::Group { start, partitions: 0 }.scope();
            queue_rules::config(image, wanted.name, &topic.name, scope, wanted.config)?;
        }
        QueueSource::Exchange(exchange) => {
            let log = exchange_rules::may_be_viewed(image, exchange, wanted.name)?;
            queue_rules::config(image, wanted.name, &log.name, QueueKind::Bound.scope(), wanted.config)?;
        }
    }
    Ok(CreateQueue::Create)
}

fn validate_same_source(image: &Image, queue: &Queue, wanted: &NewQueue<'_>) -> Result<(), Rejection> {
    let is_same = match (queue.kind, wanted.source) {
        (QueueKind::Owned, QueueSource::Own { .. }) => true,
        (QueueKind::Group { .. }, QueueSource::Topic { topic, .. }) => topic.id == queue.topic_id,
        (QueueKind::Bound, QueueSource::Exchange(exchange)) => exchange.id.own_topic() == queue.topic_id,
        _ => false,
    };
    if is_same {
        return Ok(());
    }
    let topic = image.topic(queue.topic_id).map_or("", |topic| &topic.name);
    let has = match queue.kind {
        QueueKind::Owned => "has a log of its own".to_owned(),
        QueueKind::Group { .. } | QueueKind::Bound => format!("reads topic {topic:?}"),
    };
    Err(Rejection::new(
        Reason::WrongQueueKind,
        format!("queue {:?} exists already and {has}: choose another name", wanted.name),
    )
    .with("queue_id", queue.id))
}

/// Makes the command for a queue that was judged to be created, and places its topic if it has one of its own. `queue_id` and `seed`
/// are random; `brokers` are those that can take replicas now.
pub fn place_queue(
    wanted: &NewQueue<'_>,
    brokers: &[BrokerView],
    queue_id: QueueId,
    seed: u64,
) -> Result<Command, Rejection> {
    let (name, config) = (wanted.name.to_owned(), wanted.config.clone());
    Ok(match wanted.source {
        QueueSource::Own { partitions, replicas } => Command::CreateOwnedQueue {
            queue_id,
            name,
            config,
            assignments: placed(wanted.name, brokers, partitions, replicas, seed)?,
        },
        QueueSource::Topic { topic, start } => Command::CreateGroupQueue {
            queue_id,
            name,
            topic_id: topic.id,
            start,
            config,
        },
        QueueSource::Exchange(exchange) => Command::CreateBoundQueue {
            queue_id,
            name,
            exchange_id: exchange.id,
            config,
        },
    })
}

/// Judges an alteration of a queue's settings.
pub fn validate_alter_queue(
    image: &Image,
    queue: &Queue,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<Command, Rejection> {
    if set.is_empty() && unset.is_empty() {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            format!("queue {:?}: nothing to change; name at least one setting", queue.name),
        ));
    }
    queue_rules::merged_config(image, queue, set, unset)?;
    Ok(Command::AlterQueue {
        queue_id: queue.id,
        set: set.clone(),
        unset: unset.to_vec(),
    })
}

/// Judges the replacement of a broker; `is_alive` says whether it is heard of. Giving up the replicas of a broker that
/// runs would only lose data.
pub fn validate_replace_broker(image: &Image, broker: BrokerId, is_alive: bool) -> Result<Command, Rejection> {
    rules::broker(image, broker)?;
    if is_alive {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            format!(
                "broker {broker} is running: replacing it would give up its data; stop it first if its disk is lost"
            ),
        ));
    }
    Ok(Command::ReplaceBroker { broker })
}

/// Judges the removal of a broker. A running broker may be removed, too: it is told so, and it has no data to lose.
pub fn validate_remove_broker(image: &Image, broker: BrokerId) -> Result<Command, Rejection> {
    if !image.was_removed(broker) {
        rules::may_remove(image, broker)?;
    }
    Ok(Command::RemoveBroker { broker })
}

/// Judges the renewal of a damaged replica. The caller must make sure that a majority of all replicas has everything
/// without it, for the list of this image: the command says which list that was.
pub fn validate_renew_replica(image: &Image, group: GroupId, replica: ReplicaId) -> Result<Command, Rejection> {
    let partition = rules::live_group(image, group)?;
    rules::may_renew(image, &partition, replica)?;
    rules::all_have_level(image, RENEWAL_FEATURE_LEVEL)?;
    Ok(Command::RenewReplica {
        group,
        replica,
        checked: partition.replicas.to_vec(),
    })
}

/// Judges a producer that wants to continue under its id.
pub fn validate_bump_producer_epoch(
    image: &Image,
    producer_id: ProducerId,
    epoch: ProducerEpoch,
) -> Result<Command, Rejection> {
    rules::producer(image, producer_id, epoch)?;
    Ok(Command::BumpProducerEpoch { producer_id, epoch })
}

/// Judges the endpoints that a broker wants to register.
pub fn validate_endpoints(broker: BrokerId, endpoints: &Endpoints) -> Result<(), Rejection> {
    rules::endpoints(broker, endpoints)
}

/// Judges raising the cluster's feature level to `level`. `None`: the cluster is there already.
pub fn validate_raise_feature_level(image: &Image, level: u32) -> Result<Option<Command>, Rejection> {
    if image.feature_level() >= level {
        return Ok(None);
    }
    rules::all_have_level(image, level)?;
    Ok(Some(Command::RaiseFeatureLevel { level }))
}
