//! Concurrent creations of one topic: every caller that gets an answer finds the topic's leaders, also those that were
//! not first.

use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::{CreateTopicRequest, GetMetadataRequest};
use tokio::task::JoinSet;

use crate::harness::Cluster;

const PARTITIONS: u32 = 30;
const AT_EACH: usize = 5;

/// The partitions of a topic that a broker knows no leader of, once it has a version; `None`: it does not know the topic.
async fn without_leader(address: &str, topic: &str, min_version: u64) -> Option<usize> {
    let metadata = MetadataServiceClient::connect(format!("http://{address}")).await;
    let request = GetMetadataRequest {
        topics: vec![topic.to_owned()],
        min_version,
        ..GetMetadataRequest::default()
    };
    let answer = metadata.expect("it listens").get_metadata(request).await;
    let topics = answer.expect("it has the version").into_inner().topics;
    let partitions = topics.first()?.partitions.iter();
    Some(partitions.filter(|partition| partition.leader_id == 0).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_the_race_to_create_a_topic_finds_its_leaders_as_well() {
    let cluster = Cluster::start(3).await;
    let mut losers = 0;
    for topic in ["a", "b", "c"] {
        let mut calls = JoinSet::new();
        for address in cluster.brokers().into_iter().flat_map(|address| vec![address; AT_EACH]) {
            calls.spawn(async move {
                let admin = AdminServiceClient::connect(format!("http://{address}")).await;
                let request = CreateTopicRequest {
                    name: topic.to_owned(),
                    partitions: PARTITIONS,
                    replicas: 3,
                    if_not_exists: true,
                    ..CreateTopicRequest::default()
                };
                let answer = admin.expect("it listens").create_topic(request).await;
                let answer = answer.expect("it exists now").into_inner();
                assert_eq!(without_leader(&address, topic, answer.version).await, Some(0));
                assert_eq!(answer.partitions, PARTITIONS);
                answer.created
            });
        }
        let mut created = Vec::new();
        while let Some(ended) = calls.join_next().await {
            created.push(ended.expect("the call is answered"));
        }
        assert_eq!(
            created.iter().filter(|created| **created).count(),
            1,
            "one is the first"
        );
        losers += created.len() - 1;
    }
    assert_eq!(losers, 3 * (3 * AT_EACH - 1));
}
