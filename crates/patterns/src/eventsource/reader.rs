//! The streams of a topic in memory, kept as new as the log: a task that follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jangada_client::{Client, ClientError, ConsumedRecord, Consumer, ConsumerConfig, StartAt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::aggregate::{Aggregate, Commit, Stream};
use crate::error::PatternError;

/// The wait before reading goes on that failed for the moment.
const PAUSE: Duration = Duration::from_millis(100);

/// A commit as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<E> {
    /// The key of its stream.
    pub key: String,
    /// The partition that it is in.
    pub partition: u32,
    /// The offset in that partition.
    pub offset: i64,
    /// When it was made, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The command's id, and the events.
    pub commit: Commit<E>,
}

impl<E: serde::de::DeserializeOwned> Committed<E> {
    /// Reads a record of a topic of streams.
    ///
    /// # Errors
    /// [`PatternError::Unreadable`] with the place of the record.
    pub fn read(record: &ConsumedRecord) -> Result<Self, PatternError> {
        let unreadable = |why: String| PatternError::Unreadable {
            what: format!("the commit {}[{}]@{}", record.topic, record.partition, record.offset),
            why,
        };
        let Some(Ok(key)) = record.key.as_deref().map(std::str::from_utf8) else {
            return Err(unreadable("it has no key of UTF-8".to_owned()));
        };
        let commit = serde_json::from_slice(record.value.as_deref().unwrap_or_default());
        Ok(Self {
            key: key.to_owned(),
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            commit: commit.map_err(|error| unreadable(error.to_string()))?,
        })
    }
}

/// The streams by their keys, and those that changed since the last snapshot.
pub(super) struct Streams<A> {
    pub by_key: BTreeMap<String, Stream<A>>,
    /// The keys that have changed since the last snapshot. None: nobody makes snapshots.
    pub changed: Option<BTreeSet<String>>,
    remember: usize,
}

impl<A: Aggregate> Streams<A> {
    /// The streams of snapshots, or none. Of each stream so many ids are remembered.
    pub fn new(by_key: BTreeMap<String, Stream<A>>, remember: usize) -> Self {
        Self {
            by_key,
            changed: None,
            remember,
        }
    }

    /// Takes in a commit of the log, once.
    pub fn apply(&mut self, key: &str, offset: i64, commit: &Commit<A::Event>) {
        if let Some(changed) = &mut self.changed
            && !changed.contains(key)
        {
            changed.insert(key.to_owned());
        }
        match self.by_key.get_mut(key) {
            Some(stream) => stream.apply(offset, commit, self.remember),
            None => {
                let stream = self.by_key.entry(key.to_owned()).or_default();
                stream.apply(offset, commit, self.remember)
            }
        };
    }
}

/// How far the task is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Of each partition, everything below is in the streams.
    positions: BTreeMap<u32, i64>,
    /// The error after which nothing more is read, in words.
    ended: Option<Arc<str>>,
}

/// The streams of a topic, which a task keeps up to date until this is dropped.
pub(super) struct Reader<A> {
    streams: Arc<RwLock<Streams<A>>>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
    pub topic: String,
}

impl<A> Drop for Reader<A> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<A: Aggregate> Reader<A> {
    /// Reads the topic up to where it ends now, from these positions and streams on, and goes on following it.
    pub async fn open(
        client: &Client,
        topic: &str,
        remember: usize,
        (positions, by_key): (BTreeMap<u32, i64>, BTreeMap<String, Stream<A>>),
    ) -> Result<Self, PatternError> {
        let mut consumer = client.consumer(ConsumerConfig::default())?;
        let partitions = client.topic(topic).await?.partitions.len() as u32;
        let start = |partition| {
            positions
                .get(&partition)
                .map_or(StartAt::Earliest, |at| StartAt::Offset(*at))
        };
        let starts = (0..partitions).map(|partition| (topic, partition, start(partition)));
        consumer.assign(starts.collect()).await?;
        let ends = consumer.end_offsets().await?;
        let mut streams = Streams::new(by_key, remember);
        while !consumer.reached(&ends) {
            for record in next(&mut consumer).await? {
                let read = Committed::read(&record)?;
                streams.apply(&read.key, read.offset, &read.commit);
            }
        }
        let (told, progress) = watch::channel(Progress {
            positions: positions_of(&consumer, topic, partitions),
            ended: None,
        });
        let streams = Arc::new(RwLock::new(streams));
        let task = tokio::spawn(follow(consumer, topic.to_owned(), partitions, (streams.clone(), told)));
        Ok(Self {
            streams,
            progress,
            task,
            topic: topic.to_owned(),
        })
    }

    pub fn streams(&self) -> RwLockReadGuard<'_, Streams<A>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn streams_mut(&self) -> RwLockWriteGuard<'_, Streams<A>> {
        self.streams.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of each partition the offset below which everything is in the streams.
    pub fn positions(&self) -> BTreeMap<u32, i64> {
        self.progress.borrow().positions.clone()
    }

    /// Waits until everything below an offset is in the streams.
    pub async fn wait_for(&self, partition: u32, offset: i64, until: Instant) -> Result<(), PatternError> {
        let mut progress = self.progress.clone();
        let reached = |progress: &Progress| {
            let position = progress.positions.get(&partition);
            progress.ended.is_some() || position.is_some_and(|position| *position >= offset)
        };
        let waited = timeout_at(until, progress.wait_for(reached)).await;
        let place = || format!("{}[{partition}]", self.topic);
        match waited {
            Ok(Ok(progress)) => match &progress.ended {
                None => Ok(()),
                Some(why) => Err(PatternError::Unreadable {
                    what: place(),
                    why: why.to_string(),
                }),
            },
            Ok(Err(_)) => Err(PatternError::Client(ClientError::Closed)),
            Err(_) => Err(PatternError::Late {
                what: format!("offset {offset} of {} was not read", place()),
            }),
        }
    }
}

/// The next records, also after a failure that passes.
pub(super) async fn next(consumer: &mut Consumer) -> Result<Vec<ConsumedRecord>, ClientError> {
    loop {
        match consumer.next_batch().await {
            Err(error) if error.is_retryable() => sleep(PAUSE).await,
            result => return result,
        }
    }
}

fn positions_of(consumer: &Consumer, topic: &str, partitions: u32) -> BTreeMap<u32, i64> {
    let position = |partition| Some((partition, consumer.position(topic, partition)?));
    (0..partitions).filter_map(position).collect()
}

async fn follow<A: Aggregate>(
    mut consumer: Consumer,
    topic: String,
    partitions: u32,
    (streams, told): (Arc<RwLock<Streams<A>>>, watch::Sender<Progress>),
) {
    let ended = loop {
        let records = match next(&mut consumer).await {
            Ok(records) => records,
            Err(error) => break error.to_string(),
        };
        let read: Result<Vec<Committed<A::Event>>, _> = records.iter().map(Committed::read).collect();
        match read {
            Ok(commits) => {
                let mut streams = streams.write().unwrap_or_else(PoisonError::into_inner);
                for read in commits {
                    streams.apply(&read.key, read.offset, &read.commit);
                }
                drop(streams);
                told.send_modify(|progress| progress.positions = positions_of(&consumer, &topic, partitions));
            }
            Err(error) => break error.to_string(),
        }
    };
    tracing::error!(%topic, %ended, "the streams are not followed any more");
    told.send_modify(|progress| progress.ended = Some(ended.into()));
}
