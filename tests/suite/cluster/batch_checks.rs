//! What a broker looks at in a batch before it takes it.

use bytes::Bytes;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::ProduceStreamRequest;
use jangada_types::batch::set_producer;
use jangada_types::{BatchBuilder, BatchHeader, Codec, ProducerEpoch, ProducerId, Sequence};

use crate::harness::{Cluster, raw};

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
