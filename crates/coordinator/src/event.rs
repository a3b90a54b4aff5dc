//! What people may ask about a group later. The host of a shard's leader writes it down.

use std::sync::Arc;

/// Something that happened to a group, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The targets of the shard's groups are at their bound: the group goes on with the one that it has, and nobody
    /// reads the partitions of members that are gone. Said once, until there is room.
    NoRoomForTarget {
        /// The group's name.
        group: Arc<str>,
        /// What there is too much of, and how much.
        why: String,
    },
    /// The group subscribes to more partitions than it can share, so nobody reads these topics. Said when they change.
    TopicsLeftOut {
        /// The group's name.
        group: Arc<str>,
        /// Their names, ascending.
        topics: Arc<[Arc<str>]>,
    },
}
