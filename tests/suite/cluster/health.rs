//! gRPC health says what `/readyz` says, and that the broker stops.

use jangada_proto::v1::log_service_server::SERVICE_NAME as LOG;
use tokio_stream::StreamExt as _;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::harness::{Cluster, Options, WAIT};

/// So long that who holds up the end is noticed.
const SECTIONS: &str = "[shutdown]\ndrain_ms = 600000";

async fn next(watched: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let next = tokio::time::timeout(WAIT, watched.next()).await;
    let answer = next.expect("a change is told")?.expect("the stream ends well");
    Some(answer.status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_readiness_and_the_end() {
    let options = Options {
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let address = Endpoint::from_shared(address).expect("an address");
    let mut health = HealthClient::new(address.connect().await.expect("it listens"));
    let mut watched = Vec::new();
    for service in ["", LOG] {
        let service = service.to_owned();
        let stream = health.watch(HealthCheckRequest { service }).await;
        watched.push(stream.expect("it is a service").into_inner());
    }
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
