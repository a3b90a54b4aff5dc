//! Clients that cannot follow leaders: they talk to one broker, which passes their calls on to those that lead and coordinate.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::fetch_stream_request::Message;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::list_offsets_request::Position;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::*;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::groups::{GROUP, SESSION, topic_id};
use crate::harness::groups::offsets;
use crate::harness::{Cluster, History, Outcome, Scrape, Value, WAIT, eventually, raw};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 6;
/// The broker that all clients here talk to, and no other.
const ENTRANCE: u32 = 1;
/// Longer than an election, shorter than what a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// Wishes that calls are passed on.
#[derive(Clone, Copy)]
pub(super) struct PassOn;

impl Interceptor for PassOn {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("jangada-route", "pass-on".parse().expect("a value"));
        request.set_timeout(CALL_TIMEOUT);
        Ok(request)
    }
}

pub(super) type Wishful = InterceptedService<Channel, PassOn>;

async fn channel(cluster: &Cluster) -> Channel {
    let address = &cluster.node(ENTRANCE).addresses.public;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

async fn log(cluster: &Cluster) -> LogServiceClient<Wishful> {
    LogServiceClient::with_interceptor(channel(cluster).await, PassOn)
}

async fn groups(cluster: &Cluster) -> GroupServiceClient<Wishful> {
    GroupServiceClient::with_interceptor(channel(cluster).await, PassOn)
}

/// A partition that another broker than the entrance leads.
async fn led_elsewhere(cluster: &Cluster) -> u32 {
    for partition in 0..PARTITIONS {
        if cluster.leader(TOPIC, partition).await != ENTRANCE {
            return partition;
        }
    }
    panic!("the entrance leads all partitions");
}

fn produce(partition: u32, batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        partition: Some(raw::partition(TOPIC, partition)),
        payload: Some(Payload::Batch(batch)),
        ..ProduceRequest::default()
    }
}

fn fetch(partition: u32, offset: i64) -> FetchRequest {
    FetchRequest {
        partition: Some(raw::partition(TOPIC, partition)),
        offset,
        ..FetchRequest::default()
    }
}

/// Offsets and values of raw batches.
fn records(batches: Bytes) -> Vec<(i64, Bytes)> {
    let mut all = Vec::new();
    for batch in BatchIter::new(batches) {
        let (_, batch) = batch.expect("whole batches");
        for record in Records::new(&batch, DECOMPRESSED_BYTES_MAX).expect("a batch of records") {
            let record = record.expect("a record");
            all.push((record.offset.get(), record.value.expect("it has a value")));
        }
    }
    all
}

/// How many calls of fetches the entrance has passed on: one that waits does so in a call of its own, which counts when it ends.
async fn passed_fetches(cluster: &Cluster) -> f64 {
    let scraped = Scrape::of(cluster, ENTRANCE).await;
    scraped.value("jangada_passed_on_total", &[("method", "LogService/Fetch")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_one_broker_writes_and_reads_what_others_lead() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let there = led_elsewhere(&cluster).await;
    // Who follows leaders is told who leads, as ever.
    let mut following = raw::log(&cluster.node(ENTRANCE).addresses.public).await;
    let refused = raw::produce(&mut following, raw::partition(TOPIC, there), raw::batch(None, &[b"no"])).await;
    let refused = raw::assert_refused(refused, "NOT_LEADER", &[TOPIC]);
    assert!(raw::detail(&refused, "leader_address").is_some());

    let mut log = log(&cluster).await;
    for partition in 0..PARTITIONS {
        let written = log.produce(produce(partition, raw::batch(None, &[b"a", b"b"]))).await;
        let written = written.expect("it is passed on").into_inner();
        assert_eq!(
            (written.base_offset, written.last_offset),
            (0, 1),
            "partition {partition}"
        );
        let read = log
            .fetch(fetch(partition, 0))
            .await
            .expect("it is passed on")
            .into_inner();
        let values = records(read.batches.clone());
        assert_eq!(values, [(0, Bytes::from("a")), (1, Bytes::from("b"))]);
        assert_eq!((read.next_offset, read.high_watermark), (2, 2));
        let request = ListOffsetsRequest {
            partition: Some(raw::partition(TOPIC, partition)),
            position: Some(Position::Latest(true)),
            ..Default::default()
        };
        let end = log.list_offsets(request).await.expect("it is passed on").into_inner();
        assert_eq!(end.offset, 2);
    }
    // Records in the plain form, there and back.
    let plain = ProduceRequest {
        payload: Some(Payload::Records(PlainRecords {
            records: vec![Record {
                value: Some(Bytes::from("plain")),
                ..Record::default()
            }],
            ..PlainRecords::default()
        })),
        ..produce(there, Bytes::new())
    };
    let written = log.produce(plain).await.expect("it is passed on").into_inner();
    assert_eq!(written.base_offset, 2);
    let asked = FetchRequest {
        form: RecordForm::Plain.into(),
        ..fetch(there, 2)
    };
    let read = log.fetch(asked).await.expect("it is passed on").into_inner();
    assert_eq!(read.records.len(), 1);
    assert_eq!(read.records[0].value, Some(Bytes::from("plain")));
    // What the leader refuses is refused in its words.
    let refused = log.fetch(fetch(there, 77)).await;
    let refused = raw::assert_refused(refused, "OFFSET_OUT_OF_RANGE", &[TOPIC]);
    assert_eq!(raw::detail(&refused, "definite").as_deref(), Some("true"));
    let conditional = ProduceRequest {
        expected_end_offset: Some(1),
        ..produce(there, raw::batch(None, &[b"late"]))
    };
    raw::assert_refused(log.produce(conditional).await, "CONDITION_FAILED", &[]);

    // A fetch that waits is answered when there is something, and not before.
    let before = passed_fetches(&cluster).await;
    let waiting = tokio::spawn({
        let mut log = log.clone();
        let asked = FetchRequest {
            max_wait_ms: 7_000,
            ..fetch(there, 3)
        };
        async move { log.fetch(asked).await }
    });
    eventually("the fetch has found nothing", WAIT, || async {
        (passed_fetches(&cluster).await > before).then_some(())
    })
    .await;
    assert!(!waiting.is_finished(), "it waits");
    log.produce(produce(there, raw::batch(None, &[b"awaited"])))
        .await
        .expect("it is passed on");
    let read = waiting.await.expect("it ends").expect("it is answered").into_inner();
    assert_eq!(records(read.batches), [(3, Bytes::from("awaited"))]);
    let empty = FetchRequest {
        max_wait_ms: 200,
        ..fetch(there, 4)
    };
    let began = Instant::now();
    let read = log.fetch(empty).await.expect("it is answered").into_inner();
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!((read.batches.len(), read.next_offset), (0, 4));

    // A client that gives its call up takes it back where it waits.
    let leader = cluster.leader(TOPIC, there).await;
    let cancelled = [("method", "LogService/Fetch"), ("outcome", "CANCELLED")];
    eventually("the leader does not wait for a client that is gone", WAIT, || async {
        let asked = FetchRequest {
            max_wait_ms: 7_000,
            ..fetch(there, 4)
        };
        let mut given_up = log.clone();
        let answer = tokio::time::timeout(Duration::from_millis(300), given_up.fetch(asked)).await;
        assert!(answer.is_err(), "there was nothing to fetch: {answer:?}");
        let scraped = Scrape::of(&cluster, leader).await;
        scraped.sum("jangada_passed_requests_total", &cancelled).map(drop)
    })
    .await;

    // A stream of records goes through the entrance, too; one of batches does not.
    let start = FetchStreamRequest {
        message: Some(Message::Start(FetchStreamStart {
            partition: Some(raw::partition(TOPIC, there)),
            ..FetchStreamStart::default()
        })),
    };
    let pushed = log.fetch_stream(iter([start]).chain(pending())).await;
    let mut pushed = pushed.expect("it is opened").into_inner();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let next = tokio::time::timeout(WAIT, pushed.message()).await.expect("it goes on");
        let next = next.expect("no error").expect("no end").fetch.expect("it has records");
        seen.extend(records(next.batches).into_iter().map(|(offset, _)| offset));
    }
    assert_eq!(seen, [0, 1, 2, 3]);
    let refused = log
        .produce_stream(iter(Vec::<ProduceStreamRequest>::new()))
        .await
        .map(drop);
    raw::assert_refused(refused, "INVALID_REQUEST", &["produce stream"]);

    // Each is counted once where it came in, and once where it was answered.
    let entrance = Scrape::of(&cluster, ENTRANCE).await;
    let produced = [("method", "LogService/Produce"), ("outcome", "OK")];
    assert_eq!(
        entrance.value("jangada_requests_total", &produced),
        f64::from(PARTITIONS) + 2.0
    );
    let passed_on = entrance.value("jangada_passed_on_total", &produced);
    let mut answered = 0.0;
    for id in cluster.ids() {
        let scraped = Scrape::of(&cluster, id).await;
        answered += scraped.value("jangada_passed_requests_total", &produced);
        let count = scraped.sum("jangada_passed_request_duration_seconds_count", &produced[..1]);
        assert_eq!(count.is_some(), id != ENTRANCE, "node {id}: {count:?}");
    }
    assert!(passed_on > 0.0 && passed_on == answered, "{passed_on} and {answered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_one_broker_takes_part_in_a_group_that_another_coordinates() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let mut groups = groups(&cluster).await;
    let mut elsewhere = None;
    for n in 0.. {
        let group = format!("{GROUP}-{n}");
        let found = groups
            .find_coordinator(FindCoordinatorRequest { group: group.clone() })
            .await;
        if found.expect("there is one").into_inner().broker_id != ENTRANCE {
            elsewhere = Some(group);
            break;
        }
    }
    let group = elsewhere.expect("shards are spread");
    let mut following = GroupServiceClient::new(channel(&cluster).await);
    let join = HeartbeatRequest {
        group: group.clone(),
        member_id: "member-1".to_owned(),
        client_id: "a plain client".to_owned(),
        session_timeout_ms: SESSION.as_millis() as u32,
        rebalance_timeout_ms: SESSION.as_millis() as u32,
        owned: Some(PartitionSet::default()),
        subscription: Some(Subscription {
            topics: vec![TOPIC.to_owned()],
            pattern: String::new(),
        }),
        ..HeartbeatRequest::default()
    };
    raw::assert_refused(following.heartbeat(join.clone()).await, "NOT_LEADER", &[]);

    let mut member = groups
        .heartbeat(join.clone())
        .await
        .expect("it is passed on")
        .into_inner();
    let deadline = Instant::now() + WAIT;
    let owned = loop {
        assert!(Instant::now() < deadline, "it got nothing: {member:?}");
        if let Some(assigned) = &member.assignment {
            let all = assigned
                .topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().copied());
            let all: BTreeSet<u32> = all.collect();
            if all.len() == PARTITIONS as usize {
                break assigned.clone();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let beat = HeartbeatRequest {
            group: group.clone(),
            member_id: "member-1".to_owned(),
            member_epoch: member.member_epoch,
            ..HeartbeatRequest::default()
        };
        member = groups.heartbeat(beat).await.expect("it is passed on").into_inner();
    };
    assert_eq!(owned.topics[0].topic, TOPIC);
    let commit = CommitOffsetsRequest {
        group: group.clone(),
        member_id: "member-1".to_owned(),
        member_epoch: member.member_epoch,
        offsets: offsets(&topic, [(0, 5), (3, 7)]),
        ..Default::default()
    };
    groups.commit_offsets(commit.clone()).await.expect("it is passed on");
    let stale = CommitOffsetsRequest {
        member_epoch: member.member_epoch + 5,
        ..commit
    };
    raw::assert_refused(groups.commit_offsets(stale).await, "STALE_MEMBER_EPOCH", &[]);
    let asked = FetchOffsetsRequest {
        group: group.clone(),
        partitions: vec![raw::partition(TOPIC, 3), raw::partition(TOPIC, 1)],
        ..Default::default()
    };
    let committed = groups.fetch_offsets(asked).await.expect("it is passed on").into_inner();
    let committed: Vec<i64> = committed.offsets.iter().map(|offset| offset.offset).collect();
    assert_eq!(committed, [7, -1]);
    let described = groups
        .describe_group(DescribeGroupRequest { group: group.clone() })
        .await;
    let described = described.expect("it is passed on").into_inner();
    assert_ne!(described.coordinator_id, ENTRANCE);
    assert_eq!(described.members.len(), 1);
    let shown = &described.members[0];
    assert_eq!(
        (&*shown.client_id, &*shown.client_host),
        ("a plain client", "127.0.0.1")
    );

    let leave = HeartbeatRequest {
        group: group.clone(),
        member_id: "member-1".to_owned(),
        member_epoch: -1,
        ..HeartbeatRequest::default()
    };
    let left = groups.heartbeat(leave).await.expect("it is passed on").into_inner();
    assert_eq!(left, HeartbeatResponse::default());
    let deleted = groups
        .delete_offsets(DeleteOffsetsRequest {
            group: group.clone(),
            partitions: vec![raw::partition(TOPIC, 3)],
        })
        .await;
    assert_eq!(deleted.expect("it is passed on").into_inner().deleted, 1);
    let deleted = groups.delete_group(DeleteGroupRequest { group: group.clone() }).await;
    assert_eq!(deleted.expect("it is passed on").into_inner().deleted, 1);
    raw::assert_refused(
        groups.describe_group(DescribeGroupRequest { group }).await,
        "UNKNOWN_GROUP",
        &[],
    );
}

/// What a call through the entrance may be told while leaders die.
const TOLD: [&str; 4] = ["NOT_LEADER", "LEADER_NOT_AVAILABLE", "QUORUM_TIMEOUT", "BROKER_BUSY"];

/// Writes values one after the other through the entrance until told to stop: none is sent twice, so that what an error says of its
/// outcome can be held against what is there.
async fn write(
    mut log: LogServiceClient<Wishful>,
    partition: u32,
    stop: tokio::sync::watch::Receiver<bool>,
) -> (History, usize) {
    let (mut history, mut refused) = (History::default(), 0);
    let mut number = 0;
    while !*stop.borrow() {
        let value = Value {
            writer: partition,
            number,
        };
        number += 1;
        let written = log
            .produce(produce(partition, raw::batch(None, &[value.text().as_bytes()])))
            .await;
        let outcome = match written {
            Ok(written) => Outcome::Acknowledged(written.into_inner().base_offset),
            Err(status) if raw::reason(&status).is_empty() => {
                // The client's own time was over first.
                let of_time = [Code::Cancelled, Code::DeadlineExceeded];
                assert!(of_time.contains(&status.code()), "partition {partition}: {status:?}");
                Outcome::Unknown
            }
            Err(status) => {
                assert!(
                    TOLD.contains(&&*raw::reason(&status)),
                    "partition {partition}: {status:?}"
                );
                refused += 1;
                match raw::detail(&status, "definite").as_deref() {
                    Some("true") => Outcome::Refused,
                    Some("false") => Outcome::Unknown,
                    other => panic!("definite is {other:?}: {status:?}"),
                }
            }
        };
        history.sent(value, outcome);
        if outcome == Outcome::Refused {
            // As the error says: a new leader takes a moment.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    (history, refused)
}

/// The records of a partition, read through the entrance.
async fn read(log: &mut LogServiceClient<Wishful>, partition: u32, history: &mut History) {
    let mut offset = 0;
    loop {
        let read = log
            .fetch(fetch(partition, offset))
            .await
            .expect("it is passed on")
            .into_inner();
        for (at, value) in records(read.batches) {
            history.found(at, Value::parse(&value).expect("a value of ours"));
        }
        if read.next_offset == read.high_watermark {
            return;
        }
        offset = read.next_offset;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_behind_the_entrance_and_each_outcome_is_as_it_was_told() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = Vec::new();
    for partition in 0..PARTITIONS {
        let log = log(&cluster).await;
        writers.push(tokio::spawn(write(log, partition, stopped.clone())));
    }
    for victim in [2, 3, 2, 3] {
        for partition in 0..PARTITIONS {
            let had = cluster.high_watermark(TOPIC, partition).await;
            cluster.grown(TOPIC, partition, had + 20).await;
        }
        cluster.kill(victim);
        for partition in 0..PARTITIONS {
            let had = cluster.high_watermark(TOPIC, partition).await;
            cluster.grown(TOPIC, partition, had + 20).await;
        }
        cluster.restart(victim);
        cluster.healthy().await;
    }
    stop.send(true).expect("the writers go on");
    let mut log = log(&cluster).await;
    let (mut acknowledged, mut refused_in_all) = (0, 0);
    for (partition, writer) in (0..).zip(writers) {
        let (mut history, refused) = tokio::time::timeout(WAIT, writer)
            .await
            .expect("it ends")
            .expect("it writes");
        read(&mut log, partition, &mut history).await;
        let faults = history.check();
        assert!(faults.is_empty(), "partition {partition}: {faults:#?}");
        acknowledged += history.acknowledged();
        refused_in_all += refused;
    }
    println!("{acknowledged} records acknowledged, {refused_in_all} calls refused");
    assert!(refused_in_all > 0, "no call met a dead leader: nothing was shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_of_one_broker_sends_again_and_nothing_is_there_twice() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;
    let partition = led_elsewhere(&cluster).await;
    let mut log = log(&cluster).await;
    let given = log.init_producer(InitProducerRequest::default()).await;
    let given = given.expect("any broker gives one").into_inner();
    let mut history = History::default();
    let mut unknown = 0;
    for number in 0..300u64 {
        if number % 100 == 50 {
            let leader = cluster.leader(TOPIC, partition).await;
            if leader != ENTRANCE {
                cluster.kill(leader);
                cluster.restart(leader);
            }
        }
        let value = Value { writer: 1, number };
        let producer = raw::Producer {
            id: given.producer_id,
            epoch: 0,
            sequence: number as i32,
        };
        let batch = raw::batch(Some(producer), &[value.text().as_bytes()]);
        let deadline = Instant::now() + WAIT;
        let written = loop {
            match log.produce(produce(partition, batch.clone())).await {
                Ok(written) => break written.into_inner(),
                Err(status) => {
                    assert!(Instant::now() < deadline, "{status:?}");
                    let told = raw::reason(&status);
                    assert!(told.is_empty() || TOLD.contains(&&*told), "{status:?}");
                    unknown += usize::from(raw::detail(&status, "definite").as_deref() != Some("true"));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        history.sent(value, Outcome::Acknowledged(written.base_offset));
    }
    cluster.healthy().await;
    read(&mut log, partition, &mut history).await;
    assert_eq!(history.check(), Vec::<String>::new());
    println!("{unknown} times the outcome was unknown");
}
