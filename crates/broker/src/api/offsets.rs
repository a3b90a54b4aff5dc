//! Offsets of a partition: its first, its last, and those by time.

use std::sync::Arc;

use jangada_types::{LeaderEpoch, Offset, Reason};

use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;
use crate::target::Target;

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// Of the first record at or after this time, milliseconds since the Unix epoch.
    Timestamp(i64),
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// None: no record has such a time.
    pub offset: Option<Offset>,
    /// Of the record, when it was looked for by time.
    pub timestamp_ms: Option<i64>,
    pub leader_epoch: LeaderEpoch,
}

/// Finds an offset of a partition that this broker leads.
///
/// # Errors
/// INVALID_TIMESTAMP, NOT_LEADER, LEADER_NOT_AVAILABLE, DATA_CORRUPTED; QUORUM_TIMEOUT when no quorum confirms the lead.
pub(crate) async fn find(node: &Arc<Node>, target: &Target, position: Position) -> Result<Found, RequestError> {
    let partition = node.leaders.leading::<Partition>(target).await?;
    let leader_epoch = partition.hosted.leader_epoch()?;
    let (offset, timestamp_ms) = match position {
        Position::Earliest => (Some(partition.view.log_start()), None),
        Position::Latest => (Some(partition.latest_offset().await?), None),
        Position::Timestamp(timestamp_ms) if timestamp_ms < 0 => {
            let message = format!("timestamp {timestamp_ms} lies before 1970");
            return Err(RequestError::new(Reason::InvalidTimestamp, message));
        }
        Position::Timestamp(timestamp_ms) => partition.offset_by_timestamp(timestamp_ms).await?.unzip(),
    };
    Ok(Found {
        offset,
        timestamp_ms,
        leader_epoch,
    })
}
