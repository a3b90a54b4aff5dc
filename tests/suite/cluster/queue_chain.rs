//! A chain from a queue to a queue and a topic, in transactions, while brokers are killed and workers die at any moment: each message that
//! goes in makes one message and one record, however often it comes to a worker.
//!
//! A quarter of a minute by default, five minutes with `JANGADA_LONG=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientConfig, ClientError, ConsumerConfig, MessagePlace, ProducerRecord, QueueConsumer,
    QueueConsumerConfig, QueueDelivery, QueueMessage, QueueProducerConfig, StartAt, TransactionOptions,
    TransactionalProducer,
};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

use super::queues::create_queue;
use crate::harness::{Cluster, POLL_INTERVAL, WAIT, is_long};

const IN: &str = "in";
const OUT: &str = "out";
const TOPIC: &str = "made";
const PARTITIONS: u32 = 3;
const WORKERS: usize = 4;
/// Messages that go in each second. No more than those of the time that the test should take: on a busy machine brokers take longer to come
/// back, and what has gone in meanwhile would have to come out.
const RATE: u64 = 150;
/// A transaction whose worker died is aborted after this time, unless its successor comes first.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Messages of one transaction.
const TOGETHER: usize = 20;

/// A worker, with a runtime of its own. Dropping it ends it at any moment: nothing more runs on its behalf, as of a process that is killed.
struct Worker(Option<Runtime>);

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the workers came to.
#[derive(Default)]
struct Tally {
    committed: AtomicU64,
    aborted: AtomicU64,
    /// Messages that came to a worker more than once.
    again: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_makes_one_message_and_one_record_while_brokers_and_workers_die() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 15 });
    let mut cluster = Cluster::start(3).await;
    // What goes in is recognized when its sender sends it again, so that it is there once. A worker that dies has failed with all that it
    // has, and none of that is to become a dead letter.
    let config = ["queue.dedup=id", "queue.attempts.max=none", "queue.lease.ms=10000"];
    create_queue(&cluster, IN, PARTITIONS, &config).await;
    create_queue(&cluster, OUT, PARTITIONS, &[]).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let (stop, sent, tally) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(Tally::default()),
    );
    let most = RATE * duration.as_secs();
    let input = feed(cluster.client().await, most, stop.clone(), sent.clone());
    let start = |number| work(cluster.client_config(), number, tally.clone());
    let mut workers: Vec<Worker> = (0..WORKERS).map(start).collect();
    let config = cluster.client_config();

    let began = Instant::now();
    let (mut kills, mut deaths) = (0, 0);
    while began.elapsed() < duration {
        // The moments are chance: they are to hit transactions at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(100..1_000))).await;
        let number = rand::random_range(0..WORKERS);
        workers[number] = work(config.clone(), number, tally.clone());
        deaths += 1;
        if rand::random_bool(0.4) {
            let victim = rand::random_range(1..=3);
            cluster.kill(victim);
            tokio::time::sleep(Duration::from_millis(rand::random_range(500..2_000))).await;
            cluster.restart(victim);
            cluster.healthy().await;
            kills += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    input.await.expect("the input has not panicked");
    let sent = sent.load(Ordering::Relaxed);
    cluster.healthy().await;
    let client = cluster.client().await;
    all_is_done(&cluster, &client, &tally).await;
    drop(workers);
    let came = out(&client, sent).await;
    let made = records(&client).await;
    println!(
        "{kills} brokers and {deaths} workers died in {:?}: {sent} messages in, {} out, {} records; {} transactions committed, {} failed, \
         {} deliveries were not the first",
        began.elapsed(),
        came.len(),
        made.len(),
        tally.committed.load(Ordering::Relaxed),
        tally.aborted.load(Ordering::Relaxed),
        tally.again.load(Ordering::Relaxed),
    );
    assert!(
        kills > 0 && sent > 1_000 && tally.again.load(Ordering::Relaxed) > 0,
        "there was something to lose"
    );
    let places = came.iter().map(|(number, places)| (*number, places.len()));
    for (what, often) in [("messages", places.collect()), ("records", made)] {
        let often: BTreeMap<u64, usize> = often;
        let more: Vec<_> = often.iter().filter(|(_, times)| **times != 1).collect();
        assert!(more.is_empty(), "made more than once, {what}: {more:?}");
        let lost: Vec<u64> = (0..sent).filter(|number| !often.contains_key(number)).collect();
        assert!(lost.is_empty(), "lost {what}: {lost:?}");
        assert_eq!(often.len() as u64, sent, "nothing else was made: {what}");
    }
}

/// Nothing is left of what went in. On a busy machine that may be thousands of messages: what may not take long is the next one.
async fn all_is_done(cluster: &Cluster, client: &Client, tally: &Tally) {
    let (mut committed, mut deadline) = (0, Instant::now() + WAIT);
    let is_empty = async |partition| {
        let peeked = client.queue(IN).peek(partition, 0, &[], 1).await;
        peeked.is_ok_and(|peeked| peeked.messages.is_empty() && peeked.next_offset.is_none())
    };
    for partition in 0..PARTITIONS {
        while !is_empty(partition).await {
            let now_committed = tally.committed.load(Ordering::Relaxed);
            if now_committed > committed {
                (committed, deadline) = (now_committed, Instant::now() + WAIT);
            }
            if Instant::now() > deadline {
                let left = cluster.admin().await.describe_queue(IN).await;
                panic!("nothing was done for {WAIT:?}, and not all that went in is done; left: {left:#?}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Sends numbers, each once, at a rate, and so many at most. Waits for all that it has sent.
fn feed(client: Client, most: u64, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let config = QueueProducerConfig {
            send_timeout: WAIT,
            ..QueueProducerConfig::default()
        };
        let producer = client.queue_producer(IN, config).await.expect("the queue is there");
        let (began, mut number) = (Instant::now(), 0);
        let mut sending = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let due = began.elapsed().as_millis() as u64 * RATE / 1_000;
            while number < due.min(most) {
                let message = QueueMessage::new(number.to_string()).with_message_id(number.to_string());
                sending.push(producer.enqueue(message).await.expect("there is room"));
                number += 1;
            }
            // Its pace is the load.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for sent in sending {
            sent.await.expect("it is sent, once");
        }
        sent.store(number, Ordering::Relaxed);
    })
}

/// A worker. One that takes its place has its transactional id.
fn work(config: ClientConfig, number: usize, tally: Arc<Tally>) -> Worker {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.spawn(async move {
        loop {
            // A worker whose id was taken, or whose cluster was away for too long, begins anew.
            let Ok(client) = Client::connect(config.clone()).await else {
                continue;
            };
            if let Err(error) = work_until_it_fails(&client, number, &tally).await {
                println!("worker {number} begins anew: {error}");
            }
        }
    });
    Worker(Some(runtime))
}

async fn work_until_it_fails(client: &Client, number: usize, tally: &Tally) -> Result<(), ClientError> {
    let options = TransactionOptions {
        timeout: TIMEOUT,
        ..TransactionOptions::default()
    };
    let mut producer = TransactionalProducer::open(client, format!("worker-{number}"), options).await?;
    let config = QueueConsumerConfig {
        prefetch: 50,
        ..QueueConsumerConfig::default()
    };
    let mut consumer = client.queue_consumer(IN, config).await?;
    loop {
        let messages = gather(&mut consumer).await?;
        let again = messages.iter().filter(|message| message.deliveries > 1).count();
        tally.again.fetch_add(again as u64, Ordering::Relaxed);
        match in_transaction(&mut producer, messages).await {
            Ok(()) => tally.committed.fetch_add(1, Ordering::Relaxed),
            Err(error @ ClientError::ProducerFenced { .. }) => return Err(error),
            // Whether it is committed matters to nobody here: its messages are done, or come again.
            Err(ClientError::TransactionUnknown(_)) => {
                while let Err(error) = producer.resolve().await {
                    println!("worker {number}: its transaction is not resolved yet: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                tally.aborted.fetch_add(1, Ordering::Relaxed)
            }
            Err(_) => tally.aborted.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// The messages of one transaction.
async fn gather(consumer: &mut QueueConsumer) -> Result<Vec<QueueDelivery>, ClientError> {
    let mut messages = Vec::new();
    while messages.len() < TOGETHER {
        let next = match messages.is_empty() {
            true => Ok(consumer.next().await),
            false => tokio::time::timeout(Duration::from_millis(20), consumer.next()).await,
        };
        match next {
            Ok(Ok(message)) => messages.push(message),
            Ok(Err(error)) if error.is_retryable() => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
    }
    Ok(messages)
}

async fn in_transaction(producer: &mut TransactionalProducer, messages: Vec<QueueDelivery>) -> Result<(), ClientError> {
    let transaction = producer.begin().await?;
    let body = |message: &QueueDelivery| message.body.clone().expect("it has a body");
    for message in &messages {
        let record = ProducerRecord::new(TOPIC)
            .with_key(body(message))
            .with_value(body(message));
        // The commit waits for it.
        drop(transaction.send(record).await?);
    }
    let out: Vec<QueueMessage> = messages.iter().map(body).map(QueueMessage::new).collect();
    transaction.send_to_queue(OUT, out).await?;
    for message in messages {
        message.ack_in(&transaction).await?;
    }
    transaction.commit().await.map(drop)
}

fn number(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).expect("a number is text");
    text.parse().expect("it is a number")
}

/// All messages that came out, by number, with their places: one message has one, however often it comes.
async fn out(client: &Client, sent: u64) -> BTreeMap<u64, BTreeSet<MessagePlace>> {
    let config = QueueConsumerConfig {
        prefetch: 1_000,
        ..QueueConsumerConfig::default()
    };
    let mut consumer = client.queue_consumer(OUT, config).await.expect("the queue is there");
    let mut came: BTreeMap<u64, BTreeSet<MessagePlace>> = BTreeMap::new();
    let mut acks = JoinSet::new();
    // What is more than went in, or comes twice, is there by the time when all has come and nothing more does.
    loop {
        let patience = match (came.len() as u64) < sent {
            // For the next one: in five minutes there were so many that all took longer.
            true => WAIT,
            false => Duration::from_secs(2),
        };
        let Ok(message) = tokio::time::timeout(patience, consumer.next()).await else {
            break;
        };
        let message = message.expect("the brokers are there");
        let body = message.body.clone().expect("it has a body");
        came.entry(number(&body)).or_default().insert(message.place);
        acks.spawn(message.ack());
    }
    while let Some(acknowledged) = acks.join_next().await {
        acknowledged.expect("it has not panicked").expect("its lease is long");
    }
    came
}

/// How often each number is in the topic.
async fn records(client: &Client) -> BTreeMap<u64, usize> {
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    let assigned = consumer.assign_topic(TOPIC, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut made = BTreeMap::new();
    let reading = async {
        while !consumer.reached(&ends) {
            for record in consumer.next_batch().await.expect("the leaders answer") {
                *made.entry(number(&record.value.expect("it has a value"))).or_default() += 1;
            }
        }
    };
    tokio::time::timeout(WAIT, reading).await.expect("all is read");
    made
}
