//! Handing a partition's leadership to another of its replicas.

use std::sync::Arc;
use std::time::Duration;

use jangada_proto::v1::TransferLeaderResponse;
use jangada_types::{BrokerId, LeaderEpoch, Reason, ReplicaId};

use crate::error::RequestError;
use crate::node::Node;
use crate::target::Target;

/// How long a transfer of leadership may take.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn transfer_leader(
    node: &Arc<Node>,
    target: &Target,
    to: BrokerId,
) -> Result<TransferLeaderResponse, RequestError> {
    let image = node.metadata.image();
    let name = target.to_string();
    if image.broker(to).is_none() {
        return Err(RequestError::new(
            Reason::UnknownBroker,
            format!("there is no broker {to}"),
        ));
    }
    let replicas: Vec<ReplicaId> = target
        .topic
        .partition(target.index)
        .map(|partition| partition.replicas.clone())
        .unwrap_or_default();
    let Some(replica) = replicas.iter().find(|replica| replica.broker == to) else {
        let holders: Vec<String> = replicas.iter().map(|replica| replica.broker.to_string()).collect();
        let message = format!(
            "{name}: broker {to} holds no replica of it; brokers {} do",
            holders.join(", ")
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    };
    let hosted = node.leaders.leading_any(target).await?;
    let group = &hosted.group;
    if *replica == group.replica() {
        return Ok(TransferLeaderResponse {
            leader_id: to.get(),
            leader_epoch: LeaderEpoch::from_term(group.status().term).get(),
        });
    }
    if !node.registry().is_alive(to) {
        let message = format!(
            "{name}: broker {to} is not alive; the leader stays broker {}",
            node.broker()
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    if node.registry().is_unfit(group.id(), to) {
        let message = format!(
            "{name}: the replica on broker {to} is damaged and leads only if no other can; `jangada cluster health` tells \
             more. The leader stays broker {}",
            node.broker()
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    let status = group
        .transfer_leader(*replica, TRANSFER_WITHIN)
        .await
        .map_err(|error| {
            RequestError::new(
                Reason::LeaderNotAvailable,
                format!("{name}: broker {to} did not take over: {error}"),
            )
            .unknown()
        })?;
    if status.leader != Some(*replica) {
        let who = status
            .leader
            .map_or("nobody yet".to_owned(), |leader| format!("broker {}", leader.broker));
        let message = format!("{name}: broker {to} did not take over in time; {who} was elected instead");
        return Err(RequestError::new(Reason::LeaderNotAvailable, message));
    }
    Ok(TransferLeaderResponse {
        leader_id: to.get(),
        leader_epoch: LeaderEpoch::from_term(status.term).get(),
    })
}
