//! The rules of queues that both admission and apply judge by, as [`rules`](crate::rules) has them for everything else.

use std::collections::{BTreeMap, BTreeSet};

use jangada_types::limits::{QUEUES_MAX, QUEUES_PER_TOPIC_MAX};
use jangada_types::queue_config::{QueueOrder, QueueScope, key};
use jangada_types::topic_config::key::CLEANUP_POLICY;
use jangada_types::{QueueConfig, QueueConfigError, QueueId, Reason, Rejection, TopicConfig, validate_topic_name};

use crate::image::{Image, Topic, TopicKind};
use crate::queues::{Queue, QueueKind};
use crate::rules;

pub(crate) fn queue_name(name: &str) -> Result<(), Rejection> {
    validate_topic_name(name)
        .map_err(|error| Rejection::new(Reason::InvalidQueueName, format!("queue name {name:?}: {error}")))
}

/// Judges whether neither a topic nor a queue has the name.
pub(crate) fn name_is_free(image: &Image, name: &str) -> Result<(), Rejection> {
    if let Some(queue) = image.queue_by_name(name) {
        return Err(Rejection::new(
            Reason::QueueExists,
            format!(
                "queue {name:?} exists already, and topics and queues share their names: choose another name, or ask to create it \
                 only if it does not exist"
            ),
        )
        .with("queue_id", queue.id));
    }
    match image.topic_named(name) {
        None => Ok(()),
        Some(topic) => Err(Rejection::new(
            Reason::TopicExists,
            format!(
                "topic {name:?} exists already, and topics and queues share their names: choose another name, or ask to create it \
                 only if it does not exist"
            ),
        )
        .with("topic_id", topic.id)),
    }
}

pub(crate) fn queue_by_id(image: &Image, id: QueueId) -> Result<&Queue, Rejection> {
    image.queue(id).map(|queue| &**queue).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownQueue,
            format!("there is no queue with id {id}: it was deleted; list the queues to see what exists"),
        )
    })
}

/// Judges the topic that a group queue is to read.
pub(crate) fn may_be_read(image: &Image, queue: &str, topic: &Topic) -> Result<(), Rejection> {
    if topic.kind == TopicKind::Queue {
        return Err(Rejection::new(
            Reason::WrongQueueKind,
            format!(
                "queue {queue:?} can't read {:?}, which is a queue itself: name a topic; consumers of one queue compete for its \
                 messages already",
                topic.name
            ),
        ));
    }
    rules::is_users(topic)?;
    if topic
        .settings()
        .is_ok_and(|settings| settings.cleanup_policy.compacts())
    {
        return Err(Rejection::new(
            Reason::InvalidConfig,
            format!(
                "queue {queue:?} can't read topic {:?}, which is compacted: messages would go before they are done; set its \
                 {CLEANUP_POLICY} to delete, or name another topic",
                topic.name
            ),
        ));
    }
    let queues = image.queues_of(topic.id).count();
    if queues >= QUEUES_PER_TOPIC_MAX {
        return Err(Rejection::new(
            Reason::TooManyQueues,
            format!(
                "topic {:?} is read by {queues} queues, as many as may be: delete one before queue {queue:?} is created",
                topic.name
            ),
        )
        .with("limit", QUEUES_PER_TOPIC_MAX)
        .with("actual", queues));
    }
    Ok(())
}

/// Judges whether the cluster may have one more queue.
pub(crate) fn has_room(image: &Image) -> Result<(), Rejection> {
    let queues = image.queues().len();
    if queues < QUEUES_MAX {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::TooManyQueues,
        format!("the cluster has {queues} queues, as many as may be: delete one first"),
    )
    .with("limit", QUEUES_MAX)
    .with("actual", queues))
}

/// Judges the settings of a queue that reads, or owns, the topic of this name.
pub(crate) fn config(
    image: &Image,
    queue: &str,
    topic: &str,
    scope: QueueScope,
    config: &BTreeMap<String, String>,
) -> Result<QueueConfig, Rejection> {
    let settings = QueueConfig::from_map(config, scope).map_err(|error| invalid(queue, &error.to_string()))?;
    if let Some(target) = &settings.dead_letter_topic {
        dead_letter_topic(image, queue, topic, target)?;
    }
    Ok(settings)
}

fn invalid(queue: &str, what: &str) -> Rejection {
    Rejection::new(Reason::InvalidConfig, format!("settings of queue {queue:?}: {what}"))
}

/// Judges where the dead letters of a queue on the topic `source` go: a topic that is there and takes records, from which no queue
/// leads back. Names are followed, not ids: a topic that is deleted and created again leads where it led before.
fn dead_letter_topic(image: &Image, queue: &str, source: &str, target: &str) -> Result<(), Rejection> {
    let refuse = |what: &str| Err(invalid(queue, &format!("{}={target}: {what}", key::DEAD_LETTER_TOPIC)));
    if target == source {
        return refuse("dead letters would come back to the queue itself");
    }
    match image.topic_named(target) {
        Some(_) => {}
        None if image.queue_by_name(target).is_some() => {
            return refuse(
                "that queue reads a topic and takes no messages itself: name its topic, or a queue with a log of its own",
            );
        }
        None => return refuse("there is no such topic or queue: create it first"),
    }
    let mut seen = BTreeSet::from([target.to_owned()]);
    let mut next = vec![target.to_owned()];
    while let Some(name) = next.pop() {
        let Some(topic) = image.topic_named(&name) else {
            continue;
        };
        for other in image.queues_of(topic.id) {
            let Some(onward) = other.config.get(key::DEAD_LETTER_TOPIC).filter(|name| !name.is_empty()) else {
                continue;
            };
            if onward == source {
                return refuse(&format!(
                    "dead letters would come back here, through queue {:?}: end one of the two",
                    other.name
                ));
            }
            if seen.insert(onward.clone()) {
                next.push(onward.clone());
            }
        }
    }
    Ok(())
}

/// The settings of a queue after an alteration: as given, and in effect.
pub(crate) fn merged_config(
    image: &Image,
    queue: &Queue,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<(BTreeMap<String, String>, QueueConfig), Rejection> {
    let name = &*queue.name;
    if let Some(key) = unset.iter().find(|key| set.contains_key(*key)) {
        return Err(invalid(
            name,
            &format!("{key:?} is to be both set and unset: choose one"),
        ));
    }
    if let Some(key) = unset.iter().find(|key| QueueConfig::key(key).is_none()) {
        return Err(invalid(
            name,
            &QueueConfigError::UnknownKey { key: key.clone() }.to_string(),
        ));
    }
    let mut merged = queue.config.clone();
    merged.retain(|key, _| !unset.contains(key));
    merged.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    let topic = rules::topic_by_id(image, queue.topic_id)?;
    let after = config(image, name, &topic.name, queue.kind.scope(), &merged)?;
    let before = queue.settings().map_err(|error| invalid(name, &error.to_string()))?;
    if before.order != after.order {
        let word = match before.order {
            QueueOrder::None => "none",
            QueueOrder::Key => "key",
        };
        return Err(invalid(
            name,
            &format!(
                "{} is {word} since the queue was created, and can't be changed: create another queue",
                key::ORDER
            ),
        ));
    }
    let (had, has) = (before.priorities, after.priorities);
    if has < had || (had == 1 && has > 1) {
        return Err(invalid(
            name,
            &format!(
                "{} is {had} and can't become {has}: a queue that has several can get more, and one that was created with 1 stays so; \
                 create another queue",
                key::PRIORITIES
            ),
        ));
    }
    Ok((merged, after))
}

/// Judges whether no queue reads the topic.
pub(crate) fn has_no_queues(image: &Image, topic: &Topic) -> Result<(), Rejection> {
    /// So many queues are named.
    const NAMED: usize = 5;
    let mut names: Vec<_> = image.queues_of(topic.id).map(|queue| &*queue.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED);
    let named = names[..names.len() - more].join(", ");
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Err(Rejection::new(
        Reason::TopicHasQueues,
        format!(
            "topic {:?} is read by queues, which would lose their messages: delete {named}{more} first",
            topic.name
        ),
    )
    .with("actual", names.len()))
}

/// Judges whether a topic may have these settings, given the queues that read it.
pub(crate) fn may_be_compacted(
    image: &Image,
    topic: &Topic,
    config: &BTreeMap<String, String>,
) -> Result<(), Rejection> {
    let compacts = TopicConfig::from_map(config).is_ok_and(|settings| settings.cleanup_policy.compacts());
    let Some(queue) = image.queues_of(topic.id).next().filter(|_| compacts) else {
        return Ok(());
    };
    Err(Rejection::new(
        Reason::InvalidConfig,
        format!(
            "topic {:?} is read by queues, {:?} and others perhaps, and can't be compacted: messages would go before they are done",
            topic.name, queue.name
        ),
    )
    .with("actual", image.queues_of(topic.id).count()))
}

impl Image {
    /// Says which invariant of queues is broken, and where.
    pub(crate) fn check_queues(&self) -> Result<(), String> {
        if self.queues_by_name.len() != self.queues.len() {
            return Err("two queues share a name".to_owned());
        }
        for queue in self.queues() {
            let name = &queue.name;
            let Some(topic) = self.topic(queue.topic_id) else {
                return Err(format!(
                    "queue {name:?} has topic {}, which is not there",
                    queue.topic_id
                ));
            };
            let fits = match queue.kind {
                QueueKind::Owned => {
                    topic.kind == TopicKind::Queue && topic.id == queue.id.own_topic() && topic.name == *name
                }
                QueueKind::Group { partitions, .. } => {
                    let has = usize::try_from(partitions).is_ok_and(|partitions| partitions <= topic.partitions.len());
                    topic.kind == TopicKind::Log && has && self.topic_named(name).is_none()
                }
                QueueKind::Bound => topic.kind == TopicKind::Exchange && self.topic_named(name).is_none(),
            };
            if !fits {
                return Err(format!(
                    "queue {name:?} is {:?} and does not fit its topic {:?}",
                    queue.kind, topic.name
                ));
            }
        }
        let is_without_queue =
            |topic: &Topic| topic.kind == TopicKind::Queue && self.queues_of(topic.id).next().is_none();
        match self.topics().find(|topic| is_without_queue(topic)) {
            Some(topic) => Err(format!("topic {:?} belongs to a queue that is not there", topic.name)),
            None => Ok(()),
        }
    }
}
