//! Calls below the client: one broker, one request, its answer.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::list_offsets_request::Position;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::{
    Acks, FetchRequest, FetchResponse, FetchStreamRequest, FetchStreamResponse, FetchStreamStart, InitProducerRequest,
    ListOffsetsRequest, ProduceRequest, ProduceResponse, ProduceStreamRequest, ProduceStreamResponse, RecordForm,
    TopicPartition,
};
use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Sequence};
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use super::WAIT;

/// A broker's log service.
pub type Log = LogServiceClient<Channel>;

/// More than any request that a broker takes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most bytes of one fetch.
const FETCH_BYTES: u32 = 16 * 1024 * 1024;

/// The smallest window that HTTP/2 begins with.
const WINDOW_BYTES: u32 = 65_535;

/// A connection to one broker's log service.
pub async fn log(address: &str) -> LogServiceClient<Channel> {
    let client = LogServiceClient::connect(format!("http://{address}")).await;
    client
        .unwrap_or_else(|error| panic!("{address}: {error}"))
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// A partition by its topic's name.
pub fn partition(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic_id: Bytes::new(),
        topic: topic.to_owned(),
        partition,
    }
}

/// A producer's id, epoch and sequence for a batch.
#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
    pub sequence: i32,
}

/// The time, milliseconds since 1970.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(now.as_millis()).expect("it is before the year 292 million")
}

/// One batch of these values.
pub fn batch(producer: Option<Producer>, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    // Old records would be dropped as the topic's retention says.
    let now_ms = now_ms();
    for value in values {
        builder
            .append(now_ms, None, Some(value), [])
            .expect("it fits into a batch");
    }
    if let Some(Producer { id, epoch, sequence }) = producer {
        builder.producer(ProducerId(id), ProducerEpoch(epoch), Sequence(sequence));
    }
    builder.build()
}

/// Makes one produce call.
pub async fn produce(
    log: &mut LogServiceClient<Channel>,
    partition: TopicPartition,
    batch: Bytes,
) -> Result<ProduceResponse, Status> {
    produce_with(log, partition, Acks::Quorum.into(), 0, batch).await
}

/// Like [`produce`], with other acknowledgements and another timeout; 0 is the broker's.
pub async fn produce_with(
    log: &mut LogServiceClient<Channel>,
    partition: TopicPartition,
    acks: i32,
    timeout_ms: u32,
    batch: Bytes,
) -> Result<ProduceResponse, Status> {
    let request = ProduceRequest {
        partition: Some(partition),
        acks,
        timeout_ms,
        payload: Some(Payload::Batch(batch)),
        ..ProduceRequest::default()
    };
    log.produce(request).await.map(tonic::Response::into_inner)
}

/// The answers to these requests on a stream of their own, to its end.
pub async fn produce_stream(
    log: &mut LogServiceClient<Channel>,
    requests: Vec<ProduceStreamRequest>,
) -> Vec<ProduceStreamResponse> {
    let answers = log.produce_stream(iter(requests)).await.expect("the stream opens");
    answers
        .into_inner()
        .timeout(WAIT)
        .map(|answer| answer.expect("it is answered").expect("the stream goes on"))
        .collect()
        .await
}

/// A producer that has written nothing.
pub async fn new_producer(log: &mut LogServiceClient<Channel>) -> Producer {
    let given = log.init_producer(InitProducerRequest::default()).await;
    let given = given.expect("an id is given").into_inner();
    Producer {
        id: given.producer_id,
        epoch: i16::try_from(given.producer_epoch).expect("an epoch has 16 bits"),
        sequence: 0,
    }
}

/// The records of a partition from an offset on, as one fetch gives them.
pub async fn fetch(
    log: &mut LogServiceClient<Channel>,
    partition: TopicPartition,
    offset: i64,
    form: RecordForm,
) -> Result<FetchResponse, Status> {
    let request = FetchRequest {
        partition: Some(partition),
        offset,
        max_bytes: FETCH_BYTES,
        form: form.into(),
        ..FetchRequest::default()
    };
    log.fetch(request).await.map(tonic::Response::into_inner)
}

/// A stream of a partition's batches, from the first on, that is never read. It has a connection of its own, with next
/// to no room on the way: unread bytes stay with the broker.
pub async fn stalled(address: &str, partition: TopicPartition, max_bytes: u32) -> Streaming<FetchStreamResponse> {
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("it is an address")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect()
        .await
        .expect("the node listens");
    let start = FetchStreamStart {
        partition: Some(partition),
        max_bytes,
        form: RecordForm::Raw.into(),
        ..FetchStreamStart::default()
    };
    let start = FetchStreamRequest {
        message: Some(Message::Start(start)),
    };
    let requests = iter([start]).chain(pending());
    let mut log = LogServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    log.fetch_stream(requests).await.expect("it is opened").into_inner()
}

/// The offset after the last record that is committed.
pub async fn end(log: &mut LogServiceClient<Channel>, partition: TopicPartition) -> Result<i64, Status> {
    let request = ListOffsetsRequest {
        partition: Some(partition),
        position: Some(Position::Latest(true)),
        ..Default::default()
    };
    log.list_offsets(request).await.map(|answer| answer.into_inner().offset)
}

/// The offset of the first record at or after a time; -1: there is none.
pub async fn at_time(
    log: &mut LogServiceClient<Channel>,
    partition: TopicPartition,
    timestamp_ms: i64,
) -> Result<i64, Status> {
    let request = ListOffsetsRequest {
        partition: Some(partition),
        position: Some(Position::TimestampMs(timestamp_ms)),
        ..Default::default()
    };
    log.list_offsets(request).await.map(|answer| answer.into_inner().offset)
}

/// `ErrorInfo.reason` of an error; empty without one.
pub fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// A value of `ErrorInfo.metadata`.
pub fn detail(status: &Status, key: &str) -> Option<String> {
    status.get_details_error_info()?.metadata.get(key).cloned()
}

/// Asserts an error's reason, and that its message names each of these.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, expected: &str, named: &[&str]) -> Status {
    let status = answer.expect_err(expected);
    assert_eq!(reason(&status), expected, "{status:?}");
    for name in named {
        assert!(
            status.message().contains(name),
            "{expected} does not name {name:?}: {}",
            status.message()
        );
    }
    status
}
