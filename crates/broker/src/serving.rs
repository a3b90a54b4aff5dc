//! What each listener serves, and by what rules its calls are let in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use futures::{Stream, StreamExt};
use jangada_proto::internal::internal_service_server::InternalServiceServer;
use jangada_proto::v1::admin_service_server::AdminServiceServer;
use jangada_proto::v1::group_service_server::GroupServiceServer;
use jangada_proto::v1::log_service_server::LogServiceServer;
use jangada_proto::v1::metadata_service_server::MetadataServiceServer;
use jangada_replication::transport;
use jangada_types::limits::RESPONSE_BYTES_MAX;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admission::{Admission, Budgets, CONNECTION_WINDOW_BYTES, Guarded, STREAM_WINDOW_BYTES, admit, admit_peer};
use crate::health::{Health, SERVICES};
use crate::http;
use crate::listener::{Acceptor, Connection, count_calls};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::services::admin::Admin;
use crate::services::groups::Groups;
use crate::services::internal::Internal;
use crate::services::log::Log;
use crate::services::metadata::MetadataOf;
use crate::services::unread;
use crate::settings::BrokerSettings;

/// Small beside a message: the first frame of one may be moved, and what it takes is kept as long as the message.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
/// A client that is cut off is noticed after these two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a message may be under way without progress.
pub fn stalled_after(settings: &BrokerSettings) -> Duration {
    Duration::from_millis(settings.limits.stalled_ms)
}

async fn until_stopping(mut stopping: watch::Receiver<bool>) {
    // The sender is gone: the broker has stopped.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Serves clients until the broker stops: the services of the contract, gRPC's health and reflection.
pub async fn serve_public(node: Arc<Node>, acceptor: Acceptor, stopping: watch::Receiver<bool>) -> Result<(), String> {
    let request_max = usize::try_from(node.settings.limits.request_bytes_max).expect("usize has 64 bits");
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health::not_serving(reporter).await;
    // Only what is served here: the descriptors have the internal listener's service as well.
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(jangada_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What the details of errors are made of, so that tools can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET);
        let served = SERVICES
            .into_iter()
            .chain([tonic_health::pb::health_server::SERVICE_NAME]);
        served.fold(builder, |builder, service| builder.with_service_name(service))
    };
    let log = LogServiceServer::new(Log { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let admin = AdminServiceServer::new(Admin::new(node.clone()))
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let groups = GroupServiceServer::new(Groups::new(node.clone()))
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let metadata = MetadataServiceServer::new(MetadataOf { node: node.clone() })
        .max_decoding_message_size(request_max)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let services = Routes::new(log)
        .add_service(groups)
        .add_service(admin)
        .add_service(metadata)
        .into_axum_router();
    // What tonic cannot read it answers by itself.
    let of_answers = node.clone();
    let services = services.layer(map_response(move |response: Response| {
        std::future::ready(unread::answer(response, &of_answers))
    }));
    let reporting = tokio::spawn(health.report(node.clone()));
    let services = Routes::from(services)
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
        .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?)
        .into_axum_router();
    // Outermost: nothing of a call is taken up, and nothing of its answer given, that is not counted.
    let admission = Admission::new(request_max, stalled_after(&node.settings), node.metrics.clone());
    let services = count_calls(services).layer(from_fn_with_state(admission, admit));
    let incoming = guarded(acceptor, node.budgets.clone());
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_concurrent_streams(node.settings.limits.calls_per_connection_max)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_routes(Routes::from(services))
        .serve_with_incoming_shutdown(incoming, until_stopping(stopping))
        .await;
    reporting.abort();
    served.map_err(|error| error.to_string())
}

/// The connections of a listener, with what they hold of what all share.
fn guarded(acceptor: Acceptor, budgets: Arc<Budgets>) -> impl Stream<Item = Result<Guarded<Connection>, Infallible>> {
    acceptor.incoming().map(move |accepted| {
        accepted.map(|connection| {
            let peer = connection.peer();
            Guarded::new(connection, peer, &budgets)
        })
    })
}

/// Serves other brokers.
pub fn serve_internal(
    internal: Internal,
    acceptor: Acceptor,
    settings: &BrokerSettings,
    metrics: Arc<Metrics>,
) -> JoinHandle<()> {
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
    let incoming = guarded(acceptor, Budgets::between_brokers(metrics.admission.clone()));
    let admission = Admission::new(transport::MESSAGE_BYTES_MAX, stalled_after(settings), metrics);
    let routes = Routes::new(service).into_axum_router().fallback(refuse);
    let routes = Routes::from(count_calls(routes).layer(from_fn_with_state(admission, admit_peer)));
    tokio::spawn(async move {
        let serving = transport::tune_server(Server::builder())
            .add_routes(routes)
            .serve_with_incoming(incoming);
        if let Err(error) = serving.await {
            tracing::error!(%error, "the internal listener has ended");
        }
    })
}

/// Serves probes and metrics.
pub fn serve_http(acceptor: Acceptor, node: http::NodeWatch) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = axum::serve(acceptor, http::router(node)).await {
            tracing::error!(%error, "the HTTP listener has ended");
        }
    })
}
