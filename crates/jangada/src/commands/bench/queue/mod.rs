//! `bench queue`: sends messages to a queue and works on them along: from the scheduled send to the delivery, and until each is
//! acknowledged.
//!
//! Each message carries the number of the run and its own, so that the consumers know when it was due, and how often it came. Numbers from
//! [`Run::messages`] on are those of messages that are stuck or poisoned, which count in no rate.

mod consuming;
mod producing;
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use jangada_client::{Client, QueueConsumer, QueueConsumerConfig, QueueDelivery, QueueProducer, QueueProducerConfig};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::producing::{poison, produce, stick};
use self::report::QueueReport;
use super::cpu::CpuMeter;
use super::latency::Latencies;
use super::memory::MemoryMeter;
use crate::brokers::Brokers;
use crate::cli::{QueueBench, QueueHalf};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::progress;

/// Bytes of the two numbers at the front of a body.
const STAMP_BYTES: usize = 16;
/// For so long no message may come before the run is given up.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// What producers and consumers share.
struct Run {
    number: u64,
    messages: u64,
    message_bytes: usize,
    batch: u32,
    in_flight: u32,
    prefetch: u32,
    keys: u64,
    /// Between two messages; none: as fast as possible.
    interval: Option<Duration>,
    start: Instant,
    /// The same moment, milliseconds since the Unix epoch.
    start_ms: u64,
    /// When the first message is due after the start, and the last after the first; none: as they are sent.
    delay: Option<(Duration, Duration)>,
    /// Only messages of this run are in the queue.
    is_alone: bool,
    /// The messages that are kept instead of being acknowledged.
    held: Option<Mutex<Vec<QueueDelivery>>>,
    /// The next message to be sent.
    next: AtomicU64,
    /// When each message was due, nanoseconds after the start.
    due: Vec<AtomicU64>,
    /// How often each message came.
    came: Vec<AtomicU64>,
    duplicates: AtomicU64,
    early: AtomicU64,
    failures: AtomicU64,
    lease_lost: AtomicU64,
    /// Messages that are acknowledged, or held.
    done: AtomicU64,
    all_done: Notify,
    latencies: Mutex<Latencies>,
}

impl Run {
    fn new(args: &QueueBench, messages: u64) -> Self {
        let counters = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        let is_alone = args.only != Some(QueueHalf::Receive);
        let own = if is_alone { messages } else { 0 };
        Self {
            number: rand::random(),
            messages,
            message_bytes: args.message_bytes as usize,
            batch: args.batch,
            in_flight: args.in_flight,
            prefetch: args.prefetch,
            keys: args.keys,
            interval: (args.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / args.rate)),
            start: Instant::now(),
            start_ms: now_ms(),
            delay: (!args.delay.is_zero()).then_some((args.delay, args.spread)),
            is_alone,
            held: args.hold.then(Mutex::default),
            next: AtomicU64::new(0),
            due: counters(own),
            came: counters(own),
            duplicates: AtomicU64::new(0),
            early: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            lease_lost: AtomicU64::new(0),
            done: AtomicU64::new(0),
            all_done: Notify::new(),
            latencies: Mutex::new(Latencies::new()),
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One more message is acknowledged, or held.
    fn is_done(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.messages {
            self.all_done.notify_one();
        }
    }

    fn stamped(&self, number: u64, payload: &[u8]) -> Bytes {
        let mut body = BytesMut::with_capacity(STAMP_BYTES + payload.len());
        body.extend_from_slice(&self.number.to_be_bytes());
        body.extend_from_slice(&number.to_be_bytes());
        body.extend_from_slice(payload);
        body.freeze()
    }

    /// The number of a message of this run.
    fn number_of(&self, body: Option<&[u8]>) -> Option<u64> {
        let rest = body?.strip_prefix(&self.number.to_be_bytes())?;
        rest.first_chunk().map(|number| u64::from_be_bytes(*number))
    }

    /// Waits until all messages are done.
    async fn wait(&self) -> Result<()> {
        let delay = self.delay.map_or(Duration::ZERO, |(first, spread)| first + spread);
        let mut before = (0, Instant::now() + delay.saturating_sub(self.start.elapsed()));
        loop {
            if tokio::time::timeout(Duration::from_secs(1), self.all_done.notified())
                .await
                .is_ok()
            {
                return Ok(());
            }
            let done = self.done.load(Ordering::Relaxed);
            if done != before.0 {
                before = (done, Instant::now());
            } else if Instant::now().saturating_duration_since(before.1) > QUIET_MAX {
                let messages = self.messages;
                return Err(CliError::new(format!(
                    "{done} of {messages} messages came, and for {QUIET_MAX:?} none more"
                )));
            }
        }
    }
}

/// By this machine's clock, milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

pub async fn run(brokers: &Brokers, args: &QueueBench) -> Result<QueueReport> {
    let messages = args.messages.unwrap_or_else(|| match args.rate > 0.0 {
        true => (args.rate * args.seconds as f64).ceil() as u64,
        false => QueueBench::MESSAGES,
    });
    check(args, messages)?;
    let client = connect(brokers).await?;
    let spinner = progress::waiting("sending and receiving");
    let run = Run::new(args, messages);
    // These are in the queue before the clock starts.
    let stuck = stick(&client, &run, args).await?;
    poison(&client, &run, args).await?;
    let (mut consumers, mut producers) = (Vec::new(), Vec::new());
    if args.only != Some(QueueHalf::Send) {
        for _ in 0..args.consumers {
            consumers.push(consumer(&client, args, args.prefetch).await?);
        }
    }
    if args.only != Some(QueueHalf::Receive) {
        for _ in 0..args.producers {
            producers.push(producer(&client, args).await?);
        }
    }
    let (meter, memory) = (CpuMeter::start(&args.cpu)?, MemoryMeter::start(&args.cpu)?);
    let run = Arc::new(Run {
        start: Instant::now(),
        start_ms: now_ms(),
        ..run
    });
    let mut consuming: JoinSet<Result<()>> = JoinSet::new();
    for consumer in consumers {
        consuming.spawn(consuming::consume(run.clone(), consumer));
    }
    let mut producing: JoinSet<Result<()>> = JoinSet::new();
    for producer in producers {
        producing.spawn(produce(run.clone(), producer));
    }
    while let Some(produced) = producing.join_next().await {
        ended(produced)??;
    }
    let late = args.delay.saturating_sub(run.start.elapsed());
    if args.delay > Duration::ZERO && late.is_zero() {
        let took = run.start.elapsed();
        return Err(CliError::new(format!(
            "it took {took:?} to send the messages, and the first was due before"
        ))
        .hint("choose a longer --delay"));
    }
    if args.only != Some(QueueHalf::Send) {
        tokio::select! {
            waited = run.wait() => waited?,
            Some(consumed) = consuming.join_next() => ended(consumed)??,
        }
    }
    let is_delayed = args.delay > Duration::ZERO && args.only.is_none();
    let from = if is_delayed { args.delay } else { Duration::ZERO };
    let seconds = (run.start.elapsed().saturating_sub(from)).as_secs_f64();
    let cpu = meter.stop()?;
    tokio::time::sleep(args.rest).await;
    let memory = memory.stop()?;
    consuming.shutdown().await;
    for stuck in stuck.messages {
        stuck.ack().await?;
    }
    spinner.finish_and_clear();
    let latency = run.latencies.lock().unwrap_or_else(PoisonError::into_inner).figures();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(QueueReport {
        bench: "queue",
        messages,
        duplicates: count(&run.duplicates),
        lease_lost: count(&run.lease_lost),
        early: count(&run.early),
        failures: count(&run.failures),
        seconds,
        messages_per_second: messages as f64 / seconds,
        latency,
        cpu_seconds: cpu.own,
        other_cpu_seconds: cpu.others,
        other_cpu_us_per_message: cpu.others.map(|seconds| seconds * 1e6 / messages as f64),
        memory,
    })
}

fn check(args: &QueueBench, messages: u64) -> Result<()> {
    let room = u64::from(args.consumers) * u64::from(args.prefetch);
    if args.hold && room < messages {
        let message = format!("--hold: {messages} messages are kept, and the consumers have room for {room}");
        return Err(CliError::usage(message).hint("raise --consumers or --prefetch"));
    }
    if args.hold && args.only == Some(QueueHalf::Send) {
        return Err(CliError::usage("--hold: with --only send nothing is taken"));
    }
    Ok(())
}

fn ended<T>(task: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    task.map_err(|error| CliError::new(format!("a task of the bench: {error}")))
}

async fn consumer(client: &Client, args: &QueueBench, prefetch: u32) -> Result<QueueConsumer> {
    let config = QueueConsumerConfig {
        prefetch,
        ..QueueConsumerConfig::default()
    };
    Ok(client.queue_consumer(args.queue.as_str(), config).await?)
}

async fn producer(client: &Client, args: &QueueBench) -> Result<QueueProducer> {
    let config = QueueProducerConfig::default();
    Ok(client.queue_producer(args.queue.as_str(), config).await?)
}
