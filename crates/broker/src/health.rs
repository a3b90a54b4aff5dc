//! gRPC health (`grpc.health.v1`): each service, and the broker as a whole, serves while `/readyz` says ready.

use std::sync::Arc;
use std::time::Duration;

use jangada_proto::v1::admin_service_server::SERVICE_NAME as ADMIN;
use jangada_proto::v1::group_service_server::SERVICE_NAME as GROUPS;
use jangada_proto::v1::log_service_server::SERVICE_NAME as LOG;
use jangada_proto::v1::metadata_service_server::SERVICE_NAME as METADATA;
use tokio::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::http;
use crate::node::Node;

/// After a look, before the next one: elections come in bursts. As many times longer than the look took, which is some
/// milliseconds with thousands of replicas.
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_millis(500);
const REST_TIMES: u32 = 50;
/// What the public listener serves.
pub(crate) const SERVICES: [&str; 4] = [LOG, GROUPS, ADMIN, METADATA];
/// The name of the broker as a whole.
const WHOLE: &str = "";

/// What is reported.
pub(crate) struct Health {
    reporter: HealthReporter,
    status: ServingStatus,
}

impl Health {
    /// Nothing serves yet.
    pub async fn not_serving(reporter: HealthReporter) -> Self {
        let mut health = Self {
            reporter,
            status: ServingStatus::Unknown,
        };
        health.set(ServingStatus::NotServing).await;
        health
    }

    /// Follows the broker until it stops. Then those who watch are told, and let go: they would hold up the end.
    pub async fn report(mut self, node: Arc<Node>) {
        let mut image = node.metadata.watch();
        let mut leaders = node.registry().leaders().watch();
        let stopping = node.stopping.begun();
        tokio::pin!(stopping);
        loop {
            image.borrow_and_update();
            leaders.borrow_and_update();
            let started = Instant::now();
            let not_ready = http::not_ready(&node);
            let rest = (started.elapsed() * REST_TIMES).clamp(REST_MIN, REST_MAX);
            self.set(match not_ready {
                None => ServingStatus::Serving,
                Some(_) => ServingStatus::NotServing,
            })
            .await;
            tokio::select! {
                _ = &mut stopping => break,
                changed = image.changed() => if changed.is_err() { break },
                changed = leaders.changed() => if changed.is_err() { break },
            }
            tokio::time::sleep(rest).await;
        }
        self.set(ServingStatus::NotServing).await;
        for service in SERVICES.into_iter().chain([WHOLE]) {
            self.reporter.clear_service_status(service).await;
        }
    }

    /// Only changes: whoever watches is told each time.
    async fn set(&mut self, status: ServingStatus) {
        if self.status == status {
            return;
        }
        self.status = status;
        for service in SERVICES.into_iter().chain([WHOLE]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
