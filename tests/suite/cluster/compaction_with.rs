//! Compaction by key beside what else a topic may have: transactions, an index of keys, a log start that moves, settings that change.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jangada_client::{
    BrokerId, Client, ClientError, Condition, Consumer, ConsumerConfig, Isolation, NewTopic, Producer, ProducerConfig,
    ProducerRecord, StartAt, TransactionOptions, TransactionalProducer,
};
use jangada_proto::v1::{self, FetchRequest};
use jangada_types::batch::{BatchIter, EndMarker};

use crate::harness::{Cluster, Scrape, WAIT, eventually, raw};

const TOPIC: &str = "accounts";
const CLEAN_TIMEOUT: Duration = Duration::from_secs(120);
/// Fillers of so many bytes in all let replicas save their state behind what is tested: what is not saved is not cleaned.
const FILLERS: usize = 1_500;

async fn create(cluster: &Cluster, config: &[(&str, &str)]) {
    let least = [("min.cleanable.dirty.ratio", "0.01"), ("delete.retention.ms", "500")];
    let config = least.iter().chain(config);
    cluster
        .create(NewTopic {
            config: config.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..NewTopic::new(TOPIC, 1, cluster.ids().len() as u32)
        })
        .await;
}

fn record(key: &str, value: Option<&str>) -> ProducerRecord {
    let record = ProducerRecord::new(TOPIC).with_key(key.to_owned());
    match value {
        Some(value) => record.with_value(value.to_owned()),
        None => record,
    }
}

fn producer(client: &Client) -> Producer {
    client.producer(ProducerConfig::default()).expect("the defaults")
}

/// Writes a record, and says at which offset.
async fn write(producer: &Producer, key: &str, value: Option<&str>) -> i64 {
    let sent = producer.send(record(key, value)).await.expect("taken").await;
    sent.expect("a quorum has it").offset.expect("it is told")
}

/// Writes records of other keys, so that what lies before them is saved, and can be cleaned.
async fn fill(producer: &Producer) {
    let value = "x".repeat(1_000);
    let mut sent = Vec::new();
    for nth in 0..FILLERS {
        sent.push(
            producer
                .send(record(&format!("filler {}", nth % 50), Some(&value)))
                .await
                .expect("taken"),
        );
    }
    for delivery in sent {
        delivery.await.expect("a quorum has it");
    }
}

async fn gone(cluster: &Cluster, id: u32) -> f64 {
    let scrape = Scrape::of(cluster, id).await;
    scrape.sum("jangada_compaction_records_gone_total", &[]).unwrap_or(0.0)
}

async fn lead(cluster: &Cluster, id: u32) {
    let admin = cluster.admin().await;
    eventually("the leadership moves", WAIT, || async {
        admin.transfer_leader(TOPIC, 0, BrokerId::from(id)).await.ok()
    })
    .await;
}

/// The values that a reader has of each key at the end, fillers left out.
async fn values(client: &Client, isolation: Isolation) -> BTreeMap<String, String> {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config).expect("the defaults");
    let assigned = consumer.assign_topic(TOPIC, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    let ends = consumer.end_offsets().await.expect("the leader answers");
    let mut values = BTreeMap::new();
    while !consumer.reached(&ends) {
        take(&mut consumer, &mut values).await;
    }
    values
}

async fn take(consumer: &mut Consumer, values: &mut BTreeMap<String, String>) {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("it is text");
    let records = tokio::time::timeout(WAIT, consumer.next_batch()).await;
    for record in records.expect("a reader goes on").expect("nothing is missing") {
        let key = text(record.key.expect("each has one"));
        if key.starts_with("filler") {
            continue;
        }
        match record.value.map(text) {
            Some(value) => values.insert(key, value),
            None => values.remove(&key),
        };
    }
}

/// The control batches that abort a transaction in the leader's log.
async fn abort_markers(cluster: &Cluster) -> usize {
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let (mut offset, mut markers) = (0, 0);
    loop {
        let request = FetchRequest {
            partition: Some(raw::partition(TOPIC, 0)),
            offset,
            max_bytes: 1 << 20,
            isolation: v1::Isolation::Committed.into(),
            aborted_list: true,
            ..FetchRequest::default()
        };
        let Ok(fetched) = log.fetch(request).await else {
            return usize::MAX;
        };
        let fetched = fetched.into_inner();
        if fetched.next_offset <= offset {
            return markers;
        }
        offset = fetched.next_offset;
        let ends =
            BatchIter::new(fetched.batches).filter_map(|batch| EndMarker::read(&batch.expect("whole").1).ok()?);
        markers += ends.filter(|end| !end.commit).count();
    }
}

/// Markers and the records of aborted transactions go, whichever broker leads, and of what was committed nothing does, before and after the
/// log start has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_stays_when_markers_and_aborted_records_go() {
    let cluster = Cluster::start(3).await;
    create(&cluster, &[("cleanup.policy", "compact")]).await;
    let client = cluster.client().await;
    let plain = producer(&client);
    let opened = TransactionalProducer::open(&client, "teller", TransactionOptions::default()).await;
    let mut teller = opened.expect("the id is free");
    let mut expected = BTreeMap::new();
    for round in 0..40 {
        let commits = round % 2 == 1;
        let transaction = teller.begin().await.expect("none is open");
        let value = format!("{round}");
        for key in [format!("own {round}"), format!("shared {}", round % 4)] {
            let delivery = transaction
                .send(record(&key, Some(&value)))
                .await
                .expect("there is room");
            delivery.await.expect("it is stored");
            if commits {
                expected.insert(key, value.clone());
            }
        }
        match commits {
            true => drop(transaction.commit().await.expect("it is committed")),
            false => transaction.abort().await.expect("it is aborted"),
        }
    }
    // Of the committed ones that are superseded nothing is left but their markers.
    for round in 0..20 {
        let key = format!("own {round}");
        write(&plain, &key, Some("later")).await;
        expected.insert(key, "later".to_owned());
    }
    let aborted: Vec<String> = (20..40).step_by(2).map(|round| format!("own {round}")).collect();
    let uncommitted = values(&client, Isolation::Uncommitted).await;
    assert!(
        aborted.iter().all(|key| uncommitted.contains_key(key)),
        "they are there"
    );
    fill(&plain).await;
    eventually("aborted records go", CLEAN_TIMEOUT, || async {
        let uncommitted = values(&client, Isolation::Uncommitted).await;
        (!aborted.iter().any(|key| uncommitted.contains_key(key))).then_some(())
    })
    .await;
    assert_eq!(values(&client, Isolation::Committed).await, expected);
    // The leader is the same, and remembers which were aborted.
    eventually("the markers of aborted transactions go", CLEAN_TIMEOUT, || async {
        (abort_markers(&cluster).await == 0).then_some(())
    })
    .await;
    for id in cluster.ids() {
        lead(&cluster, id).await;
        let client = cluster.client().await;
        assert_eq!(values(&client, Isolation::Committed).await, expected, "broker {id}");
        assert_eq!(values(&client, Isolation::Uncommitted).await, expected, "broker {id}");
    }
    // What lies below the new start is gone for good, and of the rest nothing.
    cluster
        .cli(&["topic", "trim", TOPIC, "--partition", "0", "--before", "60"])
        .await
        .expect(0);
    expected.retain(|_, value| value == "later" || value.parse::<i64>().is_ok_and(|round| round * 3 >= 60));
    for id in cluster.ids() {
        lead(&cluster, id).await;
        let client = cluster.client().await;
        assert_eq!(values(&client, Isolation::Committed).await, expected, "broker {id}");
    }
}

/// Of each key the index knows the last record on every broker, whatever compaction has taken, and none of a key whose deletion is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_on_keys_hold_the_same_on_every_broker_after_compaction() {
    const KEYS: usize = 40;
    let mut cluster = Cluster::start(3).await;
    create(&cluster, &[("cleanup.policy", "compact"), ("key.index.enable", "true")]).await;
    let client = cluster.client().await;
    let plain = producer(&client);
    let mut last = BTreeMap::new();
    for nth in 0..6 * KEYS {
        let key = format!("key {:02}", nth % KEYS);
        let offset = write(&plain, &key, Some("value")).await;
        last.insert(key, Some(offset));
    }
    for nth in (0..KEYS).step_by(4) {
        let key = format!("key {nth:02}");
        write(&plain, &key, None).await;
        last.insert(key, None);
    }
    fill(&plain).await;
    for id in cluster.ids() {
        eventually("it cleans", CLEAN_TIMEOUT, || async {
            (gone(&cluster, id).await > (5 * KEYS) as f64).then_some(())
        })
        .await;
    }
    // Deletions go once all replicas are clean; then a condition expects none.
    let deleted = "key 00";
    for id in cluster.ids() {
        lead(&cluster, id).await;
        let producer = producer(&cluster.client().await);
        eventually("the deleted key is none", CLEAN_TIMEOUT, || async {
            let sent = producer
                .send_if(record(deleted, Some("no")), Condition::KeyOffset(Some(1 << 40)))
                .await;
            match sent.expect("taken").await {
                Err(ClientError::ConditionFailed { actual, .. }) => (actual < 0).then_some(()),
                other => panic!("no key is that far: {other:?}"),
            }
        })
        .await;
        for (key, expected) in &mut last {
            if let Some(offset) = *expected {
                let stale = producer
                    .send_if(record(key, Some("no")), Condition::KeyOffset(None))
                    .await;
                let error = stale.expect("taken").await.expect_err("the key is there");
                let ClientError::ConditionFailed { actual, .. } = error else {
                    panic!("{error}");
                };
                assert_eq!(actual, offset, "{key} on broker {id}");
            }
            // The same record again, on top of the one that is there, or of none.
            if key.as_str() == deleted {
                continue;
            }
            let sent = producer
                .send_if(record(key, Some("value")), Condition::KeyOffset(*expected))
                .await;
            let written = sent.expect("taken").await;
            *expected = Some(
                written
                    .unwrap_or_else(|error| panic!("{key} on broker {id}: {error}"))
                    .offset
                    .expect("told"),
            );
        }
    }
    for id in cluster.ids() {
        cluster.stop(id).await;
        cluster.restart(id);
    }
    cluster.healthy().await;
    let expected: BTreeMap<String, String> = last
        .iter()
        .filter(|(_, offset)| offset.is_some())
        .map(|(key, _)| (key.clone(), "value".to_owned()))
        .collect();
    assert_eq!(values(&cluster.client().await, Isolation::Committed).await, expected);
}

/// A consumer that is far behind goes on when its topic is compacted under it, and one that begins after the topic is compacted no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_go_on_when_compaction_is_switched_on_and_off_under_them() {
    let cluster = Cluster::start(1).await;
    create(&cluster, &[]).await;
    let client = cluster.client().await;
    let plain = producer(&client);
    for _ in 0..3 {
        fill(&plain).await;
    }
    let last = write(&plain, "last", Some("value")).await;
    // It knows the topic as one that is not compacted, and has begun.
    let little = ConsumerConfig {
        prefetch_bytes: 64 << 10,
        max_partition_bytes: 64 << 10,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(little).expect("they are valid");
    let assigned = consumer.assign_topic(TOPIC, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    consumer.next().await.expect("a record");
    let alter = async |policy: &str| {
        let policy = format!("cleanup.policy={policy}");
        cluster.cli(&["topic", "alter", TOPIC, "-c", &policy]).await.expect(0);
    };
    alter("compact").await;
    eventually("it cleans", CLEAN_TIMEOUT, || async {
        (gone(&cluster, 1).await > FILLERS as f64).then_some(())
    })
    .await;
    let mut seen = -1;
    while seen < last {
        let record = tokio::time::timeout(WAIT, consumer.next()).await.expect("it goes on");
        seen = record.expect("nothing is missing").offset;
    }
    alter("delete").await;
    let client = cluster.client().await;
    let read = values(&client, Isolation::Committed).await;
    assert_eq!(read, BTreeMap::from([("last".to_owned(), "value".to_owned())]));
}
