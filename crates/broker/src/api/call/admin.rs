//! What only the leader of a partition can do to it.

use jangada_types::{BrokerId, LeaderEpoch, Offset};

use crate::api::resolve::PartitionRef;

/// Drops the records of a partition before an offset. Answered with the log start offset.
#[derive(Debug)]
pub(crate) struct TrimPartition {
    pub partition: PartitionRef,
    /// None: before the high watermark.
    pub before: Option<Offset>,
}

/// Hands the leadership of a partition, of whatever kind, to another of its replicas.
#[derive(Debug)]
pub(crate) struct TransferLeader {
    pub partition: PartitionRef,
    pub to: BrokerId,
}

/// Who leads a partition after its leadership was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewLeader {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
}
