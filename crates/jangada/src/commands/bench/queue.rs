//! `bench queue`: sends messages to a queue and works on them along: from the scheduled send to the delivery, and until each is
//! acknowledged.
//!
//! Each message carries the number of the run and its own, so that the consumers know when it was due, and how often it came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_client::{
    Client, ClientError, QueueConsumer, QueueConsumerConfig, QueueMessage, QueueProducer, QueueProducerConfig,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cpu::CpuMeter;
use super::latency::{Latencies, LatencyFigures};
use super::payload::Payload;
use crate::brokers::Brokers;
use crate::cli::{PayloadKind, QueueBench};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::{Show, or_dash, plain_table};
use crate::progress;

/// Bytes of the two numbers at the front of a body.
const STAMP_BYTES: usize = 16;
/// How long the last messages may take after the last was sent.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct QueueReport {
    /// The name of the bench.
    pub bench: &'static str,
    /// Messages that were sent, handed out, and acknowledged.
    pub messages: u64,
    /// Messages that came more than once, counted each time.
    pub duplicates: u64,
    /// Messages whose lease was lost before they were acknowledged.
    pub lease_lost: u64,
    pub seconds: f64,
    /// From the first send to the last acknowledgement.
    pub messages_per_second: f64,
    /// From the time at which a message was due to be sent until a consumer has it.
    pub latency: Option<LatencyFigures>,
    /// CPU seconds of this process.
    pub cpu_seconds: f64,
    /// CPU seconds of the named processes, if any were named.
    pub other_cpu_seconds: Option<f64>,
    /// Microseconds of CPU time of the named processes for each message, sent, handed out and acknowledged.
    pub other_cpu_us_per_message: Option<f64>,
}

impl Show for QueueReport {
    fn table(&self) -> String {
        let latency =
            |figure: fn(&LatencyFigures) -> f64| or_dash(self.latency.as_ref().map(|l| format!("{:.3}", figure(l))));
        let header = [
            "bench",
            "messages",
            "duplicates",
            "lost",
            "seconds",
            "messages/s",
            "p50_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "cpu_s",
            "other_cpu_s",
            "other_cpu_us/msg",
        ];
        let row = [
            self.bench.to_owned(),
            self.messages.to_string(),
            self.duplicates.to_string(),
            self.lease_lost.to_string(),
            format!("{:.2}", self.seconds),
            format!("{:.0}", self.messages_per_second),
            latency(|l| l.p50_ms),
            latency(|l| l.p99_ms),
            latency(|l| l.p999_ms),
            latency(|l| l.max_ms),
            format!("{:.2}", self.cpu_seconds),
            or_dash(self.other_cpu_seconds.map(|seconds| format!("{seconds:.2}"))),
            or_dash(self.other_cpu_us_per_message.map(|us| format!("{us:.1}"))),
        ];
        plain_table(header, [row])
    }

    fn json(&self) -> Value {
        json!(self)
    }
}

/// What producers and consumers share.
struct Run {
    number: u64,
    messages: u64,
    /// Between two messages; none: as fast as possible.
    interval: Option<Duration>,
    start: Instant,
    /// The next message to be sent.
    next: AtomicU64,
    /// When each message was due, nanoseconds after the start.
    due: Vec<AtomicU64>,
    /// How often each message came.
    came: Vec<AtomicU64>,
    duplicates: AtomicU64,
    lease_lost: AtomicU64,
    acknowledged: watch::Sender<u64>,
    latencies: Mutex<Latencies>,
}

impl Run {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

pub async fn run(brokers: &Brokers, args: &QueueBench) -> Result<QueueReport> {
    let messages = args.messages.unwrap_or_else(|| match args.rate > 0.0 {
        true => (args.rate * args.seconds as f64).ceil() as u64,
        false => QueueBench::MESSAGES,
    });
    let client = connect(brokers).await?;
    let mut consumers = Vec::new();
    for _ in 0..args.consumers {
        consumers.push(consumer(&client, args).await?);
    }
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        producers.push(
            client
                .queue_producer(args.queue.as_str(), QueueProducerConfig::default())
                .await?,
        );
    }
    let counters = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
    let meter = CpuMeter::start(&args.cpu)?;
    let run = Arc::new(Run {
        number: rand::random(),
        messages,
        interval: (args.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / args.rate)),
        start: Instant::now(),
        next: AtomicU64::new(0),
        due: counters(messages),
        came: counters(messages),
        duplicates: AtomicU64::new(0),
        lease_lost: AtomicU64::new(0),
        acknowledged: watch::Sender::new(0),
        latencies: Mutex::new(Latencies::new()),
    });
    let spinner = progress::waiting("sending and receiving");
    let mut consuming: JoinSet<Result<()>> = JoinSet::new();
    for consumer in consumers {
        consuming.spawn(consume(run.clone(), consumer, args.prefetch));
    }
    let mut producing: JoinSet<Result<()>> = JoinSet::new();
    for producer in producers {
        let size = args.message_bytes as usize;
        producing.spawn(produce(run.clone(), producer, size, args.batch, args.in_flight));
    }
    let mut acknowledged = run.acknowledged.subscribe();
    while let Some(produced) = producing.join_next().await {
        ended(produced)??;
    }
    let all = tokio::time::timeout(LAST_WAIT, acknowledged.wait_for(|count| *count >= messages));
    tokio::select! {
        waited = all => drop(waited.map_err(|_| {
            let came = *run.acknowledged.borrow();
            CliError::new(format!("{came} of {messages} messages were acknowledged within {LAST_WAIT:?} after the last was sent"))
        })?),
        Some(consumed) = consuming.join_next() => ended(consumed)??,
    }
    let seconds = run.start.elapsed().as_secs_f64();
    let cpu = meter.stop()?;
    consuming.shutdown().await;
    spinner.finish_and_clear();
    let latency = run.latencies.lock().unwrap_or_else(PoisonError::into_inner).figures();
    Ok(QueueReport {
        bench: "queue",
        messages,
        duplicates: run.duplicates.load(Ordering::Relaxed),
        lease_lost: run.lease_lost.load(Ordering::Relaxed),
        seconds,
        messages_per_second: messages as f64 / seconds,
        latency,
        cpu_seconds: cpu.own,
        other_cpu_seconds: cpu.others,
        other_cpu_us_per_message: cpu.others.map(|seconds| seconds * 1e6 / messages as f64),
    })
}

fn ended<T>(task: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    task.map_err(|error| CliError::new(format!("a task of the bench: {error}")))
}

async fn consumer(client: &Client, args: &QueueBench) -> Result<QueueConsumer> {
    let config = QueueConsumerConfig {
        prefetch: args.prefetch,
        ..QueueConsumerConfig::default()
    };
    Ok(client.queue_consumer(args.queue.as_str(), config).await?)
}

/// Sends messages, so many at once, as they are due.
async fn produce(run: Arc<Run>, producer: QueueProducer, size: usize, batch: u32, in_flight: u32) -> Result<()> {
    let mut payload = Payload::new(PayloadKind::Random, size - STAMP_BYTES);
    let mut sending = FuturesUnordered::new();
    loop {
        let first = run.next.fetch_add(batch.into(), Ordering::Relaxed);
        let last = (first + u64::from(batch)).min(run.messages);
        if first >= last {
            break;
        }
        if let Some(interval) = run.interval {
            // The batch leaves when its first message is due.
            let due = run.start + Duration::from_secs_f64(interval.as_secs_f64() * first as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        let mut messages = Vec::with_capacity((last - first) as usize);
        for number in first..last {
            let due = match run.interval {
                Some(interval) => (interval.as_nanos() as f64 * first as f64) as u64,
                None => run.elapsed(),
            };
            run.due[number as usize].store(due, Ordering::Relaxed);
            messages.push(QueueMessage::new(stamped(run.number, number, &payload.next())));
        }
        let producer = producer.clone();
        sending.push(async move {
            let sent = producer.send_batch(messages).await;
            sent.into_iter().find_map(std::result::Result::err).map_or(Ok(()), Err)
        });
        if sending.len() >= in_flight as usize {
            sending.next().await.unwrap_or(Ok(()))?;
        }
    }
    while let Some(sent) = sending.next().await {
        sent?;
    }
    Ok(())
}

/// Takes messages and acknowledges them, until it is aborted.
async fn consume(run: Arc<Run>, mut consumer: QueueConsumer, prefetch: u32) -> Result<()> {
    let mut acknowledging = FuturesUnordered::new();
    loop {
        let has_room = acknowledging.len() < 2 * prefetch as usize;
        tokio::select! {
            biased;
            message = consumer.next(), if has_room => {
                let message = message?;
                let number = message.body.as_deref().and_then(|body| stamp(body, run.number));
                let Some(number) = number.filter(|number| *number < run.messages) else {
                    return Err(CliError::new(format!(
                        "queue {} has messages of others: measure with a queue that nobody else uses",
                        consumer.queue()
                    )));
                };
                let place = number as usize;
                match run.came[place].fetch_add(1, Ordering::Relaxed) {
                    0 => {
                        let due = Duration::from_nanos(run.due[place].load(Ordering::Relaxed));
                        let mut latencies = run.latencies.lock().unwrap_or_else(PoisonError::into_inner);
                        latencies.record(run.start.elapsed().saturating_sub(due));
                    }
                    _ => drop(run.duplicates.fetch_add(1, Ordering::Relaxed)),
                }
                acknowledging.push(message.ack());
            }
            Some(acknowledged) = acknowledging.next(), if !acknowledging.is_empty() => match acknowledged {
                Ok(()) => run.acknowledged.send_modify(|count| *count += 1),
                Err(ClientError::LeaseLost) => drop(run.lease_lost.fetch_add(1, Ordering::Relaxed)),
                Err(error) => return Err(error.into()),
            },
        }
    }
}

fn stamped(run: u64, number: u64, payload: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(STAMP_BYTES + payload.len());
    body.extend_from_slice(&run.to_be_bytes());
    body.extend_from_slice(&number.to_be_bytes());
    body.extend_from_slice(payload);
    body.freeze()
}

/// The number of a message of this run.
fn stamp(body: &[u8], run: u64) -> Option<u64> {
    let rest = body.strip_prefix(&run.to_be_bytes())?;
    rest.first_chunk().map(|number| u64::from_be_bytes(*number))
}
