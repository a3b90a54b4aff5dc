//! The same seed gives the same run: three brokers, a producer and a consumer, in one process.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_client::{ClientConfig, ConsumerConfig, NewTopic, Producer, ProducerConfig, ProducerRecord, StartAt};
use jangada_simulator::{Simulation, Trace};
use tokio::time::timeout;

use crate::running::{Brokers, TIMEOUT, assert_same, stop};

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
    let brokers = Brokers::new(&simulation, 3);
    let mut processes = BTreeMap::new();
    for broker in 1..=3 {
        processes.insert(broker, brokers.start(broker).await);
    }
    let addresses = brokers.addresses();
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
    stop(&processes[&leader]).await;
    produce(&simulation, &producer, RECORDS / 3..2 * RECORDS / 3).await;
    simulation.note(format_args!("broker {leader} comes back"));
    processes.insert(leader, brokers.start(leader).await);
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
    for process in processes.values() {
        stop(process).await;
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
