//! Leaders are killed again and again under load: every acknowledged record is there exactly once, in order; and how soon their partitions
//! take writes again.
//!
//! Half a minute by default; `JANGADA_LONG=1` makes it five.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jangada_client::{Client, ConsumerConfig, Producer, ProducerConfig, ProducerRecord, StartAt};
use jangada_proto::v1::GetMetadataRequest;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, History, Outcome, Value, WAIT, eventually};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 3;

/// Between two records of a partition.
const SEND_INTERVAL: Duration = Duration::from_millis(3);

/// Records of a partition whose answers nobody has taken yet.
const UNANSWERED_MAX: usize = 20_000;

/// A partition takes writes again within this, in 99 of 100 kills, at default settings.
const FAILOVER_P99: Duration = Duration::from_secs(3);

/// Fewer kills than this say nothing about one in a hundred.
const KILLS_FOR_P99: usize = 50;

/// No kill may take longer, even on a machine that does other work.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// When a record was sent and acknowledged.
type Times = (Instant, Instant);

/// What one partition's writer did.
struct Written {
    outcomes: Vec<(Value, Outcome)>,
    times: Vec<Times>,
}

/// Writes to one partition until it is told to stop. `acknowledged` has when the last record was sent that was acknowledged.
fn write(
    producer: Arc<Producer>,
    partition: u32,
    mut stop: watch::Receiver<bool>,
    acknowledged: watch::Sender<Option<Instant>>,
) -> JoinHandle<Written> {
    let (sent, mut waiting) = mpsc::channel(UNANSWERED_MAX);
    tokio::spawn(async move {
        let topic: Arc<str> = TOPIC.into();
        let mut ticks = tokio::time::interval(SEND_INTERVAL);
        for number in 0.. {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.changed() => return,
            }
            let value = Value {
                writer: partition,
                number,
            };
            let record = ProducerRecord::new(topic.clone())
                .with_partition(partition)
                .with_value(value.text());
            let at = Instant::now();
            let delivery = producer.send(record).await.expect("the producer takes it");
            sent.send((value, at, delivery)).await.expect("somebody waits for it");
        }
    });
    tokio::spawn(async move {
        let mut written = Written {
            outcomes: Vec::new(),
            times: Vec::new(),
        };
        while let Some((value, at, delivery)) = waiting.recv().await {
            let outcome = match delivery.await {
                Ok(metadata) => {
                    written.times.push((at, Instant::now()));
                    acknowledged.send_replace(Some(at));
                    Outcome::Acknowledged(metadata.offset.expect("a quorum was asked for"))
                }
                Err(error) if error.is_definite() => Outcome::Refused,
                Err(_) => Outcome::Unknown,
            };
            written.outcomes.push((value, outcome));
        }
        written
    })
}

/// Reads everything as it comes, until it is told to stop.
fn read(client: Client, mut stop: watch::Receiver<bool>) -> JoinHandle<Vec<(u32, i64, Value)>> {
    tokio::spawn(async move {
        let mut consumer = client
            .consumer(ConsumerConfig::default())
            .expect("the defaults are valid");
        consumer
            .assign_topic(TOPIC, StartAt::Earliest)
            .await
            .expect("the topic exists");
        let mut seen = Vec::new();
        loop {
            let records = tokio::select! {
                records = consumer.next_batch() => records.expect("the consumer survives a broker's death"),
                _ = stop.changed() => return seen,
            };
            seen.extend(records.into_iter().map(|record| {
                let value = record.value.as_deref().and_then(Value::parse).expect("a value of ours");
                (record.partition, record.offset, value)
            }));
        }
    })
}

/// Everything that is there, for a client that has not seen anything yet.
async fn read_all(cluster: &Cluster) -> Vec<(u32, i64, Value)> {
    let client = cluster.client().await;
    let mut consumer = client
        .consumer(ConsumerConfig::default())
        .expect("the defaults are valid");
    consumer
        .assign_topic(TOPIC, StartAt::Earliest)
        .await
        .expect("the topic exists");
    let ends = consumer.end_offsets().await.expect("the leaders answer");
    let mut found = Vec::new();
    while !consumer.reached(&ends) {
        for record in consumer.next_batch().await.expect("the leaders answer") {
            let value = record.value.as_deref().and_then(Value::parse).expect("a value of ours");
            found.push((record.partition, record.offset, value));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_record_is_there_exactly_once_in_order() {
    let long = std::env::var_os("JANGADA_LONG").is_some();
    let duration = Duration::from_secs(if long { 300 } else { 25 });
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 3).await;

    let client = cluster.client().await;
    let config = ProducerConfig {
        linger: Duration::from_millis(1),
        ..ProducerConfig::default()
    };
    let producer = Arc::new(client.producer(config).expect("the settings are valid"));
    let (stop, stopping) = watch::channel(false);
    let (acknowledged, writers): (Vec<_>, Vec<_>) = (0..PARTITIONS)
        .map(|partition| {
            let (sender, receiver) = watch::channel(None);
            (receiver, write(producer.clone(), partition, stopping.clone(), sender))
        })
        .unzip();
    let reader = read(cluster.client().await, stopping);

    let mut kills: Vec<(Instant, Vec<u32>)> = Vec::new();
    let deadline = Instant::now() + duration;
    while Instant::now() < deadline {
        let partition = kills.len() as u32 % PARTITIONS;
        let victim = cluster.leader(TOPIC, partition).await;
        let states = cluster
            .admin()
            .await
            .describe_partitions(Some(TOPIC))
            .await
            .expect("a broker answers");
        let led = states
            .iter()
            .filter(|state| state.leader_id.is_some_and(|id| id.get() == victim));
        let led: Vec<u32> = led.map(|state| state.partition).collect();
        let pause = Duration::from_millis(rand::rng().random_range(0..200));
        // A random moment is what is tested.
        tokio::time::sleep(pause).await;
        cluster.kill(victim);
        let killed = Instant::now();
        for &partition in &led {
            let mut acknowledged = acknowledged[partition as usize].clone();
            let again = acknowledged.wait_for(|at| at.is_some_and(|at| at > killed));
            let again = tokio::time::timeout(WAIT, again).await;
            again
                .unwrap_or_else(|_| panic!("partition {partition} takes no writes after {WAIT:?}"))
                .expect("the writer lives");
        }
        kills.push((killed, led));
        cluster.restart(victim);
        cluster.healthy().await;
    }

    stop.send_replace(true);
    let mut histories: HashMap<u32, History> = HashMap::new();
    let mut failovers = Vec::new();
    for (partition, writer) in (0..).zip(writers) {
        let written = tokio::time::timeout(WAIT, writer)
            .await
            .expect("all is answered")
            .expect("the writer did not fail");
        let history = histories.entry(partition).or_default();
        for (value, outcome) in written.outcomes {
            history.sent(value, outcome);
        }
        for (killed, _) in kills.iter().filter(|(_, led)| led.contains(&partition)) {
            let (_, answered) = written
                .times
                .iter()
                .find(|(sent, _)| sent > killed)
                .expect("it was waited for");
            let took = answered.duration_since(*killed);
            if took > FAILOVER_P99 {
                println!(
                    "slow: partition {partition}, killed {:?} after the first kill: {took:?}",
                    killed.duration_since(kills[0].0)
                );
            }
            failovers.push(took);
        }
    }
    for (partition, offset, value) in reader.await.expect("the reader did not fail") {
        histories.entry(partition).or_default().seen(offset, value);
    }
    for (partition, offset, value) in read_all(&cluster).await {
        histories.entry(partition).or_default().found(offset, value);
    }
    report(&kills, &mut failovers, &histories);
}

/// Prints the figures, and asserts them.
fn report(kills: &[(Instant, Vec<u32>)], failovers: &mut [Duration], histories: &HashMap<u32, History>) {
    failovers.sort_unstable();
    let at = |percent: usize| failovers[(failovers.len() * percent / 100).min(failovers.len() - 1)];
    let acknowledged: usize = histories.values().map(History::acknowledged).sum();
    println!(
        "{} kills, {} partitions lost their leader, {acknowledged} records acknowledged; writes again after p50 {:?}, p99 {:?}, max {:?}",
        kills.len(),
        failovers.len(),
        at(50),
        at(99),
        at(100),
    );
    for (partition, history) in histories {
        let faults = history.check();
        let shown = &faults[..faults.len().min(20)];
        assert!(
            faults.is_empty(),
            "partition {partition}, {} faults:\n{}",
            faults.len(),
            shown.join("\n")
        );
    }
    assert!(acknowledged > 0, "nothing was written: the test told nothing");
    assert!(at(100) < FAILOVER_MAX, "a partition took no writes for {:?}", at(100));
    if failovers.len() >= KILLS_FOR_P99 {
        assert!(at(99) < FAILOVER_P99, "p99 is {:?}", at(99));
    }
}

/// A leader that is cut off without a reset: its connections stay, nothing comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_leader_is_replaced() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the defaults are valid");
    let record = |value: &'static str| ProducerRecord::new(TOPIC).with_value(value);
    let before = producer.send(record("before")).await.expect("it is taken");
    before.await.expect("it is written");

    let victim = cluster.leader(TOPIC, 0).await;
    let survivor = cluster
        .ids()
        .into_iter()
        .find(|id| *id != victim)
        .expect("there are three");
    let address = cluster.node(survivor).addresses.public.clone();
    let metadata = MetadataServiceClient::connect(format!("http://{address}"))
        .await
        .expect("it is alive");
    cluster.pause(victim);
    let paused = Instant::now();
    // One that is in doubt with the silent leader, and goes to the next one.
    let delivery = producer.send(record("after")).await.expect("it is taken");
    let led = eventually("another leads", WAIT, || async {
        let metadata = metadata
            .clone()
            .get_metadata(GetMetadataRequest::default())
            .await
            .ok()?
            .into_inner();
        let leader = metadata.topics.first()?.partitions.first()?.leader_id;
        (leader != 0 && leader != victim).then(|| paused.elapsed())
    })
    .await;
    delivery.await.expect("it is written");
    let acknowledged = paused.elapsed();
    println!("a silent leader: another leads after {led:?}, the record is acknowledged after {acknowledged:?}");
    assert!(led < FAILOVER_MAX && acknowledged < FAILOVER_MAX);

    // When it wakes up it still believes to lead, and must find out before it answers anything.
    cluster.resume(victim);
    cluster.healthy().await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), "before\nafter\n");
}
