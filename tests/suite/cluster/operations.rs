//! The work of operators: handing leaderships over, stopping a node, replacing one that lost its disk; and the errors
//! when they ask for the impossible.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_client::{Admin, NewTopic, TopicId};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::{
    AlterTopicRequest, CreatePartitionsRequest, DeleteTopicRequest, DescribePartitionsRequest, DescribeTopicRequest,
};

use crate::harness::{Cluster, WAIT, eventually, raw};

const TOPIC: &str = "orders";

/// A refusal comes within this time, including the start of the command and the connection.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaderships_are_handed_over() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 3, 3).await;
    for to in cluster.ids() {
        let run = cluster
            .cli(&["partition", "transfer-leader", TOPIC, "1", "--to", &to.to_string()])
            .await
            .expect(0);
        assert!(run.stderr.is_empty() || !run.stderr.contains("error"), "{}", run.stderr);
        assert_eq!(cluster.leader(TOPIC, 1).await, to);
        cluster
            .cli_with(&["produce", TOPIC, "--partition", "1"], b"a\n".to_vec())
            .await
            .expect(0);
    }
    let run = cluster
        .cli(&["partition", "transfer-leader", TOPIC, "1", "--to", "9"])
        .await;
    run.expect(1).names(&["9", "cluster info"]);

    // SIGTERM: no partition waits for an election, and the node ends with 0.
    let leader = cluster.leader(TOPIC, 1).await;
    let epoch = cluster.partition(TOPIC, 1).await.leader_epoch;
    let status = cluster.stop(leader).await;
    assert_eq!(status.code(), Some(0), "{}", cluster.node(leader).log_tail());
    for partition in 0..3 {
        let state = cluster.partition(TOPIC, partition).await;
        assert_ne!(
            state.leader_id.map(jangada_client::BrokerId::get),
            Some(leader),
            "the stopped node leads"
        );
    }
    assert!(cluster.partition(TOPIC, 1).await.leader_epoch > epoch);
    assert!(
        cluster.node(leader).log().to_lowercase().contains("leader"),
        "{}",
        cluster.node(leader).log_tail()
    );
    cluster
        .cli_with(&["produce", TOPIC, "--partition", "1"], b"a\n".to_vec())
        .await
        .expect(0);
    // A broker counts as alive for two seconds after it was heard of last.
    let stopped = format!("broker {leader}");
    eventually("the stopped node is missed", WAIT, || async {
        let health = cluster.cli(&["cluster", "health"]).await;
        (health.code == Some(3) && health.stderr.contains(&stopped)).then_some(())
    })
    .await;
    cluster.restart(leader);
    cluster.healthy().await;
    let consumed = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await.expect(0);
    assert_eq!(consumed.text(), "a\n".repeat(4));
    cluster.cli(&["cluster", "health", "--wait", "30"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_its_disk_is_replaced() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 3, 3).await;
    let lines: String = (0..3000)
        .map(|number| format!("key {}\t{number}\n", number % 100))
        .collect();
    let produce = ["produce", TOPIC, "--key-separator", "\\t"];
    cluster.cli_with(&produce, lines.clone().into_bytes()).await.expect(0);
    cluster.stop(3).await;
    std::fs::remove_dir_all(cluster.node(3).data()).expect("the directory is ours");

    cluster.restart(3);
    let status = cluster.ended(3).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        cluster.node(3).log().contains("replace-broker 3"),
        "{}",
        cluster.node(3).log_tail()
    );
    cluster
        .cli(&["cluster", "replace-broker", "3"])
        .await
        .expect(2)
        .names(&["--yes"]);
    // Refused as long as it may be running; that it is not is known after two seconds.
    let replace = ["cluster", "replace-broker", "3", "--yes"];
    eventually("the broker's death is known", WAIT, || async {
        let run = cluster.cli(&replace).await;
        assert!(
            run.code == Some(0) || run.stderr.contains("is running"),
            "{}",
            run.stderr
        );
        (run.code == Some(0)).then_some(())
    })
    .await;
    cluster.restart(3);
    cluster.healthy().await;
    let info = cluster.cli(&["cluster", "info", "-o", "json"]).await.expect(0).json();
    let incarnation = info["brokers"][2]["incarnation"].clone();
    assert_eq!(incarnation, 2, "{info}");

    // It has everything: alone with one other it is the majority, and it serves as the leader.
    for partition in ["0", "1", "2"] {
        cluster
            .cli(&["partition", "transfer-leader", TOPIC, partition, "--to", "3"])
            .await
            .expect(0);
    }
    cluster.kill(1);
    let admin = cluster.admin().await;
    eventually("node 3 leads all partitions", WAIT, || async {
        let states = admin.describe_partitions(Some(TOPIC)).await.ok()?;
        let all = states
            .iter()
            .all(|state| state.leader_id.is_some_and(|id| id.get() == 3));
        all.then_some(())
    })
    .await;
    let consumed = cluster
        .cli(&["consume", TOPIC, "--exit-at-end", "-f", "%k\\t%v\\n"])
        .await
        .expect(0);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert!(
        sorted(&consumed.text()) == sorted(&lines),
        "{} of 3000 lines came back",
        consumed.text().lines().count()
    );
    cluster.cli_with(&produce, b"k\tv\n".to_vec()).await.expect(0);
    cluster.restart(1);
    cluster.healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_dead_brokers_it_is_told_what_is_missing() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    cluster.cli_with(&["produce", TOPIC], b"a\n".to_vec()).await.expect(0);
    cluster.kill(3);
    let transfer = ["partition", "transfer-leader", TOPIC, "0", "--to", "3"];
    eventually("the leader knows of broker 3's death", WAIT, || async {
        let run = cluster.cli(&transfer).await.expect(1);
        run.stderr.contains("not alive").then_some(())
    })
    .await;
    let began = Instant::now();
    let run = cluster.cli(&transfer).await.expect(1);
    let took = began.elapsed();
    assert!(took < REFUSED_TIMEOUT, "{took:?}");
    run.names(&["orders-0", "broker 3", "not alive"]);

    cluster.kill(2);
    let (consumed, trimmed, altered) = tokio::join!(
        cluster.cli(&["consume", TOPIC, "--exit-at-end"]),
        cluster.cli(&["topic", "trim", TOPIC, "--before", "latest"]),
        cluster.cli(&["topic", "alter", TOPIC, "-c", "retention.ms=86400000"]),
    );
    for run in [consumed, trimmed] {
        let run = run.expect(1).names(&["orders[0]", "cluster health"]);
        let says = |what: &str| run.stderr.contains(what);
        assert!(says("no leader") || says("no quorum"), "{}", run.stderr);
        assert!(!says("is the cluster running"), "{}", run.stderr);
    }
    altered.expect(1).names(&[TOPIC, "metadata"]);
}

async fn created(admin: &Admin) -> TopicId {
    let created = admin.create_topic(NewTopic::new(TOPIC, 1, 1)).await;
    created.expect("the name is free").topic_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_a_topic_by_its_id_never_meets_its_successor() {
    let cluster = Cluster::start(1).await;
    let admin = cluster.admin().await;
    let before = created(&admin).await;
    admin.delete_topic(TOPIC).await.expect("it is there");
    let after = created(&admin).await;

    let address = format!("http://{}", cluster.node(1).addresses.public);
    let mut service = AdminServiceClient::connect(address).await.expect("it listens");
    let (name, topic_id) = (TOPIC.to_owned(), Bytes::copy_from_slice(before.as_bytes()));
    let described = service.describe_topic(DescribeTopicRequest {
        name: name.clone(),
        topic_id: topic_id.clone(),
    });
    let id = before.to_string();
    raw::assert_refused(described.await, "UNKNOWN_TOPIC", &[&id]);
    let partitions = service.describe_partitions(DescribePartitionsRequest {
        topic: name.clone(),
        topic_id: topic_id.clone(),
    });
    raw::assert_refused(partitions.await, "UNKNOWN_TOPIC", &[&id]);
    let altered = service.alter_topic(AlterTopicRequest {
        name: name.clone(),
        set: [("retention.ms".to_owned(), "86400000".to_owned())].into(),
        unset: Vec::new(),
        topic_id: topic_id.clone(),
    });
    raw::assert_refused(altered.await, "UNKNOWN_TOPIC", &[&id]);
    let grown = service.create_partitions(CreatePartitionsRequest {
        name: name.clone(),
        total: 3,
        topic_id: topic_id.clone(),
    });
    raw::assert_refused(grown.await, "UNKNOWN_TOPIC", &[&id]);
    let deleted = service.delete_topic(DeleteTopicRequest { name, topic_id });
    raw::assert_refused(deleted.await, "UNKNOWN_TOPIC", &[&id]);

    let found = admin.describe_topic(TOPIC).await.expect("it stays");
    assert_eq!((found.topic_id, found.partitions.len()), (after, 1));
    assert!(found.config.iter().all(|entry| !entry.is_set), "{:?}", found.config);

    // With an id the name does not matter.
    let deleted = service.delete_topic(DeleteTopicRequest {
        name: "another".to_owned(),
        topic_id: Bytes::copy_from_slice(after.as_bytes()),
    });
    deleted.await.expect("it is there");
    assert!(admin.list_topics().await.expect("it answers").is_empty());
}
