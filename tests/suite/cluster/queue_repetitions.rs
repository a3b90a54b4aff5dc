//! Messages that are sent again: a queue with `queue.dedup` has each once, also when leaders are killed meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jangada_client::{Client, QueueMessage, QueueProducerConfig, Reason, ReceiveOptions, SentMessage, Settlement};
use jangada_proto::v1;
use jangada_proto::v1::queue_service_client::QueueServiceClient;
use jangada_proto::v1::send_result::Result as Outcome;

use super::queues::create_queue;
use crate::harness::{Cluster, Scrape, WAIT, eventually};

const QUEUE: &str = "jobs";
const MESSAGES: usize = 200;

fn with_id(number: usize) -> QueueMessage {
    QueueMessage::new(format!("message {number}")).with_message_id(format!("id-{number}"))
}

/// Sends all messages, in small requests.
async fn send_all(client: &Client) -> Vec<SentMessage> {
    let producer = client.queue_producer(QUEUE, QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    let mut all = Vec::with_capacity(MESSAGES);
    for first in (0..MESSAGES).step_by(5) {
        let messages = (first..first + 5).map(with_id).collect();
        for sent in producer.send_batch(messages).await {
            // Its outcome is known in the end: what is sent again is recognized.
            all.push(sent.expect("it is sent"));
        }
    }
    all
}

/// How often each id is in the queue.
async fn ids(client: &Client) -> BTreeMap<String, usize> {
    let peeked = client
        .queue(QUEUE)
        .peek(0, 0, &[], 1_000)
        .await
        .expect("its leader answers");
    let mut ids = BTreeMap::new();
    for shown in peeked.messages {
        *ids.entry(shown.message.message_id.expect("all have one")).or_default() += 1;
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_sent_again_across_killed_leaders_are_in_the_queue_once() {
    let mut cluster = Cluster::start(3).await;
    create_queue(&cluster, QUEUE, 1, &["queue.dedup=id"]).await;
    let client = cluster.client().await;
    let sending = tokio::spawn({
        let client = client.clone();
        async move { send_all(&client).await }
    });
    // In the middle of the first round.
    eventually("some are there", WAIT, || async {
        (ids(&client).await.len() > MESSAGES / 10).then_some(())
    })
    .await;
    let victim = cluster.leader(QUEUE, 0).await;
    cluster.kill(victim);
    let first = sending.await.expect("it does not panic");
    cluster.restart(victim);
    cluster.healthy().await;
    let once: BTreeMap<String, usize> = (0..MESSAGES).map(|number| (format!("id-{number}"), 1)).collect();
    assert_eq!(ids(&client).await, once);
    let places: Vec<_> = first.iter().map(|sent| sent.place).collect();
    for round in 0..2 {
        let victim = cluster.leader(QUEUE, 0).await;
        cluster.kill(victim);
        let again = send_all(&client).await;
        assert!(
            again.iter().all(|sent| sent.duplicate),
            "round {round}: each was sent before"
        );
        assert_eq!(
            again.iter().map(|sent| sent.place).collect::<Vec<_>>(),
            places,
            "the answer is the first one's place"
        );
        cluster.restart(victim);
        cluster.healthy().await;
    }
    assert_eq!(ids(&client).await, once);
    // What is done by now is still recognized.
    let options = ReceiveOptions {
        messages: 1_000,
        wait: Duration::from_secs(10),
        ..ReceiveOptions::default()
    };
    let queue = client.queue(QUEUE);
    let mut done = 0;
    while done < MESSAGES {
        let got = queue.receive(options.clone()).await.expect("a broker answers");
        done += got.len();
        let items = got
            .into_iter()
            .map(|message| (message.token, Settlement::Ack))
            .collect();
        queue.settle(items).await.expect("a broker answers");
    }
    assert_eq!(done, MESSAGES);
    assert!(send_all(&client).await.iter().all(|sent| sent.duplicate));
    assert!(ids(&client).await.is_empty(), "nothing came back");
    let leader = cluster.leader(QUEUE, 0).await;
    let scrape = Scrape::of(&cluster, leader).await;
    let duplicates = scrape.sum("jangada_queue_duplicate_messages_total", &[("queue", QUEUE)]);
    assert!(
        duplicates >= Some(MESSAGES as f64),
        "the last round at least: {duplicates:?}"
    );
}

async fn send_at(
    service: &mut QueueServiceClient<tonic::transport::Channel>,
    queue: &str,
    messages: &[v1::QueueMessage],
) -> Vec<v1::SentMessage> {
    let request = v1::SendRequest {
        queue: queue.to_owned(),
        messages: messages.to_vec(),
        ..v1::SendRequest::default()
    };
    let response = service.send(request).await.expect("a broker answers").into_inner();
    let sent = response.results.into_iter().map(|result| match result.result {
        Some(Outcome::Sent(sent)) => sent,
        other => panic!("{other:?}"),
    });
    sent.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_of_sending_recognizes_a_repetition_until_its_window_is_over() {
    const WINDOW: Duration = Duration::from_secs(15);
    let cluster = Cluster::start(3).await;
    create_queue(&cluster, "by-id", 3, &["queue.dedup=id", "queue.dedup.window.ms=15000"]).await;
    create_queue(&cluster, "by-content", 3, &["queue.dedup=content"]).await;
    let client = cluster.client().await;
    // Unary calls at each broker, a stream, and a producer.
    let message = |id: Option<&str>| v1::QueueMessage {
        body: "once".into(),
        message_id: id.map(str::to_owned),
        ..v1::QueueMessage::default()
    };
    for (queue, message) in [("by-id", message(Some("a"))), ("by-content", message(None))] {
        let began = Instant::now();
        let mut first = None;
        for node in 1..=3 {
            let address = &cluster.node(node).addresses.public;
            let mut service = QueueServiceClient::connect(format!("http://{address}"))
                .await
                .expect("it is alive");
            let sent = send_at(&mut service, queue, &[message.clone(), message.clone()]).await;
            let known = *first.get_or_insert((sent[0].partition, sent[0].offset));
            assert!(
                sent.iter().all(|sent| (sent.partition, sent.offset) == known),
                "{sent:?}"
            );
            assert_eq!(
                sent.iter().map(|sent| sent.duplicate).collect::<Vec<_>>(),
                [node > 1, true]
            );
            let request = v1::SendStreamRequest {
                correlation_id: 5,
                send: Some(v1::SendRequest {
                    queue: queue.to_owned(),
                    messages: vec![message.clone()],
                    ..v1::SendRequest::default()
                }),
            };
            let stream = service
                .send_stream(tokio_stream::once(request))
                .await
                .expect("it opens");
            let answer = stream
                .into_inner()
                .message()
                .await
                .expect("it answers")
                .expect("one answer");
            let Some(v1::send_stream_response::Result::Ok(sent)) = answer.result else {
                panic!("{answer:?}")
            };
            assert!(
                matches!(&sent.results[0].result, Some(Outcome::Sent(sent)) if sent.duplicate),
                "{sent:?}"
            );
        }
        let producer = client
            .queue_producer(queue, QueueProducerConfig::default())
            .await
            .expect("it is there");
        let mut again = QueueMessage::new("once");
        if let Some(id) = &message.message_id {
            again = again.with_message_id(id.clone());
        }
        assert!(producer.send(again.clone()).await.expect("it is sent").duplicate);
        let other = QueueMessage::new("twice").with_message_id("b");
        assert!(!producer.send(other).await.expect("it is sent").duplicate);
        if queue == "by-id" {
            let (place, after) = eventually("the window is over", WAIT, || async {
                let sent = producer.send(again.clone()).await.expect("it is sent");
                (!sent.duplicate).then(|| (sent.place, began.elapsed()))
            })
            .await;
            assert!(after >= WINDOW, "it was forgotten after {after:?}");
            assert_ne!(Some((place.partition, place.offset)), first);
            assert!(
                producer.send(again).await.expect("it is sent").duplicate,
                "it is remembered anew"
            );
        }
    }
    let producer = client
        .queue_producer("by-id", QueueProducerConfig::default())
        .await
        .expect("it is there");
    let long = QueueMessage::new("x").with_message_id("i".repeat(257));
    let refused = producer.send(long).await.expect_err("it is too long");
    assert_eq!(refused.reason(), Some(Reason::InvalidRequest));
    assert!(
        refused.to_string().contains("message_id has 257 bytes: 1 to 256"),
        "{refused}"
    );
}
