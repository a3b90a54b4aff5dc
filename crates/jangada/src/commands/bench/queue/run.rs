//! What a run has: the messages that are sent, and what comes of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use jangada_client::{Client, QueueConsumer, QueueConsumerConfig, QueueDelivery, QueueProducer, QueueProducerConfig};
use tokio::sync::Notify;

use crate::cli::{QueueBench, QueueHalf};
use crate::commands::bench::latency::Latencies;
use crate::errors::{CliError, Result};

/// Bytes of the two numbers at the front of a body.
pub(super) const STAMP_BYTES: usize = 16;
/// For so long no message may come before the run is given up.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// What producers and consumers share.
pub(super) struct Run {
    pub number: u64,
    pub messages: u64,
    pub message_bytes: usize,
    pub batch: u32,
    pub in_flight: u32,
    pub prefetch: u32,
    pub keys: u64,
    /// Between two messages; none: as fast as possible.
    pub interval: Option<Duration>,
    pub start: Instant,
    /// The same moment, milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// When the first message is due after the start, and the last after the first; none: as they are sent.
    pub delay: Option<(Duration, Duration)>,
    /// Only messages of this run are in the queue.
    pub is_alone: bool,
    /// The messages that are kept instead of being acknowledged.
    pub held: Option<Mutex<Vec<QueueDelivery>>>,
    /// The next message to be sent.
    pub next: AtomicU64,
    /// When each message was due, nanoseconds after the start.
    pub due: Vec<AtomicU64>,
    /// How often each message came.
    pub came: Vec<AtomicU64>,
    pub duplicates: AtomicU64,
    pub early: AtomicU64,
    pub failures: AtomicU64,
    pub lease_lost: AtomicU64,
    /// Messages that are acknowledged, or held.
    pub done: AtomicU64,
    pub all_done: Notify,
    pub latencies: Mutex<Latencies>,
}

impl Run {
    pub fn new(args: &QueueBench, messages: u64) -> Self {
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

    pub fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One more message is acknowledged, or held.
    pub fn is_done(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.messages {
            self.all_done.notify_one();
        }
    }

    pub fn stamped(&self, number: u64, payload: &[u8]) -> Bytes {
        let mut body = BytesMut::with_capacity(STAMP_BYTES + payload.len());
        body.extend_from_slice(&self.number.to_be_bytes());
        body.extend_from_slice(&number.to_be_bytes());
        body.extend_from_slice(payload);
        body.freeze()
    }

    /// The number of a message of this run.
    pub fn number_of(&self, body: Option<&[u8]>) -> Option<u64> {
        let rest = body?.strip_prefix(&self.number.to_be_bytes())?;
        rest.first_chunk().map(|number| u64::from_be_bytes(*number))
    }

    /// Waits until all messages are done.
    pub async fn wait(&self) -> Result<()> {
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
pub(super) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn consumer(client: &Client, args: &QueueBench, prefetch: u32) -> Result<QueueConsumer> {
    let config = QueueConsumerConfig {
        prefetch,
        ..QueueConsumerConfig::default()
    };
    Ok(client.queue_consumer(args.queue.as_str(), config).await?)
}

pub(super) async fn producer(client: &Client, args: &QueueBench) -> Result<QueueProducer> {
    let config = QueueProducerConfig::default();
    Ok(client.queue_producer(args.queue.as_str(), config).await?)
}
