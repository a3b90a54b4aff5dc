//! Dead letters that go to another topic or queue: once each, while leaders are killed, and while the target is full or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jangada_client::{
    Client, Header, QueueMessage, QueueProducerConfig, ReceiveOptions, ReceivedMessage, Settled, Settlement,
};

use super::queues::create_queue;
use crate::harness::{Cluster, WAIT, consumer_from_start, eventually, is_long};

const QUEUE: &str = "jobs";
const DEAD: &str = "dead";
const PARTITIONS: u32 = 2;
/// A message that fails goes out again at once.
const AT_ONCE: [&str; 2] = ["queue.retry.min.ms=0", "queue.retry.max.ms=0"];

/// What becomes of a message. Most are acknowledged: when most fail the queue hands out few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Rejected,
    Fails,
    Done,
}

impl Fate {
    fn of(number: u64) -> Self {
        match number % 20 {
            0 | 10 => Self::Rejected,
            5 => Self::Fails,
            _ => Self::Done,
        }
    }

    fn settlement(self) -> Settlement {
        match self {
            Self::Rejected => Settlement::Reject { reason: String::new() },
            Self::Fails => Settlement::Nack {
                delay: None,
                failed: true,
            },
            Self::Done => Settlement::Ack,
        }
    }
}

async fn send(client: &Client, queue: &str, numbers: impl Iterator<Item = u64>) -> Vec<(u64, bool)> {
    let producer = client.queue_producer(queue, QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    let numbers: Vec<u64> = numbers.collect();
    let message = |number: &u64| QueueMessage::new(number.to_string()).with_header("trace", format!("t-{number}"));
    let sent = producer.send_batch(numbers.iter().map(message).collect()).await;
    let sent = numbers.into_iter().zip(sent);
    let sent = sent.filter_map(|(number, sent)| match sent {
        Ok(_) => Some((number, true)),
        Err(error) => (!error.is_definite()).then_some((number, false)),
    });
    sent.collect()
}

async fn receive(client: &Client, queue: &str, messages: u32) -> Vec<ReceivedMessage> {
    let options = ReceiveOptions {
        messages,
        wait: Duration::from_secs(1),
        ..ReceiveOptions::default()
    };
    // Whoever asks comes again.
    client.queue(queue).receive(options).await.unwrap_or_default()
}

fn number_of(body: Option<&[u8]>) -> u64 {
    let text = std::str::from_utf8(body.expect("it has a body")).expect("it is text");
    text.parse().expect("it is a number")
}

fn said(headers: &[Header]) -> BTreeMap<String, String> {
    let text = |header: &Header| String::from_utf8(header.value.clone().unwrap_or_default().to_vec());
    let said = headers
        .iter()
        .map(|header| (header.key.clone(), text(header).expect("it is text")));
    let said: BTreeMap<String, String> = said.collect();
    assert_eq!(said.len(), headers.len(), "each header is there once: {headers:?}");
    said
}

/// Settles messages by their fate until it is stopped.
async fn consume(client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let fate = |message: &ReceivedMessage| Fate::of(number_of(message.body.as_deref()));
        let messages = receive(&client, QUEUE, 100).await;
        let items = messages
            .iter()
            .map(|message| (message.token.clone(), fate(message).settlement()));
        // What is not settled comes again.
        let _ = client.queue(QUEUE).settle(items.collect()).await;
    }
}

async fn is_empty(client: &Client, queue: &str) -> Option<()> {
    let queue = client.queue(queue);
    for partition in 0..PARTITIONS {
        if !queue.peek(partition, 0, &[], 1).await.ok()?.messages.is_empty() {
            return None;
        }
    }
    Some(())
}

/// A letter in a topic: its number, and what its headers say.
type Letter = (u64, BTreeMap<String, String>);

async fn letters(client: &Client, topic: &str) -> Vec<Letter> {
    let mut consumer = consumer_from_start(client, topic).await;
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut letters = Vec::new();
    while !consumer.reached(&ends) {
        let batch = tokio::time::timeout(WAIT, consumer.next_batch()).await;
        for record in batch.expect("it can be read").expect("the leaders answer") {
            letters.push((number_of(record.value.as_deref()), said(&record.headers)));
        }
    }
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_arrive_once_while_leaders_are_killed() {
    let kills = if is_long() { 100 } else { 5 };
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(DEAD, PARTITIONS, 3).await;
    let goes = format!("queue.dead.letter.topic={DEAD}");
    create_queue(
        &cluster,
        QUEUE,
        PARTITIONS,
        &[&goes, AT_ONCE[0], AT_ONCE[1], "queue.lease.ms=2000"],
    )
    .await;
    let (stop_sending, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let sent = Arc::new(Mutex::new(BTreeMap::new()));
    let sending = tokio::spawn({
        let (client, sent, stop) = (cluster.client().await, sent.clone(), stop_sending.clone());
        async move {
            let mut next = 0;
            while !stop.load(Ordering::Relaxed) {
                let outcomes = send(&client, QUEUE, next..next + 20).await;
                next += 20;
                sent.lock().expect("nothing panicked").extend(outcomes);
                // About the load that is wanted; the machine has few cores.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let mut consuming = Vec::new();
    for _ in 0..2 {
        consuming.push(tokio::spawn(consume(cluster.client().await, stop.clone())));
    }
    for kill in 0..kills {
        // In turn who sends letters, and who takes them.
        let topic = if kill % 2 == 0 { QUEUE } else { DEAD };
        let victim = cluster.leader(topic, kill / 2 % PARTITIONS).await;
        // The moment of the kill is chance: it is to hit batches at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..400))).await;
        cluster.kill(victim);
        // The time that it is down is the fault itself: long enough for another leader.
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.restart(victim);
        cluster.healthy().await;
    }
    stop_sending.store(true, Ordering::Relaxed);
    sending.await.expect("it has not panicked");
    let client = cluster.client().await;
    eventually("all letters are gone", WAIT * 2, || is_empty(&client, QUEUE)).await;
    stop.store(true, Ordering::Relaxed);
    for task in consuming {
        task.await.expect("it has not panicked");
    }
    let letters = letters(&client, DEAD).await;
    let sent = sent.lock().expect("nothing panicked");
    let arrived: BTreeSet<u64> = letters.iter().map(|(number, _)| *number).collect();
    let lost: Vec<&u64> = sent
        .iter()
        .filter(|(number, certain)| **certain && Fate::of(**number) != Fate::Done && !arrived.contains(number))
        .map(|(number, _)| number)
        .collect();
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, said) in &letters {
        *times.entry(&said["jangada-dead-id"]).or_default() += 1;
    }
    let twice: Vec<(&str, u32)> = times
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(id, times)| (*id, *times))
        .collect();
    println!(
        "{kills} leaders killed, {} messages sent, {} letters: {} lost, {} twice",
        sent.len(),
        letters.len(),
        lost.len(),
        twice.len()
    );
    assert!(letters.len() > 30, "there was something to lose");
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(twice.is_empty(), "arrived more than once: {twice:?}");
    for (number, said) in &letters {
        // Leases that run out while leaders are killed are failures, too: five of them kill any message.
        let failed = said["jangada-dead-reason"] == "attempts" && said["jangada-dead-failures"] == "5";
        let rejected = said["jangada-dead-reason"] == "rejected" && Fate::of(*number) == Fate::Rejected;
        assert!(failed || rejected, "{number}: {said:?}");
        assert_eq!(
            (&*said["jangada-dead-queue"], &*said["trace"]),
            (QUEUE, &*format!("t-{number}"))
        );
    }
}

/// Since when letters do not arrive, as `queue describe` says; none: they do.
async fn stuck(cluster: &Cluster) -> Option<u64> {
    let described = cluster
        .cli(&["queue", "describe", QUEUE, "-o", "json"])
        .await
        .expect(0)
        .json();
    let depth = described["depth"].as_array().expect("it has partitions");
    let since_ms = depth
        .iter()
        .find_map(|depth| depth["counts"]["dead_stuck_since_ms"].as_u64())?;
    assert!(since_ms > 1_700_000_000_000, "{since_ms} is no time of today");
    Some(since_ms)
}

/// Whether a broker says in its log that letters do not arrive, and why.
fn is_logged(cluster: &Cluster, why: &str) -> bool {
    let says = |line: &str| line.contains("dead letters do not arrive") && line.contains(why);
    cluster
        .ids()
        .into_iter()
        .any(|id| cluster.node(id).log().lines().any(says))
}

/// Rejects messages of the queue as they come, until so many were.
async fn reject(client: &Client, count: usize) {
    let mut rejected = 0;
    while rejected < count {
        let messages = receive(client, QUEUE, 100).await;
        let items = messages
            .iter()
            .map(|message| (message.token.clone(), Fate::Rejected.settlement()))
            .collect();
        let settled = client.queue(QUEUE).settle(items).await.expect("a broker answers");
        rejected += settled.iter().filter(|settled| **settled == Settled::Done).count();
    }
}

/// Acknowledges so many messages of a queue: their numbers, and what their headers say.
async fn take(client: &Client, queue: &str, count: usize) -> Vec<Letter> {
    let mut taken = Vec::new();
    while taken.len() < count {
        for message in receive(client, queue, 100).await {
            let items = vec![(message.token.clone(), Settlement::Ack)];
            client.queue(queue).settle(items).await.expect("a broker answers");
            taken.push((number_of(message.body.as_deref()), said(&message.headers)));
        }
    }
    taken.sort_unstable_by_key(|(number, _)| *number);
    taken
}

fn numbers(letters: &[Letter]) -> Vec<u64> {
    letters.iter().map(|(number, _)| *number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_wait_for_a_queue_that_is_full_or_gone() {
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, DEAD, 1, &["queue.max.messages=5"]).await;
    let goes = format!("queue.dead.letter.topic={DEAD}");
    create_queue(&cluster, QUEUE, 1, &[&goes]).await;
    let client = cluster.client().await;
    send(&client, QUEUE, 0..4).await;
    reject(&client, 4).await;
    let arrived = |count: u64| {
        let admin = cluster.admin();
        async move {
            let described = admin.await.describe_queue(DEAD).await.ok()?;
            let ready = described
                .partitions
                .iter()
                .filter_map(|depth| depth.counts.as_ref())
                .map(|counts| counts.ready);
            (ready.sum::<u64>() == count).then_some(())
        }
    };
    eventually("the letters arrive", WAIT, || arrived(4)).await;
    assert_eq!(stuck(&cluster).await, None);
    // More than there is room for.
    send(&client, QUEUE, 4..8).await;
    reject(&client, 4).await;
    eventually("the queue says that they are stuck", WAIT, || stuck(&cluster)).await;
    assert!(is_logged(&cluster, "queue.max.messages"), "a broker logs why");
    // Others are not held up.
    send(&client, QUEUE, 8..9).await;
    assert_eq!(numbers(&take(&client, QUEUE, 1).await), [8]);
    let letters = take(&client, DEAD, 8).await;
    assert_eq!(numbers(&letters), (0..8).collect::<Vec<u64>>());
    let (_, said) = &letters[0];
    assert_eq!(
        (&*said["jangada-dead-queue"], &*said["jangada-dead-reason"]),
        (QUEUE, "rejected")
    );
    eventually("they are not stuck any more", WAIT, || async {
        stuck(&cluster).await.is_none().then_some(())
    })
    .await;
    // The target goes, and comes back as a topic.
    cluster.cli(&["queue", "rm", DEAD, "--yes"]).await.expect(0);
    send(&client, QUEUE, 10..13).await;
    reject(&client, 3).await;
    eventually("the queue says that they are stuck", WAIT, || stuck(&cluster)).await;
    assert!(is_logged(&cluster, "there is no topic or queue"), "a broker logs why");
    cluster.create_topic(DEAD, 3, 3).await;
    eventually("all letters are gone", WAIT, || async {
        let described = cluster.admin().await.describe_queue(QUEUE).await.ok()?;
        let dead = described
            .partitions
            .iter()
            .filter_map(|depth| depth.counts.as_ref())
            .map(|counts| counts.dead);
        (dead.sum::<u64>() == 0).then_some(())
    })
    .await;
    let mut arrived = numbers(&self::letters(&client, DEAD).await);
    arrived.sort_unstable();
    assert_eq!(arrived, [10, 11, 12]);
}
