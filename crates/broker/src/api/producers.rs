//! Ids and epochs of idempotent producers, and what partitions remember of them.

use std::sync::Arc;

use jangada_log::ProducerState;
use jangada_types::{ProducerEpoch, ProducerId};

use super::resolve::{self, PartitionRef};
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;

/// Gives a producer its id and epoch: a new one, or the next epoch of one that goes on. Any broker does so.
///
/// # Errors
/// Those of `InitProducer` in the contract.
pub(crate) async fn init(
    node: &Node,
    known: Option<(ProducerId, ProducerEpoch)>,
) -> Result<(ProducerId, ProducerEpoch), RequestError> {
    node.stopping.refuse()?;
    match known {
        None => node.producer_ids.new_producer().await,
        Some((id, epoch)) => node.producer_ids.next_epoch(id, epoch).await,
    }
}

/// What a partition remembers of its producers, as its leader here has it.
///
/// # Errors
/// Those of `DescribeProducers` in the contract.
#[allow(dead_code, reason = "the service of transactions is not served yet")]
pub(crate) async fn describe(node: &Arc<Node>, partition: &PartitionRef) -> Result<Vec<ProducerState>, RequestError> {
    let target = resolve::partition_of_records(&node.metadata.image(), partition)?;
    node.leaders
        .leading::<Partition>(&target)
        .await?
        .describe_producers()
        .await
}
