//! Leaders of a queue are killed again and again under load, with consumers that come back: nothing is lost, nothing that was acknowledged
//! comes again, and whatever came twice has a reason.
//!
//! A quarter of a minute at 2,000 messages a second by default. `JANGADA_LONG=1` makes it five minutes at 5,000.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jangada_client::{Client, ClientError, QueueConsumerConfig, QueueDelivery, QueueMessage, QueueProducerConfig};

use super::queues::create_queue;
use crate::harness::{Cluster, WAIT, eventually, is_long};

const QUEUE: &str = "jobs";
const PARTITIONS: u32 = 3;
const PRODUCERS: u64 = 4;
const CONSUMERS: usize = 4;
/// A producer sends what is due so often.
const SEND_EVERY: Duration = Duration::from_millis(20);
/// A consumer whose stream broke keeps its messages for so long.
const SESSION_GRACE: Duration = Duration::from_secs(5);
/// The leader is down for so long: others take over, and leases of its consumers, too.
const DOWN: Duration = Duration::from_secs(2);

/// A message by its number, and its place: the partition and the offset. One whose outcome was not known to its sender may have been sent
/// twice, and has two places then.
type Placed = (u64, u32, i64);

/// What became of the acknowledgement of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Acknowledged {
    /// Not answered yet.
    Waits,
    Done,
    LeaseLost,
    /// It may have been done, or not.
    Failed(String),
}

/// One delivery of a message.
struct Came {
    at: Instant,
    consumer: usize,
    deliveries: u32,
    failures: u32,
    acknowledged: Acknowledged,
}

impl Came {
    /// How it came again, for people.
    fn again(&self, place: &Placed, again: &Came) -> String {
        format!(
            "message {place:?} came to consumer {} (delivery {}, {} failures, acknowledgement {:?}), and {:?} later to consumer {} \
             (delivery {}, {} failures)",
            self.consumer,
            self.deliveries,
            self.failures,
            self.acknowledged,
            again.at.duration_since(self.at),
            again.consumer,
            again.deliveries,
            again.failures,
        )
    }
}

/// Why a message came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// The acknowledgement before failed, or its lease was lost.
    NotAcknowledged,
    /// Its consumer had no stream for longer than a session is kept.
    SessionOver,
}

impl Reason {
    /// None: nothing explains it.
    fn of(before: &Came, again: &Came) -> Option<Reason> {
        match before.acknowledged {
            Acknowledged::Done => None,
            Acknowledged::Failed(_) | Acknowledged::LeaseLost => Some(Reason::NotAcknowledged),
            Acknowledged::Waits => {
                let is_over = again.at.duration_since(before.at) >= SESSION_GRACE && again.failures > before.failures;
                is_over.then_some(Reason::SessionOver)
            }
        }
    }
}

/// What became of the messages.
#[derive(Default)]
struct Seen {
    /// Sent for certain, or perhaps.
    sent: Mutex<BTreeMap<u64, bool>>,
    came: Mutex<BTreeMap<Placed, Vec<Came>>>,
    lease_lost: AtomicU64,
    failed: AtomicU64,
    /// When a message of each partition was acknowledged last, and the longest time between two.
    pauses: Mutex<BTreeMap<u32, (Option<Instant>, Duration)>>,
}

impl Seen {
    fn acknowledged(&self, partition: u32) {
        let mut pauses = self.pauses.lock().expect("nothing panicked");
        let (last, longest) = pauses.entry(partition).or_default();
        let now = Instant::now();
        if let Some(last) = last {
            *longest = (*longest).max(now.duration_since(*last));
        }
        *last = Some(now);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_leaders_are_killed_and_nothing_acknowledged_comes_again() {
    let (duration, rate) = match is_long() {
        true => (Duration::from_secs(300), 5_000),
        false => (Duration::from_secs(12), 2_000),
    };
    let mut cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, PARTITIONS, &[]).await;
    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut producing = Vec::new();
    for producer in 0..PRODUCERS {
        let (client, seen, stop) = (cluster.client().await, seen.clone(), stop.clone());
        producing.push(tokio::spawn(async move {
            produce(&client, producer, rate, &seen, &stop).await
        }));
    }
    let mut consuming = Vec::new();
    for consumer in 0..CONSUMERS {
        let (client, seen) = (cluster.client().await, seen.clone());
        consuming.push(tokio::spawn(async move { consume(&client, consumer, &seen).await }));
    }
    let began = Instant::now();
    let mut kills = 0;
    while began.elapsed() < duration {
        let victim = cluster.leader(QUEUE, kills % PARTITIONS).await;
        // The moment of the kill is chance: it is to hit commands at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        cluster.kill(victim);
        // The time that it is down is the fault itself.
        tokio::time::sleep(DOWN).await;
        cluster.restart(victim);
        cluster.healthy().await;
        kills += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for task in producing {
        task.await.expect("it has not panicked");
    }
    let client = cluster.client().await;
    let queue = client.queue(QUEUE);
    eventually("all messages are done", WAIT, || async {
        for partition in 0..PARTITIONS {
            if !queue.peek(partition, 0, &[], 1).await.ok()?.messages.is_empty() {
                return None;
            }
        }
        Some(())
    })
    .await;
    consuming.iter().for_each(tokio::task::JoinHandle::abort);
    check(&seen, kills, began.elapsed());
}

fn check(seen: &Seen, kills: u32, elapsed: Duration) {
    let sent = seen.sent.lock().expect("nothing panicked");
    let came = seen.came.lock().expect("nothing panicked");
    let numbers: BTreeSet<u64> = came.keys().map(|(number, ..)| *number).collect();
    let is_lost = |(number, certain): &(&u64, &bool)| **certain && !numbers.contains(number);
    let lost: Vec<u64> = sent.iter().filter(is_lost).map(|(number, _)| *number).collect();
    let mut reasons: BTreeMap<Reason, u64> = BTreeMap::new();
    let (mut after_acknowledgement, mut unexplained) = (Vec::new(), Vec::new());
    for (place, deliveries) in came.iter() {
        for pair in deliveries.windows(2) {
            let [before, again] = pair else { continue };
            match Reason::of(before, again) {
                Some(reason) => *reasons.entry(reason).or_default() += 1,
                None if before.acknowledged == Acknowledged::Done => {
                    after_acknowledgement.push(before.again(place, again))
                }
                None => unexplained.push(before.again(place, again)),
            }
        }
    }
    let pauses = seen.pauses.lock().expect("nothing panicked");
    let longest = pauses.values().map(|(_, longest)| *longest).max().unwrap_or_default();
    println!(
        "{kills} leaders killed in {elapsed:?}, {} messages sent ({:.0}/s), {} came, {} sent twice; came again: {reasons:?}; {} leases \
         lost, {} acknowledgements without an answer; longest pause of a partition {longest:?}",
        sent.len(),
        sent.len() as f64 / elapsed.as_secs_f64(),
        numbers.len(),
        came.len() - numbers.len(),
        seen.lease_lost.load(Ordering::Relaxed),
        seen.failed.load(Ordering::Relaxed),
    );
    assert!(kills > 0 && sent.len() > 1_000, "there was something to lose");
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(
        after_acknowledgement.is_empty(),
        "what was acknowledged came again: {after_acknowledgement:?}"
    );
    assert!(unexplained.is_empty(), "came again without a reason: {unexplained:?}");
}

/// Sends its part of the messages as they are due; after a stall all that is due at once.
async fn produce(client: &Client, producer: u64, rate: u64, seen: &Seen, stop: &AtomicBool) {
    let config = QueueProducerConfig::default();
    let sender = client.queue_producer(QUEUE, config).await.expect("the queue is there");
    let (began, mut done) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = began.elapsed().as_millis() as u64 * rate / PRODUCERS / 1_000;
        let batch: Vec<u64> = (done..due.min(done + 1_000))
            .map(|at| at * PRODUCERS + producer)
            .collect();
        done += batch.len() as u64;
        if done == due {
            // Its pace is the load.
            tokio::time::sleep(SEND_EVERY).await;
        }
        let messages = batch
            .iter()
            .map(|number| QueueMessage::new(number.to_be_bytes().to_vec()).with_message_id(number.to_string()));
        let sent = sender.send_batch(messages.collect()).await;
        let sent = batch.into_iter().zip(sent).filter_map(|(number, sent)| match sent {
            Ok(_) => Some((number, true)),
            Err(error) => (!error.is_definite()).then_some((number, false)),
        });
        seen.sent.lock().expect("nothing panicked").extend(sent);
    }
}

async fn consume(client: &Client, number: usize, seen: &Arc<Seen>) {
    let config = QueueConsumerConfig {
        prefetch: 50,
        ..QueueConsumerConfig::default()
    };
    let mut consumer = client.queue_consumer(QUEUE, config).await.expect("the queue is there");
    loop {
        let message = match consumer.next().await {
            Ok(message) => message,
            Err(error) if error.is_retryable() => continue,
            Err(error) => panic!("{error}"),
        };
        let (place, delivery) = note(&message, number, seen);
        let seen = seen.clone();
        tokio::spawn(async move {
            let acknowledged = match message.ack().await {
                Ok(()) => {
                    seen.acknowledged(place.1);
                    Acknowledged::Done
                }
                Err(ClientError::LeaseLost) => {
                    seen.lease_lost.fetch_add(1, Ordering::Relaxed);
                    Acknowledged::LeaseLost
                }
                // It may come again.
                Err(error) => {
                    seen.failed.fetch_add(1, Ordering::Relaxed);
                    Acknowledged::Failed(error.to_string())
                }
            };
            let mut came = seen.came.lock().expect("nothing panicked");
            came.entry(place).or_default()[delivery].acknowledged = acknowledged;
        });
    }
}

/// Notes that a message has come. Says where it is, and which of its deliveries that is.
fn note(message: &QueueDelivery, consumer: usize, seen: &Seen) -> (Placed, usize) {
    let bytes = message.body.as_deref().expect("it has a body");
    let number = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let place = (number, message.place.partition, message.place.offset);
    let mut came = seen.came.lock().expect("nothing panicked");
    let deliveries = came.entry(place).or_default();
    deliveries.push(Came {
        at: Instant::now(),
        consumer,
        deliveries: message.deliveries,
        failures: message.failures,
        acknowledged: Acknowledged::Waits,
    });
    (place, deliveries.len() - 1)
}
