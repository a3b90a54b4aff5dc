//! Reads the records of messages by their offsets, from a partition that is led here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_queue::engine::Delivered;
use jangada_types::{Offset, PartitionIndex, QueueId, Reason};

use super::bodies::{Body, Picked, is_light, pick};
use super::damaged::Damaged;
use super::token::Token;
use crate::api::call::queues::ReceivedMessage;
use crate::api::context::RequestContext;
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Partition, Reading};
use crate::pool::SMALL_BYTES;
use crate::quota::{Holding, Resource};

/// How long a read waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are read at once where messages lie close together.
const RUN_BYTES: usize = 256 << 10;
/// So many offsets apart messages count as close together.
const CLOSE_OFFSETS: u64 = 64;

/// Records that were read, with the room that they take until they are sent.
pub(super) struct Read {
    /// In the order of their offsets. Those that are missing were beyond the bytes that were asked for, are damaged, or are gone.
    pub bodies: Vec<Body>,
    /// Wanted records that cannot be read.
    pub damaged: Vec<Damaged>,
    /// Wanted offsets where no message is: a control record, or one of an aborted transaction.
    pub voids: Vec<u64>,
    /// All wanted offsets below it were read, or are gone.
    pub looked_to: u64,
    pub room: Holding,
}

/// Reads the records at the wanted offsets, which are in their order, up to about so many bytes, but at least one.
///
/// # Errors
/// BROKER_BUSY: there was no room for 5 s. Those of reading a partition.
pub(super) async fn read(
    node: &Arc<Node>,
    context: &RequestContext,
    partition: &Partition,
    wanted: &[u64],
    max_bytes: usize,
) -> Result<Read, RequestError> {
    // A batch, and what was taken out of others before.
    let most = max_bytes + partition.config().batch_limits().max_batch_bytes.max(RUN_BYTES);
    let mut room = tokio::select! {
        biased;
        room = context.caller.take(Resource::PlainFetch, most, ROOM_TIMEOUT) => room?,
        refused = node.stopping.begun() => return Err(refused),
    };
    let (mut bodies, mut damaged, mut voids, mut bytes, mut looked_to) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
    // What retention has taken meanwhile is gone, which is no reason to keep the others.
    let log_start = partition.view.log_start().get().unsigned_abs();
    let mut rest = &wanted[wanted.partition_point(|offset| *offset < log_start)..];
    looked_to = looked_to.max(log_start);
    while let Some(first) = rest.first().copied() {
        let is_close = rest.get(1).is_some_and(|next| next - first <= CLOSE_OFFSETS);
        let at_once = if is_close { RUN_BYTES.min(max_bytes) } else { 1 };
        let from = Offset(i64::try_from(first).unwrap_or(i64::MAX));
        let mut picked = match partition.read(from, at_once, Reading::OF_QUEUES).await {
            Ok(fetched) => {
                let next = fetched.next_offset.get().unsigned_abs();
                let mut picked = pick_on(node, fetched.batches, rest).await?;
                if partition.view.has_transactions() && picked.damaged.is_empty() {
                    picked.looked_to = picked.looked_to.max(next);
                    voids.extend(missing(rest, &picked));
                }
                picked
            }
            // No other replica could have it whole: waiting mends nothing.
            Err(error) if error.reason == Reason::DataCorrupted && partition.is_only_replica() => {
                unreadable(first, &error.to_string())
            }
            Err(error) => return Err(error),
        };
        if picked.looked_to <= first {
            picked = unreadable(first, "the log has no record there");
        }
        looked_to = picked.looked_to;
        damaged.extend(picked.damaged);
        for body in picked.bodies {
            bytes += body.bytes();
            if bytes > max_bytes && !bodies.is_empty() {
                looked_to = body.offset;
                room.shrink_to(bytes);
                return Ok(Read {
                    bodies,
                    damaged,
                    voids,
                    looked_to,
                    room,
                });
            }
            bodies.push(body);
        }
        rest = &rest[rest.partition_point(|offset| *offset < looked_to)..];
    }
    room.shrink_to(bytes);
    Ok(Read {
        bodies,
        damaged,
        voids,
        looked_to,
        room,
    })
}

/// The wanted offsets that were looked for, and where nothing is that a reader sees.
fn missing<'a>(wanted: &'a [u64], picked: &'a Picked) -> impl Iterator<Item = u64> + 'a {
    let looked = &wanted[..wanted.partition_point(|offset| *offset < picked.looked_to)];
    let is_there = |offset: u64| picked.bodies.binary_search_by_key(&offset, |body| body.offset).is_ok();
    looked.iter().copied().filter(move |offset| !is_there(*offset))
}

fn unreadable(offset: u64, why: &str) -> Picked {
    let why = why.into();
    Picked {
        bodies: Vec::new(),
        damaged: vec![Damaged { offset, why }],
        looked_to: offset + 1,
    }
}

/// Takes records out of batches, not on a worker of the runtime when it is much work.
async fn pick_on(node: &Node, batches: Bytes, wanted: &[u64]) -> Result<Picked, RequestError> {
    if batches.len() <= SMALL_BYTES && is_light(&batches) {
        return Ok(pick(batches, wanted));
    }
    let wanted = wanted.to_vec();
    node.partitions.compute.run(move || pick(batches, &wanted)).await
}

/// A message as a consumer gets it.
pub(super) fn received(queue: QueueId, index: PartitionIndex, delivered: &Delivered, body: Body) -> ReceivedMessage {
    let token = Token {
        partition: index,
        offset: delivered.offset,
        lease: delivered.lease,
    };
    let token = Bytes::copy_from_slice(&token.encode(queue));
    message(
        index,
        token,
        body,
        (delivered.failures, delivered.deliveries, delivered.lease_left_ms),
    )
}

/// A message with what is known of it.
pub(super) fn message(
    partition: PartitionIndex,
    token: Bytes,
    body: Body,
    (failures, deliveries, lease_left_ms): (u16, u16, u64),
) -> ReceivedMessage {
    ReceivedMessage {
        token,
        partition,
        offset: Offset(i64::try_from(body.offset).unwrap_or(i64::MAX)),
        key: body.key,
        body: body.body,
        headers: body.headers,
        timestamp_ms: body.timestamp_ms,
        message_id: body.message_id,
        failures,
        deliveries,
        lease_left_ms,
    }
}
