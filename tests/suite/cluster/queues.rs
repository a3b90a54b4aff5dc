//! Work queues from outside: sharing work, leases, retries, delays, priorities, order by key, tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientError, MessageState, QueueConsumerConfig, QueueMessage, QueueProducerConfig, Reason, ReceiveOptions,
    ReceivedMessage, Settled, Settlement, Token, Verdict, Worker,
};
use jangada_proto::v1;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use tokio::io::AsyncReadExt as _;
use tonic::transport::Channel;

use crate::harness::{Cluster, WAIT, cli, eventually, raw};

/// Creates a queue with these settings.
pub async fn create_queue(cluster: &Cluster, name: &str, partitions: u32, settings: &[&str]) {
    let partitions = partitions.to_string();
    let mut args = vec!["queue", "create", name, "--partitions", &partitions, "--replicas", "3"];
    for setting in settings {
        args.extend(["-c", setting]);
    }
    cluster.cli(&args).await.expect(0);
}

fn body(message: &ReceivedMessage) -> String {
    String::from_utf8(message.body.clone().expect("it was sent with a body").to_vec()).expect("it is text")
}

async fn send(client: &Client, queue: &str, messages: impl IntoIterator<Item = QueueMessage>) {
    let producer = client.queue_producer(queue, QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    for sent in producer.send_batch(messages.into_iter().collect()).await {
        sent.expect("it is sent");
    }
}

/// Receives up to so many messages, with a lease, and waits for the first.
async fn receive(client: &Client, queue: &str, messages: u32, lease: Duration) -> Vec<ReceivedMessage> {
    let options = ReceiveOptions {
        messages,
        wait: Duration::from_secs(20),
        lease: Some(lease),
        ..ReceiveOptions::default()
    };
    client.queue(queue).receive(options).await.expect("a broker answers")
}

async fn settle(client: &Client, queue: &str, message: &ReceivedMessage, settlement: Settlement) -> Settled {
    let items = vec![(message.token.clone(), settlement)];
    client.queue(queue).settle(items).await.expect("a broker answers")[0]
}

/// How many messages a queue has in each state.
async fn states(client: &Client, queue: &str) -> BTreeMap<&'static str, usize> {
    let queue = client.queue(queue);
    let mut states = BTreeMap::new();
    for partition in 0..queue.partitions().await.expect("it is there") {
        let peeked = queue.peek(partition, 0, &[], 1000).await.expect("its leader answers");
        for shown in peeked.messages {
            *states.entry(shown.state.as_str()).or_default() += 1;
        }
    }
    states
}

/// Waits until a queue has no messages.
async fn empty(client: &Client, queue: &str) {
    eventually("the queue is empty", WAIT, || async {
        states(client, queue).await.is_empty().then_some(())
    })
    .await;
}

const LEASE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_share_the_messages_of_a_queue() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 4, &[]).await;
    let client = cluster.client().await;
    send(
        &client,
        "jobs",
        (0..500).map(|number| QueueMessage::new(number.to_string())),
    )
    .await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let client = cluster.client().await;
        let config = QueueConsumerConfig {
            prefetch: 10,
            ..QueueConsumerConfig::default()
        };
        let mut consumer = client.queue_consumer("jobs", config).await.expect("it is there");
        workers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            // The others take what this one does not: nothing more comes when all is done.
            while let Ok(message) = tokio::time::timeout(Duration::from_secs(5), consumer.next()).await {
                let message = message.expect("the brokers are there");
                got.push(body(&message));
                message.ack().await.expect("it is ours");
            }
            got
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        let got = worker.await.expect("it has not panicked");
        assert!(!got.is_empty(), "each of them got some");
        all.extend(got);
    }
    let unique: BTreeSet<&String> = all.iter().collect();
    assert_eq!((all.len(), unique.len()), (500, 500), "each came once");
    empty(&client, "jobs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_consumer_had_goes_to_another_one() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &[]).await;
    let client = cluster.client().await;
    // A pipe has 64 KiB: a consumer whose output nobody reads stands still with messages in its hands.
    let message = |number: usize| QueueMessage::new(format!("{number} {}", "x".repeat(40_000)));
    send(&client, "jobs", (0..20).map(message)).await;
    let mut consumer = cli::start(&cluster.brokers(), &["queue", "consume", "jobs", "--prefetch", "10"]);
    eventually("it has some", WAIT, || async {
        (states(&client, "jobs").await.get("leased").copied().unwrap_or(0) >= 5).then_some(())
    })
    .await;
    consumer.start_kill().expect("it runs");
    let mut printed = Vec::new();
    let mut stdout = consumer.stdout.take().expect("stdout is a pipe");
    stdout.read_to_end(&mut printed).await.expect("it has ended");
    let config = QueueConsumerConfig::default();
    let mut other = client.queue_consumer("jobs", config).await.expect("it is there");
    let mut got = BTreeSet::new();
    while !states(&client, "jobs").await.is_empty() {
        let Ok(message) = tokio::time::timeout(WAIT, other.next()).await else {
            panic!("nothing comes")
        };
        let message = message.expect("the brokers are there");
        let number = body(&message).split(' ').next().expect("a number").to_owned();
        assert!(got.insert(number), "it comes once");
        message.ack().await.expect("it is ours");
    }
    let printed = String::from_utf8_lossy(&printed);
    let acknowledged = printed.lines().filter_map(|line| line.split(' ').next());
    let seen: BTreeSet<String> = acknowledged.map(str::to_owned).chain(got).collect();
    assert_eq!(seen.len(), 20, "nothing is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_runs_out_counts_and_a_late_token_is_told_so() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &[]).await;
    let client = cluster.client().await;
    send(&client, "jobs", [QueueMessage::new("a"), QueueMessage::new("b")]).await;
    let first = receive(&client, "jobs", 1, Duration::from_secs(1)).await;
    assert_eq!((first[0].failures, first[0].deliveries), (0, 1));
    // Taken although its time is over, for nobody else has it.
    let late = receive(&client, "jobs", 1, Duration::from_secs(1)).await;
    eventually("the lease of the first is over", WAIT, || async {
        let again = receive(&client, "jobs", 1, LEASE).await;
        let again = again.first()?.clone();
        assert_eq!((again.failures, again.deliveries), (1, 2));
        let of = [&first[0], &late[0]]
            .into_iter()
            .find(|before| before.place == again.place)?;
        assert_ne!(of.token, again.token);
        assert_eq!(settle(&client, "jobs", of, Settlement::Ack).await, Settled::LeaseLost);
        assert_eq!(settle(&client, "jobs", &again, Settlement::Ack).await, Settled::Done);
        assert_eq!(settle(&client, "jobs", &again, Settlement::Ack).await, Settled::Already);
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_too_often_is_a_dead_letter_after_retries() {
    let cluster = Cluster::start(3).await;
    let settings = ["queue.attempts.max=3", "queue.retry.min.ms=200", "queue.retry.factor=2"];
    create_queue(&cluster, "jobs", 1, &settings).await;
    let client = cluster.client().await;
    send(&client, "jobs", [QueueMessage::new("poison")]).await;
    let began = Instant::now();
    let nack = || Settlement::Nack {
        delay: None,
        failed: true,
    };
    for failures in 0..3 {
        let got = receive(&client, "jobs", 1, LEASE).await;
        assert_eq!((got[0].failures, got[0].deliveries), (failures, failures + 1));
        assert_eq!(settle(&client, "jobs", &got[0], nack()).await, Settled::Done);
    }
    // A fifth less than 200 ms and 400 ms.
    assert!(
        began.elapsed() >= Duration::from_millis(480),
        "it waits between attempts"
    );
    let dead = client.queue("jobs").peek(0, 0, &[MessageState::Dead], 10).await;
    let dead = dead.expect("its leader answers").messages;
    assert_eq!((dead.len(), dead[0].reason.as_deref()), (1, Some("attempts")));
    assert_eq!(dead[0].message.failures, 3);

    send(&client, "jobs", [QueueMessage::new("unwanted")]).await;
    let got = receive(&client, "jobs", 1, LEASE).await;
    let reject = Settlement::Reject {
        reason: "it is no job".to_owned(),
    };
    assert_eq!(settle(&client, "jobs", &got[0], reject).await, Settled::Done);
    let dead = client.queue("jobs").peek(0, 0, &[MessageState::Dead], 10).await;
    let reasons = dead
        .expect("its leader answers")
        .messages
        .into_iter()
        .map(|shown| shown.reason);
    assert_eq!(reasons.flatten().collect::<Vec<_>>(), ["attempts", "rejected"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_comes_after_its_delay_and_can_be_cancelled() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &[]).await;
    let client = cluster.client().await;
    let producer = client.queue_producer("jobs", QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    let delay = Duration::from_secs(2);
    let sent = Instant::now();
    producer
        .send(QueueMessage::new("later").with_delay(delay))
        .await
        .expect("it is sent");
    let never = producer
        .send(QueueMessage::new("never").with_delay(delay))
        .await
        .expect("it is sent");
    assert_eq!(
        client.queue("jobs").cancel(&[never.place]).await.expect("it waits"),
        [Settled::Done]
    );
    producer.send(QueueMessage::new("now")).await.expect("it is sent");
    let now = receive(&client, "jobs", 10, LEASE).await;
    assert_eq!(now.iter().map(body).collect::<Vec<_>>(), ["now"]);
    let later = receive(&client, "jobs", 10, LEASE).await;
    assert!(sent.elapsed() >= delay, "not before its time");
    assert_eq!(later.iter().map(body).collect::<Vec<_>>(), ["later"]);
    let refused = client
        .queue("jobs")
        .cancel(&[later[0].place])
        .await
        .expect_err("it is ours");
    assert_eq!(refused.reason(), Some(Reason::InFlight));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_higher_priority_goes_first() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &["queue.priorities=3"]).await;
    let client = cluster.client().await;
    let messages = [("low", 0), ("high", 2), ("middle", 1), ("high too", 2)];
    send(
        &client,
        "jobs",
        messages.map(|(text, priority)| QueueMessage::new(text).with_priority(priority)),
    )
    .await;
    let mut order = Vec::new();
    while order.len() < messages.len() {
        let got = receive(&client, "jobs", 1, LEASE).await;
        settle(&client, "jobs", &got[0], Settlement::Ack).await;
        order.push(body(&got[0]));
    }
    assert_eq!(order, ["high", "high too", "middle", "low"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_go_out_one_after_the_other() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &["queue.order=key"]).await;
    let client = cluster.client().await;
    let messages = ["a1", "a2", "b1", "a3"];
    send(
        &client,
        "jobs",
        messages.map(|text| QueueMessage::new(text).with_key(&text[..1])),
    )
    .await;
    let got = receive(&client, "jobs", 10, LEASE).await;
    assert_eq!(got.iter().map(body).collect::<Vec<_>>(), ["a1", "b1"]);
    // The key goes on only when its first message is done.
    settle(&client, "jobs", &got[0], Settlement::Release).await;
    let again = receive(&client, "jobs", 10, LEASE).await;
    assert_eq!(again.iter().map(body).collect::<Vec<_>>(), ["a1"]);
    settle(&client, "jobs", &again[0], Settlement::Ack).await;
    let next = receive(&client, "jobs", 10, LEASE).await;
    assert_eq!(next.iter().map(body).collect::<Vec<_>>(), ["a2"]);
}

async fn service(cluster: &Cluster) -> QueueServiceClient<Channel> {
    let address = &cluster.node(1).addresses.public;
    let client = QueueServiceClient::connect(format!("http://{address}")).await;
    client.expect("it is alive")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receive_settles_what_came_before_and_can_be_asked_again() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 3, &[]).await;
    let client = cluster.client().await;
    send(
        &client,
        "jobs",
        (0..9).map(|number| QueueMessage::new(number.to_string())),
    )
    .await;
    // Through one broker, whoever leads.
    let mut service = service(&cluster).await;
    let mut tokens: Vec<v1::SettleItem> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut attempt = 0;
    while seen.len() < 9 {
        attempt += 1;
        let request = v1::ReceiveRequest {
            queue: "jobs".to_owned(),
            max_messages: 2,
            wait_ms: 20_000,
            session: 7,
            attempt_id: attempt,
            settle: std::mem::take(&mut tokens),
            ..v1::ReceiveRequest::default()
        };
        let settled = request.settle.len();
        let first = service.receive(request.clone()).await.expect("it answers").into_inner();
        assert_eq!(first.settled.len(), settled);
        let done = v1::settle_result::Result::Settled(v1::Settled::Done.into());
        assert!(
            first.settled.iter().all(|result| result.result.as_ref() == Some(&done)),
            "{:?}",
            first.settled
        );
        // The answer was lost, say.
        let again = v1::ReceiveRequest {
            settle: Vec::new(),
            ..request
        };
        let again = service.receive(again).await.expect("it answers").into_inner();
        let of = |response: &v1::ReceiveResponse| {
            response
                .messages
                .iter()
                .map(|message| message.token.clone())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(of(&first), of(&again), "the same messages, by the same tokens");
        for message in first.messages {
            assert!(seen.insert(message.body.expect("it has one")), "each comes once");
            tokens.push(v1::SettleItem {
                token: message.token,
                settlement: Some(v1::settle_item::Settlement::Ack(v1::Ack {})),
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_at_any_broker_gets_what_is_sent_anywhere() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 3, &[]).await;
    let client = cluster.client().await;
    for partition in 0..3 {
        let mut service = service(&cluster).await;
        let waits = tokio::spawn(async move {
            let request = v1::ReceiveRequest {
                queue: "jobs".to_owned(),
                wait_ms: 30_000,
                ..v1::ReceiveRequest::default()
            };
            service.receive(request).await.expect("it answers").into_inner()
        });
        // That it waits cannot be seen from outside; either way it must get the message.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let request = v1::SendRequest {
            queue: "jobs".to_owned(),
            partition: Some(partition),
            messages: vec![v1::QueueMessage {
                body: "x".into(),
                ..v1::QueueMessage::default()
            }],
            ..v1::SendRequest::default()
        };
        let sent = Instant::now();
        self::service(&cluster).await.send(request).await.expect("it is sent");
        let got = waits.await.expect("it has not panicked").messages;
        assert_eq!((got.len(), got[0].partition), (1, partition));
        assert!(sent.elapsed() < Duration::from_secs(10), "it was waited for");
        let token = Token(got[0].token.clone());
        let settled = client.queue("jobs").settle(vec![(token, Settlement::Ack)]).await;
        assert_eq!(settled.expect("it answers"), [Settled::Done]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_and_messages_are_refused_and_change_nothing() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &[]).await;
    create_queue(&cluster, "others", 1, &[]).await;
    let client = cluster.client().await;
    send(&client, "jobs", [QueueMessage::new("a")]).await;
    let got = receive(&client, "jobs", 1, LEASE).await;
    let mut damaged = got[0].token.0.to_vec();
    damaged[9] ^= 1;
    for (queue, token) in [
        ("jobs", damaged),
        ("jobs", b"no token".to_vec()),
        ("jobs", Vec::new()),
        ("others", got[0].token.0.to_vec()),
    ] {
        let good = (got[0].token.clone(), Settlement::Ack);
        let items = vec![good, (Token(token.into()), Settlement::Ack)];
        let refused = client.queue(queue).settle(items).await.expect_err("a token is bad");
        assert_eq!(refused.reason(), Some(Reason::InvalidToken), "{refused}");
    }
    assert_eq!(
        states(&client, "jobs").await,
        BTreeMap::from([("leased", 1)]),
        "nothing was settled"
    );
    let unknown = client.queue("nobody").receive(ReceiveOptions::default()).await;
    assert!(matches!(unknown, Err(ClientError::UnknownQueue { .. })), "{unknown:?}");
    let producer = client.queue_producer("jobs", QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    for (message, named) in [
        (QueueMessage::new("x").with_key("k"), "queue.order"),
        (QueueMessage::new("x").with_priority(1), "queue.priorities"),
        (
            QueueMessage::new("x").with_delay(Duration::from_secs(400_000_000)),
            "ten years",
        ),
        (QueueMessage::new("x").with_ttl(Duration::ZERO), "ttl_ms"),
        (QueueMessage::new("x").with_message_id("i".repeat(300)), "message_id"),
    ] {
        let refused = producer.send(message).await.expect_err("the queue does not take it");
        assert_eq!(refused.reason(), Some(Reason::InvalidRequest));
        assert!(refused.to_string().contains(named), "{refused}");
    }
    // The topic of a queue is not for others.
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let produced = raw::produce(&mut log, raw::partition("jobs", 0), raw::batch(None, &[b"x"])).await;
    raw::assert_refused(produced, "WRONG_QUEUE_KIND", &["jobs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_handles_messages_until_it_is_stopped() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 2, &["queue.retry.min.ms=0"]).await;
    let client = cluster.client().await;
    send(
        &client,
        "jobs",
        (0..20).map(|number| QueueMessage::new(number.to_string())),
    )
    .await;
    let worker = Worker::new(&client, "jobs");
    let stop = worker.stop_handle();
    let running = tokio::spawn(worker.run(4, |message| async move {
        // Each fails once.
        match message.failures {
            0 => Verdict::Nack(None),
            _ => Verdict::Ack,
        }
    }));
    empty(&client, "jobs").await;
    stop.stop();
    let handled = running.await.expect("it has not panicked").expect("the queue is there");
    assert_eq!((handled.acknowledged, handled.others, handled.unsettled), (20, 20, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_through_the_command_line() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "jobs", 1, &[]).await;
    let send = cluster
        .cli_with(
            &["queue", "send", "jobs", "-H", "trace=1"],
            b"one\ntwo\nthree\n".to_vec(),
        )
        .await;
    send.expect(0).names(&["3 messages were sent"]);
    let peeked = cluster.cli(&["queue", "peek", "jobs"]).await.expect(0);
    let peeked = peeked.text();
    assert_eq!(
        peeked
            .lines()
            .filter(|line| line.contains("\"state\":\"ready\""))
            .count(),
        3,
        "{peeked}"
    );
    let received = cluster
        .cli(&["queue", "receive", "jobs", "--max", "2", "--wait", "10", "--ack"])
        .await;
    assert_eq!(received.expect(0).text(), "one\ntwo\n");
    let consumed = cluster
        .cli(&["queue", "consume", "jobs", "--max", "1", "-o", "jsonl"])
        .await
        .expect(0);
    let consumed: serde_json::Value = consumed.json();
    assert_eq!(
        (&consumed["body"], &consumed["headers"][0]["key"]),
        (&"three".into(), &"trace".into())
    );
    empty(&cluster.client().await, "jobs").await;
    let missing = cluster.cli(&["queue", "receive", "nobody"]).await;
    missing.expect(1).names(&["nobody", "does not exist"]);
}
