//! Consumer groups of `jangada consume --group` processes that are killed and stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::groups::Coordinator;
use crate::harness::{Change, Cluster, GroupProcess, Orders, Printed, WAIT, Written, eventually, number_of};

pub(super) const TOPIC: &str = "orders";
pub(super) const GROUP: &str = "billing";

/// The session of the processes. Long enough that a busy machine does not end one.
const SESSION: Duration = Duration::from_secs(3);

/// Time after the end of a session for the new assignment, and for the members to receive it.
const TAKE_OVER: Duration = Duration::from_secs(3);

pub(super) fn coordinator(cluster: &Cluster) -> Coordinator {
    Coordinator::new(cluster.brokers(), GROUP)
}

fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
    i64::try_from(since.as_millis()).expect("not that late")
}

/// The output of `group describe`.
pub(super) async fn described(cluster: &Cluster) -> Value {
    eventually("the group can be described", WAIT, || async {
        let run = cluster.cli(&["group", "describe", GROUP, "-o", "json"]).await;
        // There is no group until the first member joins.
        (run.code == Some(0)).then(|| run.json())
    })
    .await
}

/// The owner of each partition, and the epoch since which it owns it.
pub(super) fn owners(group: &Value) -> BTreeMap<u64, (String, u64)> {
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

/// Waits until `members` members have `each` partitions each, and no change is under way.
pub(super) async fn settled(cluster: &Cluster, members: usize, each: usize) -> Value {
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

/// Waits until each process has printed a record of each of its partitions after this moment.
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

/// The processes that printed a record, by their index.
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

/// Waits until all written records are printed, and asserts that nothing else is.
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

/// The longest time in which no record of a partition was printed, from a moment on.
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

/// The output of `group lag`, by partition.
pub(super) async fn lag(cluster: &Cluster) -> Vec<Value> {
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
    // Only records that the dead member had not committed came twice.
    let twice: Vec<_> = by.iter().filter(|(_, by)| by.len() > 1).collect();
    println!("{} records, {} came twice", by.len(), twice.len());
    for ((partition, offset), by) in twice {
        assert!(
            moving.contains(partition) && by[..] == [by[0], 2],
            "{partition}[{offset}] came twice: {by:?}"
        );
    }
}

/// Reads the committed offsets again and again: none may ever go back. Returns those that were read last.
pub(super) fn watch_offsets(cluster: &Cluster, stop: Arc<AtomicBool>) -> JoinHandle<BTreeMap<u32, i64>> {
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

/// Waits until a process has committed a moment ago, and has printed more of each of its partitions since. Returns the
/// committed offsets.
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
