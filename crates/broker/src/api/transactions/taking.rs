//! Ends of transactions that are to be written where this broker leads: a marker in a partition, the end of staged offsets in a group.

use std::sync::Arc;
use std::time::Duration;

use jangada_coordinator::{Answer, EndStagedRequest, TransactionRef};
use jangada_transactions::{Delivery, Target as EndTarget};
use jangada_types::{BrokerId, GroupId, Reason};
use tokio::time::Instant;

use crate::api::call::transactions::{EndDeliveries, TransactionEnd};
use crate::api::shards::known_shard_of_name;
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::node::Node;
use crate::partition::{EndMarker, Partition};

/// So long the answer waits for ends that are being written. One of a partition without a quorum takes longer: it goes on being written,
/// and is asked for again, while the others of the same call are answered.
const WRITE_TIMEOUT: Duration = Duration::from_millis(250);

/// Where the end of a transaction is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    At(BrokerId),
    /// No leader is known.
    Nowhere,
    /// The metadata of this version do not have it.
    NotFound {
        metadata_version: u64,
    },
}

/// Finds the leader of a partition or group.
pub(super) fn place_of(node: &Node, target: &EndTarget) -> Place {
    let group = match target {
        EndTarget::Partition(group) if node.replicas.ready::<Partition>(*group).is_some() => return Place::Here,
        EndTarget::Partition(group) => *group,
        EndTarget::Group(name) => match known_shard_of_name(node, name) {
            None => return Place::Nowhere,
            Some(shard) if node.replicas.ready::<CoordinatorReplica>(shard.group).is_some() => return Place::Here,
            Some(shard) => shard.group,
        },
    };
    match node.replicas.live_leader_of(group) {
        Some((broker, _)) if broker != node.broker() => Place::At(broker),
        _ => absent(node, group),
    }
}

fn absent(node: &Node, group: GroupId) -> Place {
    let image = node.metadata.image();
    match image.partition_of_group(group) {
        Some(_) => Place::Nowhere,
        None => Place::NotFound {
            metadata_version: image.version(),
        },
    }
}

/// Writes ends of transactions here, and says what became of each, in their order.
pub(crate) async fn end_here(node: &Arc<Node>, ends: Vec<TransactionEnd>) -> EndDeliveries {
    let until = Instant::now() + WRITE_TIMEOUT;
    let written: Vec<_> = ends
        .into_iter()
        .map(|end| tokio::spawn(write(node.clone(), end)))
        .collect();
    let mut deliveries = Vec::with_capacity(written.len());
    for writing in written {
        let delivery = tokio::time::timeout_at(until, writing).await;
        deliveries.push(delivery.ok().and_then(Result::ok).unwrap_or(Delivery::Failed));
    }
    deliveries
}

async fn write(node: Arc<Node>, end: TransactionEnd) -> Delivery {
    let key = (end.target.clone(), end.producer.id, end.seq);
    let Some(_writing) = node.groups.endings.begin(key) else {
        return Delivery::Failed;
    };
    let written = match &end.target {
        EndTarget::Partition(group) => match node.replicas.ready::<Partition>(*group) {
            Some(partition) => write_marker(&partition, &end).await,
            None => {
                return match absent(&node, *group) {
                    Place::NotFound { metadata_version } => Delivery::NotFound { metadata_version },
                    _ => Delivery::Failed,
                };
            }
        },
        EndTarget::Group(name) => end_staged(&node, name, &end).await,
    };
    match written {
        Ok(()) => Delivery::Done,
        Err(error) => {
            if error.reason == Reason::ProducerFenced {
                node.metrics.transactions.fenced_ends.inc();
            }
            told(&end, &error);
            Delivery::Failed
        }
    }
}

async fn write_marker(partition: &Partition, end: &TransactionEnd) -> Result<(), RequestError> {
    let marker = EndMarker {
        producer_id: end.producer.id,
        producer_epoch: end.producer.epoch,
        coordinator_epoch: end.coordinator_epoch,
        seq: end.seq,
        commit: end.commit,
    };
    partition.end_transaction(marker).await
}

async fn end_staged(node: &Node, group: &Arc<str>, end: &TransactionEnd) -> Result<(), RequestError> {
    let shard = known_shard_of_name(node, group);
    let replica = shard.and_then(|shard| node.replicas.ready::<CoordinatorReplica>(shard.group));
    let Some(replica) = replica else {
        let message = format!("this broker does not lead the shard of group {group:?}");
        return Err(RequestError::new(Reason::NotLeader, message));
    };
    let request = EndStagedRequest {
        group: group.clone(),
        transaction: TransactionRef {
            producer_id: end.producer.id,
            epoch: end.producer.epoch,
            seq: end.seq,
        },
        is_commit: end.commit,
    };
    let decided = replica.decide(None, |leader, image, now| leader.end_staged(image, request, now));
    match decided.await? {
        Answer::Ended => Ok(()),
        other => Err(RequestError::new(
            Reason::Internal,
            format!("the group answered {other:?}"),
        )),
    }
}

/// Most failures are elections, and pass. One that no coordinator should see is told.
fn told(end: &TransactionEnd, error: &RequestError) {
    let TransactionEnd {
        target, producer, seq, ..
    } = end;
    match error.reason {
        Reason::ProducerFenced => tracing::error!(
            ?target, %producer, seq, %error,
            "the end of a transaction is refused that is open in a newer epoch, which no coordinator decides"
        ),
        _ => tracing::debug!(?target, %producer, seq, %error, "the end of a transaction could not be written"),
    }
}
