//! The transactional ids of all shards: each broker knows those of the shards that it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::Topic;
use jangada_types::{BrokerId, PartitionIndex, Reason};

use super::coordinator::summary;
use crate::api::call::transactions::{ListTransactions, TransactionList};
use crate::api::passing::{ask, whole};
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::node::Node;

/// How long listing waits for another broker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// The ids of the shards that this broker leads; the other shards are named as missing.
///
/// # Errors
/// NOT_READY: this broker does not know the shards.
pub(crate) async fn of_this_broker(node: &Arc<Node>) -> Result<TransactionList, RequestError> {
    match node.metadata.image().coordinator() {
        Some(topic) => Ok(list_here(node, topic).await),
        None => Err(RequestError::new(
            Reason::NotReady,
            "this broker does not know the coordinator yet",
        )),
    }
}

/// The ids that all brokers list which answer. A shard that has no leader for the moment is waited for, see [`whole`].
pub(crate) async fn of_all_brokers(node: &Arc<Node>) -> TransactionList {
    whole(|| gather(node), |list| list.missing_shards.is_empty()).await
}

async fn gather(node: &Arc<Node>) -> TransactionList {
    let image = node.metadata.image();
    // Who only lists creates nothing.
    let Some(topic) = image.coordinator() else {
        return TransactionList::default();
    };
    let others = other_leaders(node, topic).into_iter();
    let others = others.map(|broker| ask(node, broker, ListTransactions, ANSWER_TIMEOUT));
    let (here, others) = tokio::join!(list_here(node, topic), futures::future::join_all(others));
    let mut missing: BTreeSet<PartitionIndex> = topic.indexed().map(|(index, _)| index).collect();
    // An id that two brokers name is of a shard that changed hands meanwhile.
    let mut transactions = BTreeMap::new();
    for list in others.into_iter().flatten().chain([here]) {
        missing.retain(|shard| list.missing_shards.contains(shard));
        transactions.extend(list.transactions.into_iter().map(|row| (row.id.clone(), row)));
    }
    TransactionList {
        transactions: transactions.into_values().collect(),
        missing_shards: missing,
    }
}

/// The other brokers that lead shards.
pub(super) fn other_leaders(node: &Node, topic: &Topic) -> BTreeSet<BrokerId> {
    let leaders = topic.partitions.iter();
    leaders
        .filter_map(|partition| node.replicas.leader_of(partition.group))
        .map(|(broker, _)| broker)
        .filter(|broker| *broker != node.broker())
        .collect()
}

async fn list_here(node: &Arc<Node>, topic: &Topic) -> TransactionList {
    let coordinator = node.broker();
    let lists = topic.indexed().map(|(index, partition)| async move {
        let Some(shard) = node.replicas.front::<CoordinatorReplica>(partition.group) else {
            return (index, None);
        };
        let list = shard.read_transactions(|image| {
            let ids = image.ids().map(|(id, row)| summary(id.clone(), row, coordinator));
            ids.collect::<Vec<_>>()
        });
        (index, list.await.ok())
    });
    let mut list = TransactionList::default();
    for (index, transactions) in futures::future::join_all(lists).await {
        match transactions {
            Some(transactions) => list.transactions.extend(transactions),
            None => {
                list.missing_shards.insert(index);
            }
        }
    }
    list
}
