//! What must be true of the disks of a real cluster is true of them, and what is not is found.

use std::sync::Arc;
use std::time::Duration;

use jangada_client::{ClientConfig, NewTopic, Producer, ProducerConfig, ProducerRecord};
use jangada_simulator::{Host, Invariants, Simulation};
use tokio::time::sleep;

use crate::running::Brokers;

const TOPIC: &str = "orders";

async fn producer(simulation: &Simulation, brokers: &Brokers) -> Producer {
    let client = simulation
        .host("client")
        .connect(ClientConfig::new(brokers.addresses()))
        .await;
    let client = client.expect("the cluster forms");
    client
        .admin()
        .create_topic(NewTopic::new(TOPIC, 2, 3))
        .await
        .expect("there are three brokers");
    client
        .producer(ProducerConfig::default())
        .expect("the settings are sound")
}

async fn send(producer: &Producer, count: usize) {
    for number in 0..count {
        let record = ProducerRecord::new(TOPIC)
            .with_key(number.to_string())
            .with_value("a lamp");
        let delivery = producer.send(record).await.expect("it is taken");
        delivery.await.expect("a majority lives");
    }
}

/// Starts three brokers, and has records in two partitions.
async fn cluster(simulation: &Simulation) -> (Brokers, Producer) {
    let brokers = Brokers::new(simulation, 3);
    let [one, two, three] = [1, 2, 3].map(|broker| brokers.start(broker));
    tokio::join!(one, two, three);
    let producer = producer(simulation, &brokers).await;
    send(&producer, 30).await;
    (brokers, producer)
}

fn kill(host: &Host) {
    host.process().expect("it was started").kill();
}

#[test]
fn they_hold_while_brokers_are_killed_and_lose_power() {
    Simulation::run(1, |simulation: Arc<Simulation>| async move {
        let (brokers, producer) = cluster(&simulation).await;
        let mut invariants = Invariants::new(&brokers.hosts);
        for (round, broker) in [1, 2, 3, 1, 2, 3].into_iter().enumerate() {
            let process = brokers.host(broker).process().expect("it was started");
            match round % 2 {
                0 => process.kill(),
                _ => process.power_off(),
            }
            invariants.look().expect("nothing is wrong while it is dead");
            send(&producer, 10).await;
            invariants.look().expect("nothing is wrong while the others go on");
            brokers.start(broker).await;
            send(&producer, 10).await;
            invariants.look().expect("nothing is wrong when it is back");
        }
        assert!(invariants.groups() > 2, "the metadata and the partitions are seen");
        assert!(invariants.committed() > 150, "{}", invariants.committed());
    });
}

#[test]
fn a_disk_that_was_put_back_is_found_unless_it_is_told() {
    let put_back = |is_told: bool| {
        let (looked, _) = Simulation::run(2, |simulation: Arc<Simulation>| async move {
            let (brokers, producer) = cluster(&simulation).await;
            let mut invariants = Invariants::new(&brokers.hosts);
            let host = brokers.host(3);
            let image = host.copy();
            send(&producer, 20).await;
            sleep(Duration::from_secs(1)).await;
            invariants.look().expect("nothing is wrong yet");
            kill(host);
            host.put_back(&image);
            if is_told {
                invariants.replaced(3, host);
            }
            // As long as the others have everything, only what this disk itself has said tells.
            kill(brokers.host(2));
            brokers.host(2).wipe();
            if is_told {
                invariants.replaced(2, brokers.host(2));
            }
            invariants.look()
        });
        looked
    };
    put_back(true).expect("it may lack what it had");
    let finding = put_back(false).expect_err("a majority lacks what was committed");
    assert!(finding.contains("is committed and lies on the disks of"), "{finding}");
}
