//! The memory that one client can make a broker use: no more than the settings say, and others are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::{
    DescribePartitionsResponse, FetchRequest, FetchStreamRequest, FetchStreamStart, ProduceStreamRequest, RecordForm,
    TopicPartition,
};
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::harness::{Cluster, Options, WAIT, bare, eventually, node, raw, served_during};

const TOPIC: &str = "orders";
const MIB: usize = 1 << 20;

/// Bytes that a broker may use beside its budgets: connections' windows, the store, what the allocator keeps.
const SLACK_BYTES: usize = 96 * MIB;

/// Small budgets, so that a request that passes them is noticed.
const REQUESTS: usize = 64 * MIB;
const FETCHES: usize = 32 * MIB;
const SECTIONS: &str =
    "[limits]\nrequest_inflight_bytes = 67108864\nfetch_inflight_bytes = 33554432\nstalled_ms = 3000\n";

/// Delay before a client tries again that was refused for want of room.
const BUSY_RETRY: Duration = Duration::from_millis(20);

const VALUE_BYTES: usize = 1_000_000;
/// More values than one fetch returns.
const VALUES: usize = 20;

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

/// A cluster of one node with records to fetch.
async fn filled() -> Cluster {
    let cluster = cluster().await;
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let batch = raw::batch(None, &[&vec![b'x'; VALUE_BYTES]]);
    for _ in 0..VALUES {
        raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone())
            .await
            .expect("it is written");
    }
    cluster
}

fn peak(cluster: &Cluster) -> usize {
    cluster.node(1).memory("VmHWM")
}

/// Asserts that the node took no more than this since `before`.
#[track_caller]
fn assert_grown(cluster: &Cluster, before: usize, most: usize) {
    let grown = peak(cluster).saturating_sub(before);
    println!("{} MiB more, {} are allowed", grown / MIB, most / MIB);
    assert!(
        grown <= most,
        "{} MiB more, and {} are allowed",
        grown / MIB,
        most / MIB
    );
}

/// The value of a metric; 0 for one that is not there.
async fn metric(cluster: &Cluster, name: &str) -> u64 {
    let text = node::get(&cluster.node(1).addresses.http, "/metrics").await;
    let text = text.expect("the node answers");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}

/// Sends a message until the broker has room to look at it.
async fn ask_patiently(channel: &Channel, method: &str, message: Bytes) -> Result<Bytes, Status> {
    let asking = async {
        loop {
            match bare::ask(channel, method, message.clone()).await {
                Err(status) if raw::reason(&status) == "BROKER_BUSY" => tokio::time::sleep(BUSY_RETRY).await,
                answer => return answer,
            }
        }
    };
    timeout(WAIT, asking).await.expect("there is room in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn millions_of_empty_elements_are_refused_before_they_are_decoded() {
    let cluster = cluster().await;
    let channel = bare::connect(&cluster.node(1).addresses.public).await;
    let before = peak(&cluster);
    let attacks = [
        ("LogService/Produce", bare::field(5, &bare::empties(1, 16 * MIB))),
        ("GroupService/CommitOffsets", bare::empties(4, 4 * MIB)),
        ("GroupService/Heartbeat", bare::field(5, &bare::empties(1, 4 * MIB - 8))),
        ("GroupService/FetchOffsets", bare::empties(2, 4 * MIB)),
        ("GroupService/DeleteOffsets", bare::empties(2, 4 * MIB)),
        ("MetadataService/GetMetadata", bare::empties(1, 4 * MIB)),
    ];
    let attack = async {
        let mut calls = JoinSet::new();
        for (method, message) in attacks {
            let message = Bytes::from(message);
            for _ in 0..8 {
                let (channel, message) = (channel.clone(), message.clone());
                calls.spawn(async move { (method, ask_patiently(&channel, method, message).await) });
            }
        }
        while let Some(answered) = calls.join_next().await {
            let (method, answer) = answered.expect("the call ends");
            let status = raw::assert_refused(answer, "INVALID_REQUEST", &[method, "131072 elements"]);
            assert_eq!(status.code(), Code::InvalidArgument);
        }
    };
    served_during(&cluster, TOPIC, attack).await;
    assert_grown(&cluster, before, SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decoded_at_once_has_a_budget() {
    let cluster = cluster().await;
    let channel = bare::connect(&cluster.node(1).addresses.public).await;
    let before = peak(&cluster);
    // Nearly as many as one request may have, and as fit into a batch: each costs a hundred times its bytes.
    let partition = raw::partition(TOPIC, 0).encode_to_vec();
    let mut message = bare::field(1, &partition);
    message.extend(bare::field(5, &bare::empties(1, 2 * 110_000)));
    let message = Bytes::from(message);
    let attack = async {
        let mut calls = JoinSet::new();
        for _ in 0..40 {
            let (channel, message) = (channel.clone(), message.clone());
            calls.spawn(async move { bare::ask(&channel, "LogService/Produce", message).await });
        }
        let mut taken = 0;
        while let Some(answered) = calls.join_next().await {
            match answered.expect("the call ends") {
                Ok(_) => taken += 1,
                Err(status) => assert!(
                    ["BROKER_BUSY", "PARTITION_BUSY"].contains(&&*raw::reason(&status)),
                    "{status:?}"
                ),
            }
        }
        assert!(taken > 0, "some of them are good");
    };
    served_during(&cluster, TOPIC, attack).await;
    assert_grown(&cluster, before, 2 * REQUESTS + SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_may_add_is_bounded_and_not_kept() {
    let cluster = cluster().await;
    let channel = bare::connect(&cluster.node(1).addresses.public).await;
    let before = peak(&cluster);
    let partition = raw::partition(TOPIC, 0);
    let with_unknown = |bytes: usize| {
        let mut message = bare::field(1, &partition.encode_to_vec());
        message.extend(bare::field(4, &raw::batch(None, &[b"small"])));
        message.extend(bare::field(15, &vec![0; bytes]));
        Bytes::from(message)
    };
    for _ in 0..60 {
        let refused = bare::ask(&channel, "LogService/Produce", with_unknown(15 * MIB)).await;
        raw::assert_refused(refused, "INVALID_REQUEST", &["LogService/Produce", "does not know"]);
    }
    // Unknown fields that are accepted are not kept with the records: the cache of recent entries would hold 60 MiB of them.
    let message = with_unknown(60_000);
    let mut calls = JoinSet::new();
    for _ in 0..1000 {
        let (channel, message) = (channel.clone(), message.clone());
        calls.spawn(async move { bare::ask(&channel, "LogService/Produce", message).await });
        if calls.len() == 50 {
            calls
                .join_next()
                .await
                .expect("there are calls")
                .expect("it ends")
                .expect("it is written");
        }
    }
    while let Some(answered) = calls.join_next().await {
        answered.expect("it ends").expect("it is written");
    }
    assert_grown(&cluster, before, SLACK_BYTES / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_on_a_stream_does_not_keep_its_message() {
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    let topic_id = cluster.partition(TOPIC, 0).await.topic_id;
    let topic_id = Bytes::copy_from_slice(topic_id.as_bytes());
    let before = peak(&cluster);
    let mut streams = Vec::new();
    for _ in 0..60 {
        let mut log = raw::log(&address).await;
        // Too large a batch, so that only its name could be kept.
        let request = ProduceStreamRequest {
            partition: Some(TopicPartition {
                topic_id: topic_id.clone(),
                ..TopicPartition::default()
            }),
            batch: Bytes::from(vec![0; 8 * MIB]),
            ..ProduceStreamRequest::default()
        };
        let answers = log.produce_stream(iter([request]).chain(pending())).await;
        let mut answers = answers.expect("it is opened").into_inner();
        answers
            .message()
            .await
            .expect("the stream goes on")
            .expect("it is answered");
        streams.push(answers);
    }
    assert_grown(&cluster, before, SLACK_BYTES);
}

fn large_fetch() -> Bytes {
    let request = FetchRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        max_bytes: u32::try_from(8 * MIB).expect("it is small"),
        ..FetchRequest::default()
    };
    Bytes::from(request.encode_to_vec())
}

/// Waits until the memory of all fetched records is free again.
async fn given_back(cluster: &Cluster) {
    eventually("what nobody reads is given back", WAIT, || async {
        (metric(cluster, r#"jangada_admission_held_bytes{resource="fetch"}"#).await == 0).then_some(())
    })
    .await;
    assert!(metric(cluster, "jangada_stalled_connections_total").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_hold_their_share_for_a_while() {
    let cluster = filled().await;
    let before = peak(&cluster);
    let channel = bare::connect(&cluster.node(1).addresses.public).await;
    let attack = async {
        let mut calls = JoinSet::new();
        for _ in 0..150 {
            let channel = channel.clone();
            calls.spawn(async move { bare::call(&channel, "LogService/Fetch", iter([large_fetch()])).await });
        }
        let mut unread: Vec<Streaming<Bytes>> = Vec::new();
        let mut refused = 0;
        while let Some(called) = calls.join_next().await {
            match called.expect("the call ends") {
                Ok(answer) => unread.push(answer),
                // The address's share is used up, or the connection is closed.
                Err(status) if raw::reason(&status) == "BROKER_BUSY" => {
                    raw::assert_refused(
                        Err::<(), _>(status),
                        "BROKER_BUSY",
                        &["this connection", "limits.fetch"],
                    );
                    refused += 1;
                }
                Err(_) => {}
            }
        }
        println!("{} answers that nobody reads, {refused} refused", unread.len());
        given_back(&cluster).await;
        unread
    };
    served_during(&cluster, TOPIC, attack).await;
    assert_grown(&cluster, before, FETCHES + SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_hold_their_share_for_a_while() {
    let cluster = filled().await;
    let before = peak(&cluster);
    let address = cluster.node(1).addresses.public.clone();
    let attack = async {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let channel = bare::connect(&address).await;
            for _ in 0..30 {
                let start = FetchStreamStart {
                    partition: Some(raw::partition(TOPIC, 0)),
                    max_bytes: u32::try_from(8 * MIB).expect("it is small"),
                    form: RecordForm::Raw.into(),
                    ..FetchStreamStart::default()
                };
                let start = FetchStreamRequest {
                    message: Some(Message::Start(start)),
                };
                let start = iter([Bytes::from(start.encode_to_vec())]).chain(pending());
                // The connection may be closed already.
                if let Ok(stream) = bare::call(&channel, "LogService/FetchStream", start).await {
                    streams.push(stream);
                }
            }
        }
        given_back(&cluster).await;
        streams
    };
    served_during(&cluster, TOPIC, attack).await;
    assert_grown(&cluster, before, FETCHES + SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_come_holds_its_share_for_a_while() {
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    let held = || metric(&cluster, r#"jangada_admission_held_bytes{resource="requests"}"#);
    let attack = async {
        let mut sockets = Vec::new();
        let length = u32::try_from(8 * MIB).expect("it is small");
        for _ in 0..20 {
            sockets.push(bare::begin(&address, "LogService/Produce", length).await);
        }
        eventually("messages that were announced have their room", WAIT, || async {
            (held().await > 8 * MIB as u64).then_some(())
        })
        .await;
        // Only the well-behaved call still holds something.
        eventually("their room is given back", WAIT, || async {
            (held().await < MIB as u64).then_some(())
        })
        .await;
        sockets
    };
    served_during(&cluster, TOPIC, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_batches_take_what_the_tail_counts() {
    let cluster = cluster().await;
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"first"]))
        .await
        .expect("it is written");
    let before = peak(&cluster);
    let mut calls = JoinSet::new();
    for number in 0..10_000u32 {
        let mut log = log.clone();
        calls.spawn(async move {
            let batch = raw::batch(None, &[&number.to_be_bytes()]);
            raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await
        });
        if calls.len() == 200 {
            calls
                .join_next()
                .await
                .expect("there are calls")
                .expect("it ends")
                .expect("it is written");
        }
    }
    while let Some(written) = calls.join_next().await {
        written.expect("it ends").expect("it is written");
    }
    // In buffers of their own they would be 80 MiB.
    assert_grown(&cluster, before, 48 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_beside_another_one_is_refused_and_not_kept() {
    let cluster = cluster().await;
    let channel = bare::connect(&cluster.node(1).addresses.public).await;
    let before = peak(&cluster);
    // Decoders keep the last of a oneof, here a batch that is kept in the buffer that it came in.
    let record = bare::field(2, &vec![0; 15 * MIB]);
    let mut message = bare::field(1, &raw::partition(TOPIC, 0).encode_to_vec());
    message.extend(bare::field(5, &bare::field(1, &record)));
    message.extend(bare::field(4, &raw::batch(None, &[&vec![b'x'; 140_000]])));
    let message = Bytes::from(message);
    let attack = async {
        for _ in 0..30 {
            let refused = bare::ask(&channel, "LogService/Produce", message.clone()).await;
            raw::assert_refused(refused, "INVALID_REQUEST", &["LogService/Produce", "oneof"]);
        }
    };
    served_during(&cluster, TOPIC, attack).await;
    assert_grown(&cluster, before, SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_health_and_reflection_are_bounded_too() {
    const METHODS: [&str; 3] = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch", REFLECTION];
    const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let cluster = cluster().await;
    let address = cluster.node(1).addresses.public.clone();
    let before = peak(&cluster);
    let held = || metric(&cluster, r#"jangada_admission_held_bytes{resource="requests"}"#);
    let attack = async {
        let channel = bare::connect(&address).await;
        let large = Bytes::from(vec![0; 4 * MIB - 8]);
        let mut calls = JoinSet::new();
        for number in 0..300 {
            let (channel, large) = (channel.clone(), large.clone());
            calls.spawn(async move {
                let method = METHODS[number % METHODS.len()];
                (method, bare::ask(&channel, method, large).await)
            });
        }
        while let Some(ended) = calls.join_next().await {
            let (method, answer) = ended.expect("the call ends");
            if method == REFLECTION {
                // It ends its stream without a word.
                answer.expect_err("it is refused");
            } else {
                raw::assert_refused(answer, "INVALID_REQUEST", &[method, "8192"]);
            }
        }
        // Messages that are short enough are counted while they are incomplete, and refused after a time.
        let mut sockets = Vec::new();
        for _ in 0..40 {
            sockets.push(bare::begin(&address, METHODS[0], 8000).await);
        }
        eventually("messages that were announced have their room", WAIT, || async {
            (held().await >= 40 * 8000).then_some(())
        })
        .await;
        eventually("their room is given back", WAIT, || async {
            (held().await < 8000).then_some(())
        })
        .await;
        sockets
    };
    served_during(&cluster, TOPIC, attack).await;
    assert_grown(&cluster, before, SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_on_a_produce_stream_that_nobody_reads_are_bounded() {
    const PARTITIONS: u32 = 100;
    const EACH: usize = 200_000;
    let cluster = cluster().await;
    cluster.create_topic("wide", PARTITIONS, 1).await;
    let before = peak(&cluster);
    let address = cluster.node(1).addresses.public.clone();
    let sent = Arc::new(AtomicUsize::new(0));
    let attack = async {
        let channel = bare::connect(&address).await;
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let (channel, sent) = (channel.clone(), sent.clone());
            // Too short for a batch: refused, in an answer of some hundred bytes.
            let requests = iter(0..EACH).map(move |number| {
                sent.fetch_add(1, Relaxed);
                let partition = u32::try_from(number).expect("it is small") % PARTITIONS;
                let request = ProduceStreamRequest {
                    partition: Some(raw::partition("wide", partition)),
                    batch: Bytes::from_static(b"x"),
                    ..ProduceStreamRequest::default()
                };
                Bytes::from(request.encode_to_vec())
            });
            let requests = requests.chain(pending());
            calls.spawn(async move { bare::call(&channel, "LogService/ProduceStream", requests).await });
        }
        let mut unread = Vec::new();
        while let Some(called) = calls.join_next().await {
            unread.push(called.expect("the call ends"));
        }
        eventually("nobody reads, and the connection is closed", WAIT, || async {
            (metric(&cluster, "jangada_stalled_connections_total").await > 0).then_some(())
        })
        .await;
        eventually("what nobody reads is given back", WAIT, || async {
            (metric(&cluster, r#"jangada_admission_held_bytes{resource="answers"}"#).await < 65_536).then_some(())
        })
        .await;
        unread
    };
    served_during(&cluster, TOPIC, attack).await;
    println!("{} requests were sent", sent.load(Relaxed));
    assert_grown(&cluster, before, SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_streams_that_wait_keep_nothing_of_what_they_had() {
    let cluster = filled().await;
    let before = peak(&cluster);
    let mut idle = Vec::new();
    for _ in 0..40 {
        let mut log = raw::log(&cluster.node(1).addresses.public).await;
        let start = FetchStreamStart {
            partition: Some(raw::partition(TOPIC, 0)),
            max_bytes: u32::try_from(8 * MIB).expect("it is small"),
            form: RecordForm::Raw.into(),
            // For one response.
            credit_bytes: 1,
            ..FetchStreamStart::default()
        };
        let start = FetchStreamRequest {
            message: Some(Message::Start(start)),
        };
        let stream = log.fetch_stream(iter([start]).chain(pending())).await;
        let mut stream = stream.expect("it is opened").into_inner();
        let response = stream
            .message()
            .await
            .expect("the stream goes on")
            .expect("it is pushed");
        let batches = response.fetch.expect("it has what was fetched").batches;
        assert!(batches.len() > 6 * MIB, "{} bytes", batches.len());
        idle.push(stream);
    }
    assert_grown(&cluster, before, FETCHES + SLACK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_ask_for_all_partitions_get_one_answer() {
    const PARTITIONS: u32 = 60;
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    cluster.healthy().await;
    // None is wholly in sync any more, so each look waits.
    cluster.kill(3);
    let mut admin = bare::connect_with_room(&cluster.node(1).addresses.public).await;
    eventually("the others lead all partitions", WAIT, || async {
        let described = bare::ask(&admin, "AdminService/DescribePartitions", Bytes::new())
            .await
            .ok()?;
        let described = DescribePartitionsResponse::decode(described).expect("it is an answer");
        let led = described
            .partitions
            .iter()
            .all(|state| [1, 2].contains(&state.leader_id));
        led.then_some(())
    })
    .await;
    let (memory, cpu) = (peak(&cluster), cluster.node(1).cpu());
    let mut calls = JoinSet::new();
    for number in 0..1500 {
        if number % 500 == 0 {
            admin = bare::connect_with_room(&cluster.node(1).addresses.public).await;
        }
        let channel = admin.clone();
        let method = ["DescribePartitions", "DescribeCluster"][number % 2];
        calls.spawn(async move { bare::ask(&channel, &format!("AdminService/{method}"), Bytes::new()).await });
    }
    while let Some(answered) = calls.join_next().await {
        // Those that wait for their answers to be taken have their share of the room.
        if let Err(status) = answered.expect("the call ends") {
            assert_eq!(raw::reason(&status), "BROKER_BUSY", "{status:?}");
        }
    }
    println!("{:?} of CPU", cluster.node(1).cpu().saturating_sub(cpu));
    assert_grown(&cluster, memory, SLACK_BYTES);
}
