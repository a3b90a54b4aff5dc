//! Why a group cannot be opened.

use jangada_storage::StoreError;
use jangada_types::{GroupId, Incarnation, ReplicaId};

/// A group could not be opened; nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The timing makes no sense.
    #[error("raft timing: {0}")]
    Timing(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored of the group cannot be used.
    #[error("group {0}: {1}")]
    Group(GroupId, String),
    /// The data is of another replica of the same broker: the metadata here is behind, or the data has yet to go.
    #[error("group {group}: the data here belongs to incarnation {found}, and replica {wanted} is to be opened")]
    OtherReplica {
        /// The group that was to be opened.
        group: GroupId,
        /// Whose data it is.
        found: Incarnation,
        /// Who should have been opened.
        wanted: ReplicaId,
    },
}
