//! The consumer: reads partitions that its caller assigns.
//!
//! ```text
//! fetcher (a task per partition, FetchStream) ──► Inbox ──► Reader ──► next(), next_batch(), next_raw()
//!        ▲                                                    │
//!        └───────────────── credit ◄──────────────────────────┘
//! ```

mod config;
mod fetcher;
mod inbox;
mod reader;
mod record;
mod subscribed;
mod visible;

use std::sync::Arc;

use futures::future::try_join_all;

pub use config::{ConsumerConfig, OffsetReset, OnBadBatch, Skipped, StartAt};
pub(crate) use inbox::FetchSession;
pub(crate) use reader::{NextBatch, Reader};
pub use record::{ConsumedRecord, RawBatches};

use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::isolation::Isolation;
use crate::metadata::TopicMetadata;
use crate::offset_at::OffsetAt;
use subscribed::{Followed, Subscribed};

/// Reads partitions that it is assigned by hand.
///
/// Records of one partition come in the order of their offsets, without repetitions, across changes of leader too. Offsets are missing
/// between them only where a transaction has ended or was aborted, or compaction has taken records; otherwise that is
/// [`ClientError::Gap`].
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
///     for record in consumer.next_batch().await? {
///         println!("{}[{}]@{}: {:?}", record.topic, record.partition, record.offset, record.value);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    cluster: Arc<Cluster>,
    isolation: Isolation,
    reader: Reader,
    /// The topics that are read as a whole, with partitions that are added later.
    subscribed: Option<Subscribed>,
}

/// The ends of a consumer's partitions at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndOffsets {
    ends: Vec<(Arc<str>, u32, i64)>,
}

impl EndOffsets {
    /// Iterates over topic, partition, and the offset after the last committed record.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, i64)> {
        self.ends
            .iter()
            .map(|(topic, partition, offset)| (&**topic, *partition, *offset))
    }
}

impl Consumer {
    pub(crate) fn new(cluster: Arc<Cluster>, config: ConsumerConfig) -> Result<Self, ClientError> {
        Ok(Self {
            isolation: config.isolation,
            reader: Reader::new(cluster.clone(), config, None)?,
            subscribed: None,
            cluster,
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
        let (cluster, isolation) = (&self.cluster, self.isolation);
        let starts = try_join_all(partitions.into_iter().map(|(topic, partition, at)| async move {
            let topic = cluster.partition(&topic, partition).await?;
            let offset = start_offset(cluster, &topic, partition, (at, isolation)).await?;
            Ok::<_, ClientError>((topic, partition, offset))
        }))
        .await?;
        self.replace(starts, None);
        Ok(())
    }

    /// Replaces all that is read by `starts`.
    fn replace(&mut self, starts: Vec<(Arc<TopicMetadata>, u32, i64)>, subscribed: Option<Subscribed>) {
        self.reader.clear();
        self.reader.add(starts);
        self.subscribed = subscribed;
    }

    /// Reads all partitions of a topic from now on, instead of the ones before, also those that are added later: within
    /// `metadata_max_age` they are read from their first record on, whatever `at` is, for all that is in them came after this call.
    /// A [`Notice`](crate::Notice) tells of them.
    ///
    /// # Errors
    /// The errors of [`assign`](Self::assign).
    pub async fn assign_topic(&mut self, topic: &str, at: StartAt) -> Result<(), ClientError> {
        self.assign_topics(vec![(topic, at)]).await
    }

    /// Like [`assign_topic`](Self::assign_topic), for several topics.
    ///
    /// # Errors
    /// The errors of [`assign`](Self::assign).
    pub async fn assign_topics<T: Into<Arc<str>>>(&mut self, topics: Vec<(T, StartAt)>) -> Result<(), ClientError> {
        let mut followed: Vec<Followed> = Vec::new();
        let mut wanted = Vec::new();
        for (name, at) in topics {
            let topic = self.cluster.topic(&name.into()).await?;
            if followed.iter().any(|other| other.topic.id == topic.id) {
                return Err(ClientError::Config(format!("{} is named twice", topic.name)));
            }
            let partitions = topic.partitions.len() as u32;
            wanted.extend((0..partitions).map(|partition| (topic.clone(), partition, at)));
            followed.push(Followed { topic, partitions });
        }
        let (cluster, isolation) = (&self.cluster, self.isolation);
        let starts = try_join_all(wanted.into_iter().map(|(topic, partition, at)| async move {
            let offset = start_offset(cluster, &topic, partition, (at, isolation)).await?;
            Ok::<_, ClientError>((topic, partition, offset))
        }))
        .await?;
        // No failure is possible from here on.
        let subscribed = Subscribed::new(&self.cluster, followed);
        self.replace(starts, Some(subscribed));
        Ok(())
    }

    /// Also reads partitions that are added to these topics after the last one that is read now, from their first
    /// record on, until the next assignment. [`assign_topic`](Self::assign_topic) does this by itself; this is for
    /// partitions that begin each at another offset.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], or when no broker answers within `retry_timeout`.
    pub async fn follow<T: Into<Arc<str>>>(&mut self, topics: Vec<T>) -> Result<(), ClientError> {
        let mut followed = Vec::new();
        for name in topics {
            let topic = self.cluster.topic(&name.into()).await?;
            let read = self.reader.partitions().filter(|(read, _)| read.id == topic.id);
            let partitions = read.map(|(_, partition)| partition + 1).max().unwrap_or(0);
            followed.push(Followed { topic, partitions });
        }
        self.subscribed = Some(Subscribed::new(&self.cluster, followed));
        Ok(())
    }

    /// Takes up partitions that were added to the topics, if the metadata has changed.
    fn take_added(&mut self) {
        for (topic, added) in self.subscribed.iter_mut().flat_map(Subscribed::added) {
            self.reader.add_new(&topic, added);
        }
    }

    /// Waits until there are records to hand out.
    async fn fill(&mut self) -> Result<(), ClientError> {
        loop {
            self.take_added();
            tokio::select! {
                biased;
                filled = self.reader.fill() => return filled.map_err(|(_, error)| error),
                () = Subscribed::changed(&mut self.subscribed) => {}
            }
        }
    }

    /// Continues one of the partitions at another position.
    ///
    /// # Errors
    /// [`ClientError::Config`] for a partition that is not assigned or a negative offset; or when its leader does not answer
    /// within `retry_timeout`.
    pub async fn seek(&mut self, topic: &str, partition: u32, at: StartAt) -> Result<(), ClientError> {
        let session = self
            .reader
            .find(topic, partition)
            .ok_or_else(|| ClientError::Config(format!("{topic}[{partition}] is not assigned")))?;
        let topic = self.reader.topic(session).clone();
        let offset = start_offset(&self.cluster, &topic, partition, (at, self.isolation)).await?;
        self.reader.remove(&[session]);
        self.reader.add([(topic, partition, offset)]);
        Ok(())
    }

    /// The next record; waits for one. A call that is dropped loses nothing.
    ///
    /// It waits on when an end is [reached](Self::reached) without a record, because a batch was skipped or a position
    /// was reset: a caller that reads up to an end uses [`next_batch`](Self::next_batch).
    ///
    /// # Errors
    /// The error that a partition runs into; see [`Consumer`].
    pub async fn next(&mut self) -> Result<ConsumedRecord, ClientError> {
        loop {
            self.fill().await?;
            if let Some((_, record)) = self.reader.pop() {
                return Ok(record);
            }
            self.reader.take_passed();
        }
    }

    /// The next records of some partition, at least one, about 1 MiB or one batch of them; waits for them. A call that is dropped
    /// loses nothing.
    ///
    /// The result is empty when a partition's position moved without a record, so that a caller that waits for an end
    /// sees that it is [reached](Self::reached): when a batch was skipped and nothing came behind it
    /// ([`OnBadBatch::Skip`]), when a transaction ended there or was aborted, or when the position was reset because
    /// its records are gone ([`OffsetReset`]).
    ///
    /// # Errors
    /// The error that a partition runs into; see [`Consumer`].
    pub async fn next_batch(&mut self) -> Result<Vec<ConsumedRecord>, ClientError> {
        self.fill().await?;
        self.reader.take_passed();
        Ok(self
            .reader
            .pop_all(usize::MAX)
            .map_or_else(Vec::new, |(_, records)| records))
    }

    /// The next batches of some partition, undecoded and unchecked; waits for them. A call that is dropped loses
    /// nothing. The result has no batches, and both offsets are the new position, when the position was reset because
    /// its records are gone ([`OffsetReset`]).
    ///
    /// Do not mix it with the other two while they have records left of a response: those records come first there, and
    /// are skipped here.
    ///
    /// # Errors
    /// The error that a partition runs into; see [`Consumer`].
    pub async fn next_raw(&mut self) -> Result<RawBatches, ClientError> {
        loop {
            self.take_added();
            tokio::select! {
                biased;
                raw = self.reader.next_raw() => return raw.map_err(|(_, error)| error),
                () = Subscribed::changed(&mut self.subscribed) => {}
            }
        }
    }

    /// The indexes of the partitions that are read.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = u32> {
        self.reader.partitions().map(|(_, partition)| partition)
    }

    /// How much was skipped so far, with [`OnBadBatch::Skip`].
    pub fn skipped(&self) -> Skipped {
        self.reader.skipped()
    }

    /// The next offset of a partition that will be handed out. `None`: it is not assigned.
    pub fn position(&self, topic: &str, partition: u32) -> Option<i64> {
        self.reader
            .find(topic, partition)
            .map(|session| self.reader.position(session))
    }

    /// The offset after a partition's last committed record, by the newest answer. `None`: not assigned, or no answer
    /// yet.
    pub fn high_watermark(&self, topic: &str, partition: u32) -> Option<i64> {
        self.reader.high_watermark(self.reader.find(topic, partition)?)
    }

    /// Where the assigned partitions end now for this consumer's [`Isolation`], confirmed with their quorums.
    ///
    /// # Errors
    /// Fails when a leader does not answer within `retry_timeout`.
    pub async fn end_offsets(&self) -> Result<EndOffsets, ClientError> {
        let ends = self.reader.partitions().map(|(topic, partition)| async move {
            let latest = (OffsetAt::Latest, self.isolation);
            let found = self.cluster.list_offsets(topic, partition, latest).await?;
            Ok::<_, ClientError>((topic.name.clone(), partition, found.offset.unwrap_or(0)))
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
}

/// Where reading begins, as an offset.
pub(crate) async fn start_offset(
    cluster: &Cluster,
    topic: &TopicMetadata,
    partition: u32,
    (at, isolation): (StartAt, Isolation),
) -> Result<i64, ClientError> {
    let list = async |at| {
        cluster
            .list_offsets(topic, partition, (at, isolation))
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
        StartAt::Timestamp(ms) => {
            // The end is found first: records that are appended after it are then found by the search, or read.
            let end = list(OffsetAt::Latest).await?;
            list(OffsetAt::Timestamp(ms)).await?.or(end)
        }
    };
    Ok(found.unwrap_or(0))
}
