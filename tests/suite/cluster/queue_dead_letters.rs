//! Dead letters of all partitions of a queue: shown, chosen, and sent out again, over brokers that fail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jangada_client::{
    Client, DeadFilter, QueueMessage, QueueProducerConfig, Reason, ReceiveOptions, ReceivedMessage, Redrive, Settlement,
};
use serde_json::Value;

use super::queues::create_queue;
use crate::harness::{Cluster, WAIT, eventually};

const QUEUE: &str = "jobs";

/// Sends messages one by one, so that they lie in several partitions, and rejects them.
async fn bury(client: &Client, messages: impl IntoIterator<Item = QueueMessage>) {
    let producer = client.queue_producer(QUEUE, QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    let mut left = 0;
    for message in messages {
        producer.send(message).await.expect("it is sent");
        left += 1;
    }
    while left > 0 {
        let got = receive(client).await;
        left -= got.len();
        let reject = Settlement::Reject {
            reason: "it is no job".to_owned(),
        };
        let items = got.into_iter().map(|message| (message.token, reject.clone()));
        client
            .queue(QUEUE)
            .settle(items.collect())
            .await
            .expect("a broker answers");
    }
}

async fn receive(client: &Client) -> Vec<ReceivedMessage> {
    let options = ReceiveOptions {
        messages: 1000,
        wait: Duration::from_secs(20),
        ..ReceiveOptions::default()
    };
    client.queue(QUEUE).receive(options).await.expect("a broker answers")
}

fn lines(text: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).expect("it is JSON");
    text.lines().map(line).collect()
}

async fn dead(cluster: &Cluster) -> usize {
    let listed = cluster.cli(&["dlq", "ls", QUEUE, "-o", "json"]).await.expect(0).json();
    listed.as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_shown_chosen_and_sent_out_again() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 3, &["queue.order=key"]).await;
    let client = cluster.client().await;
    let message = |number: u32| {
        let message = QueueMessage::new(number.to_string()).with_key(format!("customer {}", number % 5));
        message.with_message_id(format!("id {number}"))
    };
    bury(&client, (0..30).map(message)).await;
    assert_eq!(dead(&cluster).await, 30);

    // Whole, with what is known of their death.
    let peeked = cluster.cli(&["dlq", "peek", QUEUE, "-c", "1000"]).await.expect(0);
    let shown = lines(&peeked.text());
    let bodies: BTreeSet<&str> = shown.iter().filter_map(|letter| letter["body"].as_str()).collect();
    assert_eq!((shown.len(), bodies.len()), (30, 30));
    for letter in &shown {
        assert_eq!(
            (&letter["reason"], &letter["failures"]),
            (&"rejected".into(), &0.into()),
            "{letter}"
        );
        assert!(
            letter["died_at_ms"].as_u64().expect("a time") > 1_700_000_000_000,
            "{letter}"
        );
        assert!(letter["deliveries"].as_u64().expect("a number") >= 1, "{letter}");
        assert!(
            letter["key"].as_str().expect("a key").starts_with("customer "),
            "{letter}"
        );
    }
    let few = cluster
        .cli(&["dlq", "peek", QUEUE, "-c", "1", "--key", "customer 3"])
        .await
        .expect(0);
    let few = lines(&few.text());
    assert!(
        !few.is_empty() && few.iter().all(|letter| letter["key"] == "customer 3"),
        "{few:?}"
    );

    // Chosen: nothing died an hour ago, or of another reason.
    for none in [
        ["--died-before", "1h"],
        ["--reason", "expired"],
        ["--key", "customer 9"],
    ] {
        let args = [&["dlq", "redrive", QUEUE], &none[..]].concat();
        cluster.cli(&args).await.expect(0).names(&["0 dead letters"]);
    }
    let dry = cluster
        .cli(&["dlq", "redrive", QUEUE, "--dry-run", "--died-since", "1h"])
        .await
        .expect(0);
    dry.names(&["30 dead letters", "would"]);
    assert_eq!(dead(&cluster).await, 30, "it was a dry run");
    let args = ["dlq", "redrive", QUEUE, "--key", "customer 1", "-o", "json"];
    let redriven = cluster.cli(&args).await.expect(0).json();
    assert_eq!((&redriven["messages"], &redriven["refused"]), (&6.into(), &0.into()));
    assert_eq!(dead(&cluster).await, 24);
    let got = receive(&client).await;
    assert_eq!(got[0].key.as_deref(), Some(&b"customer 1"[..]));
    assert_eq!(got[0].failures, 0);

    // At a rate: 24 letters at 20 a second take more than a second.
    let began = Instant::now();
    cluster
        .cli(&["dlq", "redrive", QUEUE, "--rate", "20"])
        .await
        .expect(0)
        .names(&["24 dead letters"]);
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(dead(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_ends_with_its_call_and_goes_on_where_it_ended() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 3, &[]).await;
    let client = cluster.client().await;
    bury(&client, (0..60).map(|number| QueueMessage::new(number.to_string()))).await;
    let admin = cluster.admin().await;
    let slow = Redrive {
        rate: 50,
        ..Redrive::default()
    };
    let mut redriving = admin.redrive_dead(QUEUE, slow).await.expect("the queue is there");
    let first = loop {
        let step = redriving
            .next()
            .await
            .expect("there is more")
            .expect("a broker answers");
        if step.messages >= 10 {
            break step;
        }
    };
    assert!(!first.left.is_empty() && first.messages < 60, "{first:?}");
    drop(redriving);
    // What was under way when the call ended is done, and no more: the count stands.
    let after = eventually("the redrive has ended", WAIT, || async {
        let before = dead(&cluster).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        (dead(&cluster).await == before).then_some(before)
    })
    .await;
    assert!(after > 0 && after <= 60 - 10, "{after} are dead");
    let rest = Redrive {
        places: first.left,
        ..Redrive::default()
    };
    let mut redriving = admin.redrive_dead(QUEUE, rest).await.expect("the queue is there");
    while let Some(step) = redriving.next().await {
        step.expect("a broker answers");
    }
    assert_eq!(redriving.progress().messages, after as u64);
    assert_eq!(dead(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_goes_on_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 3, &[]).await;
    let client = cluster.client().await;
    bury(&client, (0..120).map(|number| QueueMessage::new(number.to_string()))).await;
    let admin = cluster.admin().await;
    let slow = Redrive {
        rate: 20,
        ..Redrive::default()
    };
    let mut redriving = admin.redrive_dead(QUEUE, slow).await.expect("the queue is there");
    let mut is_killed = false;
    while let Some(step) = redriving.next().await {
        let step = step.expect("another broker goes on");
        if step.messages >= 20 && !is_killed {
            is_killed = true;
            let victim = cluster.leader(QUEUE, 0).await;
            cluster.kill(victim);
        }
    }
    assert!(is_killed && redriving.progress().left.is_empty());
    let mut got = BTreeSet::new();
    while got.len() < 120 {
        got.extend(receive(&client).await.into_iter().map(|message| message.place));
    }
    assert_eq!(dead(&cluster).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_that_makes_no_sense_is_refused() {
    let cluster = Cluster::start(1).await;
    cluster
        .cli(&["queue", "create", QUEUE, "--partitions", "2", "--replicas", "1"])
        .await
        .expect(0);
    let admin = cluster.admin().await;
    let with = |filter| Redrive {
        filter,
        ..Redrive::default()
    };
    let reasons = DeadFilter {
        reasons: vec!["old".to_owned()],
        ..DeadFilter::default()
    };
    let key = DeadFilter {
        key: Some("customer 7".into()),
        ..DeadFilter::default()
    };
    let place = |partition, offset| Redrive {
        places: [(partition, offset)].into(),
        ..Redrive::default()
    };
    for (wanted, reason, named) in [
        (with(reasons), Reason::InvalidRequest, "old"),
        (with(key), Reason::InvalidRequest, "queue.order=key"),
        (place(2, 0), Reason::UnknownPartition, "2"),
        (place(0, -1), Reason::InvalidRequest, "-1"),
    ] {
        let mut redriving = admin.redrive_dead(QUEUE, wanted).await.expect("the queue is there");
        let error = redriving.next().await.expect("an answer").expect_err("it is refused");
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(redriving.next().await.is_none(), "it is over");
    }
    let unknown = admin.redrive_dead("none", Redrive::default()).await.err();
    assert_eq!(unknown.and_then(|error| error.reason()), Some(Reason::UnknownQueue));
    cluster
        .cli(&["dlq", "redrive", "none"])
        .await
        .expect(1)
        .names(&["none"]);
    cluster
        .cli(&["dlq", "peek", QUEUE, "-p", "2"])
        .await
        .expect(1)
        .names(&["2"]);
}
