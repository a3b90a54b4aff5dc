//! A tiny kind of group on a broker that is alone: what all kinds have in common.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_log::{PartitionCommand, PartitionState};
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_replication::{ProposeError, Publisher, ReadError};
use jangada_types::{CodecError, GroupId, LogPosition, Offset, PartitionIndex, Reason};

use super::{Front, Hosted, Kind, ReplicaName, Replicas};
use crate::testing::Alone;

const GROUP: GroupId = GroupId(7);
const TIMEOUT: Duration = Duration::from_secs(30);
const KIND: Kind = Kind {
    noun: "toy",
    not_ready: Reason::NotReady,
    replicas_min: 1,
    without_quorum: "nobody plays",
    is_vital: false,
};

/// Counts what is applied.
#[derive(Default)]
struct Toy(u64);

impl Machine for Toy {
    type Command = ();
    type Reply = ();

    fn encode((): ()) -> EncodedCommand {
        EncodedCommand::new(&[], Bytes::new())
    }

    fn decode(_: EncodedCommand) -> Result<(), CodecError> {
        Ok(())
    }

    fn apply(&mut self, _: LogPosition, (): &(), _: &mut Effects) {
        self.0 += 1;
    }

    fn snapshot(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        let count = <[u8; 8]>::try_from(&snapshot[..]).map_err(|error| RestoreError(error.to_string()))?;
        Ok(Self(u64::from_be_bytes(count)))
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }
}

#[derive(Default)]
struct ToyPublisher(Toy);

impl Publisher for ToyPublisher {
    type Machine = Toy;

    fn apply(&mut self, at: LogPosition, (): (), effects: &mut Effects) {
        self.0.apply(at, &(), effects);
    }

    fn snapshot(&self) -> Bytes {
        self.0.snapshot()
    }

    fn replace(&mut self, toy: Toy) {
        self.0 = toy;
    }

    fn retention(&self) -> Retention {
        self.0.retention()
    }
}

struct ToyFront(Arc<Hosted>);

impl Front for ToyFront {}

struct OtherFront;

impl Front for OtherFront {}

async fn open(alone: &Alone) -> (Replicas, Arc<ToyFront>) {
    let replicas = Replicas::new(alone.registry.clone(), TIMEOUT);
    let name = ReplicaName {
        topic: "games".into(),
        index: Some(PartitionIndex(3)),
    };
    let id = (GROUP, alone.registry.local_replica());
    let opened = replicas
        .open(id, (&KIND, name), ToyPublisher::default().erased(), ToyFront)
        .await;
    (replicas, opened.expect("it is new"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_any_kind_is_found_by_its_front_once_it_leads_and_gone_once_it_is_closed() {
    let alone = Alone::start();
    let (replicas, toy) = open(&alone).await;
    assert_eq!(&*toy.0.title, "toy games-3");
    assert!(replicas.front::<OtherFront>(GROUP).is_none());
    assert!(
        replicas.ready::<ToyFront>(GROUP).is_none(),
        "nobody has formed the group"
    );
    let error = replicas
        .when_ready(GROUP, &"toy games-3", || replicas.ready::<ToyFront>(GROUP))
        .await;
    let error = error.err().expect("nobody leads it");
    assert_eq!(
        (error.reason, error.definite),
        (Reason::LeaderNotAvailable, true),
        "{error}"
    );
    let alone_votes = BTreeSet::from([alone.registry.local_replica()]);
    toy.0.group.initialize(&alone_votes).await.expect("it is new");
    let ready = replicas.when_ready(GROUP, &"toy games-3", || replicas.ready::<ToyFront>(GROUP));
    assert!(Arc::ptr_eq(&ready.await.expect("it elects itself"), &toy));
    assert_eq!(replicas.live_leader_of(GROUP).map(|(broker, _)| broker.get()), Some(1));
    assert!(replicas.knows_leader(&toy.0.group) && !replicas.has_lost_quorum(GROUP));
    replicas.close(GROUP).await;
    assert!(replicas.get(GROUP).is_none() && replicas.all().is_empty());
    alone.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_another_machine_is_refused_before_it_is_in_the_log() {
    let alone = Alone::start();
    let (_replicas, toy) = open(&alone).await;
    let barrier = PartitionCommand::barrier(Offset(0));
    let refused = toy.0.group.submit::<PartitionState>(barrier).await;
    let error = refused.err().expect("it is a partition's");
    assert!(matches!(error, ProposeError::OtherMachine { .. }), "{error}");
    assert!(error.is_definite());
    let text = error.to_string();
    assert!(text.contains("Toy") && text.contains("PartitionState"), "{text}");
    let error = toy.0.propose_error(&error);
    assert_eq!((error.reason, error.definite), (Reason::Internal, true), "{error}");
    alone.registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_leadership_begin_with_the_group_and_say_whether_the_outcome_is_known() {
    let alone = Alone::start();
    let (_replicas, toy) = open(&alone).await;
    let cases = [
        (ProposeError::NotLeader(None), Reason::LeaderNotAvailable, true),
        (ProposeError::Timeout, Reason::QuorumTimeout, false),
        (ProposeError::Discarded, Reason::LeaderNotAvailable, false),
        (
            ProposeError::Stopped("it was closed".into()),
            Reason::LeaderNotAvailable,
            false,
        ),
    ];
    for (cause, reason, definite) in cases {
        let error = toy.0.propose_error(&cause);
        assert_eq!((error.reason, error.definite), (reason, definite), "{error}");
        assert!(error.message.starts_with("toy games-3: "), "{error}");
    }
    let error = toy.0.read_error(&ReadError::Timeout);
    assert_eq!((error.reason, error.definite), (Reason::QuorumTimeout, true), "{error}");
    let error = toy.0.leader_epoch().expect_err("it does not lead");
    assert_eq!(error.reason, Reason::LeaderNotAvailable, "{error}");
    alone.registry.shutdown().await;
}
