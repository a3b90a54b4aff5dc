//! A chain of three stages, each of which reads, transforms and writes in transactions, while brokers are killed, stages die at any
//! moment, and connections are held back, slowed and cut: each number that goes in comes out once, for a reader that was there all the
//! time and for one that comes at the end.
//!
//! A quarter of a minute by default, five minutes with `JANGADA_LONG=1`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientError, CommitMode, ConsumedRecord, ConsumerConfig, ExactlyOnceOptions, GroupConfig, ProducerConfig,
    ProducerRecord, StartAt, TransactionOptions, TransactionalProducer,
};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, Options, WAIT, disturb, is_long};

const STAGES: usize = 3;
/// Topics between the stages, the first for what goes in and the last for what comes out.
const TOPICS: [&str; STAGES + 1] = ["numbers", "doubled", "twice-doubled", "out"];
const PARTITIONS: u32 = 3;
/// Processes of each stage, which share its group.
const WORKERS: usize = 2;
/// Numbers that go in each second.
const RATE: u64 = 500;
/// A transaction whose worker died is aborted after this time, unless its successor comes first.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often each number came, for one reader.
type Came = BTreeMap<u64, u32>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_number_comes_out_of_the_chain_once_while_brokers_and_stages_die() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 15 });
    let options = Options {
        proxied: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    for topic in TOPICS {
        cluster.create_topic(topic, PARTITIONS, 3).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let config = cluster.proxied_config();
    let client = Client::connect(config).await.expect("a broker answers");
    let input = feed(cluster.client().await, stop.clone(), sent.clone());
    let mut workers: Vec<JoinHandle<()>> = (0..STAGES * WORKERS)
        .map(|number| work(client.clone(), number))
        .collect();
    let all_read = Arc::new(AtomicBool::new(false));
    let disturbing = disturb(cluster.proxies(), stop.clone());
    let witness = witness(cluster.client().await, all_read.clone());

    let began = Instant::now();
    let (mut kills, mut deaths) = (0, 0);
    while began.elapsed() < duration {
        // The moments are chance: they are to hit transactions at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(100..1_000))).await;
        let number = rand::random_range(0..workers.len());
        workers[number].abort();
        // What it had open is left as a killed process would leave it: nothing runs on its behalf but the abort of what was dropped.
        workers[number] = work(client.clone(), number);
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
    let disturbances = disturbing.await.expect("nothing panicked");
    input.await.expect("the input has not panicked");
    let sent = sent.load(Ordering::Relaxed);
    cluster.healthy().await;
    let whole = read_until(&client, sent).await;
    all_read.store(true, Ordering::Relaxed);
    let seen = witness.await.expect("the witness has not panicked");
    workers.iter().for_each(JoinHandle::abort);
    println!(
        "{kills} brokers and {deaths} workers died, {disturbances:?} in {:?}: {sent} numbers in, {} out",
        began.elapsed(),
        whole.len()
    );
    assert!(kills > 0 && sent > 1_000, "there was something to lose");
    for (who, came) in [("at the end", &whole), ("meanwhile", &seen)] {
        let often: Vec<_> = came.iter().filter(|(_, times)| **times != 1).collect();
        assert!(often.is_empty(), "more than once {who}: {often:?}");
        let lost: Vec<u64> = (0..sent).filter(|number| !came.contains_key(number)).collect();
        assert!(lost.is_empty(), "lost {who}: {lost:?}");
        assert_eq!(came.len() as u64, sent, "nothing else came {who}");
    }
}

/// Sends numbers, each once, at a rate. Waits for all that it has sent.
fn feed(client: Client, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let producer = client.producer(ProducerConfig::default()).expect("the defaults");
        let (began, mut number) = (Instant::now(), 0);
        let mut deliveries = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let due = began.elapsed().as_millis() as u64 * RATE / 1_000;
            while number < due {
                let text = number.to_string();
                let record = ProducerRecord::new(TOPICS[0]).with_key(text.clone()).with_value(text);
                deliveries.push(producer.send(record).await.expect("there is room"));
                number += 1;
            }
            // Its pace is the load.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for delivery in deliveries {
            delivery.await.expect("it is stored, once");
        }
        sent.store(number, Ordering::Relaxed);
    })
}

/// A worker of a stage. One that takes its place has its transactional id.
fn work(client: Client, number: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            // A worker whose id was taken, or whose cluster was away for too long, begins anew.
            if let Err(error) = stage(&client, number).await {
                eprintln!("worker {number} begins anew: {error}");
            }
        }
    })
}

async fn stage(client: &Client, number: usize) -> Result<(), ClientError> {
    let stage = number / WORKERS;
    let mut config = GroupConfig::new(format!("stage-{stage}"), [TOPICS[stage]]);
    config.commit = CommitMode::Manual;
    let mut consumer = client.group_consumer(config)?;
    let options = TransactionOptions {
        timeout: TIMEOUT,
        ..TransactionOptions::default()
    };
    let mut producer = TransactionalProducer::open(client, format!("worker-{number}"), options).await?;
    loop {
        let transform = async |records: &[ConsumedRecord]| {
            let made = records.iter().map(|record| {
                let key = record.key.clone().expect("it has a key");
                let value: u64 = text(record.value.as_deref()).parse().expect("a number");
                ProducerRecord::new(TOPICS[stage + 1])
                    .with_key(key)
                    .with_value((2 * value).to_string())
            });
            Ok::<_, ClientError>(made.collect())
        };
        match producer
            .process(&mut consumer, ExactlyOnceOptions::default(), transform)
            .await
        {
            Ok(_) => {}
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
}

fn text(bytes: Option<&[u8]>) -> &str {
    std::str::from_utf8(bytes.expect("it is there")).expect("it is text")
}

fn take(came: &mut Came, records: Vec<ConsumedRecord>) {
    for record in records {
        let number: u64 = text(record.key.as_deref()).parse().expect("a number");
        let made: u64 = text(record.value.as_deref()).parse().expect("a number");
        assert_eq!(made, number << STAGES, "each stage was passed once");
        *came.entry(number).or_default() += 1;
    }
}

/// Reads what comes out from the beginning on, until another reader has all, and then to the end.
fn witness(client: Client, all_read: Arc<AtomicBool>) -> JoinHandle<Came> {
    tokio::spawn(async move {
        let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
        let topic = TOPICS[STAGES];
        consumer
            .assign_topic(topic, StartAt::Earliest)
            .await
            .expect("the topic is there");
        let mut came = Came::new();
        let mut ends = None;
        loop {
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(100), consumer.next_batch()).await {
                match batch {
                    Ok(records) => take(&mut came, records),
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            if ends.is_none() && all_read.load(Ordering::Relaxed) {
                ends = consumer.end_offsets().await.ok();
            }
            if ends.as_ref().is_some_and(|ends| consumer.reached(ends)) {
                return came;
            }
        }
    })
}

/// Reads what comes out from the beginning on until so many numbers came, and then to the end.
async fn read_until(client: &Client, count: u64) -> Came {
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    let topic = TOPICS[STAGES];
    consumer
        .assign_topic(topic, StartAt::Earliest)
        .await
        .expect("the topic is there");
    let mut came = Came::new();
    let deadline = Instant::now() + 2 * WAIT;
    let mut ends = None;
    while !ends.as_ref().is_some_and(|ends| consumer.reached(ends)) {
        assert!(Instant::now() < deadline, "{} of {count} numbers came", came.len());
        let batch = tokio::time::timeout(Duration::from_millis(100), consumer.next_batch()).await;
        if let Ok(batch) = batch {
            take(&mut came, batch.expect("the leaders answer"));
        }
        if ends.is_none() && came.len() as u64 >= count {
            ends = consumer.end_offsets().await.ok();
        }
    }
    came
}
