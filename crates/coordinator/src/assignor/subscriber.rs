//! What assignors know of a member.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::TopicId;

use crate::partitions::PartitionSet;

/// A member, as an assignor sees it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The member's id.
    pub id: Arc<str>,
    /// The topics that the member wants. Those that are not among the group's topics are ignored.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// The member's target until now.
    pub current: PartitionSet,
}
