//! The image as bytes, and back. A restored image is checked against every invariant before it replaces anything: a
//! snapshot is the one way by which damage could get in without passing apply.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use jangada_types::planted::{self, Bug};
use jangada_types::{GroupId, PartitionIndex, ReplicaId};

use crate::error::RestoreError;
use crate::image::{COORDINATOR_TOPIC, FIRST_PRODUCER_ID, Image, Topic, TopicKind};
use crate::{rules, wire};

impl Image {
    /// Encodes the whole image. The same image gives the same bytes on every replica.
    pub fn snapshot(&self) -> Bytes {
        wire::image::encode(self)
    }

    /// The image that [`Image::snapshot`] was taken of.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let parts = wire::image::decode(bytes)?;
        let version = parts.version;
        let lengths = (
            parts.brokers.len(),
            parts.topics.len(),
            parts.tombstones.len(),
            parts.removed.len(),
            parts.queues.len(),
            parts.exchanges.len(),
        );
        let mut image = Self {
            cluster_id: parts.cluster_id.into(),
            version,
            feature_level: parts.feature_level,
            next_group_id: parts.next_group_id,
            next_producer_id: match planted::is(Bug::ProducerIdsTwice) {
                true => FIRST_PRODUCER_ID,
                false => parts.next_producer_id,
            },
            brokers: Arc::new(parts.brokers.into_iter().map(|broker| (broker.id, broker)).collect()),
            topics: Arc::new(
                parts
                    .topics
                    .into_iter()
                    .map(|topic| (topic.id, Arc::new(topic)))
                    .collect(),
            ),
            tombstones: Arc::new(parts.tombstones.into_iter().collect()),
            removed: Arc::new(parts.removed.into_iter().collect()),
            ..Self::new()
        };
        for queue in parts.queues {
            image.insert_queue(queue);
        }
        for exchange in parts.exchanges {
            image.exchanges.insert(exchange);
        }
        let inconsistent = |detail| RestoreError::Inconsistent { version, detail };
        let found = (
            image.brokers.len(),
            image.topics.len(),
            image.tombstones.len(),
            image.removed.len(),
            image.queues.len(),
            image.exchanges().len(),
        );
        if lengths != found {
            return Err(inconsistent(
                "a broker, a topic, a queue, an exchange or a tombstone is there twice".to_owned(),
            ));
        }
        if let Some(topic) = image.topics().find(|topic| topic.partitions.is_empty()) {
            return Err(inconsistent(format!("topic {:?} has no partitions", topic.name)));
        }
        let names = image
            .topics()
            .map(|topic| (Arc::clone(&topic.name), topic.id))
            .collect();
        let runs = image.topics().flat_map(|topic| topic.runs()).collect();
        image.topics_by_name = Arc::new(names);
        image.runs = Arc::new(runs);
        image.check().map_err(inconsistent)?;
        Ok(image)
    }

    /// Says which invariant is broken, and where.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, what: &dyn Fn() -> String| if holds { Ok(()) } else { Err(what()) };
        ensure(self.next_group_id >= 1, &|| {
            "the next group id is 0, which is the metadata group".to_owned()
        })?;
        ensure(self.next_producer_id >= FIRST_PRODUCER_ID, &|| {
            format!(
                "the next producer id is {}, below {FIRST_PRODUCER_ID}",
                self.next_producer_id
            )
        })?;
        ensure(
            self.cluster_id().is_some() == (self.feature_level > 0)
                && self.cluster_id().is_some() != self.brokers.is_empty(),
            &|| "a cluster id, a feature level and brokers must come together".to_owned(),
        )?;
        for broker in self.brokers() {
            let next = broker.last_incarnation.get().checked_add(1);
            let expected = broker.expected_incarnation.map(|expected| expected.get());
            ensure(
                broker.id.get() > 0
                    && broker.incarnation.get() > 0
                    && broker.last_incarnation >= broker.incarnation
                    && (expected.is_none() || expected == next),
                &|| {
                    format!(
                        "broker {} expects {expected:?} after {}",
                        broker.replica(),
                        broker.last_incarnation
                    )
                },
            )?;
        }
        for broker in self.brokers() {
            rules::endpoints(broker.id, &broker.endpoints).map_err(|rejection| rejection.message)?;
        }
        for (id, removed) in &*self.removed {
            ensure(
                id.get() > 0 && removed.incarnation.get() > 0 && self.broker(*id).is_none(),
                &|| {
                    format!(
                        "broker {id} was taken out as incarnation {}, and is there",
                        removed.incarnation
                    )
                },
            )?;
        }
        ensure(self.topics_by_name.len() == self.topics.len(), &|| {
            "two topics share a name".to_owned()
        })?;
        self.topics().try_for_each(|topic| self.check_topic(topic))?;
        self.check_queues()?;
        self.check_exchanges()?;
        for (group, tombstone) in self.tombstones() {
            let ascending = tombstone.replicas.is_sorted_by(|a, b| a < b);
            ensure(
                !tombstone.replicas.is_empty() && ascending && tombstone.replicas.iter().all(|r| self.is_current(*r)),
                &|| format!("the tombstone of group {group} has replicas {:?}", tombstone.replicas),
            )?;
            ensure(
                (1..self.next_group_id).contains(&group.get()) && self.partition_of_group(group).is_none(),
                &|| format!("group {group} has a tombstone and is live, or was never given out"),
            )?;
        }
        Ok(())
    }

    fn check_topic(&self, topic: &Arc<Topic>) -> Result<(), String> {
        if (topic.kind == TopicKind::Coordinator) != (&*topic.name == COORDINATOR_TOPIC) {
            return Err(format!("topic {:?} has kind {:?}", topic.name, topic.kind));
        }
        let place = |index: PartitionIndex| format!("partition {index} of topic {:?}", topic.name);
        let mut before = GroupId::METADATA;
        for (index, partition) in topic.indexed() {
            if partition.group <= before || partition.group.get() >= self.next_group_id {
                return Err(format!("{} has group {}, out of order", place(index), partition.group));
            }
            before = partition.group;
        }
        for (index, partition) in topic.indexed() {
            // This check also finds groups that lie in another topic's range.
            let found = self.partition_of_group(partition.group);
            if found.is_none_or(|found| !Arc::ptr_eq(found.topic, topic) || found.index != index) {
                return Err(format!(
                    "{} has group {}, which another partition has too",
                    place(index),
                    partition.group
                ));
            }
            let all: Vec<ReplicaId> = partition.replicas.iter().chain(&partition.leaving).copied().collect();
            // A replica that was renewed and the one before it are on the same broker.
            let brokers: BTreeSet<_> = partition.replicas.iter().map(|replica| replica.broker).collect();
            let distinct: BTreeSet<_> = all.iter().collect();
            if partition.replicas.is_empty()
                || brokers.len() != partition.replicas.len()
                || distinct.len() != all.len()
                || !partition.leaving.is_sorted()
                || !all.iter().all(|replica| self.is_current(*replica))
            {
                return Err(format!(
                    "{} has replicas {:?} and leaving {:?}",
                    place(index),
                    partition.replicas,
                    partition.leaving
                ));
            }
        }
        Ok(())
    }
}
