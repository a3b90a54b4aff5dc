//! `/readyz`, and gRPC health, which says the same and that the broker stops.

use jangada_proto::v1::log_service_server::SERVICE_NAME as LOG;
use tokio_stream::StreamExt as _;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::harness::node::ready;
use crate::harness::{Cluster, Options, WAIT, eventually};

/// Long enough that a stream that delays the end is noticed.
const SECTIONS: &str = "[shutdown]\ndrain_ms = 600000";

async fn next(watched: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let next = tokio::time::timeout(WAIT, watched.next()).await;
    let answer = next.expect("a change is told")?.expect("the stream ends well");
    Some(answer.status())
}

/// Watches the health of node 1's services of these names; the empty one is the broker as a whole.
async fn watch(cluster: &Cluster, services: &[&str]) -> Vec<Streaming<HealthCheckResponse>> {
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let address = Endpoint::from_shared(address).expect("an address");
    let mut health = HealthClient::new(address.connect().await.expect("it listens"));
    let mut watched = Vec::new();
    for service in services {
        let service = (*service).to_owned();
        let stream = health.watch(HealthCheckRequest { service }).await;
        watched.push(stream.expect("it is a service").into_inner());
    }
    watched
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_readiness_and_the_end() {
    let options = Options {
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    let mut watched = watch(&cluster, &["", LOG]).await;
    for watched in &mut watched {
        assert_eq!(next(watched).await, Some(ServingStatus::Serving));
    }
    let status = cluster.stop(1).await;
    assert_eq!(status.code(), Some(0), "{}", cluster.node(1).log_tail());
    for watched in &mut watched {
        assert_eq!(next(watched).await, Some(ServingStatus::NotServing));
        assert_eq!(next(watched).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nobody_is_ready_and_no_dead_leader_is_named() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic("orders", 6, 3).await;
    cluster.healthy().await;
    let mut watched = watch(&cluster, &[""]).await.remove(0);
    // The broker may learn of the new partitions' leaders a moment later.
    while next(&mut watched).await != Some(ServingStatus::Serving) {}
    cluster.kill(2);
    cluster.kill(3);
    assert_eq!(next(&mut watched).await, Some(ServingStatus::NotServing));
    let http = &cluster.node(1).addresses.http;
    eventually("node 1 says that it is not ready", WAIT, || async {
        ready(http).await.err().filter(|answer| answer.contains(" 503 "))
    })
    .await;
    // It learns last that no quorum answers the partitions that it led itself.
    let admin = cluster.admin().await;
    eventually("no partition has a leader", WAIT, || async {
        let seen = admin.describe_cluster().await.ok()?;
        (seen.leaderless_partitions == 6 && seen.controller_id.is_none()).then_some(())
    })
    .await;
    for state in admin.describe_partitions(Some("orders")).await.expect("it answers") {
        assert_eq!(state.leader_id, None, "partition {}", state.partition);
    }
    cluster.restart(2);
    cluster.restart(3);
    assert_eq!(next(&mut watched).await, Some(ServingStatus::Serving));
    cluster.healthy().await;
}
