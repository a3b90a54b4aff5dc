//! Dropping the records of a partition before an offset.

use std::sync::Arc;

use jangada_proto::v1::TrimPartitionResponse;
use jangada_types::{Offset, Reason};

use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;
use crate::target::Target;

/// Drops them, at the leader.
pub(super) async fn trim_partition(
    node: &Arc<Node>,
    target: &Target,
    before_offset: i64,
) -> Result<TrimPartitionResponse, RequestError> {
    let partition = node.leaders.leading::<Partition>(target).await?;
    let before = match before_offset {
        -1 => None,
        offset if offset < 0 => {
            let message = format!("offset {offset} is negative; -1 is the high watermark");
            return Err(RequestError::new(Reason::OffsetOutOfRange, message));
        }
        offset => Some(Offset(offset)),
    };
    let log_start = partition.trim(before).await?;
    Ok(TrimPartitionResponse {
        log_start_offset: log_start.get(),
    })
}
