//! The image of brokers, topics and leaders. Pure: answers of brokers are merged in, and the result is a new image.
//!
//! Brokers learn of elections at different times, so a leader is replaced only by one of a higher epoch: asking a broker that
//! lags behind never takes the client back. All that holds within one cluster: an answer of another one, made anew at the same
//! addresses, replaces everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jangada_proto::v1;
use jangada_types::{BrokerId, TopicId};

use crate::wire_error::LeaderHint;

/// A topic, as the newest metadata has it.
#[derive(Clone, Debug)]
pub struct TopicMetadata {
    /// The topic's name.
    pub name: Arc<str>,
    /// The topic's id; a topic that was deleted and created again under its name has another one.
    pub id: TopicId,
    /// The partitions by index, without gaps.
    pub partitions: Vec<PartitionMetadata>,
    /// The settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
}

/// A partition, as the newest metadata has it.
#[derive(Clone, Debug)]
pub struct PartitionMetadata {
    /// The partition's index in its topic.
    pub partition: u32,
    /// The broker that leads. `None`: no leader is known at this moment.
    pub leader: Option<BrokerId>,
    /// The leader epoch, which grows with each election; 0: none is known.
    pub leader_epoch: u32,
    /// Brokers that hold a replica, the preferred leader first.
    pub replicas: Arc<[BrokerId]>,
}

/// A broker, as the newest metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerMetadata {
    pub address: Arc<str>,
    pub alive: bool,
}

/// The leader of a partition, to which its requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaderLookup {
    Known {
        broker: BrokerId,
        address: Arc<str>,
        epoch: u32,
    },
    /// The partition has no known leader; an election may be going on.
    Unknown { epoch: u32 },
    /// There is no such topic id, or no such partition of it.
    Missing,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub cluster_id: String,
    /// The metadata version of the newest answer that was merged.
    pub version: u64,
    /// Number of answers that were merged: tells callers whether the image was refreshed since they looked.
    pub refreshes: u64,
    pub brokers: BTreeMap<BrokerId, BrokerMetadata>,
    topics: BTreeMap<Arc<str>, Arc<TopicMetadata>>,
    names: BTreeMap<TopicId, Arc<str>>,
    /// Names that the last refresh asked for: one that is not in `topics` then does not exist.
    asked: BTreeSet<Arc<str>>,
}

impl Image {
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicMetadata>> {
        self.topics.get(name)
    }

    /// Whether the last answer would have had the topic.
    pub fn was_asked_for(&self, name: &str) -> bool {
        self.asked.contains(name)
    }

    pub fn leader(&self, topic: TopicId, partition: u32) -> LeaderLookup {
        let found = self
            .names
            .get(&topic)
            .and_then(|name| self.topics.get(name))
            .and_then(|topic| topic.partitions.get(partition as usize));
        let Some(found) = found else {
            return LeaderLookup::Missing;
        };
        let epoch = found.leader_epoch;
        match found
            .leader
            .and_then(|broker| self.brokers.get(&broker).map(|b| (broker, b.address.clone())))
        {
            Some((broker, address)) => LeaderLookup::Known { broker, address, epoch },
            None => LeaderLookup::Unknown { epoch },
        }
    }

    /// Whether the broker that answers belongs to another cluster than this image.
    pub fn is_of_another_cluster(&self, answer: &v1::GetMetadataResponse) -> bool {
        !self.cluster_id.is_empty() && self.cluster_id != answer.cluster_id
    }

    /// The image with a broker's answer to a request for the topics in `asked`.
    #[must_use]
    pub fn merged(&self, answer: v1::GetMetadataResponse, asked: &BTreeSet<Arc<str>>) -> Self {
        if self.is_of_another_cluster(&answer) {
            let nothing = Self {
                refreshes: self.refreshes,
                ..Self::default()
            };
            return nothing.merged(answer, asked);
        }
        // An answer that lags behind says nothing about topics created or deleted since, and nothing new about brokers.
        let lags = answer.version < self.version;
        let mut image = self.clone();
        image.refreshes += 1;
        image.cluster_id = answer.cluster_id;
        if !lags {
            image.version = answer.version;
            image.asked = asked.clone();
            image.topics.retain(|name, _| !asked.contains(name));
            image.brokers.clear();
        }
        for broker in answer.brokers {
            let known = BrokerMetadata {
                address: broker.address.into(),
                alive: broker.alive,
            };
            if lags {
                image.brokers.entry(BrokerId(broker.broker_id)).or_insert(known);
            } else {
                image.brokers.insert(BrokerId(broker.broker_id), known);
            }
        }
        for topic in answer.topics {
            if let Some(topic) = self.merged_topic(topic, lags) {
                image.topics.insert(topic.name.clone(), topic);
            }
        }
        image.names = image
            .topics
            .values()
            .map(|topic| (topic.id, topic.name.clone()))
            .collect();
        image
    }

    fn merged_topic(&self, topic: v1::Topic, lags: bool) -> Option<Arc<TopicMetadata>> {
        let id = TopicId::from_slice(&topic.topic_id)?;
        let known = self.topics.get(topic.name.as_str());
        let same = known.filter(|known| known.id == id && known.partitions.len() == topic.partitions.len());
        if lags && same.is_none() {
            // The topic is either newer than the answer, or gone since.
            return known.cloned();
        }
        let name = known.map_or_else(|| Arc::from(topic.name.as_str()), |known| known.name.clone());
        let partitions = topic.partitions.into_iter().enumerate().map(|(index, partition)| {
            let before = same.map(|known| &known.partitions[index]);
            let told = PartitionMetadata {
                partition: partition.partition,
                leader: Some(BrokerId(partition.leader_id)).filter(|id| id.get() != 0),
                leader_epoch: partition.leader_epoch,
                replicas: partition.replicas.into_iter().map(BrokerId).collect(),
            };
            match before {
                Some(before) if before.leader_epoch > told.leader_epoch => PartitionMetadata {
                    replicas: told.replicas,
                    ..before.clone()
                },
                // Within one epoch a leader may only become known.
                Some(before) if before.leader_epoch == told.leader_epoch && told.leader.is_none() => {
                    PartitionMetadata {
                        replicas: told.replicas,
                        ..before.clone()
                    }
                }
                _ => told,
            }
        });
        let partitions = partitions.collect();
        Some(Arc::new(TopicMetadata {
            name,
            id,
            partitions,
            config: topic.config.into_iter().collect(),
        }))
    }

    /// The image with the leader that a broker named; `None` if that is not new.
    pub fn with_leader(&self, topic: TopicId, partition: u32, hint: &LeaderHint) -> Option<Self> {
        let name = self.names.get(&topic)?;
        let known = self.topics.get(name)?;
        let before = known.partitions.get(partition as usize)?;
        let epoch = hint.epoch.unwrap_or(before.leader_epoch);
        let address = hint.address.as_deref();
        let same_address = self
            .brokers
            .get(&hint.broker)
            .is_some_and(|b| address.is_none_or(|address| *b.address == *address));
        if epoch < before.leader_epoch
            || (before.leader == Some(hint.broker) && epoch == before.leader_epoch && same_address)
        {
            return None;
        }
        if !self.brokers.contains_key(&hint.broker) && address.is_none() {
            return None;
        }
        let mut image = self.clone();
        if let Some(address) = address {
            image.brokers.insert(
                hint.broker,
                BrokerMetadata {
                    address: address.into(),
                    alive: true,
                },
            );
        }
        let mut changed = TopicMetadata::clone(known);
        changed.partitions[partition as usize].leader = Some(hint.broker);
        changed.partitions[partition as usize].leader_epoch = epoch;
        image.topics.insert(name.clone(), Arc::new(changed));
        Some(image)
    }
}

impl TopicMetadata {
    /// The id as requests carry it.
    pub(crate) fn id_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.id.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(id: u32) -> v1::Broker {
        v1::Broker {
            broker_id: id,
            address: format!("b{id}:1"),
            rack: String::new(),
            alive: true,
        }
    }

    fn answer(version: u64, topics: &[(&str, u8, u32, u32)]) -> v1::GetMetadataResponse {
        let topics = topics.iter().map(|(name, id, leader, epoch)| v1::Topic {
            name: name.to_string(),
            topic_id: vec![*id; 16].into(),
            partitions: vec![v1::Partition {
                partition: 0,
                leader_id: *leader,
                leader_epoch: *epoch,
                replicas: vec![1, 2],
            }],
            config: Default::default(),
        });
        v1::GetMetadataResponse {
            cluster_id: "c".to_owned(),
            version,
            brokers: vec![broker(1), broker(2)],
            topics: topics.collect(),
            controller_id: 1,
        }
    }

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|n| Arc::from(*n)).collect()
    }

    fn leader(image: &Image, id: u8) -> (u32, u32) {
        match image.leader(TopicId([id; 16]), 0) {
            LeaderLookup::Known { broker, epoch, .. } => (broker.get(), epoch),
            LeaderLookup::Unknown { epoch } => (0, epoch),
            LeaderLookup::Missing => panic!("missing"),
        }
    }

    #[test]
    fn a_lagging_broker_does_not_take_a_leader_back() {
        let image = Image::default().merged(answer(5, &[("t", 7, 2, 4)]), &names(&["t"]));
        let image = image.merged(answer(5, &[("t", 7, 1, 3)]), &names(&["t"]));
        assert_eq!(leader(&image, 7), (2, 4));
        let image = image.merged(answer(5, &[("t", 7, 0, 4)]), &names(&["t"]));
        assert_eq!(leader(&image, 7), (2, 4));
        let image = image.merged(answer(5, &[("t", 7, 0, 5)]), &names(&["t"]));
        assert_eq!(leader(&image, 7), (0, 5));
        let image = image.merged(answer(4, &[("t", 7, 1, 6)]), &names(&["t"]));
        assert_eq!(leader(&image, 7), (1, 6));
    }

    #[test]
    fn a_topic_is_gone_only_by_an_answer_that_is_not_older() {
        let image = Image::default().merged(answer(5, &[("t", 7, 2, 4)]), &names(&["t"]));
        let image = image.merged(answer(4, &[]), &names(&["t"]));
        assert!(image.topic("t").is_some());
        let image = image.merged(answer(6, &[]), &names(&["t"]));
        assert!(image.topic("t").is_none());
        assert!(image.was_asked_for("t"));
        assert_eq!(image.leader(TopicId([7; 16]), 0), LeaderLookup::Missing);
    }

    #[test]
    fn a_topic_created_again_is_another() {
        let image = Image::default().merged(answer(5, &[("t", 7, 2, 4)]), &names(&["t"]));
        let image = image.merged(answer(6, &[("t", 8, 1, 1)]), &names(&["t"]));
        assert_eq!(leader(&image, 8), (1, 1));
        assert_eq!(image.leader(TopicId([7; 16]), 0), LeaderLookup::Missing);
        let image = image.merged(answer(5, &[("t", 7, 2, 9)]), &names(&["t"]));
        assert_eq!(leader(&image, 8), (1, 1));
    }

    #[test]
    fn hints_move_leaders_forward_only() {
        let image = Image::default().merged(answer(5, &[("t", 7, 2, 4)]), &names(&["t"]));
        let topic = TopicId([7; 16]);
        let hint = |broker, address: Option<&str>, epoch| LeaderHint {
            broker: BrokerId(broker),
            address: address.map(str::to_owned),
            epoch,
        };
        assert!(image.with_leader(topic, 0, &hint(1, None, Some(3))).is_none(), "older");
        assert!(image.with_leader(topic, 0, &hint(2, None, Some(4))).is_none(), "known");
        assert!(
            image.with_leader(topic, 0, &hint(9, None, Some(5))).is_none(),
            "nobody knows where that is"
        );
        let moved = image
            .with_leader(topic, 0, &hint(3, Some("b3:1"), Some(5)))
            .expect("news");
        assert_eq!(leader(&moved, 7), (3, 5));
        let moved = image
            .with_leader(topic, 0, &hint(1, None, None))
            .expect("news without epoch");
        assert_eq!(leader(&moved, 7), (1, 4));
    }
}
