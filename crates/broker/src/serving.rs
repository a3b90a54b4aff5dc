//! The HTTP services of each protocol, with their limits and the admission of their calls.
//!
//! Every listener is bound and accepted in the same way ([`listener`](crate::listener)); by its protocol it gets a [`Service`].
//! A service is built once and shared by all listeners of its protocol. Answers that depend on the listener, such as a leader's
//! address, are found by the listener's name in [`RequestContext`](crate::api::context::RequestContext).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use futures::{Stream, StreamExt};
use jangada_proto::internal::internal_service_server::InternalServiceServer;
use jangada_proto::v1::admin_service_server::AdminServiceServer;
use jangada_proto::v1::exchange_service_server::ExchangeServiceServer;
use jangada_proto::v1::group_service_server::GroupServiceServer;
use jangada_proto::v1::log_service_server::LogServiceServer;
use jangada_proto::v1::metadata_service_server::MetadataServiceServer;
use jangada_proto::v1::queue_admin_service_server::QueueAdminServiceServer;
use jangada_proto::v1::queue_service_server::QueueServiceServer;
use jangada_proto::v1::transaction_service_server::TransactionServiceServer;
use jangada_replication::transport;
use jangada_types::limits::RESPONSE_BYTES_MAX;
use tokio::sync::watch;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admission::{Admission, Guarded, admit, admit_peer};
use crate::api::cluster::ClusterView;
use crate::health::{Health, SERVICES};
use crate::http;
use crate::listener::{Connection, Listener, count_calls, serve};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::quota::{Budgets, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use crate::services::admin::Admin;
use crate::services::decode_errors;
use crate::services::exchanges::Exchanges;
use crate::services::groups::Groups;
use crate::services::internal::Internal;
use crate::services::log::Log;
use crate::services::metadata::MetadataOf;
use crate::services::queue::Queues;
use crate::services::queue_admin::QueueAdmin;
use crate::services::transactions::Transactions;
use crate::settings::BrokerSettings;

/// The largest HTTP/2 DATA frame that clients may send. It is small beside a message: the first frame of a message may be copied,
/// and its buffer is kept for as long as the message.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
/// A client that has become unreachable is noticed after interval and timeout together, 15 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a message may be in transfer without progress (`limits.stalled_ms`).
pub fn stalled_after(settings: &BrokerSettings) -> Duration {
    Duration::from_millis(settings.limits.stalled_ms)
}

/// The HTTP service behind all listeners of one protocol.
#[derive(Clone)]
pub struct Service {
    router: Router,
    server: Server,
    /// The budgets that its connections share; `None` when they are not limited (HTTP).
    budgets: Option<Arc<Budgets>>,
}

impl Service {
    /// The service for clients: the services of the contract, gRPC health and reflection. Spawns the task that reports health,
    /// which ends when the broker stops.
    pub async fn for_clients(node: &Arc<Node>) -> Result<Self, String> {
        let request_max = usize::try_from(node.settings.limits.request_bytes_max).expect("usize has 64 bits");
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health::not_serving(reporter).await;
        // tonic answers requests that it cannot decode itself; `decode_errors` gives those answers our error details.
        let for_decode_errors = node.clone();
        let contract = contract(node, request_max).layer(map_response(move |response: Response| {
            std::future::ready(decode_errors::answer(response, &for_decode_errors))
        }));
        let (reflection, reflection_alpha) = (reflection().build_v1(), reflection().build_v1alpha());
        let services = Routes::from(contract)
            .add_service(health_service)
            .add_service(reflection.map_err(|error| error.to_string())?)
            .add_service(reflection_alpha.map_err(|error| error.to_string())?)
            .into_axum_router();
        tokio::spawn(health.report(node.clone()));
        // The outermost layer, so that no byte of a request or a response passes uncounted.
        let admission = Admission::new(request_max, stalled_after(&node.settings), node.metrics.clone());
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .max_concurrent_streams(node.settings.limits.calls_per_connection_max)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT));
        Ok(Self {
            router: count_calls(services).layer(from_fn_with_state(admission, admit)),
            server,
            budgets: Some(node.budgets.clone()),
        })
    }

    /// The service for other brokers.
    pub fn for_brokers(internal: Internal, settings: &BrokerSettings, metrics: Arc<Metrics>) -> Self {
        let broker = internal.bootstrap.local.broker;
        let public = internal.bootstrap.local.address.clone();
        let service = InternalServiceServer::new(internal)
            .max_decoding_message_size(transport::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(transport::MESSAGE_BYTES_MAX);
        let refuse = move || {
            let message = format!(
                "this is the internal listener of broker {broker}, for other brokers only; clients connect to {public}"
            );
            async move { Status::failed_precondition(message).into_http::<axum::body::Body>() }
        };
        let budgets = Budgets::between_brokers(metrics.quota.clone());
        let admission = Admission::new(transport::MESSAGE_BYTES_MAX, stalled_after(settings), metrics);
        let routes = Routes::new(service).into_axum_router().fallback(refuse);
        Self {
            router: count_calls(routes).layer(from_fn_with_state(admission, admit_peer)),
            server: transport::tune_server(Server::builder()),
            budgets: Some(budgets),
        }
    }

    /// The service for probes and scrapes.
    pub fn for_probes(node: http::NodeWatch) -> Self {
        Self {
            router: http::router(node),
            server: Server::builder().accept_http1(true),
            budgets: None,
        }
    }

    /// Serves a listener until `stopping` becomes true, and then until its open calls are answered.
    pub async fn serve(self, listener: Arc<Listener>, mut stopping: watch::Receiver<bool>) -> Result<(), String> {
        let acceptor = listener.acceptor();
        let ends = async move {
            // An error means that the sender was dropped: the broker has stopped.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let Self {
            router,
            server,
            budgets,
        } = self;
        match budgets {
            Some(budgets) => serve(server, guarded(acceptor.incoming(), budgets), router, ends).await,
            None => serve(server, acceptor.incoming(), router, ends).await,
        }
    }
}

/// The gRPC services of the contract with clients.
fn contract(node: &Arc<Node>, request_max: usize) -> Router {
    let view = ClusterView::of(node);
    let log = LogServiceServer::new(Log { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let admin = AdminServiceServer::new(Admin::new(node.clone(), view.clone()))
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let groups = GroupServiceServer::new(Groups::new(node.clone(), view))
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let queues = QueueServiceServer::new(Queues { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let metadata = MetadataServiceServer::new(MetadataOf { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let queue_admin = QueueAdminServiceServer::new(QueueAdmin { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let transactions = TransactionServiceServer::new(Transactions { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let exchanges = ExchangeServiceServer::new(Exchanges { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    Routes::new(log)
        .add_service(groups)
        .add_service(transactions)
        .add_service(queues)
        .add_service(admin)
        .add_service(metadata)
        .add_service(queue_admin)
        .add_service(exchanges)
        .into_axum_router()
}

/// Reflection of the services that clients may call. The descriptor set also has the internal service, which is left out.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(jangada_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The types of error details, so that tools can decode them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
    let served = SERVICES
        .into_iter()
        .chain([tonic_health::pb::health_server::SERVICE_NAME]);
    served.fold(builder, |builder, service| builder.with_service_name(service))
}

/// Wraps each connection of a listener so that what it holds of the budgets is counted.
fn guarded(
    connections: impl Stream<Item = Result<Connection, Infallible>>,
    budgets: Arc<Budgets>,
) -> impl Stream<Item = Result<Guarded<Connection>, Infallible>> {
    connections.map(move |accepted| {
        accepted.map(|connection| {
            let peer = connection.peer();
            Guarded::new(connection, peer, &budgets)
        })
    })
}
