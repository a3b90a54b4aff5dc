//! Reading with the client.

use jangada_client::{Client, Consumer, ConsumerConfig, StartAt};

/// A consumer of all partitions of a topic, from their first records on.
pub async fn consumer_from_start(client: &Client, topic: &str) -> Consumer {
    let mut consumer = client
        .consumer(ConsumerConfig::default())
        .expect("the defaults are valid");
    consumer
        .assign_topic(topic, StartAt::Earliest)
        .await
        .expect("the topic exists");
    consumer
}
