//! The cost of many groups: memory, heartbeats, commits. Figures are printed; `JANGADA_LONG=1` runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_proto::v1::{CommitOffsetsRequest, HeartbeatRequest, PartitionSet, Subscription, TopicPartitions};

use crate::harness::groups::{Client, Coordinator, Member, offsets};
use crate::harness::{Cluster, WAIT, eventually, is_too_long};

const TOPIC: &str = "orders";
const GROUPS: usize = 1_000;
const MEMBERS: usize = 10;
/// How long heartbeats, and commits, are counted.
const MEASURED: Duration = Duration::from_secs(20);

/// Resident memory of all nodes in MiB, and the CPU seconds that they have used.
fn used(cluster: &Cluster) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for id in cluster.ids() {
        let node = cluster.node(id);
        let mib = node.memory("VmRSS") as f64 / 1024.0 / 1024.0;
        sum = (sum.0 + mib, sum.1 + node.cpu().as_secs_f64());
    }
    sum
}

/// A member without a task of its own, so that there can be many.
struct Light {
    client: Client,
    request: HeartbeatRequest,
    owned: Vec<u32>,
}

async fn beat(light: &mut Light, topic: &Bytes) {
    let owned = TopicPartitions {
        topic_id: topic.clone(),
        topic: String::new(),
        partitions: light.owned.clone(),
    };
    light.request.owned = (light.request.member_epoch > 0).then(|| PartitionSet {
        topics: if owned.partitions.is_empty() {
            Vec::new()
        } else {
            vec![owned]
        },
    });
    let answer = light
        .client
        .heartbeat(light.request.clone())
        .await
        .expect("a heartbeat is answered");
    let answer = answer.into_inner();
    light.request.subscription = None;
    light.request.member_epoch = answer.member_epoch;
    light.request.assignment_version = answer.assignment_version;
    if let Some(assignment) = answer.assignment {
        light.owned = assignment
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.clone())
            .collect();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_groups_of_ten_members() {
    if is_too_long("the load of many groups") {
        return;
    }
    let cluster = Cluster::start_alone(3).await;
    cluster.create_topic(TOPIC, 10, 3).await;
    let topics = cluster.admin().await.list_topics().await.expect("a broker answers");
    let topic = Bytes::copy_from_slice(topics[0].topic_id.as_bytes());
    // The shards, and whatever the first use of everything allocates.
    let warm = Member::start(
        Coordinator::new(cluster.brokers(), "warm"),
        "m",
        TOPIC,
        Duration::from_secs(600),
    );
    eventually("a member works", WAIT, || async {
        (warm.owned().len() == 10).then_some(())
    })
    .await;
    warm.leave().await;
    let idle = used(&cluster);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (before, idle_cpu) = (used(&cluster), used(&cluster).1 - idle.1);
    println!(
        "idle with 16 shards: {:.0} MiB RSS, {:.1} % of a core",
        before.0,
        idle_cpu / 5.0 * 100.0
    );

    // One connection for each broker, as a real client has.
    let mut clients: std::collections::BTreeMap<u32, Client> = std::collections::BTreeMap::new();
    let mut groups: Vec<Vec<Light>> = Vec::new();
    for index in 0..GROUPS {
        let group = format!("group-{index}");
        let (id, client) = Coordinator::new(cluster.brokers(), &group).find().await;
        let client = clients.entry(id).or_insert(client).clone();
        let light = |member: usize| Light {
            client: client.clone(),
            request: HeartbeatRequest {
                group: group.clone(),
                member_id: format!("member-{member:02}-0123456789abcdef0123456789"),
                client_id: "load".to_owned(),
                session_timeout_ms: 600_000,
                subscription: Some(Subscription {
                    topics: vec![TOPIC.to_owned()],
                    pattern: String::new(),
                }),
                ..HeartbeatRequest::default()
            },
            owned: Vec::new(),
        };
        groups.push((0..MEMBERS).map(light).collect());
    }
    let started = Instant::now();
    let mut rounds = 0;
    while groups.iter().flatten().any(|light| light.owned.len() != 1) {
        assert!(started.elapsed() < Duration::from_secs(300), "not settled");
        rounds += 1;
        let beats = groups.iter_mut().map(|group| async {
            for light in group {
                beat(light, &topic).await;
            }
        });
        futures_join(beats).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let settled = used(&cluster);
    println!(
        "{} members settled after {rounds} rounds, {:?}; RSS grew by {:.0} MiB over all brokers",
        GROUPS * MEMBERS,
        started.elapsed(),
        settled.0 - before.0
    );
    heartbeats(&cluster, &mut groups, &topic, idle_cpu / 5.0).await;
    commits(&cluster, groups, &topic).await;
    let after = used(&cluster);
    println!(
        "after commits RSS has grown by {:.0} MiB over all brokers",
        after.0 - before.0
    );
}

async fn futures_join<F: Future<Output = ()>>(all: impl Iterator<Item = F>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// All members at their interval of 3 s.
async fn heartbeats(cluster: &Cluster, groups: &mut [Vec<Light>], topic: &Bytes, idle: f64) {
    let interval = Duration::from_secs(3);
    let (started, cpu) = (Instant::now(), used(cluster).1);
    let mut count = 0u32;
    while started.elapsed() < MEASURED {
        let begun = Instant::now();
        let groups_at_once = 20;
        let slices = groups.len().div_ceil(groups_at_once);
        for (slice, some) in groups.chunks_mut(groups_at_once).enumerate() {
            let due = begun + interval * u32::try_from(slice).expect("few") / u32::try_from(slices).expect("few");
            tokio::time::sleep_until(due.into()).await;
            count += u32::try_from(some.len() * MEMBERS).expect("few");
            let beats = some.iter_mut().flatten().map(|light| beat(light, topic));
            futures_join(beats).await;
        }
        tokio::time::sleep_until((begun + interval).into()).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let share = (used(cluster).1 - cpu) / seconds;
    println!(
        "heartbeats: {:.0} per second; {:.1} % of a core over all brokers, {:.1} % of it idle",
        f64::from(count) / seconds,
        share * 100.0,
        idle * 100.0
    );
}

/// Each group's first member commits its partition again and again.
async fn commits(cluster: &Cluster, groups: Vec<Vec<Light>>, topic: &Bytes) {
    for at_once in [64, 256, 1_000] {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (started, cpu) = (Instant::now(), used(cluster).1);
        let tasks: Vec<_> = groups
            .iter()
            .take(at_once)
            .map(|group| {
                let light = &group[0];
                let (mut client, count, stop) = (light.client.clone(), count.clone(), stop.clone());
                let mut request = CommitOffsetsRequest {
                    group: light.request.group.clone(),
                    member_id: light.request.member_id.clone(),
                    member_epoch: light.request.member_epoch,
                    offsets: offsets(topic, light.owned.iter().map(|partition| (*partition, 1))),
                    ..Default::default()
                };
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        request.offsets[0].offset += 1;
                        client
                            .commit_offsets(request.clone())
                            .await
                            .expect("an owner may commit");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        tokio::time::sleep(MEASURED / 2).await;
        let (commits, seconds) = (count.load(Ordering::Relaxed), started.elapsed().as_secs_f64());
        let cpu = (used(cluster).1 - cpu) / seconds;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.expect("a committer ends well");
        }
        println!(
            "commits, {at_once} at once: {:.0} per second with fsync; brokers use {cpu:.2} cores",
            commits as f64 / seconds
        );
    }
}
