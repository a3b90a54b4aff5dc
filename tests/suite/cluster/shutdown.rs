//! SIGTERM: leaderships are handed over, what is in flight is answered, then the node ends.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{Acks, FetchRequest, ProduceStreamRequest};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::strace::{self, Attached};
use crate::harness::{Cluster, Load, Options, WAIT, raw, skipped};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;
const BATCHES: u64 = 5;

/// A drain time as long as answers on a slow disk need.
const SECTIONS: &str = "[shutdown]\ndrain_ms = 60000";
/// Each sync takes this long, in microseconds: SIGTERM comes while the batches wait for theirs.
const SLOW: &str = "inject=fdatasync:delay_enter=1000000";
/// Longer than the node needs to end: a fetch that waits this long is answered early, or the node waited for it.
const FETCH_WAIT_MS: u32 = 45_000;

/// After a leader vanished, an election begins only after 10 s.
const SLOW_ELECTIONS: &str = "[raft]\nelection_timeout_min_ms = 10000\nelection_timeout_max_ms = 12000";
/// A record's answer may take this long while each node is stopped and started in turn.
const SLOWEST: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_answered() {
    let options = Options {
        alone: true,
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(1, options).await;
    if let Err(why) = strace::works_in(&cluster.folder()) {
        skipped("an orderly stop on a slow disk", &why);
        return;
    }
    cluster.create_topic(TOPIC, PARTITIONS, 1).await;
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let slow = ["-e", "trace=fdatasync", "-e", SLOW, "-o", "/dev/null"];
    let slow = Attached::to(cluster.node(1).pid(), slow.map(OsStr::new)).await;

    let request = |correlation_id, partition, acks: Acks| ProduceStreamRequest {
        correlation_id,
        partition: Some(raw::partition(TOPIC, partition)),
        acks: acks.into(),
        batch: raw::batch(None, &[b"a"]),
        ..ProduceStreamRequest::default()
    };
    let (sender, requests) = mpsc::channel(16);
    for correlation_id in 0..BATCHES {
        let sent = sender.send(request(correlation_id, 0, Acks::Quorum)).await;
        sent.expect("the stream takes it");
    }
    // Admitted after the others, and answered at once.
    sender
        .send(request(BATCHES, 1, Acks::None))
        .await
        .expect("the stream takes it");
    let answers = log.produce_stream(ReceiverStream::new(requests)).await;
    let answers = answers.expect("the stream opens").into_inner().timeout(WAIT);
    tokio::pin!(answers);
    let first = answers.next().await.expect("there is an answer").expect("in time");
    assert_eq!(first.expect("the stream goes on").correlation_id, BATCHES);
    let fetch = FetchRequest {
        partition: Some(raw::partition(TOPIC, 2)),
        min_bytes: 1,
        max_wait_ms: FETCH_WAIT_MS,
        ..FetchRequest::default()
    };
    let mut other = log.clone();
    let mut fetching = Box::pin(async move { other.fetch(fetch).await });
    // A call that is sent after it on the same connection, and answered: the fetch has arrived.
    tokio::select! {
        biased;
        fetched = &mut fetching => panic!("there is nothing to fetch: {fetched:?}"),
        end = raw::end(&mut log, raw::partition(TOPIC, 2)) => assert_eq!(end.expect("it leads"), 0),
    }
    let waiting = tokio::spawn(fetching);

    let told = Instant::now();
    let status = cluster.stop(1).await;
    assert_eq!(status.code(), Some(0), "{}", cluster.node(1).log_tail());
    assert!(
        told.elapsed() < Duration::from_millis(u64::from(FETCH_WAIT_MS)),
        "it waited for a fetch: {:?}",
        told.elapsed()
    );
    slow.detach();
    let mut offsets = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.expect("in time").expect("the stream ends well");
        match answer.result {
            Some(StreamResult::Ok(response)) => offsets.push((answer.correlation_id, response.base_offset)),
            other => panic!("batch {} was not written: {other:?}", answer.correlation_id),
        }
    }
    assert_eq!(offsets, (0..BATCHES).zip(0..).collect::<Vec<_>>());
    let fetched = waiting.await.expect("it does not fail");
    raw::assert_refused(fetched, "SHUTTING_DOWN", &["broker 1", "another"]);

    cluster.restart(1);
    cluster.healthy().await;
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, BATCHES as i64);
    // The producer with acks none was only told that the batch was admitted; a clean stop writes it all the same.
    assert_eq!(cluster.high_watermark(TOPIC, 1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_holds_nobody_up() {
    let options = Options {
        alone: true,
        sections: SLOW_ELECTIONS.to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let load = Load::start(&cluster, TOPIC, PARTITIONS, 100, 64 * 1024).await;
    for id in cluster.ids() {
        let status = cluster.stop(id).await;
        assert_eq!(status.code(), Some(0), "{}", cluster.node(id).log_tail());
        for partition in 0..PARTITIONS {
            load.takes_writes(partition, Instant::now()).await;
        }
        cluster.restart(id);
        cluster.healthy().await;
    }
    let ran = load.finish(&cluster).await;
    let acknowledged = ran.check();
    let slowest = ran.slowest();
    println!("{acknowledged} records are there, once and in order; the slowest answer took {slowest:?}");
    assert!(slowest < SLOWEST, "{slowest:?}");
}
