//! What becomes of messages whose consumer ends, stands still, or loses its stream, and of those that nobody can read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_client::{
    Client, MessageState, NewQueue, NewTopic, OffsetAt, QueueConsumerConfig, QueueMessage, QueueProducerConfig,
    ReceiveOptions, ReceivedMessage, Settlement,
};
use jangada_proto::v1;
use jangada_proto::v1::consume_request::Message as Says;
use jangada_proto::v1::consume_response::Message as Hears;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_types::batch::set_producer;
use jangada_types::{BatchBuilder, BatchHeader, Codec, ProducerEpoch, ProducerId, Sequence};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::queues::create_queue;
use crate::harness::{Cluster, Options, Proxy, WAIT, cli, eventually, raw};

const QUEUE: &str = "jobs";
const LEASE: Duration = Duration::from_secs(30);
/// How much of a stream that nobody reads is on its way, at most. As much again waits in the broker's transport.
const WINDOW_BYTES: u32 = 64 << 10;
/// How long a broker waits for a consumer whose stream broke.
const GRACE: Duration = Duration::from_secs(5);

fn text(message: &ReceivedMessage) -> String {
    String::from_utf8_lossy(message.body.as_deref().expect("it has a body")).into_owned()
}

async fn send(client: &Client, messages: impl IntoIterator<Item = String>) {
    let producer = client.queue_producer(QUEUE, QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    let messages = messages.into_iter().map(QueueMessage::new).collect();
    for sent in producer.send_batch(messages).await {
        sent.expect("it is sent");
    }
}

async fn receive(client: &Client, messages: u32) -> Vec<ReceivedMessage> {
    let options = ReceiveOptions {
        messages,
        bytes: 16 << 20,
        wait: Duration::from_secs(20),
        lease: Some(LEASE),
        ..ReceiveOptions::default()
    };
    client.queue(QUEUE).receive(options).await.expect("a broker answers")
}

/// How many messages of the first partition are in one of the states; none given: in any.
async fn peek(client: &Client, states: &[MessageState]) -> usize {
    let peeked = client.queue(QUEUE).peek(0, 0, states, 1000).await;
    peeked.expect("its leader answers").messages.len()
}

async fn count(client: &Client, state: MessageState) -> usize {
    peek(client, &[state]).await
}

async fn undone(client: &Client) -> usize {
    peek(client, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_ahead_to_a_consumer_that_ends_goes_to_others_at_once_and_has_not_failed() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 1, &[]).await;
    let client = cluster.client().await;
    send(&client, (0..5).map(|number| number.to_string())).await;
    cluster.cli(&["queue", "consume", QUEUE, "--max", "1"]).await.expect(0);
    let (ended, mut left) = (Instant::now(), BTreeSet::new());
    while left.len() < 4 {
        for message in receive(&client, 10).await {
            assert_eq!(message.failures, 0, "its consumer took leave");
            left.insert(text(&message));
        }
    }
    assert!(
        ended.elapsed() < GRACE,
        "they were not waited for: {:?}",
        ended.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_found_in_whichever_partition_it_is() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 3, &[]).await;
    let client = cluster.client().await;
    for round in 0..5 {
        for number in 0..3 {
            send(&client, [format!("{round}-{number}")]).await;
        }
        let mut got = 0;
        while got < 2 {
            let max = (2 - got).to_string();
            let args = ["queue", "receive", QUEUE, "--max", &max, "--wait", "10", "--ack"];
            got += cluster.cli(&args).await.expect(0).text().lines().count();
        }
        let began = Instant::now();
        let args = ["queue", "consume", QUEUE, "--max", "1", "--idle", "20"];
        let printed = cluster.cli(&args).await.expect(0).text();
        assert_eq!(printed.lines().count(), 1, "round {round}: one was left");
        assert!(began.elapsed() < GRACE, "round {round}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_consumer_had_goes_to_another_one_and_its_late_acknowledgement_is_refused() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 1, &[]).await;
    let client = cluster.client().await;
    // A pipe has 64 KiB: a consumer whose output nobody reads stands still with messages in its hands.
    send(&client, (0..8).map(|number| format!("{number} {}", "x".repeat(40_000)))).await;
    let args = [
        "queue",
        "consume",
        QUEUE,
        "--prefetch",
        "4",
        "--lease",
        "2",
        "--idle",
        "2",
    ];
    let mut consumer = cli::start(&cluster.brokers(), &args);
    eventually("it has some", WAIT, || async {
        (count(&client, MessageState::Leased).await == 4).then_some(())
    })
    .await;
    let pid = Pid::from_raw(consumer.id().expect("it runs") as i32).expect("a process");
    kill_process(pid, Signal::STOP).expect("it is ours");
    let mut other = client
        .queue_consumer(QUEUE, QueueConsumerConfig::default())
        .await
        .expect("it is there");
    let mut got = Vec::new();
    // What the stopped one has acknowledged before does not come.
    while got.len() < undone(&client).await {
        let message = tokio::time::timeout(LEASE, other.next()).await.expect("they come");
        got.push(message.expect("the brokers are there"));
    }
    kill_process(pid, Signal::CONT).expect("it is ours");
    let (mut printed, mut said) = (Vec::new(), String::new());
    let mut stdout = consumer.stdout.take().expect("stdout is a pipe");
    let mut stderr = consumer.stderr.take().expect("stderr is a pipe");
    let ended = async {
        tokio::try_join!(stdout.read_to_end(&mut printed), stderr.read_to_string(&mut said)).expect("it is text");
        consumer.wait().await.expect("it is ours")
    };
    let ended = tokio::time::timeout(WAIT, ended)
        .await
        .expect("it ends when nothing comes");
    assert!(ended.success(), "{said}");
    assert!(
        said.contains("lease"),
        "a message was somebody else's by then: {said:?}"
    );
    let number = |line: &str| line.split(' ').next().expect("a number").to_owned();
    let printed = String::from_utf8_lossy(&printed);
    let mut all: BTreeSet<String> = printed.lines().map(number).collect();
    for message in got {
        all.insert(number(&text(&message)));
        message.ack().await.expect("it is ours still");
    }
    assert_eq!(all.len(), 8, "nothing is lost");
    assert_eq!(undone(&client).await, 0);
}

/// A consumer's stream as it is on the wire. Dropping it takes leave.
struct Stream {
    says: mpsc::Sender<v1::ConsumeRequest>,
    hears: Streaming<v1::ConsumeResponse>,
    proxy: Proxy,
}

impl Stream {
    async fn open(cluster: &Cluster, start: v1::ConsumeStart) -> Stream {
        let leader = cluster.leader(QUEUE, 0).await;
        let proxy = Proxy::before(cluster.node(leader).addresses.public.clone());
        // Without flow control of HTTP/2 a broker sends what nobody reads: two megabytes by default.
        let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address())).expect("it is an address");
        let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES);
        let client = endpoint.connect().await.map(QueueServiceClient::new);
        let (says, requests) = mpsc::channel(16);
        let start = v1::ConsumeStart {
            queue: QUEUE.to_owned(),
            ..start
        };
        let first = v1::ConsumeRequest {
            message: Some(Says::Start(start)),
        };
        says.send(first).await.expect("it has room");
        let opened = client
            .expect("it is alive")
            .consume(ReceiverStream::new(requests))
            .await;
        let hears = opened.expect("it leads the partition").into_inner();
        Stream { says, hears, proxy }
    }

    /// Its connection breaks: the broker hears nothing more of it.
    fn breaks(self) {
        self.proxy.cut();
    }

    async fn say(&self, message: Says) {
        let message = Some(message);
        self.says
            .send(v1::ConsumeRequest { message })
            .await
            .expect("it listens");
    }

    /// What it hears next of the bound on messages in flight.
    async fn in_flight_full(&mut self) -> u32 {
        loop {
            let heard = tokio::time::timeout(WAIT, self.hears.message()).await;
            let heard = heard.expect("something comes").expect("the stream is open");
            if let Some(Hears::InFlightFull(full)) = heard.expect("the stream goes on").message {
                return full.in_flight_full;
            }
        }
    }

    /// The next so many messages.
    async fn messages(&mut self, count: usize) -> Vec<v1::ReceivedMessage> {
        let mut got = Vec::new();
        while got.len() < count {
            let heard = tokio::time::timeout(WAIT, self.hears.message()).await;
            let heard = heard.expect("something comes").expect("the stream is open");
            if let Some(Hears::Messages(messages)) = heard.expect("the stream goes on").message {
                got.extend(messages.messages);
            }
        }
        got
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_stream_had_not_sent_goes_to_others_at_once_and_has_not_failed() {
    const MESSAGES: usize = 100;
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 1, &[]).await;
    let client = cluster.client().await;
    send(
        &client,
        (0..MESSAGES).map(|number| format!("{number} {}", "x".repeat(20_000))),
    )
    .await;
    let start = v1::ConsumeStart {
        session: 7,
        credit: 200,
        max_bytes: 64 << 10,
        ..v1::ConsumeStart::default()
    };
    let stream = Stream::open(&cluster, start).await;
    eventually("all are granted", WAIT, || async {
        // More than one look at the messages themselves would show.
        let described = client.admin().describe_queue(QUEUE).await.ok()?;
        let counts = described.partitions[0].counts.as_ref()?;
        (counts.leased == MESSAGES as u64).then_some(())
    })
    .await;
    // Nobody has read it: most of the messages have not left the broker.
    stream.breaks();
    let (broken, mut got) = (Instant::now(), 0);
    while got < MESSAGES / 2 {
        let messages = receive(&client, 100).await;
        assert!(messages.iter().all(|message| message.failures == 0));
        got += messages.len();
    }
    assert!(
        broken.elapsed() < GRACE,
        "they were not waited for: {:?}",
        broken.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_comes_back_gets_no_more_than_its_credit() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 1, &[]).await;
    let client = cluster.client().await;
    send(&client, (0..20).map(|number| number.to_string())).await;
    let start = |credit, holds| v1::ConsumeStart {
        session: 7,
        credit,
        holds,
        ..v1::ConsumeStart::default()
    };
    let mut stream = Stream::open(&cluster, start(5, Vec::new())).await;
    let tokens = |messages: &[v1::ReceivedMessage]| -> BTreeSet<Bytes> {
        messages.iter().map(|message| message.token.clone()).collect()
    };
    let first = tokens(&stream.messages(5).await);
    stream.breaks();
    // It has two, and has forgotten three: there is room for three, and these are they.
    let holds: Vec<Bytes> = first.iter().take(2).cloned().collect();
    let mut stream = Stream::open(&cluster, start(3, holds.clone())).await;
    let again = tokens(&stream.messages(3).await);
    assert_eq!(
        &again | &holds.iter().cloned().collect(),
        first,
        "the same, under the same tokens"
    );
    let ack = |token: &Bytes| v1::SettleItem {
        token: token.clone(),
        settlement: Some(v1::settle_item::Settlement::Ack(v1::Ack {})),
    };
    stream
        .say(Says::Settle(v1::ConsumeSettle {
            correlation_id: 1,
            items: holds.iter().map(ack).collect(),
        }))
        .await;
    stream.say(Says::Credit(2)).await;
    let next = tokens(&stream.messages(2).await);
    assert!(next.is_disjoint(&first), "for two that are done two others come");
    // All others are free, and the stream gets none of them.
    let mut others = 0;
    while others < 13 {
        others += receive(&client, 100).await.len();
    }
    assert_eq!(count(&client, MessageState::Leased).await, 18);
    stream.say(Says::Credit(1)).await;
    send(&client, ["one more".to_owned()]).await;
    let last = stream.messages(1).await;
    assert_eq!(last[0].body.as_deref(), Some(&b"one more"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_says_that_its_session_has_as_many_messages_as_it_may() {
    const MOST: usize = 10_000;
    let cluster = Cluster::start(1).await;
    let created = cluster.admin().await.create_queue(NewQueue::new(QUEUE, 1, 1)).await;
    created.expect("it is created");
    let client = cluster.client().await;
    send(&client, (0..MOST + 10).map(|number| number.to_string())).await;
    let start = v1::ConsumeStart {
        session: 7,
        credit: 20_000,
        lease_ms: 600_000,
        ..v1::ConsumeStart::default()
    };
    let mut stream = Stream::open(&cluster, start).await;
    let mut got = stream.messages(MOST).await;
    assert_eq!(stream.in_flight_full().await, MOST as u32);
    let ack = |message: v1::ReceivedMessage| v1::SettleItem {
        token: message.token,
        settlement: Some(v1::settle_item::Settlement::Ack(v1::Ack {})),
    };
    stream
        .say(Says::Settle(v1::ConsumeSettle {
            correlation_id: 1,
            items: got.drain(..20).map(ack).collect(),
        }))
        .await;
    let rest = stream.messages(10).await;
    assert_eq!(rest.len(), 10, "the others come");
    assert_eq!(stream.in_flight_full().await, 0, "it is over");
}

/// A compressed batch of three records that nobody can decompress, with a correct checksum.
fn garbage() -> Bytes {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for _ in 0..3 {
        let appended = builder.append(raw::now_ms(), None, Some(b"the same again"), []);
        appended.expect("it is small");
    }
    let mut batch = builder.build().to_vec();
    batch[BatchHeader::LEN..].fill(0xa5);
    set_producer(&mut batch, ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
    batch.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_nobody_can_read_fail_and_hold_up_no_other_one() {
    const TOPIC: &str = "unchecked";
    let options = Options::default();
    let cluster = Cluster::start_with(1, options).await;
    cluster
        .create(NewTopic {
            config: [("validation.compressed".to_owned(), "false".to_owned())].into(),
            ..NewTopic::new(TOPIC, 1, 1)
        })
        .await;
    let admin = cluster.admin().await;
    let mut queue = NewQueue::reading(QUEUE, TOPIC, OffsetAt::Earliest);
    for (setting, value) in [("queue.attempts.max", "2"), ("queue.retry.min.ms", "100")] {
        queue.config.insert(setting.to_owned(), value.to_owned());
    }
    admin.create_queue(queue).await.expect("it is created");
    let mut log = raw::log(&cluster.brokers()[0]).await;
    for batch in [raw::batch(None, &[b"a", b"b"]), garbage(), raw::batch(None, &[b"c"])] {
        let produced = raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await;
        produced.expect("it is not looked at");
    }
    let client = cluster.client().await;
    let config = QueueConsumerConfig::default();
    let mut consumer = client.queue_consumer(QUEUE, config).await.expect("it is there");
    let mut got = BTreeSet::new();
    while got.len() < 3 {
        let message = tokio::time::timeout(WAIT, consumer.next()).await.expect("they come");
        let message = message.expect("its stream goes on");
        got.insert(text(&message));
        message.ack().await.expect("it is ours");
    }
    assert_eq!(got, ["a", "b", "c"].map(str::to_owned).into());
    let peeked = eventually("the others are dead", WAIT, || async {
        let peeked = client.queue(QUEUE).peek(0, 0, &[MessageState::Dead], 10).await.ok()?;
        (peeked.messages.len() == 3).then_some(peeked.messages)
    })
    .await;
    for shown in &peeked {
        assert_eq!((shown.reason.as_deref(), shown.message.failures), (Some("attempts"), 2));
        assert!(shown.damage.is_some() && shown.message.body.is_none(), "{shown:?}");
    }
    let log = cluster.node(1).log();
    let named = |line: &str| line.contains("damaged") && line.contains(QUEUE) && line.contains("offset=2");
    assert!(log.lines().any(named), "it is logged by queue, partition, offset");
    let metrics = crate::harness::node::get(&cluster.node(1).addresses.http, "/metrics").await;
    let metrics = metrics.expect("it answers");
    assert!(
        metrics.contains("jangada_queue_unreadable_messages_total 6"),
        "three failed twice: {metrics}"
    );
    // A call that is answered once waits on, too, for what it can hand out.
    drop(consumer);
    let produced = raw::produce(&mut log_of(&cluster).await, raw::partition(TOPIC, 0), garbage()).await;
    produced.expect("it is not looked at");
    let produced = raw::produce(
        &mut log_of(&cluster).await,
        raw::partition(TOPIC, 0),
        raw::batch(None, &[b"d"]),
    )
    .await;
    produced.expect("it is sound");
    let got = receive(&client, 10).await;
    assert_eq!(got.iter().map(text).collect::<Vec<_>>(), ["d"]);
    let settled = client
        .queue(QUEUE)
        .settle(vec![(got[0].token.clone(), Settlement::Ack)])
        .await;
    settled.expect("a broker answers");
}

async fn log_of(cluster: &Cluster) -> raw::Log {
    raw::log(&cluster.brokers()[0]).await
}
