//! A leader that is cut off without a reset: its connections stay open, and no byte passes.

use std::time::{Duration, Instant};

use jangada_client::{ProducerConfig, ProducerRecord};
use jangada_proto::v1::ProduceRequest;
use jangada_proto::v1::produce_request::Payload;

use crate::harness::{Cluster, Options, WAIT, consumer_from_start, eventually, raw};

const TOPIC: &str = "orders";

/// The partitions of a leader that is cut off take writes again within this time, at default settings.
const FAILOVER_MAX: Duration = Duration::from_secs(3);

/// A client that only waits finds out within this time, at default settings.
const NOTICED_MAX: Duration = Duration::from_secs(10);

async fn cluster() -> Cluster {
    let options = Options {
        alone: true,
        network: true,
        ..Options::default()
    };
    Cluster::start_with(3, options).await
}

fn record(value: &'static str) -> ProducerRecord {
    ProducerRecord::new(TOPIC).with_value(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_cut_off_leader_go_on_with_the_next_one() {
    let cluster = cluster().await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the defaults are valid");
    let before = producer.send(record("before")).await.expect("it is taken");
    before.await.expect("it is written");
    let mut consumer = consumer_from_start(&client, TOPIC).await;
    let first = tokio::time::timeout(WAIT, consumer.next()).await.expect("records come");
    let first = first.expect("it is read");
    assert_eq!(first.value.as_deref(), Some(&b"before"[..]));

    let victim = cluster.leader(TOPIC, 0).await;
    cluster.cut_off(victim);
    let cut = Instant::now();
    let during = producer.send(record("during")).await.expect("it is taken");
    during.await.expect("the next leader takes it");
    let took = cut.elapsed();
    println!("a leader was cut off: its producer's next record was acknowledged after {took:?}");
    assert!(took < FAILOVER_MAX, "{took:?}");
    // A consumer that waits for records notices a little later, and goes on at the new leader.
    let next = tokio::time::timeout(NOTICED_MAX, consumer.next()).await;
    let next = next.expect("the consumer notices").expect("it goes on");
    println!("its consumer had the record after {:?}", cut.elapsed());
    assert_eq!(next.value.as_deref(), Some(&b"during"[..]));

    // One that begins only now finds its way past the silent node, too.
    let late = Instant::now();
    let run = cluster.cli_with(&["produce", TOPIC], b"late\n".to_vec()).await;
    run.expect(0);
    let took = late.elapsed();
    println!("a producer that began meanwhile took {took:?}");
    assert!(took < FAILOVER_MAX, "{took:?}");

    cluster.heal();
    cluster.healthy().await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), "before\nduring\nlate\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_acknowledges_nothing() {
    let cluster = cluster().await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let run = cluster.cli_with(&["produce", TOPIC], b"before\n".to_vec()).await;
    run.expect(0);
    let victim = cluster.leader(TOPIC, 0).await;
    // Past its proxy: a client on the leader's side of the cut.
    let mut beside = raw::log(&cluster.node(victim).addresses.public_bind).await;
    cluster.cut_off(victim);
    let mut write = async |value: &[u8]| {
        let request = ProduceRequest {
            partition: Some(raw::partition(TOPIC, 0)),
            timeout_ms: 5_000,
            payload: Some(Payload::Batch(raw::batch(None, &[value]))),
            ..ProduceRequest::default()
        };
        beside.produce(request).await
    };
    // While it still believes to lead.
    let answer = write(b"beside at once").await;
    let status = answer.expect_err("it has no quorum");
    println!("a cut off leader, at once: {status:?}");
    // When its lease is over and another leads.
    eventually("the others have a leader", WAIT, || async {
        let admin = cluster.admin().await;
        let states = admin.describe_partitions(Some(TOPIC)).await.ok()?;
        (states.first()?.leader_id?.get() != victim).then_some(())
    })
    .await;
    let answer = write(b"beside later").await;
    let status = answer.expect_err("it has no quorum");
    println!("a cut off leader, later: {status:?}");

    let run = cluster.cli_with(&["produce", TOPIC], b"after\n".to_vec()).await;
    run.expect(0);
    cluster.heal();
    cluster.healthy().await;
    // The records that the old leader took after it was cut off were never committed, and are gone.
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), "before\nafter\n");
}
