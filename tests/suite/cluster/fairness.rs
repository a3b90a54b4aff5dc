//! One client cannot use up what others need: streams, room to fetch, room to produce, a coordinator.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::FetchRequest;
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::{CommitOffsetsRequest, FetchStreamRequest, FetchStreamStart, HeartbeatRequest, Subscription};
use prost::Message as _;
use tokio::task::JoinSet;
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::groups::topic_id;
use crate::harness::groups::{Coordinator, Member, offsets};
use crate::harness::{Cluster, Options, WAIT, bare, eventually, is_long, raw, served_during};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const MIB: usize = 1 << 20;
const SECTIONS: &str = "[limits]\nstreams_max = 1000\nfetch_inflight_bytes = 33554432\n";
const STREAMS: usize = 1000;

async fn cluster() -> Cluster {
    let options = Options {
        alone: true,
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    cluster
}

/// A stream that waits for records.
async fn idle(channel: &Channel) -> Result<Streaming<Bytes>, Status> {
    let start = FetchStreamStart {
        partition: Some(raw::partition(TOPIC, 0)),
        ..FetchStreamStart::default()
    };
    let start = FetchStreamRequest {
        message: Some(Message::Start(start)),
    };
    let start = iter([Bytes::from(start.encode_to_vec())]).chain(pending());
    bare::call(channel, "LogService/FetchStream", start).await
}

/// Opens streams until one is refused.
async fn open_all(channel: &Channel) -> (Vec<Streaming<Bytes>>, Status) {
    let mut streams = Vec::new();
    loop {
        match idle(channel).await {
            Ok(stream) => streams.push(stream),
            Err(status) => return (streams, status),
        }
        assert!(streams.len() <= STREAMS, "one connection got all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_connections_cannot_take_all_streams() {
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    let mut all = Vec::new();
    let mut opened = 0;
    for _ in 0..6 {
        let channel = bare::connect(&address).await;
        let (streams, refused) = open_all(&channel).await;
        raw::assert_refused(
            Err::<(), _>(refused),
            "TOO_MANY_STREAMS",
            &["this connection", "limits.streams_max", "1000"],
        );
        opened += streams.len();
        all.push(streams);
    }
    println!("six connections have {opened} of {STREAMS} streams");
    let beside = bare::connect(&address).await;
    for _ in 0..10 {
        all.push(vec![idle(&beside).await.expect("there is some left beside them")]);
    }
    let elsewhere = bare::connect_from("127.0.0.2", &address).await;
    for _ in 0..40 {
        all.push(vec![idle(&elsewhere).await.expect("there is more left for others")]);
    }
}

/// Fills the partition with `batches` batches of a megabyte.
async fn write_megabytes(address: &str, batches: usize) {
    let mut log = raw::log(address).await;
    let batch = raw::batch(None, &[&vec![b'x'; 1_000_000]]);
    for _ in 0..batches {
        raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone())
            .await
            .expect("it is written");
    }
}

/// A fetch of the largest size that is allowed.
fn large_fetch() -> FetchRequest {
    FetchRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        max_bytes: u32::try_from(16 * MIB).expect("it is small"),
        ..FetchRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_fetches_of_some_do_not_hold_up_small_ones_of_others() {
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    write_megabytes(&address, 20).await;
    let large = large_fetch();
    let greedy = async {
        let mut calls = JoinSet::new();
        for _ in 0..3 {
            let channel = bare::connect(&address).await;
            for _ in 0..10 {
                let (large, channel) = (large.clone(), channel.clone());
                calls.spawn(async move {
                    let mut log = LogServiceClient::new(channel).max_decoding_message_size(64 * MIB);
                    for _ in 0..2 {
                        // Behind the others of its connection it may be told to try again.
                        if let Err(status) = log.fetch(large.clone()).await {
                            assert_eq!(raw::reason(&status), "BROKER_BUSY", "{status:?}");
                        }
                    }
                });
            }
        }
        while let Some(ended) = calls.join_next().await {
            ended.expect("the calls end");
        }
    };
    let ((), rounds) = served_during(&cluster, TOPIC, greedy).await;
    println!("{rounds} rounds of small calls beside large fetches");
}

/// Number of connections that fetch as much as they can, and below the calls of each.
const GREEDY: usize = 4;
const CALLS: usize = 10;
const FETCHES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_many_large_fetches_take_turns_with_one_that_has_one_at_a_time() {
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    write_megabytes(&address, 17).await;
    // All want as much, and only one fits beside another.
    let large = large_fetch();
    let greedy = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for _ in 0..GREEDY {
        let channel = bare::connect_with_room(&address).await;
        for _ in 0..CALLS {
            let (large, channel, greedy) = (large.clone(), channel.clone(), greedy.clone());
            calls.spawn(async move {
                let mut log = LogServiceClient::new(channel).max_decoding_message_size(64 * MIB);
                loop {
                    match log.fetch(large.clone()).await {
                        Ok(_) => _ = greedy.fetch_add(1, Relaxed),
                        // Behind the others of its connection it may be told to try again.
                        Err(status) => assert_eq!(raw::reason(&status), "BROKER_BUSY", "{status:?}"),
                    }
                }
            });
        }
    }
    let channel = bare::connect_with_room(&address).await;
    let mut log = LogServiceClient::new(channel).max_decoding_message_size(64 * MIB);
    let mut longest = Duration::ZERO;
    eventually("the greedy ones are served", WAIT, || {
        let served = greedy.load(Relaxed);
        async move { (served > GREEDY).then_some(()) }
    })
    .await;
    let before = greedy.load(Relaxed);
    for _ in 0..FETCHES {
        let began = Instant::now();
        log.fetch(large.clone()).await.expect("it gets its turn in time");
        longest = longest.max(began.elapsed());
    }
    let others = greedy.load(Relaxed) - before;
    println!("{FETCHES} fetches of one, {longest:?} at most, beside {others} of {GREEDY} with {CALLS} calls each");
    calls.shutdown().await;
    // Each of the others once for each of its own, and what is on its way.
    assert!(others <= 2 * GREEDY * FETCHES, "{others} of others for {FETCHES}");
    assert!(longest < Duration::from_secs(4), "one took {longest:?}");
}

/// A producer id that was not given out, and will not be soon.
const MADE_UP: raw::Producer = raw::Producer {
    id: 1_000_000_000,
    epoch: 0,
    sequence: 0,
};
const MEASURED: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_producers_take_no_room_from_others() {
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    let ((), alone) = served_during(&cluster, TOPIC, tokio::time::sleep(MEASURED)).await;
    let batch = raw::batch(Some(MADE_UP), &[&vec![b'x'; 1_000_000]]);
    let attack = async {
        let until = Instant::now() + MEASURED;
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let (address, batch) = (address.clone(), batch.clone());
            calls.spawn(async move {
                let mut log = raw::log(&address).await;
                let mut refused = 0;
                while Instant::now() < until {
                    let answer = raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone()).await;
                    raw::assert_refused(answer, "UNKNOWN_PRODUCER", &["never given out", "InitProducer"]);
                    refused += 1;
                    // As fast as a disk would take them, or the processors are all that is measured.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                refused
            });
        }
        let mut refused = 0;
        while let Some(ended) = calls.join_next().await {
            refused += ended.expect("the calls end");
        }
        refused
    };
    let (refused, beside) = served_during(&cluster, TOPIC, attack).await;
    println!("{alone} rounds alone, {beside} beside {refused} refused batches");
    assert!(refused > 20, "each is refused at once, not after a second: {refused}");
    assert!(beside * 8 >= alone, "{beside} rounds beside the others, {alone} alone");
}

/// How long a member is measured beside clients that fill the coordinator.
fn measured() -> Duration {
    Duration::from_secs(if is_long() { 30 } else { 5 })
}

/// Sizes of requests, bytes, and how many of a connection are under way: from large to none, so that what is left is taken too.
const FILLING: [(usize, usize); 9] = [
    (3_900_000, 8),
    (3_900_000, 8),
    (1_000_000, 8),
    (200_000, 10),
    (50_000, 20),
    (8_000, 50),
    (1_000, 200),
    (100, 400),
    (0, 400),
];

/// Sends requests as fast as they are answered from nine connections, while a member and its commits go on beside them. Every
/// one of them is refused.
async fn member_beside(method: &'static str, message: impl Fn(usize) -> Bytes) {
    let cluster = cluster().await;
    let mut calls = Coordinator::new(cluster.brokers(), GROUP);
    let (coordinator, _) = calls.find().await;
    let address = cluster.node(coordinator).addresses.public.clone();
    let session = Duration::from_secs(10);
    let member = Member::start(calls.clone(), "bystander", TOPIC, session);
    let topic = topic_id(&cluster, TOPIC).await;
    eventually("the member has its partition", WAIT, || {
        let owned = member.owned();
        async move { (owned.len() == 1).then_some(()) }
    })
    .await;
    let until = Instant::now() + measured();
    let mut attack = JoinSet::new();
    for (bytes, under_way) in FILLING {
        let (channel, message) = (bare::connect(&address).await, message(bytes));
        for _ in 0..under_way {
            let (channel, message) = (channel.clone(), message.clone());
            attack.spawn(async move {
                let mut refused = 0_u32;
                while Instant::now() < until {
                    bare::ask(&channel, method, message.clone())
                        .await
                        .expect_err("nothing of it is right");
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                refused
            });
        }
    }
    let (mut commits, mut offset) = (0, 0);
    while Instant::now() < until {
        offset += 1;
        let commit = CommitOffsetsRequest {
            group: GROUP.to_owned(),
            member_id: "bystander".to_owned(),
            member_epoch: member.seen().epoch,
            offsets: offsets(&topic, [(0, offset)]),
            ..Default::default()
        };
        calls.commit(commit).await.expect("it has its share");
        // Sees in any case whether there is room, and changes nothing.
        let strange = HeartbeatRequest {
            group: GROUP.to_owned(),
            member_id: "strange".to_owned(),
            member_epoch: 7,
            ..HeartbeatRequest::default()
        };
        raw::assert_refused(calls.heartbeat(strange).await, "UNKNOWN_MEMBER", &[]);
        commits += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut refused = 0;
    while let Some(ended) = attack.join_next().await {
        refused += ended.expect("the calls end");
    }
    let seen = member.seen();
    println!("{method}: {commits} commits beside {refused} refused requests");
    assert_eq!(seen.errors, Vec::<String>::new());
    assert_eq!((seen.joins, seen.owned.len()), (1, 1), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_that_wait_for_a_version_keep_no_member_out() {
    // Both of no member: one that no cluster has, and one that may come.
    for version in [1 << 63, 100_000] {
        member_beside("GroupService/Heartbeat", |bytes| {
            let heartbeat = HeartbeatRequest {
                group: GROUP.to_owned(),
                member_id: "made up".to_owned(),
                member_epoch: 5,
                min_metadata_version: version,
                subscription: Some(Subscription {
                    topics: vec!["x".repeat(60_000); bytes / 60_000],
                    pattern: "y".repeat(bytes % 60_000),
                }),
                ..HeartbeatRequest::default()
            };
            heartbeat.encode_to_vec().into()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_for_topics_that_do_not_exist_keep_no_member_out() {
    member_beside("GroupService/CommitOffsets", |bytes| {
        let unknown = Bytes::from_static(&[1; 16]);
        let mut rows = offsets(&unknown, (0..1 + bytes / 60_000).map(|row| (row as u32, 1)));
        for row in &mut rows {
            row.metadata = "y".repeat((bytes + 1).min(60_000));
        }
        let commit = CommitOffsetsRequest {
            group: GROUP.to_owned(),
            member_id: "made up".to_owned(),
            member_epoch: 5,
            offsets: rows,
            ..Default::default()
        };
        commit.encode_to_vec().into()
    })
    .await;
}
