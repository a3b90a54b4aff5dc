//! Credit in the answers of streams that send: a full queue, or a partition whose group lags, has none, and holds up no other on the
//! same stream.

use std::time::Duration;

use jangada_client::NewTopic;
use jangada_proto::v1::produce_stream_response::Result as Produced;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_proto::v1::send_result::Result as Sent;
use jangada_proto::v1::send_stream_response::Result as Answer;
use jangada_proto::v1::{
    Acks, CommitOffsetsRequest, ProduceStreamRequest, QueueMessage, SendRequest, SendStreamRequest,
};
use tokio_stream::iter;

use super::groups::{GROUP, coordinator, topic_id};
use crate::harness::groups::offsets;
use crate::harness::{Cluster, WAIT, eventually, raw};

fn request(number: u64, queue: &str) -> SendStreamRequest {
    let message = QueueMessage {
        body: b"job".to_vec().into(),
        ..QueueMessage::default()
    };
    SendStreamRequest {
        correlation_id: number,
        send: Some(SendRequest {
            queue: queue.to_owned(),
            messages: vec![message],
            ..SendRequest::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_has_no_credit_and_blocks_no_other_on_its_stream() {
    let cluster = Cluster::start(1).await;
    for (queue, settings) in [("full", &["queue.max.messages=3"][..]), ("free", &[])] {
        let mut args = vec!["queue", "create", queue, "--partitions", "1", "--replicas", "1"];
        settings.iter().for_each(|setting| args.extend(["-c", setting]));
        cluster.cli(&args).await.expect(0);
        let admin = cluster.admin().await;
        eventually("the queue is open at its leader", WAIT, || async {
            let described = admin.describe_queue(queue).await.ok()?;
            described.partitions[0].counts.is_some().then_some(())
        })
        .await;
    }
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let mut service = QueueServiceClient::connect(address).await.expect("it serves");
    let requests: Vec<_> = (0..40)
        .map(|number| request(number, if number % 2 == 0 { "full" } else { "free" }))
        .collect();
    let stream = service.send_stream(iter(requests)).await.expect("the stream opens");
    let mut answers = stream.into_inner();
    let (mut taken, mut refused, mut free) = (0, 0, 0);
    for _ in 0..40 {
        let answer = tokio::time::timeout(WAIT, answers.message())
            .await
            .expect("it is answered");
        let answer = answer.expect("the stream goes on").expect("one for each");
        let Some(Answer::Ok(sent)) = answer.result else {
            panic!("{answer:?}")
        };
        match (answer.correlation_id % 2, &sent.results[0].result) {
            (1, Some(Sent::Sent(_))) => {
                free += 1;
                assert!(answer.credit_bytes > 1 << 20, "{}", answer.credit_bytes);
            }
            (0, Some(Sent::Sent(_))) => taken += 1,
            (0, Some(Sent::Error(error))) => {
                refused += 1;
                assert_eq!((error.reason.as_str(), answer.credit_bytes), ("QUEUE_FULL", 0));
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, refused, free), (3, 17, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_group_lags_has_no_credit_and_blocks_no_other_on_its_stream() {
    const TOPIC: &str = "orders";
    let cluster = Cluster::start(1).await;
    let mut topic = NewTopic::new(TOPIC, 2, 1);
    topic.config.insert("max.group.lag.records".to_owned(), "10".to_owned());
    cluster.create(topic).await;
    let commit = CommitOffsetsRequest {
        group: GROUP.to_owned(),
        offsets: offsets(&topic_id(&cluster, TOPIC).await, [(0, 0)]),
        ..CommitOffsetsRequest::default()
    };
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let send = |number: u64, partition: u32, records: usize| ProduceStreamRequest {
        correlation_id: number,
        partition: Some(raw::partition(TOPIC, partition)),
        acks: Acks::Quorum.into(),
        batch: raw::batch(None, &vec![&b"value"[..]; records]),
        ..ProduceStreamRequest::default()
    };
    let first = raw::produce_stream(&mut log, vec![send(1, 0, 20)]).await;
    assert!(matches!(first[0].result, Some(Produced::Ok(_))), "{first:?}");
    assert!(first[0].credit_bytes > Some(1 << 20), "no group is known: {first:?}");
    coordinator(&cluster, GROUP)
        .commit(commit)
        .await
        .expect("nobody is a member");
    eventually("the lag is known", WAIT, || async {
        let answers = raw::produce_stream(&mut log.clone(), vec![send(1, 0, 1)]).await;
        matches!(&answers[0].result, Some(Produced::Error(error)) if error.reason == "GROUP_LAG").then_some(())
    })
    .await;
    let requests = (0..20).map(|number| send(number, u32::try_from(number % 2).expect("it is small"), 1));
    let answers = tokio::time::timeout(
        Duration::from_secs(20),
        raw::produce_stream(&mut log, requests.collect()),
    )
    .await;
    for answer in answers.expect("none waits for the other partition") {
        match (answer.correlation_id % 2, &answer.result) {
            (0, Some(Produced::Error(error))) => {
                assert_eq!((error.reason.as_str(), answer.credit_bytes), ("GROUP_LAG", Some(0)));
            }
            (1, Some(Produced::Ok(_))) => assert!(answer.credit_bytes > Some(1 << 20), "{answer:?}"),
            (_, other) => panic!("{other:?}"),
        }
    }
}
