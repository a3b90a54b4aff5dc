//! What a broker looks at in a batch before it takes it.

use bytes::Bytes;
use jangada_client::NewTopic;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{PlainRecords, ProduceRequest, ProduceStreamRequest, Record};
use jangada_types::batch::set_producer;
use jangada_types::{BatchBuilder, BatchHeader, Codec, ProducerEpoch, ProducerId, Sequence};

use crate::harness::{Cluster, WAIT, eventually, raw};

const TOPIC: &str = "orders";
const PACKED: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// A hundred records of this time.
fn packed(codec: Codec, at_ms: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for _ in 0..100 {
        builder.append(at_ms, None, Some(b"the same again"), []).expect("small");
    }
    builder.build().to_vec()
}

/// With the checksum right, whatever the records are.
fn sealed(mut batch: Vec<u8>) -> Bytes {
    set_producer(&mut batch, ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
    batch.into()
}

/// A compressed batch of garbage.
fn garbage(codec: Codec) -> Bytes {
    let mut batch = packed(codec, raw::now_ms());
    batch[BatchHeader::LEN..].fill(0xa5);
    sealed(batch)
}

/// A batch that unpacks to one record less than its header says.
fn short(codec: Codec) -> Bytes {
    let mut batch = packed(codec, raw::now_ms());
    batch[23..27].copy_from_slice(&100_i32.to_be_bytes());
    batch[57..61].copy_from_slice(&101_i32.to_be_bytes());
    sealed(batch)
}

/// The reason and message of each answer on a stream.
async fn on_stream(log: &mut raw::Log, topic: &str, batches: Vec<Bytes>) -> Vec<(String, String)> {
    let requests = (0..).zip(batches).map(|(correlation_id, batch)| ProduceStreamRequest {
        correlation_id,
        partition: Some(raw::partition(topic, 0)),
        batch,
        ..ProduceStreamRequest::default()
    });
    let answers = raw::produce_stream(log, requests.collect()).await;
    let said = |result| match result {
        Some(StreamResult::Error(error)) => (error.reason, error.message),
        _ => (String::new(), String::new()),
    };
    answers.into_iter().map(|answer| said(answer.result)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_batch_that_does_not_hold_what_its_header_says_is_refused() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    for codec in PACKED {
        let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), garbage(codec)).await;
        raw::assert_refused(refused, "INVALID_BATCH", &["orders-0", codec.as_str()]);
        let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), short(codec)).await;
        raw::assert_refused(refused, "INVALID_BATCH", &["record 100", "cut off"]);
        let sound: Bytes = packed(codec, raw::now_ms()).into();
        let said = on_stream(&mut log, TOPIC, vec![garbage(codec), sound.clone(), short(codec)]).await;
        let reasons: Vec<&str> = said.iter().map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(reasons, ["INVALID_BATCH", "", "INVALID_BATCH"], "{said:?}");
    }
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 400, "only the sound ones");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_far_from_the_clock_are_refused_in_every_form() {
    let cluster = Cluster::start(1).await;
    let before = [("message.timestamp.before.max.ms".to_owned(), "60000".to_owned())];
    cluster
        .create(NewTopic {
            config: before.into(),
            ..NewTopic::new(TOPIC, 1, 1)
        })
        .await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    let now_ms = raw::now_ms();
    for (at_ms, named) in [
        (
            now_ms * 1_000,
            ["message.timestamp.after.max.ms", "are these microseconds?"],
        ),
        (
            now_ms / 1_000,
            ["message.timestamp.before.max.ms", "are these seconds?"],
        ),
    ] {
        for codec in Codec::ALL {
            let batch: Bytes = packed(codec, at_ms).into();
            let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone()).await;
            let status = raw::assert_refused(refused, "INVALID_TIMESTAMP", &named);
            assert_eq!(raw::detail(&status, "actual"), Some(at_ms.to_string()));
            let said = on_stream(&mut log, TOPIC, vec![batch]).await;
            assert_eq!(said[0].0, "INVALID_TIMESTAMP", "{said:?}");
        }
        let record = Record {
            value: Some(Bytes::from_static(b"plain")),
            timestamp_ms: Some(at_ms),
            ..Record::default()
        };
        let request = ProduceRequest {
            partition: Some(raw::partition(TOPIC, 0)),
            payload: Some(Payload::Records(PlainRecords {
                records: vec![record],
                ..PlainRecords::default()
            })),
            ..ProduceRequest::default()
        };
        raw::assert_refused(log.produce(request).await, "INVALID_TIMESTAMP", &named);
    }
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 0);
    // A compressed record that its batch's header does not tell of.
    let mut builder = BatchBuilder::new(Codec::Lz4);
    for at_ms in [now_ms, now_ms - 120_000, now_ms] {
        builder.append(at_ms, None, Some(&[b'x'; 200]), []).expect("small");
    }
    let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), builder.build()).await;
    raw::assert_refused(refused, "INVALID_TIMESTAMP", &["record 1 of the batch", "behind"]);
    // With the leader's time theirs do not count.
    let set = ["topic", "alter", TOPIC, "-c", "message.timestamp.type=LogAppendTime"];
    cluster.cli(&set).await.expect(0);
    eventually("it gets another time", WAIT, || {
        let mut log = log.clone();
        async move {
            let batch = packed(Codec::None, 1).into();
            raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await.ok()
        }
    })
    .await;
}
