//! Those who write in transactions, and read while they are open.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientConfig, ClientError, ProducerConfig, ProducerRecord, TransactionOptions, TransactionOutcome,
    TransactionalProducer,
};
use rand::RngExt;

use super::ledger::{Name, Place, TIMEOUT, Value, World, connect, is_compacted, partition_of, places};
use super::readers::recent;
use crate::anomalies::{Fate, Transaction};
use crate::harness::WAIT;

/// Writers 0 and 1 share a transactional id: each takes it over from the other.
pub const WRITERS: u32 = 5;
/// A client that waits for no longer sends again, while what it sent first may be held back for long.
const IMPATIENT: Duration = Duration::from_secs(1);
/// Records under shared keys, large enough that compaction has something to do.
const SHARED_KEYS: u32 = 20;
const COVER_BYTES: usize = 12 * 1024;

/// Writes transactions until the end. One in five is aborted, one in thirty takes longer than it may.
pub async fn write(mut config: ClientConfig, writer: u32, world: &World) {
    let id = format!("writer-{}", writer.max(1));
    let mut options = TransactionOptions {
        timeout: TIMEOUT,
        ..TransactionOptions::default()
    };
    if writer.is_multiple_of(2) {
        config.request_timeout = IMPATIENT;
        options.producer = ProducerConfig {
            request_timeout: IMPATIENT,
            ..options.producer
        };
    }
    let client = connect(config).await;
    let mut number = 0;
    while !world.is_over() {
        let Ok(mut producer) = TransactionalProducer::open(&client, id.clone(), options.clone()).await else {
            continue;
        };
        while !world.is_over() {
            let name = (writer, number);
            number += 1;
            let mut known = Transaction {
                fate: Fate::Aborted,
                values: Vec::new(),
                reads: Vec::new(),
            };
            let ended = one_transaction(&client, &mut producer, name, &mut known).await;
            known.fate = match ended {
                Ok(fate) => fate,
                Err(ClientError::TransactionTimedOut(_)) => {
                    world.timed_out.store(true, Ordering::Relaxed);
                    Fate::Aborted
                }
                Err(ClientError::TransactionUnknown(_)) => resolve(&mut producer, world).await,
                Err(ClientError::ProducerFenced { .. }) => {
                    note(world, name, known);
                    world.fenced.store(true, Ordering::Relaxed);
                    // The other one is to come to something before it is fenced.
                    let pause = rand::rng().random_range(500..2_000);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    break;
                }
                // Whatever failed, it was not committed.
                Err(_) => Fate::Aborted,
            };
            note(world, name, known);
        }
        producer.close().await;
    }
}

fn note(world: &World, name: Name, known: Transaction<Value>) {
    world.written.lock().expect("nothing panicked").insert(name, known);
}

/// One transaction: what it writes and reads, and how it ended.
async fn one_transaction(
    client: &Client,
    producer: &mut TransactionalProducer,
    (writer, number): Name,
    known: &mut Transaction<Value>,
) -> Result<Fate, ClientError> {
    let (count, pace, aborts, reads) = {
        let mut chance = rand::rng();
        let pace = match chance.random_range(0..30) {
            0 => TIMEOUT + Duration::from_millis(500),
            _ => Duration::from_millis(chance.random_range(0..40)),
        };
        let (aborts, reads) = (chance.random_bool(0.2), chance.random_bool(0.25));
        (chance.random_range(1..=8_u32), pace, aborts, reads)
    };
    let transaction = producer.begin().await?;
    for at in 0..count {
        let value = Value {
            writer,
            transaction: number,
            at,
        };
        let place = rand::random_range(places());
        known.values.push((place, value));
        for record in records(place, value) {
            drop(transaction.send(record).await?);
        }
        if at == 0 {
            // Its pace is the load.
            tokio::time::sleep(pace).await;
            if reads {
                known.reads = recent(client, rand::random_range(places())).await;
            }
        }
    }
    match aborts {
        true => transaction.abort().await.map(|()| Fate::Aborted),
        false => transaction.commit().await.map(|_| Fate::Committed),
    }
}

/// The record of a value, under a key of its own. Where there is compaction, before it a large one under a key that others have as well.
fn records(place: Place, value: Value) -> Vec<ProducerRecord> {
    let (topic, partition) = partition_of(place);
    let text = value.encode();
    let record = ProducerRecord::new(topic).with_partition(partition);
    let own = record.clone().with_key(text.clone()).with_value(text.clone());
    if !is_compacted(place) {
        return vec![own];
    }
    let key = format!("cover {}", value.transaction % SHARED_KEYS);
    let cover = format!("{text} {}", "x".repeat(COVER_BYTES));
    vec![record.with_key(key).with_value(cover), own]
}

/// Asks what became of a commit that was not answered. It stays unknown when the id was taken over and used since.
async fn resolve(producer: &mut TransactionalProducer, world: &World) -> Fate {
    let deadline = Instant::now() + WAIT;
    loop {
        match producer.resolve().await {
            Ok(TransactionOutcome::Committed) => return Fate::Committed,
            Ok(TransactionOutcome::Aborted) => return Fate::Aborted,
            Err(error) if error.is_retryable() && Instant::now() < deadline && !world.is_over() => {}
            Err(_) => return Fate::Unknown,
        }
    }
}
