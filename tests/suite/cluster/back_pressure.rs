//! A leader that cannot commit takes as many bytes as its limit allows, refuses the rest at once, and answers each that it took.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_client::{ProducerConfig, ProducerRecord};
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{Acks, PlainRecords, ProduceRequest, ProduceStreamRequest, Record, RecordForm};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{Cluster, Options, WAIT, raw};

const STUCK: &str = "stuck";
const FREE: &str = "free";
/// Enough partitions that each broker leads one of them, however leaders are spread.
const FREE_PARTITIONS: u32 = 6;

/// The least value of the setting: eight of these batches, and a small one. One connection gets half of it.
const SECTIONS: &str = "[limits]\nproduce_inflight_bytes_per_partition = 8388608\n
# The leader keeps its lease while its followers are silent, and they elect nobody when they are back.
[raft]\nelection_timeout_min_ms = 15000\nelection_timeout_max_ms = 20000\n";
const FIT: usize = 4;
/// Number of batches that fit on a connection beside the first.
const FIT_BESIDE: usize = 2;
const SENT: usize = 13;
const VALUE_BYTES: usize = 1_000_000;
const TIMEOUT_MS: u32 = 60_000;

/// A value that has its number.
fn value(number: usize) -> Vec<u8> {
    vec![b'a' + u8::try_from(number).expect("few"); VALUE_BYTES]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_quorum_refuses_beyond_its_limit_and_answers_what_it_took() {
    let options = Options {
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(STUCK, 1, 3).await;
    cluster.create_topic(FREE, FREE_PARTITIONS, 1).await;
    let leader = cluster.leader(STUCK, 0).await;
    let mut free = None;
    for partition in 0..FREE_PARTITIONS {
        if cluster.leader(FREE, partition).await == leader {
            free = Some(raw::partition(FREE, partition));
        }
    }
    let free = free.expect("leaders are spread over all three");
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let producer = cluster
        .client()
        .await
        .producer(ProducerConfig::default())
        .expect("the settings are valid");
    let first = ProducerRecord::new(STUCK).with_value("first");
    let first = producer
        .send(first)
        .await
        .expect("it is taken")
        .await
        .expect("it is written");
    assert_eq!(first.offset, Some(0));

    let followers: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    followers.iter().for_each(|id| cluster.pause(*id));
    let mut calls = JoinSet::new();
    for number in 0..SENT {
        let mut log = log.clone();
        let batch = raw::batch(None, &[&value(number)]);
        calls.spawn(async move {
            let partition = raw::partition(STUCK, 0);
            let answer = raw::produce_with(&mut log, partition, Acks::Quorum.into(), TIMEOUT_MS, batch).await;
            (number, answer)
        });
    }
    // Those that do not fit are answered while the others wait.
    for _ in FIT..SENT {
        let (number, answer) = next(&mut calls).await;
        let status = raw::assert_refused(answer, "PARTITION_BUSY", &[STUCK]);
        assert_eq!(status.code(), Code::ResourceExhausted, "{number}");
        assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");
    }
    a_stream_is_told_too(&mut log).await;
    nothing_is_packed_that_has_no_room(&mut log).await;
    // Another connection finds its share beside the one that has taken all that it may.
    let beside = raw::log(&cluster.node(leader).addresses.public).await;
    for number in SENT + 1..=SENT + 1 + FIT_BESIDE {
        let mut log = beside.clone();
        let batch = raw::batch(None, &[&value(number)]);
        calls.spawn(async move {
            let partition = raw::partition(STUCK, 0);
            let answer = raw::produce_with(&mut log, partition, Acks::Quorum.into(), TIMEOUT_MS, batch).await;
            (number, answer)
        });
    }
    let (_, answer) = next(&mut calls).await;
    raw::assert_refused(
        answer,
        "PARTITION_BUSY",
        &[STUCK, "this connection", "inflight_bytes_per_partition"],
    );
    // Another partition of the same broker has its quorum.
    let written = raw::produce(&mut log, free, raw::batch(None, &[b"on"])).await;
    assert_eq!(written.expect("it has a quorum").base_offset, 0);
    // A client that sends now waits instead of failing.
    let late = ProducerRecord::new(STUCK).with_value(value(SENT));
    let late = producer.send(late).await.expect("its buffer has room");
    assert!(calls.try_join_next().is_none(), "one was answered without a quorum");

    followers.iter().for_each(|id| cluster.resume(*id));
    let mut expected = BTreeMap::new();
    for _ in 0..FIT + FIT_BESIDE {
        let (number, answer) = next(&mut calls).await;
        let offset = answer.expect("its leader kept its lease").base_offset;
        assert_eq!(expected.insert(offset, value(number)), None, "two at offset {offset}");
    }
    assert!(calls.is_empty());
    let late = late.await.expect("it is tried again until there is room");
    expected.insert(late.offset.expect("a quorum has it"), value(SENT));
    // Each once, and nothing of what was refused.
    let fetched = raw::fetch(&mut log, raw::partition(STUCK, 0), 1, RecordForm::Plain)
        .await
        .expect("its leader serves");
    assert_eq!(fetched.high_watermark, 2 + (FIT + FIT_BESIDE) as i64);
    let found: BTreeMap<i64, Vec<u8>> = fetched
        .records
        .into_iter()
        .map(|record| (record.offset, record.value.unwrap_or_default().into()))
        .collect();
    assert!(found == expected, "other records: {:?}", found.keys());
}

/// A batch takes memory until its quorum has it, also when its client has stopped waiting for the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_nobody_waits_for_count_until_their_quorum_has_them() {
    let options = Options {
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(STUCK, 1, 3).await;
    let leader = cluster.leader(STUCK, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let followers: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    followers.iter().for_each(|id| cluster.pause(*id));
    for number in 0..SENT {
        let batch = raw::batch(None, &[&value(number)]);
        let answer = raw::produce_with(&mut log, raw::partition(STUCK, 0), Acks::Quorum.into(), 1, batch).await;
        let expected = if number < FIT {
            "QUORUM_TIMEOUT"
        } else {
            "PARTITION_BUSY"
        };
        let status = raw::assert_refused(answer, expected, &[STUCK]);
        let definite = (number >= FIT).to_string();
        assert_eq!(raw::detail(&status, "definite"), Some(definite), "{number}");
    }
    followers.iter().for_each(|id| cluster.resume(*id));
    cluster.grown(STUCK, 0, FIT as i64).await;
    let written = raw::produce(&mut log, raw::partition(STUCK, 0), raw::batch(None, &[&value(SENT)])).await;
    assert_eq!(written.expect("there is room again").base_offset, FIT as i64);
}

async fn next<T: 'static>(calls: &mut JoinSet<T>) -> T {
    let joined = tokio::time::timeout(WAIT, calls.join_next()).await;
    joined
        .expect("each call is answered")
        .expect("as many answers as calls")
        .expect("the call does not panic")
}

/// Records that no batch can be made of: that is found out only when there is room for them.
async fn nothing_is_packed_that_has_no_room(log: &mut raw::Log) {
    let record = Record {
        value: Some(value(0).into()),
        ..Record::default()
    };
    let records = PlainRecords {
        records: vec![record],
        compression: 99,
        ..PlainRecords::default()
    };
    let request = ProduceRequest {
        partition: Some(raw::partition(STUCK, 0)),
        acks: Acks::Quorum.into(),
        payload: Some(Payload::Records(records)),
        ..ProduceRequest::default()
    };
    let refused = log.produce(request).await;
    raw::assert_refused(refused, "PARTITION_BUSY", &[STUCK]);
}

/// On a stream each refused batch has its own answer, and the stream goes on.
async fn a_stream_is_told_too(log: &mut raw::Log) {
    let requests = (1..=3).map(|correlation_id| ProduceStreamRequest {
        correlation_id,
        partition: Some(raw::partition(STUCK, 0)),
        acks: Acks::Quorum.into(),
        timeout_ms: TIMEOUT_MS,
        batch: raw::batch(None, &[&value(0)]),
        ..ProduceStreamRequest::default()
    });
    let answers = raw::produce_stream(log, requests.collect()).await;
    let ids: Vec<u64> = answers.iter().map(|answer| answer.correlation_id).collect();
    assert_eq!(ids, [1, 2, 3]);
    for answer in answers {
        let Some(StreamResult::Error(error)) = answer.result else {
            panic!("not refused: {answer:?}");
        };
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::ResourceExhausted as i32, "PARTITION_BUSY")
        );
        let delay = error.retry_delay_ms.map(|ms| Duration::from_millis(ms.into()));
        assert!(delay.is_some_and(|delay| !delay.is_zero()), "{error:?}");
    }
}
