//! A log of commands and the image that it folds into.

use std::collections::BTreeMap;

use jangada_controller::{BrokerRegistration, Command, DirectoryId, Image, QueueStart, Rejection, Reply, SeedBroker};
use jangada_types::{BrokerId, GroupId, Incarnation, QueueId, ReplicaId, TopicId};

/// An image with the index of its log.
pub struct Log {
    pub image: Image,
    pub index: u64,
}

impl Log {
    pub fn empty() -> Self {
        Self {
            image: Image::new(),
            index: 0,
        }
    }

    /// Brokers 1 to `brokers`, broker `i` with directory `i`.
    pub fn formed(brokers: u32) -> Self {
        Self::formed_at(brokers, 1)
    }

    /// Like [`Self::formed`], with brokers that understand this feature level.
    pub fn formed_at(brokers: u32, feature_level: u32) -> Self {
        let mut log = Self::empty();
        let cluster_id = "cluster".to_owned();
        let brokers = (1..=brokers).map(|id| seed_at(id, feature_level)).collect();
        log.accept(&Command::FormCluster { cluster_id, brokers });
        log
    }

    pub fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        self.image.apply(self.index, command)
    }

    pub fn accept(&mut self, command: &Command) -> Reply {
        self.apply(command).into_result().expect("the command is accepted")
    }

    /// Applies a command that must be rejected, and checks that nothing but the version changed.
    pub fn reject(&mut self, command: &Command) -> Rejection {
        let before = self.image.clone();
        let rejection = self.apply(command).into_result().expect_err("the command is rejected");
        assert!(
            same_but_version(&before, &self.image),
            "a rejected command changes nothing"
        );
        rejection
    }

    /// Creates a topic of one partition.
    pub fn create(&mut self, id: u128, name: &str, replicas: &[ReplicaId]) -> GroupId {
        match self.accept(&create(id, name, vec![replicas.to_vec()])) {
            Reply::TopicCreated { first_group, .. } => first_group,
            reply => panic!("not the reply to CreateTopic: {reply:?}"),
        }
    }

    pub fn replicas(&self, group: GroupId) -> Vec<ReplicaId> {
        self.image
            .partition_of_group(group)
            .expect("the group is live")
            .replicas
            .clone()
    }

    pub fn leaving(&self, group: GroupId) -> Vec<ReplicaId> {
        self.image
            .partition_of_group(group)
            .expect("the group is live")
            .leaving
            .clone()
    }

    /// The replicas that owe deletion, by group.
    pub fn owing(&self) -> Vec<(u64, Vec<ReplicaId>)> {
        self.image
            .tombstones()
            .map(|(group, tombstone)| (group.get(), tombstone.replicas.to_vec()))
            .collect()
    }
}

pub fn same_but_version(a: &Image, b: &Image) -> bool {
    let brokers = a.brokers().eq(b.brokers());
    let topics = a.topics().eq(b.topics()) && a.queues().eq(b.queues()) && a.exchange_table() == b.exchange_table();
    let tombstones = a.tombstones().eq(b.tombstones());
    let rest = |image: &Image| (image.cluster_id().map(str::to_owned), image.feature_level());
    let next = |image: &Image| {
        // The counters show in the ids that the next commands get.
        let mut image = image.clone();
        let version = image.version();
        image.apply(version + 1, &Command::AllocateProducerIds { count: 1 })
    };
    brokers && topics && tombstones && rest(a) == rest(b) && next(a) == next(b)
}

pub fn replica(broker: u32, incarnation: u32) -> ReplicaId {
    ReplicaId::new(BrokerId(broker), Incarnation(incarnation))
}

/// The first incarnations of these brokers.
pub fn firsts(brokers: &[u32]) -> Vec<ReplicaId> {
    brokers.iter().map(|broker| replica(*broker, 1)).collect()
}

pub fn directory(number: u8) -> DirectoryId {
    DirectoryId::new([number; 16])
}

pub fn seed(id: u32) -> SeedBroker {
    seed_at(id, 1)
}

pub fn seed_at(id: u32, feature_level: u32) -> SeedBroker {
    let registration = registration(id, 0, id.try_into().expect("a small id"));
    SeedBroker::from(BrokerRegistration {
        feature_level,
        ..registration
    })
}

pub fn registration(id: u32, incarnation: u32, directory_number: u8) -> BrokerRegistration {
    BrokerRegistration {
        id: BrokerId(id),
        incarnation: Incarnation(incarnation),
        directory: directory(directory_number),
        address: format!("host-{id}:9400"),
        internal_address: format!("host-{id}:9440"),
        rack: String::new(),
        feature_level: 1,
    }
}

pub fn register(id: u32, incarnation: u32, directory_number: u8) -> Command {
    Command::RegisterBroker(registration(id, incarnation, directory_number))
}

pub fn replace(id: u32) -> Command {
    Command::ReplaceBroker { broker: BrokerId(id) }
}

pub fn topic_id(number: u128) -> TopicId {
    TopicId::from_u128(number)
}

pub fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn create(id: u128, name: &str, assignments: Vec<Vec<ReplicaId>>) -> Command {
    Command::CreateTopic {
        topic_id: topic_id(id),
        name: name.to_owned(),
        config: BTreeMap::new(),
        assignments,
    }
}

pub fn delete(id: u128) -> Command {
    Command::DeleteTopic { topic_id: topic_id(id) }
}

pub fn deleted(replica: ReplicaId, groups: &[u64]) -> Command {
    Command::ReplicaDeleted {
        replica,
        groups: groups.iter().copied().map(GroupId).collect(),
    }
}

pub fn set_replicas(group: GroupId, replicas: Vec<ReplicaId>) -> Command {
    Command::SetReplicas { group, replicas }
}

pub fn create_owned(id: u128, name: &str, config: &[(&str, &str)], assignments: Vec<Vec<ReplicaId>>) -> Command {
    Command::CreateOwnedQueue {
        queue_id: QueueId(id),
        name: name.to_owned(),
        config: settings(config),
        assignments,
    }
}

pub fn create_group(id: u128, name: &str, topic: u128, config: &[(&str, &str)]) -> Command {
    Command::CreateGroupQueue {
        queue_id: QueueId(id),
        name: name.to_owned(),
        topic_id: topic_id(topic),
        start: QueueStart::Earliest,
        config: settings(config),
    }
}

pub fn alter_queue(id: u128, set: &[(&str, &str)], unset: &[&str]) -> Command {
    Command::AlterQueue {
        queue_id: QueueId(id),
        set: settings(set),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
    }
}

pub fn delete_queue(id: u128) -> Command {
    Command::DeleteQueue { queue_id: QueueId(id) }
}
