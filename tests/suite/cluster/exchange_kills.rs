//! Messages are published to a fanout and a topic exchange while leaders of their queues are killed: what is confirmed is in all of its
//! queues, what is not for a queue is never there, and what one queue refused for certain is not in it.
//!
//! A third of a minute by default, five minutes with `JANGADA_LONG=1`. Half of the publishers publish again what was not confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jangada_proto::v1::exchange_service_client::ExchangeServiceClient;
use jangada_proto::v1::publish_result::Result as Published;
use jangada_proto::v1::{ExchangeType, PublishMessage, PublishRequest};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::exchanges::{Exchanges, bind, body, exchange, message, messages_in, service, to_queue};
use super::queues::create_queue;
use crate::harness::{Cluster, is_long, raw};

const PARTITIONS: u32 = 2;
/// The queues, and whether each recognizes repetitions.
const QUEUES: [(&str, bool); 5] = [("a", true), ("b", true), ("c", false), ("d", false), ("e", false)];
/// Exchanges and routing keys, with the queues that messages are for.
const WAYS: [(&str, &str, &[&str]); 5] = [
    ("all", "", &["a", "b", "c", "d", "e"]),
    ("some", "eu.paid", &["a", "c", "e"]),
    ("some", "us.open", &["b", "d"]),
    ("some", "us.paid", &["b", "d", "e"]),
    ("some", "asia.paid", &["e"]),
];
const PUBLISHERS: u64 = 4;
const MESSAGES_PER_CALL: u64 = 5;
/// A call is given up after this time, though the broker may be at it still.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often what was not confirmed is published again, and the pause before.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(100);
/// The leader is down for so long.
const DOWN: Duration = Duration::from_millis(1_500);

/// What a publisher knows of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    is_confirmed: bool,
    /// Each attempt was refused for certain.
    is_refused: bool,
    attempts: u32,
}

/// The messages by way and number.
#[derive(Default)]
struct World {
    known: Mutex<BTreeMap<(usize, u64), Known>>,
    next: AtomicU64,
    stop: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_confirmed_is_in_all_of_its_queues_while_leaders_are_killed() {
    let duration = Duration::from_secs(if is_long() { 300 } else { 20 });
    let seed = std::env::var("JANGADA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    println!("JANGADA_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3).await;
    for (queue, dedup) in QUEUES {
        let settings: &[&str] = if dedup { &["queue.dedup=id"] } else { &[] };
        create_queue(&cluster, queue, PARTITIONS, settings).await;
    }
    create_exchanges(&mut service(&cluster, 1).await).await;
    let world = Arc::new(World::default());
    let mut publishing = Vec::new();
    for publisher in 0..PUBLISHERS {
        let (brokers, world) = (cluster.brokers(), world.clone());
        let random = StdRng::seed_from_u64(seed + 1 + publisher);
        publishing.push(tokio::spawn(async move {
            publish(&brokers, publisher % 2 == 0, random, &world).await;
        }));
    }
    let began = Instant::now();
    let mut kills = 0;
    while began.elapsed() < duration {
        let (queue, _) = QUEUES[random.random_range(0..QUEUES.len())];
        let victim = cluster.leader(queue, random.random_range(0..PARTITIONS)).await;
        // The moment is chance: it is to hit messages at every step of their way.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        cluster.kill(victim);
        // The time that it is down is the fault itself.
        tokio::time::sleep(DOWN).await;
        cluster.restart(victim);
        cluster.healthy().await;
        kills += 1;
    }
    world.stop.store(true, Ordering::Relaxed);
    for task in publishing {
        task.await.expect("it has not panicked");
    }
    let elapsed = began.elapsed();
    let mut found = BTreeMap::new();
    for (queue, _) in QUEUES {
        found.insert(queue, numbers_in(&cluster, queue).await);
    }
    check(&world, &found, kills, elapsed);
}

async fn create_exchanges(service: &mut Exchanges) {
    for (name, kind) in [("all", ExchangeType::Fanout), ("some", ExchangeType::Topic)] {
        service
            .create_exchange(exchange(name, kind))
            .await
            .expect("it is created");
    }
    let all = QUEUES.iter().map(|(queue, _)| to_queue(queue, "")).collect();
    bind(service, "all", all).await;
    let some = [
        ("a", "eu.#"),
        ("c", "eu.*"),
        ("b", "us.#"),
        ("d", "us.*"),
        ("e", "*.paid"),
    ];
    bind(
        service,
        "some",
        some.map(|(queue, pattern)| to_queue(queue, pattern)).to_vec(),
    )
    .await;
}

/// Publishes messages until it is told to stop, each call at a broker that is drawn.
async fn publish(brokers: &[String], again: bool, mut random: StdRng, world: &World) {
    while !world.stop.load(Ordering::Relaxed) {
        let way = random.random_range(0..WAYS.len());
        let first = world.next.fetch_add(MESSAGES_PER_CALL, Ordering::Relaxed);
        let mut open: Vec<u64> = (first..first + MESSAGES_PER_CALL).collect();
        for _ in 0..if again { ATTEMPTS } else { 1 } {
            let broker = &brokers[random.random_range(0..brokers.len())];
            let outcomes = publish_once(broker, way, &open).await;
            note(world, way, &open, &outcomes);
            let left = open
                .iter()
                .zip(outcomes)
                .filter(|(_, outcome)| *outcome != Outcome::Confirmed);
            open = left.map(|(number, _)| *number).collect();
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Confirmed,
    Refused,
    Unknown,
}

fn note(world: &World, way: usize, numbers: &[u64], outcomes: &[Outcome]) {
    let mut known = world.known.lock().expect("nothing panicked");
    for (number, outcome) in numbers.iter().zip(outcomes) {
        let known = known.entry((way, *number)).or_default();
        known.is_refused = *outcome == Outcome::Refused && (known.attempts == 0 || known.is_refused);
        known.is_confirmed |= *outcome == Outcome::Confirmed;
        known.attempts += 1;
    }
}

async fn publish_once(broker: &str, way: usize, numbers: &[u64]) -> Vec<Outcome> {
    let (exchange, routing_key, _) = WAYS[way];
    let messages = numbers.iter().map(|number| {
        let PublishMessage { message: inner, .. } = message("", &format!("{way} {number}"));
        let mut inner = inner.expect("it has one");
        inner.message_id = Some(format!("{way}-{number}"));
        PublishMessage {
            message: Some(inner),
            ..message(routing_key, "")
        }
    });
    let request = PublishRequest {
        exchange: exchange.to_owned(),
        messages: messages.collect(),
        timeout_ms: 5_000,
        ..PublishRequest::default()
    };
    let Ok(mut service) = ExchangeServiceClient::connect(format!("http://{broker}")).await else {
        return vec![Outcome::Refused; numbers.len()];
    };
    let answer = tokio::time::timeout(CALL_TIMEOUT, service.publish(request)).await;
    let results = match answer {
        Ok(Ok(answer)) => answer.into_inner().results,
        Ok(Err(status)) if raw::detail(&status, "definite").as_deref() == Some("true") => {
            return vec![Outcome::Refused; numbers.len()];
        }
        Ok(Err(_)) | Err(_) => return vec![Outcome::Unknown; numbers.len()],
    };
    let outcomes = results
        .into_iter()
        .map(|result| match result.result.expect("it is set") {
            Published::Published(published) => {
                let queues: BTreeSet<String> = published.places.into_iter().map(|place| place.queue).collect();
                let expected: BTreeSet<String> = WAYS[way].2.iter().map(|queue| (*queue).to_owned()).collect();
                assert_eq!(queues, expected, "way {way}");
                Outcome::Confirmed
            }
            Published::Error(error) if error.metadata["definite"] == "true" => Outcome::Refused,
            Published::Error(error) => {
                assert_ne!(error.reason, "UNROUTABLE", "way {way}: {error:?}");
                Outcome::Unknown
            }
        });
    outcomes.collect()
}

/// How often a queue has each message.
async fn numbers_in(cluster: &Cluster, queue: &str) -> BTreeMap<(usize, u64), u32> {
    let mut numbers = BTreeMap::new();
    for message in messages_in(cluster, queue, PARTITIONS).await.iter().flatten() {
        let body = body(message);
        let (way, number) = body.split_once(' ').expect("way and number");
        let name = (way.parse().expect("a number"), number.parse().expect("a number"));
        *numbers.entry(name).or_default() += 1;
    }
    numbers
}

type Found = BTreeMap<&'static str, BTreeMap<(usize, u64), u32>>;

fn check(world: &World, found: &Found, kills: u32, elapsed: Duration) {
    let known = world.known.lock().expect("nothing panicked");
    let count = |is: &dyn Fn(&Known) -> bool| known.values().filter(|known| is(known)).count();
    let copies: u32 = found.values().flat_map(BTreeMap::values).sum();
    println!(
        "{kills} leaders killed in {elapsed:?}; {} messages, {} confirmed ({} at the first attempt), {} refused for certain, {} unknown; \
         {copies} copies in queues",
        known.len(),
        count(&|known| known.is_confirmed),
        count(&|known| known.is_confirmed && known.attempts == 1),
        count(&|known| known.is_refused),
        count(&|known| !known.is_confirmed && !known.is_refused),
    );
    assert!(
        kills > 0 && count(&|known| known.is_confirmed) > 200,
        "there was something to lose"
    );
    let mut wrong = Vec::new();
    for (queue, dedup) in QUEUES {
        let in_queue = &found[queue];
        for (name, known) in known.iter() {
            let times = in_queue.get(name).copied().unwrap_or(0);
            let is_for = WAYS[name.0].2.contains(&queue);
            let allowed = match (is_for, known) {
                (false, _) => 0..=0,
                (true, Known { is_refused: true, .. }) => 0..=0,
                (true, Known { is_confirmed: true, .. }) if dedup || known.attempts == 1 => 1..=1,
                (
                    true,
                    Known {
                        is_confirmed: true,
                        attempts,
                        ..
                    },
                ) => 1..=*attempts,
                (true, Known { attempts, .. }) => 0..=if dedup { 1 } else { *attempts },
            };
            if !allowed.contains(&times) {
                wrong.push(format!(
                    "queue {queue} has {name:?} {times} times, not {allowed:?}: {known:?}"
                ));
            }
        }
        let strangers = in_queue.keys().filter(|name| !known.contains_key(name));
        wrong.extend(strangers.map(|name| format!("queue {queue} has {name:?}, which nobody published")));
    }
    assert!(
        wrong.is_empty(),
        "{} wrong, of which the first: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
}
