//! What a queue has in its partitions, and what is done to all of it: counted, dropped, read again; dead letters.

use std::time::Duration;

use jangada_client::{
    DeadFilter, DeadLetters, NewQueue, OffsetAt, QueueMessage, QueueProducerConfig, QueueSeek, Reason, ReceiveOptions,
    Settlement,
};
use serde_json::json;

use crate::harness::{Cluster, Scrape, WAIT, assert_refused, eventually};

const TOPIC: &str = "orders";

/// The counts of a queue over all its partitions, once every leader says them.
async fn ready(cluster: &Cluster, queue: &str) -> Option<u64> {
    let described = cluster.admin().await.describe_queue(queue).await.ok()?;
    let counts: Option<Vec<_>> = described.partitions.into_iter().map(|depth| depth.counts).collect();
    Some(counts?.iter().map(|counts| counts.ready).sum())
}

async fn expect_ready(cluster: &Cluster, queue: &str, expected: u64) {
    eventually(&format!("{queue} has {expected} messages"), WAIT, || async {
        (ready(cluster, queue).await? == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_come_of_messages_is_shown_and_exported() {
    let cluster = Cluster::start(1).await;
    let mut queue = NewQueue::new("jobs", 1, 1);
    queue.config.insert("queue.max.messages".to_owned(), "3".to_owned());
    let admin = cluster.admin().await;
    admin.create_queue(queue).await.expect("it is created");
    expect_ready(&cluster, "jobs", 0).await;
    let client = cluster.client().await;
    let send = async |count: usize| {
        let config = QueueProducerConfig {
            send_timeout: Duration::from_millis(1_500),
            ..QueueProducerConfig::default()
        };
        let producer = client.queue_producer("jobs", config).await.expect("it is there");
        let messages = (0..count).map(|number| QueueMessage::new(number.to_string()));
        producer.send_batch(messages.collect()).await
    };
    assert!(send(3).await.iter().all(Result::is_ok));
    let refused = send(1).await.remove(0).expect_err("the queue is full");
    assert_eq!(refused.reason(), Some(Reason::QueueFull), "{refused}");
    let jobs = client.queue("jobs");
    let receive = async |messages: u32| {
        let options = ReceiveOptions {
            messages,
            wait: Duration::from_secs(10),
            ..ReceiveOptions::default()
        };
        jobs.receive(options).await.expect("its leader answers")
    };
    let first = receive(2).await;
    let says = [Settlement::Ack, Settlement::Release];
    let items = first.iter().map(|message| message.token.clone()).zip(says);
    jobs.settle(items.collect()).await.expect("its leader answers");
    let again = receive(1).await.remove(0);
    assert_eq!(again.deliveries, 2);
    let reason = String::new();
    let reject = vec![(again.token, Settlement::Reject { reason })];
    jobs.settle(reject).await.expect("its leader answers");

    let described = admin.describe_queue("jobs").await.expect("a broker answers");
    let counts = described.partitions[0].counts.clone().expect("its leader answers");
    assert_eq!((counts.ready, counts.leased, counts.dead), (1, 0, 1));
    let tally = counts.tally;
    assert_eq!((tally.sent, tally.acknowledged, tally.dead), (3, 1, 1));
    assert_eq!((tally.delivered, tally.redelivered), (3, 1));
    assert!(tally.refused_full >= 1, "{tally:?}");
    let [(0, age)] = counts.oldest[..] else {
        panic!("{:?}", counts.oldest)
    };
    assert!(
        age >= Duration::from_secs(1),
        "it is older than the try to send another one: {age:?}"
    );

    let scrape = Scrape::of(&cluster, 1).await;
    let of_queue = |name: &str| scrape.sum(name, &[("queue", "jobs")]);
    assert_eq!(of_queue("jangada_queue_sent_messages_total"), Some(3.0));
    assert_eq!(of_queue("jangada_queue_redelivered_messages_total"), Some(1.0));
    assert_eq!(of_queue("jangada_queue_acknowledged_messages_total"), Some(1.0));
    assert!(of_queue("jangada_queue_refused_messages_total") >= Some(1.0));
    let dead = [("queue", "jobs"), ("reason", "rejected")];
    assert_eq!(
        scrape.sum("jangada_queue_dead_lettered_messages_total", &dead),
        Some(1.0)
    );
    assert!(of_queue("jangada_queue_oldest_message_age_seconds") >= Some(1.0));
    let text = cluster.cli(&["queue", "describe", "jobs"]).await.expect(0).text();
    for shown in ["REDELIVERED", "BREAKER", "closed"] {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_batch_that_is_too_large_for_the_queue_what_fits_is_sent() {
    let cluster = Cluster::start(1).await;
    let admin = cluster.admin().await;
    let client = cluster.client().await;
    for (name, dedup) in [("plain", "none"), ("recognizes", "id")] {
        let mut queue = NewQueue::new(name, 1, 1);
        for (key, value) in [("queue.max.messages", "5"), ("queue.dedup", dedup)] {
            queue.config.insert(key.to_owned(), value.to_owned());
        }
        admin.create_queue(queue).await.expect("it is created");
        let config = QueueProducerConfig {
            send_timeout: Duration::from_millis(1_500),
            ..QueueProducerConfig::default()
        };
        let producer = client.queue_producer(name, config).await.expect("it is there");
        let messages = |from: u32| {
            let messages = (from..from + 8).map(|number| {
                let number = number.to_string();
                QueueMessage::new(number.clone()).with_message_id(number)
            });
            messages.collect()
        };
        let sent = producer.send_batch(messages(0)).await;
        assert!(sent[..5].iter().all(Result::is_ok), "{name}: five fit: {sent:?}");
        for refused in &sent[5..] {
            let reason = refused.as_ref().expect_err("the queue is full").reason();
            assert_eq!(reason, Some(Reason::QueueFull), "{name}");
        }
        expect_ready(&cluster, name, 5).await;
        let queue = client.queue(name);
        let options = ReceiveOptions {
            messages: 10,
            wait: Duration::from_secs(10),
            ..ReceiveOptions::default()
        };
        let received = queue.receive(options).await.expect("its leader answers");
        let acks = received.into_iter().map(|message| (message.token, Settlement::Ack));
        queue.settle(acks.collect()).await.expect("its leader answers");
        let sent = producer.send_batch(messages(5)).await;
        assert!(
            sent[..5].iter().all(Result::is_ok),
            "{name}: there is room again: {sent:?}"
        );
        expect_ready(&cluster, name, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_counted_dropped_and_read_again() {
    let started = Cluster::start(3).await;
    let cluster = &started;
    cluster.create_topic(TOPIC, 2, 3).await;
    let admin = cluster.admin().await;
    let group = NewQueue::reading("billing", TOPIC, OffsetAt::Latest);
    admin.create_queue(group).await.expect("it is created");
    admin
        .create_queue(NewQueue::new("jobs", 2, 3))
        .await
        .expect("it is created");
    let cli = |args: &'static [&'static str]| async move { cluster.cli(args).await };
    expect_ready(cluster, "billing", 0).await;
    expect_ready(cluster, "jobs", 0).await;
    cluster
        .cli_with(&["produce", TOPIC], b"a\nb\nc\n".to_vec())
        .await
        .expect(0);
    expect_ready(cluster, "billing", 3).await;

    cli(&["queue", "purge", "billing"])
        .await
        .expect(2)
        .names(&["billing", "--yes"]);
    expect_ready(cluster, "billing", 3).await;
    cli(&["queue", "purge", "billing", "--yes"]).await.expect(0);
    expect_ready(cluster, "billing", 0).await;
    let sought = cli(&["queue", "seek", "billing", "--to", "earliest", "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(sought.as_array().map(Vec::len), Some(2), "{sought}");
    expect_ready(cluster, "billing", 3).await;
    for partition in 0..2 {
        let to = QueueSeek::At(OffsetAt::Latest);
        admin
            .seek_queue("billing", partition, to)
            .await
            .expect("it begins anew");
    }
    expect_ready(cluster, "billing", 0).await;
    cli(&["queue", "seek", "billing", "--to", "-1h"]).await.expect(0);
    expect_ready(cluster, "billing", 3).await;
    let shown = cli(&["queue", "describe", "billing"]).await.expect(0).text();
    assert!(shown.contains("CONSUMERS") && shown.contains("DELAYED"), "{shown}");

    let owned = admin.seek_queue("jobs", 0, QueueSeek::At(OffsetAt::Earliest)).await;
    assert_refused(owned, Reason::WrongQueueKind, &["jobs", "log of its own"]);
    assert_refused(
        admin.purge_queue("jobs", 2, None).await,
        Reason::UnknownPartition,
        &["jobs", "2"],
    );
    assert_refused(
        admin.purge_queue("none", 0, None).await,
        Reason::UnknownQueue,
        &["none"],
    );
    assert_refused(
        admin.purge_queue("billing", 0, Some(-1)).await,
        Reason::InvalidRequest,
        &["before_offset", "-1"],
    );
    for (dead, named) in [
        (
            DeadLetters {
                max_messages: 1_001,
                ..DeadLetters::default()
            },
            "1001",
        ),
        (
            DeadLetters {
                from_offset: -1,
                ..DeadLetters::default()
            },
            "from_offset",
        ),
        (
            DeadLetters {
                filter: DeadFilter {
                    reasons: vec!["old".to_owned()],
                    ..DeadFilter::default()
                },
                ..DeadLetters::default()
            },
            "old",
        ),
    ] {
        assert_refused(
            admin.list_dead("billing", &dead).await,
            Reason::InvalidRequest,
            &[named],
        );
        assert_refused(
            admin.purge_dead("billing", &dead).await,
            Reason::InvalidRequest,
            &[named],
        );
    }
    assert_eq!(
        cli(&["dlq", "ls", "billing", "-o", "json"]).await.expect(0).json(),
        json!([])
    );
    cli(&["dlq", "redrive", "billing", "--dry-run"])
        .await
        .expect(0)
        .names(&["0 dead letters"]);
    cli(&["dlq", "redrive", "billing", "--rate", "10"])
        .await
        .expect(0)
        .names(&["0 dead letters"]);
    cli(&["dlq", "purge", "billing"])
        .await
        .expect(2)
        .names(&["billing", "--yes"]);
    cli(&["dlq", "purge", "billing", "--yes"])
        .await
        .expect(0)
        .names(&["0 dead letters"]);
    cli(&["queue", "purge", "billing", "--yes"]).await.expect(0);
}
