//! Load that goes on while faults happen: one writer per partition, one reader of everything, and the check of the
//! outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jangada_client::{Client, Producer, ProducerConfig, ProducerRecord};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Cluster, History, Outcome, Value, WAIT, consumer_from_start};

/// Interval between two records of a partition.
const SEND_INTERVAL: Duration = Duration::from_millis(3);

/// Most records of a partition whose answers have not been taken yet.
const UNANSWERED_MAX: usize = 20_000;

/// A producer retries for two minutes, longer than any fault lasts, so hardly any record may be left in doubt.
const ACKNOWLEDGED_PERCENT: usize = 90;

/// Number of faults that are shown when a check fails.
const FAULTS_SHOWN: usize = 20;

/// The times when a record was sent and acknowledged.
type Times = (Instant, Instant);

/// The result of one partition's writer.
struct Written {
    outcomes: Vec<(Value, Outcome)>,
    times: Vec<Times>,
}

/// Writers and a reader at work.
pub struct Load {
    topic: Arc<str>,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<Written>>,
    /// By partition: the time when the newest acknowledged record was sent.
    acknowledged: Vec<watch::Receiver<Option<Instant>>>,
    reader: JoinHandle<Vec<(u32, i64, Value)>>,
}

impl Load {
    /// Begins to write to each partition of a topic, and to read it. The values of every `large_every`th record have `large_bytes`.
    pub async fn start(cluster: &Cluster, topic: &str, partitions: u32, large_every: u64, large_bytes: usize) -> Load {
        let config = ProducerConfig {
            linger: Duration::from_millis(1),
            ..ProducerConfig::default()
        };
        let producer = cluster.client().await.producer(config);
        let producer = Arc::new(producer.expect("the settings are valid"));
        let topic: Arc<str> = topic.into();
        let (stop, stopping) = watch::channel(false);
        let (acknowledged, writers) = (0..partitions)
            .map(|partition| {
                let (sender, receiver) = watch::channel(None);
                let text = move |value: Value| match value.number % large_every {
                    0 => value.padded(large_bytes),
                    _ => value.text(),
                };
                let writer = write(
                    producer.clone(),
                    topic.clone(),
                    partition,
                    text,
                    stopping.clone(),
                    sender,
                );
                (receiver, writer)
            })
            .unzip();
        let reader = read(cluster.client().await, topic.clone(), stopping);
        Load {
            topic,
            stop,
            writers,
            acknowledged,
            reader,
        }
    }

    /// Waits until a record is acknowledged that was sent after `since`.
    pub async fn takes_writes(&self, partition: u32, since: Instant) {
        let mut acknowledged = self.acknowledged[partition as usize].clone();
        let again = acknowledged.wait_for(|at| at.is_some_and(|at| at > since));
        tokio::time::timeout(WAIT, again)
            .await
            .unwrap_or_else(|_| panic!("partition {partition} takes no writes after {WAIT:?}"))
            .expect("the writer lives");
    }

    /// Ends the load when everything is answered, and reads all records with a new client.
    pub async fn finish(self, cluster: &Cluster) -> Ran {
        self.stop.send_replace(true);
        let mut ran = Ran::default();
        for (partition, writer) in (0..).zip(self.writers) {
            let written = tokio::time::timeout(WAIT, writer)
                .await
                .expect("all is answered")
                .expect("the writer did not fail");
            let history = ran.histories.entry(partition).or_default();
            for (value, outcome) in written.outcomes {
                history.sent(value, outcome);
            }
            ran.times.insert(partition, written.times);
        }
        let seen = tokio::time::timeout(WAIT, self.reader)
            .await
            .expect("the reader stops when it is told to");
        for (partition, offset, value) in seen.expect("the reader did not fail") {
            ran.histories.entry(partition).or_default().seen(offset, value);
        }
        for (partition, offset, value) in read_all(cluster, &self.topic).await {
            ran.histories.entry(partition).or_default().found(offset, value);
        }
        ran
    }
}

/// The result of a load.
#[derive(Default)]
pub struct Ran {
    /// The histories by partition.
    pub histories: BTreeMap<u32, History>,
    times: BTreeMap<u32, Vec<Times>>,
}

impl Ran {
    /// The time from `since` to the first acknowledgement of a record that was sent after it.
    pub fn writes_again_after(&self, partition: u32, since: Instant) -> Duration {
        let times = &self.times[&partition];
        let first = times.iter().find(|(sent, _)| *sent > since);
        let (_, answered) = first.expect("it was waited for");
        answered.duration_since(since)
    }

    /// The longest that a record waited for its acknowledgement.
    pub fn slowest(&self) -> Duration {
        let took = self
            .times
            .values()
            .flatten()
            .map(|(sent, answered)| answered.duration_since(*sent));
        took.max().unwrap_or_default()
    }

    /// Asserts that every acknowledged record is there, once, in order, and that nearly all are acknowledged; returns
    /// their number.
    pub fn check(&self) -> usize {
        for (partition, history) in &self.histories {
            let faults = history.check();
            let shown = &faults[..faults.len().min(FAULTS_SHOWN)];
            assert!(
                faults.is_empty(),
                "partition {partition}, {} faults:\n{}",
                faults.len(),
                shown.join("\n")
            );
            let (acknowledged, attempted) = (history.acknowledged(), history.attempted());
            assert!(
                acknowledged > 0 && acknowledged * 100 >= attempted * ACKNOWLEDGED_PERCENT,
                "partition {partition}: {acknowledged} of {attempted} records are acknowledged, the rest tells nothing"
            );
        }
        self.histories.values().map(History::acknowledged).sum()
    }
}

/// Writes to one partition until it is told to stop.
fn write(
    producer: Arc<Producer>,
    topic: Arc<str>,
    partition: u32,
    text: impl Fn(Value) -> String + Send + 'static,
    mut stop: watch::Receiver<bool>,
    acknowledged: watch::Sender<Option<Instant>>,
) -> JoinHandle<Written> {
    let (sent, mut waiting) = mpsc::channel(UNANSWERED_MAX);
    let sending = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SEND_INTERVAL);
        for number in 0.. {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.changed() => return,
            }
            let value = Value {
                writer: partition,
                number,
            };
            let record = ProducerRecord::new(topic.clone())
                .with_partition(partition)
                .with_value(text(value));
            let at = Instant::now();
            let delivery = producer.send(record).await.expect("the producer takes it");
            sent.send((value, at, delivery)).await.expect("somebody waits for it");
        }
    });
    tokio::spawn(async move {
        let mut written = Written {
            outcomes: Vec::new(),
            times: Vec::new(),
        };
        while let Some((value, at, delivery)) = waiting.recv().await {
            let outcome = match delivery.await {
                Ok(metadata) => {
                    written.times.push((at, Instant::now()));
                    acknowledged.send_replace(Some(at));
                    Outcome::Acknowledged(metadata.offset.expect("a quorum was asked for"))
                }
                Err(error) if error.is_definite() => Outcome::Refused,
                Err(_) => Outcome::Unknown,
            };
            written.outcomes.push((value, outcome));
        }
        sending.await.expect("it was told to stop");
        written
    })
}

/// Reads everything as it comes, until it is told to stop.
fn read(client: Client, topic: Arc<str>, mut stop: watch::Receiver<bool>) -> JoinHandle<Vec<(u32, i64, Value)>> {
    tokio::spawn(async move {
        let mut consumer = consumer_from_start(&client, &topic).await;
        let mut seen = Vec::new();
        loop {
            let records = tokio::select! {
                records = consumer.next_batch() => records.expect("the consumer survives a broker's death"),
                _ = stop.changed() => return seen,
            };
            seen.extend(records.into_iter().map(|record| {
                let value = record.value.as_deref().and_then(Value::parse).expect("a value of ours");
                (record.partition, record.offset, value)
            }));
        }
    })
}

/// Reads all records that are there.
async fn read_all(cluster: &Cluster, topic: &str) -> Vec<(u32, i64, Value)> {
    let client = cluster.client().await;
    let mut consumer = consumer_from_start(&client, topic).await;
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut found = Vec::new();
    while !consumer.reached(&ends) {
        let batch = tokio::time::timeout(WAIT, consumer.next_batch()).await;
        let batch = batch.unwrap_or_else(|_| panic!("{topic} cannot be read to its end after {WAIT:?}"));
        for record in batch.expect("the leaders answer") {
            let value = record.value.as_deref().and_then(Value::parse).expect("a value of ours");
            found.push((record.partition, record.offset, value));
        }
    }
    found
}
