//! Sets of partitions: those that a member should own, owns, or gives up.

use std::fmt;

use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{PartitionIndex, TopicId};

/// A partition of a topic, by the topic's id: a topic that was created again under its name has other partitions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The id of the topic.
    pub topic: TopicId,
    /// The partition's index in the topic.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// A partition from its topic's id and its index.
    pub const fn new(topic: TopicId, partition: u32) -> Self {
        Self {
            topic,
            partition: PartitionIndex(partition),
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of partitions, ascending by topic and partition. It takes no more memory than its elements: there are
/// several per member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSet(Box<[TopicPartition]>);

impl PartitionSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of partitions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the partition is in the set.
    pub fn contains(&self, partition: TopicPartition) -> bool {
        self.0.binary_search(&partition).is_ok()
    }

    /// The partitions, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TopicPartition> + '_ {
        self.0.iter().copied()
    }

    /// The partitions of each topic, ascending.
    pub fn by_topic(&self) -> impl Iterator<Item = (TopicId, &[TopicPartition])> {
        self.0
            .chunk_by(|a, b| a.topic == b.topic)
            .map(|run| (run[0].topic, run))
    }

    /// The partitions that are in either set.
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// The partitions that are in this set and not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        self.iter().filter(|partition| !other.contains(*partition)).collect()
    }

    /// The partitions that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        self.iter().filter(|partition| other.contains(*partition)).collect()
    }

    /// Whether the other set has all of these partitions.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|partition| other.contains(partition))
    }

    /// Whether the other set has none of these partitions.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        !self.iter().any(|partition| other.contains(partition))
    }

    /// A set of partitions that must be ascending and distinct already; none if they are not.
    pub(crate) fn from_sorted(partitions: Vec<TopicPartition>) -> Option<Self> {
        partitions.is_sorted_by(|a, b| a < b).then(|| Self(partitions.into()))
    }
}

impl FromIterator<TopicPartition> for PartitionSet {
    fn from_iter<I: IntoIterator<Item = TopicPartition>>(partitions: I) -> Self {
        let mut partitions: Vec<_> = partitions.into_iter().collect();
        partitions.sort_unstable();
        partitions.dedup();
        Self(partitions.into())
    }
}

impl Sample for TopicPartition {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            topic: Sample::sample(seeds),
            partition: Sample::sample(seeds),
        }
    }
}

impl Sample for PartitionSet {
    fn sample(seeds: &mut Seeds) -> Self {
        Vec::sample(seeds).into_iter().collect()
    }
}
