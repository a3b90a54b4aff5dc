//! The accepting side of the transport as methods of a gRPC service.

use std::sync::Arc;

use jangada_proto::internal::{Frame, InstallSnapshotResponse, SnapshotChunk};
use tonic::{Request, Response, Status, Streaming};

use super::inbound::{self, FrameStream};
use super::inbox::Inbox;
use crate::registry::Registry;

/// Serves what peers send to one broker's groups.
pub struct PeerService {
    inbox: Arc<dyn Inbox>,
}

impl PeerService {
    /// For the groups of this registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { inbox: registry }
    }

    /// Serves a peer's control connection.
    pub async fn control(&self, request: Request<Streaming<Frame>>) -> Result<Response<FrameStream>, Status> {
        inbound::control(self.inbox.clone(), request).await
    }

    /// Serves a peer's bulk connection.
    pub async fn bulk(&self, request: Request<Streaming<Frame>>) -> Result<Response<FrameStream>, Status> {
        inbound::bulk(self.inbox.clone(), request).await
    }

    /// Takes a snapshot from a peer.
    pub async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        inbound::install_snapshot(self.inbox.clone(), request).await
    }
}
