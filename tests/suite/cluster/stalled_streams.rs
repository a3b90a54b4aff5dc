//! Consumers that open streams and do not read use the room for fetches: others are refused, and get the room back.

use std::time::{Duration, Instant};

use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::{
    FetchRequest, FetchResponse, FetchStreamRequest, FetchStreamResponse, FetchStreamStart, RecordForm,
};
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use crate::harness::{Cluster, Options, WAIT, eventually, node, raw};

const TOPIC: &str = "orders";

/// The least value of the setting: not enough for a response of each stream.
const SECTIONS: &str = "[limits]\nfetch_inflight_bytes = 16777216";
const STREAMS: usize = 20;
const RESPONSE_BYTES: u32 = 1 << 20;
const VALUE_BYTES: usize = 1_000_000;
/// How long a fetch may wait for streams that are not read: it is refused after that. A stream that is no longer read
/// is ended after 2 s, and the fetch may need two in turn.
const MADE_WAY: Duration = Duration::from_secs(5);
/// More records than a stream sends without being read: one response is in the transport and one waits.
const RECORDS: i64 = 4;

/// A stream that is never read.
async fn stalled(address: &str) -> Streaming<FetchStreamResponse> {
    raw::stalled(address, raw::partition(TOPIC, 0), RESPONSE_BYTES).await
}

async fn fetch(log: &mut raw::Log, form: RecordForm) -> Result<FetchResponse, Status> {
    let request = FetchRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        max_bytes: RESPONSE_BYTES,
        form: form.into(),
        ..FetchRequest::default()
    };
    log.fetch(request).await.map(tonic::Response::into_inner)
}

/// A cluster of one with this many records.
async fn filled(sections: &str) -> Cluster {
    let options = Options {
        alone: true,
        sections: sections.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    for _ in 0..RECORDS {
        let batch = raw::batch(None, &[&vec![b'x'; VALUE_BYTES]]);
        raw::produce(&mut log, raw::partition(TOPIC, 0), batch)
            .await
            .expect("it is written");
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_do_not_stop_other_fetches() {
    let cluster = filled(SECTIONS).await;
    let address = cluster.node(1).addresses.public.clone();
    let mut log = raw::log(&address).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(stalled(&address).await);
    }
    // The streams have all the room that their address may have. A stream that is not read makes way for a fetch that
    // waits.
    for _ in 0..5 {
        let began = Instant::now();
        let fetched = fetch(&mut log, RecordForm::Raw).await.expect("room is made");
        assert_eq!(fetched.next_offset, 1);
        assert!(began.elapsed() < MADE_WAY, "it took {:?}", began.elapsed());
    }
    let plain = fetch(&mut log, RecordForm::Plain).await.expect("there is room");
    assert_eq!(plain.records.len(), 1);
    let log = cluster.node(1).log();
    assert!(log.contains("its peer did not read a response in time"), "{log}");
}

/// A stalled stream for whose room no fetch waits has longer, and its client gets the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_goes_on_late_has_lost_nothing_and_is_told_why_its_stream_ended() {
    let cluster = filled("").await;
    let address = cluster.node(1).addresses.public.clone();
    let mut stream = stalled(&address).await;
    eventually("the stream is ended", WAIT, || async {
        let metrics = node::get(&cluster.node(1).addresses.http, "/metrics").await.ok()?;
        metrics
            .contains(r#"jangada_request_errors_total{reason="BROKER_BUSY"} 1"#)
            .then_some(())
    })
    .await;
    let ended = tokio::time::timeout(WAIT, read_on(&mut stream)).await;
    let status = ended.expect("the stream ends").expect("it is told why");
    raw::assert_refused(Err::<(), _>(status), "BROKER_BUSY", &[TOPIC, "not taken"]);
}

/// Reads a stream to its end; returns its error, or none if all records came.
async fn read_on(stream: &mut Streaming<FetchStreamResponse>) -> Option<Status> {
    let mut next_offset = 0;
    while next_offset < RECORDS {
        match stream.message().await {
            Ok(response) => {
                let fetched = response.and_then(|response| response.fetch);
                next_offset = fetched.expect("it does not end without a word").next_offset;
            }
            Err(status) => return Some(status),
        }
    }
    None
}

/// The stream keeps neither others out nor the broker from ending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_never_says_what_it_wants_holds_nothing() {
    let options = Options {
        sections: "[limits]\nstreams_max = 1\n[shutdown]\ndrain_ms = 600000".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let address = cluster.node(1).addresses.public.clone();
    let mut log = raw::log(&address).await;
    let mut opening = Box::pin(log.fetch_stream(tokio_stream::pending()));
    let nothing = tokio::time::timeout(Duration::from_secs(1), &mut opening).await;
    assert!(nothing.is_err(), "it is not answered before it has said anything");
    let mut other = stalled(&address).await;
    // One that has said it does count.
    let mut third = raw::log(&address).await;
    let start = Message::Start(FetchStreamStart {
        partition: Some(raw::partition(TOPIC, 0)),
        ..FetchStreamStart::default()
    });
    let start = tokio_stream::iter([FetchStreamRequest { message: Some(start) }]);
    let refused = third.fetch_stream(start.chain(tokio_stream::pending())).await;
    raw::assert_refused(refused.map(drop), "TOO_MANY_STREAMS", &["1"]);

    let ended = cluster.stop(1);
    let (ended, opened) = tokio::join!(ended, opening);
    assert_eq!(ended.code(), Some(0));
    raw::assert_refused(opened.map(drop), "SHUTTING_DOWN", &[]);
    let told = other.next().await.expect("it is told why");
    raw::assert_refused(told.map(drop), "SHUTTING_DOWN", &[]);
}
