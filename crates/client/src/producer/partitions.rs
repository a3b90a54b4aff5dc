//! The partitions of a topic as senders see them: a queue each, and the choice among them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jangada_types::limits::BATCH_BYTES_DEFAULT;
use jangada_types::{BatchHeader, partition_for_key};

use super::accumulator::{Accumulator, Appended, Place};
use super::config::ProducerConfig;
use super::record::{Condition, ProducerRecord};
use crate::error::ClientError;
use crate::metadata::TopicMetadata;

/// The topic setting that bounds a batch.
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// The name of that setting in error messages.
pub(crate) const TOPIC_LIMIT: &str = "the topic's max.message.bytes";

/// A partition's queue: senders put records in, the driver takes batches out.
pub(crate) struct PartitionQueue {
    /// Names the partition's lane in the driver; never used again.
    pub lane: u64,
    pub topic: Arc<TopicMetadata>,
    /// The topic id as requests carry it.
    pub topic_id: Bytes,
    pub partition: u32,
    accumulator: Mutex<Accumulator>,
    /// Whether its leader cannot be reached or refuses: records without a key go to other partitions meanwhile.
    pub struggling: AtomicBool,
}

impl PartitionQueue {
    pub fn lock(&self) -> MutexGuard<'_, Accumulator> {
        self.accumulator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(
        &self,
        record: &ProducerRecord,
        size_and_time: (usize, i64),
        place: (Place, Option<Condition>),
    ) -> Result<Appended, ClientError> {
        self.lock()
            .append((&self.topic.name, self.partition), record, size_and_time, place)
    }

    /// The partition's name in error messages.
    pub fn context(&self) -> String {
        format!("produce to {}[{}]", self.topic.name, self.partition)
    }
}

/// How a producer gathers records.
#[derive(Clone, Copy)]
pub(crate) struct Gathering<'a> {
    pub config: &'a ProducerConfig,
    pub is_transactional: bool,
}

pub(crate) struct TopicQueues {
    pub topic: Arc<TopicMetadata>,
    pub queues: Vec<Arc<PartitionQueue>>,
    /// The partition whose turn it is for records without a key.
    turn: AtomicU32,
    /// The largest batch that the topic takes, bytes, by the newest metadata.
    topic_bytes: AtomicUsize,
}

impl TopicQueues {
    /// `turn` says with which partition records without a key begin.
    pub fn new(topic: Arc<TopicMetadata>, gathering: Gathering<'_>, next_lane: &AtomicU64, turn: u64) -> Self {
        let topic_bytes = batch_limit(&topic);
        let queues = queues(&topic, 0, (gathering, topic_bytes), next_lane);
        let turn = turn % queues.len().max(1) as u64;
        Self {
            topic,
            queues,
            turn: AtomicU32::new(turn as u32),
            topic_bytes: AtomicUsize::new(topic_bytes),
        }
    }

    /// The queues of a topic that got more partitions: those that there are, and new ones.
    pub fn grown(&self, newest: Arc<TopicMetadata>, gathering: Gathering<'_>, next_lane: &AtomicU64) -> Self {
        let topic_bytes = batch_limit(&newest);
        let added = queues(&newest, self.queues.len() as u32, (gathering, topic_bytes), next_lane);
        Self {
            topic: newest,
            queues: self.queues.iter().cloned().chain(added).collect(),
            turn: AtomicU32::new(self.turn.load(Ordering::Relaxed)),
            topic_bytes: AtomicUsize::new(topic_bytes),
        }
    }

    /// The largest record that fits a batch of the topic, bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.topic_bytes
            .load(Ordering::Relaxed)
            .saturating_sub(BatchHeader::LEN)
    }

    /// Takes over the limit of the topic's newest metadata. Records that are gathered already keep their batches.
    pub fn take_limit(&self, newest: &TopicMetadata, config: &ProducerConfig) {
        let topic_bytes = batch_limit(newest);
        if self.topic_bytes.swap(topic_bytes, Ordering::Relaxed) != topic_bytes {
            for queue in &self.queues {
                queue.lock().set_batch_bytes(config.batch_bytes.min(topic_bytes));
            }
        }
    }

    /// Puts a record into its partition's queue; `report` is called for each queue in which a batch was opened or
    /// filled.
    pub fn append(
        &self,
        (record, condition): (&ProducerRecord, Option<Condition>),
        size_and_time: (usize, i64),
        mut report: impl FnMut(&Arc<PartitionQueue>, &Appended),
    ) -> Result<Appended, ClientError> {
        let partitions = self.queues.len() as u32;
        let fixed = match (record.partition, &record.key) {
            (Some(partition), _) => Some(partition),
            (None, Some(key)) if partitions > 0 => Some(partition_for_key(key, partitions).get()),
            _ => None,
        };
        let turn = match fixed {
            Some(partition) => partition,
            None => {
                let turn = self.turn.load(Ordering::Relaxed);
                let Some(queue) = self.queues.get(turn as usize) else {
                    return Err(self.no_partition(turn));
                };
                let appended = queue.append(record, size_and_time, (Place::OpenBatch, None))?;
                report(queue, &appended);
                if appended.delivery.is_some() {
                    return Ok(appended);
                }
                let next = self.after(turn);
                self.turn.store(next, Ordering::Relaxed);
                next
            }
        };
        let Some(queue) = self.queues.get(turn as usize) else {
            return Err(self.no_partition(turn));
        };
        let appended = queue.append(record, size_and_time, (Place::Anywhere, condition))?;
        report(queue, &appended);
        Ok(appended)
    }

    fn no_partition(&self, partition: u32) -> ClientError {
        ClientError::UnknownPartition {
            topic: self.topic.name.clone(),
            partition,
            partitions: self.queues.len() as u32,
        }
    }

    /// The next partition in turn that does not struggle; if all do, simply the next one.
    fn after(&self, turn: u32) -> u32 {
        let partitions = self.queues.len() as u32;
        let mut in_turn = (1..=partitions).map(|step| (turn + step) % partitions);
        let able = in_turn
            .clone()
            .find(|p| !self.queues[*p as usize].struggling.load(Ordering::Relaxed));
        able.or_else(|| in_turn.next()).unwrap_or(turn)
    }
}

/// Queues of a topic's partitions from `first` on.
fn queues(
    topic: &Arc<TopicMetadata>,
    first: u32,
    (gathering, topic_bytes): (Gathering<'_>, usize),
    next_lane: &AtomicU64,
) -> Vec<Arc<PartitionQueue>> {
    let Gathering {
        config,
        is_transactional,
    } = gathering;
    let batch_bytes = config.batch_bytes.min(topic_bytes);
    let accumulator = || Accumulator::new(config.compression, batch_bytes).transactional(is_transactional);
    let topic_id = topic.id_bytes();
    let queue = |partition| PartitionQueue {
        lane: next_lane.fetch_add(1, Ordering::Relaxed),
        topic: topic.clone(),
        topic_id: topic_id.clone(),
        partition,
        accumulator: Mutex::new(accumulator()),
        struggling: AtomicBool::new(false),
    };
    (first..topic.partitions.len() as u32)
        .map(queue)
        .map(Arc::new)
        .collect()
}

/// The largest batch that a topic takes, bytes.
fn batch_limit(topic: &TopicMetadata) -> usize {
    let set = topic.config.get(MAX_MESSAGE_BYTES).and_then(|text| text.parse().ok());
    set.unwrap_or(BATCH_BYTES_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::metadata::PartitionMetadata;
    use jangada_types::TopicId;

    fn queues(partitions: u32) -> TopicQueues {
        let partition = |partition| PartitionMetadata {
            partition,
            leader: None,
            leader_epoch: 0,
            replicas: Vec::new().into(),
        };
        let topic = TopicMetadata {
            name: "t".into(),
            id: TopicId([1; 16]),
            partitions: (0..partitions).map(partition).collect(),
            config: BTreeMap::new(),
        };
        let config = ProducerConfig {
            batch_bytes: 1024,
            ..ProducerConfig::default()
        };
        let gathering = Gathering {
            config: &config,
            is_transactional: false,
        };
        TopicQueues::new(Arc::new(topic), gathering, &AtomicU64::new(0), 0)
    }

    fn send(queues: &TopicQueues, record: ProducerRecord) -> u32 {
        let appended = queues.append((&record, None), (200, 0), |_, _| {}).expect("taken");
        appended.delivery.expect("in some batch").partition()
    }

    #[tokio::test]
    async fn without_a_key_the_partition_changes_with_the_batch() {
        let queues = queues(3);
        let record = || ProducerRecord::new("t").with_value(vec![0; 150]);
        let partitions: Vec<u32> = (0..15).map(|_| send(&queues, record())).collect();
        let runs: Vec<&[u32]> = partitions.chunk_by(|a, b| a == b).collect();
        assert_eq!(runs.len(), 3, "{partitions:?}");
        assert!(runs.iter().all(|run| run.len() == 5), "{partitions:?}");
        for queue in &queues.queues {
            queue.struggling.store(queue.partition != 1, Ordering::Relaxed);
        }
        let partitions: Vec<u32> = (0..20).map(|_| send(&queues, record())).collect();
        assert_eq!(partitions[10..], [1; 10], "around those that struggle");
    }

    #[tokio::test]
    async fn keys_go_where_kafka_puts_them() {
        let queues = queues(5);
        for key in ["21", "foobar", "abc", ""] {
            let expected = partition_for_key(key.as_bytes(), 5).get();
            assert_eq!(send(&queues, ProducerRecord::new("t").with_key(key)), expected, "{key}");
        }
        assert_eq!(
            send(&queues, ProducerRecord::new("t").with_key("21").with_partition(4)),
            4
        );
    }

    #[tokio::test]
    async fn a_partition_that_is_not_there_is_an_error() {
        let record = ProducerRecord::new("t").with_partition(5);
        let error = queues(5)
            .append((&record, None), (200, 0), |_, _| {})
            .err()
            .expect("refused");
        assert!(
            matches!(
                error,
                ClientError::UnknownPartition {
                    partition: 5,
                    partitions: 5,
                    ..
                }
            ),
            "{error}"
        );
    }
}
