//! Work queues while leaders are killed and disks are full: nothing is lost, and nothing that was acknowledged comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jangada_client::{
    BrokerId, ClientError, QueueConsumerConfig, QueueMessage, QueueProducerConfig, Reason, ReceiveOptions, Settled,
    Settlement,
};

use super::queues::create_queue;
use crate::harness::{Cluster, Options, SmallDisk, WAIT, eventually, is_long, skipped};

const QUEUE: &str = "jobs";
const PARTITIONS: u32 = 3;
const PRODUCERS: u64 = 4;
const CONSUMERS: usize = 4;

/// A message by its number, and its place: the partition and the offset.
type Placed = (u64, u32, i64);

/// What became of the messages.
#[derive(Default)]
struct Seen {
    /// Sent for certain, or perhaps.
    sent: Mutex<BTreeMap<u64, bool>>,
    /// How often each came, by its number and its place: a message whose outcome was not known to its sender may have been sent twice,
    /// and has two places then. And whether its acknowledgement was confirmed before the last time.
    came: Mutex<BTreeMap<Placed, (u32, bool)>>,
    duplicates: AtomicU64,
    /// Messages that came again after they were acknowledged.
    after_acknowledgement: AtomicU64,
    lease_lost: AtomicU64,
    /// The longest time in which no message was acknowledged.
    gap_ms: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_leaders_are_killed_and_nothing_acknowledged_comes_again() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 20 });
    let mut cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, PARTITIONS, &[]).await;
    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut producing = Vec::new();
    for producer in 0..PRODUCERS {
        let client = cluster.client().await;
        let (seen, stop) = (seen.clone(), stop.clone());
        producing.push(tokio::spawn(async move {
            let producer_of = client.queue_producer(QUEUE, QueueProducerConfig::default()).await;
            let sender = producer_of.expect("the queue is there");
            let mut number = producer;
            while !stop.load(Ordering::Relaxed) {
                let batch: Vec<u64> = (0..10).map(|at| number + at * PRODUCERS).collect();
                number += 10 * PRODUCERS;
                let messages = batch
                    .iter()
                    .map(|number| QueueMessage::new(number.to_be_bytes().to_vec()).with_message_id(number.to_string()));
                let sent = sender.send_batch(messages.collect()).await;
                let sent = batch.into_iter().zip(sent).filter_map(|(number, sent)| match sent {
                    Ok(_) => Some((number, true)),
                    Err(error) => (!error.is_definite()).then_some((number, false)),
                });
                seen.sent.lock().expect("nothing panicked").extend(sent);
                // About the load that is wanted; the machine has few cores.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    let mut consuming = Vec::new();
    for _ in 0..CONSUMERS {
        let client = cluster.client().await;
        let seen = seen.clone();
        consuming.push(tokio::spawn(async move { consume(&client, &seen).await }));
    }
    let began = Instant::now();
    let mut kills = 0;
    while began.elapsed() < duration {
        let victim = cluster.leader(QUEUE, kills % PARTITIONS).await;
        // The moment of the kill is chance: it is to hit commands at every step of their way.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        cluster.kill(victim);
        // The time that it is down is the fault itself: long enough for another leader, and for leases of its consumers to be taken over.
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.restart(victim);
        cluster.healthy().await;
        kills += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for task in producing {
        task.await.expect("it has not panicked");
    }
    let client = cluster.client().await;
    let queue = client.queue(QUEUE);
    eventually("all messages are done", WAIT, || async {
        for partition in 0..PARTITIONS {
            if !queue.peek(partition, 0, &[], 1).await.ok()?.messages.is_empty() {
                return None;
            }
        }
        Some(())
    })
    .await;
    consuming.iter().for_each(tokio::task::JoinHandle::abort);
    let (sent, came) = (
        seen.sent.lock().expect("nothing panicked"),
        seen.came.lock().expect("nothing panicked"),
    );
    let numbers: BTreeSet<u64> = came.keys().map(|(number, ..)| *number).collect();
    let lost: Vec<&u64> = sent
        .iter()
        .filter(|(number, certain)| **certain && !numbers.contains(number))
        .map(|(number, _)| number)
        .collect();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{kills} leaders killed, {} messages sent, {} came, {} sent twice, {} came again, {} leases lost; {} ms without an acknowledgement",
        sent.len(),
        numbers.len(),
        came.len() - numbers.len(),
        count(&seen.duplicates),
        count(&seen.lease_lost),
        count(&seen.gap_ms),
    );
    assert!(kills > 0 && sent.len() > 100, "there was something to lose");
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(
        count(&seen.after_acknowledgement),
        0,
        "what was acknowledged came again"
    );
}

async fn consume(client: &jangada_client::Client, seen: &Arc<Seen>) {
    let config = QueueConsumerConfig {
        prefetch: 50,
        ..QueueConsumerConfig::default()
    };
    let mut consumer = client.queue_consumer(QUEUE, config).await.expect("the queue is there");
    let mut last = Instant::now();
    loop {
        let message = match consumer.next().await {
            Ok(message) => message,
            Err(error) if error.is_retryable() => continue,
            Err(error) => panic!("{error}"),
        };
        let bytes = message.body.as_deref().expect("it has a body");
        let number = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        let place = (number, message.place.partition, message.place.offset);
        {
            let mut came = seen.came.lock().expect("nothing panicked");
            let (times, acknowledged) = came.entry(place).or_default();
            *times += 1;
            if *times > 1 {
                seen.duplicates.fetch_add(1, Ordering::Relaxed);
            }
            if *acknowledged {
                seen.after_acknowledgement.fetch_add(1, Ordering::Relaxed);
            }
        }
        let seen = seen.clone();
        let gap = u64::try_from(last.elapsed().as_millis()).expect("it is short");
        seen.gap_ms.fetch_max(gap, Ordering::Relaxed);
        last = Instant::now();
        tokio::spawn(async move {
            match message.ack().await {
                Ok(()) => {
                    let mut came = seen.came.lock().expect("nothing panicked");
                    came.entry(place).or_default().1 = true;
                }
                Err(ClientError::LeaseLost) => drop(seen.lease_lost.fetch_add(1, Ordering::Relaxed)),
                // It may come again.
                Err(_) => {}
            }
        });
    }
}

const DISK_BYTES: u64 = 256 * 1024 * 1024;
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// More than half of the reserve: acknowledgements are taken there.
const LEFT_BYTES: u64 = RESERVE_BYTES * 3 / 4;
/// The node with the small disk.
const POOR: u32 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_messages_and_takes_acknowledgements() {
    let disk = match SmallDisk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            let why = format!("it takes a file system of its own, which only root may mount: {why}");
            return skipped("a_full_disk_refuses_messages_and_takes_acknowledgements", &why);
        }
    };
    let options = Options {
        stopped: true,
        sections: "[cluster]\npreferred_leader_after_ms = 0".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    super::disk_full::give_disk(&cluster, &disk);
    cluster.start_all();
    cluster.healthy().await;
    create_queue(&cluster, QUEUE, 1, &[]).await;
    let admin = cluster.admin().await;
    let led = admin.transfer_leader(QUEUE, 0, BrokerId(POOR)).await;
    assert_eq!(led.expect("all are in sync").id, BrokerId(POOR));
    let client = cluster.client().await;
    let config = QueueProducerConfig {
        send_timeout: Duration::from_millis(500),
        ..QueueProducerConfig::default()
    };
    let producer = client.queue_producer(QUEUE, config).await.expect("the queue is there");
    for number in 0..10_u32 {
        producer
            .send(QueueMessage::new(number.to_string()))
            .await
            .expect("there is space");
    }
    let options = ReceiveOptions {
        messages: 10,
        wait: Duration::from_secs(10),
        ..ReceiveOptions::default()
    };
    let got = client
        .queue(QUEUE)
        .receive(options.clone())
        .await
        .expect("its leader answers");
    assert_eq!(got.len(), 10);
    disk.fill(LEFT_BYTES);
    let refused = eventually("the node looks at its disk", WAIT, || async {
        producer.send(QueueMessage::new("meanwhile")).await.err()
    })
    .await;
    assert_eq!(refused.reason(), Some(Reason::DiskFull), "{refused}");
    let items = got
        .into_iter()
        .map(|message| (message.token, Settlement::Ack))
        .collect();
    let settled = client
        .queue(QUEUE)
        .settle(items)
        .await
        .expect("acknowledgements are taken");
    assert!(settled.iter().all(|settled| *settled == Settled::Done), "{settled:?}");
    disk.empty();
    eventually("there is space again", WAIT, || async {
        producer.send(QueueMessage::new("after")).await.ok()
    })
    .await;
}
