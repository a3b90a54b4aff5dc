//! The consumer.
//!
//! ```text
//! fetcher (a task per partition, FetchStream) ──► Inbox ──► next(), next_batch(), next_raw()
//!        ▲                                                   │
//!        └──────────────── credit ◄──────────────────────────┘
//! ```

mod config;
mod fetcher;
mod inbox;
mod record;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::try_join_all;
use tokio::task::JoinHandle;

pub use config::{ConsumerConfig, OffsetReset, StartAt};
pub use record::{ConsumedRecord, RawBatches};

use crate::client::OffsetAt;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::metadata::TopicMetadata;
use fetcher::Fetcher;
use inbox::{Fetched, Inbox, Source, Window};

/// Reads partitions that it is assigned by hand.
///
/// Records of one partition come in the order of their offsets, without gaps or repetitions, across changes of leader too.
/// Partitions take turns as their data comes. When a partition cannot be read for `retry_timeout`, or not at all, one call
/// returns the error; the others go on, and so does this one if the error is [retryable](ClientError::is_retryable).
/// Otherwise it waits for a [`seek`](Self::seek) or another assignment.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{ConsumerConfig, StartAt};
///
/// let mut consumer = client.consumer(ConsumerConfig::default())?;
/// consumer.assign(vec![("orders", 0, StartAt::Earliest), ("orders", 1, StartAt::Offset(5000))]).await?;
/// // Up to what is there now.
/// let ends = consumer.end_offsets().await?;
/// while !consumer.reached(&ends) {
///     let record = consumer.next().await?;
///     println!("{}[{}]@{}: {:?}", record.topic, record.partition, record.offset, record.value);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    cluster: Arc<Cluster>,
    config: ConsumerConfig,
    inbox: Arc<Inbox>,
    slots: Vec<Slot>,
    next_generation: u64,
    /// Decoded and not handed out yet; all of one slot.
    decoded: VecDeque<ConsumedRecord>,
    decoded_slot: usize,
    /// What comes after `decoded`: its end, or the error behind it.
    decoded_end: Option<Result<i64, ClientError>>,
}

/// An assigned partition.
struct Slot {
    topic: Arc<TopicMetadata>,
    partition: u32,
    /// The next offset that is handed out.
    position: i64,
    generation: u64,
    window: Arc<Window>,
    task: JoinHandle<()>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ends of a consumer's partitions at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOffsets {
    ends: Vec<(Arc<str>, u32, i64)>,
}

impl EndOffsets {
    /// Topic, partition, and the offset after the last committed record.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, i64)> {
        self.ends
            .iter()
            .map(|(topic, partition, offset)| (&**topic, *partition, *offset))
    }
}

impl Consumer {
    pub(crate) fn new(cluster: Arc<Cluster>, config: ConsumerConfig) -> Result<Self, ClientError> {
        config.check()?;
        Ok(Self {
            cluster,
            config,
            inbox: Arc::default(),
            slots: Vec::new(),
            next_generation: 0,
            decoded: VecDeque::new(),
            decoded_slot: 0,
            decoded_end: None,
        })
    }

    /// Reads these partitions from now on, instead of the ones before. Where they start is looked up before this returns; on
    /// an error nothing changes.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], [`ClientError::Config`] for one named twice or a
    /// negative offset, or when a leader does not answer within `retry_timeout`.
    pub async fn assign<T: Into<Arc<str>>>(&mut self, partitions: Vec<(T, u32, StartAt)>) -> Result<(), ClientError> {
        let partitions: Vec<_> = partitions
            .into_iter()
            .map(|(topic, partition, at)| (topic.into(), partition, at))
            .collect();
        for (index, (topic, partition, _)) in partitions.iter().enumerate() {
            if partitions[..index].iter().any(|(t, p, _)| t == topic && p == partition) {
                return Err(ClientError::Config(format!("{topic}[{partition}] is named twice")));
            }
        }
        let cluster = &self.cluster;
        let starts = try_join_all(partitions.into_iter().map(|(topic, partition, at)| async move {
            let topic = cluster.partition(&topic, partition).await?;
            let offset = start_offset(cluster, &topic, partition, at).await?;
            Ok((topic, partition, offset))
        }))
        .await?;
        self.slots.clear();
        self.inbox.retain(|_| false);
        self.forget_decoded();
        let share = self.config.share_bytes(starts.len());
        for (index, (topic, partition, offset)) in starts.into_iter().enumerate() {
            let slot = self.start(index, topic, partition, offset, share);
            self.slots.push(slot);
        }
        Ok(())
    }

    /// Reads all partitions of a topic from now on.
    ///
    /// # Errors
    /// As [`assign`](Self::assign).
    pub async fn assign_topic(&mut self, topic: &str, at: StartAt) -> Result<(), ClientError> {
        let name: Arc<str> = topic.into();
        let found = self.cluster.topic(&name).await?;
        self.assign(
            (0..found.partitions.len() as u32)
                .map(|partition| (name.clone(), partition, at))
                .collect(),
        )
        .await
    }

    /// Goes on elsewhere in one of the partitions.
    ///
    /// # Errors
    /// [`ClientError::Config`] for a partition that is not assigned or a negative offset; or when its leader does not answer
    /// within `retry_timeout`.
    pub async fn seek(&mut self, topic: &str, partition: u32, at: StartAt) -> Result<(), ClientError> {
        let index = self
            .find(topic, partition)
            .ok_or_else(|| ClientError::Config(format!("{topic}[{partition}] is not assigned")))?;
        let topic = self.slots[index].topic.clone();
        let offset = start_offset(&self.cluster, &topic, partition, at).await?;
        let share = self.config.share_bytes(self.slots.len());
        self.slots[index] = self.start(index, topic, partition, offset, share);
        let generation = self.slots[index].generation;
        self.inbox
            .retain(|source| source.slot != index || source.generation == generation);
        if self.decoded_slot == index {
            self.forget_decoded();
        }
        Ok(())
    }

    /// The next record; waits for one. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// What a partition runs into; see [`Consumer`].
    pub async fn next(&mut self) -> Result<ConsumedRecord, ClientError> {
        loop {
            if let Some(record) = self.decoded.pop_front() {
                self.slots[self.decoded_slot].position = record.offset + 1;
                return Ok(record);
            }
            self.finish_decoded()?;
            let (index, raw) = self.take().await?;
            self.decode(index, &raw);
        }
    }

    /// The next records of some partition, at least one; waits for them. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// What a partition runs into; see [`Consumer`].
    pub async fn next_batch(&mut self) -> Result<Vec<ConsumedRecord>, ClientError> {
        loop {
            if !self.decoded.is_empty() {
                let records: Vec<_> = std::mem::take(&mut self.decoded).into();
                let last = records.last().expect("not empty");
                self.slots[self.decoded_slot].position = last.offset + 1;
                if let Some(Ok(_)) = self.decoded_end {
                    self.finish_decoded()?;
                }
                return Ok(records);
            }
            self.finish_decoded()?;
            let (index, raw) = self.take().await?;
            self.decode(index, &raw);
        }
    }

    /// The next batches of some partition, undecoded and unchecked; waits for them. A call that is dropped loses nothing.
    ///
    /// Not to be mixed with the other two while they have records left of a response: those come first there and are skipped
    /// here.
    ///
    /// # Errors
    /// What a partition runs into; see [`Consumer`].
    pub async fn next_raw(&mut self) -> Result<RawBatches, ClientError> {
        self.decoded.clear();
        self.finish_decoded()?;
        let (index, raw) = self.take().await?;
        self.slots[index].position = raw.next_offset;
        Ok(raw)
    }

    /// The next offset of a partition that will be handed out. `None`: it is not assigned.
    pub fn position(&self, topic: &str, partition: u32) -> Option<i64> {
        self.find(topic, partition).map(|index| self.slots[index].position)
    }

    /// The offset after a partition's last committed record, as far as was heard. `None`: not assigned, or nothing heard yet.
    pub fn high_watermark(&self, topic: &str, partition: u32) -> Option<i64> {
        let index = self.find(topic, partition)?;
        let heard = self.slots[index].window.high_watermark.load(Ordering::Relaxed);
        (heard >= 0).then_some(heard)
    }

    /// Where the assigned partitions end now, confirmed with their quorums.
    ///
    /// # Errors
    /// When a leader does not answer within `retry_timeout`.
    pub async fn end_offsets(&self) -> Result<EndOffsets, ClientError> {
        let ends = self.slots.iter().map(|slot| async move {
            let found = self
                .cluster
                .list_offsets(&slot.topic, slot.partition, OffsetAt::Latest)
                .await?;
            Ok::<_, ClientError>((slot.topic.name.clone(), slot.partition, found.offset.unwrap_or(0)))
        });
        Ok(EndOffsets {
            ends: try_join_all(ends).await?,
        })
    }

    /// Whether everything before these ends was handed out. A partition that is no longer assigned does not count.
    pub fn reached(&self, ends: &EndOffsets) -> bool {
        ends.iter()
            .all(|(topic, partition, end)| self.position(topic, partition).is_none_or(|position| position >= end))
    }

    fn find(&self, topic: &str, partition: u32) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.partition == partition && *slot.topic.name == *topic)
    }

    fn start(&mut self, index: usize, topic: Arc<TopicMetadata>, partition: u32, offset: i64, share: usize) -> Slot {
        let generation = self.next_generation;
        self.next_generation += 1;
        let window = Arc::new(Window::new(share));
        let fetcher = Fetcher {
            cluster: self.cluster.clone(),
            topic: topic.clone(),
            partition,
            source: Source {
                slot: index,
                generation,
            },
            inbox: self.inbox.clone(),
            window: window.clone(),
            max_bytes: self.config.max_partition_bytes.min(share) as u32,
            offset_reset: self.config.offset_reset,
            next_offset: offset,
        };
        Slot {
            topic,
            partition,
            position: offset,
            generation,
            window,
            task: tokio::spawn(fetcher.run()),
        }
    }

    /// What was fetched next, and from which slot.
    async fn take(&mut self) -> Result<(usize, RawBatches), ClientError> {
        loop {
            let (source, fetched) = self.inbox.take().await;
            let current = self
                .slots
                .get_mut(source.slot)
                .filter(|slot| slot.generation == source.generation);
            // A task that is aborted may still have delivered.
            let Some(slot) = current else { continue };
            match fetched {
                Fetched::Failed(error) => return Err(error),
                Fetched::Moved { to } => slot.position = to,
                Fetched::Batches {
                    batches,
                    first_offset,
                    next_offset,
                    high_watermark,
                } => {
                    slot.window.release(batches.len() as i64);
                    let raw = RawBatches {
                        topic: slot.topic.name.clone(),
                        partition: slot.partition,
                        batches,
                        first_offset,
                        next_offset,
                        high_watermark,
                    };
                    return Ok((source.slot, raw));
                }
            }
        }
    }

    fn decode(&mut self, index: usize, raw: &RawBatches) {
        self.decoded_slot = index;
        let decoded = raw.decode_into(&mut self.decoded);
        self.decoded_end = Some(decoded.map(|()| raw.next_offset).map_err(|error| ClientError::Corrupt {
            topic: raw.topic.clone(),
            partition: raw.partition,
            offset: self.decoded.back().map_or(raw.first_offset, |record| record.offset + 1),
            message: error.to_string(),
        }));
    }

    /// All that was decoded is handed out: what came after it?
    fn finish_decoded(&mut self) -> Result<(), ClientError> {
        match self.decoded_end.take() {
            Some(Ok(next_offset)) => self.slots[self.decoded_slot].position = next_offset,
            Some(Err(error)) => {
                // Nothing behind the damage is handed out until a seek.
                let slot = &mut self.slots[self.decoded_slot];
                slot.task.abort();
                slot.generation = u64::MAX;
                return Err(error);
            }
            None => {}
        }
        Ok(())
    }

    fn forget_decoded(&mut self) {
        self.decoded.clear();
        self.decoded_end = None;
    }
}

async fn start_offset(
    cluster: &Cluster,
    topic: &TopicMetadata,
    partition: u32,
    at: StartAt,
) -> Result<i64, ClientError> {
    let list = async |at| {
        cluster
            .list_offsets(topic, partition, at)
            .await
            .map(|found| found.offset)
    };
    let found = match at {
        StartAt::Offset(offset) if offset < 0 => {
            return Err(ClientError::Config(format!("offset {offset}: offsets begin at 0")));
        }
        StartAt::Offset(offset) => return Ok(offset),
        StartAt::Earliest => list(OffsetAt::Earliest).await?,
        StartAt::Latest => list(OffsetAt::Latest).await?,
        StartAt::Timestamp(ms) => match list(OffsetAt::Timestamp(ms)).await? {
            Some(offset) => Some(offset),
            None => list(OffsetAt::Latest).await?,
        },
    };
    Ok(found.unwrap_or(0))
}
