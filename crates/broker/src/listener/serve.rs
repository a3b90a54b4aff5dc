//! HTTP on the connections of a listener.

use std::convert::Infallible;

use axum::Router;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// Serves a listener's connections until `ends` is ready, and then until the open calls are answered. `server` has the window
/// sizes, timeouts and limits of its protocol.
pub(crate) async fn serve<S>(
    mut server: Server,
    connections: impl Stream<Item = Result<S, Infallible>>,
    service: Router,
    ends: impl Future<Output = ()>,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    server
        .add_routes(Routes::from(service))
        .serve_with_incoming_shutdown(connections, ends)
        .await
        .map_err(|error| error.to_string())
}
