//! What is there when all is over: every partition is read from its beginning by a new client, and from each of its replicas, which leads
//! it for that.
//!
//! A reader of everything takes the batches as they are stored, so that markers of transactions are seen as well: then no offset may be
//! missing. A reader of committed records takes what a consumer hands out.

use std::time::Duration;

use bytes::Bytes;
use jangada_check::call::{Isolation as Shown, Value};
use jangada_check::note::{Final, Note};
use jangada_client::{
    BrokerId, Client, ClientError, Consumer, ConsumerConfig, Isolation, OffsetAt, RawBatches, StartAt,
};
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use tokio::time::{Instant, sleep, timeout};

use super::reading::Named;
use super::records::{key_read, value_of, value_read};
use crate::play::stage::Stage;
use crate::roles::team::Finding;

/// Within so long each partition must be readable, and have no open transaction.
const CALM_AFTER: Duration = Duration::from_secs(60);
/// How long one reader may take for all of a partition.
const READ_WITHIN: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// An offset that has something.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it is.
    pub offset: i64,
    /// The record's time, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The record's key.
    pub key: Option<String>,
    /// The record's value, or the name of a tombstone. None: a marker.
    pub value: Option<Value>,
    /// The record deletes its key.
    pub is_tombstone: bool,
}

/// All of a partition.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// The first offset that can be read.
    pub log_start: i64,
    /// The offset behind the last one.
    pub end: i64,
    /// Everything, with markers.
    pub all: Vec<Found>,
    /// What a reader of committed records gets.
    pub committed: Vec<Found>,
}

/// The offsets between which a partition can be read.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    log_start: i64,
    stable: i64,
    end: i64,
    leader_epoch: u32,
}

async fn bounds(client: &Client, topic: &str, partition: u32) -> Result<Bounds, ClientError> {
    let stable = client.list_offsets_as(topic, partition, OffsetAt::Latest, Isolation::Committed);
    let stable = stable.await?;
    let end = client.list_offsets_as(topic, partition, OffsetAt::Latest, Isolation::Uncommitted);
    let end = end.await?;
    let first = client.list_offsets(topic, partition, OffsetAt::Earliest).await?;
    Ok(Bounds {
        log_start: first.offset.unwrap_or(0),
        stable: stable.offset.unwrap_or(0),
        end: end.offset.unwrap_or(0),
        leader_epoch: first.leader_epoch,
    })
}

/// Reads all partitions of a topic, whose writers have ended, with a client and from each replica, and notes it for the checker.
///
/// # Errors
/// Says what cannot be read, or does not come to rest.
pub async fn read_topic(stage: &Stage, client: &Client, topic: &Named, partitions: u32) -> Result<Vec<Whole>, Finding> {
    let mut all = Vec::new();
    for partition in 0..partitions {
        stage.step(format!("reads all of {}", topic.place(partition)));
        let whole = read_whole(stage, client, topic, partition).await?;
        read_replicas(stage, client, topic, partition).await?;
        all.push(whole);
    }
    Ok(all)
}

/// Reads all of one partition with a client, and notes it for the checker.
///
/// # Errors
/// Says why that is not possible within a minute.
pub async fn read_whole(stage: &Stage, client: &Client, topic: &Named, partition: u32) -> Result<Whole, Finding> {
    let deadline = Instant::now() + CALM_AFTER;
    loop {
        let read = timeout(READ_WITHIN, try_whole(client, topic, partition)).await;
        let why = match read {
            Ok(Ok((bounds, whole))) if bounds.stable == bounds.end || Instant::now() >= deadline => {
                for (shown, records) in [(Shown::Uncommitted, &whole.all), (Shown::Committed, &whole.committed)] {
                    stage
                        .recorder
                        .note(None, note(topic, partition, (shown, None), bounds, records));
                }
                if bounds.stable < bounds.end {
                    let place = topic.place(partition);
                    return Err(format!("{place} has an open transaction: {bounds:?}"));
                }
                return Ok(whole);
            }
            Ok(Ok((bounds, _))) => format!("a transaction is open: {bounds:?}"),
            Ok(Err(why)) => why,
            Err(_) => format!("it takes more than {READ_WITHIN:?}"),
        };
        if Instant::now() >= deadline {
            return Err(format!("{} cannot be read: {why}", topic.place(partition)));
        }
        sleep(PAUSE).await;
    }
}

async fn try_whole(client: &Client, topic: &Named, partition: u32) -> Result<(Bounds, Whole), Finding> {
    let text = |error: ClientError| error.to_string();
    let bounds = bounds(client, &topic.topic, partition).await.map_err(text)?;
    let all = read_raw(client, topic, partition, bounds).await?;
    let mut consumer = assigned(client, topic, partition, (bounds.log_start, Isolation::Committed))
        .await
        .map_err(text)?;
    let mut committed = Vec::new();
    while consumer.position(&topic.topic, partition).unwrap_or(0) < bounds.stable {
        for record in consumer.next_batch().await.map_err(text)? {
            if record.offset < bounds.stable {
                committed.push(Found {
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    key: key_read(record.key.as_ref()),
                    value: Some(value_read(&record)),
                    is_tombstone: record.value.is_none(),
                });
            }
        }
    }
    let whole = Whole {
        log_start: bounds.log_start,
        end: bounds.end,
        all,
        committed,
    };
    Ok((bounds, whole))
}

async fn assigned(
    client: &Client,
    topic: &Named,
    partition: u32,
    (from, isolation): (i64, Isolation),
) -> Result<Consumer, ClientError> {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config)?;
    let assignment = vec![(topic.topic.as_str(), partition, StartAt::Offset(from))];
    consumer.assign(assignment).await?;
    Ok(consumer)
}

/// Reads the batches as they are stored.
async fn read_raw(client: &Client, topic: &Named, partition: u32, bounds: Bounds) -> Result<Vec<Found>, Finding> {
    let text = |error: ClientError| error.to_string();
    let consumer = assigned(client, topic, partition, (bounds.log_start, Isolation::Uncommitted));
    let mut consumer = consumer.await.map_err(text)?;
    let (mut found, mut next) = (Vec::new(), bounds.log_start);
    while next < bounds.end {
        let raw = consumer.next_raw().await.map_err(text)?;
        if raw.first_offset != next {
            let (place, first) = (topic.place(partition), raw.first_offset);
            return Err(format!("{place} is read from {first} on, and {next} was to come"));
        }
        next = raw.next_offset;
        take(&raw, bounds, &mut found).map_err(|why| format!("{}: {why}", topic.place(partition)))?;
    }
    Ok(found)
}

/// Takes what batches have from their first offset that was asked for up to the end.
fn take(raw: &RawBatches, bounds: Bounds, found: &mut Vec<Found>) -> Result<(), Finding> {
    let is_wanted = |offset: i64| (raw.first_offset..bounds.end).contains(&offset);
    for batch in BatchIter::new(raw.batches.clone()) {
        let (header, bytes) = batch.map_err(|error| error.to_string())?;
        if header.attributes.is_control() {
            if is_wanted(header.base_offset) {
                found.push(marker(header.base_offset, header.max_timestamp));
            }
            continue;
        }
        found.extend(records(&bytes)?.into_iter().filter(|found| is_wanted(found.offset)));
    }
    Ok(())
}

fn marker(offset: i64, timestamp_ms: i64) -> Found {
    Found {
        offset,
        timestamp_ms,
        key: None,
        value: None,
        is_tombstone: false,
    }
}

fn records(batch: &Bytes) -> Result<Vec<Found>, Finding> {
    let mut found = Vec::new();
    for record in Records::new(batch, DECOMPRESSED_BYTES_MAX).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        found.push(Found {
            offset: record.offset.get(),
            timestamp_ms: record.timestamp_ms,
            key: key_read(record.key.as_ref()),
            value: Some(value_of(record.value.as_ref(), &record.headers)),
            is_tombstone: record.value.is_none(),
        });
    }
    Ok(found)
}

fn note(
    topic: &Named,
    partition: u32,
    (isolation, replica): (Shown, Option<String>),
    bounds: Bounds,
    records: &[Found],
) -> Note {
    let next = match isolation {
        Shown::Committed => bounds.stable,
        Shown::Uncommitted => bounds.end,
    };
    let records = records.iter().map(|found| (found.offset, found.value.clone()));
    Note::Final(Final {
        partition: topic.place(partition),
        replica,
        isolation,
        log_start: bounds.log_start,
        end: bounds.end,
        stable: Some(bounds.stable),
        next: Some(next),
        complete: true,
        records: records.collect(),
    })
}

/// Lets each replica of a partition lead, one after another, and reads it from there.
async fn read_replicas(stage: &Stage, client: &Client, topic: &Named, partition: u32) -> Result<(), Finding> {
    let deadline = Instant::now() + CALM_AFTER;
    let mut open: Option<Vec<BrokerId>> = None;
    let mut last = String::new();
    while Instant::now() < deadline {
        let Some(replicas) = &mut open else {
            open = replicas_of(client, &topic.topic, partition).await;
            if open.is_none() {
                sleep(PAUSE).await;
            }
            continue;
        };
        let Some(replica) = replicas.first().copied() else {
            return Ok(());
        };
        let read = timeout(READ_WITHIN, try_replica(client, topic, partition, replica)).await;
        match read {
            Ok(Ok((bounds, found))) => {
                let who = Some(format!("broker-{}", replica.get()));
                let shown = (Shown::Uncommitted, who);
                stage.recorder.note(None, note(topic, partition, shown, bounds, &found));
                replicas.remove(0);
            }
            Ok(Err(why)) => {
                last = format!("broker {replica}: {why}");
                sleep(PAUSE).await;
            }
            Err(_) => last = format!("broker {replica}: it takes more than {READ_WITHIN:?}"),
        }
    }
    let place = topic.place(partition);
    Err(format!("{place} cannot be read from each of its replicas: {last}"))
}

/// The replicas of a partition; none if it has only one, or nobody tells.
async fn replicas_of(client: &Client, topic: &str, partition: u32) -> Option<Vec<BrokerId>> {
    let described = client.admin().describe_partitions(Some(topic)).await.ok()?;
    let state = described.into_iter().find(|state| state.partition == partition)?;
    match state.replicas.len() {
        1 => Some(Vec::new()),
        _ => Some(state.replicas),
    }
}

/// What a replica has while it leads.
async fn try_replica(
    client: &Client,
    topic: &Named,
    partition: u32,
    replica: BrokerId,
) -> Result<(Bounds, Vec<Found>), Finding> {
    let text = |error: ClientError| error.to_string();
    let admin = client.admin();
    let leader = admin
        .transfer_leader(&topic.topic, partition, replica)
        .await
        .map_err(text)?;
    let before = bounds(client, &topic.topic, partition).await.map_err(text)?;
    let found = read_raw(client, topic, partition, before).await?;
    let after = bounds(client, &topic.topic, partition).await.map_err(text)?;
    if leader.id != replica || [before, after].iter().any(|it| it.leader_epoch != leader.epoch) {
        return Err(format!("it leads no more: {leader:?}, {before:?}, {after:?}"));
    }
    if before.end != after.end || before.log_start != after.log_start {
        return Err(format!("somebody writes on: {before:?}, {after:?}"));
    }
    Ok((before, found))
}
