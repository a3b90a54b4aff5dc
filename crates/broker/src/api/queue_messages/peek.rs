//! Showing messages of one partition, whatever they do, without taking them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::bodies::Body;
use super::damaged::Damaged;
use super::queue_ref::QueueRef;
use super::reading::{message, read};
use crate::api::call::queues::{PeekMessages, PeekedMessage, PeekedMessages};
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;
use crate::quota::Holding;

/// Messages that were shown, with the room that they take until they are sent.
pub(crate) struct Shown {
    pub peeked: PeekedMessages,
    /// None: they were read elsewhere, or there are none.
    pub room: Option<Holding>,
}

/// Shows messages of one partition, wherever it is led.
///
/// # Errors
/// Those of `Peek` in the contract.
pub(crate) async fn peek(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: PeekMessages,
) -> Result<Shown, RequestError> {
    let target = queue.target(wanted.at.index)?;
    match node
        .leaders
        .find::<Partition>(&target, context.route.or_pass_on())
        .await?
    {
        Lead::Here(partition) => peek_of(node, context, (queue, &partition), wanted).await,
        Lead::At(leader) => {
            let peeked = pass_on(node, context, (&target, leader), wanted, PASS_TIMEOUT).await?;
            Ok(Shown { peeked, room: None })
        }
    }
}

/// Shows messages of a partition that is led here, for a client of this broker or of another one.
///
/// # Errors
/// NOT_LEADER, NOT_READY, BROKER_BUSY, and those of reading.
pub(crate) async fn peek_here(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    wanted: PeekMessages,
) -> Result<Shown, RequestError> {
    let target = queue.target(wanted.at.index)?;
    let partition = node.leaders.leading::<Partition>(&target).await?;
    peek_of(node, context, (queue, &partition), wanted).await
}

async fn peek_of(
    node: &Arc<Node>,
    context: &RequestContext,
    (queue, partition): (&QueueRef, &Arc<Partition>),
    wanted: PeekMessages,
) -> Result<Shown, RequestError> {
    let PeekMessages {
        at,
        from,
        states,
        limit,
        max_bytes,
    } = wanted;
    let found = partition.desk()?.peek(queue.id(), from, &states, limit).await?;
    if found.messages.is_empty() {
        let peeked = PeekedMessages {
            messages: Vec::new(),
            next: found.next,
        };
        return Ok(Shown { peeked, room: None });
    }
    let offsets: Vec<u64> = found.messages.iter().map(|peeked| peeked.offset).collect();
    let read = read(node, context, partition, &offsets, max_bytes).await?;
    let mut bodies: BTreeMap<u64, _> = read.bodies.into_iter().map(|body| (body.offset, body)).collect();
    let is_cut = offsets.iter().any(|offset| *offset >= read.looked_to);
    let messages = found.messages.into_iter().filter_map(|peeked| {
        let (body, damage) = match bodies.remove(&peeked.offset) {
            Some(body) => (body, String::new()),
            None => {
                let of_message = |damaged: &&Damaged| damaged.offset == peeked.offset;
                let damaged = read.damaged.iter().find(of_message)?;
                (Body::unknown(peeked.offset), damaged.why.to_string())
            }
        };
        Some(PeekedMessage {
            message: message(at.index, Bytes::new(), body, (peeked.failures, peeked.deliveries, 0)),
            state: peeked.state,
            until_ms: peeked.until_ms,
            reason: peeked.reason,
            died_at_ms: peeked.died_at_ms,
            damage,
        })
    });
    let peeked = PeekedMessages {
        messages: messages.collect(),
        next: match is_cut {
            true => Some(read.looked_to),
            false => found.next,
        },
    };
    Ok(Shown {
        peeked,
        room: Some(read.room),
    })
}
