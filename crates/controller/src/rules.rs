//! The rules that both admission (advisory, before a command is proposed) and apply (which decides) judge by. One
//! text for each error: what, where, and what to do.

use std::collections::{BTreeMap, BTreeSet};

use jangada_types::limits::{ADDRESS_BYTES_MAX, PARTITIONS_PER_TOPIC_MAX};
use jangada_types::topic_config::key::KEY_INDEX;
use jangada_types::{
    BrokerId, ConfigError, GroupId, Incarnation, ProducerEpoch, ProducerId, Reason, Rejection, ReplicaId, TopicConfig,
    TopicId, validate_topic_name,
};

use crate::command::CommandKind;
use crate::endpoints::{Endpoints, INTERNAL_LISTENER, PUBLIC_LISTENER};
use crate::image::{Broker, FIRST_PRODUCER_ID, Image, PartitionRef, Topic, TopicKind};
use crate::queue_rules;
use crate::registration::BrokerRegistration;

/// Most listeners of a broker in addition to `public` and `internal`. Every answer about the metadata has those of all
/// brokers.
pub(crate) const ENDPOINTS_MAX: usize = 16;

/// Bytes of a listener's name, and of a protocol's name.
pub(crate) const WORD_BYTES_MAX: usize = 32;

/// Bytes of a rack's name. A generous bound, since the name is in every metadata answer.
pub(crate) const RACK_BYTES_MAX: usize = 255;

/// Bytes of the cluster's id. A UUID has 36.
pub(crate) const CLUSTER_ID_BYTES_MAX: usize = 64;

/// The least number of replicas of which one may be renewed: of fewer, the others are no majority without it.
pub(crate) const RENEWAL_REPLICAS_MIN: usize = 3;

pub(crate) fn topic_name(name: &str) -> Result<(), Rejection> {
    validate_topic_name(name).map_err(|error| Rejection::new(error.reason(), format!("topic name {name:?}: {error}")))
}

pub(crate) fn topic_name_is_free(image: &Image, name: &str) -> Result<(), Rejection> {
    match image.topic_named(name).filter(|topic| topic.kind != TopicKind::Queue) {
        None => queue_rules::name_is_free(image, name),
        Some(topic) => Err(Rejection::new(
            Reason::TopicExists,
            format!(
                "topic {name:?} exists already: choose another name, or ask to create it only if it does not exist"
            ),
        )
        .with("topic_id", topic.id)),
    }
}

pub(crate) fn topic_by_id(image: &Image, id: TopicId) -> Result<&Topic, Rejection> {
    image.topic(id).map(|topic| &**topic).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownTopic,
            format!("there is no topic with id {id}: it was deleted; list the topics to see what exists"),
        )
    })
}

pub(crate) fn topic_by_name<'a>(image: &'a Image, name: &str) -> Result<&'a Topic, Rejection> {
    image.topic_named(name).map(|topic| &**topic).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownTopic,
            format!("there is no topic {name:?}: list the topics to see what exists"),
        )
    })
}

/// Judges whether users may change or delete the topic.
pub(crate) fn is_users(topic: &Topic) -> Result<(), Rejection> {
    match topic.kind {
        TopicKind::Log => Ok(()),
        TopicKind::Coordinator => Err(Rejection::new(
            Reason::InvalidTopicName,
            format!(
                "topic {:?} is internal: it holds the cluster's consumer groups and can't be changed or deleted; delete groups instead",
                topic.name
            ),
        )),
        TopicKind::Exchange => Err(Rejection::new(
            Reason::InvalidTopicName,
            format!(
                "topic {:?} is internal: it is the log of an exchange, and can't be changed, deleted or read by itself; create a queue \
                 over the exchange, or delete the exchange",
                topic.name
            ),
        )),
        TopicKind::Queue => Err(Rejection::new(
            Reason::WrongQueueKind,
            format!(
                "{:?} is a queue, and its topic can't be changed or deleted by itself: change or delete the queue",
                topic.name
            ),
        )),
    }
}

/// Judges whether users may delete the topic.
pub(crate) fn may_delete(image: &Image, topic: &Topic) -> Result<(), Rejection> {
    is_users(topic)?;
    queue_rules::has_no_queues(image, topic)
}

/// Judges whether the topic may get more partitions. A key may then belong to another partition than before. So the
/// partition count is fixed where conditions on keys are judged, as each partition only knows its own keys.
pub(crate) fn may_grow(topic: &Topic) -> Result<(), Rejection> {
    is_users(topic)?;
    if topic.settings().is_ok_and(|settings| settings.key_index) {
        return Err(Rejection::new(
            Reason::InvalidPartitions,
            format!(
                "topic {:?} has {KEY_INDEX}: with more partitions its keys would move, and what was expected of them would \
                 not hold; create a topic with more partitions instead",
                topic.name
            ),
        ));
    }
    Ok(())
}

pub(crate) fn config(topic: &str, config: &BTreeMap<String, String>) -> Result<(), Rejection> {
    match TopicConfig::from_map(config) {
        Ok(_) => Ok(()),
        Err(error) => Err(Rejection::new(
            Reason::InvalidConfig,
            format!("settings of topic {topic:?}: {error}"),
        )),
    }
}

/// The settings of a topic after an alteration.
pub(crate) fn merged_config(
    image: &Image,
    topic: &Topic,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<BTreeMap<String, String>, Rejection> {
    let invalid = |what: String| {
        Rejection::new(
            Reason::InvalidConfig,
            format!("settings of topic {:?}: {what}", topic.name),
        )
    };
    if let Some(key) = unset.iter().find(|key| set.contains_key(*key)) {
        return Err(invalid(format!("{key:?} is to be both set and unset: choose one")));
    }
    if let Some(key) = unset.iter().find(|key| TopicConfig::key(key).is_none()) {
        return Err(invalid(ConfigError::UnknownKey { key: key.clone() }.to_string()));
    }
    let mut merged = topic.config.clone();
    merged.retain(|key, _| !unset.contains(key));
    merged.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    config(&topic.name, &merged)?;
    queue_rules::may_be_compacted(image, topic, &merged)?;
    Ok(merged)
}

pub(crate) fn partition_count(topic: &str, partitions: usize) -> Result<(), Rejection> {
    if (1..=PARTITIONS_PER_TOPIC_MAX as usize).contains(&partitions) {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::InvalidPartitions,
        format!("topic {topic:?} was asked for with {partitions} partitions: ask for 1 to {PARTITIONS_PER_TOPIC_MAX}"),
    )
    .with("limit", PARTITIONS_PER_TOPIC_MAX)
    .with("actual", partitions))
}

/// Judges a list of replicas: non-empty, each broker once, and only current incarnations. `place` says whose list it
/// is.
pub(crate) fn replica_list(image: &Image, place: &str, replicas: &[ReplicaId]) -> Result<(), Rejection> {
    if replicas.is_empty() {
        return Err(Rejection::new(
            Reason::InvalidReplicas,
            format!("{place} was given no replicas: give it at least one"),
        ));
    }
    let mut brokers = BTreeSet::new();
    for replica in replicas {
        let registered = broker(image, replica.broker)?;
        if !image.is_current(*replica) {
            return Err(Rejection::new(
                Reason::InvalidReplicas,
                format!(
                    "{place} was given replica {replica}, but that broker is {} now: place it anew",
                    registered.replica()
                ),
            )
            .with("expected", registered.replica())
            .with("actual", replica));
        }
        if !brokers.insert(replica.broker) {
            return Err(Rejection::new(
                Reason::InvalidReplicas,
                format!(
                    "{place} was given broker {} twice: replicas must be on distinct brokers",
                    replica.broker
                ),
            ));
        }
    }
    Ok(())
}

/// The incarnation that the broker, or a replica of it, gets next.
pub(crate) fn next_incarnation(broker: &Broker) -> Result<Incarnation, Rejection> {
    let next = broker.last_incarnation.get().checked_add(1);
    next.map(Incarnation).ok_or_else(|| {
        Rejection::new(
            Reason::InvalidRequest,
            format!(
                "broker {} has used up its incarnations: give the machine another broker id",
                broker.id
            ),
        )
    })
}

/// Judges whether a replica may be given up for a new one on the same broker. Only the leader knows whether the others
/// have everything; with fewer than three replicas they are no majority in any case.
pub(crate) fn may_renew(image: &Image, partition: &PartitionRef<'_>, replica: ReplicaId) -> Result<(), Rejection> {
    let place = format!("partition {} of topic {:?}", partition.index, partition.topic.name);
    let refuse = |what: String| Err(Rejection::new(Reason::InvalidReplicas, format!("{place}: {what}")));
    if !partition.replicas.contains(&replica) {
        return refuse(format!("replica {replica} is none of its replicas (any more)"));
    }
    if partition.is_leaving(replica.broker) {
        return refuse(format!(
            "broker {} is still deleting its former data of it: try again later",
            replica.broker
        ));
    }
    // The group counts on the leaving replica until its successor has its vote, which is later than this. Whether the
    // others are a majority without it the leader must say; but its answer covers one move, not two at once.
    if let Some(other) = partition.leaving.first() {
        return refuse(format!(
            "replica {other} is on its way out of it, and one is given up at a time: try again later"
        ));
    }
    if broker(image, replica.broker)?.is_awaiting_replacement() {
        return refuse(format!(
            "all replicas of broker {} are given up: start it with an empty data directory",
            replica.broker
        ));
    }
    let replicas = partition.replicas.len();
    if replicas < RENEWAL_REPLICAS_MIN {
        return refuse(format!(
            "it has {replicas} replicas, and replica {replica} may be the only one that has all records: without it \
             the others are no majority"
        ));
    }
    Ok(())
}

/// Judges whether the replicas are the ones that the proposer of a renewal checked. A proposal is retried for seconds,
/// and a replica that the check counted on may have been given up meanwhile.
pub(crate) fn is_as_checked(partition: &PartitionRef<'_>, checked: &[ReplicaId]) -> Result<(), Rejection> {
    if checked.is_empty() || checked == partition.replicas {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::InvalidReplicas,
        format!(
            "partition {} of topic {:?}: its replicas are not those any more that were seen in sync: look again, then try again",
            partition.index, partition.topic.name
        ),
    ))
}

pub(crate) fn broker(image: &Image, id: BrokerId) -> Result<&Broker, Rejection> {
    image.broker(id).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownBroker,
            format!("there is no broker {id}: `jangada cluster info` lists the brokers"),
        )
    })
}

/// Judges whether a broker may be taken out of the cluster: no list of replicas names it, and other brokers are left,
/// which all know the command.
pub(crate) fn may_remove(image: &Image, id: BrokerId) -> Result<(), Rejection> {
    let known = broker(image, id)?;
    let refuse = |what: String| Err(Rejection::new(Reason::InvalidRequest, what));
    let names = |replicas: &[ReplicaId]| replicas.iter().any(|replica| replica.broker == id);
    let has_replica = |partition: &PartitionRef<'_>| names(&partition.replicas) || names(&partition.leaving);
    if let Some(partition) = image.partitions().find(has_replica) {
        return refuse(format!(
            "broker {id} has a replica of partition {} of topic {:?}, or still deletes one: only a broker without replicas can be \
             taken out of the cluster",
            partition.index, partition.topic.name
        ));
    }
    if let Some((group, _)) = image.tombstones().find(|(_, tombstone)| names(&tombstone.replicas)) {
        return refuse(format!(
            "broker {id} may still have data of group {group}, whose topic was deleted: give it up with `jangada cluster \
             replace-broker {id}`, or start it so that it deletes the data"
        ));
    }
    let mut others = image.brokers().filter(|other| other.id != known.id).peekable();
    if others.peek().is_none() {
        return refuse(format!(
            "broker {id} is the only one of the cluster: there is nothing to take it out of"
        ));
    }
    // The broker that goes does not count: a stranger of an old version must not prevent its own removal.
    others.try_for_each(|other| has_level(other, CommandKind::RemoveBroker.since()))
}

pub(crate) fn live_group(image: &Image, group: GroupId) -> Result<PartitionRef<'_>, Rejection> {
    image.partition_of_group(group).ok_or_else(|| {
        Rejection::new(
            Reason::UnknownPartition,
            format!("no partition has group {group}: its topic was deleted"),
        )
    })
}

/// Judges a broker's description of itself, as a seed or when it registers.
pub(crate) fn registration(said: &BrokerRegistration) -> Result<(), Rejection> {
    let id = said.id;
    let refuse = |what: String| Err(Rejection::new(Reason::InvalidRequest, what));
    if id.get() == 0 {
        return refuse("a broker has id 0: ids begin at 1".to_owned());
    }
    if said.directory.is_zero() {
        return refuse(format!("broker {id} gave no id of its data directory"));
    }
    address(id, "address", &said.address)?;
    address(id, "internal address", &said.internal_address)?;
    if said.rack.len() > RACK_BYTES_MAX || said.rack.chars().any(char::is_control) {
        return refuse(format!(
            "broker {id} has rack {:?}: give at most {RACK_BYTES_MAX} bytes without control characters",
            said.rack
        ));
    }
    if said.feature_level == 0 {
        return refuse(format!("broker {id} has feature level 0: levels begin at 1"));
    }
    Ok(())
}

/// Judges the addresses of a broker in addition to `public` and `internal`.
pub(crate) fn endpoints(broker: BrokerId, endpoints: &Endpoints) -> Result<(), Rejection> {
    let refuse = |what: String| Err(Rejection::new(Reason::InvalidRequest, what));
    if endpoints.len() > ENDPOINTS_MAX {
        let count = endpoints.len();
        return refuse(format!(
            "broker {broker} has {count} listeners beside its two: at most {ENDPOINTS_MAX} are allowed"
        ));
    }
    for (listener, endpoint) in endpoints.iter() {
        if [PUBLIC_LISTENER, INTERNAL_LISTENER].contains(&&**listener) {
            return refuse(format!(
                "broker {broker} lists its listener {listener:?} among the others: its address has a field of its own"
            ));
        }
        for (what, word) in [("listener", listener), ("protocol", &endpoint.protocol)] {
            if !is_word(word) {
                return refuse(format!(
                    "broker {broker} has {what} {word:?}: give 1 to {WORD_BYTES_MAX} of a-z, 0-9, - and _, a letter first"
                ));
            }
        }
        address(broker, &format!("address of listener {listener:?}"), &endpoint.address)?;
    }
    Ok(())
}

fn is_word(word: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase();
    let is_other = |byte: u8| byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    word.len() <= WORD_BYTES_MAX
        && word.bytes().next().is_some_and(is_letter)
        && word.bytes().all(|byte| is_letter(byte) || is_other(byte))
}

fn address(broker: BrokerId, what: &str, address: &str) -> Result<(), Rejection> {
    if !address.is_empty() && address.len() <= ADDRESS_BYTES_MAX && address.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    let message =
        format!("broker {broker} has {what} {address:?}: give host:port, at most {ADDRESS_BYTES_MAX} bytes of ASCII");
    Err(Rejection::new(Reason::InvalidRequest, message))
}

pub(crate) fn cluster_id(id: &str) -> Result<(), Rejection> {
    if id.is_empty() || id.len() > CLUSTER_ID_BYTES_MAX || !id.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            format!("cluster id {id:?}: give 1 to {CLUSTER_ID_BYTES_MAX} visible characters of ASCII, such as a UUID"),
        ));
    }
    Ok(())
}

pub(crate) fn producer(image: &Image, id: ProducerId, epoch: ProducerEpoch) -> Result<(), Rejection> {
    if !image.is_allocated(id) {
        return Err(Rejection::new(
            Reason::UnknownProducer,
            format!("producer id {id} was never given out: ask for a new one"),
        ));
    }
    if epoch.get() < 0 {
        return Err(Rejection::new(
            Reason::InvalidRequest,
            format!("producer {id} has epoch {epoch}: epochs are 0 to {}", i16::MAX),
        ));
    }
    Ok(())
}

impl Image {
    /// How far an id lies above the allocated ones: 0 for an allocated one, `None` for an id that never is.
    pub fn ids_ahead(&self, id: ProducerId) -> Option<i64> {
        let above = id.get().checked_sub(self.next_producer_id)?;
        (id.get() >= FIRST_PRODUCER_ID).then(|| (above + 1).max(0))
    }

    /// Whether this id is in a block that was allocated.
    pub fn is_allocated(&self, id: ProducerId) -> bool {
        (FIRST_PRODUCER_ID..self.next_producer_id).contains(&id.get())
    }
}

/// Judges whether every broker understands a feature level; one that is down counts, as it may come back.
pub(crate) fn all_have_level(image: &Image, level: u32) -> Result<(), Rejection> {
    image.brokers().try_for_each(|broker| has_level(broker, level))
}

/// Judges whether the cluster itself has a feature level, so that no broker below it can be there.
pub(crate) fn cluster_has_level(image: &Image, level: u32) -> Result<(), Rejection> {
    if image.feature_level() >= level {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::NotReady,
        format!(
            "the cluster is at feature level {}, this needs {level}",
            image.feature_level()
        ),
    )
    .with("expected", level)
    .with("actual", image.feature_level()))
}

fn has_level(broker: &Broker, level: u32) -> Result<(), Rejection> {
    if broker.feature_level >= level {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::NotReady,
        format!(
            "broker {} has feature level {}, this needs {level}: upgrade it, then try again",
            broker.id, broker.feature_level
        ),
    )
    .with("expected", level)
    .with("actual", broker.feature_level))
}
