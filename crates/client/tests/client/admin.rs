//! Admin calls whose answers get lost.

use std::time::Duration;

use jangada_client::{BrokerId, Client, ClientError, NewTopic, Reason};
use tonic::Status;

use crate::fake::{Cluster, Error};
use crate::group::{soon, until};

fn lost() -> Status {
    Status::unavailable("the connection broke")
}

#[tokio::test]
async fn topics_are_created_listed_and_deleted() {
    let cluster = Cluster::start(1);
    let admin = cluster.client().await.admin();
    let created = admin.create_topic(NewTopic::new("t", 3, 1)).await.expect("created");
    assert!(created.created);
    let topics = admin.list_topics().await.expect("listed");
    assert_eq!(
        (topics.len(), topics[0].topic_id, topics[0].partitions),
        (1, created.topic_id, 3)
    );
    let described = admin.describe_topic("t").await.expect("described");
    assert_eq!(
        (
            described.partitions[2].leader_id,
            described.partitions[2].high_watermark
        ),
        (Some(BrokerId(1)), None)
    );
    let again = NewTopic {
        if_not_exists: true,
        ..NewTopic::new("t", 9, 1)
    };
    assert!(!admin.create_topic(again).await.expect("it is there").created);
    admin.delete_topic("t").await.expect("deleted");
    assert!(matches!(
        admin.describe_topic("t").await,
        Err(ClientError::UnknownTopic { .. })
    ));
}

#[tokio::test]
async fn a_topic_of_ours_whose_answer_got_lost_counts_as_created() {
    let cluster = Cluster::start(2);
    let admin = cluster.client().await.admin();
    cluster.state().admin_faults.push_back((true, lost()));
    let created = admin.create_topic(NewTopic::new("t", 3, 1)).await.expect("created");
    assert!(created.created);
    assert_eq!(created.topic_id, cluster.state().topics["t"].id);
}

#[tokio::test]
async fn a_topic_of_someone_else_does_not() {
    let cluster = Cluster::start(2);
    cluster.create_topic("t", 1);
    let admin = cluster.client().await.admin();
    for faults in [vec![], vec![(false, lost())]] {
        cluster.state().admin_faults.extend(faults);
        let error = admin
            .create_topic(NewTopic::new("t", 3, 1))
            .await
            .expect_err("it exists");
        assert!(matches!(error, ClientError::Refused(_)), "{error}");
        assert_eq!(error.reason(), Some(Reason::TopicExists));
    }
}

#[tokio::test]
async fn a_deletion_whose_answer_got_lost_counts() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let admin = cluster.client().await.admin();
    cluster.state().admin_faults.push_back((true, lost()));
    admin.delete_topic("t").await.expect("deleted");
    assert!(matches!(
        admin.delete_topic("t").await,
        Err(ClientError::UnknownTopic { .. })
    ));
}

#[tokio::test]
async fn a_deletion_that_is_repeated_does_not_reach_a_topic_that_came_after() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let before = cluster.state().topics["t"].id;
    let admin = cluster.client().await.admin();
    cluster.state().recreates = true;
    cluster.state().admin_faults.push_back((true, lost()));
    admin.delete_topic("t").await.expect("deleted");
    let state = cluster.state();
    let after = state.topics.get("t").expect("it is not ours to delete");
    assert_ne!(after.id, before);
}

#[tokio::test]
async fn a_topic_is_named_by_the_id_that_it_has_now() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let client = cluster.client().await;
    client.topic("t").await.expect("there");
    cluster.delete_topic("t");
    cluster.create_topic("t", 1);
    client.admin().create_partitions("t", 3).await.expect("it is there");
    assert_eq!(cluster.state().topics["t"].partitions.len(), 3);
}

#[tokio::test]
async fn what_a_broker_said_is_told_and_not_that_another_one_is_dead() {
    let mut cluster = Cluster::start(3);
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_millis(500);
    // Known to be dead it is the last to be asked in each round.
    cluster.kill(3);
    let admin = Client::connect(config).await.expect("the others answer").admin();
    let busy = Error::definite(Reason::NotReady).status();
    cluster.state().admin_faults.extend(vec![(false, busy); 1000]);
    let error = admin.list_topics().await.expect_err("it is never ready");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert_eq!(error.reason(), Some(Reason::NotReady), "{error}");
}

#[tokio::test]
async fn another_broker_is_asked_when_one_is_dead_or_not_ready() {
    let mut cluster = Cluster::start(3);
    cluster.create_topic("t", 1);
    let admin = cluster.client().await.admin();
    cluster.kill(1);
    cluster
        .state()
        .admin_faults
        .push_back((false, Error::definite(Reason::NotReady).status()));
    for _ in 0..4 {
        assert_eq!(admin.list_topics().await.expect("listed").len(), 1);
    }
}

#[tokio::test]
async fn a_replacement_in_doubt_is_not_repeated() {
    let cluster = Cluster::start(1);
    let admin = cluster.client().await.admin();
    cluster.state().admin_faults.push_back((true, lost()));
    let error = admin.replace_broker(BrokerId(3)).await.expect_err("no answer");
    assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
    assert_eq!(cluster.state().admin_calls, 1);
    let busy = Error::definite(Reason::NotReady).status();
    cluster.state().admin_faults.push_back((false, busy));
    admin
        .replace_broker(BrokerId(3))
        .await
        .expect("the first attempt certainly had no effect");
}

#[tokio::test]
async fn a_refusal_is_final() {
    let cluster = Cluster::start(3);
    let admin = cluster.client().await.admin();
    cluster
        .state()
        .admin_faults
        .push_back((false, Error::definite(Reason::InvalidRequest).status()));
    let error = admin
        .create_topic(NewTopic::new("t", 10_001, 1))
        .await
        .expect_err("refused");
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    assert_eq!(cluster.state().admin_calls, 1);
}

#[tokio::test]
async fn a_topic_whose_answer_got_lost_has_its_leaders_when_it_counts_as_created() {
    let cluster = Cluster::start(2);
    let admin = cluster.client().await.admin();
    cluster.state().admin_faults.push_back((true, lost()));
    cluster.elect_leaders(false);
    let creating = tokio::spawn(async move { admin.create_topic(NewTopic::new("t", 3, 1)).await });
    until("it waits for leaders", || {
        cluster.state().awaiting_leaders > 0 || creating.is_finished()
    })
    .await;
    assert!(!creating.is_finished(), "there are no leaders");
    cluster.elect_leaders(true);
    let created = soon(creating).await.expect("no panic").expect("created");
    assert!(created.created);
    assert_eq!(created.topic_id, cluster.state().topics["t"].id);
}

#[tokio::test]
async fn who_creates_a_topic_is_given_the_time_that_its_leaders_take() {
    let cluster = Cluster::start(2);
    let mut config = cluster.config();
    config.request_timeout = Duration::from_millis(100);
    let admin = Client::connect(config).await.expect("the brokers answer").admin();
    cluster.elect_leaders(false);
    let creating = tokio::spawn(async move { admin.create_topic(NewTopic::new("t", 3, 1)).await });
    until("it waits for leaders", || cluster.state().awaiting_leaders > 0).await;
    // Time itself is what is tested: elections that take three times as long as any other call may.
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.elect_leaders(true);
    let created = soon(creating).await.expect("no panic").expect("created");
    assert!(created.created);
    assert_eq!(cluster.state().admin_calls, 1, "nothing had to be found out");
}
