//! Consumer groups from outside: membership, commits, and the death of their coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::{CommitOffsetsRequest, DeleteGroupRequest, DescribeGroupResponse, ListGroupsRequest};

use crate::harness::groups::{Coordinator, Member, at, offsets};
use crate::harness::{Cluster, Options, WAIT, eventually, raw};

pub(super) const TOPIC: &str = "orders";
pub(super) const GROUP: &str = "billing";

/// Longer than any of these tests: a slow machine ends no session.
pub(super) const SESSION: Duration = Duration::from_secs(120);

pub(super) fn coordinator(cluster: &Cluster, group: &str) -> Coordinator {
    Coordinator::new(cluster.brokers(), group)
}

pub(super) async fn topic_id(cluster: &Cluster, topic: &str) -> Bytes {
    let topics = cluster.admin().await.list_topics().await.expect("a broker answers");
    let found = topics.into_iter().find(|found| found.name == topic).expect("it exists");
    Bytes::copy_from_slice(found.topic_id.as_bytes())
}

/// Starts members and waits until each has its share.
async fn members(cluster: &Cluster, group: &str, count: usize) -> Vec<Member> {
    (0..count)
        .map(|index| Member::start(coordinator(cluster, group), &format!("m{index}"), TOPIC, SESSION))
        .collect()
}

/// Waits until the group is at rest with `count` members that own all partitions between them.
pub(super) async fn settled(
    cluster: &Cluster,
    group: &str,
    members: &[&Member],
    partitions: u32,
) -> DescribeGroupResponse {
    let mut calls = coordinator(cluster, group);
    let deadline = Instant::now() + WAIT;
    loop {
        let described = calls.describe().await.ok();
        let owned: Vec<BTreeSet<u32>> = members.iter().map(|member| member.owned()).collect();
        let all: BTreeSet<u32> = owned.iter().flatten().copied().collect();
        let sum: usize = owned.iter().map(BTreeSet::len).sum();
        let is_done = all.len() == partitions as usize && sum == all.len();
        if let Some(described) = described.clone()
            && is_done
            && described.state == "Stable"
            && described.members.len() == members.len()
        {
            return described;
        }
        let seen: Vec<_> = members.iter().map(|member| member.seen()).collect();
        assert!(Instant::now() < deadline, "not settled: {described:#?}\n{seen:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The owner of each partition, and the epoch since which it owns it.
fn since(group: &DescribeGroupResponse) -> BTreeMap<u32, (String, u32)> {
    let owned = group
        .members
        .iter()
        .flat_map(|member| member.owned.iter().map(move |owned| (member, owned)));
    owned
        .map(|(member, owned)| {
            let partition = owned.partition.as_ref().expect("it is named").partition;
            (partition, (member.member_id.clone(), owned.since_epoch))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_a_topic_and_only_what_moves_pauses() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 12, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let mut calls = coordinator(&cluster, GROUP);
    let mut members = members(&cluster, GROUP, 3).await;
    let before = settled(&cluster, GROUP, &members.iter().collect::<Vec<_>>(), 12).await;
    assert!(members.iter().all(|member| member.owned().len() == 4));
    let hosts: BTreeSet<&str> = before
        .members
        .iter()
        .map(|member| member.client_host.as_str())
        .collect();
    assert_eq!(hosts, BTreeSet::from(["127.0.0.1"]));

    for member in &members {
        let seen = member.seen();
        let rows = seen
            .owned
            .iter()
            .map(|partition| (*partition, 100 + i64::from(*partition)));
        let commit = CommitOffsetsRequest {
            group: GROUP.to_owned(),
            member_id: member.id.clone(),
            member_epoch: seen.epoch,
            offsets: offsets(&topic, rows),
            ..Default::default()
        };
        calls.commit(commit).await.expect("an owner may commit");
    }
    let committed: BTreeMap<u32, i64> = (0..12)
        .map(|partition| (partition, 100 + i64::from(partition)))
        .collect();
    assert_eq!(calls.offsets().await, committed);

    // One leaves: the others keep what they have without a pause, and share what it had.
    let left = members.pop().expect("three");
    let moved = left.owned();
    left.leave().await;
    let after = settled(&cluster, GROUP, &members.iter().collect::<Vec<_>>(), 12).await;
    assert!(members.iter().all(|member| member.owned().len() == 6));
    let (was, is) = (since(&before), since(&after));
    for (partition, place) in &is {
        let has_paused = place != &was[partition];
        assert_eq!(
            has_paused,
            moved.contains(partition),
            "partition {partition}: {was:?} -> {is:?}"
        );
    }
    assert_eq!(calls.offsets().await, committed, "offsets stay with the group");
    assert!(members.iter().all(|member| member.seen().errors.is_empty()));

    // Any broker lists it, and names the coordinator.
    let (id, _) = calls.find().await;
    for broker in cluster.brokers() {
        let list = at(&broker)
            .list_groups(ListGroupsRequest {})
            .await
            .expect("a broker answers");
        let list = list.into_inner();
        assert!(list.missing_shards.is_empty(), "{list:?}");
        let names: Vec<_> = list.groups.iter().map(|group| (&*group.group, group.members)).collect();
        assert_eq!(names, [(GROUP, 2)]);
        assert_eq!(list.groups[0].coordinator_id, id);
    }
    // The shards stay out of users' sight, and out of their reach.
    let topics = cluster.admin().await.list_topics().await.expect("a broker answers");
    assert_eq!(topics.len(), 1, "{topics:?}");
    for member in members {
        member.leave().await;
    }
    let group = GROUP.to_owned();
    let deleted = calls
        .call(|mut client| {
            let group = group.clone();
            async move { client.delete_group(DeleteGroupRequest { group }).await }
        })
        .await
        .expect("an empty group can be deleted");
    assert_eq!(deleted.deleted, 1);
    assert_eq!(
        raw::reason(&calls.describe().await.expect_err("it is gone")),
        "UNKNOWN_GROUP"
    );
}

/// A task that commits growing offsets of a member's partitions, and remembers those that were acknowledged.
struct Committer {
    acknowledged: Arc<Vec<AtomicU64>>,
    commits: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

fn commit_on(mut calls: Coordinator, member: &Member, topic: &Bytes, partitions: usize) -> Committer {
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..partitions).map(|_| AtomicU64::new(0)).collect());
    let (commits, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (id, seen, topic) = (member.id.clone(), member.seen.clone(), topic.clone());
    let task = tokio::spawn({
        let (acknowledged, commits, stop) = (acknowledged.clone(), commits.clone(), stop.clone());
        async move {
            for offset in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let now = seen.lock().expect("no panic").clone();
                let rows = now.owned.iter().map(|partition| (*partition, offset));
                let commit = CommitOffsetsRequest {
                    group: GROUP.to_owned(),
                    member_id: id.clone(),
                    member_epoch: now.epoch,
                    offsets: offsets(&topic, rows),
                    ..Default::default()
                };
                calls.commit(commit).await.expect("an owner may commit");
                for partition in now.owned {
                    let offset = u64::try_from(offset).expect("it counts up");
                    acknowledged[partition as usize].store(offset, Ordering::SeqCst);
                }
                commits.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    Committer {
        acknowledged,
        commits,
        stop,
        task,
    }
}

/// Waits until each committer has committed twenty times more.
async fn twenty_more(committers: &[Committer]) {
    let commits = || committers.iter().map(|c| c.commits.load(Ordering::SeqCst));
    let at_least: Vec<u64> = commits().map(|count| count + 20).collect();
    eventually("commits go on", WAIT, || {
        let done = commits().zip(&at_least).all(|(count, least)| count >= *least);
        async move { done.then_some(()) }
    })
    .await;
}

/// Asserts that the group has all six partitions where they were before, and that no member joined again or saw an
/// error.
async fn undisturbed(cluster: &Cluster, members: &[&Member], before: &DescribeGroupResponse) {
    let after = settled(cluster, GROUP, members, 6).await;
    assert_eq!(
        (after.epoch, since(&after)),
        (before.epoch, since(before)),
        "it was rebalanced"
    );
    for member in members {
        let seen = member.seen();
        assert!(seen.joins == 1 && seen.errors.is_empty(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_death_loses_no_offset_and_moves_no_partition() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 6, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let members = members(&cluster, GROUP, 3).await;
    let all: Vec<&Member> = members.iter().collect();
    let before = settled(&cluster, GROUP, &all, 6).await;
    let committers: Vec<Committer> = members
        .iter()
        .map(|member| commit_on(coordinator(&cluster, GROUP), member, &topic, 6))
        .collect();
    for _ in 0..2 {
        let (victim, _) = coordinator(&cluster, GROUP).find().await;
        twenty_more(&committers).await;
        cluster.kill(victim);
        // Offsets that were acknowledged before this moment must be there, whichever broker answers.
        let floor: Vec<u64> = (0..6)
            .map(|partition| {
                let of = |c: &Committer| c.acknowledged[partition].load(Ordering::SeqCst);
                committers.iter().map(of).max().unwrap_or(0)
            })
            .collect();
        let read = coordinator(&cluster, GROUP).offsets().await;
        for (partition, floor) in (0u32..).zip(floor) {
            let read = u64::try_from(read[&partition]).expect("it was committed");
            assert!(read >= floor, "partition {partition} went back from {floor} to {read}");
        }
        twenty_more(&committers).await;
        cluster.restart(victim);
        cluster.healthy().await;
    }
    for committer in committers {
        committer.stop.store(true, Ordering::Relaxed);
        committer.task.await.expect("it commits to the end");
    }
    undisturbed(&cluster, &all, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_survive_the_death_of_all_nodes() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 6, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let members = members(&cluster, GROUP, 2).await;
    let all: Vec<&Member> = members.iter().collect();
    let before = settled(&cluster, GROUP, &all, 6).await;
    let mut calls = coordinator(&cluster, GROUP);
    // More than one snapshot's worth for the shard, so that a restart finds one.
    let mut offset = 0;
    let seen = members[0].seen();
    for _ in 0..200 {
        offset += 1;
        let commit = CommitOffsetsRequest {
            group: GROUP.to_owned(),
            member_id: members[0].id.clone(),
            member_epoch: seen.epoch,
            offsets: offsets(&topic, seen.owned.iter().map(|partition| (*partition, offset))),
            ..Default::default()
        };
        calls.commit(commit).await.expect("an owner may commit");
    }
    let committed = calls.offsets().await;
    assert_eq!(committed.len(), seen.owned.len());
    assert!(committed.values().all(|committed| *committed == offset));
    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    assert_eq!(coordinator(&cluster, GROUP).offsets().await, committed);
    undisturbed(&cluster, &all, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_members_that_start_at_once_settle_soon() {
    let cluster = Cluster::start_alone(3).await;
    cluster.create_topic(TOPIC, 120, 1).await;
    // The first call of a cluster creates the shards; that is not what is measured.
    coordinator(&cluster, GROUP).find().await;
    let started = Instant::now();
    let members = members(&cluster, GROUP, 50).await;
    let all: Vec<&Member> = members.iter().collect();
    let group = settled(&cluster, GROUP, &all, 120).await;
    let took = started.elapsed();
    println!("fifty members on 120 partitions: {took:?}, group epoch {}", group.epoch);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(group.epoch <= 10, "group epoch {}", group.epoch);
    for member in &members {
        let owned = member.owned().len();
        assert!((2..=3).contains(&owned), "{owned} partitions");
        assert_eq!(member.seen().errors, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_member_is_thrown_out_and_fenced() {
    let cluster = Cluster::start_alone(3).await;
    cluster.create_topic(TOPIC, 4, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let session = Duration::from_secs(2);
    let zombie = Member::start(coordinator(&cluster, GROUP), "zombie", TOPIC, session);
    let other = Member::start(coordinator(&cluster, GROUP), "other", TOPIC, SESSION);
    settled(&cluster, GROUP, &[&zombie, &other], 4).await;
    let (seen, silent) = (zombie.seen(), Instant::now());
    zombie.vanish();
    settled(&cluster, GROUP, &[&other], 4).await;
    let took = silent.elapsed();
    assert!(took < session + Duration::from_secs(3), "{took:?}");
    let commit = CommitOffsetsRequest {
        group: GROUP.to_owned(),
        member_id: "zombie".to_owned(),
        member_epoch: seen.epoch,
        offsets: offsets(&topic, seen.owned.iter().map(|partition| (*partition, 7))),
        ..Default::default()
    };
    let refused = coordinator(&cluster, GROUP).commit(commit).await;
    raw::assert_refused(refused, "UNKNOWN_MEMBER", &["zombie", GROUP, "join again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_disk_refuses_commits_and_lets_members_go() {
    let options = Options {
        sections: "[storage]\nmemtable_bytes = 8388608\n".to_owned(),
        plain_storage: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 4, 1).await;
    let topic = topic_id(&cluster, TOPIC).await;
    cluster.stop(1).await;
    // More than any disk has: it is low from now on, and the node is never called ready.
    cluster.restart_with(1, &[("JANGADA__STORAGE__DISK_RESERVE_BYTES", "1099511627776")]);
    eventually("the node listens", WAIT, || async {
        tokio::net::TcpStream::connect(&cluster.brokers()[0]).await.ok()
    })
    .await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    eventually("the node has looked at its disk", WAIT, || {
        let mut log = log.clone();
        async move {
            let produced = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"x"])).await;
            (raw::reason(&produced.err()?) == "DISK_FULL").then_some(())
        }
    })
    .await;
    let member = Member::start(coordinator(&cluster, GROUP), "m", TOPIC, SESSION);
    settled(&cluster, GROUP, &[&member], 4).await;
    let commit = CommitOffsetsRequest {
        group: GROUP.to_owned(),
        member_id: "m".to_owned(),
        member_epoch: member.seen().epoch,
        offsets: offsets(&topic, [(0, 0)]),
        ..Default::default()
    };
    let mut calls = coordinator(&cluster, GROUP);
    let status = raw::assert_refused(calls.commit(commit).await, "DISK_FULL", &["__groups", "reserve"]);
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    assert!(calls.offsets().await.is_empty());
    member.leave().await;
    let left = calls.describe().await.expect("the group is there");
    assert!(left.members.is_empty());
    let fetched = raw::fetch(
        &mut log,
        raw::partition(TOPIC, 0),
        0,
        jangada_proto::v1::RecordForm::Raw,
    )
    .await;
    fetched.expect("reading goes on");
}

/// Commits whose quorum does not answer take memory until it does: they have a bound, and heartbeats have their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_beyond_the_budget_are_told_to_wait() {
    const PARTITIONS: u32 = 256;
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, PARTITIONS, 1).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let mut calls = coordinator(&cluster, GROUP);
    let commit = |rows: Vec<_>| CommitOffsetsRequest {
        group: GROUP.to_owned(),
        offsets: rows,
        ..CommitOffsetsRequest::default()
    };
    let mut large = offsets(&topic, (0..PARTITIONS).map(|partition| (partition, 7)));
    for row in &mut large {
        row.metadata = "x".repeat(4_096);
    }
    calls
        .commit(commit(large.clone()))
        .await
        .expect("there is room for one");
    let (leader, client) = calls.find().await;
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    others.iter().for_each(|id| cluster.pause(*id));
    let sent: Vec<_> = (0..60)
        .map(|_| {
            let (mut client, request) = (client.clone(), commit(large.clone()));
            tokio::spawn(async move { client.commit_offsets(request).await })
        })
        .collect();
    let mut busy = 0;
    for answer in sent {
        let status = answer.await.expect("no panic").expect_err("there is no quorum");
        if raw::reason(&status) == "BROKER_BUSY" {
            assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
            busy += 1;
        }
    }
    println!("of 60 commits of 1 MiB {busy} were told to wait");
    assert!(busy > 10, "{busy} of 60");
    others.iter().for_each(|id| cluster.resume(*id));
    cluster.healthy().await;
    calls.commit(commit(large)).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_looks_at_groups_creates_nothing() {
    let cluster = Cluster::start(1).await;
    for _ in 0..2 {
        let listed = at(&cluster.brokers()[0]).list_groups(ListGroupsRequest {}).await;
        let listed = listed.expect("there are none").into_inner();
        assert!(listed.groups.is_empty() && listed.missing_shards.is_empty());
    }
    let topics = cluster.admin().await.describe_partitions(Some("__groups")).await;
    let error = topics.expect_err("there is no such topic").to_string();
    assert!(error.contains("__groups"), "{error}");
}
