//! Queues in transactions, from outside: messages are sent and acknowledged with records of topics, all of it or nothing, whatever dies.

use std::time::{Duration, Instant};

use jangada_client::{
    Client, ClientError, ConsumerConfig, MessageState, NewQueue, OffsetAt, ProducerRecord, QueueConsumer,
    QueueConsumerConfig, QueueDelivery, QueueMessage, QueueProducerConfig, ReceiveOptions, ReceivedMessage, StartAt,
    Transaction, TransactionOptions, TransactionalProducer,
};

use jangada_proto::v1;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_proto::v1::settle_item::Settlement;

use super::queues::create_queue;
use super::transaction_calls::Caller;
use crate::harness::{Cluster, WAIT, eventually};

const JOBS: &str = "jobs";
const DONE: &str = "done";
const TOPICS: [&str; 2] = ["invoices", "audit"];
const ID: &str = "billing";
/// No test waits for a transaction that is open for so long.
const LONG: Duration = Duration::from_secs(60);
/// A transaction that is to be aborted by its coordinator is open for so long.
const SHORT: Duration = Duration::from_secs(2);

struct World {
    cluster: Cluster,
    client: Client,
}

impl World {
    async fn begin() -> World {
        let cluster = Cluster::start(3).await;
        create_queue(&cluster, JOBS, 1, &[]).await;
        create_queue(&cluster, DONE, 1, &[]).await;
        for topic in TOPICS {
            cluster.create_topic(topic, 1, 3).await;
        }
        let client = cluster.client().await;
        World { cluster, client }
    }

    async fn producer(&self, timeout: Duration) -> TransactionalProducer {
        producer(&self.client, timeout).await
    }

    async fn consumer(&self) -> QueueConsumer {
        consumer(&self.client).await
    }

    async fn put(&self, messages: &[&str]) {
        let producer = self.client.queue_producer(JOBS, QueueProducerConfig::default());
        let producer = producer.await.expect("the queue is there");
        let messages = messages.iter().map(|text| QueueMessage::new((*text).to_owned()));
        for sent in producer.send_batch(messages.collect()).await {
            sent.expect("it is sent");
        }
    }

    /// Nothing is left of the queue: all is done, and nothing is under way.
    async fn is_done(&self, queue: &str) {
        eventually("all is done", WAIT, || async {
            let peeked = self.client.queue(queue).peek(0, 0, &[], 10).await.ok()?;
            peeked.messages.is_empty().then_some(())
        })
        .await;
    }

    /// The bodies of messages that may go out, or are with consumers.
    async fn in_queue(&self, queue: &str) -> Vec<String> {
        let states = [MessageState::Ready, MessageState::Leased];
        let peeked = self.client.queue(queue).peek(0, 0, &states, 100).await;
        peeked
            .expect("its leader answers")
            .messages
            .iter()
            .map(|shown| body(&shown.message))
            .collect()
    }

    /// The values of each topic that are committed.
    async fn committed(&self) -> [Vec<String>; 2] {
        [read(&self.client, TOPICS[0]).await, read(&self.client, TOPICS[1]).await]
    }

    /// Everything that a transaction about this job makes is there, or nothing.
    async fn made(&self, job: Option<&str>) {
        let made: Vec<String> = job.iter().map(|job| (*job).to_owned()).collect();
        if job.is_some() {
            eventually("a partition that lost its leader shows it", WAIT, || async {
                let shown = self.committed().await;
                shown.iter().all(|values| !values.is_empty()).then_some(())
            })
            .await;
        }
        assert_eq!(self.committed().await, [made.clone(), made.clone()]);
        let options = ReceiveOptions {
            messages: 10,
            wait: match job {
                Some(_) => WAIT,
                None => Duration::from_millis(300),
            },
            ..ReceiveOptions::default()
        };
        let done = self
            .client
            .queue(DONE)
            .receive(options)
            .await
            .expect("a broker answers");
        let left = self.client.queue(DONE).peek(0, 0, &[], 10).await;
        assert_eq!(done.iter().map(body).collect::<Vec<_>>(), made, "left: {left:?}");
    }

    /// The state of the transactional id, and its partitions.
    async fn described(&self) -> (String, serde_json::Value) {
        let run = self.cluster.cli(&["txn", "describe", ID, "-o", "json"]).await;
        let described = run.expect(0).json();
        (
            described["state"].as_str().expect("it is text").to_owned(),
            described["partitions"].clone(),
        )
    }
}

async fn producer(client: &Client, timeout: Duration) -> TransactionalProducer {
    let options = TransactionOptions {
        timeout,
        ..TransactionOptions::default()
    };
    let opened = TransactionalProducer::open(client, ID, options).await;
    opened.expect("the id is free to take")
}

async fn consumer(client: &Client) -> QueueConsumer {
    let config = QueueConsumerConfig {
        prefetch: 1,
        ..QueueConsumerConfig::default()
    };
    client.queue_consumer(JOBS, config).await.expect("the queue is there")
}

fn body(message: &ReceivedMessage) -> String {
    String::from_utf8(message.body.clone().expect("it has a body").to_vec()).expect("it is text")
}

async fn read(client: &Client, topic: &str) -> Vec<String> {
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    let assigned = consumer.assign_topic(topic, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    let ends = consumer.end_offsets().await.expect("the leader answers");
    let mut values = Vec::new();
    let reading = async {
        while !consumer.reached(&ends) {
            for record in consumer.next_batch().await.expect("the leader answers") {
                let value = record.value.expect("it has a value");
                values.push(String::from_utf8(value.to_vec()).expect("it is text"));
            }
        }
    };
    tokio::time::timeout(WAIT, reading).await.expect("all is read");
    values
}

/// The next message, which is this one.
async fn take(consumer: &mut QueueConsumer, job: &str) -> QueueDelivery {
    let message = tokio::time::timeout(WAIT, consumer.next()).await.expect("one comes");
    let message = message.expect("the brokers are there");
    assert_eq!(body(&message), job);
    message
}

/// Writes what a job makes to both topics and the queue, and acknowledges it.
async fn work(transaction: &Transaction<'_>, message: QueueDelivery) -> Result<(), ClientError> {
    let job = body(&message);
    for topic in TOPICS {
        let record = ProducerRecord::new(topic).with_value(job.clone());
        transaction.send(record).await?.await?;
    }
    transaction.send_to_queue(DONE, [QueueMessage::new(job)]).await?;
    message.ack_in(transaction).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_worked_on_in_a_transaction_with_all_that_comes_of_it_or_nothing() {
    let world = World::begin().await;
    world.put(&["one"]).await;
    let mut consumer = world.consumer().await;
    let mut producer = world.producer(LONG).await;

    let message = take(&mut consumer, "one").await;
    assert_eq!((message.deliveries, message.failures), (1, 0));
    let aborted = producer.begin().await.expect("none is open");
    work(&aborted, message).await.expect("all of it is taken");
    world.made(None).await;
    let open = world.described().await;
    assert_eq!(open.0, "Ongoing");
    let partitions = open.1.as_array().expect("it is a list");
    assert_eq!(
        partitions.len(),
        4,
        "those of both queues and both topics: {partitions:?}"
    );
    aborted.abort().await.expect("it is aborted");

    let message = take(&mut consumer, "one").await;
    assert_eq!((message.deliveries, message.failures), (2, 0), "it has not failed");
    world.made(None).await;
    let transaction = producer.begin().await.expect("the first has ended");
    work(&transaction, message).await.expect("all of it is taken");
    transaction.commit().await.expect("it is committed");
    world.made(Some("one")).await;
    world.is_done(JOBS).await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_a_transaction_come_again_when_its_time_is_over() {
    let world = World::begin().await;
    world.put(&["one"]).await;
    let mut consumer = world.consumer().await;
    let mut producer = world.producer(SHORT).await;
    let message = take(&mut consumer, "one").await;
    let late = producer.begin().await.expect("none is open");
    // It only acknowledges: nothing of it is in the log but the acknowledgement.
    message.ack_in(&late).await.expect("it is acknowledged");
    let began = Instant::now();
    let message = take(&mut consumer, "one").await;
    let after = began.elapsed();
    assert!(after < SHORT + Duration::from_secs(5), "it was open for {after:?}");
    assert_eq!(message.failures, 0);
    let refused = late.commit().await.expect_err("its time was over");
    assert!(matches!(refused, ClientError::TransactionTimedOut(_)), "{refused}");

    let late = producer.begin().await.expect("the producer goes on");
    late.send_to_queue(DONE, [QueueMessage::new("never")])
        .await
        .expect("it is taken");
    eventually("it is aborted", WAIT, || async {
        (world.described().await.0 == "CompleteAbort").then_some(())
    })
    .await;
    let refused = message.ack_in(&late).await.expect_err("its time was over");
    assert!(refused.is_definite(), "{refused}");
    let refused = late.commit().await.expect_err("its time was over");
    assert!(matches!(refused, ClientError::TransactionTimedOut(_)), "{refused}");

    let message = take(&mut consumer, "one").await;
    let transaction = producer.begin().await.expect("the producer goes on");
    work(&transaction, message).await.expect("all of it is taken");
    transaction.commit().await.expect("it is committed");
    world.made(Some("one")).await;
    world.is_done(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_the_id_gives_back_what_its_predecessor_had_acknowledged() {
    let world = World::begin().await;
    world.put(&["one"]).await;
    let mut consumer = world.consumer().await;
    let mut first = world.producer(LONG).await;
    let message = take(&mut consumer, "one").await;
    let left_open = first.begin().await.expect("none is open");
    work(&left_open, message).await.expect("all of it is taken");

    let mut second = world.producer(LONG).await;
    let message = take(&mut consumer, "one").await;
    let refused = left_open.send_to_queue(DONE, [QueueMessage::new("late")]).await;
    let refused = refused.expect_err("another producer has the id");
    assert!(matches!(refused, ClientError::ProducerFenced { .. }), "{refused}");
    let transaction = second.begin().await.expect("none is open");
    work(&transaction, message).await.expect("all of it is taken");
    let refused = left_open.commit().await.expect_err("another producer has the id");
    assert!(matches!(refused, ClientError::ProducerFenced { .. }), "{refused}");
    transaction.commit().await.expect("it is committed");
    world.made(Some("one")).await;
    world.is_done(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_lease_is_lost_is_not_acknowledged_and_its_transaction_not_committed() {
    let world = World::begin().await;
    world.put(&["one"]).await;
    let options = ReceiveOptions {
        wait: WAIT,
        lease: Some(Duration::from_millis(500)),
        ..ReceiveOptions::default()
    };
    let slow = world
        .client
        .queue(JOBS)
        .receive(options)
        .await
        .expect("a broker answers");
    // The lease runs out, and somebody else has it.
    let mut consumer = world.consumer().await;
    let message = take(&mut consumer, "one").await;
    assert_eq!((message.deliveries, message.failures), (2, 1));
    let mut producer = world.producer(LONG).await;
    let transaction = producer.begin().await.expect("none is open");
    transaction
        .send_to_queue(DONE, [QueueMessage::new("twice")])
        .await
        .expect("it is taken");
    let lost = transaction.acknowledge(JOBS, &[slow[0].token.clone()]).await;
    let lost = lost.expect_err("somebody else has it");
    assert!(matches!(lost, ClientError::LeaseLost), "{lost}");
    let refused = transaction.commit().await.expect_err("it would be done twice");
    let ClientError::TransactionAborted { cause } = &refused else {
        panic!("{refused}")
    };
    assert!(matches!(**cause, ClientError::LeaseLost), "{cause}");

    let transaction = producer.begin().await.expect("the producer goes on");
    work(&transaction, message).await.expect("all of it is taken");
    transaction.commit().await.expect("it is committed");
    world.made(Some("one")).await;
    world.is_done(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_the_leader_that_was_told() {
    for commits in [true, false] {
        let mut world = World::begin().await;
        world.put(&["one"]).await;
        let mut consumer = world.consumer().await;
        let mut producer = world.producer(LONG).await;
        let message = take(&mut consumer, "one").await;
        let transaction = producer.begin().await.expect("none is open");
        work(&transaction, message).await.expect("all of it is taken");
        let leader = world.cluster.leader(JOBS, 0).await;
        world.cluster.kill(leader);
        match commits {
            true => {
                transaction.commit().await.expect("it is committed");
                world.made(Some("one")).await;
                world.is_done(JOBS).await;
            }
            false => {
                transaction.abort().await.expect("it is aborted");
                let message = take(&mut consumer, "one").await;
                assert_eq!((message.deliveries, message.failures), (2, 0));
                world.made(None).await;
            }
        }
        world.cluster.restart(leader);
        world.cluster.healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_a_worker_that_died_go_to_another_one_when_its_transaction_is_over() {
    let world = World::begin().await;
    world.put(&["one"]).await;
    let config = world.cluster.client_config();
    // A runtime of its own, which ends without doing anything more: as a process that is killed.
    let worker = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (told, acknowledged) = tokio::sync::oneshot::channel();
    worker.spawn(async move {
        let client = Client::connect(config).await.expect("the brokers are there");
        let mut producer = producer(&client, SHORT).await;
        let mut consumer = consumer(&client).await;
        let message = take(&mut consumer, "one").await;
        let transaction = producer.begin().await.expect("none is open");
        work(&transaction, message).await.expect("all of it is taken");
        told.send(()).expect("it is waited for");
        std::future::pending::<()>().await;
        drop(transaction);
    });
    acknowledged.await.expect("it acknowledges");
    worker.shutdown_background();
    let mut consumer = world.consumer().await;
    let message = take(&mut consumer, "one").await;
    assert_eq!((message.deliveries, message.failures), (2, 0));
    world.made(None).await;
    let mut successor = world.producer(LONG).await;
    let transaction = successor.begin().await.expect("none is open");
    work(&transaction, message).await.expect("all of it is taken");
    transaction.commit().await.expect("it is committed");
    world.made(Some("one")).await;
    world.is_done(JOBS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_reads_a_topic_takes_part_by_the_topics_records() {
    let world = World::begin().await;
    let admin = world.cluster.admin().await;
    let queue = NewQueue::reading("invoicing", TOPICS[0], OffsetAt::Earliest);
    admin.create_queue(queue).await.expect("it is created");
    let mut producer = world.producer(LONG).await;
    let transaction = producer.begin().await.expect("none is open");
    let record = ProducerRecord::new(TOPICS[0]).with_value("an order");
    let delivery = transaction.send(record).await.expect("there is room");
    delivery.await.expect("it is stored");
    let receive = |wait| {
        let options = ReceiveOptions {
            wait,
            ..ReceiveOptions::default()
        };
        let queue = world.client.queue("invoicing");
        async move { queue.receive(options).await.expect("a broker answers") }
    };
    assert_eq!(receive(Duration::from_millis(300)).await, [], "it is open");
    let refused = transaction.send_to_queue("invoicing", [QueueMessage::new("x")]).await;
    let refused = refused.expect_err("nothing is sent to it by itself");
    assert_eq!(refused.reason().map(|reason| reason.as_str()), Some("WRONG_QUEUE_KIND"));
    transaction.commit().await.expect_err("something of it was refused");
    assert_eq!(receive(Duration::from_millis(300)).await, [], "it was aborted");

    let transaction = producer.begin().await.expect("the producer goes on");
    let record = ProducerRecord::new(TOPICS[0]).with_value("an order");
    drop(transaction.send(record).await.expect("there is room"));
    transaction.commit().await.expect("it is committed");
    let [order] = &receive(WAIT).await[..] else {
        panic!("it is one")
    };
    assert_eq!(body(order), "an order");
    let transaction = producer.begin().await.expect("the producer goes on");
    let record = ProducerRecord::new(TOPICS[1]).with_value("an order");
    drop(transaction.send(record).await.expect("there is room"));
    transaction
        .acknowledge("invoicing", std::slice::from_ref(&order.token))
        .await
        .expect("it is acknowledged");
    transaction.commit().await.expect("it is committed");
    assert_eq!(world.committed().await, [["an order"], ["an order"]]);
    let peeked = world.client.queue("invoicing").peek(0, 0, &[], 10).await;
    assert_eq!(peeked.expect("its leader answers").messages, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_and_delays_hold_for_messages_of_a_transaction_over_a_restart() {
    let mut world = World::begin().await;
    create_queue(&world.cluster, "urgent", 1, &["queue.priorities=3"]).await;
    let mut producer = world.producer(LONG).await;
    let transaction = producer.begin().await.expect("none is open");
    let messages = [
        QueueMessage::new("low"),
        QueueMessage::new("high").with_priority(2),
        QueueMessage::new("later")
            .with_priority(2)
            .with_delay(Duration::from_secs(3_600)),
        QueueMessage::new("middle")
            .with_priority(1)
            .with_message_id("seen by consumers"),
    ];
    let sent = transaction
        .send_to_queue("urgent", messages)
        .await
        .expect("they are taken");
    assert_eq!(sent.len(), 4);
    world.cluster.kill_all();
    world.cluster.start_all();
    world.cluster.healthy().await;
    assert_eq!(world.in_queue(JOBS).await, [] as [String; 0]);
    transaction.commit().await.expect("it is committed");
    let mut came = Vec::new();
    while came.len() < 3 {
        let options = ReceiveOptions {
            wait: WAIT,
            ..ReceiveOptions::default()
        };
        let received = world.client.queue("urgent").receive(options).await;
        came.extend(received.expect("a broker answers"));
    }
    let bodies: Vec<String> = came.iter().map(body).collect();
    assert_eq!(bodies, ["high", "middle", "low"]);
    assert_eq!(came[1].message_id.as_deref(), Some("seen by consumers"));
    assert_eq!(world.in_queue("urgent").await.len(), 4, "one waits for its time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_leaves_nothing_in_a_queue_that_was_just_created() {
    let world = World::begin().await;
    let admin = world.cluster.admin().await;
    let mut producer = world.producer(LONG).await;
    // A queue's slots are opened when its brokers hear of it. What is sent before that waits for it.
    for number in 0..10 {
        let name = format!("new-{number}");
        admin
            .create_queue(NewQueue::new(&name, 1, 3))
            .await
            .expect("it is created");
        let transaction = producer.begin().await.expect("none is open");
        let sent = transaction
            .send_to_queue(name.as_str(), [QueueMessage::new("never")])
            .await;
        sent.expect("it is taken");
        transaction.abort().await.expect("it is aborted");
        let counts = eventually("its leader says what is in it", WAIT, || async {
            let described = admin.describe_queue(&name).await.ok()?;
            described.partitions[0].counts.clone()
        })
        .await;
        assert_eq!((counts.ready, counts.delayed, counts.tally.sent), (0, 0, 0), "{name}");
    }
}

/// A client that talks to one broker, which leads neither queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on_is_sent_and_acknowledged_in_its_transaction() {
    let world = World::begin().await;
    world.put(&["one"]).await;
    let leaders = [world.cluster.leader(JOBS, 0).await, world.cluster.leader(DONE, 0).await];
    let entrance = world.cluster.ids().into_iter().find(|id| !leaders.contains(id));
    let entrance = entrance.expect("there are three brokers");
    let address = format!("http://{}", world.cluster.node(entrance).addresses.public);
    let mut queues = QueueServiceClient::connect(address).await.expect("it listens");
    let mut caller = Caller::of(&world.cluster, entrance).await;
    let mut producer = caller.init(ID).await.expect("the id is free");
    // The queues were created just now, and open in their own time.
    eventually("the queue is open", WAIT, || {
        let mut queues = queues.clone();
        let nothing = v1::ReceiveRequest {
            queue: DONE.to_owned(),
            wait_ms: 1,
            ..v1::ReceiveRequest::default()
        };
        async move { queues.receive(nothing).await.ok() }
    })
    .await;
    for commits in [false, true] {
        let receive = |queue: &str, wait: Duration| v1::ReceiveRequest {
            queue: queue.to_owned(),
            wait_ms: u32::try_from(wait.as_millis()).expect("a minute"),
            ..v1::ReceiveRequest::default()
        };
        let received = eventually("it is passed on", WAIT, || {
            let mut queues = queues.clone();
            async move { queues.receive(receive(JOBS, WAIT)).await.ok() }
        });
        let messages = received.await.into_inner().messages;
        let [job] = &messages[..] else {
            panic!("what was acknowledged in the aborted transaction comes again: {messages:?}")
        };
        let transaction = Some(v1::QueueTransaction {
            transactional_id: ID.to_owned(),
            producer_id: producer.0,
            producer_epoch: producer.1,
        });
        let send = v1::SendRequest {
            queue: DONE.to_owned(),
            partition: Some(0),
            messages: vec![v1::QueueMessage {
                body: "made".into(),
                ..v1::QueueMessage::default()
            }],
            transaction: transaction.clone(),
            ..v1::SendRequest::default()
        };
        queues.send(send).await.expect("it is passed on");
        let item = v1::SettleItem {
            token: job.token.clone(),
            settlement: Some(Settlement::Ack(v1::Ack::default())),
        };
        let settle = v1::SettleRequest {
            queue: JOBS.to_owned(),
            items: vec![item],
            transaction,
            ..v1::SettleRequest::default()
        };
        queues.settle(settle).await.expect("it is passed on");
        let described = caller.describe(ID).await.expect("it is there");
        assert_eq!(described.partitions.len(), 2, "{described:?}");
        producer = caller.end(ID, producer, commits).await.expect("it is open");
        let wait = if commits { WAIT } else { Duration::from_millis(300) };
        let made = queues.receive(receive(DONE, wait)).await.expect("it is passed on");
        assert_eq!(made.into_inner().messages.len(), usize::from(commits));
    }
    world.is_done(JOBS).await;
}
