//! `bench produce`: writes records and measures throughput and latency.
//!
//! The main thread sends on schedule and never waits for answers, except for room in the producer's buffer. One task
//! for each partition takes the answers: within a partition they come in the order of sending, so each is seen when it
//! comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jangada_client::{Client, ClientError, Delivery, Producer, ProducerConfig, ProducerRecord};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cpu::CpuMeter;
use super::latency::Latencies;
use super::payload::Payload;
use super::report::Report;
use super::schedule::Schedule;
use crate::brokers::Brokers;
use crate::cli::ProduceBench;
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::progress;

/// Bytes to write by default.
const TOTAL_BYTES: u64 = 1 << 30;

/// Records to write one after the other by default.
const SAMPLES: u64 = 10_000;

/// A prime: so many keys further on comes the next one.
const KEY_STRIDE: u64 = 2_654_435_761;

/// Size of a batch by default.
const BATCH_BYTES: u32 = 64 << 10;

/// Records of one partition that may wait for the task that takes their answers.
const QUEUE_RECORDS: usize = 1 << 16;

/// Most records that the task takes at once.
const TAKEN_RECORDS: usize = 256;

/// Writes the records; returns the figures, and an error if records failed.
pub async fn run(brokers: &Brokers, args: &ProduceBench) -> Result<(Report, Option<CliError>)> {
    let client = connect(brokers).await?;
    let one_by_one = args.in_flight == 1 && args.batch_bytes.is_none();
    let mut work = Work::new(&client, args, one_by_one).await?;
    let record_bytes = u64::from(args.record_bytes);
    let records = match (args.samples, args.total_bytes) {
        (Some(samples), _) => samples,
        (None, Some(bytes)) => bytes.div_ceil(record_bytes),
        (None, None) if one_by_one => SAMPLES,
        (None, None) => TOTAL_BYTES / record_bytes,
    };
    if args.warmup_bytes > 0 {
        work.send(args.warmup_bytes.div_ceil(record_bytes), 0.0, one_by_one)
            .await?;
    }
    let meter = CpuMeter::start(&args.cpu)?;
    let start = Instant::now();
    let outcome = work.send(records, args.rate, one_by_one).await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = meter.stop()?;
    work.producer.close().await;
    if let (0, Some(error)) = (outcome.acknowledged, &outcome.first_error) {
        return Err(CliError::from(error.clone()).doing("no record was acknowledged"));
    }
    let bytes = outcome.acknowledged * record_bytes;
    let report = Report::new(
        "produce",
        outcome.acknowledged,
        bytes,
        seconds,
        cpu,
        outcome.latencies.figures(),
    );
    let report = Report {
        failed: outcome.failed,
        ..report
    };
    let failure = outcome
        .first_error
        .map(|error| CliError::from(error).doing(format!("{} of {records} records failed, the first", outcome.failed)));
    Ok((report, failure))
}

struct Work {
    topic: Arc<str>,
    partitions: usize,
    producer: Producer,
    payload: Payload,
    /// Keys of the records, if they have any, and how many records were made.
    keys: u64,
    made: u64,
}

/// The outcome of the records.
struct Outcome {
    latencies: Latencies,
    acknowledged: u64,
    failed: u64,
    first_error: Option<ClientError>,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome {
            latencies: Latencies::new(),
            acknowledged: 0,
            failed: 0,
            first_error: None,
        }
    }

    async fn take(&mut self, due: Instant, delivery: Delivery) {
        match delivery.await {
            Ok(_) => {
                self.acknowledged += 1;
                self.latencies.record(due.elapsed());
            }
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn merge(&mut self, other: Outcome) {
        self.latencies.merge(&other.latencies);
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

impl Work {
    async fn new(client: &Client, args: &ProduceBench, one_by_one: bool) -> Result<Work> {
        let topic = client.topic(&args.topic).await?;
        let config = ProducerConfig {
            linger: if one_by_one {
                Duration::ZERO
            } else {
                Duration::from_millis(args.linger_ms)
            },
            batch_bytes: args.batch_bytes.unwrap_or(BATCH_BYTES) as usize,
            buffer_bytes: args.buffer_bytes as usize,
            compression: args.compression.into(),
            max_in_flight: usize::from(args.in_flight),
            ..ProducerConfig::default()
        };
        Ok(Work {
            topic: topic.name.clone(),
            partitions: topic.partitions.len(),
            producer: client.producer(config)?,
            payload: Payload::new(args.payload, args.record_bytes as usize),
            keys: args.keys,
            made: 0,
        })
    }

    async fn send(&mut self, records: u64, rate: f64, one_by_one: bool) -> Result<Outcome> {
        let bar = progress::bytes(None, "sent");
        let outcome = match one_by_one {
            true => self.send_one_by_one(records, rate, &bar).await,
            false => self.send_on_schedule(records, rate, &bar).await,
        };
        bar.finish_and_clear();
        outcome
    }

    fn record(&mut self) -> ProducerRecord {
        let mut record = ProducerRecord::new(self.topic.clone());
        record.value = Some(self.payload.next());
        // All keys come again and again, in an order that is not theirs.
        let nth = self.made.wrapping_mul(KEY_STRIDE).checked_rem(self.keys);
        record.key = nth.map(|nth| format!("key {nth:010}").into());
        self.made += 1;
        record
    }

    async fn send_one_by_one(&mut self, records: u64, rate: f64, bar: &indicatif::ProgressBar) -> Result<Outcome> {
        let mut outcome = Outcome::new();
        let schedule = Schedule::start(rate);
        for i in 0..records {
            let record = self.record();
            bar.inc(record.value.as_ref().map_or(0, |value| value.len() as u64));
            let due = schedule.wait(i).await;
            let delivery = self.producer.send(record).await?;
            outcome.take(due, delivery).await;
        }
        Ok(outcome)
    }

    async fn send_on_schedule(&mut self, records: u64, rate: f64, bar: &indicatif::ProgressBar) -> Result<Outcome> {
        let takers: Vec<_> = (0..self.partitions).map(|_| taker()).collect();
        let schedule = Schedule::start(rate);
        for i in 0..records {
            let record = self.record();
            if i % 1024 == 0 {
                bar.set_position(i * record.value.as_ref().map_or(0, |value| value.len() as u64));
            }
            let due = schedule.wait(i).await;
            let delivery = self.producer.send(record).await?;
            let (queue, _) = &takers[delivery.partition() as usize];
            queue
                .send((due, delivery))
                .await
                .map_err(|_| CliError::new("the task that takes answers has ended"))?;
        }
        let mut outcome = Outcome::new();
        for (queue, task) in takers {
            drop(queue);
            outcome.merge(
                task.await
                    .map_err(|error| CliError::new(format!("the task that takes answers: {error}")))?,
            );
        }
        Ok(outcome)
    }
}

/// The task that takes one partition's answers, and its queue.
fn taker() -> (mpsc::Sender<(Instant, Delivery)>, JoinHandle<Outcome>) {
    let (queue, mut sent) = mpsc::channel(QUEUE_RECORDS);
    let task = tokio::spawn(async move {
        let mut outcome = Outcome::new();
        let mut taken = Vec::with_capacity(TAKEN_RECORDS);
        while sent.recv_many(&mut taken, TAKEN_RECORDS).await > 0 {
            for (due, delivery) in taken.drain(..) {
                outcome.take(due, delivery).await;
            }
        }
        outcome
    });
    (queue, task)
}
