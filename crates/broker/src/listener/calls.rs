//! Counts the calls that a connection has open: from the request's head until the whole answer is handed over. HTTP/2's
//! own pings keep bytes moving on a connection that nobody uses, so bytes do not tell.

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
use super::gate::Occupant;

/// Counts every call that is served here with its connection.
pub(crate) fn count_calls(router: Router) -> Router {
    router.layer(from_fn(counted))
}

async fn counted(mut request: Request, next: Next) -> Response {
    let Some(ConnectionInfo(occupant)) = request.extensions().get::<ConnectionInfo>().cloned() else {
        return next.run(request).await;
    };
    // Where tonic's requests look for their peer.
    request.extensions_mut().insert(TcpConnectInfo {
        local_addr: None,
        remote_addr: Some(occupant.peer()),
    });
    let call = Call::begin(occupant);
    let response = next.run(request).await;
    response.map(|body| Body::new(Counted { body, _call: call }))
}

struct Call(Arc<Occupant>);

impl Call {
    fn begin(occupant: Arc<Occupant>) -> Self {
        occupant.begins_call();
        Self(occupant)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.ends_call();
    }
}

/// An answer's body, with which the call ends.
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
