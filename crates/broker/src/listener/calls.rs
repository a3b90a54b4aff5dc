//! Counts the open calls of each connection: from the headers of the request until the end of the response's body. A connection is
//! idle when it has none. Bytes are no measure of that, because HTTP/2 keep-alive pings go on without any call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tonic::transport::server::TcpConnectInfo;

use super::connection::ConnectionInfo;
use super::gate::ConnectionState;

/// Wraps `router` so that every request counts as an open call of its connection.
pub(crate) fn count_calls(router: Router) -> Router {
    router.layer(from_fn(counted))
}

async fn counted(mut request: Request, next: Next) -> Response {
    let Some(ConnectionInfo(connection)) = request.extensions().get::<ConnectionInfo>().cloned() else {
        return next.run(request).await;
    };
    // tonic::Request::remote_addr reads this extension.
    request.extensions_mut().insert(TcpConnectInfo {
        local_addr: None,
        remote_addr: Some(connection.peer()),
    });
    let call = Call::begin(connection);
    let response = next.run(request).await;
    response.map(|body| Body::new(Counted { body, _call: call }))
}

struct Call(Arc<ConnectionState>);

impl Call {
    fn begin(connection: Arc<ConnectionState>) -> Self {
        connection.begins_call();
        Self(connection)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.ends_call();
    }
}

/// A response's body; the call ends when it is dropped.
struct Counted {
    body: Body,
    _call: Call,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
