//! Queues as objects of the cluster: created, listed, described, altered, paused and deleted, through the client and the command line.

use std::collections::BTreeMap;

use jangada_client::{NewQueue, NewTopic, OffsetAt, QueueDescription, QueueSummary, Reason};
use jangada_proto::v1::create_queue_request::Start;
use jangada_proto::v1::log_service_client::LogServiceClient;
use jangada_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use jangada_proto::v1::{
    AlterQueueRequest, CreateQueueRequest, DeleteQueueRequest, DescribeQueueRequest, FetchRequest,
};
use serde_json::json;

use super::golden_data::{archives, join, started_with};
use crate::harness::{Cluster, WAIT, assert_refused, eventually, raw};

const TOPIC: &str = "orders";

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    pairs.collect()
}

fn with(queue: NewQueue, pairs: &[(&str, &str)]) -> NewQueue {
    NewQueue {
        config: settings(pairs),
        ..queue
    }
}

/// A queue as soon as a broker describes it so. Any broker may answer, and it may not have heard of the last change yet.
async fn described_as(cluster: &Cluster, name: &str, is_so: impl Fn(&QueueDescription) -> bool) -> QueueDescription {
    eventually(&format!("{name} is described so"), WAIT, || async {
        let described = cluster.admin().await.describe_queue(name).await.ok()?;
        is_so(&described).then_some(described)
    })
    .await
}

fn set_keys(described: &QueueDescription) -> Vec<(&str, &str)> {
    let set = described.config.iter().filter(|entry| entry.is_set);
    set.map(|entry| (entry.key.as_str(), entry.value.as_str())).collect()
}

async fn queues(cluster: &Cluster) -> Vec<QueueSummary> {
    cluster.admin().await.list_queues().await.expect("a broker answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_come_change_and_go() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 2, 3).await;
    an_owned_queue(&cluster).await;
    a_queue_that_reads_a_topic(&cluster).await;
    the_topic_of_a_queue_is_its_own(&cluster).await;
    bad_input_changes_nothing(&cluster).await;
    bad_messages_are_refused(&cluster).await;
    the_command_line(&cluster).await;
}

async fn an_owned_queue(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let wanted = with(
        NewQueue::new("jobs", 2, 3),
        &[("queue.lease.ms", "5000"), ("queue.order", "key")],
    );
    let created = admin.create_queue(wanted.clone()).await.expect("it is created");
    assert!(created.created);
    assert_eq!((created.partitions, created.replicas), (2, 3));
    // What a broker answers is led: the leaders are known when it returns.
    let partitions = admin.describe_partitions(Some("jobs")).await.expect("it exists");
    assert!(
        partitions.iter().all(|partition| partition.leader_id.is_some()),
        "{partitions:?}"
    );

    assert_refused(admin.create_queue(wanted.clone()).await, Reason::QueueExists, &["jobs"]);
    let again = NewQueue {
        if_not_exists: true,
        ..NewQueue::new("jobs", 7, 1)
    };
    let again = admin.create_queue(again).await.expect("it exists");
    assert!(!again.created && again.queue_id == created.queue_id && again.partitions == 2);

    let described = admin.describe_queue("jobs").await.expect("it exists");
    assert!(described.queue.is_owned && !described.queue.is_paused);
    assert_eq!(
        (described.queue.topic.as_str(), described.queue.queue_id),
        ("jobs", created.queue_id)
    );
    let value = |key: &str| {
        let entry = described.config.iter().find(|entry| entry.key == key);
        entry.map(|entry| (entry.value.as_str(), entry.is_set))
    };
    assert_eq!(value("queue.lease.ms"), Some(("5000", true)));
    assert_eq!(value("queue.attempts.max"), Some(("5", false)));
    assert_eq!(value("queue.hold.bytes"), None, "it is for queues that read a topic");

    let set = settings(&[("queue.message.max.bytes", "2048")]);
    admin
        .alter_queue("jobs", set, vec!["queue.lease.ms".to_owned()])
        .await
        .expect("it is altered");
    admin.pause_queue("jobs", true).await.expect("it is paused");
    let expected = [
        ("queue.paused", "true"),
        ("queue.order", "key"),
        ("queue.message.max.bytes", "2048"),
    ];
    described_as(cluster, "jobs", |found| {
        found.queue.is_paused && set_keys(found) == expected
    })
    .await;
    admin.pause_queue("jobs", false).await.expect("it goes on");
    admin.pause_queue("jobs", false).await.expect("and once more");
    described_as(cluster, "jobs", |found| {
        !found.queue.is_paused && set_keys(found) == expected[1..]
    })
    .await;
}

async fn a_queue_that_reads_a_topic(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let wanted = NewQueue::reading("billing", TOPIC, OffsetAt::Latest);
    let created = admin.create_queue(wanted.clone()).await.expect("it is created");
    assert_eq!((created.created, created.partitions, created.replicas), (true, 2, 3));
    let again = NewQueue {
        if_not_exists: true,
        ..wanted
    };
    assert!(!admin.create_queue(again).await.expect("it exists").created);
    let names: Vec<_> = queues(cluster)
        .await
        .into_iter()
        .map(|queue| (queue.name, queue.topic, queue.is_owned))
        .collect();
    let expected = [("billing", TOPIC, false), ("jobs", "jobs", true)];
    assert_eq!(
        names,
        expected.map(|(name, topic, is_owned)| (name.to_owned(), topic.to_owned(), is_owned))
    );
    let refused = admin.delete_topic(TOPIC).await;
    assert_refused(refused, Reason::TopicHasQueues, &[TOPIC, "billing"]);
    // Every broker has it.
    for id in 1..=3 {
        let address = format!("http://{}", cluster.node(id).addresses.public);
        let mut service = QueueAdminServiceClient::connect(address).await.expect("it listens");
        eventually(&format!("broker {id} knows the queue"), WAIT, || {
            let mut service = service.clone();
            async move {
                let request = DescribeQueueRequest {
                    name: "billing".to_owned(),
                    ..DescribeQueueRequest::default()
                };
                service.describe_queue(request).await.ok()
            }
        })
        .await;
        let gone = DescribeQueueRequest {
            name: "billing".to_owned(),
            queue_id: vec![7; 16].into(),
        };
        raw::assert_refused(service.describe_queue(gone).await, "UNKNOWN_QUEUE", &["07070707"]);
    }
}

async fn the_topic_of_a_queue_is_its_own(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let topics = admin.list_topics().await.expect("a broker answers");
    assert!(topics.iter().all(|topic| topic.name != "jobs"), "{topics:?}");
    let named = ["jobs", "queue"];
    let altered = admin.alter_topic("jobs", settings(&[("retention.ms", "5")]), Vec::new());
    assert_refused(altered.await, Reason::WrongQueueKind, &named);
    assert_refused(admin.create_partitions("jobs", 5).await, Reason::WrongQueueKind, &named);
    assert_refused(admin.delete_topic("jobs").await, Reason::WrongQueueKind, &named);
    assert_refused(admin.trim("jobs", 0, Some(0)).await, Reason::WrongQueueKind, &named);
    assert_refused(
        admin.create_topic(NewTopic::new("jobs", 1, 1)).await,
        Reason::QueueExists,
        &named,
    );
    assert_refused(
        admin.create_topic(NewTopic::new("billing", 1, 1)).await,
        Reason::QueueExists,
        &["billing"],
    );
    let leader = cluster
        .partition("jobs", 0)
        .await
        .leader_id
        .expect("it has a leader")
        .get();
    let address = cluster.node(leader).addresses.public.clone();
    let mut log = raw::log(&address).await;
    let partition = raw::partition("jobs", 0);
    let appended = raw::produce(&mut log, partition.clone(), raw::batch(None, &[b"past the queue"])).await;
    raw::assert_refused(appended.map(tonic::Response::new), "WRONG_QUEUE_KIND", &named);
    for args in [
        &["consume", "jobs", "-e"][..],
        &["consume", "jobs", "--group", "g"],
        &["produce", "jobs"],
    ] {
        cluster.cli_with(args, b"x\n".to_vec()).await.expect(1).names(&named);
    }
    let mut log = LogServiceClient::connect(format!("http://{address}"))
        .await
        .expect("it listens");
    let fetch = FetchRequest {
        partition: Some(partition),
        ..FetchRequest::default()
    };
    raw::assert_refused(log.fetch(fetch).await, "WRONG_QUEUE_KIND", &named);
}

async fn bad_input_changes_nothing(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let before = queues(cluster).await;
    let long = "x".repeat(250);
    for name in ["", ".", "a b", "a/b", "__internal", &long] {
        let created = admin.create_queue(NewQueue::new(name, 1, 1)).await;
        assert_refused(created, Reason::InvalidQueueName, &[name]);
    }
    let create = |queue| admin.create_queue(queue);
    assert_refused(create(NewQueue::new(TOPIC, 1, 1)).await, Reason::TopicExists, &[TOPIC]);
    assert_refused(
        create(NewQueue::new("new", 10_001, 1)).await,
        Reason::InvalidPartitions,
        &["new", "10001"],
    );
    assert_refused(
        create(NewQueue::new("new", 1, 4)).await,
        Reason::InvalidReplicas,
        &["new", "4"],
    );
    let reading = |topic: &str| NewQueue::reading("new", topic, OffsetAt::Earliest);
    assert_refused(create(reading("nothing")).await, Reason::UnknownTopic, &["nothing"]);
    assert_refused(create(reading("jobs")).await, Reason::WrongQueueKind, &["jobs", "new"]);
    assert_refused(create(reading("billing")).await, Reason::UnknownTopic, &["billing"]);
    let other = NewQueue {
        if_not_exists: true,
        ..NewQueue::new("billing", 1, 1)
    };
    assert_refused(create(other).await, Reason::WrongQueueKind, &["billing", TOPIC]);
    for (key, value) in [
        ("queue.lease", "5"),
        ("queue.lease.ms", "-1"),
        ("queue.lease.ms", "43200001"),
        ("queue.attempts.max", "1001"),
        ("queue.ttl.ms", "0"),
        ("queue.priorities", "33"),
        ("queue.dead.letter.topic", "nowhere"),
        ("queue.dead.letter.topic", "new"),
        ("queue.hold.bytes", "5"),
        ("queue.dedup", "key"),
        ("queue.expires.ms", "999"),
    ] {
        let created = create(with(NewQueue::new("new", 1, 1), &[(key, value)])).await;
        assert_refused(created, Reason::InvalidConfig, &["new", key]);
        let value = if value == "new" { "jobs" } else { value };
        let altered = admin.alter_queue("jobs", settings(&[(key, value)]), Vec::new()).await;
        assert_refused(altered, Reason::InvalidConfig, &["jobs", key]);
    }
    for (set, unset, named) in [
        (&[("queue.order", "none")][..], &[][..], "queue.order"),
        (&[("queue.priorities", "2")], &[], "queue.priorities"),
        (&[("queue.paused", "true")], &["queue.paused"], "both set and unset"),
        (&[], &["queue.pause"], "queue.pause"),
    ] {
        let unset = unset.iter().map(|key| (*key).to_owned()).collect();
        let altered = admin.alter_queue("jobs", settings(set), unset).await;
        assert_refused(altered, Reason::InvalidConfig, &["jobs", named]);
    }
    let nothing = admin.alter_queue("jobs", BTreeMap::new(), Vec::new()).await;
    assert_refused(nothing, Reason::InvalidRequest, &["jobs", "nothing to change"]);
    for answer in [
        admin.describe_queue("none").await.map(drop),
        admin.pause_queue("none", true).await.map(drop),
        admin.delete_queue("none").await.map(drop),
    ] {
        assert_refused(answer, Reason::UnknownQueue, &["none"]);
    }
    assert_refused(
        admin.describe_queue(TOPIC).await,
        Reason::UnknownQueue,
        &[TOPIC, "topic"],
    );
    assert_eq!(queues(cluster).await, before);
}

/// What the client does not send.
async fn bad_messages_are_refused(cluster: &Cluster) {
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let mut service = QueueAdminServiceClient::connect(address).await.expect("it listens");
    let named = |name: &str| CreateQueueRequest {
        name: name.to_owned(),
        ..CreateQueueRequest::default()
    };
    let read = |name: &str| CreateQueueRequest {
        topic: TOPIC.to_owned(),
        ..named(name)
    };
    for (request, says) in [
        (
            CreateQueueRequest {
                partitions: 2,
                ..read("new")
            },
            "partitions",
        ),
        (
            CreateQueueRequest {
                start: Some(Start::Latest(true)),
                ..named("new")
            },
            "start",
        ),
        (
            CreateQueueRequest {
                start: Some(Start::TimestampMs(-1)),
                ..read("new")
            },
            "1970",
        ),
        (
            CreateQueueRequest {
                topic_id: vec![1; 15].into(),
                ..named("new")
            },
            "15",
        ),
    ] {
        raw::assert_refused(service.create_queue(request).await, "INVALID_REQUEST", &[says]);
    }
    let queue_id = bytes::Bytes::from_static(&[1; 17]);
    let alter = AlterQueueRequest {
        queue_id: queue_id.clone(),
        unset: vec!["queue.paused".to_owned()],
        ..AlterQueueRequest::default()
    };
    raw::assert_refused(service.alter_queue(alter).await, "INVALID_REQUEST", &["17"]);
    let delete = DeleteQueueRequest {
        queue_id,
        ..DeleteQueueRequest::default()
    };
    raw::assert_refused(service.delete_queue(delete).await, "INVALID_REQUEST", &["17"]);
}

async fn the_command_line(cluster: &Cluster) {
    let run = |args: &'static [&'static str]| async move { cluster.cli(&[&["queue"], args].concat()).await };
    let created = run(&["create", "mail", "-p", "2", "-c", "queue.lease.ms=5min"])
        .await
        .expect(0);
    created.names(&["created queue mail with 2 partitions of 3 replicas"]);
    let created = run(&["create", "audit", "-t", TOPIC, "--from", "-1h", "-o", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!((&created["created"], &created["partitions"]), (&json!(true), &json!(2)));
    let again = run(&["create", "audit", "--topic", TOPIC, "--if-not-exists"])
        .await
        .expect(0);
    again.names(&["queue audit exists already"]);
    run(&["create", "audit"]).await.expect(1).names(&["audit", "exists"]);

    let listed = run(&["ls", "-o", "json"]).await.expect(0).json();
    let names: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|queue| queue["name"].clone())
        .collect();
    assert_eq!(names, ["audit", "billing", "jobs", "mail"]);
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["topic"]),
        (&json!("group"), &json!(TOPIC))
    );
    assert_eq!(
        (&listed[3]["kind"], &listed[3]["topic"]),
        (&json!("owned"), &json!("mail"))
    );

    let shown = run(&["describe", "mail"]).await.expect(0).text();
    for expected in ["mail", "owned", "300000 (5min)", "queue.attempts.max"] {
        assert!(shown.contains(expected), "{expected} is missing:\n{shown}");
    }
    run(&[
        "alter",
        "mail",
        "-c",
        "queue.attempts.max=none",
        "--unset",
        "queue.lease.ms",
    ])
    .await
    .expect(0);
    run(&["pause", "mail"])
        .await
        .expect(0)
        .names(&["queue mail is paused", "resume"]);
    let expected = [("queue.attempts.max", "none"), ("queue.paused", "true")];
    described_as(cluster, "mail", |found| set_keys(found) == expected).await;
    let json = eventually("the pause is shown", WAIT, || async {
        let json = run(&["describe", "mail", "-o", "json"]).await.expect(0).json();
        (json["is_paused"] == json!(true)).then_some(json)
    });
    let entries = json.await["config"].as_array().cloned().unwrap_or_default();
    assert!(
        entries
            .iter()
            .any(|entry| entry["key"] == "queue.paused" && entry["is_set"] == json!(true))
    );
    run(&["resume", "mail"])
        .await
        .expect(0)
        .names(&["queue mail hands out messages"]);
    run(&["alter", "mail", "-c", "queue.lease.ms=5m"])
        .await
        .expect(2)
        .names(&["queue.lease.ms", "5m"]);
    run(&["alter", "mail", "-c", "queue.lease.ms=13h"])
        .await
        .expect(1)
        .names(&["queue.lease.ms", "43200000"]);

    run(&["rm", "mail"]).await.expect(2).names(&["mail", "--yes"]);
    run(&["rm", "mail", "--yes"])
        .await
        .expect(0)
        .names(&["deleted queue mail"]);
    run(&["rm", "audit", "--yes"]).await.expect(0);
    run(&["rm", "audit", "--yes"]).await.expect(1).names(&["audit"]);
    eventually("every broker asked knows that two are gone", WAIT, || async {
        let remaining = queues(cluster).await.into_iter().map(|queue| queue.name);
        (remaining.collect::<Vec<_>>() == ["billing", "jobs"]).then_some(())
    })
    .await;
    // Their topics: one was the queue's own.
    eventually("the queue's own topic is gone", WAIT, || async {
        let partitions = cluster.admin().await.describe_partitions(None).await.ok()?;
        let has = |topic: &str| partitions.iter().any(|partition| partition.topic == topic);
        (!has("mail") && has(TOPIC)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_there_after_a_restart_of_all_brokers() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let admin = cluster.admin().await;
    admin
        .create_queue(NewQueue::new("jobs", 2, 3))
        .await
        .expect("it is created");
    let group = NewQueue::reading("billing", TOPIC, OffsetAt::Timestamp(5));
    admin.create_queue(group).await.expect("it is created");
    let before = queues(&cluster).await;
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.restart(id);
    }
    let after = eventually("the queues are known again", WAIT, || async {
        let listed = cluster.admin().await.list_queues().await.ok()?;
        (listed.len() == 2).then_some(listed)
    });
    assert_eq!(after.await, before);
}

/// A broker of an older build would stop at the commands, for good; and it may not join once there are queues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_wait_for_every_broker() {
    let oldest = archives().remove(&1).expect("the first is part of the tree");
    let cluster = started_with(&oldest).await;
    join(&cluster, 6).await.expect("the cluster is below that level");
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let mut service = QueueAdminServiceClient::connect(address).await.expect("it listens");
    let own = CreateQueueRequest {
        name: "jobs".to_owned(),
        partitions: 1,
        replicas: 1,
        ..CreateQueueRequest::default()
    };
    let reading = CreateQueueRequest {
        name: "billing".to_owned(),
        topic: "golden".to_owned(),
        ..CreateQueueRequest::default()
    };
    for request in [own.clone(), reading] {
        let refused = service.create_queue(request).await;
        let status = raw::assert_refused(refused, "NOT_READY", &["broker 2", "feature level 6", "upgrade"]);
        assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    }
    assert_eq!(queues(&cluster).await, []);
    join(&cluster, 7).await.expect("it is newer than before");
    eventually("all brokers are new enough", WAIT, || {
        let (mut service, own) = (service.clone(), own.clone());
        async move {
            match service.create_queue(own).await {
                Ok(_) => Some(()),
                // Sent before, and done after its time.
                Err(status) => (raw::reason(&status) == "QUEUE_EXISTS").then_some(()),
            }
        }
    })
    .await;
    let refused = join(&cluster, 6).await.expect_err("it does not know queues");
    assert!(refused.message().contains("upgrade"), "{refused:?}");
}
