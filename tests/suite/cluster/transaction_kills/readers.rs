//! Those who read committed records, and watch their ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_client::{Client, ClientError, ConsumedRecord, ConsumerConfig, Isolation, OffsetAt, OffsetReset, StartAt};
use tokio::task::JoinHandle;

use super::ledger::{Place, Seen, TOPICS, Value, World, partition_of, place_of, places};
use crate::harness::WAIT;

/// How far before the end a transaction reads, offsets.
const BEHIND: i64 = 12;
/// How long it waits for records.
const READ_TIMEOUT: Duration = Duration::from_millis(300);

/// Reads committed records from the beginning until all is over, and then to the end.
pub fn read(client: Client, number: usize, world: Arc<World>) -> JoinHandle<Seen> {
    tokio::spawn(async move {
        let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
        let topics = TOPICS.map(|(topic, _)| (topic, StartAt::Earliest));
        consumer
            .assign_topics(topics.into())
            .await
            .expect("the topics are there");
        let mut seen = Seen::default();
        let mut ends = None;
        loop {
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(100), consumer.next_batch()).await {
                match batch {
                    Ok(records) => take(&mut seen, records),
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            for (place, records) in &seen.read {
                let next = records.last().map_or(0, |(offset, _)| offset + 1);
                let mut read_to = world.read_to.lock().expect("nothing panicked");
                read_to.insert((number, *place), next);
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

fn take(seen: &mut Seen, records: Vec<ConsumedRecord>) {
    for record in records {
        let (value, is_own) = Value::of_record(&record);
        if !is_own {
            seen.covers.insert(value.of());
            continue;
        }
        let place = place_of(&record.topic, record.partition);
        seen.read.entry(place).or_default().push((record.offset, value));
    }
}

/// What a reader gets who comes when all is over.
pub async fn read_all(client: &Client) -> Seen {
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    let topics = TOPICS.map(|(topic, _)| (topic, StartAt::Earliest));
    consumer
        .assign_topics(topics.into())
        .await
        .expect("the topics are there");
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut seen = Seen::default();
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

/// The last committed values of a partition, as far as they come in a short time.
pub async fn recent(client: &Client, place: Place) -> Vec<Value> {
    let mut seen = Seen::default();
    let reading = async {
        let end = end(client, place, Isolation::Committed).await?;
        let config = ConsumerConfig {
            // What lies before may be trimmed by now.
            offset_reset: OffsetReset::Earliest,
            ..ConsumerConfig::default()
        };
        let mut consumer = client.consumer(config)?;
        let (topic, partition) = partition_of(place);
        let from = StartAt::Offset((end - BEHIND).max(0));
        consumer.assign(vec![(topic, partition, from)]).await?;
        while consumer
            .position(topic, partition)
            .is_none_or(|position| position < end)
        {
            take(&mut seen, consumer.next_batch().await?);
        }
        Ok::<_, ClientError>(())
    };
    // What came is what was read, whatever held up the rest.
    let _ = tokio::time::timeout(READ_TIMEOUT, reading).await;
    seen.read.into_values().flatten().map(|(_, value)| value).collect()
}

/// The first offset of each partition.
pub async fn purged_to(client: &Client) -> BTreeMap<Place, i64> {
    let mut first = BTreeMap::new();
    for place in places() {
        let (topic, partition) = partition_of(place);
        let listed = client.list_offsets(topic, partition, OffsetAt::Earliest).await;
        let offset = listed.expect("the leaders answer").offset;
        first.insert(place, offset.expect("the beginning is an offset"));
    }
    first
}

/// The end of what a reader with this isolation gets.
async fn end(client: &Client, place: Place, isolation: Isolation) -> Result<i64, ClientError> {
    let (topic, partition) = partition_of(place);
    let listed = client
        .list_offsets_as(topic, partition, OffsetAt::Latest, isolation)
        .await?;
    Ok(listed.offset.expect("the end is an offset"))
}

pub async fn all_is_stable(client: &Client) -> Result<bool, ClientError> {
    for place in places() {
        let stable = end(client, place, Isolation::Committed).await?;
        if stable != end(client, place, Isolation::Uncommitted).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Watches that no end goes back: neither that of what is committed, nor that of all.
pub fn watch_ends(client: Client, world: Arc<World>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last: BTreeMap<(Place, bool), i64> = BTreeMap::new();
        while !world.is_over() {
            for place in places() {
                for isolation in [Isolation::Committed, Isolation::Uncommitted] {
                    let Ok(end) = end(&client, place, isolation).await else {
                        continue;
                    };
                    let before = last
                        .insert((place, isolation == Isolation::Committed), end)
                        .unwrap_or(0);
                    assert!(
                        end >= before,
                        "{:?}, {isolation:?}: the end goes back from {before} to {end}",
                        partition_of(place)
                    );
                }
            }
        }
    })
}
