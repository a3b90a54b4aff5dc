//! A topic as a table: the newest value of each key, kept in memory and followed.
//!
//! Made for topics that are compacted by key, which keep that value of each key for ever; any topic whose records have keys will do. A
//! record without a value (a tombstone) deletes its key; one without a key is passed over.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::consumer::{ConsumedRecord, Consumer, ConsumerConfig, StartAt};
use crate::error::ClientError;

/// Changes that may wait for who follows them.
const CHANGES_MAX: usize = 65_536;

/// How a table reads.
#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// How records are read. Those of transactions count when they are committed, by default.
    pub consumer: ConsumerConfig,
    /// Only these partitions. Empty, the default: all, with those that are added later.
    pub partitions: Vec<u32>,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// The partition of the record that changed it.
    pub partition: u32,
    /// The record's offset.
    pub offset: i64,
    /// The key that changes.
    pub key: Bytes,
    /// Its value before; none: it was not there.
    pub before: Option<Bytes>,
    /// Its value from now on; none: it is deleted.
    pub value: Option<Bytes>,
}

/// The newest value of each key of a topic, in memory.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{ProducerConfig, ProducerRecord, Table, TableOptions};
///
/// // Everything that is there now.
/// let prices = Table::open(&client, "prices", TableOptions::default()).await?;
/// println!("{} prices, a lamp is {:?}", prices.len(), prices.get(b"lamp"));
///
/// // One's own write is there once its offset is.
/// let producer = client.producer(ProducerConfig::default())?;
/// let sent = producer.send(ProducerRecord::new("prices").with_key("lamp").with_value("12")).await?.await?;
/// prices.wait_for(sent.partition, sent.offset.unwrap_or(0) + 1).await?;
/// assert_eq!(prices.get(b"lamp").as_deref(), Some(&b"12"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Table {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    rows: RwLock<BTreeMap<Bytes, Bytes>>,
    /// Who follows the changes.
    followers: Mutex<Vec<mpsc::Sender<TableChange>>>,
}

/// How far the table is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// The position of each partition: everything below is in the table.
    positions: BTreeMap<u32, i64>,
    /// The error after which nothing more is read.
    ended: Option<ClientError>,
}

impl Shared {
    fn rows(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn followers(&self) -> MutexGuard<'_, Vec<mpsc::Sender<TableChange>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, records: &[ConsumedRecord]) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut followers = self.followers();
        for record in records {
            let Some(key) = &record.key else { continue };
            // Copied: what a record has are slices of the whole response.
            let value = record.value.as_deref().map(Bytes::copy_from_slice);
            let before = match &value {
                Some(value) => match rows.get_mut(key) {
                    Some(place) => Some(std::mem::replace(place, value.clone())),
                    None => rows.insert(Bytes::copy_from_slice(key), value.clone()),
                },
                None => rows.remove(key),
            };
            if followers.is_empty() {
                continue;
            }
            let change = TableChange {
                partition: record.partition,
                offset: record.offset,
                key: Bytes::copy_from_slice(key),
                before,
                value,
            };
            followers.retain(|follower| follower.try_send(change.clone()).is_ok());
        }
    }
}

impl Table {
    /// Reads the topic up to where it ends now, and goes on following it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`]; the error that a partition runs into.
    pub async fn open(client: &Client, topic: &str, options: TableOptions) -> Result<Self, ClientError> {
        let mut consumer = client.consumer(options.consumer)?;
        if options.partitions.is_empty() {
            consumer.assign_topic(topic, StartAt::Earliest).await?;
        } else {
            let partitions = options.partitions.iter();
            let partitions = partitions.map(|partition| (topic, *partition, StartAt::Earliest));
            consumer.assign(partitions.collect()).await?;
        }
        let ends = consumer.end_offsets().await?;
        let shared = Arc::new(Shared::default());
        while !consumer.reached(&ends) {
            shared.apply(&consumer.next_batch().await?);
        }
        let first = positions(&consumer, topic);
        let progress = watch::Sender::new(first);
        let seen = progress.subscribe();
        let task = tokio::spawn(follow(consumer, topic.to_owned(), shared.clone(), progress));
        Ok(Self {
            shared,
            progress: seen,
            task,
        })
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Bytes> {
        self.shared.rows().get(key.as_ref()).cloned()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.shared.rows().len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.shared.rows().is_empty()
    }

    /// All keys with their values, by key. A key that changes meanwhile comes with its value before or after; those that neither come nor
    /// go come once.
    pub fn iter(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        let mut last: Option<Bytes> = None;
        std::iter::from_fn(move || {
            let rows = self.shared.rows();
            let after = last
                .as_ref()
                .map_or(Bound::Unbounded, |last| Bound::Excluded(last.clone()));
            let (key, value) = rows.range((after, Bound::Unbounded)).next()?;
            last = Some(key.clone());
            Some((key.clone(), value.clone()))
        })
    }

    /// The offset in a partition below which everything is in the table; none if the partition is not read.
    pub fn position(&self, partition: u32) -> Option<i64> {
        self.progress.borrow().positions.get(&partition).copied()
    }

    /// Waits until everything below an offset of a partition is in the table. Of one's own record that is its offset + 1.
    ///
    /// # Errors
    /// The error after which the table reads nothing more.
    pub async fn wait_for(&self, partition: u32, offset: i64) -> Result<(), ClientError> {
        let mut progress = self.progress.clone();
        let reached = |progress: &Progress| {
            progress.ended.is_some()
                || progress
                    .positions
                    .get(&partition)
                    .is_some_and(|position| *position >= offset)
        };
        match progress.wait_for(reached).await.as_deref() {
            Ok(Progress { ended: None, .. }) => Ok(()),
            Ok(Progress { ended: Some(error), .. }) => Err(error.clone()),
            Err(_) => Err(ClientError::Closed),
        }
    }

    /// The changes from now on, in the order in which the table takes them. It ends when 65,536 of them wait, for the table waits for
    /// nobody: begin anew then. It also ends when the table is dropped, or reads nothing more: [`wait_for`](Self::wait_for) tells why.
    pub fn changes(&self) -> impl Stream<Item = TableChange> + Send + 'static {
        let (follower, changes) = mpsc::channel(CHANGES_MAX);
        self.shared.followers().push(follower);
        // One that comes after the end would wait for ever.
        if self.progress.borrow().ended.is_some() {
            self.shared.followers().clear();
        }
        futures::stream::unfold(changes, |mut changes| async {
            let change = changes.recv().await?;
            Some((change, changes))
        })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.followers().clear();
    }
}

fn positions(consumer: &Consumer, topic: &str) -> Progress {
    let read = consumer.partitions();
    let positions = read.filter_map(|partition| Some((partition, consumer.position(topic, partition)?)));
    Progress {
        positions: positions.collect(),
        ended: None,
    }
}

async fn follow(mut consumer: Consumer, topic: String, shared: Arc<Shared>, progress: watch::Sender<Progress>) {
    loop {
        match consumer.next_batch().await {
            Ok(records) => {
                shared.apply(&records);
                progress.send_replace(positions(&consumer, &topic));
            }
            // The partition goes on by itself.
            Err(error) if error.is_retryable() => {}
            Err(error) => {
                progress.send_modify(|progress| progress.ended = Some(error));
                shared.followers().clear();
                return;
            }
        }
    }
}
