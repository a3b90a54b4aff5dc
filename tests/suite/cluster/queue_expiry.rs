//! Queues that nobody uses are deleted by their leaders; those that somebody uses stay.

use std::time::{Duration, Instant};

use jangada_client::{Client, QueueMessage, QueueProducerConfig, Reason, ReceiveOptions};

use super::queues::create_queue;
use crate::harness::{Cluster, WAIT, eventually};

/// How long a queue stays that nobody uses. Long enough for a busy machine to use one meanwhile.
const EXPIRES: Duration = Duration::from_secs(8);

async fn is_there(cluster: &Cluster, queue: &str) -> bool {
    match cluster.admin().await.describe_queue(queue).await {
        Ok(_) => true,
        Err(error) if error.reason() == Some(Reason::UnknownQueue) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn gone(cluster: &Cluster, queue: &str) {
    eventually(&format!("{queue} is gone"), WAIT, || async {
        (!is_there(cluster, queue).await).then_some(())
    })
    .await;
}

/// Asks for messages of a queue, of which there are none.
async fn ask(client: &Client, queue: &str) {
    let options = ReceiveOptions {
        messages: 1,
        wait: Duration::from_millis(100),
        ..ReceiveOptions::default()
    };
    let received = client.queue(queue).receive(options).await.expect("the queue is there");
    assert!(received.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_queue_goes_and_a_used_one_stays() {
    let mut cluster = Cluster::start(3).await;
    let expires = format!("queue.expires.ms={}", EXPIRES.as_millis());
    cluster.create_topic("orders", 2, 3).await;
    for (queue, partitions) in [("unused", 4), ("asked", 1), ("sent", 1)] {
        create_queue(&cluster, queue, partitions, &[&expires]).await;
    }
    create_queue(&cluster, "kept", 2, &[]).await;
    let view = ["queue", "create", "view", "--topic", "orders", "-c", &*expires];
    cluster.cli(&view).await.expect(0);
    let began = Instant::now();
    let client = cluster.client().await;
    let producer = client.queue_producer("sent", QueueProducerConfig::default()).await;
    let producer = producer.expect("the queue is there");
    // The leaders of some partitions begin anew: they count from then on.
    let victim = cluster.leader("unused", 0).await;
    cluster.kill(victim);
    cluster.restart(victim);
    cluster.healthy().await;
    while is_there(&cluster, "unused").await {
        assert!(began.elapsed() < WAIT * 2, "it is not deleted");
        ask(&client, "asked").await;
        producer
            .send(QueueMessage::new("a lamp"))
            .await
            .expect("the queue is there");
    }
    assert!(began.elapsed() >= EXPIRES, "it was there for {:?}", began.elapsed());
    gone(&cluster, "view").await;
    for queue in ["asked", "sent", "kept"] {
        assert!(is_there(&cluster, queue).await, "{queue} is used, or stays by setting");
    }
    let logged = |text: &str| {
        cluster
            .ids()
            .into_iter()
            .any(|id| cluster.node(id).log().contains(text))
    };
    assert!(
        logged("deleted the queue: nobody used it") && logged("queue=unused"),
        "it is logged by name"
    );
    let topic = cluster.cli(&["topic", "ls", "-o", "json"]).await.expect(0).json();
    assert!(
        topic.to_string().contains("orders"),
        "the topic of the view stays: {topic}"
    );
    // From now on nobody uses them.
    gone(&cluster, "asked").await;
    gone(&cluster, "sent").await;
    assert!(is_there(&cluster, "kept").await);
}
