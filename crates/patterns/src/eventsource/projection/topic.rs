//! A projection into a compacted topic: rows by key, and the position in the same transaction.
//!
//! | key | value |
//! |---|---|
//! | `r/GENERATION/KEY` | a row |
//! | `p/GENERATION/PARTITION` | the offset below which the generation has everything of the partition |
//! | `live` | the generation that is read |
//! | `building` | the generation that is being filled; no record: none |
//!
//! The topic has one partition, so a reader that finds a position has the rows that belong to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_client::{
    Client, ClientError, Consumer, ConsumerConfig, NewTopic, ProducerConfig, ProducerRecord, StartAt, Table,
    TableOptions, TransactionOptions, TransactionalProducer,
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::has_come_as_far;
use crate::error::PatternError;
use crate::eventsource::reader::{Committed, next};
use crate::eventsource::transacted;

/// How often a reader that waits for an offset looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How often a projection without new events looks whether the one that is being built has caught up.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// The wait before a transaction that was aborted is done again.
const PAUSE: Duration = Duration::from_millis(200);
/// Rows of an old generation that are deleted in one transaction.
const DELETED_AT_ONCE: usize = 5_000;

/// What a projection keeps in a compacted topic.
pub trait TopicView: Send + Sync + 'static {
    /// The events that it is made of.
    type Event: DeserializeOwned + Send + Sync + 'static;

    /// Brings the rows up to date. It must depend on nothing but the rows and the commit, so that a rebuild comes to the same.
    fn apply(&self, rows: &mut Rows, committed: &Committed<Self::Event>);
}

/// The rows of one generation, in memory.
#[derive(Debug, Default)]
pub struct Rows {
    rows: BTreeMap<String, Bytes>,
    changed: BTreeSet<String>,
}

impl Rows {
    /// The value of a row.
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.rows.get(key)
    }

    /// Writes a row.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Bytes>) {
        let key = key.into();
        self.changed.insert(key.clone());
        self.rows.insert(key, value.into());
    }

    /// Deletes a row.
    pub fn remove(&mut self, key: &str) {
        self.changed.insert(key.to_owned());
        self.rows.remove(key);
    }
}

/// Keeps a view in a compacted topic as new as the topic of events. One process does so at a time, under the transactional id
/// `projection-TOPIC`: who begins fences the one before, which ends with
/// [`ProducerFenced`](jangada_client::ClientError::ProducerFenced).
pub struct TopicProjection<V> {
    client: Client,
    topic: Arc<str>,
    partitions: u32,
    view: V,
    view_topic: Arc<str>,
    producer: TransactionalProducer,
}

/// A generation in memory, and the consumer that fills it.
struct Generation {
    number: u64,
    rows: Rows,
    positions: BTreeMap<u32, i64>,
    consumer: Consumer,
}

impl<V: TopicView> TopicProjection<V> {
    /// Creates the topic of the view, unless it is there.
    ///
    /// # Errors
    /// What creating a topic may fail with.
    pub async fn create(client: &Client, view_topic: &str, replicas: u32) -> Result<(), PatternError> {
        let mut topic = NewTopic::new(view_topic, 1, replicas);
        topic.config.insert("cleanup.policy".to_owned(), "compact".to_owned());
        topic.if_not_exists = true;
        client.admin().create_topic(topic).await?;
        Ok(())
    }

    /// Becomes the one that writes the view.
    ///
    /// # Errors
    /// What opening a transactional producer may fail with.
    pub async fn open(client: &Client, topic: &str, view_topic: &str, view: V) -> Result<Self, PatternError> {
        let options = TransactionOptions {
            timeout: Duration::from_secs(20),
            ..TransactionOptions::default()
        };
        let id = format!("projection-{view_topic}");
        Ok(Self {
            client: client.clone(),
            partitions: client.topic(topic).await?.partitions.len() as u32,
            topic: topic.into(),
            view,
            view_topic: view_topic.into(),
            producer: TransactionalProducer::open(client, id, options).await?,
        })
    }

    /// Has whoever runs the projection fill a new generation beside the live one, which takes its place when it has come as far. One that
    /// was begun before goes on, also after a crash. Returns its number.
    ///
    /// # Errors
    /// [`PatternError::Config`] when the projection never ran; [`PatternError::Client`].
    pub async fn rebuild(client: &Client, view_topic: &str) -> Result<u64, PatternError> {
        let table = Table::open(client, view_topic, TableOptions::default()).await?;
        let Some(live) = number(&table, "live") else {
            let why = format!("the projection {view_topic:?} has nothing to rebuild: run it first");
            return Err(PatternError::Config(why));
        };
        if let Some(building) = number(&table, "building").filter(|building| *building > live) {
            return Ok(building);
        }
        let producer = client.producer(ProducerConfig::default())?;
        let asked = ProducerRecord::new(view_topic)
            .with_key("building")
            .with_value((live + 1).to_string());
        producer.send(asked).await?.await?;
        producer.close().await;
        Ok(live + 1)
    }

    /// Keeps the live generation up to date, and fills the one that is being built, until `stop` is ready. A transaction that is aborted is
    /// done again from what the topic has.
    ///
    /// # Errors
    /// [`ProducerFenced`](jangada_client::ClientError::ProducerFenced): another process has taken over.
    /// [`PatternError::Unreadable`] for a record that is no commit; [`PatternError::Client`] that no retry mends.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), PatternError> {
        let stop = std::pin::pin!(stop);
        let work = async {
            loop {
                match self.work().await {
                    Err(PatternError::Client(error)) if passes(&error) => {
                        tracing::warn!(%error, view = %self.view_topic, "the projection begins anew at what is committed");
                        sleep(PAUSE).await;
                    }
                    Err(error) => return error,
                    Ok(never) => match never {},
                }
            }
        };
        tokio::select! {
            () = stop => Ok(()),
            error = work => Err(error),
        }
    }

    /// Loads what is committed, and goes on from there until something fails.
    async fn work(&mut self) -> Result<std::convert::Infallible, PatternError> {
        let table = Table::open(&self.client, &self.view_topic, TableOptions::default()).await?;
        let live_now = match number(&table, "live") {
            Some(live) => live,
            None => {
                self.write(vec![("live".to_owned(), Some("1".into()))]).await?;
                1
            }
        };
        let mut live = self.load(&table, live_now).await?;
        let mut building: Option<Generation> = None;
        self.delete_old(&table, live_now).await?;
        loop {
            let wanted = number(&table, "building").filter(|wanted| *wanted > live.number);
            if let (None, Some(wanted)) = (&building, wanted) {
                building = Some(self.load(&table, wanted).await?);
            }
            let (records, of_live) = tokio::select! {
                records = next_of(building.as_mut()) => (records?, false),
                records = next_of(Some(&mut live)) => (records?, true),
                () = sleep(IDLE_INTERVAL) => (Vec::new(), building.is_none()),
            };
            let generation = match (&mut building, of_live) {
                (Some(building), false) => building,
                _ => &mut live,
            };
            self.apply(generation, &records).await?;
            if let Some(built) = building.take_if(|built| has_come_as_far(&built.positions, &live.positions)) {
                let old = std::mem::replace(&mut live, built);
                self.switch(&old, live.number).await?;
            }
        }
    }

    async fn load(&self, table: &Table, number: u64) -> Result<Generation, PatternError> {
        let (row, place) = (format!("r/{number}/"), format!("p/{number}/"));
        let mut rows = Rows::default();
        let mut positions: BTreeMap<u32, i64> = (0..self.partitions).map(|partition| (partition, 0)).collect();
        for (key, value) in table.iter() {
            let Ok(key) = std::str::from_utf8(&key) else { continue };
            if let Some(key) = key.strip_prefix(&row) {
                rows.rows.insert(key.to_owned(), value);
            } else if let Some(Ok(partition)) = key.strip_prefix(&place).map(str::parse) {
                let position = std::str::from_utf8(&value).ok().and_then(|value| value.parse().ok());
                positions.insert(partition, position.unwrap_or(0));
            }
        }
        let mut consumer = self.client.consumer(ConsumerConfig::default())?;
        let starts = positions.iter();
        let starts = starts.map(|(partition, at)| (self.topic.clone(), *partition, StartAt::Offset(*at)));
        consumer.assign(starts.collect()).await?;
        Ok(Generation {
            number,
            rows,
            positions,
            consumer,
        })
    }

    /// Applies a batch to the rows in memory, and writes those that changed with the positions.
    async fn apply(
        &mut self,
        generation: &mut Generation,
        records: &[jangada_client::ConsumedRecord],
    ) -> Result<(), PatternError> {
        for record in records {
            self.view.apply(&mut generation.rows, &Committed::read(record)?);
        }
        let number = generation.number;
        let mut written: Vec<(String, Option<Bytes>)> = Vec::new();
        for key in std::mem::take(&mut generation.rows.changed) {
            let value = generation.rows.rows.get(&key).cloned();
            written.push((format!("r/{number}/{key}"), value));
        }
        for partition in 0..self.partitions {
            let Some(reached) = generation.consumer.position(&self.topic, partition) else {
                continue;
            };
            if generation.positions.insert(partition, reached) != Some(reached) {
                written.push((format!("p/{number}/{partition}"), Some(reached.to_string().into())));
            }
        }
        match written.is_empty() {
            true => Ok(()),
            false => self.write(written).await,
        }
    }

    async fn switch(&mut self, old: &Generation, live: u64) -> Result<(), PatternError> {
        let switched = vec![
            ("live".to_owned(), Some(live.to_string().into())),
            ("building".to_owned(), None),
        ];
        self.write(switched).await?;
        tracing::info!(view = %self.view_topic, from = old.number, to = live, "the rebuilt projection is live");
        let rows = old.rows.rows.keys().map(|key| format!("r/{}/{key}", old.number));
        let places = old
            .positions
            .keys()
            .map(|partition| format!("p/{}/{partition}", old.number));
        self.delete(rows.chain(places).collect()).await
    }

    /// Deletes what is left of generations before the live one, after a crash.
    async fn delete_old(&mut self, table: &Table, live: u64) -> Result<(), PatternError> {
        let is_old = |key: &str| {
            let mut parts = key.splitn(3, '/');
            matches!(parts.next(), Some("r" | "p"))
                && parts
                    .next()
                    .and_then(|number| number.parse().ok())
                    .is_some_and(|number: u64| number < live)
        };
        let keys = table.iter().filter_map(|(key, _)| String::from_utf8(key.to_vec()).ok());
        self.delete(keys.filter(|key| is_old(key)).collect()).await
    }

    async fn delete(&mut self, keys: Vec<String>) -> Result<(), PatternError> {
        for keys in keys.chunks(DELETED_AT_ONCE) {
            self.write(keys.iter().map(|key| (key.clone(), None)).collect()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, rows: Vec<(String, Option<Bytes>)>) -> Result<(), PatternError> {
        let record = |(key, value): (String, Option<Bytes>)| ProducerRecord {
            value,
            ..ProducerRecord::new(self.view_topic.clone()).with_key(key)
        };
        let records = rows.into_iter().map(record).collect();
        transacted::write(&mut self.producer, records).await
    }
}

/// The number in a row of the topic.
fn number(table: &Table, key: &str) -> Option<u64> {
    std::str::from_utf8(&table.get(key)?).ok()?.parse().ok()
}

/// Whether a failed transaction may succeed when it is done again.
fn passes(error: &ClientError) -> bool {
    error.is_retryable()
        || matches!(
            error,
            ClientError::TransactionAborted { .. }
                | ClientError::TransactionTimedOut(_)
                | ClientError::TransactionUnknown(_)
        ) && !matches!(error, ClientError::TransactionAborted { cause } if matches!(**cause, ClientError::ProducerFenced { .. }))
}

async fn next_of(generation: Option<&mut Generation>) -> Result<Vec<jangada_client::ConsumedRecord>, PatternError> {
    match generation {
        Some(generation) => Ok(next(&mut generation.consumer).await?),
        None => std::future::pending().await,
    }
}

/// Reads a projection in a compacted topic, from any process: the rows in memory.
pub struct TopicReader {
    table: Table,
    view_topic: String,
}

impl TopicReader {
    /// Reads the view up to where it ends now, and follows it from then on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The errors of [`Table::open`].
    pub async fn open(client: &Client, view_topic: &str) -> Result<Self, PatternError> {
        let table = Table::open(client, view_topic, TableOptions::default()).await?;
        let view_topic = view_topic.to_owned();
        Ok(Self { table, view_topic })
    }

    /// The number of the live generation. `None`: nothing is there yet.
    pub fn live(&self) -> Option<u64> {
        number(&self.table, "live")
    }

    /// Looks into the live generation: again when it was switched meanwhile, for then it may have been deleted while it was read.
    fn in_live<T>(&self, look: impl Fn(u64) -> T) -> Option<T> {
        loop {
            let live = self.live()?;
            let seen = look(live);
            if self.live() == Some(live) {
                return Some(seen);
            }
        }
    }

    /// A row of the live generation.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.in_live(|live| self.table.get(format!("r/{live}/{key}"))).flatten()
    }

    /// All rows of the live generation, in the order of their keys.
    pub fn rows(&self) -> BTreeMap<String, Bytes> {
        let rows = self.in_live(|live| {
            let prefix = format!("r/{live}/");
            let of_live = |(key, value): (Bytes, Bytes)| {
                let key = std::str::from_utf8(&key).ok()?.strip_prefix(&prefix)?;
                Some((key.to_owned(), value))
            };
            self.table.iter().filter_map(of_live).collect()
        });
        rows.unwrap_or_default()
    }

    /// The offset of a partition of events below which the live generation has everything. `None`: it has not begun.
    pub fn position(&self, partition: u32) -> Option<i64> {
        let text = self
            .in_live(|live| self.table.get(format!("p/{live}/{partition}")))
            .flatten()?;
        std::str::from_utf8(&text).ok()?.parse().ok()
    }

    /// Waits until the projection has everything below an offset: of one's own command that is its offset + 1. After it a row shows what
    /// the command did.
    ///
    /// # Errors
    /// [`PatternError::Late`] after `within`: the projection is behind, or nobody runs it.
    pub async fn wait_for(&self, partition: u32, offset: i64, within: Duration) -> Result<(), PatternError> {
        let until = Instant::now() + within;
        while self.position(partition).is_none_or(|position| position < offset) {
            if Instant::now() >= until {
                let what = format!(
                    "{} did not come to offset {offset} of partition {partition}",
                    self.view_topic
                );
                return Err(PatternError::Late { what });
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}
