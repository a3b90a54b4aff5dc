//! Where the messages stand that a transaction sends to queues: the partitions, and the next sequence in each. Each transaction has an
//! epoch of its own, in which they begin with 0.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jangada_types::Sequence;
use tokio::sync::OnceCell;

use crate::error::ClientError;
use crate::queue::{Queue, QueueLayout, QueueMessage, SentMessage};

/// Messages of one batch at most.
const BATCH_MESSAGES_MAX: usize = 1_000;
/// Bytes of messages of one batch at most; a larger message goes alone.
const BATCH_BYTES_MAX: usize = 512 << 10;

/// The queues that a transaction sends to.
#[derive(Default)]
pub(super) struct QueuesSentTo(Mutex<BTreeMap<Arc<str>, Arc<OnceCell<SentTo>>>>);

/// A queue that a transaction sends to.
pub(super) struct SentTo {
    pub queue: Queue,
    pub layout: QueueLayout,
    /// The partition of messages that may go anywhere: one for all of them, as each partition of a transaction costs a marker.
    any: u32,
    /// Of each partition the sequence of the next message. Held while a batch is under way, for the next one has its sequence behind it.
    next: Vec<tokio::sync::Mutex<Sequence>>,
}

/// Messages of one partition, with their places among those of the call.
pub(super) type Lane = Vec<(usize, QueueMessage)>;

impl QueuesSentTo {
    /// What is known of a queue, which is looked up the first time.
    pub async fn get(&self, queue: &Queue, random: u64) -> Result<Arc<OnceCell<SentTo>>, ClientError> {
        let cell = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(queue.name().into()).or_default().clone()
        };
        cell.get_or_try_init(|| async {
            let layout = queue.find().await?;
            Ok::<_, ClientError>(SentTo::new(queue.clone(), layout, random))
        })
        .await?;
        Ok(cell)
    }
}

impl SentTo {
    fn new(queue: Queue, layout: QueueLayout, random: u64) -> Self {
        let partitions = layout.partitions.len().max(1);
        Self {
            queue,
            any: u32::try_from(random % partitions as u64).unwrap_or(0),
            next: (0..partitions).map(|_| tokio::sync::Mutex::new(Sequence(0))).collect(),
            layout,
        }
    }

    /// Parts messages by their partitions, in their order.
    pub fn lanes(&self, messages: impl IntoIterator<Item = QueueMessage>) -> BTreeMap<u32, Lane> {
        let mut lanes = BTreeMap::<u32, Lane>::new();
        for (place, message) in messages.into_iter().enumerate() {
            let partition = self.layout.partition_of(&message).unwrap_or(self.any);
            lanes.entry(partition).or_default().push((place, message));
        }
        lanes
    }

    /// The sequence of the next message to a partition. Whoever holds it sends the next batch.
    pub async fn next(&self, partition: u32) -> tokio::sync::MutexGuard<'_, Sequence> {
        self.next[partition as usize].lock().await
    }
}

/// How many of the first messages go in one batch: one at least.
pub(super) fn batch_len(messages: &[QueueMessage], most: usize) -> usize {
    let mut bytes = 0;
    let fit = messages
        .iter()
        .take(most.min(BATCH_MESSAGES_MAX))
        .take_while(|message| {
            bytes += message.bytes();
            bytes <= BATCH_BYTES_MAX
        });
    fit.count().max(1)
}

/// Puts what became of the messages of each partition in the order of the call.
pub(super) fn in_order(sent: impl IntoIterator<Item = (usize, SentMessage)>) -> Vec<SentMessage> {
    let by_place: BTreeMap<usize, SentMessage> = sent.into_iter().collect();
    by_place.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_what_fits_and_one_message_at_least() {
        let messages = |count: usize, bytes: usize| vec![QueueMessage::new(vec![7; bytes]); count];
        assert_eq!(batch_len(&messages(3, 10), usize::MAX), 3);
        assert_eq!(batch_len(&messages(3, 10), 2), 2);
        assert_eq!(batch_len(&messages(2_000, 10), usize::MAX), BATCH_MESSAGES_MAX);
        assert_eq!(batch_len(&messages(3, 200 << 10), usize::MAX), 2);
        assert_eq!(batch_len(&messages(3, 1 << 20), usize::MAX), 1);
    }
}
