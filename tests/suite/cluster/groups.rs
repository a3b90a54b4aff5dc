//! Consumer groups from outside: membership, commits, and the death of whoever coordinates them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::{
    CommitOffsetsRequest, DeleteGroupRequest, DeleteOffsetsRequest, DescribeGroupResponse, FetchOffsetsRequest,
    FindCoordinatorRequest, HeartbeatRequest, ListGroupsRequest, Subscription, TopicPartition,
};

use crate::harness::groups::{Coordinator, Member, at, offsets};
use crate::harness::{Cluster, Options, WAIT, eventually, raw};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// Longer than any of these tests: nobody is thrown out for a slow machine.
const SESSION: Duration = Duration::from_secs(120);

fn coordinator(cluster: &Cluster, group: &str) -> Coordinator {
    Coordinator::new(cluster.brokers(), group)
}

async fn topic_id(cluster: &Cluster, topic: &str) -> Bytes {
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

/// Waits until the group is at rest with so many members that own all partitions between them.
async fn settled(cluster: &Cluster, group: &str, members: &[&Member], partitions: u32) -> DescribeGroupResponse {
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

/// Since which epoch each partition has been with its owner.
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

/// Commits growing offsets for what a member owns, and remembers what was acknowledged.
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

/// Waits until each has committed twenty times more.
async fn twenty_more(committers: &[Committer]) {
    let commits = || committers.iter().map(|c| c.commits.load(Ordering::SeqCst));
    let at_least: Vec<u64> = commits().map(|count| count + 20).collect();
    eventually("commits go on", WAIT, || {
        let done = commits().zip(&at_least).all(|(count, least)| count >= *least);
        async move { done.then_some(()) }
    })
    .await;
}

/// The group has all six partitions where they were before; nothing moved, and no member joined again or saw an error.
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
        // What was acknowledged before this moment must be there, whoever answers.
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
    let cluster = Cluster::start(3).await;
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
    let cluster = Cluster::start(3).await;
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
    };
    let refused = coordinator(&cluster, GROUP).commit(commit).await;
    raw::assert_refused(refused, "UNKNOWN_MEMBER", &["zombie", GROUP, "join again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_disk_refuses_commits_and_lets_members_go() {
    // More than any disk has: it is low from the beginning.
    let options = Options {
        sections: "[storage]\nmemtable_bytes = 8388608\ndisk_reserve_bytes = 1099511627776\n".to_owned(),
        plain_storage: true,
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    cluster.create_topic(TOPIC, 4, 1).await;
    let topic = topic_id(&cluster, TOPIC).await;
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

/// Commits whose quorum does not answer take memory until it does: there is a bound, and heartbeats have their own.
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

/// Each name costs a lookup and a row of the answer, so one call names no more than a commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_names_a_bounded_number_of_partitions() {
    const PARTITIONS_MAX: u32 = 10_000;
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let mut calls = coordinator(&cluster, GROUP);
    let commit = CommitOffsetsRequest {
        group: GROUP.to_owned(),
        offsets: offsets(&topic, [(0, 7)]),
        ..CommitOffsetsRequest::default()
    };
    calls.commit(commit).await.expect("nobody is a member");
    let (_, mut client) = calls.find().await;
    let named = |count: u32| {
        let row = |partition| TopicPartition {
            topic_id: topic.clone(),
            topic: String::new(),
            partition,
        };
        (0..count).map(row).collect::<Vec<_>>()
    };
    let fetch = |count| FetchOffsetsRequest {
        group: GROUP.to_owned(),
        partitions: named(count),
    };
    let fetched = client
        .fetch_offsets(fetch(PARTITIONS_MAX))
        .await
        .expect("as many as there may be");
    let fetched = fetched.into_inner().offsets;
    assert_eq!(
        (fetched.len(), fetched[0].offset, fetched[1].offset),
        (PARTITIONS_MAX as usize, 7, -1)
    );
    let status = raw::assert_refused(
        client.fetch_offsets(fetch(PARTITIONS_MAX + 1)).await,
        "INVALID_REQUEST",
        &["10001"],
    );
    assert_eq!(raw::detail(&status, "limit").as_deref(), Some("10000"));
    let delete = DeleteOffsetsRequest {
        group: GROUP.to_owned(),
        partitions: named(PARTITIONS_MAX + 1),
    };
    raw::assert_refused(client.delete_offsets(delete).await, "INVALID_REQUEST", &["10001"]);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_its_reason() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 4, 3).await;
    cluster.create_topic("gone", 1, 3).await;
    let topic = topic_id(&cluster, TOPIC).await;
    let gone = topic_id(&cluster, "gone").await;
    let mut calls = coordinator(&cluster, GROUP);
    let member = Member::start(coordinator(&cluster, GROUP), "m", TOPIC, SESSION);
    settled(&cluster, GROUP, &[&member], 4).await;
    names(&cluster).await;
    heartbeats(&mut calls).await;

    let epoch = member.seen().epoch;
    let commit = |member: &str, epoch, rows| CommitOffsetsRequest {
        group: GROUP.to_owned(),
        member_id: member.to_owned(),
        member_epoch: epoch,
        offsets: rows,
    };
    let row = |partition, offset| offsets(&topic, [(partition, offset)]);
    let mut large = row(0, 1);
    large[0].metadata = "x".repeat(4_097);
    let mut short = row(0, 1);
    short[0].partition.as_mut().expect("it is set").topic_id = Bytes::from_static(b"short");
    cluster
        .admin()
        .await
        .delete_topic("gone")
        .await
        .expect("it can be deleted");
    for (request, reason, named) in [
        (commit("nobody", 1, row(0, 1)), "UNKNOWN_MEMBER", "nobody"),
        (commit("m", epoch + 1, row(0, 1)), "STALE_MEMBER_EPOCH", "heartbeat"),
        (commit("m", epoch, offsets(&gone, [(0, 1)])), "UNKNOWN_TOPIC", "deleted"),
        (commit("m", epoch, row(9, 1)), "UNKNOWN_PARTITION", "9"),
        (commit("m", epoch, row(0, -1)), "INVALID_REQUEST", "-1"),
        (commit("m", epoch, Vec::new()), "INVALID_REQUEST", "0 partitions"),
        (
            commit("m", epoch, [row(0, 1), row(0, 2)].concat()),
            "INVALID_REQUEST",
            "twice",
        ),
        (commit("m", epoch, large), "OFFSET_METADATA_TOO_LARGE", "4096"),
        (commit("m", epoch, short), "INVALID_REQUEST", "16 bytes"),
        (commit("", 0, row(0, 1)), "GROUP_NOT_EMPTY", GROUP),
    ] {
        raw::assert_refused(calls.commit(request).await, reason, &[named]);
    }
    // A second member takes a half; the first may not commit for it any more.
    let second = Member::start(coordinator(&cluster, GROUP), "n", TOPIC, SESSION);
    settled(&cluster, GROUP, &[&member, &second], 4).await;
    let (first, others) = (member.seen(), second.owned());
    let stolen = *others.first().expect("it owns two");
    let refused = calls.commit(commit("m", first.epoch, row(stolen, 1))).await;
    raw::assert_refused(refused, "PARTITION_NOT_OWNED", &["only what is assigned"]);
    assert!(calls.offsets().await.is_empty(), "something was written");

    let group = GROUP.to_owned();
    let deleted = calls
        .call(|mut client| {
            let group = group.clone();
            async move { client.delete_group(DeleteGroupRequest { group }).await }
        })
        .await;
    raw::assert_refused(deleted, "GROUP_NOT_EMPTY", &[GROUP, "2 members"]);
    let deleted = calls
        .call(|mut client| {
            let (group, partitions) = (group.clone(), Vec::new());
            async move { client.delete_offsets(DeleteOffsetsRequest { group, partitions }).await }
        })
        .await;
    raw::assert_refused(deleted, "INVALID_REQUEST", &["at least one"]);
    internal_topic(&cluster).await;
    elsewhere(&cluster, &mut calls).await;
}

async fn names(cluster: &Cluster) {
    let long = "x".repeat(250);
    for name in ["", ".", "a b", "__groups", &long] {
        let group = name.to_owned();
        let answer = at(&cluster.brokers()[0])
            .find_coordinator(FindCoordinatorRequest { group })
            .await;
        raw::assert_refused(answer, "INVALID_GROUP_NAME", &[name]);
    }
    let mut unknown = coordinator(cluster, "nothing-here");
    raw::assert_refused(unknown.describe().await, "UNKNOWN_GROUP", &["nothing-here"]);
}

async fn heartbeats(calls: &mut Coordinator) {
    let join = |change: &dyn Fn(&mut HeartbeatRequest)| {
        let mut request = HeartbeatRequest {
            group: GROUP.to_owned(),
            member_id: "bad".to_owned(),
            subscription: Some(Subscription {
                topics: vec![TOPIC.to_owned()],
                pattern: String::new(),
            }),
            ..HeartbeatRequest::default()
        };
        change(&mut request);
        request
    };
    let subscribe = |topics: &[&str], pattern: &str| {
        let subscription = Subscription {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            pattern: pattern.to_owned(),
        };
        join(&|request| request.subscription = Some(subscription.clone()))
    };
    for (request, reason, named) in [
        (join(&|r| r.member_epoch = 3), "UNKNOWN_MEMBER", "bad"),
        (join(&|r| r.member_epoch = -1), "UNKNOWN_MEMBER", "bad"),
        (join(&|r| r.member_id = "m".to_owned()), "", ""),
        (
            join(&|r| (r.member_id, r.member_epoch) = ("m".to_owned(), 99)),
            "FENCED_MEMBER_EPOCH",
            "join again",
        ),
        (join(&|r| r.member_id = String::new()), "INVALID_REQUEST", "UUID"),
        (join(&|r| r.session_timeout_ms = 999), "INVALID_REQUEST", "1000"),
        (
            join(&|r| r.rebalance_timeout_ms = 3_600_001),
            "INVALID_REQUEST",
            "3600000",
        ),
        (join(&|r| r.assignor = 77), "INVALID_REQUEST", "77"),
        (join(&|r| r.subscription = None), "EMPTY_SUBSCRIPTION", "pattern"),
        (subscribe(&[], ""), "EMPTY_SUBSCRIPTION", "pattern"),
        (subscribe(&["a b"], ""), "INVALID_TOPIC_NAME", "a b"),
        (subscribe(&["__groups"], ""), "INVALID_TOPIC_NAME", "__groups"),
        (subscribe(&[], "(a"), "INVALID_PATTERN", "(a"),
    ] {
        let answer = calls.heartbeat(request).await;
        if reason.is_empty() {
            answer.expect("joining again is no mistake");
        } else {
            raw::assert_refused(answer, reason, &[named]);
        }
    }
}

/// The shards are no topic for records.
async fn internal_topic(cluster: &Cluster) {
    const SHARDS: &str = "__groups";
    let mut log = raw::log(&cluster.brokers()[0]).await;
    let answer = raw::produce(&mut log, raw::partition(SHARDS, 0), raw::batch(None, &[b"x"])).await;
    raw::assert_refused(answer, "INVALID_TOPIC_NAME", &[SHARDS, "internal"]);
    let admin = cluster.admin().await;
    let deleted = admin.delete_topic(SHARDS).await;
    let error = deleted.expect_err("it is internal").to_string();
    assert!(error.contains(SHARDS) && error.contains("internal"), "{error}");
    let shards = admin
        .describe_partitions(Some(SHARDS))
        .await
        .expect("it can be looked at");
    assert_eq!(shards.len(), 16);
    assert!(
        shards
            .iter()
            .all(|shard| shard.replicas.len() == 3 && shard.leader_id.is_some())
    );
    let leaders: BTreeSet<_> = shards.iter().filter_map(|shard| shard.leader_id).collect();
    assert!(leaders.len() > 1, "one broker leads all shards");
}

/// A broker that does not coordinate the group says who does.
async fn elsewhere(cluster: &Cluster, calls: &mut Coordinator) {
    let (leader, _) = calls.find().await;
    let other = cluster.ids().into_iter().find(|id| *id != leader).expect("three nodes");
    let request = CommitOffsetsRequest {
        group: GROUP.to_owned(),
        offsets: Vec::new(),
        ..CommitOffsetsRequest::default()
    };
    let address = &cluster.node(other).addresses.public;
    let refused = raw::assert_refused(at(address).commit_offsets(request).await, "NOT_LEADER", &[]);
    assert_eq!(raw::detail(&refused, "leader_id"), Some(leader.to_string()));
    let address = cluster.node(leader).addresses.public.clone();
    assert_eq!(raw::detail(&refused, "leader_address"), Some(address));
    let mut client = at(&cluster.node(leader).addresses.public);
    let nothing = client.fetch_offsets(jangada_proto::v1::FetchOffsetsRequest {
        group: GROUP.to_owned(),
        partitions: vec![TopicPartition {
            topic_id: Bytes::new(),
            topic: TOPIC.to_owned(),
            partition: 0,
        }],
    });
    let nothing = nothing.await.expect("the leader answers").into_inner();
    assert_eq!(nothing.offsets[0].offset, -1);
}
