//! The HTTP listener: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use jangada_storage::StoreCondition;
use tokio::sync::watch;

use crate::metrics::Form;
use crate::node::Node;
use crate::scrape::{QueueSample, Scrape};

/// The node, once this broker is part of a cluster.
pub(crate) type NodeWatch = watch::Receiver<Option<Arc<Node>>>;

pub(crate) fn router(node: NodeWatch) -> Router {
    let scrape = Arc::<Scrape>::default();
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route(
            "/metrics",
            get(move |node, headers| metrics(node, headers, scrape.clone())),
        )
        .with_state(node)
}

async fn readyz(State(node): State<NodeWatch>) -> (StatusCode, String) {
    let node = node.borrow().clone();
    match node.map(|node| not_ready(&node).or_else(|| refuses_writes(&node))) {
        Some(None) => (StatusCode::OK, "ready\n".to_owned()),
        Some(Some(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: this broker does not belong to a cluster yet\n".to_owned(),
        ),
    }
}

/// Why this broker is not ready, if it is not. It is ready when its metadata has caught up, all replicas that are assigned to it
/// are open, and each of them knows a leader that is alive.
pub(crate) fn not_ready(node: &Node) -> Option<String> {
    if node.stopping.refuse().is_err() {
        return Some("the broker is shutting down".into());
    }
    if let StoreCondition::Fenced(cause) = node.store().condition() {
        return Some(format!("the store has failed: {cause}"));
    }
    let image = node.metadata.image();
    if image.broker(node.broker()).is_none() {
        return Some("the metadata is not caught up".into());
    }
    let mut missing = 0;
    let mut leaderless = 0;
    for (wanted, _) in image.partitions_of(node.broker()) {
        match node.replicas.get(wanted.partition.group) {
            None => missing += 1,
            Some(replica) if !node.replicas.knows_leader(&replica.group) => leaderless += 1,
            Some(_) => {}
        }
    }
    if !node.replicas.knows_leader(&node.metadata.hosted.group) {
        return Some("the metadata group has no leader".into());
    }
    (missing + leaderless > 0).then(|| format!("{missing} replicas are not open yet, {leaderless} know no leader"))
}

/// Why this broker refuses records although it serves readers: its disk is almost full. `/readyz` reports that, so that a rolling
/// restart stops here and an operator notices. gRPC health does not: calls are still answered.
fn refuses_writes(node: &Node) -> Option<String> {
    match node.store().condition() {
        StoreCondition::DiskLow { free, reserve } => Some(format!(
            "the disk has {free} bytes free, below the reserve of {reserve}: records are refused, reading goes on"
        )),
        _ => None,
    }
}

async fn metrics(State(node): State<NodeWatch>, headers: HeaderMap, scrape: Arc<Scrape>) -> Response {
    let node = node.borrow().clone();
    let Some(node) = node else {
        let text = "this broker does not belong to a cluster yet\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = Form::accepted(accept);
    let queues = QueueSample::take(&node).await;
    // With many replicas this takes some milliseconds, which would delay other tasks of the runtime.
    let blocking = node.env.blocking;
    match blocking.run(move || scrape.render(&node, queues, form)).await {
        Ok(text) => ([(CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
