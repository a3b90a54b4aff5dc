//! Who gets which partitions of a group's topics. Pure functions: the same members and topics give the same target,
//! in whatever order they come.
//!
//! Both give each partition that has a subscriber to exactly one of its subscribers.

mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::TopicId;

use crate::partitions::PartitionSet;

/// A way to share partitions out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// Balanced over all partitions, and sticky: what need not move stays. With equal subscriptions the numbers differ
    /// by one at most and as few partitions move as can; with different ones no single move improves the balance.
    #[default]
    Uniform,
    /// Of each topic a run of neighbouring partitions to each subscriber, so that equal keys of topics with equally
    /// many partitions meet in one member. Not sticky.
    Range,
}

impl Assignor {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Uniform, Self::Range];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|assignor| assignor.as_str() == name)
    }

    /// The target of each member.
    pub fn assign(self, members: &[Subscriber], topics: &BTreeMap<TopicId, u32>) -> BTreeMap<Arc<str>, PartitionSet> {
        let mut members: Vec<&Subscriber> = members.iter().collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        members.dedup_by(|a, b| a.id == b.id);
        let targets = match self {
            Self::Uniform => uniform::assign(&members, topics),
            Self::Range => range::assign(&members, topics),
        };
        let ids = members.iter().map(|member| Arc::clone(&member.id));
        ids.zip(targets.into_iter().map(PartitionSet::from_iter)).collect()
    }
}

/// A member, as an assignor sees it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The member's id.
    pub id: Arc<str>,
    /// The topics that it wants. Those that are not among the group's topics are ignored.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// Its target until now.
    pub current: PartitionSet,
}
