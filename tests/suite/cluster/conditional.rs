//! Conditional appends: one writer at a time wins, whichever broker leads, and the others learn the present offset.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jangada_client::{Client, ClientError, Condition, NewTopic, Producer, ProducerConfig, ProducerRecord};
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::{Acks, ProduceRequest, ProduceResponse};
use jangada_types::{BatchBuilder, Codec};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::raw;
use crate::harness::{Cluster, WAIT, consumer_from_start, eventually};

const TOPIC: &str = "accounts";
const KEY: &str = "account 7";

async fn create(cluster: &Cluster, name: &str, config: &[(&str, &str)]) {
    let config = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    cluster
        .create(NewTopic {
            config,
            ..NewTopic::new(name, 1, cluster.ids().len() as u32)
        })
        .await;
}

/// A writer's knowledge of its own writes.
#[derive(Default)]
struct Written {
    won: Vec<(i64, String)>,
    lost: u64,
    unknown: Vec<String>,
}

/// Writes versions of one key, each on top of the last that it knows of, until it is told to stop.
async fn compete(producer: Producer, name: &'static str, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut last = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let value = format!("{name} {number}");
        let record = ProducerRecord::new(TOPIC).with_key(KEY).with_value(value.clone());
        let delivery = producer
            .send_if(record, Condition::KeyOffset(last))
            .await
            .expect("taken");
        match delivery.await {
            Ok(metadata) => {
                let offset = metadata.offset.expect("a quorum was asked for");
                assert!(Some(offset) > last, "{value} is at {offset}, before {last:?}");
                written.won.push((offset, value));
                last = Some(offset);
            }
            Err(ClientError::ConditionFailed { definite, actual, .. }) => {
                let actual = (actual >= 0).then_some(actual);
                assert_ne!(actual, last, "{value} was refused for what it expected");
                assert!(actual > last, "the key went back from {last:?} to {actual:?}");
                last = actual;
                if definite {
                    written.lost += 1;
                } else {
                    written.unknown.push(value);
                }
            }
            Err(error) if error.is_definite() => panic!("{value}: {error}"),
            Err(_) => written.unknown.push(value),
        }
    }
    producer.close().await;
    written
}

async fn read_all(client: &Client, topic: &str, end: i64) -> Vec<(i64, Option<Bytes>, Option<Bytes>)> {
    let mut consumer = consumer_from_start(client, topic).await;
    let mut records: Vec<(i64, Option<Bytes>, Option<Bytes>)> = Vec::new();
    while records.last().is_none_or(|(offset, ..)| *offset + 1 < end) {
        let batch = tokio::time::timeout(WAIT, consumer.next_batch())
            .await
            .expect("records come");
        records.extend(batch.expect("readable").into_iter().map(|r| (r.offset, r.key, r.value)));
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_one_key_never_overwrite_each_other_while_leaders_die() {
    let mut cluster = Cluster::start(3).await;
    create(&cluster, TOPIC, &[("key.index.enable", "true")]).await;
    let client = cluster.client().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = ["first", "second"].map(|name| {
        let producer = client
            .producer(ProducerConfig::default())
            .expect("the defaults are valid");
        tokio::spawn(compete(producer, name, stop.clone()))
    });
    let mut end = 0;
    for _ in 0..3 {
        cluster.grown(TOPIC, 0, end + 50).await;
        let victim = cluster.leader(TOPIC, 0).await;
        cluster.kill(victim);
        eventually("another node leads", WAIT, || async {
            (cluster.leader(TOPIC, 0).await != victim).then_some(())
        })
        .await;
        end = cluster.high_watermark(TOPIC, 0).await;
        cluster.grown(TOPIC, 0, end + 20).await;
        cluster.restart(victim);
        cluster.healthy().await;
        end = cluster.high_watermark(TOPIC, 0).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut expected = BTreeMap::new();
    let (mut lost, mut unknown) = (0, Vec::new());
    for writer in writers {
        let written = tokio::time::timeout(WAIT, writer)
            .await
            .expect("it stops")
            .expect("it found no fault");
        // Turns are not promised: the winner knows the next offset a round trip before the others, and may win for
        // long.
        assert!(
            !written.won.is_empty() || written.lost > 0,
            "a writer was never answered"
        );
        for (offset, value) in written.won {
            assert_eq!(
                expected.insert(offset, value),
                None,
                "two versions are at offset {offset}"
            );
        }
        lost += written.lost;
        unknown.extend(written.unknown);
    }
    assert!(lost > 0, "they never met");
    let end = cluster.high_watermark(TOPIC, 0).await;
    let mut found = BTreeMap::new();
    for (offset, key, value) in read_all(&client, TOPIC, end).await {
        assert_eq!(key.as_deref(), Some(KEY.as_bytes()));
        let value = String::from_utf8(value.expect("no tombstone").to_vec()).expect("ours");
        if !expected.contains_key(&offset) {
            assert!(
                unknown.contains(&value),
                "{value:?} at {offset} was refused or never sent"
            );
        }
        assert_eq!(found.insert(offset, value), None);
    }
    for (offset, value) in &expected {
        assert_eq!(found.get(offset), Some(value), "what was acknowledged at {offset}");
    }
    let values: std::collections::BTreeSet<&String> = found.values().collect();
    assert_eq!(values.len(), found.len(), "a version is there twice");
}

/// One produce call with conditions.
async fn produce(
    log: &mut LogServiceClient<Channel>,
    topic: &str,
    batch: Bytes,
    end: Option<i64>,
    key: Option<i64>,
) -> Result<ProduceResponse, Status> {
    let request = ProduceRequest {
        partition: Some(raw::partition(topic, 0)),
        acks: Acks::Quorum.into(),
        payload: Some(Payload::Batch(batch)),
        expected_end_offset: end,
        expected_key_offset: key,
        ..ProduceRequest::default()
    };
    log.produce(request).await.map(tonic::Response::into_inner)
}

fn keyed(keys: &[Option<&[u8]>], value: Option<&[u8]>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    for key in keys {
        builder.append(1_700_000_000_000, *key, value, []).expect("it fits");
    }
    builder.build()
}

#[track_caller]
fn assert_condition_failed(answer: Result<ProduceResponse, Status>, expected: i64, actual: i64) {
    let status = raw::assert_refused(
        answer,
        "CONDITION_FAILED",
        &[&expected.to_string(), &actual.to_string()],
    );
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(raw::detail(&status, "expected"), Some(expected.to_string()));
    assert_eq!(raw::detail(&status, "actual"), Some(actual.to_string()));
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_are_judged_and_bad_ones_refused() {
    let mut cluster = Cluster::start(1).await;
    let forever = ("retention.ms", "-1");
    create(
        &cluster,
        TOPIC,
        &[forever, ("key.index.enable", "true"), ("segment.bytes", "65536")],
    )
    .await;
    create(&cluster, "plain", &[forever]).await;
    cluster.healthy().await;
    let address = cluster.node(1).addresses.public.clone();
    let mut log = raw::log(&address).await;
    the_end_offset(&mut log).await;
    bad_input(&mut log).await;
    every_write_to_a_key_counts(&mut log).await;
    trimmed_records_do_not_count(&cluster, &mut log).await;

    // The index is there again after a crash, and for records from before the setting.
    let admin = cluster.admin().await;
    admin
        .alter_topic(
            "plain",
            [("key.index.enable".to_owned(), "true".to_owned())].into(),
            Vec::new(),
        )
        .await
        .expect("a setting");
    let plain = || keyed(&[Some(b"old")], Some(b"v"));
    eventually("the index of the older topic is built", WAIT, || {
        let mut log = log.clone();
        async move {
            match produce(&mut log, "plain", plain(), None, Some(99)).await {
                Err(status) if ["NO_KEY_INDEX", "NOT_READY"].contains(&raw::reason(&status).as_str()) => None,
                answer => {
                    assert_condition_failed(answer, 99, 3);
                    Some(())
                }
            }
        }
    })
    .await;
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    let mut log = raw::log(&address).await;
    assert_condition_failed(produce(&mut log, "plain", plain(), None, Some(99)).await, 99, 3);
    let next = produce(&mut log, "plain", plain(), None, Some(3))
        .await
        .expect("as expected");
    assert_condition_failed(
        produce(&mut log, "plain", plain(), None, Some(3)).await,
        3,
        next.base_offset,
    );
    a_writer_goes_on_after_a_refusal(&cluster).await;
}

async fn the_end_offset(log: &mut LogServiceClient<Channel>) {
    let batch = || keyed(&[Some(b"old"), Some(b"other")], Some(b"v"));
    assert_condition_failed(produce(log, "plain", batch(), Some(1), None).await, 1, 0);
    assert_eq!(
        produce(log, "plain", batch(), Some(0), None)
            .await
            .expect("as expected")
            .last_offset,
        1
    );
    assert_condition_failed(produce(log, "plain", batch(), Some(0), None).await, 0, 2);
    assert_condition_failed(produce(log, "plain", batch(), Some(9), None).await, 9, 2);
    let batch = keyed(&[Some(b"other"), Some(b"old")], None);
    assert_eq!(
        produce(log, "plain", batch, Some(2), None)
            .await
            .expect("no gap")
            .base_offset,
        2
    );
}

async fn bad_input(log: &mut LogServiceClient<Channel>) {
    let one = || keyed(&[Some(b"k")], Some(b"v"));
    raw::assert_refused(
        produce(log, "plain", one(), None, Some(-1)).await,
        "NO_KEY_INDEX",
        &["plain", "key.index.enable"],
    );
    raw::assert_refused(
        produce(log, TOPIC, one(), Some(-1), None).await,
        "INVALID_REQUEST",
        &["expected_end_offset", "-1"],
    );
    raw::assert_refused(
        produce(log, TOPIC, one(), None, Some(-2)).await,
        "INVALID_REQUEST",
        &["expected_key_offset", "-2"],
    );
    for keys in [&[Some(&b"k"[..]), Some(b"l")][..], &[Some(b"k"), None], &[None]] {
        let answer = produce(log, TOPIC, keyed(keys, Some(b"v")), None, Some(-1)).await;
        raw::assert_refused(answer, "INVALID_REQUEST", &["one and the same key"]);
    }
    let long = [b'k'; 1025];
    let answer = produce(log, TOPIC, keyed(&[Some(&long)], None), None, None).await;
    raw::assert_refused(answer, "INVALID_BATCH", &["1025", "1024", "key.index.enable"]);
    let request = ProduceRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        acks: Acks::None.into(),
        payload: Some(Payload::Batch(one())),
        expected_end_offset: Some(0),
        ..ProduceRequest::default()
    };
    raw::assert_refused(log.produce(request).await, "INVALID_REQUEST", &["ACKS_QUORUM"]);
}

async fn every_write_to_a_key_counts(log: &mut LogServiceClient<Channel>) {
    let one = |value: Option<&[u8]>| keyed(&[Some(b"k")], value);
    let first = produce(log, TOPIC, one(Some(b"v")), None, Some(-1))
        .await
        .expect("it is new")
        .base_offset;
    assert_eq!(first, 0, "something was written");
    assert_condition_failed(produce(log, TOPIC, one(Some(b"v")), None, Some(-1)).await, -1, first);
    let many = keyed(&[Some(b"a"), Some(b"k"), Some(b""), None], Some(b"v"));
    produce(log, TOPIC, many, None, None).await.expect("no condition");
    assert_condition_failed(produce(log, TOPIC, one(Some(b"v")), None, Some(first)).await, first, 2);
    let tombstone = produce(log, TOPIC, one(None), None, Some(2))
        .await
        .expect("as expected")
        .base_offset;
    assert_condition_failed(produce(log, TOPIC, one(None), None, Some(-1)).await, -1, tombstone);
    let empty = keyed(&[Some(b"")], Some(b"v"));
    assert_condition_failed(produce(log, TOPIC, empty.clone(), None, Some(-1)).await, -1, 3);
    produce(log, TOPIC, empty, Some(tombstone + 1), Some(3))
        .await
        .expect("both conditions hold");
}

async fn trimmed_records_do_not_count(cluster: &Cluster, log: &mut LogServiceClient<Channel>) {
    let one = keyed(&[Some(b"k")], Some(b"v"));
    let end = cluster.high_watermark(TOPIC, 0).await;
    cluster
        .cli(&["topic", "trim", TOPIC, "--partition", "0", "--before", "latest"])
        .await
        .expect(0);
    assert_condition_failed(produce(log, TOPIC, one.clone(), None, Some(5)).await, 5, -1);
    assert_eq!(
        produce(log, TOPIC, one, None, Some(-1))
            .await
            .expect("none is left")
            .base_offset,
        end
    );
}

/// A refused record of an idempotent producer leaves no gap in its sequences.
async fn a_writer_goes_on_after_a_refusal(cluster: &Cluster) {
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the defaults are valid");
    let record = |value: &str| ProducerRecord::new("plain").with_key("w").with_value(value.to_owned());
    let before = producer.send(record("before")).await.expect("taken");
    let refused = producer
        .send_if(record("refused"), Condition::KeyOffset(None))
        .await
        .expect("taken");
    let after = producer.send(record("after")).await.expect("taken");
    let end = producer
        .send_if(record("end"), Condition::EndOffset(0))
        .await
        .expect("taken");
    let first = before.await.expect("delivered").offset.expect("a quorum was asked for");
    match refused.await {
        Err(ClientError::ConditionFailed {
            definite: true, actual, ..
        }) => assert_eq!(actual, first),
        other => panic!("{other:?}"),
    }
    assert_eq!(after.await.expect("delivered").offset, Some(first + 1));
    let error = end.await.expect_err("the log is longer");
    assert!(
        matches!(error, ClientError::ConditionFailed { actual, .. } if actual == first + 2),
        "{error}"
    );
    let last = producer
        .send_if(record("last"), Condition::KeyOffset(Some(first + 1)))
        .await
        .expect("taken");
    let last = tokio::time::timeout(WAIT + Duration::from_secs(1), last)
        .await
        .expect("answered");
    assert_eq!(last.expect("as expected").offset, Some(first + 2));
    producer.close().await;
}
