//! Transactions whose coordinator, or one of whose partitions, has no quorum: what is answered meanwhile, and what is not.

use std::path::PathBuf;
use std::time::Duration;

use jangada_client::{
    BrokerId, ConsumerConfig, NewQueue, ProducerRecord, QueueMessage, QueueProducerConfig, ReceiveOptions, StartAt,
    TransactionOptions, TransactionalProducer,
};
use jangada_proto::v1::{Isolation, TopicPartition};

use super::transaction_calls::Caller;
use crate::harness::{Cluster, Options, WAIT, eventually, raw};

const ID: &str = "transfers";
/// Each partition is on one broker, and needs no other.
const ALONE: &str = "alone";
/// One for each broker.
const PARTITIONS: u32 = 3;
/// A queue, likewise.
const JOBS: &str = "jobs";
/// Each partition is on two brokers, and needs both.
const PAIRED: &str = "paired";
/// A partition looks after its transactions each minute.
const WATCHED_WITHIN: Duration = Duration::from_secs(120);
const DAY_MS: &str = "86400000";

/// The broker that coordinates the id, a client of it, and a partition that it has to itself.
async fn coordinator(cluster: &Cluster) -> (u32, Caller, TopicPartition) {
    cluster.healthy().await;
    let broker = Caller::of(cluster, 1).await.coordinator_of(ID).await;
    let partition = partition_at(cluster, broker).await;
    let caller = Caller::of(cluster, broker).await;
    (broker, caller, raw::partition(ALONE, partition))
}

/// The partition that a broker has to itself.
async fn partition_at(cluster: &Cluster, broker: u32) -> u32 {
    for partition in 0..PARTITIONS {
        if cluster.leader(ALONE, partition).await == broker {
            return partition;
        }
    }
    panic!("broker {broker} has none");
}

fn pause_all_but(cluster: &Cluster, broker: u32) {
    let others = cluster.ids().into_iter().filter(|id| *id != broker);
    others.for_each(|id| cluster.pause(id));
}

fn resume_all_but(cluster: &Cluster, broker: u32) {
    let others = cluster.ids().into_iter().filter(|id| *id != broker);
    others.for_each(|id| cluster.resume(id));
}

/// What the next coordinator does not have was told to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_without_a_quorum_lets_nobody_join_decides_nothing_and_refuses_nobody() {
    const WITHOUT_A_QUORUM: [&str; 4] = ["QUORUM_TIMEOUT", "NOT_LEADER", "LEADER_NOT_AVAILABLE", "NOT_READY"];
    let cluster = Cluster::start(3).await;
    cluster.create_topic(ALONE, PARTITIONS, 1).await;
    let mut first = Caller::of(&cluster, 1).await;
    let earlier = first.init(ID).await.expect("the id is free");
    let producer = first.init(ID).await.expect("it may be taken");

    let (broker, mut caller, partition) = coordinator(&cluster).await;
    pause_all_but(&cluster, broker);
    let written = caller.write(ID, producer, partition.clone()).await;
    resume_all_but(&cluster, broker);
    let refused = raw::assert_refused(written, "NOT_READY", &[ID]);
    assert_eq!(raw::detail(&refused, "definite").as_deref(), Some("true"));
    let end = caller.end_of(partition.clone(), Isolation::Uncommitted).await;
    assert_eq!(end, 0, "nothing was written");

    let (broker, mut caller, _) = coordinator(&cluster).await;
    pause_all_but(&cluster, broker);
    let fenced = caller.try_end(ID, earlier, true).await;
    resume_all_but(&cluster, broker);
    let told = raw::reason(&fenced.expect_err("another process has the id"));
    assert!(
        WITHOUT_A_QUORUM.contains(&&*told),
        "{told}: the next one may know better"
    );

    let (broker, mut caller, partition) = coordinator(&cluster).await;
    raw::assert_refused(caller.try_end(ID, earlier, true).await, "PRODUCER_FENCED", &[ID]);
    let written = caller.write(ID, producer, partition.clone()).await;
    assert_eq!(written.expect("there is a quorum"), 0);
    pause_all_but(&cluster, broker);
    let ended = caller.try_end(ID, producer, true).await;
    resume_all_but(&cluster, broker);
    let told = raw::reason(&ended.expect_err("nobody else knows that it is decided"));
    assert!(WITHOUT_A_QUORUM.contains(&&*told), "{told}");

    cluster.healthy().await;
    eventually("it is committed", WAIT, || {
        let mut caller = caller.clone();
        async move { caller.try_end(ID, producer, true).await.ok()?.1.then_some(()) }
    })
    .await;
    assert_eq!(caller.end_of(partition, Isolation::Committed).await, 2);
}

/// The end of a transaction is written, or it is not: how long somebody waited for it says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_seen_when_a_quorum_of_its_partition_has_it_and_the_next_process_waits_for_that() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(PAIRED, 1, 2).await;
    let pair = cluster.partition(PAIRED, 0).await;
    let leader = pair.leader_id.map(BrokerId::get).expect("it has a leader");
    let mut replicas = pair.replicas.into_iter().map(BrokerId::get);
    let follower = replicas.find(|broker| *broker != leader).expect("it is on two");
    let mut caller = Caller::of(&cluster, leader).await;
    let mut id = ID.to_owned();
    while caller.coordinator_of(&id).await == follower {
        id.push('s');
    }
    let partition = || raw::partition(PAIRED, 0);
    let producer = caller.init(&id).await.expect("the id is free");
    caller.write(&id, producer, partition()).await.expect("it is written");

    cluster.pause(follower);
    let ended = caller.try_end(&id, producer, true).await;
    let (_, is_visible) = ended.expect("its coordinator has a quorum");
    assert!(!is_visible, "no quorum of the partition has the marker");
    let described = caller.describe(&id).await.expect("its coordinator has a quorum");
    assert_eq!(described.state, "PrepareCommit");
    let taken = caller.init(&id).await;
    raw::assert_refused(taken, "CONCURRENT_TRANSACTIONS", &[&id]);

    cluster.resume(follower);
    eventually("the next process has the id", WAIT, || {
        let (mut caller, id) = (caller.clone(), &id);
        async move { caller.init(id).await.ok() }
    })
    .await;
    for isolation in [Isolation::Committed, Isolation::Uncommitted] {
        assert_eq!(
            caller.end_of(partition(), isolation).await,
            2,
            "it has all effects before it"
        );
    }
}

/// Starts three nodes, each with a clock that a file of its own sets off.
async fn with_clocks() -> (Cluster, Vec<PathBuf>) {
    let options = Options {
        stopped: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    let folder = cluster.folder();
    let mut files = Vec::new();
    for id in cluster.ids() {
        let file = folder.join(format!("clock-{id}"));
        let path = file.to_str().expect("the folder's name is text");
        cluster.restart_with(id, &[("JANGADA_CLOCK_OFFSET_FILE", path)]);
        files.push(file);
    }
    cluster.healthy().await;
    (cluster, files)
}

/// A partition knows the producer of a transaction and not its transactional id. What the shards say that do not answer nobody knows:
/// neither of its records, nor of the messages that are acknowledged in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_open_for_too_long_stays_while_its_coordinator_does_not_answer() {
    let (cluster, clocks) = with_clocks().await;
    let admin = cluster.admin().await;
    admin
        .create_queue(NewQueue::new(JOBS, 1, 1))
        .await
        .expect("it is created");
    cluster.create_topic(ALONE, PARTITIONS, 1).await;
    let broker = cluster.leader(JOBS, 0).await;
    let partition = partition_at(&cluster, broker).await;
    let client = cluster.client().await;
    let jobs = client.queue_producer(JOBS, QueueProducerConfig::default()).await;
    let sent = jobs.expect("it is there").send(QueueMessage::new("one")).await;
    sent.expect("it is sent");
    let options = ReceiveOptions {
        wait: WAIT,
        ..ReceiveOptions::default()
    };
    let received = client.queue(JOBS).receive(options).await.expect("its leader answers");

    let options = TransactionOptions {
        timeout: Duration::from_secs(600),
        ..TransactionOptions::default()
    };
    let opened = TransactionalProducer::open(&client, ID, options).await;
    let mut producer = opened.expect("the id is free");
    let transaction = producer.begin().await.expect("none is open");
    let record = ProducerRecord::new(ALONE).with_partition(partition).with_value("slow");
    let delivery = transaction.send(record).await.expect("there is room");
    delivery.await.expect("it is stored");
    let acknowledged = transaction.acknowledge(JOBS, &[received[0].token.clone()]).await;
    acknowledged.expect("it is leased");

    // Longer than any transaction may be open.
    for clock in &clocks {
        std::fs::write(clock, DAY_MS).expect("the folder is writable");
    }
    eventually("all clocks are set", WAIT, || async {
        let is_set = |id: u32| cluster.node(id).log().contains("the wall clock stepped");
        cluster.ids().into_iter().all(is_set).then_some(())
    })
    .await;
    pause_all_but(&cluster, broker);
    let said = eventually("both partitions are looked after", WATCHED_WITHIN, || async {
        let log = cluster.node(broker).log();
        let of = |name: &str| {
            let mut lines = log.lines().filter(|line| line.contains("open for too long"));
            lines.find(|line| line.contains(name)).map(str::to_owned)
        };
        Some([of(ALONE)?, of(JOBS)?])
    })
    .await;
    for clock in &clocks {
        std::fs::remove_file(clock).expect("it was written");
    }
    resume_all_but(&cluster, broker);
    for line in &said {
        assert!(line.contains("could not be looked after"), "{line}");
    }
    cluster.healthy().await;

    let committed = transaction.commit().await.expect("its coordinator has it open");
    assert!(committed.visible);
    let mut consumer = client.consumer(ConsumerConfig::default()).expect("the defaults");
    let assigned = consumer.assign_topic(ALONE, StartAt::Earliest).await;
    assigned.expect("the topic is there");
    let read = tokio::time::timeout(WAIT, consumer.next_batch()).await;
    let read = read.expect("it is committed").expect("its leader answers");
    assert_eq!(read.len(), 1);
    let peeked = client.queue(JOBS).peek(0, 0, &[], 10).await;
    assert_eq!(peeked.expect("its leader answers").messages, [], "it is done");
}
