//! Produce streams: answers of one partition come in the order of its requests.

use bytes::Bytes;
use jangada_proto::v1::produce_stream_response::Result as StreamResult;
use jangada_proto::v1::{Acks, ProduceStreamRequest, TopicPartition};

use crate::harness::{Cluster, raw};

const TOPIC: &str = "orders";
const REQUESTS: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_their_order_however_the_partition_is_named() {
    let cluster = Cluster::start(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let topics = cluster.admin().await.list_topics().await.expect("a broker answers");
    let topic_id = Bytes::copy_from_slice(topics[0].topic_id.as_bytes());
    let mut log = raw::log(&cluster.brokers()[0]).await;
    let request = |correlation_id| {
        // By name, by id, and by id with a name that means nothing.
        let named = match correlation_id % 3 {
            0 => raw::partition(TOPIC, 0),
            1 => TopicPartition {
                topic_id: topic_id.clone(),
                ..TopicPartition::default()
            },
            _ => TopicPartition {
                topic_id: topic_id.clone(),
                topic: format!("name {correlation_id}"),
                partition: 0,
            },
        };
        // Every other one is refused without waiting for a quorum.
        let acks = match correlation_id % 2 {
            0 => Acks::Quorum.into(),
            _ => 99,
        };
        ProduceStreamRequest {
            correlation_id,
            partition: Some(named),
            acks,
            batch: raw::batch(None, &[b"a"]),
            ..ProduceStreamRequest::default()
        }
    };
    let answers = raw::produce_stream(&mut log, (0..REQUESTS).map(request).collect()).await;
    let ids: Vec<u64> = answers.iter().map(|answer| answer.correlation_id).collect();
    assert_eq!(ids, (0..REQUESTS).collect::<Vec<_>>());
    let offsets = answers.iter().filter_map(|answer| match &answer.result {
        Some(StreamResult::Ok(response)) => Some(response.base_offset),
        _ => None,
    });
    assert!(offsets.eq(0..REQUESTS as i64 / 2));
}
