//! Bad requests about groups are refused with their reason, and change nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use jangada_proto::v1::{
    CommitOffsetsRequest, DeleteGroupRequest, DeleteOffsetsRequest, FetchOffsetsRequest, FindCoordinatorRequest,
    HeartbeatRequest, Subscription, TopicPartition,
};

use super::groups::{GROUP, SESSION, TOPIC, coordinator, settled, topic_id};
use crate::harness::groups::{Coordinator, Member, at, offsets};
use crate::harness::{Cluster, raw};

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
        ..Default::default()
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

/// The topic of the shards takes no records.
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

/// A broker that does not coordinate the group names the one that does.
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
        ..Default::default()
    });
    let nothing = nothing.await.expect("the leader answers").into_inner();
    assert_eq!(nothing.offsets[0].offset, -1);
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
        ..Default::default()
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
