//! The messages that are sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_client::{Client, QueueConsumer, QueueDelivery, QueueMessage, QueueProducer};

use super::run::{Run, STAMP_BYTES, consumer, producer};
use crate::cli::{PayloadKind, QueueBench};
use crate::commands::bench::payload::Payload;
use crate::errors::Result;

/// Messages of one request before the run begins.
const BEFORE_BATCH: u64 = 1_000;

/// Messages that are kept during the run, and whose they are.
pub(super) struct Stuck {
    pub messages: Vec<QueueDelivery>,
    /// It extends their leases.
    _consumer: Option<QueueConsumer>,
}

/// Sends messages and takes them, before anybody else does.
pub(super) async fn stick(client: &Client, run: &Run, args: &QueueBench) -> Result<Stuck> {
    let mut stuck = Stuck {
        messages: Vec::new(),
        _consumer: None,
    };
    if args.stuck == 0 {
        return Ok(stuck);
    }
    let numbers = run.messages..run.messages + u64::from(args.stuck);
    send_before(client, run, args, numbers, |number| {
        (args.keys > 0).then(|| format!("stuck {number}"))
    })
    .await?;
    let mut consumer = consumer(client, args, args.stuck).await?;
    while stuck.messages.len() < args.stuck as usize {
        stuck.messages.push(consumer.next().await?);
    }
    stuck._consumer = Some(consumer);
    Ok(stuck)
}

/// Sends the messages that always fail, all of one key.
pub(super) async fn poison(client: &Client, run: &Run, args: &QueueBench) -> Result<()> {
    let first = run.messages + u64::from(args.stuck);
    send_before(client, run, args, first..first + args.poisoned, |_| {
        Some("poisoned".to_owned())
    })
    .await
}

async fn send_before(
    client: &Client,
    run: &Run,
    args: &QueueBench,
    mut numbers: std::ops::Range<u64>,
    key: impl Fn(u64) -> Option<String>,
) -> Result<()> {
    if numbers.is_empty() {
        return Ok(());
    }
    let producer = producer(client, args).await?;
    let payload = vec![0; run.message_bytes - STAMP_BYTES];
    while !numbers.is_empty() {
        let batch = numbers.by_ref().take(BEFORE_BATCH as usize).map(|number| {
            let message = QueueMessage::new(run.stamped(number, &payload));
            match key(number) {
                Some(key) => message.with_key(key),
                None => message,
            }
        });
        for sent in producer.send_batch(batch.collect()).await {
            sent?;
        }
    }
    Ok(())
}

/// Sends messages, so many at once, as they are due.
pub(super) async fn produce(run: Arc<Run>, producer: QueueProducer) -> Result<()> {
    let mut payload = Payload::new(PayloadKind::Random, run.message_bytes - STAMP_BYTES);
    let mut sending = FuturesUnordered::new();
    loop {
        let first = run.next.fetch_add(run.batch.into(), Ordering::Relaxed);
        let last = (first + u64::from(run.batch)).min(run.messages);
        if first >= last {
            break;
        }
        if let Some(interval) = run.interval {
            // The batch leaves when its first message is due.
            let due = run.start + Duration::from_secs_f64(interval.as_secs_f64() * first as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        // What is handed over leaves at once, whether or not somebody waits for its answer.
        let mut batch = Vec::with_capacity(run.batch as usize);
        for number in first..last {
            batch.push(producer.enqueue(message(&run, first, number, &payload.next())).await?);
        }
        sending.push(futures::future::try_join_all(batch));
        if sending.len() >= run.in_flight as usize {
            sending.next().await.transpose()?;
        }
    }
    while let Some(sent) = sending.next().await {
        sent?;
    }
    Ok(())
}

/// Makes a message of a batch that begins with the message `first`.
fn message(run: &Run, first: u64, number: u64, payload: &[u8]) -> QueueMessage {
    let mut message = QueueMessage::new(run.stamped(number, payload));
    if run.keys > 0 {
        message = message.with_key((number % run.keys).to_string());
    }
    let due = match (run.delay, run.interval) {
        (Some((delay, spread)), _) => {
            let due = delay + spread.mul_f64(number as f64 / run.messages as f64);
            // Whole milliseconds, as the queue has them.
            let due_ms = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
            message = message.deliver_at(run.start_ms + due_ms);
            due_ms * 1_000_000
        }
        (None, Some(interval)) => (interval.as_nanos() as f64 * first as f64) as u64,
        (None, None) => run.elapsed(),
    };
    run.due[number as usize].store(due, Ordering::Relaxed);
    message
}
