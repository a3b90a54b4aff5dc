//! Messages that are granted and not handed out. Those whose records cannot be read would end each consumer's stream again and again; so
//! each try counts as a failure, and after the queue's attempts they are dead letters, which hold up nobody. Control records, and what
//! an aborted transaction wrote before the queue was there, are no messages: they are done.

use std::sync::Arc;

use jangada_queue::engine::{Delivered, SettleItem, Settlement};
use jangada_types::PartitionIndex;
use tokio::task::JoinHandle;

use super::queue_ref::QueueRef;
use crate::node::Node;
use crate::queues::Desk;

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub offset: u64,
    pub why: Arc<str>,
}

/// Settles messages whose records are damaged as failed, logs and counts them; and those that are none as done. Returns the other ones, and
/// the task that settles, if there is something to settle.
pub(super) fn settle(
    node: &Node,
    (queue, index): (&QueueRef, PartitionIndex),
    desk: Arc<Desk>,
    messages: Vec<Delivered>,
    (damaged, voids): (&[Damaged], &[u64]),
) -> (Vec<Delivered>, Option<JoinHandle<()>>) {
    let (mut items, mut rest, mut unreadable) = (Vec::new(), Vec::new(), 0);
    for message in messages {
        if voids.contains(&message.offset) {
            items.push(SettleItem {
                offset: message.offset,
                lease: message.lease,
                settlement: Settlement::Ack,
            });
            continue;
        }
        let Some(Damaged { why, .. }) = damaged.iter().find(|damaged| damaged.offset == message.offset) else {
            rest.push(message);
            continue;
        };
        unreadable += 1;
        let Delivered { offset, failures, .. } = message;
        tracing::error!(
            queue = queue.name(), partition = %index, offset, failures, %why,
            "the record of a message is damaged; the message has failed"
        );
        items.push(SettleItem {
            offset,
            lease: message.lease,
            settlement: Settlement::Nack {
                delay_ms: None,
                failed: true,
            },
        });
    }
    if unreadable > 0 {
        node.metrics.unreadable_messages(unreadable);
    }
    let settling = (!items.is_empty()).then(|| {
        let queue = queue.id();
        // If leadership moves meanwhile, the next leader hands it to the session again, and it fails there.
        tokio::spawn(async move { drop(desk.settle(queue, items).await) })
    });
    (rest, settling)
}
