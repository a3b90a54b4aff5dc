//! Members of the client: many that start at once, and some that commit while their coordinator dies.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jangada_client::{
    ClientConfig, CommitMode, GroupConfig, GroupHandle, ListenerError, PartitionPosition, RebalanceListener,
    StartPositions, TopicPartition,
};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, Orders, WAIT, eventually};

use super::group_processes::{coordinator, described, owners, settled, watch_offsets};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The owners of partitions, as the members themselves report.
#[derive(Default)]
struct Book {
    owners: Mutex<BTreeMap<u32, usize>>,
    /// Partitions that two members had at once.
    shared: Mutex<Vec<String>>,
    /// Number of changes since the beginning.
    changes: AtomicUsize,
}

/// A listener that enters a member's changes.
struct Writer {
    member: usize,
    book: Arc<Book>,
}

impl Writer {
    fn gone(&self, partitions: &[PartitionPosition]) {
        self.book.changes.fetch_add(1, Ordering::SeqCst);
        let mut owners = self.book.owners.lock().expect("no panic");
        for gone in partitions {
            owners.remove(&gone.partition.partition);
        }
    }
}

impl RebalanceListener for Writer {
    fn on_assigned<'a>(
        &'a self,
        _: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        self.book.changes.fetch_add(1, Ordering::SeqCst);
        let mut owners = self.book.owners.lock().expect("no panic");
        for partition in partitions {
            if let Some(other) = owners.insert(partition.partition, self.member) {
                let text = format!("{partition} is given to {} and still {other}'s", self.member);
                self.book.shared.lock().expect("no panic").push(text);
            }
        }
        Box::pin(async { Ok(Vec::new()) })
    }

    fn on_revoked<'a>(&'a self, _: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        self.gone(partitions);
        Box::pin(async {})
    }

    fn on_lost<'a>(&'a self, _: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        self.gone(partitions);
        Box::pin(async {})
    }
}

/// A member that reads until it is stopped, with connections of its own as a process would have.
fn reading(config: ClientConfig, member: usize, book: Arc<Book>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let client = jangada_client::Client::connect(config).await.expect("a broker answers");
        let config = GroupConfig::new(GROUP, [TOPIC]);
        let listener = Arc::new(Writer { member, book });
        let mut consumer = client.group_consumer_with(config, listener).expect("good settings");
        loop {
            consumer.next_batch(100).await.expect("records");
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_consumers_that_start_at_once_settle_soon() {
    const PARTITIONS: usize = 120;
    let cluster = Cluster::start_alone(3).await;
    cluster.create_topic(TOPIC, 120, 1).await;
    let orders = Orders::start(&cluster, TOPIC).await;
    // The first call of a cluster creates the shards; that is not what is measured.
    coordinator(&cluster).find().await;
    let book = Arc::new(Book::default());
    let started = Instant::now();
    let members: Vec<_> = (0..50)
        .map(|member| reading(cluster.client_config(), member, book.clone()))
        .collect();
    let mut calls = coordinator(&cluster);
    let group = loop {
        let described = calls.describe().await.ok();
        let shares = book
            .owners
            .lock()
            .expect("no panic")
            .values()
            .fold(BTreeMap::new(), |mut shares, member| {
                *shares.entry(*member).or_insert(0) += 1;
                shares
            });
        let is_shared = shares.len() == 50 && shares.values().all(|share| (2..=3).contains(share));
        let stable = described.filter(|group| group.state == "Stable" && group.members.len() == 50);
        if let (Some(group), true) = (stable, is_shared && shares.values().sum::<usize>() == PARTITIONS) {
            break group;
        }
        assert!(started.elapsed() < WAIT, "not settled: {shares:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let took = started.elapsed();
    let changes = book.changes.load(Ordering::SeqCst);
    println!(
        "fifty consumers on 120 partitions: {took:?}, group epoch {}, {changes} changes",
        group.epoch
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(group.epoch <= 10, "group epoch {}", group.epoch);
    assert_eq!(*book.shared.lock().expect("no panic"), Vec::<String>::new());
    orders.stop().await;
    for member in members {
        member.abort();
    }
}

/// The answers to a member's commits.
#[derive(Default)]
struct Acknowledged {
    offsets: Mutex<BTreeMap<u32, i64>>,
    commits: AtomicUsize,
    records: Mutex<BTreeMap<(u32, i64), usize>>,
}

/// A member that commits after each batch until it is told to stop; returns its member epoch at that time.
fn committing(
    config: ClientConfig,
    member: usize,
    book: Arc<Book>,
    acknowledged: Arc<Acknowledged>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<i64> {
    tokio::spawn(async move {
        let client = jangada_client::Client::connect(config).await.expect("a broker answers");
        let mut config = GroupConfig::new(GROUP, [TOPIC]);
        config.commit = CommitMode::After {
            interval: Duration::from_millis(50),
        };
        let listener = Arc::new(Writer { member, book });
        let mut consumer = client.group_consumer_with(config, listener).expect("good settings");
        while !stop.load(Ordering::SeqCst) {
            let batch = consumer.next_batch(20).await.expect("records");
            consumer.commit().await.expect("it owns what it reads");
            for record in batch {
                let mut records = acknowledged.records.lock().expect("no panic");
                *records.entry((record.partition, record.offset)).or_default() += 1;
                let mut offsets = acknowledged.offsets.lock().expect("no panic");
                offsets.insert(record.partition, record.offset + 1);
            }
            acknowledged.commits.fetch_add(1, Ordering::SeqCst);
        }
        let epoch = consumer.member_epoch();
        consumer.close().await.expect("it commits to the end");
        epoch
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_death_during_commits_throws_nobody_out() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 6, 3).await;
    let orders = Orders::start(&cluster, TOPIC).await;
    let (book, stop) = (Arc::new(Book::default()), Arc::new(AtomicBool::new(false)));
    let acknowledged: Vec<Arc<Acknowledged>> = (0..3).map(|_| Arc::default()).collect();
    let members: Vec<_> = acknowledged
        .iter()
        .enumerate()
        .map(|(member, acknowledged)| {
            committing(
                cluster.client_config(),
                member,
                book.clone(),
                acknowledged.clone(),
                stop.clone(),
            )
        })
        .collect();
    let before = settled(&cluster, 3, 2).await;
    let changes = book.changes.load(Ordering::SeqCst);
    let watch = watch_offsets(&cluster, stop.clone());
    let commits = || {
        acknowledged
            .iter()
            .map(|a| a.commits.load(Ordering::SeqCst))
            .collect::<Vec<_>>()
    };
    let more = async |what: &str| {
        let wanted: Vec<usize> = commits().iter().map(|commits| commits + 20).collect();
        eventually(what, WAIT, || async {
            commits()
                .iter()
                .zip(&wanted)
                .all(|(now, wanted)| now >= wanted)
                .then_some(())
        })
        .await;
    };
    for _ in 0..2 {
        more("commits are under way").await;
        let (victim, _) = coordinator(&cluster).find().await;
        cluster.kill(victim);
        let killed = Instant::now();
        // Offsets that were acknowledged before this moment must be there, whichever broker answers.
        let mut floor = BTreeMap::new();
        for member in &acknowledged {
            floor.extend(member.offsets.lock().expect("no panic").clone());
        }
        let read = coordinator(&cluster).offsets().await;
        println!("read again after {:?}", killed.elapsed());
        for (partition, floor) in floor {
            assert!(
                read[&partition] >= floor,
                "partition {partition} went back from {floor}: {read:?}"
            );
        }
        more("commits go on").await;
        println!("all commit again after {:?}", killed.elapsed());
        cluster.restart(victim);
        cluster.healthy().await;
    }
    let after = described(&cluster).await;
    assert_eq!(
        (&after["epoch"], owners(&after)),
        (&before["epoch"], owners(&before)),
        "it was rebalanced"
    );
    assert_eq!(
        book.changes.load(Ordering::SeqCst),
        changes,
        "members were told of changes"
    );
    stop.store(true, Ordering::SeqCst);
    watch.await.expect("no committed offset goes back");
    let epoch = before["epoch"].as_i64().expect("a number");
    for member in members {
        let ended = tokio::time::timeout(WAIT, member).await.expect("it ends");
        // Others that leave before may have moved it on.
        assert!(ended.expect("it did not fail") >= epoch);
    }
    orders.stop().await;
    for member in &acknowledged {
        let records = member.records.lock().expect("no panic");
        let twice: Vec<_> = records.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "records came again: {twice:?}");
    }
}
