//! The broker's checks of a batch, and consumers at a batch that cannot be read.

use bytes::Bytes;
use jangada_client::NewTopic;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{PlainRecords, ProduceRequest, ProduceStreamRequest, Record, RecordForm};
use jangada_types::batch::set_producer;
use jangada_types::{BatchBuilder, BatchHeader, Codec, ProducerEpoch, ProducerId, Sequence};

use crate::harness::{Cluster, WAIT, eventually, raw};

const TOPIC: &str = "orders";
const UNCHECKED: &str = "unchecked";
const PACKED: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// A batch of a hundred records of this time.
fn packed(codec: Codec, at_ms: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for _ in 0..100 {
        builder.append(at_ms, None, Some(b"the same again"), []).expect("small");
    }
    builder.build().to_vec()
}

/// The batch with a correct checksum, whatever the records are.
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

/// A batch that decompresses to one record less than its header says.
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

/// Writes to a topic without checks: three records, a batch of garbage, three records, a batch of garbage.
async fn unchecked(cluster: &Cluster, log: &mut raw::Log) {
    cluster
        .create(NewTopic {
            config: [("validation.compressed".to_owned(), "false".to_owned())].into(),
            ..NewTopic::new(UNCHECKED, 1, 1)
        })
        .await;
    for _ in 0..2 {
        for batch in [raw::batch(None, &[b"a", b"b", b"c"]), garbage(Codec::Zstd)] {
            raw::produce(log, raw::partition(UNCHECKED, 0), batch)
                .await
                .expect("it is not looked at");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_stop_at_a_bad_batch_with_its_offset_or_skip_it_and_tell() {
    let cluster = Cluster::start(1).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    unchecked(&cluster, &mut log).await;
    let print = ["--exit-at-end", "-f", "%o %v\n"];
    let consume = |more: &[&'static str]| [&["consume", UNCHECKED], &print[..], more].concat();

    let stopped = cluster.cli(&consume(&[])).await.expect(1);
    assert_eq!(stopped.text(), "0 a\n1 b\n2 c\n");
    stopped.names(&["unchecked[0] at offset 3", "--on-bad-batch skip"]);
    let sound = "0 a\n1 b\n2 c\n103 a\n104 b\n105 c\n";
    let told = [
        "offsets 3 to 102",
        "offsets 106 to 205",
        "skipped 2 batches",
        "200 records",
    ];
    let skipped = cluster.cli(&consume(&["--on-bad-batch", "skip"])).await.expect(0);
    assert_eq!(skipped.text(), sound);
    skipped.names(&told);

    // A group goes on behind what it skipped, the last one included.
    let group = ["--on-bad-batch", "skip", "--group", "billing"];
    let skipped = cluster.cli(&consume(&group)).await.expect(0);
    assert_eq!(skipped.text(), sound);
    skipped.names(&told);
    let again = cluster.cli(&consume(&group)).await.expect(0);
    assert_eq!((again.text().as_str(), again.stderr.as_str()), ("", ""));
    let stopped = cluster.cli(&consume(&["--group", "careful"])).await.expect(1);
    assert_eq!(stopped.text(), "0 a\n1 b\n2 c\n");

    // A time that lies in a batch that cannot be read leads to that batch.
    let garbage_ms = raw::now_ms() + 60_000;
    let mut batch = packed(Codec::Gzip, garbage_ms);
    batch[BatchHeader::LEN..].fill(0xa5);
    let written = raw::produce(&mut log, raw::partition(UNCHECKED, 0), sealed(batch)).await;
    assert_eq!(written.expect("it is not looked at").base_offset, 206);
    let found = raw::at_time(&mut log, raw::partition(UNCHECKED, 0), garbage_ms).await;
    assert_eq!(found.expect("its leader answers"), 206);

    // In the plain form the error says where to go on.
    let mut offset = 0;
    let mut values = Vec::new();
    while offset < 206 {
        match raw::fetch(&mut log, raw::partition(UNCHECKED, 0), offset, RecordForm::Plain).await {
            Ok(fetched) => {
                offset = fetched.next_offset;
                values.extend(fetched.records.into_iter().filter_map(|record| record.value));
            }
            Err(status) => {
                assert_eq!(raw::detail(&status, "offset"), Some(offset.to_string()));
                let next = raw::detail(&status, "next_offset").expect("it is said");
                offset = next.parse().expect("an offset");
            }
        }
    }
    assert_eq!(values.concat(), b"abcabc");
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
