//! The same seed gives the same run: three brokers, a producer and a consumer, in one process.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_client::{ClientConfig, ConsumerConfig, NewTopic, Producer, ProducerConfig, ProducerRecord, StartAt};
use jangada_simulator::{Host, Simulation, Trace};
use tokio::time::timeout;

use crate::running::{Running, TIMEOUT, assert_same};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;
const RECORDS: u32 = 300;

/// Sends records with these numbers, and notes where each went.
async fn produce(simulation: &Simulation, producer: &Producer, numbers: std::ops::Range<u32>) {
    let mut deliveries = Vec::new();
    for number in numbers {
        let record = ProducerRecord::new(TOPIC)
            .with_key(format!("customer {}", number % 17))
            .with_value(format!("order {number}"));
        let delivery = producer.send(record).await.expect("there is room");
        deliveries.push((number, delivery));
    }
    for (number, delivery) in deliveries {
        let stored = delivery.await.expect("a majority lives");
        simulation.note(format_args!(
            "order {number} is at {} of partition {}",
            stored.offset.expect("it was acknowledged"),
            stored.partition
        ));
    }
}

/// The play: a cluster forms, a topic is made, records are written and read while the broker that leads most stops and comes back.
async fn play(simulation: Arc<Simulation>) -> Vec<String> {
    let hosts: Vec<Host> = (1..=3)
        .map(|broker| simulation.host(&format!("broker-{broker}")))
        .collect();
    let seeds: Vec<String> = hosts.iter().map(|host| host.at(9440)).collect();
    let mut brokers = BTreeMap::new();
    for (host, broker) in hosts.iter().zip(1..) {
        brokers.insert(broker, Running::start(host, broker, &seeds).await);
    }
    let addresses: Vec<String> = hosts.iter().map(|host| host.at(9400)).collect();
    let writing = simulation.host("producer").connect(ClientConfig::new(&addresses)).await;
    let writing = writing.expect("the cluster forms");
    writing
        .admin()
        .create_topic(NewTopic::new(TOPIC, PARTITIONS, 3))
        .await
        .expect("there are three brokers");
    let producer = writing
        .producer(ProducerConfig::default())
        .expect("the settings are sound");
    let reading = simulation.host("consumer").connect(ClientConfig::new(&addresses)).await;
    let mut consumer = reading
        .expect("the cluster is there")
        .consumer(ConsumerConfig::default())
        .expect("the settings are sound");
    consumer
        .assign_topic(TOPIC, StartAt::Earliest)
        .await
        .expect("it was created");

    produce(&simulation, &producer, 0..RECORDS / 3).await;
    let leader = writing.topic(TOPIC).await.expect("it was created").partitions[0].leader;
    let leader = leader.expect("it has one").get();
    simulation.note(format_args!("broker {leader} stops"));
    brokers.remove(&leader).expect("it runs").stop().await;
    produce(&simulation, &producer, RECORDS / 3..2 * RECORDS / 3).await;
    simulation.note(format_args!("broker {leader} comes back"));
    let host = &hosts[leader as usize - 1];
    brokers.insert(leader, Running::start(host, leader, &seeds).await);
    produce(&simulation, &producer, 2 * RECORDS / 3..RECORDS).await;

    let mut read = Vec::new();
    for _ in 0..RECORDS {
        let record = timeout(TIMEOUT, consumer.next()).await.expect("all are there");
        let record = record.expect("a majority lives");
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        simulation.note(format_args!(
            "{value} is read at {} of partition {}",
            record.offset, record.partition
        ));
        read.push(value);
    }
    producer.close().await;
    for (_, broker) in brokers {
        broker.stop().await;
    }
    read
}

fn run(seed: u64) -> Trace {
    let (mut read, trace) = Simulation::run(seed, play);
    read.sort_unstable();
    let mut sent: Vec<String> = (0..RECORDS).map(|number| format!("order {number}")).collect();
    sent.sort_unstable();
    assert_eq!(read, sent, "each record is read once");
    trace
}

#[test]
fn a_seed_gives_the_same_run_again_and_another_seed_another() {
    let (one, again, other) = (run(7), run(7), run(8));
    assert_same(&one, &again);
    // The trace says what happened, so that being the same means something.
    let lines = one.lines();
    for said in ["net #", "leading", "order 299 is at", "order 299 is read", "comes back"] {
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{said:?} is not in the trace"
        );
    }
    assert!(
        one.first_difference(&other).is_some(),
        "seeds 7 and 8 give the same run"
    );
}
