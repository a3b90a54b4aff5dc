//! Offsets of a group that are part of a transaction: staged until the transaction ends, and which transactions have ended.
//!
//! The coordinator of transactional ids lets a producer's next transaction begin when the end of the one before has come to all
//! groups and partitions of it, so a group has at most one open transaction of a producer. Messages between brokers may be
//! repeated, come late or in another order: [`TransactionRef`] tells which transaction each is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_types::replicated::{Sample, Seeds};
use jangada_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};

use crate::limits::ENDED_PRODUCERS_MAX;
use crate::partitions::TopicPartition;

/// Names one transaction, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionRef {
    /// The producer of the transactional id.
    pub producer_id: ProducerId,
    /// The epoch that the producer has in the transaction. A message about the end may have a higher one, which fences what the
    /// producer still sends.
    pub epoch: ProducerEpoch,
    /// Counts the transactions of the transactional id; it never goes back.
    pub seq: u64,
}

impl Sample for TransactionRef {
    fn sample(seeds: &mut Seeds) -> Self {
        Self {
            producer_id: Sample::sample(seeds),
            epoch: Sample::sample(seeds),
            seq: Sample::sample(seeds),
        }
    }
}

/// A committed offset, or one that is to be committed by the end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the next record to read.
    pub offset: Offset,
    /// The leader epoch of the last record that was read, when known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Text that the consumer keeps with the offset.
    pub metadata: Box<str>,
    /// The time of the commit, milliseconds since the Unix epoch on the leader's clock.
    pub committed_at_ms: u64,
}

/// The offsets that the open transaction of one producer has staged in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingOffsets {
    /// The producer's epoch in the transaction.
    pub epoch: ProducerEpoch,
    /// The number of the transaction.
    pub seq: u64,
    /// The time of the first staging, milliseconds since the Unix epoch on the leader's clock.
    pub since_ms: u64,
    /// The offsets, never none. They are committed at the place of the transaction's end in the log, not here.
    pub offsets: BTreeMap<TopicPartition, Committed>,
}

impl PendingOffsets {
    /// Whether it has offsets of the topic.
    pub(crate) fn has_topic(&self, topic: TopicId) -> bool {
        let all = TopicPartition::new(topic, 0)..=TopicPartition::new(topic, u32::MAX);
        self.offsets.range(all).next().is_some()
    }
}

/// The last transaction of each producer whose end came to the shard. An offset that is staged after the end of its transaction
/// would be pending for ever.
///
/// The producers that ended first are forgotten beyond [`ENDED_PRODUCERS_MAX`]. A clone shares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndedTransactions(Arc<ByProducer>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ByProducer {
    last: BTreeMap<ProducerId, Ended>,
    /// Derived: the producers by the index at which the last transaction ended.
    by_index: BTreeMap<u64, ProducerId>,
}

/// The end of a producer's last transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) seq: u64,
    /// Log index of the command that ended it.
    pub(crate) index: u64,
}

impl EndedTransactions {
    pub(crate) fn len(&self) -> usize {
        self.0.last.len()
    }

    pub(crate) fn last(&self, producer: ProducerId) -> Option<Ended> {
        self.0.last.get(&producer).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProducerId, Ended)> + '_ {
        self.0.last.iter().map(|(producer, ended)| (*producer, *ended))
    }

    /// Whether the end of the transaction, or of a later one of the producer, has come.
    pub(crate) fn has(&self, transaction: TransactionRef) -> bool {
        self.last(transaction.producer_id)
            .is_some_and(|last| last.seq >= transaction.seq)
    }

    /// Remembers the end of a transaction, which came at `index` of the log.
    pub(crate) fn remember(&mut self, transaction: TransactionRef, index: u64) {
        if self.has(transaction) {
            return;
        }
        let TransactionRef {
            producer_id,
            epoch,
            seq,
        } = transaction;
        let ByProducer { last, by_index } = Arc::make_mut(&mut self.0);
        if let Some(before) = last.insert(producer_id, Ended { epoch, seq, index }) {
            by_index.remove(&before.index);
        }
        by_index.insert(index, producer_id);
        while last.len() > ENDED_PRODUCERS_MAX
            && let Some((_, oldest)) = by_index.pop_first()
        {
            last.remove(&oldest);
        }
    }

    /// The ends of a snapshot; none if two are of one producer, or came at one index.
    pub(crate) fn from_parts(parts: impl IntoIterator<Item = (ProducerId, Ended)>) -> Option<Self> {
        let mut all = ByProducer::default();
        for (producer, ended) in parts {
            let is_new = all.by_index.insert(ended.index, producer).is_none();
            if all.last.insert(producer, ended).is_some() || !is_new {
                return None;
            }
        }
        Some(Self(Arc::new(all)))
    }

    /// Log index of the newest end; 0 for none.
    pub(crate) fn newest(&self) -> u64 {
        self.0.by_index.last_key_value().map_or(0, |(index, _)| *index)
    }
}
