//! Sends the ends of transactions that are decided in the shards that this broker leads: to each broker that leads partitions or groups of
//! them one call, which says all that is due there.
//!
//! ```text
//!   End is applied, a leader begins, a time is over -> take_outgoing -> by broker -> EndTransactions -> acknowledge -> Complete
//! ```
//!
//! What is not acknowledged comes again: nothing is lost here, whatever fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_transactions::{Acknowledgment, Delivery, Outgoing, Target as EndTarget};
use jangada_types::{BrokerId, LeaderEpoch};
use tokio::task::JoinSet;

use super::taking::{Place, end_here, place_of};
use crate::api::call::transactions::{EndTransactions, TransactionEnd};
use crate::api::passing::ask;
use crate::cluster::failpoint;
use crate::groups::CoordinatorReplica;
use crate::node::Node;

/// How often the shards are looked at, though nothing wakes the task: a shard may have a new leader here.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Ends in one call, at most.
const ENDS_PER_CALL_MAX: usize = 1_000;
/// Ends that are taken from a shard at once, at most.
const ENDS_PER_ROUND_MAX: usize = 8_000;

/// Sends what is due, until it is aborted.
pub(crate) async fn send_ends(node: Arc<Node>) {
    let endings = node.groups.endings.clone();
    let mut calls = JoinSet::new();
    loop {
        let outgoing = endings.outgoing();
        tokio::pin!(outgoing);
        outgoing.as_mut().enable();
        let mut wait = LOOK_EVERY;
        for shard in node.replicas.fronts::<CoordinatorReplica>() {
            if !shard.has_transactions() {
                continue;
            }
            let Some((due, next)) = shard.take_outgoing(ENDS_PER_ROUND_MAX) else {
                continue;
            };
            wait = next.map_or(wait, |next| wait.min(next));
            if !due.is_empty() {
                failpoint::reached("transactions.decided");
            }
            send(&node, &shard, due, &mut calls);
        }
        tokio::select! {
            () = outgoing => {}
            () = tokio::time::sleep(wait) => {}
        }
        while calls.try_join_next().is_some() {}
    }
}

/// Sends ends of one shard on their ways.
fn send(node: &Arc<Node>, shard: &Arc<CoordinatorReplica>, due: Vec<Outgoing>, calls: &mut JoinSet<()>) {
    let mut by_broker: BTreeMap<Option<BrokerId>, Vec<Outgoing>> = BTreeMap::new();
    let mut undelivered = Vec::new();
    for outgoing in due {
        match place_of(node, &outgoing.target) {
            Place::Here => by_broker.entry(None).or_default().push(outgoing),
            Place::At(broker) => by_broker.entry(Some(broker)).or_default().push(outgoing),
            Place::Nowhere => undelivered.push(fate(outgoing, Delivery::Failed)),
            Place::NotFound { metadata_version } => {
                undelivered.push(fate(outgoing, Delivery::NotFound { metadata_version }));
            }
        }
    }
    if !undelivered.is_empty() {
        let shard = shard.clone();
        calls.spawn(async move { acknowledge(&shard, undelivered).await });
    }
    let coordinator_epoch = LeaderEpoch::from_term(shard.hosted.group.status().term).as_i32();
    for (broker, mut rest) in by_broker {
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(ENDS_PER_CALL_MAX));
            let outgoing = std::mem::replace(&mut rest, later);
            let (node, shard) = (node.clone(), shard.clone());
            calls.spawn(async move {
                let ends = outgoing
                    .iter()
                    .map(|outgoing| end_of(outgoing, coordinator_epoch))
                    .collect();
                let deliveries = match broker {
                    None => end_here(&node, ends).await,
                    Some(broker) => {
                        let answer = ask(&node, broker, EndTransactions(ends), ANSWER_TIMEOUT).await;
                        answer.unwrap_or_default()
                    }
                };
                // Of what is not answered nothing is known: it failed.
                let deliveries = deliveries.into_iter().chain(std::iter::repeat(Delivery::Failed));
                let fates = outgoing.into_iter().zip(deliveries);
                acknowledge(
                    &shard,
                    fates.map(|(outgoing, delivery)| fate(outgoing, delivery)).collect(),
                )
                .await;
            });
        }
    }
}

async fn acknowledge(shard: &CoordinatorReplica, acknowledgments: Vec<Acknowledgment>) {
    if let Err(error) = shard.acknowledge(acknowledgments).await {
        // The next leader sends them again.
        tracing::debug!(shard = %shard.hosted.name, %error, "ends of transactions could not be acknowledged");
    }
}

fn end_of(outgoing: &Outgoing, coordinator_epoch: i32) -> TransactionEnd {
    TransactionEnd {
        target: EndTarget::clone(&outgoing.target),
        producer: outgoing.producer,
        seq: outgoing.seq,
        commit: outgoing.commit,
        coordinator_epoch,
    }
}

fn fate(outgoing: Outgoing, delivery: Delivery) -> Acknowledgment {
    Acknowledgment {
        id: outgoing.id,
        seq: outgoing.seq,
        target: outgoing.target,
        delivery,
    }
}
