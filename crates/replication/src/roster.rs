//! Who belongs to the cluster, as the metadata says. Implemented above this crate, and asked for each connection and for
//! what is said of a group that is not here.

use jangada_types::{BrokerId, GroupId, Incarnation};

/// What the metadata knows of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A broker of the cluster.
    Member,
    /// None, and why; it is told so.
    Stranger(String),
    /// One that was taken out, and what to do; it ends when it is told so.
    Removed(String),
}

/// Answers who belongs to the cluster, and who has replicas of which group.
pub trait Roster: Send + Sync + 'static {
    /// Whether this incarnation of a broker belongs to the cluster.
    fn standing(&self, broker: BrokerId, incarnation: Incarnation) -> Standing;

    /// Whether the metadata has such a broker, or has no brokers yet.
    fn is_known(&self, broker: BrokerId) -> bool;

    /// Whether a broker is to have a replica of a group, or had one. True for a group that is not known here yet.
    fn has_part(&self, group: GroupId, broker: BrokerId) -> bool;

    /// The highest id of a group that is known.
    fn newest_group(&self) -> GroupId;
}
