//! gRPC health (`grpc.health.v1`): each service, and the broker as a whole, is SERVING while `/readyz` says ready.

use std::sync::Arc;
use std::time::Duration;

use jangada_proto::v1::admin_service_server::SERVICE_NAME as ADMIN;
use jangada_proto::v1::exchange_service_server::SERVICE_NAME as EXCHANGES;
use jangada_proto::v1::group_service_server::SERVICE_NAME as GROUPS;
use jangada_proto::v1::log_service_server::SERVICE_NAME as LOG;
use jangada_proto::v1::metadata_service_server::SERVICE_NAME as METADATA;
use jangada_proto::v1::queue_admin_service_server::SERVICE_NAME as QUEUE_ADMIN;
use jangada_proto::v1::queue_service_server::SERVICE_NAME as QUEUES;
use jangada_proto::v1::transaction_service_server::SERVICE_NAME as TRANSACTIONS;
use tokio::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::http;
use crate::node::Node;

/// The pause between two checks, since leader changes come in bursts. It is `PAUSE_FACTOR` times as long as the check took, which
/// with thousands of replicas is some milliseconds, so that checks take little CPU.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: u32 = 50;
/// The services of client listeners.
pub(crate) const SERVICES: [&str; 8] = [
    LOG,
    GROUPS,
    TRANSACTIONS,
    QUEUES,
    ADMIN,
    METADATA,
    QUEUE_ADMIN,
    EXCHANGES,
];
/// The name of the server as a whole in gRPC's health protocol.
const WHOLE: &str = "";

/// Reports this broker's readiness by gRPC's health service.
pub(crate) struct Health {
    reporter: HealthReporter,
    status: ServingStatus,
}

impl Health {
    /// Reports NOT_SERVING, until [`Health::report`] runs.
    pub async fn not_serving(reporter: HealthReporter) -> Self {
        let mut health = Self {
            reporter,
            status: ServingStatus::Unknown,
        };
        health.set(ServingStatus::NotServing).await;
        health
    }

    /// Reports the broker's readiness until it stops. Then reports NOT_SERVING and ends all `Watch` streams, for which the server
    /// would otherwise wait.
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
            let pause = (started.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
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
            tokio::time::sleep(pause).await;
        }
        self.set(ServingStatus::NotServing).await;
        for service in SERVICES.into_iter().chain([WHOLE]) {
            self.reporter.clear_service_status(service).await;
        }
    }

    /// Sets the status if it has changed: the reporter notifies all watchers at each call.
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
