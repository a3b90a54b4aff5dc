//! Requests that are refused, each with its own reason.

use std::sync::Arc;

use jangada_coordinator::{
    CommitRequest, HeartbeatRequest, OffsetCommit, PartitionSet, Rejection, Subscription, limits,
};
use jangada_types::Reason;

use crate::fixture::{Client, GROUP, World, commit, partition, settled};

fn join_error(change: impl FnOnce(&mut HeartbeatRequest)) -> Reason {
    let mut world = World::new(vec![(1, "t", 1)]);
    let mut request = Client::new("m", &["t"]).request();
    change(&mut request);
    let error = world.heartbeat(request).expect_err("it is refused");
    assert!(world.log.is_empty(), "nothing was proposed");
    assert!(!error.message.is_empty());
    error.reason
}

#[test]
fn bad_joins() {
    for name in ["", ".", "..", "__g", "a b", "é", &"x".repeat(250)] {
        let reason = join_error(|request| request.group = name.into());
        assert_eq!(reason, Reason::InvalidGroupName, "{name:?}");
    }
    for id in ["", "a b", &"x".repeat(65)] {
        let reason = join_error(|request| request.member = id.into());
        assert_eq!(reason, Reason::InvalidRequest, "{id:?}");
    }
    let subscribe = |subscription| join_error(|request| request.subscription = subscription);
    assert_eq!(subscribe(None), Reason::EmptySubscription);
    assert_eq!(subscribe(Some(Subscription::default())), Reason::EmptySubscription);
    assert_eq!(
        subscribe(Some(Subscription::new([], Some("(")))),
        Reason::InvalidPattern
    );
    assert_eq!(subscribe(Some(Subscription::new([], Some("")))), Reason::InvalidPattern);
    assert_eq!(
        subscribe(Some(Subscription::new(["a b"], None))),
        Reason::InvalidTopicName
    );
    let names: Vec<String> = (0..=limits::TOPICS_PER_SUBSCRIPTION_MAX)
        .map(|at| format!("t{at}"))
        .collect();
    let many = Subscription::new(names.iter().map(String::as_str), None);
    assert_eq!(subscribe(Some(many)), Reason::InvalidRequest);
    assert_eq!(
        join_error(|request| request.session_timeout_ms = 1),
        Reason::InvalidRequest
    );
    assert_eq!(
        join_error(|request| request.rebalance_timeout_ms = u32::MAX),
        Reason::InvalidRequest
    );
    assert_eq!(
        join_error(|request| request.instance_id = Some("".into())),
        Reason::InvalidRequest
    );
    assert_eq!(
        join_error(|request| request.client_id = "x".repeat(256).into()),
        Reason::InvalidRequest
    );
    let owned: PartitionSet = [partition(1, 0)].into_iter().collect();
    assert_eq!(
        join_error(|request| request.owned = Some(owned)),
        Reason::InvalidRequest
    );
    assert_eq!(join_error(|request| request.epoch = 7), Reason::UnknownMember);
    assert_eq!(join_error(|request| request.epoch = -1), Reason::UnknownMember);
}

#[test]
fn bad_heartbeats() {
    let (mut world, clients) = settled(1, vec![(1, "t", 2)]);
    let good = clients[0].request();
    for epoch in [good.epoch + 1, good.epoch - 2, i64::MAX] {
        let error = world.heartbeat(HeartbeatRequest { epoch, ..good.clone() }).unwrap_err();
        let expected = if epoch == 0 {
            continue;
        } else {
            Reason::FencedMemberEpoch
        };
        assert_eq!(error.reason, expected, "epoch {epoch}");
    }
    for epoch in [-2, -3, i64::MIN] {
        let error = world.heartbeat(HeartbeatRequest { epoch, ..good.clone() }).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidRequest, "epoch {epoch}");
    }
    let owned: PartitionSet = [partition(1, 0), partition(9, 0)].into_iter().collect();
    let error = world
        .heartbeat(HeartbeatRequest {
            owned: Some(owned),
            ..good.clone()
        })
        .unwrap_err();
    assert_eq!(error.reason, Reason::FencedMemberEpoch);
    let subscription = Some(Subscription::default());
    let error = world
        .heartbeat(HeartbeatRequest {
            subscription,
            ..good.clone()
        })
        .unwrap_err();
    assert_eq!(error.reason, Reason::EmptySubscription);
    world.heartbeat(good).expect("it goes on");
}

#[test]
fn a_full_group_takes_nobody() {
    let mut world = World::new(vec![(1, "t", 1)]);
    for at in 0..limits::MEMBERS_PER_GROUP_MAX {
        let command = jangada_coordinator::Command::PutMember {
            group: GROUP.into(),
            member: format!("m{at}").into(),
            replaces: None,
            version: 0,
            spec: crate::golden::spec(),
        };
        let spec_without_instance = match command {
            jangada_coordinator::Command::PutMember {
                group,
                member,
                replaces,
                version,
                mut spec,
            } => {
                spec.instance_id = None;
                jangada_coordinator::Command::PutMember {
                    group,
                    member,
                    replaces,
                    version,
                    spec,
                }
            }
            other => other,
        };
        // Pushed without the fixture, which checks the whole state each time.
        world.log.push(spec_without_instance.clone());
        let reply = world.image.apply(world.log.len() as u64, &spec_without_instance);
        assert!(reply.into_result().is_ok());
    }
    let error = world.heartbeat(Client::new("more", &["t"]).request()).unwrap_err();
    assert_eq!(error.reason, Reason::GroupFull);
}

fn commit_error(offsets: Vec<OffsetCommit>) -> Rejection {
    let mut world = World::new(vec![(1, "t", 20_000)]);
    let at = world.now();
    let request = CommitRequest {
        group: GROUP.into(),
        member: None,
        offsets,
    };
    let step = world.leader.commit(&world.image, request, at);
    let error = world.finish(step).expect_err("it is refused");
    assert!(world.log.is_empty());
    error
}

#[test]
fn bad_commits() {
    let one = |change: fn(&mut OffsetCommit)| {
        let mut commit = commit(partition(1, 0), 1);
        change(&mut commit);
        commit_error(vec![commit]).reason
    };
    assert_eq!(commit_error(vec![]).reason, Reason::InvalidRequest);
    assert_eq!(
        one(|commit| commit.offset = jangada_types::Offset(-1)),
        Reason::InvalidRequest
    );
    let large = |commit: &mut OffsetCommit| commit.metadata = "x".repeat(4_097).into();
    assert_eq!(one(large), Reason::OffsetMetadataTooLarge);
    assert_eq!(one(|commit| commit.partition = partition(2, 0)), Reason::UnknownTopic);
    assert_eq!(
        one(|commit| commit.partition = partition(1, 20_000)),
        Reason::UnknownPartition
    );
    let twice = vec![commit(partition(1, 0), 1), commit(partition(1, 0), 2)];
    assert_eq!(commit_error(twice).reason, Reason::InvalidRequest);
    let many = (0..=10_000).map(|at| commit(partition(1, at), 1)).collect();
    assert_eq!(commit_error(many).reason, Reason::InvalidRequest);
    let text: Arc<str> = "x".repeat(4_096).into();
    let heavy = (0..300).map(|at| OffsetCommit {
        metadata: (&*text).into(),
        ..commit(partition(1, at), 1)
    });
    assert_eq!(commit_error(heavy.collect()).reason, Reason::OffsetMetadataTooLarge);
}

#[test]
fn commits_of_strangers() {
    let mut world = World::new(vec![(1, "t", 1)]);
    let error = world.commit(Some(("nobody", 1)), partition(1, 0), 1).unwrap_err();
    assert_eq!(error.reason, Reason::UnknownMember);
    Client::new("m", &["t"]).beat(&mut world);
    let error = world.commit(Some(("nobody", 1)), partition(1, 0), 1).unwrap_err();
    assert_eq!(error.reason, Reason::UnknownMember);
    let error = world.commit(Some(("m", 1)), partition(1, 0), 1).unwrap_err();
    assert_eq!(error.reason, Reason::PartitionNotOwned);
}
