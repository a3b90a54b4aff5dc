//! Input that is too large, or cannot be read, is refused like all other: with a reason, its limit, and a message that
//! reaches the client.

use std::fmt::Debug;

use bytes::Bytes;
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{
    DeleteTopicRequest, DescribeGroupRequest, FetchStreamRequest, FetchStreamStart, GetMetadataRequest,
    ProduceStreamRequest,
};
use jangada_types::limits::{CONTROL_REQUEST_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_TEXT_BYTES_MAX};
use tokio::time::timeout;
use tokio_stream::iter;
use tonic::{Code, Status, Streaming};

use crate::harness::{Cluster, WAIT, bare, raw};

const TOPIC: &str = "orders";
const TOO_LARGE: usize = REQUEST_BYTES_MAX + (4 << 20);
/// More bytes than gRPC takes by default.
const LARGE: usize = 5 << 20;
/// Longer than any text may be.
const LONGER: usize = 70 << 10;
/// More bytes than fit into headers.
const LONG: usize = 20_000;
/// A field with a wire type that does not exist.
const NO_MESSAGE: &[u8] = &[0x0f];

/// The answers on a stream, and how it ends.
async fn to_end<T>(mut answers: Streaming<T>) -> (Vec<T>, Result<(), Status>) {
    let mut all = Vec::new();
    loop {
        match timeout(WAIT, answers.message()).await.expect("the stream ends") {
            Ok(Some(answer)) => all.push(answer),
            Ok(None) => return (all, Ok(())),
            Err(status) => return (all, Err(status)),
        }
    }
}

#[track_caller]
fn assert_invalid<T: Debug>(answer: Result<T, Status>, named: &str) -> Status {
    let status = raw::assert_refused(answer, "INVALID_REQUEST", &[named]);
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    status
}

#[track_caller]
fn assert_too_large<T: Debug>(answer: Result<T, Status>) {
    let status = assert_invalid(answer, "limits.request_bytes_max");
    assert_eq!(raw::detail(&status, "limit"), Some(REQUEST_BYTES_MAX.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_stream_answers_what_came_before_and_says_why_it_ends() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    let good = raw::batch(None, &[b"a"]);
    let batches = [good.clone(), good.clone(), Bytes::from(vec![b'x'; TOO_LARGE]), good];
    let requests = (0..).zip(batches).map(|(correlation_id, batch)| ProduceStreamRequest {
        correlation_id,
        partition: Some(raw::partition(TOPIC, 0)),
        batch,
        ..ProduceStreamRequest::default()
    });
    let requests: Vec<_> = requests.collect();
    let answers = log.produce_stream(iter(requests)).await.expect("the stream opens");
    let (answers, end) = to_end(answers.into_inner()).await;
    assert_too_large(end);
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| (answer.correlation_id, answer.result))
        .collect();
    let [(0, Some(StreamResult::Ok(_))), (1, Some(StreamResult::Ok(_)))] = &answers[..] else {
        panic!("not the answers to the first two: {answers:?}")
    };
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_stream_says_that_a_message_is_too_large() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    let start = |topic: &str| FetchStreamRequest {
        message: Some(Message::Start(FetchStreamStart {
            partition: Some(raw::partition(topic, 0)),
            ..FetchStreamStart::default()
        })),
    };
    let too_large = start(&"x".repeat(TOO_LARGE));
    assert_too_large(log.fetch_stream(iter([too_large.clone()])).await);
    let opened = log.fetch_stream(iter([start(TOPIC), too_large])).await;
    let (_, end) = to_end(opened.expect("the stream opens").into_inner()).await;
    assert_too_large(end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_have_the_same_limit_and_say_so() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let address = &cluster.node(1).addresses.public;
    let url = format!("http://{address}");
    let mut log = raw::log(address).await;
    let mut admin = AdminServiceClient::connect(url.clone()).await.expect("it listens");
    let mut groups = GroupServiceClient::connect(url.clone()).await.expect("it listens");
    let mut metadata = MetadataServiceClient::connect(url).await.expect("it listens");
    let delete = |bytes| DeleteTopicRequest {
        name: "x".repeat(bytes),
        ..DeleteTopicRequest::default()
    };

    let batch = Bytes::from(vec![b'x'; TOO_LARGE]);
    assert_too_large(raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await);
    let group = "x".repeat(TOO_LARGE);
    assert_too_large(groups.describe_group(DescribeGroupRequest { group }).await);
    let wanted = GetMetadataRequest {
        topics: vec!["x".repeat(TOO_LARGE)],
        ..GetMetadataRequest::default()
    };
    assert_too_large(metadata.get_metadata(wanted).await);
    assert_too_large(admin.delete_topic(delete(TOO_LARGE)).await);
    // Requests that carry no records have a lower limit.
    let status = assert_invalid(admin.delete_topic(delete(LARGE)).await, "AdminService/DeleteTopic");
    assert_eq!(
        raw::detail(&status, "limit"),
        Some(CONTROL_REQUEST_BYTES_MAX.to_string())
    );
    let status = assert_invalid(admin.delete_topic(delete(LONGER)).await, "a text of more than");
    assert_eq!(raw::detail(&status, "limit"), Some(REQUEST_TEXT_BYTES_MAX.to_string()));
    let deleted = admin.delete_topic(delete(LONG)).await;
    raw::assert_refused(deleted, "UNKNOWN_TOPIC", &["there is no topic"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_an_invalid_request() {
    let cluster = Cluster::start(1).await;
    for method in [
        "LogService/Produce",
        "LogService/ProduceStream",
        "LogService/FetchStream",
        "AdminService/CreateTopic",
        "GroupService/Heartbeat",
        "MetadataService/GetMetadata",
    ] {
        println!("{method}");
        assert_invalid(malformed(&cluster.brokers()[0], method).await, "cannot be read");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_about_a_long_name_reaches_the_client() {
    let cluster = Cluster::start(1).await;
    let long = "x".repeat(LONG);
    let refused = cluster.cli(&create(&long, "retention.ms=1")).await;
    refused.expect(1).names(&["at most 249 characters", "20000 bytes"]);
    let refused = cluster.cli(&create(TOPIC, &format!("{long}=1"))).await;
    refused.expect(1).names(&[TOPIC, "unknown setting", "there are"]);
}

fn create<'a>(name: &'a str, setting: &'a str) -> [&'a str; 9] {
    ["topic", "create", name, "-p", "1", "-r", "1", "-c", setting]
}

/// Sends bytes that are no message of the method; returns its answer.
async fn malformed(address: &str, method: &str) -> Result<(), Status> {
    let channel = bare::connect(address).await;
    match bare::call(&channel, method, iter([Bytes::from_static(NO_MESSAGE)])).await {
        Ok(answers) => to_end(answers).await.1,
        Err(status) => Err(status),
    }
}
