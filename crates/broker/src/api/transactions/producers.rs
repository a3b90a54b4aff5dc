//! What a partition remembers of its producers. Only its leader is asked, and an operator may ask any broker.

use std::sync::Arc;

use jangada_log::ProducerState;

use crate::api::call::transactions::DescribeProducers;
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::api::resolve::{self, PartitionRef};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;

/// The producers of a partition, by id.
///
/// # Errors
/// Those of `DescribeProducers` in the contract.
pub(crate) async fn describe(
    node: &Arc<Node>,
    context: &RequestContext,
    request: DescribeProducers,
) -> Result<Vec<ProducerState>, RequestError> {
    let target = resolve::partition_of_records(&node.metadata.image(), &request.partition)?;
    match node.leaders.find::<Partition>(&target, context.route).await? {
        Lead::Here(partition) => partition.describe_producers().await,
        Lead::At(leader) => {
            let request = DescribeProducers {
                partition: PartitionRef::of(&target),
            };
            pass_on(node, context, (&target, leader), request, PASS_TIMEOUT).await
        }
    }
}
