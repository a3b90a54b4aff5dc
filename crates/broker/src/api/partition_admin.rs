//! What is done to one partition by its leader: dropping records, handing the leadership over. Any broker takes such a call, and passes
//! it on.

use std::sync::Arc;
use std::time::Duration;

use jangada_types::{BrokerId, LeaderEpoch, Offset, Reason, ReplicaId};

use super::call::admin::{NewLeader, TransferLeader, TrimPartition};
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, pass_on};
use super::resolve::{self, PartitionRef};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;
use crate::replica::Hosted;
use crate::target::Target;

/// How long a transfer of leadership may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// Drops the records of a partition before an offset: its log start offset afterwards.
///
/// # Errors
/// Those of `TrimPartition` in the contract.
pub(crate) async fn trim(
    node: &Arc<Node>,
    context: &RequestContext,
    request: TrimPartition,
) -> Result<Offset, RequestError> {
    let target = resolve::partition_of_records(&node.metadata.image(), &request.partition)?;
    let partition = match node
        .leaders
        .find::<Partition>(&target, context.route.or_pass_on())
        .await?
    {
        Lead::Here(partition) => partition,
        Lead::At(leader) => {
            let request = TrimPartition {
                partition: PartitionRef::of(&target),
                ..request
            };
            return pass_on(node, context, (&target, leader), request, PASS_TIMEOUT).await;
        }
    };
    partition.trim(request.before).await
}

/// Hands the leadership of a partition to another of its replicas.
///
/// # Errors
/// Those of `TransferLeader` in the contract.
pub(crate) async fn transfer_leader(
    node: &Arc<Node>,
    context: &RequestContext,
    request: TransferLeader,
) -> Result<NewLeader, RequestError> {
    let target = resolve::partition(&node.metadata.image(), &request.partition)?;
    let to = replica_on(node, &target, request.to)?;
    let hosted = match node.leaders.find_any(&target, context.route.or_pass_on()).await? {
        Lead::Here(hosted) => hosted,
        Lead::At(leader) => {
            let request = TransferLeader {
                partition: PartitionRef::of(&target),
                ..request
            };
            return pass_on(node, context, (&target, leader), request, PASS_TIMEOUT).await;
        }
    };
    hand_over(node, &target, &hosted, to).await
}

/// The replica of a partition that is listed on a broker.
fn replica_on(node: &Node, target: &Target, broker: BrokerId) -> Result<ReplicaId, RequestError> {
    if node.metadata.image().broker(broker).is_none() {
        return Err(RequestError::new(
            Reason::UnknownBroker,
            format!("there is no broker {broker}"),
        ));
    }
    let partition = target.topic.partition(target.index);
    let replicas = partition.map(|partition| &*partition.replicas).unwrap_or_default();
    let replica = replicas.iter().find(|replica| replica.broker == broker);
    replica.copied().ok_or_else(|| {
        let holders: Vec<String> = replicas.iter().map(|replica| replica.broker.to_string()).collect();
        let message = format!(
            "{target}: broker {broker} holds no replica of it; brokers {} do",
            holders.join(", ")
        );
        RequestError::new(Reason::InvalidRequest, message)
    })
}

/// Hands over what this broker leads.
async fn hand_over(
    node: &Node,
    target: &Target,
    hosted: &Hosted,
    replica: ReplicaId,
) -> Result<NewLeader, RequestError> {
    let to = replica.broker;
    let group = &hosted.group;
    if replica == group.replica() {
        return Ok(NewLeader {
            leader: to,
            leader_epoch: LeaderEpoch::from_term(group.status().term),
        });
    }
    if !node.registry().is_alive(to) {
        let message = format!(
            "{target}: broker {to} is not alive; the leader stays broker {}",
            node.broker()
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    if node.registry().is_unfit(group.id(), to) {
        let message = format!(
            "{target}: the replica on broker {to} is damaged and leads only if no other can; `jangada cluster health` tells \
             more. The leader stays broker {}",
            node.broker()
        );
        return Err(RequestError::new(Reason::InvalidRequest, message));
    }
    node.replicas.about_to_hand_over(group.id());
    let status = group
        .transfer_leader(replica, TRANSFER_TIMEOUT)
        .await
        .map_err(|error| {
            RequestError::new(
                Reason::LeaderNotAvailable,
                format!("{target}: broker {to} did not take over: {error}"),
            )
            .unknown()
        })?;
    if status.leader != Some(replica) {
        let who = status
            .leader
            .map_or("nobody yet".to_owned(), |leader| format!("broker {}", leader.broker));
        let message = format!("{target}: broker {to} did not take over in time; {who} was elected instead");
        return Err(RequestError::new(Reason::LeaderNotAvailable, message));
    }
    Ok(NewLeader {
        leader: to,
        leader_epoch: LeaderEpoch::from_term(status.term),
    })
}
