//! The internal port checks what it is told: impossible numbers stop no group, whoever sends them; strangers are
//! refused, and a broker that joined by mistake can be taken out again.

use std::time::Instant;

use bytes::Bytes;
use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{
    AppendEntries, Entry, Frame, GroupLeader, Hello, JoinRequest, LeaderAnnouncement, LogId, Member, Message,
    ProposeMetadataRequest, Refused, SnapshotChunk, SnapshotHeader, TransferLeader, Vote, VoteRequest,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_stream::{StreamExt as _, iter};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Cluster, Load, WAIT, bare, raw};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 2;
/// The groups of the metadata and of the partitions.
const GROUPS: [u64; 3] = [0, 1, 2];
/// Number of messages of one flood.
const FLOOD: usize = 20_000;

async fn internal(cluster: &Cluster, id: u32) -> InternalServiceClient<Channel> {
    let address = format!("http://{}", cluster.node(id).addresses.internal);
    InternalServiceClient::connect(address).await.expect("it listens")
}

fn hello(cluster_id: &str, from: u32, to: u32) -> Hello {
    Hello {
        cluster_id: cluster_id.to_owned(),
        broker_id: from,
        incarnation: 1,
        to_broker_id: to,
        protocol_min: 1,
        protocol_max: 1,
        feature_level: 5,
        past: None,
    }
}

/// Messages as of broker `from` that would stop a group for good if it believed them.
fn lies(from: u32) -> Vec<Body> {
    let mut lies = Vec::new();
    for term in [u64::MAX, u64::MAX - 1, 1 << 62, (1 << 31) - 1, 1 << 31] {
        let vote = |committed| Vote {
            term,
            broker_id: from,
            incarnation: 1,
            committed,
        };
        let last = Some(LogId { term, index: u64::MAX });
        let request = VoteRequest {
            vote: Some(vote(false)),
            last_log_id: last,
            leadership_transfer: true,
        };
        let append = |prev_log_id, entries| AppendEntries {
            vote: Some(vote(true)),
            prev_log_id,
            leader_commit: last,
            entries,
        };
        let entry = |index| Entry {
            term,
            index,
            head: Bytes::from_static(&[1, 1, 99]),
            body: Bytes::from_static(b"what no version knows"),
        };
        lies.extend([
            Body::Vote(request),
            Body::PreVote(request),
            Body::Append(append(None, Vec::new())),
            Body::Append(append(last, vec![entry(0)])),
            Body::Append(append(None, vec![entry(0), entry(5)])),
            Body::TransferLeader(TransferLeader {
                from_leader: Some(vote(true)),
                to_broker_id: from % 3 + 1,
                to_incarnation: 1,
                last_log_id: last,
            }),
            Body::Leaders(LeaderAnnouncement {
                leaders: GROUPS
                    .map(|group_id| GroupLeader {
                        group_id,
                        term,
                        leading: true,
                    })
                    .into(),
                ..LeaderAnnouncement::default()
            }),
        ]);
    }
    // A believable term with what cannot be applied, or with another's vote.
    let vote = |broker_id| Vote {
        term: 1000,
        broker_id,
        incarnation: 1,
        committed: true,
    };
    let of_the_receiver = AppendEntries {
        vote: Some(vote(from % 3 + 1)),
        ..AppendEntries::default()
    };
    lies.push(Body::Append(of_the_receiver));
    lies
}

/// Sends all of them on both connections, and returns when they are answered.
async fn lie(cluster: &Cluster, cluster_id: &str, from: u32, to: u32) {
    let mut broker = internal(cluster, to).await;
    let messages = |call: u64, body: &Body| {
        let of = move |group_id| Message {
            group_id,
            to_incarnation: 1,
            call_id: call + group_id,
            body: Some(body.clone()),
        };
        GROUPS.map(of)
    };
    let all: Vec<Message> = (1000..)
        .step_by(10)
        .zip(&lies(from))
        .flat_map(|(call, body)| messages(call, body))
        .collect();
    let expected = all
        .iter()
        .filter(|message| !matches!(message.body, Some(Body::Leaders(_))))
        .count();
    let frame = |messages| Frame {
        hello: Some(hello(cluster_id, from, to)),
        messages,
    };
    // The stream stays open until all is answered.
    let requests = |messages| iter([frame(messages)]).chain(tokio_stream::pending());
    let mut answers = broker
        .control(requests(all.clone()))
        .await
        .expect("it passes for a broker")
        .into_inner();
    let mut answered = 0;
    while answered < expected {
        let next = tokio::time::timeout(WAIT, answers.next())
            .await
            .expect("all is answered");
        let frame = next.expect("the connection stays").expect("it is sound");
        for message in frame.messages {
            match message.body {
                Some(Body::Refused(Refused { reason })) => {
                    assert!(!reason.contains("stopped"), "{reason}");
                    answered += 1;
                }
                // How far the broker's commits are.
                Some(Body::Commits(_)) => {}
                other => panic!("a lie was believed: {other:?}"),
            }
        }
    }
    let appends: Vec<Message> = all
        .into_iter()
        .filter(|message| matches!(message.body, Some(Body::Append(_))))
        .collect();
    let expected = appends.len();
    let mut answers = broker
        .bulk(requests(appends))
        .await
        .expect("it passes for a broker")
        .into_inner();
    let mut answered = 0;
    while answered < expected {
        let next = tokio::time::timeout(WAIT, answers.next())
            .await
            .expect("all is answered");
        for message in next.expect("the connection stays").expect("it is sound").messages {
            assert!(
                matches!(message.body, Some(Body::Refused(_))),
                "a lie was believed: {message:?}"
            );
            answered += 1;
        }
    }
    snapshots(&mut broker, hello(cluster_id, from, to)).await;
    let propose = ProposeMetadataRequest {
        hello: Some(hello(cluster_id, from, to)),
        command: Bytes::from_static(&[1, 99, 1, 2, 3]),
        forwarded: true,
    };
    refused(broker.propose_metadata(propose).await, "metadata command");
}

async fn snapshots(broker: &mut InternalServiceClient<Channel>, hello: Hello) {
    for (term, index) in [(u64::MAX, 7), (1, u64::MAX), (1, 1 << 50)] {
        let id = Some(LogId { term, index });
        let header = SnapshotHeader {
            group_id: 1,
            to_incarnation: 1,
            vote: Some(Vote {
                term,
                broker_id: hello.broker_id,
                incarnation: 1,
                committed: true,
            }),
            last_log_id: id,
            membership: Bytes::from_static(&[1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
            membership_log_id: id,
            size_bytes: 0,
            ..SnapshotHeader::default()
        };
        let chunk = SnapshotChunk {
            hello: Some(hello.clone()),
            header: Some(header),
            ..SnapshotChunk::default()
        };
        let answer = broker.install_snapshot(iter([chunk])).await;
        let status = answer.expect_err("no such snapshot can be");
        assert!(status.message().contains("implausible"), "{status:?}");
    }
}

#[track_caller]
fn refused<T>(answer: Result<T, Status>, part: &str) {
    let Err(status) = answer else {
        panic!("not refused, though: {part}")
    };
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains(part), "{status:?}");
}

/// Sends calls without end on one connection, and reads no answer.
async fn flood(cluster: &Cluster, cluster_id: &str, from: u32, to: u32) {
    let message = |call_id| Message {
        group_id: call_id % 3,
        to_incarnation: 1,
        call_id,
        body: Some(Body::PreVote(VoteRequest::default())),
    };
    let messages: Vec<Message> = (0..).map(message).take(FLOOD).collect();
    let hello = hello(cluster_id, from, to);
    let frames = messages.chunks(1000).map(move |messages| Frame {
        hello: Some(hello.clone()),
        messages: messages.to_vec(),
    });
    let frames: Vec<Frame> = frames.collect();
    let mut broker = internal(cluster, to).await;
    // Whether it is answered, and how far, does not matter: it must not hurt.
    let _ = tokio::time::timeout(WAIT, broker.control(iter(frames))).await;
}

async fn metrics(cluster: &Cluster, id: u32) -> String {
    let address = &cluster.node(id).addresses.http;
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

fn counted(metrics: &str, cause: &str) -> u64 {
    let start = format!("jangada_internal_rejections_total{{cause=\"{cause}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("no {start} in:\n{metrics}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_term_and_other_lies_stop_nothing_not_even_after_a_restart() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let cluster_id = cluster.client().await.cluster_id();
    let load = Load::start(&cluster, TOPIC, PARTITIONS, 1000, 1024).await;
    let takes_writes = async |load: &Load| {
        let now = Instant::now();
        for partition in 0..PARTITIONS {
            load.takes_writes(partition, now).await;
        }
    };
    takes_writes(&load).await;
    for to in cluster.ids() {
        let from = to % 3 + 1;
        lie(&cluster, &cluster_id, from, to).await;
        flood(&cluster, &cluster_id, from, to).await;
    }
    takes_writes(&load).await;
    for id in cluster.ids() {
        let metrics = metrics(&cluster, id).await;
        for cause in ["term", "sender", "snapshot", "command"] {
            assert!(counted(&metrics, cause) > 0, "node {id}: {cause}:\n{metrics}");
        }
    }
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    takes_writes(&load).await;
    let ran = load.finish(&cluster).await;
    ran.check();
    for id in cluster.ids() {
        let log = cluster.node(id).log();
        for wrong in ["panicked", "has stopped by itself"] {
            assert!(
                !log.contains(wrong),
                "node {id}: {wrong}:\n{}",
                cluster.node(id).log_tail()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused_and_one_that_joined_is_taken_out() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let cluster_id = cluster.client().await.cluster_id();
    let mut broker = internal(&cluster, 1).await;
    let control = |from| {
        iter([Frame {
            hello: Some(hello(&cluster_id, from, 1)),
            messages: Vec::new(),
        }])
    };
    refused(broker.control(control(77)).await, "UNKNOWN_BROKER");
    refused(broker.bulk(control(77)).await, "UNKNOWN_BROKER");
    let join = |directory| JoinRequest {
        member: Some(Member {
            broker_id: 77,
            internal_address: "127.0.0.1:1".to_owned(),
            address: "127.0.0.1:2".to_owned(),
            directory_id: vec![directory; 16].into(),
            feature_level: jangada_types::FEATURE_LEVEL,
            ..Member::default()
        }),
        protocol_min: 1,
        protocol_max: 1,
        ..JoinRequest::default()
    };
    let long = JoinRequest {
        member: Some(Member {
            rack: "r".repeat(1 << 20),
            ..join(77).member.expect("it is given")
        }),
        ..join(77)
    };
    let status = broker.join(long).await.expect_err("a rack of a MiB");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    broker
        .join(join(77))
        .await
        .expect("without certificates whoever asks joins");
    let stranger = broker.control(control(77)).await.expect("it is a broker now");

    let info = cluster.cli(&["cluster", "info"]).await.expect(0).text();
    assert!(info.contains("77"), "{info}");
    cluster
        .cli(&["cluster", "remove-broker", "77"])
        .await
        .expect(2)
        .names(&["--yes"]);
    let remove = ["cluster", "remove-broker", "77", "--yes"];
    cluster.cli(&remove).await.expect(0).names(&["77", "taken out"]);
    cluster.cli(&remove).await.expect(0);
    cluster.healthy().await;
    // The connection that it had ends when it says something more, a new one is refused, and so is its return.
    drop(stranger);
    refused(broker.control(control(77)).await, "was taken out of the cluster");
    refused(broker.join(join(77)).await, "was taken out of the cluster");
    let kept = ["cluster", "remove-broker", "1", "--yes"];
    cluster
        .cli(&kept)
        .await
        .expect(1)
        .names(&["has a replica of partition", TOPIC]);
    let unknown = ["cluster", "remove-broker", "9", "--yes"];
    cluster.cli(&unknown).await.expect(1).names(&["there is no broker 9"]);
    // Under its id another one may come.
    broker.join(join(78)).await.expect("an empty directory");
    cluster.cli(&remove).await.expect(0);
    cluster.healthy().await;
}

/// Sends as much of a message as a stream's window takes, and not its end.
async fn send_half(address: &str, message: &[u8]) -> TcpStream {
    const FRAME_BYTES: usize = 16_384;
    const ACKNOWLEDGED: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    let length = u32::try_from(message.len()).expect("it is small");
    let method = "jangada.internal.v1.InternalService/InstallSnapshot";
    let mut socket = bare::begin(address, method, length).await;
    // The node's settings: only then its windows are open.
    let mut settings = [0; 9];
    socket.read_exact(&mut settings).await.expect("it answers");
    let mut frames = ACKNOWLEDGED.to_vec();
    for content in message[..15 << 20].chunks(FRAME_BYTES) {
        let length = u32::try_from(content.len()).expect("a frame is short");
        frames.extend_from_slice(&length.to_be_bytes()[1..]);
        frames.extend_from_slice(&[0, 0, 0, 0, 0, 1]);
        frames.extend_from_slice(content);
    }
    // It may be refused before all of it is there.
    let _ = tokio::time::timeout(WAIT, socket.write_all(&frames)).await;
    socket
}

/// Any client that reaches the port can send this, without identifying itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_room_in_windows_is_bounded_over_all_connections() {
    const MIB: usize = 1 << 20;
    const CONNECTIONS: usize = 60;
    /// Three quarters of the room for what is received, and of that for what waits; and what the allocator keeps.
    const GROWTH_BYTES: usize = (192 + 192 + 96) * MIB;
    let cluster = Cluster::start_alone(1).await;
    let node = cluster.node(1);
    let before = node.memory("VmHWM");
    let address = node.addresses.internal.to_string();
    let message = bare::field(3, &vec![0; 31 * MIB]);
    let mut sockets = Vec::new();
    for _ in 0..CONNECTIONS {
        sockets.push(send_half(&address, &message).await);
    }
    let grown = node.memory("VmHWM").saturating_sub(before);
    println!("{} MiB more beside {CONNECTIONS} connections", grown / MIB);
    assert!(grown <= GROWTH_BYTES, "{} MiB more", grown / MIB);
    drop(sockets);
    cluster.healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_message_becomes_is_bounded_before_it_is_decoded() {
    const MIB: usize = 1 << 20;
    /// A few messages as they came.
    const GROWTH_BYTES: usize = 160 * MIB;
    let cluster = Cluster::start_alone(1).await;
    let node = cluster.node(1);
    let channel = bare::connect(&node.addresses.internal.to_string()).await;
    let before = node.memory("VmHWM");
    let of = |bytes| bare::empties(2, bytes);
    let entries = bare::field(2, &bare::field(4, &bare::empties(4, 30 * MIB)));
    let leaders = bare::field(2, &bare::field(13, &bare::empties(1, 30 * MIB)));
    let attacks = [
        ("Control", of(30 * MIB)),
        ("Bulk", of(30 * MIB)),
        ("Bulk", entries),
        ("Control", leaders),
        ("Probe", bare::empties(1, 4 * MIB)),
        ("Adopt", bare::empties(3, 4 * MIB)),
    ];
    for (method, message) in attacks {
        let path = format!("jangada.internal.v1.InternalService/{method}");
        let answer = bare::ask(&channel, &path, message.into()).await;
        let status = raw::assert_refused(answer, "INVALID_REQUEST", &[method, "131072 elements"]);
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let grown = node.memory("VmHWM").saturating_sub(before);
    assert!(grown <= GROWTH_BYTES, "{} MiB more", grown / MIB);
    cluster.healthy().await;
}
