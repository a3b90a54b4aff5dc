//! Messages of queues: sending, handing out, settling, showing.
//!
//! ```text
//!   send ──► partition by key, id, or any ──► leader: batch and marks ──► the partition's log
//!   receive, consume ──► leader: its desk grants ──► records by offset ──► messages with tokens
//!   settle, cancel ──► leader of each token's partition: its desk
//! ```
//!
//! - [`bodies`]: records out of batches, pure. [`token`]: tokens, pure. [`shares`]:
//!   a stream's credit over its partitions, pure.
//! - [`queue_ref`]: the queue that a call names. [`send`], [`receive`], [`settle`], [`peek`]: calls that are answered once, by
//!   whoever leads.
//! - [`send_in`]: a send in a transaction. [`unsent`]: what of a send was sent before. [`consume`]: a consumer's stream. [`unseen`]: what
//!   it was not sent yet. [`reading`]: records by offset. [`letters`]: dead letters of other queues that are sent to this one.
//!   [`damaged`]: what becomes of messages whose records cannot be read.

mod bodies;
pub(crate) mod consume;
mod damaged;
pub(crate) mod letters;
pub(crate) mod peek;
mod queue_ref;
mod reading;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod send_in;
pub(crate) mod settle;
mod shares;
mod token;
mod unseen;
mod unsent;

use std::sync::Arc;

use jangada_types::{BrokerId, PartitionIndex};

pub(crate) use self::queue_ref::QueueRef;
pub(crate) use self::token::Token;
use crate::api::resolve::QueueName;
use crate::error::RequestError;
use crate::node::Node;
pub(crate) use crate::queues::outgoing::{Due, NewMessage};

/// The queue that a call names.
///
/// # Errors
/// UNKNOWN_QUEUE, SHUTTING_DOWN.
pub(crate) fn find(node: &Node, wanted: &QueueName) -> Result<QueueRef, RequestError> {
    node.stopping.refuse()?;
    QueueRef::resolve(&node.metadata.image(), wanted)
}

/// The leader of a partition, with its term, as far as this broker knows.
pub(crate) fn leader_of(node: &Arc<Node>, queue: &QueueRef, index: PartitionIndex) -> Option<(BrokerId, u64)> {
    let target = queue.target(index).ok()?;
    node.replicas.leader_of(target.group)
}
