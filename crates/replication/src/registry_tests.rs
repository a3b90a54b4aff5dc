//! What a broker's groups do when a disk hangs, and under which id data is opened, without peers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{AppendEntries, LeaderAnnouncement, Message};
use jangada_storage::{Starts, Store};
use jangada_types::{BrokerId, GroupId, Incarnation, ReplicaId};

use crate::host_tests::{Journal, TIMEOUT, open_store};
use crate::transport::inbound::serve_call;
use crate::{Group, Identity, OpenError, Registry, Timing};

const GROUP: GroupId = GroupId(7);

async fn open(store: Arc<dyn Store>) -> (Arc<Registry>, Group) {
    let identity = Identity {
        cluster_id: "tests".into(),
        broker: BrokerId::from(1),
        incarnation: Incarnation::from(1),
    };
    let timing = Timing {
        heartbeat_ms: 100,
        election_timeout_min_ms: 300,
        election_timeout_max_ms: 600,
    };
    let registry = Registry::start(
        identity,
        store,
        timing,
        Starts::default(),
        crate::transport::dialer::Dialer::new(jangada_env::Network::System),
        &jangada_env::Env::system(),
    )
    .unwrap();
    let group = registry.open(GROUP, Box::new(Journal::new(1 << 20, 16))).await.unwrap();
    (registry, group)
}

/// A heartbeat of broker 2, which leads.
fn vote() -> jangada_proto::internal::Vote {
    jangada_proto::internal::Vote {
        term: 1,
        broker_id: 2,
        incarnation: 1,
        committed: true,
    }
}

fn heartbeat() -> Message {
    Message {
        group_id: GROUP.get(),
        to_incarnation: 1,
        call_id: 1,
        body: Some(Body::Append(AppendEntries {
            vote: Some(vote()),
            ..AppendEntries::default()
        })),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_that_wait_for_a_disk_are_bounded() {
    let store = open_store();
    let (registry, group) = open(store).await;
    let peer = BrokerId::from(2);
    // What the first heartbeat waits for never comes: here, a permit of each that may wait.
    let hung = group.heartbeats().clone().acquire_many_owned(30).await.unwrap();
    let mut calls: FuturesUnordered<_> = (0..1_000)
        .map(|_| serve_call(registry.clone(), peer, heartbeat()))
        .collect();
    let (mut taken, mut refused) = (0, 0);
    while let Some(answer) = tokio::time::timeout(TIMEOUT, calls.next()).await.unwrap() {
        match answer.unwrap().body {
            Some(Body::AppendResult(_)) => taken += 1,
            Some(Body::Refused(_)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(taken >= 1 && refused >= 900, "{taken} taken, {refused} refused");
    drop(hung);
    // The disk is well again.
    let answer = serve_call(registry.clone(), peer, heartbeat()).await.unwrap();
    assert!(matches!(answer.body, Some(Body::AppendResult(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_opened_only_as_the_replica_that_it_belongs_to() {
    let store = open_store();
    let (registry, group) = open(store).await;
    let first = group.replica();
    group.initialize(&BTreeSet::from([first])).await.unwrap();
    registry.close(GROUP).await;
    let machine = || Box::new(Journal::new(1 << 20, 16));
    let renewed = ReplicaId::new(first.broker, Incarnation(2));
    let other =
        |found| move |error| matches!(error, OpenError::OtherReplica { found: is, .. } if is == Incarnation(found));
    // The old data is still there.
    let refused = registry.open_as(GROUP, renewed, machine()).await.err();
    assert!(refused.is_some_and(other(1)));
    registry.delete(GROUP, Some(renewed.incarnation)).await.unwrap();
    assert_eq!(registry.owner_of(GROUP).await.unwrap(), Some(renewed.incarnation));
    // An image that is behind would open an empty log as a replica that has voted.
    let refused = registry.open(GROUP, machine()).await.err();
    assert!(refused.is_some_and(other(2)));

    let group = registry.open_as(GROUP, renewed, machine()).await.unwrap();
    assert_eq!(group.replica(), renewed);
    assert!(!group.is_initialized().await);
    let peer = BrokerId::from(2);
    let answer = serve_call(registry.clone(), peer, heartbeat()).await.unwrap();
    assert!(matches!(answer.body, Some(Body::Refused(_))), "it was for the old id");
    let mut to_new = heartbeat();
    to_new.to_incarnation = 2;
    let answer = serve_call(registry.clone(), peer, to_new).await.unwrap();
    assert!(matches!(answer.body, Some(Body::AppendResult(_))));

    registry.delete(GROUP, None).await.unwrap();
    assert_eq!(registry.owner_of(GROUP).await.unwrap(), None);
    registry.open(GROUP, machine()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_tells_that_it_does_not_lead_and_takes_it_when_its_leader_stopped_for_it() {
    let store = open_store();
    let (registry, group) = open(store).await;
    registry.refuse_to_lead(GROUP);
    assert!(!group.stands_for_elections());
    let unfit = || match registry.announcement(Vec::new(), false).body {
        Some(Body::Leaders(leaders)) => leaders.unfit_group_ids,
        other => panic!("{other:?}"),
    };
    assert_eq!(unfit(), [GROUP.get()]);
    let offer = Message {
        body: Some(Body::TransferLeader(jangada_proto::internal::TransferLeader {
            from_leader: Some(vote()),
            to_broker_id: 1,
            to_incarnation: 1,
            ..Default::default()
        })),
        ..heartbeat()
    };
    let answer = serve_call(registry.clone(), BrokerId::from(2), offer).await.unwrap();
    let Some(Body::TransferLeaderResult(result)) = answer.body else {
        panic!("{:?}", answer.body);
    };
    assert!(!result.error.contains("damaged"), "{}", result.error);
    // The repair looks again, while the leader still waits for it.
    registry.refuse_to_lead(GROUP);
    assert!(group.stands_for_elections());
    assert_eq!(unfit(), [GROUP.get()], "others hand it nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_broker_does_not_lead_is_remembered_until_it_takes_it_back() {
    let store = open_store();
    let (registry, _group) = open(store).await;
    let peer = BrokerId::from(2);
    let tell = |unfit_group_ids| {
        let told = LeaderAnnouncement {
            unfit_group_ids,
            ..LeaderAnnouncement::default()
        };
        registry.announced(peer, told);
    };
    tell(vec![GROUP.get()]);
    assert!(registry.is_unfit(GROUP, peer) && !registry.is_unfit(GROUP, BrokerId::from(3)));
    tell(Vec::new());
    assert!(!registry.is_unfit(GROUP, peer));
}
