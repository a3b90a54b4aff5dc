//! What has become of a transaction that has been open in a partition for longer than any may be. The partition knows the producer and not
//! its transactional id, so all shards are asked; that is seldom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jangada_transactions::{Image, TransactionState};
use jangada_types::{GroupId, PartitionIndex, ProducerId, Reason};

use super::listing::other_leaders;
use crate::api::call::transactions::{FindProducer, ProducerFound};
use crate::api::passing::ask;
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::node::Node;
use crate::partition::{OpenHere, Standing};

/// How long another broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Asks the shards of all brokers.
///
/// # Errors
/// LEADER_NOT_AVAILABLE: a shard did not answer, which may have the transaction.
pub(super) async fn of(node: &Arc<Node>, open: OpenHere) -> Result<Standing, RequestError> {
    let image = node.metadata.image();
    let topic = image
        .coordinator()
        .ok_or_else(|| RequestError::new(Reason::NotReady, "this broker does not know the coordinator yet"))?;
    let wanted = || FindProducer {
        producer: open.producer_id,
        seq: open.seq,
        partition: open.partition,
    };
    let others = other_leaders(node, topic).into_iter();
    let others = others.map(|broker| ask(node, broker, wanted(), ANSWER_TIMEOUT));
    let own = wanted();
    let (here, others) = tokio::join!(of_this_broker(node, &own), futures::future::join_all(others));
    let mut missing: BTreeSet<PartitionIndex> = topic.indexed().map(|(index, _)| index).collect();
    for found in others.into_iter().flatten().chain([here]) {
        if found.is_open {
            return Ok(Standing::Open);
        }
        missing.retain(|shard| !found.shards.contains(shard));
    }
    if missing.is_empty() {
        return Ok(Standing::Gone);
    }
    let message = format!("{} shards of the coordinator did not answer", missing.len());
    Err(RequestError::new(Reason::LeaderNotAvailable, message))
}

/// What the shards say that this broker leads.
pub(crate) async fn of_this_broker(node: &Arc<Node>, wanted: &FindProducer) -> ProducerFound {
    let image = node.metadata.image();
    let Some(topic) = image.coordinator() else {
        return ProducerFound::default();
    };
    let asked = topic.indexed().map(|(index, partition)| async move {
        let shard = node.replicas.front::<CoordinatorReplica>(partition.group)?;
        let is_open = shard.read_transactions(|image| has_open(image, (wanted.producer, wanted.seq), wanted.partition));
        Some((index, is_open.await.ok()?))
    });
    let mut found = ProducerFound::default();
    for (index, is_open) in futures::future::join_all(asked).await.into_iter().flatten() {
        found.shards.insert(index);
        found.is_open |= is_open;
    }
    found
}

/// Whether an id's transaction of this producer and number is open or being ended, with that partition.
fn has_open(image: &Image, (producer, seq): (ProducerId, u64), partition: GroupId) -> bool {
    let mut rows = image.ids().map(|(_, row)| row);
    rows.any(|row| {
        let wrote = match row.state {
            TransactionState::Ongoing => Some(row.producer.id),
            state if state.is_prepare() => row.last.map(|last| last.producer.id),
            _ => None,
        };
        wrote == Some(producer) && row.seq == seq && row.partitions.contains(&partition)
    })
}
