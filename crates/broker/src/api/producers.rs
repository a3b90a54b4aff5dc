//! Ids and epochs of idempotent producers.

use jangada_types::{ProducerEpoch, ProducerId};

use crate::error::RequestError;
use crate::node::Node;

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
