//! A bound on how far readers may lag (`max.group.lag.records`): a slow consumer group or queue stops the producers of its partition, the
//! error names it, and they go on when it has caught up.

use std::time::Duration;

use bytes::Bytes;
use jangada_client::{ClientError, NewTopic, ProducerConfig, ProducerRecord, Reason, ReceiveOptions, Settlement};
use jangada_proto::v1::{CommitOffsetsRequest, DeleteGroupRequest};
use tonic::Status;

use super::groups::{GROUP, TOPIC, coordinator, topic_id};
use crate::harness::groups::{Coordinator, offsets};
use crate::harness::{Cluster, WAIT, eventually, raw};

/// The bound, and as many records as break it.
const LIMIT: &str = "100";
const TOO_MANY: usize = 101;

async fn bounded_topic(cluster: &Cluster, settings: &[(&str, &str)]) -> Bytes {
    let mut topic = NewTopic::new(TOPIC, 2, 3);
    topic
        .config
        .insert("max.group.lag.records".to_owned(), LIMIT.to_owned());
    for (name, value) in settings {
        topic.config.insert((*name).to_owned(), (*value).to_owned());
    }
    cluster.create(topic).await;
    topic_id(cluster, TOPIC).await
}

/// Commits an offset of partition 0, from outside.
async fn commit(calls: &mut Coordinator, group: &str, topic: &Bytes, offset: i64) {
    let commit = CommitOffsetsRequest {
        group: group.to_owned(),
        offsets: offsets(topic, [(0, offset)]),
        ..CommitOffsetsRequest::default()
    };
    calls.commit(commit).await.expect("nobody is a member");
}

async fn produce(cluster: &Cluster, partition: u32, records: usize) -> Result<i64, Status> {
    let leader = cluster.leader(TOPIC, partition).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let values: Vec<&[u8]> = vec![b"value"; records];
    let batch = raw::batch(None, &values);
    let answer = raw::produce(&mut log, raw::partition(TOPIC, partition), batch).await?;
    Ok(answer.last_offset + 1)
}

/// Waits until a record is refused for a lag, and gives the refusal.
async fn refused(cluster: &Cluster) -> Status {
    eventually("a record is refused for a lag", WAIT, || async {
        let refused = produce(cluster, 0, 1).await.err()?;
        (raw::reason(&refused) == "GROUP_LAG").then_some(refused)
    })
    .await
}

/// Waits until a record is taken, and gives the end of the log then.
async fn taken(cluster: &Cluster) -> i64 {
    eventually("a record is taken", WAIT, || async {
        produce(cluster, 0, 1).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_group_stops_producers_and_lets_them_go_on() {
    let mut cluster = Cluster::start(3).await;
    let topic = bounded_topic(&cluster, &[]).await;
    let mut calls = coordinator(&cluster, GROUP);
    produce(&cluster, 0, TOO_MANY).await.expect("no group has committed");
    commit(&mut calls, GROUP, &topic, 0).await;
    let refusal = refused(&cluster).await;
    let details = ["group", "partition", "limit", "definite"].map(|key| raw::detail(&refusal, key).unwrap_or_default());
    assert_eq!(details, [GROUP, &format!("{TOPIC}-0"), LIMIT, "true"]);
    let lag: usize = raw::detail(&refusal, "lag")
        .and_then(|lag| lag.parse().ok())
        .expect("it says how far");
    assert!(lag >= TOO_MANY, "{lag}");
    assert!(refusal.message().contains("max.group.lag.records"), "{refusal}");
    produce(&cluster, 1, 1).await.expect("it lags in another partition");

    // A producer waits, and its error names the group; another one goes on when the group has caught up.
    let client = cluster.client().await;
    let record = || ProducerRecord::new(TOPIC).with_partition(0).with_value("late");
    let hasty = ProducerConfig {
        delivery_timeout: Duration::from_secs(2),
        ..ProducerConfig::default()
    };
    let hasty = client.producer(hasty).expect("the settings are valid");
    let error = hasty
        .send(record())
        .await
        .expect("it is taken")
        .await
        .expect_err("the group lags");
    assert!(matches!(error, ClientError::Unavailable(_)), "{error:?}");
    assert_eq!(error.reason(), Some(Reason::GroupLag));
    assert!(error.to_string().contains(GROUP), "{error}");
    let patient = client
        .producer(ProducerConfig::default())
        .expect("the settings are valid");
    let late = tokio::spawn(patient.send(record()).await.expect("it is taken"));
    refused(&cluster).await;
    assert!(!late.is_finished(), "the group lags still");
    commit(&mut calls, GROUP, &topic, i64::try_from(lag).expect("it is small")).await;
    let delivered = tokio::time::timeout(WAIT, late).await.expect("it goes on");
    delivered.expect("no panic").expect("the group has caught up");

    // A group stays slow when its coordinator fails, and stops nobody any more when it is deleted.
    commit(&mut calls, GROUP, &topic, 0).await;
    refused(&cluster).await;
    let (coordinating, _) = calls.find().await;
    cluster.kill(coordinating);
    refused(&cluster).await;
    let deleted = coordinator(&cluster, GROUP)
        .call(|mut client| async move {
            let group = GROUP.to_owned();
            client.delete_group(DeleteGroupRequest { group }).await
        })
        .await;
    deleted.expect("it has no members");
    taken(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_named_groups_count_and_a_queue_counts_without_its_dead_letters() {
    let cluster = Cluster::start(3).await;
    let named = [("max.group.lag.groups", "shipping, audit")];
    let topic = bounded_topic(&cluster, &named).await;
    let mut calls = coordinator(&cluster, GROUP);
    produce(&cluster, 0, TOO_MANY).await.expect("no group has committed");
    commit(&mut calls, GROUP, &topic, 0).await;
    commit(&mut coordinator(&cluster, "shipping"), "shipping", &topic, 0).await;
    let refusal = refused(&cluster).await;
    assert_eq!(
        raw::detail(&refusal, "group").as_deref(),
        Some("shipping"),
        "{GROUP} is not named"
    );
    let end = cluster.high_watermark(TOPIC, 0).await;
    commit(&mut coordinator(&cluster, "shipping"), "shipping", &topic, end).await;
    taken(&cluster).await;

    let audit = ["queue", "create", "audit", "--topic", TOPIC, "--from", "earliest"];
    cluster.cli(&audit).await.expect(0);
    let refusal = refused(&cluster).await;
    assert_eq!(raw::detail(&refusal, "queue").as_deref(), Some("audit"));
    // All of its messages are settled: the first is dead, and keeps nobody waiting.
    let client = cluster.client().await;
    let queue = client.queue("audit");
    let mut first = true;
    loop {
        let options = ReceiveOptions {
            messages: 1_000,
            wait: Duration::from_secs(1),
            ..ReceiveOptions::default()
        };
        let received = queue.receive(options).await.expect("a broker answers");
        if received.is_empty() {
            break;
        }
        let items = received.iter().map(|message| {
            let settlement = match std::mem::replace(&mut first, false) {
                true => Settlement::Reject { reason: String::new() },
                false => Settlement::Ack,
            };
            (message.token.clone(), settlement)
        });
        queue.settle(items.collect()).await.expect("a broker answers");
    }
    assert!(!first, "it had messages");
    taken(&cluster).await;
}
