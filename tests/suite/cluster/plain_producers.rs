//! Idempotent producing in the plain form, as a program in another language does it that knows gRPC and no batch
//! format.

use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{
    Acks, Compression, FetchRequest, PlainRecords, ProduceRequest, ProduceResponse, ProduceStreamRequest,
    ProducerSequence, Record, RecordForm,
};
use tokio_stream::iter;
use tonic::Status;

use crate::harness::raw::{self, Log, Producer};
use crate::harness::{Cluster, WAIT};

const TOPIC: &str = "plain";

/// Bytes that most gRPC libraries accept by default.
const GRPC_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_in_the_plain_form_are_appended_once_however_often_they_are_sent() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 5, 1).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    a_call_that_is_sent_again_is_a_duplicate(&mut log).await;
    what_breaks_the_sequence_is_refused(&mut log).await;
    a_stream_takes_both_forms(&mut log).await;
    a_stream_that_is_cut_is_gone_on_with(&cluster, &mut log).await;
    a_large_batch_comes_in_pieces_that_clients_accept(&mut log).await;
}

fn records(producer: Option<Producer>, values: &[&[u8]]) -> PlainRecords {
    let records = values.iter().map(|value| Record {
        value: Some(value.to_vec().into()),
        ..Record::default()
    });
    PlainRecords {
        records: records.collect(),
        producer: producer.map(|producer| ProducerSequence {
            producer_id: producer.id,
            producer_epoch: producer.epoch.into(),
            base_sequence: producer.sequence,
        }),
        ..PlainRecords::default()
    }
}

async fn produce(log: &mut Log, partition: u32, acks: Acks, records: PlainRecords) -> Result<ProduceResponse, Status> {
    let request = ProduceRequest {
        partition: Some(raw::partition(TOPIC, partition)),
        acks: acks.into(),
        payload: Some(Payload::Records(records)),
        ..ProduceRequest::default()
    };
    log.produce(request).await.map(tonic::Response::into_inner)
}

fn at(producer: Producer, sequence: i32) -> Option<Producer> {
    Some(Producer { sequence, ..producer })
}

async fn a_call_that_is_sent_again_is_a_duplicate(log: &mut Log) {
    let producer = raw::new_producer(log).await;
    for sequence in [0, 2, 4] {
        for is_again in [false, true] {
            let answer = produce(log, 0, Acks::Quorum, records(at(producer, sequence), &[b"a", b"b"])).await;
            let answer = answer.expect("it is taken");
            let offset = i64::from(sequence);
            assert_eq!((answer.base_offset, answer.last_offset), (offset, offset + 1));
            assert_eq!(answer.duplicate, is_again);
        }
    }
    let end = raw::end(log, raw::partition(TOPIC, 0)).await.expect("it has an end");
    assert_eq!(end, 6);
}

async fn what_breaks_the_sequence_is_refused(log: &mut Log) {
    let producer = raw::new_producer(log).await;
    let gap = produce(log, 1, Acks::Quorum, records(at(producer, 0), &[b"a"])).await;
    gap.expect("the first sequence is taken");
    let gap = produce(log, 1, Acks::Quorum, records(at(producer, 2), &[b"c"])).await;
    raw::assert_refused(gap, "OUT_OF_ORDER_SEQUENCE", &[]);
    let unacknowledged = produce(log, 1, Acks::None, records(at(producer, 1), &[b"b"])).await;
    raw::assert_refused(unacknowledged, "ACKS_NONE_IDEMPOTENT", &["ACKS_QUORUM"]);
    let negative = produce(log, 1, Acks::Quorum, records(at(producer, -1), &[b"b"])).await;
    raw::assert_refused(negative, "INVALID_REQUEST", &["base_sequence", "-1"]);
    let newer = Producer { epoch: 1, ..producer };
    let fenced = produce(log, 1, Acks::Quorum, records(at(newer, 0), &[b"newer"])).await;
    fenced.expect("a newer epoch begins with 0");
    let fenced = produce(log, 1, Acks::Quorum, records(at(producer, 1), &[b"b"])).await;
    raw::assert_refused(fenced, "PRODUCER_FENCED", &[]);
}

fn streamed(correlation_id: u64, partition: u32) -> ProduceStreamRequest {
    ProduceStreamRequest {
        correlation_id,
        partition: Some(raw::partition(TOPIC, partition)),
        acks: Acks::Quorum.into(),
        ..ProduceStreamRequest::default()
    }
}

async fn a_stream_takes_both_forms(log: &mut Log) {
    let producer = raw::new_producer(log).await;
    let plain = |correlation_id, sequence, value: &[u8]| ProduceStreamRequest {
        records: Some(records(at(producer, sequence), &[value])),
        ..streamed(correlation_id, 2)
    };
    let packed = raw::batch(at(producer, 1), &[b"packed"]);
    let requests = vec![
        plain(1, 0, b"plain"),
        ProduceStreamRequest {
            batch: packed.clone(),
            ..streamed(2, 2)
        },
        plain(3, 2, b"plain again"),
        plain(4, 2, b"plain again"),
        ProduceStreamRequest {
            batch: packed,
            ..plain(5, 3, b"both")
        },
        streamed(6, 2),
    ];
    let answers = raw::produce_stream(log, requests).await;
    let said: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer.result.expect("each answer has a result") {
            StreamResult::Ok(ok) => (answer.correlation_id, Ok((ok.base_offset, ok.duplicate))),
            StreamResult::Error(error) => (answer.correlation_id, Err(error.reason)),
        })
        .collect();
    assert_eq!(
        said,
        [
            (1, Ok((0, false))),
            (2, Ok((1, false))),
            (3, Ok((2, false))),
            (4, Ok((2, true))),
            (5, Err("INVALID_REQUEST".to_owned())),
            (6, Err("INVALID_BATCH".to_owned())),
        ]
    );
}

async fn a_stream_that_is_cut_is_gone_on_with(cluster: &Cluster, log: &mut Log) {
    let producer = raw::new_producer(log).await;
    let request = |correlation_id| ProduceStreamRequest {
        records: Some(records(at(producer, 0), &[b"once"])),
        ..streamed(correlation_id, 3)
    };
    let answers = log.produce_stream(iter([request(1)])).await.expect("the stream opens");
    cluster.grown(TOPIC, 3, 1).await;
    // The outcome is not read, so the same request is sent again.
    drop(answers);
    let answers = tokio::time::timeout(WAIT, raw::produce_stream(log, vec![request(2)])).await;
    let answers = answers.expect("it is answered");
    let Some(StreamResult::Ok(ok)) = &answers[0].result else {
        panic!("refused: {answers:?}");
    };
    assert_eq!((ok.base_offset, ok.duplicate), (0, true));
}

/// A batch that is small on the wire and large decompressed is read with the default limit of a library.
async fn a_large_batch_comes_in_pieces_that_clients_accept(log: &mut Log) {
    const RECORDS: usize = 100;
    let value = vec![7; 100_000];
    let mut large = records(None, &vec![&value[..]; RECORDS]);
    large.compression = Compression::Zstd.into();
    produce(log, 4, Acks::Quorum, large).await.expect("it is taken");
    let mut by_default = log.clone().max_decoding_message_size(GRPC_MESSAGE_BYTES);
    let (mut offset, mut seen) = (0, 0);
    while seen < RECORDS {
        let request = FetchRequest {
            partition: Some(raw::partition(TOPIC, 4)),
            offset,
            form: RecordForm::Plain.into(),
            ..FetchRequest::default()
        };
        let answer = by_default.fetch(request).await.expect("it fits").into_inner();
        assert!(!answer.records.is_empty(), "no piece is empty");
        seen += answer.records.len();
        offset = answer.next_offset;
    }
    assert_eq!((seen, offset), (RECORDS, RECORDS as i64));
}
