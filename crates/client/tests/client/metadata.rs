//! Finding the cluster and its topics.

use std::time::{Duration, Instant};

use futures::future::join_all;
use jangada_client::{Client, ClientConfig, ClientError, NewTopic, OffsetAt, ProducerConfig, ProducerRecord, Reason};
use tokio::time::timeout;

use crate::fake::Cluster;

#[tokio::test]
async fn one_seed_that_answers_is_enough() {
    let mut cluster = Cluster::start(3);
    cluster.create_topic("t", 1);
    cluster.kill(1);
    let mut config = ClientConfig::new([cluster.address(1), cluster.address(3)]);
    config.retry_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.expect("broker 3 answers");
    assert_eq!(client.topic("t").await.expect("there").partitions.len(), 1);
}

#[tokio::test]
async fn a_frozen_seed_holds_nobody_up() {
    let cluster = Cluster::start(2);
    cluster.freeze(1);
    let began = Instant::now();
    cluster.client().await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "the other one is asked meanwhile"
    );
}

#[tokio::test]
async fn without_any_broker_connecting_fails_in_time() {
    let mut config = ClientConfig::new(["127.0.0.1:1"]);
    config.retry_timeout = Duration::from_millis(300);
    let error = Client::connect(config).await.err().expect("nobody is there");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn brokers_that_are_no_seeds_are_found_and_used() {
    let mut cluster = Cluster::start(3);
    cluster.create_topic("t", 3);
    let client = Client::connect(ClientConfig::new([cluster.address(1)]))
        .await
        .expect("the seed answers");
    client.topic("t").await.expect("there");
    cluster.kill(1);
    cluster.create_topic("u", 1);
    client.topic("u").await.expect("the others are asked");
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_an_error() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let error = client.topic("nope").await.expect_err("never created");
    assert!(matches!(error, ClientError::UnknownTopic { .. }), "{error}");
    cluster.create_topic("nope", 2);
    assert_eq!(client.topic("nope").await.expect("created since").partitions.len(), 2);
}

#[tokio::test]
async fn bad_settings_are_refused() {
    let cluster = Cluster::start(1);
    let client = cluster.client().await;
    let config = ProducerConfig {
        acks: jangada_client::Acks::None,
        ..ProducerConfig::default()
    };
    assert!(matches!(client.producer(config), Err(ClientError::Config(_))));
}

#[tokio::test]
async fn without_answers_each_call_ends_in_its_time() {
    let cluster = Cluster::start(2);
    cluster.create_topic("t", 2);
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_secs(1);
    let client = Client::connect(config).await.expect("the brokers answer");
    client.topic("t").await.expect("there");
    cluster.freeze(1);
    cluster.freeze(2);
    let began = Instant::now();
    let unknown = join_all((0..20).map(async |n| client.topic(&format!("t-{n}")).await.map(drop)));
    let offsets = join_all((0..2).map(async |n| client.list_offsets("t", n, OffsetAt::Latest).await.map(drop)));
    let (unknown, offsets) = tokio::join!(unknown, offsets);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for ended in unknown.into_iter().chain(offsets) {
        let error = ended.expect_err("nobody answers");
        assert!(error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn a_partition_without_a_leader_is_no_missing_cluster() {
    let mut cluster = Cluster::start(2);
    cluster.create_topic("t", 2);
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_millis(500);
    cluster.kill(2);
    // The first partition has no leader, and of the second one the brokers know only its dead leader.
    cluster.move_leader("t", 0, 0);
    cluster.move_leader("t", 1, 2);
    let dead = cluster.address(2);
    let client = Client::connect(config).await.expect("broker 1 answers");
    for (partition, named) in [(0, "no leader".to_owned()), (1, format!("broker 2 at {dead}"))] {
        let listed = client.list_offsets("t", partition, OffsetAt::Latest).await;
        let error = listed.expect_err("there is no leader");
        assert_eq!(error.reason(), Some(Reason::LeaderNotAvailable), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("t[{partition}]")) && text.contains(&named),
            "{text}"
        );
    }
    let config = ProducerConfig {
        delivery_timeout: Duration::from_secs(1),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config).expect("good settings");
    let record = ProducerRecord::new("t").with_partition(1).with_value("lost");
    let sent = producer.send(record).await.expect("taken");
    let error = sent.await.expect_err("its leader is dead");
    assert_eq!(error.reason(), Some(Reason::LeaderNotAvailable), "{error}");
    assert!(error.to_string().contains(&format!("broker 2 at {dead}")), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_behind_is_asked_at_intervals_and_not_for_ever() {
    let cluster = Cluster::start(1);
    cluster.create_topic("t", 1);
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_secs(1);
    let client = Client::connect(config).await.expect("the broker answers");
    cluster.create_topic("u", 1);
    let asked = {
        let mut state = cluster.state();
        state.version = 0;
        state.metadata_calls
    };
    let found = timeout(Duration::from_secs(10), client.topic("u")).await;
    let error = found.expect("in time").expect_err("nobody knows enough");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    let asked = cluster.state().metadata_calls - asked;
    assert!(asked < 50, "{asked} questions");
    cluster.state().version = 9;
    client.topic("u").await.expect("it has caught up");
}

#[tokio::test]
async fn a_cluster_that_was_made_anew_is_learned_from_the_beginning() {
    let cluster = Cluster::start(2);
    cluster.create_topic("t", 1);
    let mut config = cluster.config();
    config.retry_timeout = Duration::from_secs(2);
    let client = Client::connect(config).await.expect("the brokers answer");
    let admin = client.admin();
    for n in 0..5 {
        // After a change of its own the client asks for newer metadata at once.
        admin
            .create_topic(NewTopic::new(format!("t-{n}"), 1, 1))
            .await
            .expect("created");
    }
    let before = client.topic("t").await.expect("there");
    {
        let mut state = cluster.state();
        state.topics.clear();
        (state.cluster, state.version) = (1, 0);
    }
    cluster.create_topic("u", 1);
    cluster.create_topic("t", 3);
    let found = timeout(Duration::from_secs(10), client.topic("u")).await;
    found.expect("in time").expect("the new cluster has it");
    let after = client.topic("t").await.expect("there");
    assert_ne!(before.id, after.id);
    assert_eq!(after.partitions.len(), 3);
}
