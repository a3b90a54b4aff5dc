//! Members of a group under faults.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_client::{
    ClientError, CommitMode, GroupConfig, GroupHandle, ListenerError, PartitionPosition, Reason, RebalanceListener,
    StartPositions, TopicPartition,
};

use crate::consume::{fill, filled};
use crate::fake::{Cluster, Error, GroupFault};
use crate::group::{Heard, committed, config, idle, member, soon, take, until};

#[tokio::test]
async fn a_member_that_was_thrown_out_hands_out_nothing_more_of_what_it_had() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 100).await;
    let slow_commit = GroupConfig {
        commit: CommitMode::After {
            interval: Duration::from_secs(600),
        },
        ..config()
    };
    let heard = Arc::new(Heard::default());
    let mut consumer = client
        .group_consumer_with(slow_commit, heard.clone())
        .expect("good settings");
    take(&mut consumer, 10).await;
    let id = consumer.member_id().to_owned();
    cluster.state().groups().throw_out("g", &id);
    let error = consumer.commit().await.expect_err("it is no member");
    assert!(matches!(error, ClientError::MembershipLost(_)), "{error}");
    assert!(error.is_definite());
    assert_eq!(committed(&cluster, 0), None, "nothing of a zombie is committed");
    assert_eq!(committed(&cluster, 1), None);
    until("it joined again", || !cluster.state().groups().members("g").is_empty()).await;
    // From the beginning, since nothing was committed.
    let again = take(&mut consumer, 200).await;
    assert_eq!(crate::group::offsets(&again).len(), 200);
    let events: Vec<_> = heard.all().into_iter().map(|(what, _)| what).collect();
    assert_eq!(events, ["assigned", "lost", "assigned"]);
}

#[tokio::test]
async fn without_answers_for_a_session_nothing_is_handed_out() {
    let cluster = Cluster::start(2);
    let client = filled(&cluster, 1, 100).await;
    // The partition's leader is broker 1; the coordinator hangs.
    cluster.state().groups().move_to(2);
    let mut consumer = member(
        &client,
        GroupConfig {
            session_timeout: Duration::from_secs(1),
            ..config()
        },
    );
    take(&mut consumer, 10).await;
    cluster.freeze(2);
    // A session without an answer is what is tested, and it is over only after its time.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    idle(&mut consumer, 300).await;
    cluster.thaw();
    // Whether it is still a member or has joined again, it goes on.
    take(&mut consumer, 10).await;
}

#[tokio::test]
async fn a_coordinator_that_moves_costs_nothing() {
    let mut cluster = Cluster::start(3);
    let client = filled(&cluster, 3, 100).await;
    let heard = Arc::new(Heard::default());
    let mut consumer = client
        .group_consumer_with(config(), heard.clone())
        .expect("good settings");
    take(&mut consumer, 50).await;
    cluster.state().groups().move_to(2);
    consumer.commit().await.expect("committed at the new one");
    take(&mut consumer, 50).await;
    cluster.kill(2);
    consumer.commit().await.expect("committed at the newest one");
    take(&mut consumer, 200).await;
    consumer.commit().await.expect("committed");
    assert_eq!(
        (0..3).map(|p| committed(&cluster, p)).collect::<Vec<_>>(),
        [Some(100); 3]
    );
    assert_eq!(heard.all(), [("assigned", vec![0, 1, 2])], "and no rebalance");
}

#[tokio::test]
async fn heartbeats_with_lost_answers_are_sent_again() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    let faults = [
        GroupFault::Lose,
        GroupFault::Refuse(Error::definite(Reason::NotReady)),
        GroupFault::Refuse(Error::definite(Reason::GroupChanged)),
        GroupFault::Lose,
    ];
    cluster.state().groups().heartbeat_faults.extend(faults);
    let mut consumer = member(&client, config());
    take(&mut consumer, 20).await;
    assert_eq!(cluster.state().groups().members("g").len(), 1);
}

#[tokio::test]
async fn commits_with_lost_answers_are_sent_again() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let manual = GroupConfig {
        commit: CommitMode::Manual,
        ..config()
    };
    let mut consumer = member(&client, manual);
    take(&mut consumer, 5).await;
    let answers = [GroupFault::Lose, GroupFault::Lose];
    cluster.state().groups().commit_faults.extend(answers);
    soon(consumer.commit()).await.expect("committed in the end");
    assert_eq!(committed(&cluster, 0), Some(5));
}

#[tokio::test]
async fn a_commit_waits_for_the_epoch_that_is_on_its_way() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let manual = GroupConfig {
        commit: CommitMode::Manual,
        ..config()
    };
    let mut consumer = member(&client, manual);
    take(&mut consumer, 5).await;
    // Another member comes and moves the epoch on, and the answers that say so get lost.
    let id = consumer.member_id().to_owned();
    let old = cluster.state().groups().epoch("g", &id);
    cluster.state().groups().deaf = Some(id.clone());
    let _other = member(&client, config());
    until("the epoch has moved on", || {
        cluster.state().groups().epoch("g", &id) > old
    })
    .await;
    assert_eq!(consumer.member_epoch(), i64::from(old));
    let answers = async {
        until("it was refused", || !cluster.state().groups().refused.is_empty()).await;
        // Two heartbeats later it has not been tried again: it would be refused once more.
        let seen = cluster.state().groups().heartbeats.len();
        until("heartbeats go on", || {
            cluster.state().groups().heartbeats.len() >= seen + 4
        })
        .await;
        cluster.state().groups().deaf = None;
    };
    let (done, ()) = soon(async { tokio::join!(consumer.commit(), answers) }).await;
    done.expect("committed at the new epoch");
    assert_eq!(committed(&cluster, 0), Some(5));
    assert_eq!(cluster.state().groups().refused, [Reason::StaleMemberEpoch]);
}

#[tokio::test]
async fn a_consumer_that_is_dropped_leaves() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 2, 10).await;
    let mut consumer = member(&client, config());
    take(&mut consumer, 20).await;
    drop(consumer);
    until("it left", || cluster.state().groups().members("g").is_empty()).await;
    let named = GroupConfig {
        instance_id: Some("one".to_owned()),
        ..config()
    };
    let mut consumer = member(&client, named.clone());
    // A record that was taken and not finished.
    take(&mut consumer, 1).await;
    drop(consumer);
    // A static one leaves for a while: another process has its place at once.
    let mut again = member(&client, named);
    let id = again.member_id().to_owned();
    let came_back = until("it came back", || {
        let members = cluster.state().groups().members("g");
        members == [(id.clone(), vec![0, 1])]
    });
    let reading = async {
        loop {
            again.next().await.expect("records");
        }
    };
    tokio::select! {
        () = reading => {}
        () = came_back => {}
    }
}

#[tokio::test]
async fn offsets_that_are_not_ready_are_not_out_of_range() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = member(&client, config());
    take(&mut consumer, 10).await;
    soon(consumer.close()).await.expect("closed");
    let not_ready = GroupFault::Refuse(Error::definite(Reason::NotReady));
    cluster.state().groups().fetch_faults.extend(vec![not_ready; 3]);
    let mut next = member(&client, config());
    fill(&client, 1, 10..11).await;
    assert_eq!(take(&mut next, 1).await[0].offset, 10, "not from the beginning");
}

#[tokio::test]
async fn a_second_process_under_an_instance_id_is_told() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let refused = GroupFault::Refuse(Error::definite(Reason::FencedInstanceId));
    let mut consumer = member(
        &client,
        GroupConfig {
            instance_id: Some("one".to_owned()),
            ..config()
        },
    );
    take(&mut consumer, 1).await;
    cluster.state().groups().heartbeat_faults.push_back(refused);
    let error = loop {
        match soon(consumer.next()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::FencedInstanceId), "{error}");
    let again = soon(consumer.next()).await.expect_err("for good");
    assert_eq!(again.reason(), Some(Reason::FencedInstanceId));
    soon(consumer.close()).await.expect("nothing is left to commit");
}

#[tokio::test]
async fn a_group_that_does_not_take_the_member_says_why() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 1).await;
    let bad_pattern = GroupConfig {
        pattern: Some("(".to_owned()),
        ..config()
    };
    let mut consumer = member(&client, bad_pattern);
    let error = soon(consumer.next()).await.expect_err("a bad pattern");
    assert_eq!(error.reason(), Some(Reason::InvalidPattern), "{error}");
}

#[tokio::test]
async fn a_topic_that_is_deleted_goes_away_quietly() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let mut consumer = member(&client, config());
    take(&mut consumer, 10).await;
    cluster.delete_topic("t");
    idle(&mut consumer, 500).await;
    assert!(consumer.assignment().is_empty());
    let client = filled(&cluster, 2, 5).await;
    let read = take(&mut consumer, 10).await;
    assert_eq!(
        crate::group::offsets(&read).len(),
        10,
        "the new topic is read from its beginning"
    );
    drop(client);
}

/// A listener that records the epochs of its handles.
#[derive(Default)]
struct Epochs(Mutex<Vec<(&'static str, i64)>>);

impl Epochs {
    fn hears(&self, what: &'static str, group: &GroupHandle) {
        self.0.lock().expect("no panic").push((what, group.member_epoch()));
    }
}

impl RebalanceListener for Epochs {
    fn on_assigned<'a>(
        &'a self,
        group: &'a GroupHandle,
        _: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        Box::pin(async move {
            self.hears("assigned", group);
            Ok(Vec::new())
        })
    }

    fn on_lost<'a>(&'a self, group: &'a GroupHandle, _: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.hears("lost", group) })
    }
}

#[tokio::test]
async fn the_epoch_is_that_of_what_was_handed_out() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    let heard = Arc::new(Epochs::default());
    let mut consumer = client
        .group_consumer_with(config(), heard.clone())
        .expect("good settings");
    take(&mut consumer, 1).await;
    let old = consumer.member_epoch();
    assert!(old > 0);
    let id = consumer.member_id().to_owned();
    cluster.state().groups().throw_out("g", &id);
    // While the caller handles the record the member joins again: its next heartbeat says that it knows.
    until("it is a member again", || {
        let mut state = cluster.state();
        let beats = &state.groups().heartbeats;
        beats.last().is_some_and(|beat| beat.member_epoch > old)
    })
    .await;
    assert_eq!(
        consumer.member_epoch(),
        old,
        "the record was handed out under the old epoch"
    );
    take(&mut consumer, 1).await;
    let new = consumer.member_epoch();
    assert!(new > old);
    let heard = heard.0.lock().expect("no panic").clone();
    assert_eq!(heard, [("assigned", old), ("lost", old), ("assigned", new)]);
}

#[tokio::test]
async fn a_consumer_that_ends_while_it_joins_leaves_no_member_behind() {
    let cluster = Cluster::start(1);
    let client = filled(&cluster, 1, 10).await;
    for closes in [true, false] {
        // A coordinator that takes that long, and carries out a call whose client no longer waits.
        let late = GroupFault::Late(Duration::from_millis(500));
        cluster.state().groups().heartbeat_faults.push_back(late);
        let consumer = member(&client, config());
        let id = consumer.member_id().to_owned();
        until("it joins", || cluster.state().groups().heartbeat_faults.is_empty()).await;
        match closes {
            true => soon(consumer.close()).await.expect("nothing to commit"),
            false => drop(consumer),
        }
        let has_joined = |beat: &jangada_proto::v1::HeartbeatRequest| beat.member_id == id && beat.member_epoch == 0;
        until("it has joined", || {
            cluster.state().groups().heartbeats.iter().any(has_joined)
        })
        .await;
        until("it left", || cluster.state().groups().members("g").is_empty()).await;
    }
}
