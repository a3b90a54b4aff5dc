//! The member, as its listener sees it.

use std::sync::Arc;

use super::committer::Committer;
use super::position::OffsetCommit;
use crate::error::ClientError;

/// The member, as its listener sees it.
#[derive(Clone)]
pub struct GroupHandle {
    pub(super) committer: Arc<Committer>,
    pub(super) epoch: i64,
}

impl GroupHandle {
    /// The group's name.
    pub fn group(&self) -> &str {
        self.committer.group()
    }

    /// The member's id, another one for each consumer.
    pub fn member_id(&self) -> &str {
        self.committer.member_id()
    }

    /// The member's epoch under which this change of its partitions takes place: in `on_lost` the one under which they were owned.
    pub fn member_epoch(&self) -> i64 {
        self.epoch
    }

    /// Commits offsets, all or none, of partitions that the member owns.
    ///
    /// # Errors
    /// [`ClientError::MembershipLost`]; [`ClientError::Refused`] with `PARTITION_NOT_OWNED` when one is of another partition;
    /// [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] after trying for as long as `retry_timeout`.
    pub async fn commit_offsets(&self, offsets: &[OffsetCommit]) -> Result<(), ClientError> {
        self.committer.commit_offsets(offsets.to_vec()).await
    }
}
