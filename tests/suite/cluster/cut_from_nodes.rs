//! A leader that is cut off from the other nodes while clients still reach it must not answer as the leader.

use std::time::{Duration, Instant};

use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::{
    CommitOffsetsRequest, FetchOffsetsRequest, FetchRequest, FetchStreamRequest, FetchStreamResponse, FetchStreamStart,
    FindCoordinatorRequest, GetMetadataRequest, HeartbeatRequest, RecordForm, Subscription,
};
use tokio_stream::StreamExt as _;
use tonic::{Request, Status, Streaming};

use crate::harness::groups::{Coordinator, at, offsets};
use crate::harness::{Cluster, Options, WAIT, consumer_from_start, eventually, raw};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// Within this time a leader knows that no quorum answers it, and says so, at default settings.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);

async fn cluster() -> Cluster {
    let options = Options {
        network: true,
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    cluster
}

/// Writes one record to the leader among these nodes; returns its id.
async fn produce_at(cluster: &Cluster, nodes: &[u32], value: &[u8]) -> u32 {
    eventually("one of the nodes takes a record", WAIT, || async {
        for node in nodes {
            let mut log = raw::log(&cluster.node(*node).addresses.public).await;
            let batch = raw::batch(None, &[value]);
            if raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await.is_ok() {
                return Some(*node);
            }
        }
        None
    })
    .await
}

async fn stream(log: &mut raw::Log, offset: i64) -> Streaming<FetchStreamResponse> {
    let start = FetchStreamStart {
        partition: Some(raw::partition(TOPIC, 0)),
        offset,
        form: RecordForm::Raw.into(),
        ..FetchStreamStart::default()
    };
    let start = FetchStreamRequest {
        message: Some(Message::Start(start)),
    };
    let requests = tokio_stream::iter([start]).chain(tokio_stream::pending());
    log.fetch_stream(requests).await.expect("it is opened").into_inner()
}

async fn poll(mut log: raw::Log, offset: i64) -> Result<(), Status> {
    let request = FetchRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        offset,
        min_bytes: 1,
        max_wait_ms: 30_000,
        ..FetchRequest::default()
    };
    log.fetch(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_calls_no_offset_out_of_range_and_holds_no_reader() {
    let cluster = cluster().await;
    let old = cluster.leader(TOPIC, 0).await;
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    for _ in 0..3 {
        produce_at(&cluster, &[old], b"before").await;
    }
    let address = cluster.node(old).addresses.public.clone();
    let mut log = raw::log(&address).await;
    let mut held = stream(&mut log, 3).await;
    let polled = tokio::spawn(poll(log.clone(), 3));

    cluster.cut_from_nodes(old);
    let cut = Instant::now();
    // After all records before, and before those that the next leader takes.
    let since_ms = raw::now_ms() + 1;
    let mut next = 0;
    for _ in 0..3 {
        next = produce_at(&cluster, &others, b"after").await;
    }
    println!("the others had a leader after {:?}", cut.elapsed());
    // It knows of none so late, and there are some.
    let later = raw::at_time(&mut log, raw::partition(TOPIC, 0), since_ms).await;
    raw::assert_refused(later, "LEADER_NOT_AVAILABLE", &[TOPIC]);
    let mut beside = raw::log(&cluster.node(next).addresses.public).await;
    let later = raw::at_time(&mut beside, raw::partition(TOPIC, 0), since_ms).await;
    assert_eq!(later.expect("the next leader has them"), 3);
    // Above what the old leader has, below what the new one has.
    for _ in 0..10 {
        let answer = raw::fetch(&mut log, raw::partition(TOPIC, 0), 5, RecordForm::Raw).await;
        let status = raw::assert_refused(answer, "LEADER_NOT_AVAILABLE", &[TOPIC]);
        assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    }
    let ended = tokio::time::timeout(KNOWN_TIMEOUT, held.next()).await;
    let ended = ended.expect("the stream ends").expect("with a reason");
    raw::assert_refused(ended, "LEADER_NOT_AVAILABLE", &[TOPIC, "quorum"]);
    let polled = tokio::time::timeout(KNOWN_TIMEOUT, polled)
        .await
        .expect("it is answered");
    raw::assert_refused(polled.expect("no panic"), "LEADER_NOT_AVAILABLE", &[TOPIC, "quorum"]);
    println!("the old leader's readers were told after {:?}", cut.elapsed());
    // The old leader's records are committed, and can be read.
    let before = raw::fetch(&mut log, raw::partition(TOPIC, 0), 0, RecordForm::Raw).await;
    assert_eq!(before.expect("it is there").high_watermark, 3);
    // Its metadata do not name it as the leader.
    let mut metadata = MetadataServiceClient::connect(format!("http://{address}"))
        .await
        .expect("it listens");
    let known = metadata.get_metadata(GetMetadataRequest::default()).await;
    let known = known.expect("from memory").into_inner();
    assert_eq!(known.topics[0].partitions[0].leader_id, 0);

    cluster.heal();
    cluster.healthy().await;
    let answer = raw::fetch(&mut log, raw::partition(TOPIC, 0), 5, RecordForm::Raw).await;
    if let Err(status) = answer {
        raw::assert_refused(Err::<(), _>(status), "NOT_LEADER", &[]);
    }
    // Only the new leader can say that an offset is out of range.
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let answer = raw::fetch(&mut log, raw::partition(TOPIC, 0), 7, RecordForm::Raw).await;
    let status = raw::assert_refused(answer, "OFFSET_OUT_OF_RANGE", &["7", "6"]);
    assert_eq!(raw::detail(&status, "high_watermark").as_deref(), Some("6"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_a_cut_off_leader_goes_on_at_the_next_one() {
    let cluster = cluster().await;
    let old = cluster.leader(TOPIC, 0).await;
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    let client = cluster.client().await;
    let mut consumer = consumer_from_start(&client, TOPIC).await;
    let mut next = async |offset: i64| {
        let record = tokio::time::timeout(WAIT, consumer.next()).await;
        let record = record.expect("records come").expect("it goes on");
        assert_eq!(record.offset, offset);
    };
    produce_at(&cluster, &[old], b"before").await;
    next(0).await;
    cluster.cut_from_nodes(old);
    let cut = Instant::now();
    for offset in 1..5 {
        produce_at(&cluster, &others, b"after").await;
        next(offset).await;
    }
    println!("the consumer had what was written elsewhere after {:?}", cut.elapsed());
    cluster.heal();
    cluster.healthy().await;
    produce_at(&cluster, &cluster.ids(), b"healed").await;
    next(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_coordinator_sends_its_members_away() {
    let cluster = cluster().await;
    let topic = cluster.admin().await.list_topics().await.expect("a broker answers");
    let topic = bytes::Bytes::copy_from_slice(topic[0].topic_id.as_bytes());
    let (old, mut calls) = Coordinator::new(cluster.brokers(), GROUP).find().await;
    let heartbeat = || HeartbeatRequest {
        group: GROUP.to_owned(),
        member_id: "m".to_owned(),
        subscription: Some(Subscription {
            topics: vec![TOPIC.to_owned()],
            pattern: String::new(),
        }),
        ..HeartbeatRequest::default()
    };
    eventually("a member joins", WAIT, || {
        let mut calls = calls.clone();
        async move { calls.heartbeat(heartbeat()).await.ok() }
    })
    .await;

    cluster.cut_from_nodes(old);
    let cut = Instant::now();
    eventually("the old coordinator sends members away", WAIT, || {
        let mut calls = calls.clone();
        async move {
            let status = calls.heartbeat(heartbeat()).await.err()?;
            (raw::reason(&status) == "LEADER_NOT_AVAILABLE").then_some(())
        }
    })
    .await;
    println!("the old coordinator knew after {:?}", cut.elapsed());
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    let others = others.iter().map(|id| cluster.node(*id).addresses.public.clone());
    let mut beside = Coordinator::new(others.collect(), GROUP);
    // They name the next coordinator, which answers.
    beside.heartbeat(heartbeat()).await.expect("another broker coordinates");
    assert_ne!(beside.find().await.0, old);
    println!("the group went on elsewhere after {:?}", cut.elapsed());
    for _ in 0..5 {
        raw::assert_refused(calls.heartbeat(heartbeat()).await, "LEADER_NOT_AVAILABLE", &["quorum"]);
        let commit = CommitOffsetsRequest {
            group: GROUP.to_owned(),
            offsets: offsets(&topic, [(0, 1)]),
            ..CommitOffsetsRequest::default()
        };
        raw::assert_refused(calls.commit_offsets(commit).await, "LEADER_NOT_AVAILABLE", &["quorum"]);
        let fetch = FetchOffsetsRequest {
            group: GROUP.to_owned(),
            partitions: Vec::new(),
            ..Default::default()
        };
        raw::assert_refused(calls.fetch_offsets(fetch).await, "LEADER_NOT_AVAILABLE", &["quorum"]);
        let mut find = Request::new(FindCoordinatorRequest {
            group: GROUP.to_owned(),
        });
        find.set_timeout(KNOWN_TIMEOUT);
        raw::assert_refused(calls.find_coordinator(find).await, "LEADER_NOT_AVAILABLE", &[GROUP]);
    }
    cluster.heal();
    cluster.healthy().await;
    let address = cluster.node(old).addresses.public.clone();
    let found = eventually("it names who coordinates now", WAIT, || async {
        let group = GROUP.to_owned();
        let found = at(&address).find_coordinator(FindCoordinatorRequest { group }).await;
        found.ok().map(tonic::Response::into_inner)
    });
    let found = found.await;
    assert!(cluster.ids().contains(&found.broker_id));
}
