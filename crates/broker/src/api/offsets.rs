//! Offsets of a partition: its first, its last, and those by time.

use std::sync::Arc;

use jangada_types::Reason;

use super::call::records::{FindOffset, FoundOffset, Position};
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, pass_on};
use super::resolve::{self, PartitionRef};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;

/// Finds an offset of a partition of records, at its leader.
///
/// # Errors
/// Those of `ListOffsets` in the contract.
pub(crate) async fn find(
    node: &Arc<Node>,
    context: &RequestContext,
    wanted: FindOffset,
) -> Result<FoundOffset, RequestError> {
    let (position, isolation) = (wanted.position, wanted.isolation);
    if let Position::Timestamp(timestamp_ms @ ..0) = position {
        let message = format!("timestamp {timestamp_ms} lies before 1970");
        return Err(RequestError::new(Reason::InvalidTimestamp, message));
    }
    let target = resolve::partition_of_records(&node.metadata.image(), &wanted.partition)?;
    let partition = match node.leaders.find::<Partition>(&target, context.route).await? {
        Lead::Here(partition) => partition,
        Lead::At(leader) => {
            let partition = PartitionRef::of(&target);
            let wanted = FindOffset {
                partition,
                position,
                isolation,
            };
            return pass_on(node, context, (&target, leader), wanted, PASS_TIMEOUT).await;
        }
    };
    let leader_epoch = partition.hosted.leader_epoch()?;
    let (offset, timestamp_ms) = match position {
        Position::Earliest => (Some(partition.view.log_start()), None),
        Position::Latest => (Some(partition.confirmed_ends().await?.of(isolation)), None),
        Position::Timestamp(timestamp_ms) => partition.offset_by_timestamp(timestamp_ms, isolation).await?.unzip(),
    };
    Ok(FoundOffset {
        offset,
        timestamp_ms,
        leader_epoch,
    })
}
