//! Calls that another broker passed on: answered from what is here.

use std::sync::Arc;

use jangada_controller::PUBLIC_LISTENER;
use jangada_proto::internal::CallContext;
use jangada_proto::internal::forward_request::Call;
use jangada_proto::internal::forward_response::Answer;
use jangada_types::{BrokerId, Reason};
use tonic::Status;

use super::admin;
use super::group_list::GroupList;
use super::metadata;
use crate::error::RequestError;
use crate::node::Node;

/// Answers a call of a client of this broker, or a question of that broker itself.
pub(super) async fn answer(
    node: &Arc<Node>,
    from: BrokerId,
    context: Option<CallContext>,
    call: Option<Call>,
) -> Result<Answer, Status> {
    let listener = match &context {
        Some(context) => {
            tracing::debug!(%from, peer = context.peer, client_id = context.client_id, "a call is passed on to this broker");
            &*context.listener
        }
        None => PUBLIC_LISTENER,
    };
    let answer = carry_out(node, listener, call).await;
    // The broker of the client counts it.
    answer.map_err(|error| node.metadata.with_leader_address(error, listener).into())
}

async fn carry_out(node: &Arc<Node>, listener: &str, call: Option<Call>) -> Result<Answer, RequestError> {
    Ok(match call {
        Some(Call::TrimPartition(request)) => Answer::TrimPartition(admin::trim_here(node, request).await?),
        Some(Call::TransferLeader(request)) => Answer::TransferLeader(admin::transfer_here(node, request).await?),
        Some(Call::DescribePartitions(request)) => {
            Answer::DescribePartitions(admin::partitions_here(node, &request).await?)
        }
        Some(Call::DescribeDamage(_)) => Answer::DescribeDamage(admin::damage_here(node)),
        Some(Call::ListGroups(_)) => Answer::ListGroups(GroupList { node: node.clone() }.here().await?),
        Some(Call::GetMetadata(request)) => Answer::GetMetadata(metadata::metadata(node, request, listener).await?),
        None => {
            let message = "a call that this build does not know, or none, was passed on to it";
            return Err(RequestError::new(Reason::InvalidRequest, message));
        }
    })
}
