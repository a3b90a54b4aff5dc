//! Transactions while brokers are killed and paused, producers are taken over and are too slow: what readers of committed records see is
//! checked for the anomalies that transactions exclude.
//!
//! | not seen | name |
//! |---|---|
//! | a value of a transaction that was aborted | aborted read (G1a) |
//! | a value of a committed transaction that no reader gets | lost write |
//! | some values of a transaction without the others | torn transaction |
//! | a value twice | duplicate |
//! | records of a partition in another order, or at other offsets, for another reader | going back |
//! | values of one writer in another order than it wrote them | reordering |
//! | an end of what is committed that goes back, or stays behind when all producers have stopped | hanging |
//!
//! 20 s by default, five minutes with `JANGADA_LONG=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientError, ConsumerConfig, Isolation, OffsetAt, ProducerRecord, StartAt, TransactionOptions,
    TransactionOutcome, TransactionalProducer,
};
use rand::RngExt;
use tokio::task::JoinHandle;

use crate::harness::{Cluster, WAIT, eventually, is_long};

const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 8;
/// Writers 0 and 1 share a transactional id: each takes it over from the other.
const WRITERS: u32 = 5;
const READERS: usize = 2;
/// A transaction that is open for longer is aborted by its coordinator.
const TIMEOUT: Duration = Duration::from_secs(2);

/// One value: which transaction of which writer it is of, and its place among that one's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Value {
    writer: u32,
    transaction: u32,
    at: u32,
}

impl Value {
    fn encode(self) -> String {
        format!("{}/{}/{}", self.writer, self.transaction, self.at)
    }

    fn decode(text: &[u8]) -> Value {
        let text = std::str::from_utf8(text).expect("a value is text");
        let mut numbers = text
            .split('/')
            .map(|number| number.parse().expect("a value is three numbers"));
        let mut next = || numbers.next().expect("a value is three numbers");
        Value {
            writer: next(),
            transaction: next(),
            at: next(),
        }
    }

    fn of(self) -> (u32, u32) {
        (self.writer, self.transaction)
    }
}

/// What its writer knows of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Committed,
    Aborted,
    Unknown,
}

/// A transaction: how many values it has, and how it ended.
struct Written {
    values: u32,
    outcome: Outcome,
}

/// The records of one partition in the order in which a reader got them.
type Partition = Vec<(i64, Value)>;
type Seen = BTreeMap<u32, Partition>;

#[derive(Default)]
struct World {
    written: Mutex<BTreeMap<(u32, u32), Written>>,
    stop: AtomicBool,
    timed_out: AtomicBool,
    fenced: AtomicBool,
}

impl World {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_committed_records_see_whole_transactions_while_brokers_are_killed() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 20 });
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let world = Arc::new(World::default());
    let mut writing = Vec::new();
    for writer in 0..WRITERS {
        let (client, world) = (cluster.client().await, world.clone());
        writing.push(tokio::spawn(async move { write(&client, writer, &world).await }));
    }
    let mut reading = Vec::new();
    for _ in 0..READERS {
        reading.push(read(cluster.client().await, world.clone()));
    }
    let watching = watch_ends(cluster.client().await, world.clone());
    let began = Instant::now();
    let (mut kills, mut pauses) = (0, 0);
    while began.elapsed() < duration {
        let victim = rand::random_range(1..=3);
        // The moment is chance: it is to hit transactions at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(200..1_500))).await;
        if rand::random_bool(0.3) {
            cluster.pause(victim);
            tokio::time::sleep(Duration::from_millis(rand::random_range(500..4_000))).await;
            cluster.resume(victim);
            pauses += 1;
            continue;
        }
        cluster.kill(victim);
        tokio::time::sleep(Duration::from_millis(rand::random_range(500..2_500))).await;
        cluster.restart(victim);
        cluster.healthy().await;
        kills += 1;
    }
    world.stop.store(true, Ordering::Relaxed);
    for task in writing {
        task.await.expect("a writer has not panicked");
    }
    cluster.healthy().await;
    let client = cluster.client().await;
    let bound = TIMEOUT + Duration::from_secs(5);
    let stopped = Instant::now();
    eventually("no transaction is open", WAIT, || async {
        all_is_stable(&client).await.ok()?.then_some(())
    })
    .await;
    let until_stable = stopped.elapsed();
    let whole = read_all(&client).await;
    let mut readers: Vec<Seen> = Vec::new();
    for reader in reading {
        readers.push(reader.await.expect("a reader has not panicked"));
    }
    watching.await.expect("no end went back");

    let written = world.written.lock().expect("nothing panicked");
    let count = |outcome: &Outcome| written.values().filter(|written| written.outcome == *outcome).count();
    println!(
        "{kills} kills, {pauses} pauses in {:?}: {} transactions committed, {} aborted, {} unknown; timed out: {}, taken over: {}; \
         stable after {until_stable:?}",
        began.elapsed(),
        count(&Outcome::Committed),
        count(&Outcome::Aborted),
        count(&Outcome::Unknown),
        world.timed_out.load(Ordering::Relaxed),
        world.fenced.load(Ordering::Relaxed),
    );
    assert!(
        kills > 0 && count(&Outcome::Committed) > 20 && count(&Outcome::Aborted) > 5,
        "there was something to see"
    );
    assert!(until_stable <= bound, "a transaction hung for {until_stable:?}");
    check(&whole, &written);
    for seen in &readers {
        is_the_same(seen, &whole);
    }
}

/// Holds what a reader of everything saw against what was written.
fn check(whole: &Seen, written: &BTreeMap<(u32, u32), Written>) {
    let mut seen: BTreeMap<(u32, u32), BTreeSet<u32>> = BTreeMap::new();
    for (partition, records) in whole {
        let mut last: BTreeMap<u32, Value> = BTreeMap::new();
        for (offset, value) in records {
            let is_new = seen.entry(value.of()).or_default().insert(value.at);
            assert!(is_new, "{value:?} is twice, again at {partition}:{offset}");
            if let Some(before) = last.insert(value.writer, *value) {
                assert!(
                    before < *value,
                    "{value:?} at {partition}:{offset} comes behind {before:?}"
                );
            }
        }
    }
    for (transaction, values) in &seen {
        let Some(Written { values: all, outcome }) = written.get(transaction) else {
            panic!("nobody wrote {transaction:?}");
        };
        assert_ne!(
            *outcome,
            Outcome::Aborted,
            "aborted read of {transaction:?}: {values:?}"
        );
        assert_eq!(
            values.len(),
            *all as usize,
            "torn transaction {transaction:?}, {outcome:?}: {values:?} of {all}"
        );
    }
    for (transaction, Written { outcome, .. }) in written {
        if *outcome == Outcome::Committed {
            assert!(seen.contains_key(transaction), "lost write of {transaction:?}");
        }
    }
}

/// A reader that was there all the time got the same as one that comes at the end.
fn is_the_same(seen: &Seen, whole: &Seen) {
    for (partition, records) in whole {
        let got = seen.get(partition).map_or(&[][..], |got| &got[..]);
        let differs = got.iter().zip(records).position(|(got, is)| got != is);
        if let Some(at) = differs {
            panic!(
                "partition {partition}: a reader got {:?} where {:?} is",
                got[at], records[at]
            );
        }
        assert_eq!(
            got.len(),
            records.len(),
            "partition {partition}: a reader got another number of records"
        );
    }
}

/// Writes transactions until the end. One in five is aborted, one in thirty takes longer than it may.
async fn write(client: &Client, writer: u32, world: &World) {
    let id = format!("writer-{}", writer.max(1));
    let options = || TransactionOptions {
        timeout: TIMEOUT,
        ..TransactionOptions::default()
    };
    let mut number = 0;
    while !world.is_over() {
        let Ok(mut producer) = TransactionalProducer::open(client, id.clone(), options()).await else {
            continue;
        };
        while !world.is_over() {
            let transaction = (writer, number);
            number += 1;
            let (values, ended) = one_transaction(&mut producer, transaction).await;
            let outcome = match ended {
                Ok(outcome) => outcome,
                Err(ClientError::TransactionTimedOut(_)) => {
                    world.timed_out.store(true, Ordering::Relaxed);
                    Outcome::Aborted
                }
                Err(ClientError::TransactionUnknown(_)) => resolve(&mut producer, world).await,
                Err(ClientError::ProducerFenced { .. }) => {
                    note(world, transaction, values, Outcome::Aborted);
                    world.fenced.store(true, Ordering::Relaxed);
                    // The other one is to come to something before it is fenced.
                    let pause = rand::rng().random_range(500..2_000);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    break;
                }
                // Whatever failed, it was not committed.
                Err(_) => Outcome::Aborted,
            };
            note(world, transaction, values, outcome);
        }
        producer.close().await;
    }
}

fn note(world: &World, transaction: (u32, u32), values: u32, outcome: Outcome) {
    let mut written = world.written.lock().expect("nothing panicked");
    written.insert(transaction, Written { values, outcome });
}

/// One transaction: how many values it has, and how it ended.
async fn one_transaction(
    producer: &mut TransactionalProducer,
    (writer, number): (u32, u32),
) -> (u32, Result<Outcome, ClientError>) {
    let (values, pace, aborts) = {
        let mut chance = rand::rng();
        let pace = match chance.random_range(0..30) {
            0 => TIMEOUT + Duration::from_millis(500),
            _ => Duration::from_millis(chance.random_range(0..40)),
        };
        (chance.random_range(1..=8_u32), pace, chance.random_bool(0.2))
    };
    let transaction = match producer.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return (values, Err(error)),
    };
    for at in 0..values {
        let value = Value {
            writer,
            transaction: number,
            at,
        };
        let partition = rand::random_range(0..PARTITIONS);
        let record = ProducerRecord::new(TOPIC)
            .with_partition(partition)
            .with_value(value.encode());
        if let Err(error) = transaction.send(record).await {
            drop(transaction);
            return (values, Err(error));
        }
        if at == 0 {
            // Its pace is the load.
            tokio::time::sleep(pace).await;
        }
    }
    let ended = match aborts {
        true => transaction.abort().await.map(|()| Outcome::Aborted),
        false => transaction.commit().await.map(|_| Outcome::Committed),
    };
    (values, ended)
}

/// Asks what became of a commit that was not answered. It stays unknown when the id was taken over and used since.
async fn resolve(producer: &mut TransactionalProducer, world: &World) -> Outcome {
    let deadline = Instant::now() + WAIT;
    loop {
        match producer.resolve().await {
            Ok(TransactionOutcome::Committed) => return Outcome::Committed,
            Ok(TransactionOutcome::Aborted) => return Outcome::Aborted,
            Err(error) if error.is_retryable() && Instant::now() < deadline && !world.is_over() => {}
            Err(_) => return Outcome::Unknown,
        }
    }
}

/// Reads committed records from the beginning until all is over, and then to the end.
fn read(client: Client, world: Arc<World>) -> JoinHandle<Seen> {
    tokio::spawn(async move {
        let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
        consumer
            .assign_topic(TOPIC, StartAt::Earliest)
            .await
            .expect("the topic is there");
        let mut seen = Seen::new();
        let mut ends = None;
        loop {
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(100), consumer.next_batch()).await {
                match batch {
                    Ok(records) => take(&mut seen, records),
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            if ends.is_none() && world.is_over() && all_is_stable(&client).await.unwrap_or(false) {
                ends = consumer.end_offsets().await.ok();
            }
            if ends.as_ref().is_some_and(|ends| consumer.reached(ends)) {
                return seen;
            }
        }
    })
}

fn take(seen: &mut Seen, records: Vec<jangada_client::ConsumedRecord>) {
    for record in records {
        let partition = seen.entry(record.partition).or_default();
        if let Some((last, _)) = partition.last() {
            assert!(
                record.offset > *last,
                "partition {}: {} behind {last}",
                record.partition,
                record.offset
            );
        }
        partition.push((
            record.offset,
            Value::decode(record.value.as_deref().expect("it has a value")),
        ));
    }
}

async fn read_all(client: &Client) -> Seen {
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    consumer
        .assign_topic(TOPIC, StartAt::Earliest)
        .await
        .expect("the topic is there");
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut seen = Seen::new();
    let reading = async {
        while !consumer.reached(&ends) {
            let records = tokio::time::timeout(Duration::from_secs(1), consumer.next_batch()).await;
            if let Ok(records) = records {
                take(&mut seen, records.expect("the leaders answer"));
            }
        }
    };
    tokio::time::timeout(WAIT, reading).await.expect("all is read");
    seen
}

/// The end of what a reader with this isolation gets.
async fn end(client: &Client, partition: u32, isolation: Isolation) -> Result<i64, ClientError> {
    let listed = client
        .list_offsets_as(TOPIC, partition, OffsetAt::Latest, isolation)
        .await?;
    Ok(listed.offset.expect("the end is an offset"))
}

async fn all_is_stable(client: &Client) -> Result<bool, ClientError> {
    for partition in 0..PARTITIONS {
        let stable = end(client, partition, Isolation::Committed).await?;
        if stable != end(client, partition, Isolation::Uncommitted).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Watches that no end goes back: neither that of what is committed, nor that of all.
fn watch_ends(client: Client, world: Arc<World>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last: BTreeMap<(u32, bool), i64> = BTreeMap::new();
        while !world.is_over() {
            for partition in 0..PARTITIONS {
                for isolation in [Isolation::Committed, Isolation::Uncommitted] {
                    let Ok(end) = end(&client, partition, isolation).await else {
                        continue;
                    };
                    let before = last
                        .insert((partition, isolation == Isolation::Committed), end)
                        .unwrap_or(0);
                    assert!(
                        end >= before,
                        "partition {partition}, {isolation:?}: the end goes back from {before} to {end}"
                    );
                }
            }
        }
    })
}
