//! A queue in a simulated cluster: messages are sent while a broker stops and comes back, and consumers acknowledge,
//! refuse, give back, stand still until their lease is over, or die with what they received. Nothing that was sent is lost, nothing that
//! was acknowledged comes again, and the same seed gives the same run.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jangada_client::{
    Client, ClientConfig, ClientError, NewQueue, QueueConsumerConfig, QueueDelivery, QueueMessage, QueueProducerConfig,
    ReceiveOptions,
};
use jangada_env::Random;
use jangada_simulator::{Simulation, Trace};
use tokio::time::{Instant, sleep, timeout};

use crate::running::{Brokers, TIMEOUT, assert_same, stop};

const QUEUE: &str = "jobs";
const PARTITIONS: u32 = 3;
const MESSAGES: u32 = 150;
const CONSUMERS: usize = 2;
/// A consumer that stands still has its messages for so long.
const LEASE: Duration = Duration::from_secs(2);
/// Whoever has a message believes for so much longer that it has it, at most, than its leader: it takes that long to come.
const SAME_TIME: Duration = Duration::from_millis(250);
/// All messages are acknowledged by then, though some of their consumers stood still or died.
const ALL_ACKED: Duration = Duration::from_secs(600);

/// What became of the messages, as their consumers know it.
struct Seen {
    simulation: Arc<Simulation>,
    /// What was acknowledged, and when.
    acknowledged: RefCell<BTreeMap<String, Instant>>,
    deliveries: Cell<u64>,
    /// Messages that came more than once before they were acknowledged.
    again: Cell<u64>,
    delivered: RefCell<BTreeSet<String>>,
    /// The consumers are to end.
    is_over: Cell<bool>,
}

impl Seen {
    fn new(simulation: Arc<Simulation>) -> Self {
        Self {
            simulation,
            acknowledged: RefCell::default(),
            deliveries: Cell::new(0),
            again: Cell::new(0),
            delivered: RefCell::default(),
            is_over: Cell::new(false),
        }
    }

    /// A message has come.
    fn came(&self, to: &str, body: &str) {
        self.simulation.note(format_args!("{to} gets {body}"));
        let acknowledged = self.acknowledged.borrow().get(body).copied();
        assert!(
            acknowledged.is_none_or(|at| at.elapsed() <= SAME_TIME),
            "{body} comes to {to} and was acknowledged before"
        );
        self.deliveries.set(self.deliveries.get() + 1);
        if !self.delivered.borrow_mut().insert(body.to_owned()) {
            self.again.set(self.again.get() + 1);
        }
    }

    /// A message was acknowledged, and the broker has said so.
    fn acked(&self, body: &str) {
        self.simulation.note(format_args!("{body} is done"));
        self.acknowledged
            .borrow_mut()
            .entry(body.to_owned())
            .or_insert_with(Instant::now);
    }

    fn are_all_done(&self) -> bool {
        self.acknowledged.borrow().len() == MESSAGES as usize
    }
}

fn text(body: Option<&[u8]>) -> String {
    String::from_utf8_lossy(body.unwrap_or_default()).into_owned()
}

/// Settles a message as chance has it.
async fn settle(seen: &Seen, chance: u64, delivery: QueueDelivery) {
    let body = text(delivery.body.as_deref());
    match chance % 10 {
        0 => return drop(delivery.nack(Some(Duration::from_millis(300))).await),
        1 => return drop(delivery.release().await),
        // Leases are not extended, and run out.
        2 => sleep(2 * LEASE).await,
        _ => {}
    }
    match delivery.ack().await {
        Ok(()) => seen.acked(&body),
        // It is somebody else's by now.
        Err(ClientError::LeaseLost) => {}
        Err(error) => panic!("{body}: {error}"),
    }
}

/// A consumer's stream, until all is over.
async fn consume(seen: &Seen, name: &str, client: Client, chance: Random) {
    let config = QueueConsumerConfig {
        prefetch: 5,
        extend_for: Duration::ZERO,
        ..QueueConsumerConfig::default()
    };
    let mut consumer = client.queue_consumer(QUEUE, config).await.expect("the queue is there");
    while !seen.is_over.get() {
        match timeout(Duration::from_secs(1), consumer.next()).await {
            Ok(Ok(delivery)) => {
                seen.came(name, &text(delivery.body.as_deref()));
                sleep(Duration::from_millis(chance.number() % 50)).await;
                settle(seen, chance.number(), delivery).await;
            }
            Ok(Err(error)) => panic!("{name}: {error}"),
            Err(_) => {}
        }
    }
}

/// Receives messages again and again, and dies each time with what it has.
async fn crash(seen: &Seen, name: &str, client: Client) {
    let queue = client.queue(QUEUE);
    while !seen.is_over.get() {
        let options = ReceiveOptions {
            messages: 3,
            lease: Some(LEASE),
            ..ReceiveOptions::default()
        };
        for message in queue.receive(options).await.expect("a majority lives") {
            seen.came(name, &text(message.body.as_deref()));
        }
        sleep(Duration::from_secs(3)).await;
    }
}

/// Sends messages with these numbers.
async fn send(simulation: &Simulation, client: &Client, numbers: std::ops::Range<u32>) {
    let producer = client.queue_producer(QUEUE, QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    for number in numbers {
        let sent = producer.send(QueueMessage::new(format!("job {number}"))).await;
        let place = sent.expect("a majority lives").place;
        simulation.note(format_args!(
            "job {number} is at {} of partition {}",
            place.offset, place.partition
        ));
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the queue has nothing any more, as its leaders count it.
async fn drained(client: &Client) {
    let admin = client.admin();
    let drained = async {
        loop {
            let described = admin.describe_queue(QUEUE).await.expect("a majority lives");
            let left = described.partitions.iter().map(|depth| {
                let counts = depth.counts.as_ref()?;
                Some(counts.ready + counts.leased + counts.waiting + counts.dead)
            });
            let left: Option<u64> = left.sum();
            if left == Some(0) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(TIMEOUT, drained).await.expect("nothing is left in the queue");
}

/// The play. Gives how many deliveries there were, and how many of messages that had come before.
async fn play(simulation: Arc<Simulation>) -> (u64, u64) {
    let brokers = Brokers::new(&simulation, 3);
    let mut processes = BTreeMap::new();
    for broker in 1..=3 {
        processes.insert(broker, brokers.start(broker).await);
    }
    let addresses = brokers.addresses();
    let connect = async |name: &str| {
        let host = simulation.host(name);
        let client = host.connect(ClientConfig::new(&addresses)).await;
        (client.expect("the cluster is there"), host.env().random)
    };
    let (sender, chance) = connect("sender").await;
    let mut queue = NewQueue::new(QUEUE, PARTITIONS, 3);
    for (name, value) in [("queue.attempts.max", "none"), ("queue.lease.ms", "2000")] {
        queue.config.insert(name.to_owned(), value.to_owned());
    }
    sender
        .admin()
        .create_queue(queue)
        .await
        .expect("there are three brokers");
    let seen = Seen::new(simulation.clone());
    let mut consumers = Vec::new();
    for number in 1..=CONSUMERS {
        let name = format!("consumer {number}");
        let (client, chance) = connect(&name).await;
        consumers.push((name, client, chance));
    }
    let (crashing, _) = connect("crashing consumer").await;

    let sending = async {
        send(&simulation, &sender, 0..MESSAGES / 3).await;
        // Each of them leads one partition.
        let leader = u32::try_from(chance.number() % 3).expect("it is small") + 1;
        simulation.note(format_args!("broker {leader} stops"));
        stop(&processes[&leader]).await;
        send(&simulation, &sender, MESSAGES / 3..2 * MESSAGES / 3).await;
        simulation.note(format_args!("broker {leader} comes back"));
        processes.insert(leader, brokers.start(leader).await);
        send(&simulation, &sender, 2 * MESSAGES / 3..MESSAGES).await;
        let all = async {
            while !seen.are_all_done() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(ALL_ACKED, all)
            .await
            .expect("every message is acknowledged in the end");
        drained(&sender).await;
        seen.is_over.set(true);
    };
    let consuming = consumers
        .into_iter()
        .map(|(name, client, chance)| {
            let seen = &seen;
            async move { consume(seen, &name, client, chance).await }
        })
        .collect::<Vec<_>>();
    let ((), _, ()) = tokio::join!(
        sending,
        futures::future::join_all(consuming),
        crash(&seen, "crashing consumer", crashing)
    );
    for process in processes.values() {
        stop(process).await;
    }
    (seen.deliveries.get(), seen.again.get())
}

fn run(seed: u64) -> Trace {
    let ((deliveries, again), trace) = Simulation::run(seed, play);
    assert!(again > 0, "some came again, of {deliveries} deliveries");
    trace
}

#[test]
fn nothing_acknowledged_comes_again_and_a_seed_gives_the_same_run() {
    let (one, again) = (run(11), run(11));
    assert_same(&one, &again);
    let lines = one.lines();
    for said in ["job 149 is at", "gets job", "job 149 is done", "comes back"] {
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{said:?} is not in the trace"
        );
    }
}

#[test]
fn other_seeds_lose_nothing_either() {
    let traces: Vec<Trace> = (12..15).map(run).collect();
    assert!(
        traces[0].first_difference(&traces[1]).is_some(),
        "two seeds give the same run"
    );
}
