//! Consumer groups as users have them: `jangada consume --group` processes that are killed and stopped, and members made by the client.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use jangada_client::{
    ClientConfig, CommitMode, GroupConfig, GroupHandle, ListenerError, PartitionPosition, RebalanceListener,
    StartPositions, TopicPartition,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::groups::Coordinator;
use crate::harness::{Change, Cluster, GroupProcess, Orders, Printed, WAIT, Written, eventually, number_of};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// Of the processes. Long enough that a busy machine throws nobody out.
const SESSION: Duration = Duration::from_secs(3);

/// For what comes after the session: the new assignment, and that the members hear of it.
const TAKE_OVER: Duration = Duration::from_secs(3);

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

fn coordinator(cluster: &Cluster) -> Coordinator {
    Coordinator::new(cluster.brokers(), GROUP)
}

fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
    i64::try_from(since.as_millis()).expect("not that late")
}

/// `group describe`.
async fn described(cluster: &Cluster) -> Value {
    eventually("the group can be described", WAIT, || async {
        let run = cluster.cli(&["group", "describe", GROUP, "-o", "json"]).await;
        // There is none until somebody joins.
        (run.code == Some(0)).then(|| run.json())
    })
    .await
}

/// Each partition's owner, and since which epoch it has been that.
fn owners(group: &Value) -> BTreeMap<u64, (String, u64)> {
    let members = group["members"].as_array().expect("a list").iter();
    members
        .flat_map(|member| {
            let owned = member["owned"].as_array().expect("a list").iter();
            owned.map(move |owned| {
                let owner = member["member_id"].as_str().expect("an id").to_owned();
                let since = owned["since_epoch"].as_u64().expect("an epoch");
                let partition = owned["partition"]["partition"].as_u64().expect("a number");
                (partition, (owner, since))
            })
        })
        .collect()
}

/// Waits until so many members have so many partitions each, and nothing is under way.
async fn settled(cluster: &Cluster, members: usize, each: usize) -> Value {
    let what = format!("{members} members have {each} partitions each");
    eventually(&what, WAIT, || async {
        let group = described(cluster).await;
        let all = group["members"].as_array().expect("a list");
        let shares = all
            .iter()
            .map(|member| member["owned"].as_array().expect("a list").len());
        let is_so = all.len() == members && shares.into_iter().all(|share| share == each);
        (is_so && group["state"] == "Stable").then_some(group)
    })
    .await
}

/// Waits until each process has printed something of each of its partitions after this moment.
async fn flowing(processes: &[&GroupProcess]) {
    let since = Instant::now();
    for process in processes {
        let what = format!("{} prints of all that it owns", process.name);
        eventually(&what, WAIT, || async {
            let printed = process.printed();
            let fresh = printed.iter().rev().take_while(|record| record.at > since);
            let of: BTreeSet<u32> = fresh.map(|record| record.partition).collect();
            of.is_superset(&process.owned()).then_some(())
        })
        .await;
    }
}

/// Who printed a record, in the order of the processes.
type PrintedBy = BTreeMap<(u32, i64), Vec<usize>>;

fn printed_by(processes: &[&GroupProcess]) -> PrintedBy {
    let mut by = PrintedBy::new();
    for (index, process) in processes.iter().enumerate() {
        for record in process.printed() {
            by.entry((record.partition, record.offset)).or_default().push(index);
        }
    }
    by
}

/// Waits until all that was written is printed, and asserts that it is what was written.
async fn all_printed(processes: &[&GroupProcess], written: &Written) -> PrintedBy {
    let by = eventually("all that was written is printed", WAIT, || async {
        let by = printed_by(processes);
        written.keys().all(|at| by.contains_key(at)).then_some(by)
    })
    .await;
    for record in processes.iter().flat_map(|process| process.printed()) {
        let (key, value) = &written[&(record.partition, record.offset)];
        assert_eq!(
            (key, value),
            (&record.key, &record.value),
            "at {}[{}]",
            record.partition,
            record.offset
        );
    }
    by
}

/// The longest time in which nothing of a partition was printed, from a moment on.
fn longest_pause(printed: &[Printed], partition: u32, from: Instant) -> Duration {
    let times = printed
        .iter()
        .filter(|record| record.partition == partition && record.at >= from)
        .map(|record| record.at);
    let times: Vec<Instant> = std::iter::once(from).chain(times).collect();
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
    pauses.max().expect("something was printed")
}

/// Ends all processes: each commits, and the group is empty and at the end.
async fn end(cluster: &Cluster, processes: Vec<&mut GroupProcess>) {
    for process in processes {
        process.end().await;
    }
    let group = described(cluster).await;
    assert_eq!(
        (&group["state"], &group["members"]),
        (&"Empty".into(), &Value::Array(Vec::new()))
    );
    for row in lag(cluster).await {
        assert_eq!(row["lag"], 0, "{row}");
    }
}

/// `group lag`, by partition.
async fn lag(cluster: &Cluster) -> Vec<Value> {
    let lag = cluster
        .cli(&["group", "lag", GROUP, "-o", "json"])
        .await
        .expect(0)
        .json();
    lag.as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_a_killed_process_had_moves_and_pauses() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 12, 3).await;
    let orders = Orders::start(&cluster, TOPIC).await;
    let start = |name| GroupProcess::start(&cluster, name, TOPIC, GROUP, SESSION);
    let (mut anna, mut bert, mut cora) = (start("anna"), start("bert"), start("cora"));
    let before = settled(&cluster, 3, 4).await;
    flowing(&[&anna, &bert, &cora]).await;
    let epoch = |changes: &[Change]| changes.last().map_or(0, |last| last.member_epoch);
    let (of_anna, of_bert) = (anna.changes(), bert.changes());
    let moving = cora.owned();
    assert_eq!([anna.owned().len(), bert.owned().len(), moving.len()], [4, 4, 4]);

    let (killed, killed_ms) = (Instant::now(), now_ms());
    cora.kill().await;
    let after = settled(&cluster, 2, 6).await;
    flowing(&[&anna, &bert]).await;

    // The members' own logs: nothing but what the dead one had has come, and nothing has gone.
    let mut came = BTreeSet::new();
    for (process, old) in [(&anna, &of_anna), (&bert, &of_bert)] {
        let changes = process.changes();
        assert_eq!(process.owned().len(), 6);
        for change in &changes[old.len()..] {
            assert_eq!(change.event, "assigned", "{}: {changes:#?}", process.name);
            assert!(change.member_epoch > epoch(old), "{}: {changes:#?}", process.name);
            let took = change.at_ms - killed_ms;
            println!("{} got {:?} {took} ms after the kill", process.name, change.partitions);
            let bound = i64::try_from((SESSION + TAKE_OVER).as_millis()).expect("short");
            assert!(
                took <= bound,
                "{} got {:?} after {took} ms",
                process.name,
                change.partitions
            );
            for partition in &change.partitions {
                assert!(came.insert(*partition), "two got partition {partition}");
            }
        }
    }
    assert_eq!(came, moving);
    // The coordinator says the same: those that stayed are owned since the same epoch.
    let (was, is) = (owners(&before), owners(&after));
    for (partition, place) in &is {
        let has_stayed = place == &was[partition];
        let index = u32::try_from(*partition).expect("few");
        assert_eq!(has_stayed, !moving.contains(&index), "{partition}: {was:?} -> {is:?}");
    }

    // Records went on all the time, but for those of the moved partitions.
    for process in [&anna, &bert] {
        let printed = process.printed();
        for partition in process.owned().difference(&moving) {
            let pause = longest_pause(&printed, *partition, killed);
            assert!(
                pause < SESSION / 2,
                "{}: partition {partition} paused for {pause:?}",
                process.name
            );
        }
    }
    let written = orders.stop().await;
    let by = all_printed(&[&anna, &bert, &cora], &written).await;
    end(&cluster, vec![&mut anna, &mut bert]).await;
    // Only what the dead one had not committed came again.
    let twice: Vec<_> = by.iter().filter(|(_, by)| by.len() > 1).collect();
    println!("{} records, {} came twice", by.len(), twice.len());
    for ((partition, offset), by) in twice {
        assert!(
            moving.contains(partition) && by[..] == [by[0], 2],
            "{partition}[{offset}] came twice: {by:?}"
        );
    }
}

/// Reads the committed offsets again and again: none may ever go back. Ends with what was read last.
fn watch_offsets(cluster: &Cluster, stop: Arc<AtomicBool>) -> JoinHandle<BTreeMap<u32, i64>> {
    let mut calls = coordinator(cluster);
    tokio::spawn(async move {
        let mut last: BTreeMap<u32, i64> = BTreeMap::new();
        loop {
            let is_over = stop.load(Ordering::SeqCst);
            let now = calls.offsets().await;
            for (partition, offset) in &last {
                assert!(
                    now[partition] >= *offset,
                    "partition {partition} went back from {offset}: {now:?}"
                );
            }
            last = now;
            if is_over {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// The last offset of each partition that a process has printed.
fn last_printed(process: &GroupProcess) -> BTreeMap<u32, i64> {
    let printed = process.printed();
    printed.iter().map(|record| (record.partition, record.offset)).collect()
}

/// Waits until a process has committed a moment ago, and has printed more of each of its partitions since. What is committed.
async fn between_commits(cluster: &Cluster, process: &GroupProcess) -> BTreeMap<u32, i64> {
    let mine = process.owned();
    let mut calls = coordinator(cluster);
    let mut committed = async || {
        let mut offsets = calls.offsets().await;
        offsets.retain(|partition, _| mine.contains(partition));
        offsets
    };
    let first = committed().await;
    let deadline = Instant::now() + WAIT;
    let committed = loop {
        let now = committed().await;
        if mine.iter().all(|partition| now.get(partition) > first.get(partition)) {
            break now;
        }
        assert!(Instant::now() < deadline, "{} commits nothing: {now:?}", process.name);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    eventually("more is printed than committed", WAIT, || async {
        let printed = last_printed(process);
        committed
            .iter()
            .all(|(partition, offset)| printed[partition] >= offset + 5)
            .then_some(())
    })
    .await;
    committed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_slept_past_its_session_commits_and_prints_nothing_of_what_it_lost() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 6, 3).await;
    let orders = Orders::start(&cluster, TOPIC).await;
    let start = |name| GroupProcess::start(&cluster, name, TOPIC, GROUP, SESSION);
    let (mut zombie, mut anna, mut bert) = (start("zombie"), start("anna"), start("bert"));
    settled(&cluster, 3, 2).await;
    flowing(&[&zombie, &anna, &bert]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let watch = watch_offsets(&cluster, stop.clone());
    let (mine, changes) = (zombie.owned(), zombie.changes().len());

    let committed = between_commits(&cluster, &zombie).await;
    zombie.pause().await;
    // Nothing from here on was in its hands when it fell asleep.
    let asleep = orders.next_number();
    settled(&cluster, 2, 3).await;
    let printed = last_printed(&zombie);
    let further = eventually("the others have committed more than it has printed", WAIT, || async {
        let now = coordinator(&cluster).offsets().await;
        mine.iter().all(|p| now[p] > printed[p] + 50).then_some(now)
    })
    .await;
    let before = zombie.count();

    zombie.resume();
    let rejoined = eventually("it has joined again", WAIT, || async {
        let events = zombie.changes().split_off(changes);
        let has_joined = events
            .last()
            .is_some_and(|last| last.event == "assigned" && last.owned.len() == 2);
        has_joined.then_some(events)
    })
    .await;
    assert_eq!(
        (&*rejoined[0].event, &rejoined[0].partitions),
        ("lost", &mine),
        "{rejoined:#?}"
    );
    assert!(rejoined[0].owned.is_empty(), "{rejoined:#?}");
    settled(&cluster, 3, 2).await;
    flowing(&[&zombie, &anna, &bert]).await;
    let stderr = zombie.stderr();
    assert!(
        stderr.contains("offsets were not committed"),
        "its commit was not refused: {stderr}"
    );
    assert!(stderr.contains("the membership is lost"), "{stderr}");
    for line in stderr.lines().filter(|line| line.contains("were not committed")) {
        println!("the zombie: {line}");
    }

    stop.store(true, Ordering::SeqCst);
    watch.await.expect("no committed offset goes back");
    let written = orders.stop().await;
    let by = all_printed(&[&zombie, &anna, &bert], &written).await;
    end(&cluster, vec![&mut zombie, &mut anna, &mut bert]).await;

    // Awake, it finished the batch that it was printing, if it was, and began anew where the others had come to.
    let late = zombie.printed().split_off(before);
    let late: Vec<_> = late
        .into_iter()
        .filter(|r| mine.contains(&r.partition) && r.offset < further[&r.partition])
        .collect();
    let of: BTreeSet<u32> = late.iter().map(|record| record.partition).collect();
    assert!(of.len() <= 1, "it printed of more than one batch: {late:?}");
    for record in &late {
        assert!(
            number_of(&record.value) < asleep,
            "fetched after it had lost the partition: {record:?}"
        );
    }
    println!("{} records printed late, {} in all", late.len(), by.len());
    let end_of_old = |partition: u32| {
        let late = late
            .iter()
            .filter(|record| record.partition == partition)
            .map(|record| record.offset);
        late.max().unwrap_or(printed[&partition])
    };
    for ((partition, offset), by) in by.iter().filter(|(_, by)| by.len() > 1) {
        let is_its_old = mine.contains(partition) && (committed[partition]..=end_of_old(*partition)).contains(offset);
        assert!(
            is_its_old && by.len() == 2 && by[0] == 0,
            "{partition}[{offset}] came twice: {by:?}"
        );
    }
}

/// Who owns what, by the word of the members themselves.
#[derive(Default)]
struct Book {
    owners: Mutex<BTreeMap<u32, usize>>,
    /// Partitions that two members had at once.
    shared: Mutex<Vec<String>>,
    /// Changes since the beginning.
    changes: AtomicUsize,
}

/// A member's entries.
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

/// A member that reads until it is stopped, as a process of its own would: with its own connections.
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
    let cluster = Cluster::start(3).await;
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

/// What a member's commits were answered.
#[derive(Default)]
struct Acknowledged {
    offsets: Mutex<BTreeMap<u32, i64>>,
    commits: AtomicUsize,
    records: Mutex<BTreeMap<(u32, i64), usize>>,
}

/// A member that commits after each batch until it is told to stop; what its member epoch was then.
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
        // What was acknowledged before this moment must be there, whoever answers.
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
