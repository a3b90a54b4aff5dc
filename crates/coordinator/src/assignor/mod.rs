//! Divides the partitions of a group's topics among its members. Pure functions: the same members and topics give the
//! same target, in whatever order they come.
//!
//! Both assignors give each partition that has a subscriber to exactly one of its subscribers.

mod range;
mod subscriber;
mod uniform;

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_types::TopicId;

pub use subscriber::Subscriber;

use crate::partitions::PartitionSet;

/// A strategy for dividing partitions among members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// Balanced over all partitions, and sticky: a partition moves only if it must. With equal subscriptions the
    /// numbers differ by one at most and as few partitions move as can; with different ones no single move improves the
    /// balance.
    #[default]
    Uniform,
    /// Gives each subscriber a run of neighbouring partitions of each topic, so that equal keys of topics with equally
    /// many partitions meet in one member. Not sticky.
    Range,
}

impl Assignor {
    /// All assignors, the default first.
    pub const ALL: &[Self] = &[Self::Uniform, Self::Range];

    /// The assignor's name, as requests have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The assignor with this name.
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
