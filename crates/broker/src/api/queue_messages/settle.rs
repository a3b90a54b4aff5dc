//! Settling: what consumers say of messages, by their tokens, and taking messages out of a queue that nobody has.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jangada_queue::TransactionId;
use jangada_queue::engine::{SettleItem, Settled, Settlement};
use jangada_types::feature_level::TRANSACTIONS_FEATURE_LEVEL;
use jangada_types::{PartitionIndex, Reason};

use super::queue_ref::{QueueRef, by_partition};
use super::token::Token;
use crate::api::call::queues::{CancelMessages, Cancelled, QueueTransaction, SettleMessages, SettleOutcomes};
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{InTransaction, Partition};

/// Settles messages of a queue, of any partitions.
pub(crate) async fn settle(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    items: Vec<(Token, Settlement)>,
) -> SettleOutcomes {
    settle_all(node, context, queue, (items, None)).await
}

/// Acknowledges messages of a queue, of any partitions, in a transaction.
///
/// # Errors
/// NOT_READY: a broker of the cluster would not understand it. Of each message the outcome has its own.
pub(crate) async fn acknowledge_in(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (items, transaction): (Vec<(Token, Settlement)>, QueueTransaction),
) -> Result<SettleOutcomes, RequestError> {
    // A replica that cannot read it would stop.
    node.metadata.require_feature_level(TRANSACTIONS_FEATURE_LEVEL).await?;
    Ok(settle_all(node, context, queue, (items, Some(transaction))).await)
}

async fn settle_all(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (items, transaction): (Vec<(Token, Settlement)>, Option<QueueTransaction>),
) -> SettleOutcomes {
    let (count, transaction) = (items.len(), &transaction);
    let settled = by_partition(items).into_iter().map(|(index, items)| async move {
        let places: Vec<usize> = items.iter().map(|(place, _, _)| *place).collect();
        let items = items.into_iter().map(|(_, token, settlement)| SettleItem {
            offset: token.offset,
            lease: token.lease,
            settlement,
        });
        let wanted = SettleMessages {
            at: queue.partition(index),
            items: items.collect(),
            transaction: transaction.clone(),
        };
        (places, settle_at(node, context, queue, wanted).await)
    });
    in_order(count, join_all(settled).await)
}

/// Takes messages out of a queue that nobody has, by their places.
pub(crate) async fn cancel(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    messages: Vec<(PartitionIndex, u64)>,
) -> SettleOutcomes {
    let count = messages.len();
    let mut by_partition: BTreeMap<PartitionIndex, Vec<(usize, u64)>> = BTreeMap::new();
    for (place, (index, offset)) in messages.into_iter().enumerate() {
        by_partition.entry(index).or_default().push((place, offset));
    }
    let cancelled = by_partition.into_iter().map(|(index, messages)| async move {
        let (places, offsets): (Vec<usize>, Vec<u64>) = messages.into_iter().unzip();
        let wanted = CancelMessages {
            at: queue.partition(index),
            offsets,
        };
        let count = places.len();
        (places, or_all(cancel_at(node, context, queue, wanted).await, count))
    });
    in_order(count, join_all(cancelled).await)
}

/// The outcomes in the order of their request.
fn in_order(count: usize, outcomes: Vec<(Vec<usize>, SettleOutcomes)>) -> SettleOutcomes {
    let missing = || Err(RequestError::new(Reason::Internal, "the leader's answer lacks the message").unknown());
    let mut all: SettleOutcomes = (0..count).map(|_| missing()).collect();
    for (places, outcomes) in outcomes {
        for (place, outcome) in places.into_iter().zip(outcomes) {
            all[place] = outcome;
        }
    }
    all
}

/// Settles messages of one partition, wherever it is led.
async fn settle_at(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: SettleMessages,
) -> SettleOutcomes {
    let count = wanted.items.len();
    let settled = async {
        let target = queue.target(wanted.at.index)?;
        match node
            .leaders
            .find::<Partition>(&target, context.route.or_pass_on())
            .await?
        {
            Lead::Here(partition) => settle_of(queue, &partition, wanted).await,
            Lead::At(leader) => pass_on(node, context, (&target, leader), wanted, PASS_TIMEOUT).await,
        }
    };
    or_all(settled.await, count)
}

/// Takes messages of one partition out of the queue, wherever it is led.
async fn cancel_at(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: CancelMessages,
) -> Result<SettleOutcomes, RequestError> {
    let target = queue.target(wanted.at.index)?;
    match node
        .leaders
        .find::<Partition>(&target, context.route.or_pass_on())
        .await?
    {
        Lead::Here(partition) => cancel_of(queue, &partition, wanted).await,
        Lead::At(leader) => {
            let Cancelled(outcomes) = pass_on(node, context, (&target, leader), wanted, PASS_TIMEOUT).await?;
            Ok(outcomes)
        }
    }
}

/// The outcomes of messages, or the error that all of them have.
fn or_all(outcomes: Result<SettleOutcomes, RequestError>, count: usize) -> SettleOutcomes {
    outcomes.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
}

/// Settles messages of a partition that is led here, for a client of this broker or of another one.
///
/// # Errors
/// NOT_LEADER, NOT_READY; not definite when leadership is lost meanwhile.
pub(crate) async fn settle_here(
    node: &Arc<Node>,
    queue: &QueueRef,
    wanted: SettleMessages,
) -> Result<SettleOutcomes, RequestError> {
    let target = queue.target(wanted.at.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    settle_of(queue, &partition, wanted).await
}

async fn settle_of(
    queue: &QueueRef,
    partition: &Arc<Partition>,
    wanted: SettleMessages,
) -> Result<SettleOutcomes, RequestError> {
    let SettleMessages {
        mut items, transaction, ..
    } = wanted;
    let desk = partition.desk()?;
    if let Some(transaction) = transaction {
        // Before anything is staged: so the end of the transaction comes to this partition, whatever becomes of its producer.
        let transaction = join(partition, transaction).await?;
        for item in &mut items {
            item.settlement = Settlement::AckIn { transaction };
        }
    }
    let settled = desk.settle(queue.id(), items).await?;
    Ok(settled.into_iter().map(outcome).collect())
}

async fn join(partition: &Partition, transaction: QueueTransaction) -> Result<TransactionId, RequestError> {
    let QueueTransaction {
        transactional_id,
        producer_id,
        producer_epoch,
    } = transaction;
    let transaction = InTransaction {
        transactional_id,
        adds: true,
    };
    partition
        .join_to_acknowledge(&transaction, (producer_id, producer_epoch))
        .await
}

/// What became of a message, or why it is not as its consumer said. Then its consumer has it still, unless a transaction does.
fn outcome(settled: Settled) -> Result<Settled, RequestError> {
    let refused = |reason, message| Err(RequestError::new(reason, message));
    match settled {
        Settled::Done | Settled::AlreadySettled | Settled::LeaseLost => Ok(settled),
        Settled::InTransaction => refused(
            Reason::InvalidTransactionState,
            "the message is acknowledged in a transaction that is not over, and nothing else becomes of it before",
        ),
        Settled::TransactionOver => refused(
            Reason::InvalidTransactionState,
            "the transaction is over, or another one of its producer is not: the message was not acknowledged in it",
        ),
        Settled::Full => refused(
            Reason::PartitionBusy,
            "the partition's queues have as much under way as they may: acknowledge in smaller transactions",
        ),
    }
}

/// Takes messages of a partition that is led here out of the queue.
///
/// # Errors
/// NOT_LEADER, NOT_READY; not definite when leadership is lost meanwhile.
pub(crate) async fn cancel_here(
    node: &Arc<Node>,
    queue: &QueueRef,
    wanted: CancelMessages,
) -> Result<SettleOutcomes, RequestError> {
    let target = queue.target(wanted.at.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    cancel_of(queue, &partition, wanted).await
}

async fn cancel_of(
    queue: &QueueRef,
    partition: &Arc<Partition>,
    wanted: CancelMessages,
) -> Result<SettleOutcomes, RequestError> {
    let desk = partition.desk()?;
    let refused = desk.cancel(queue.id(), &wanted.offsets).await?;
    let in_flight = |offset: u64| {
        let message = format!("the message at offset {offset} is with a consumer, or dead: it was not taken out");
        RequestError::new(Reason::InFlight, message).with("offset", offset)
    };
    let outcomes = wanted.offsets.iter().map(|offset| match refused.get(offset) {
        None => Ok(Settled::Done),
        Some(true) => Ok(Settled::AlreadySettled),
        Some(false) => Err(in_flight(*offset)),
    });
    Ok(outcomes.collect())
}
