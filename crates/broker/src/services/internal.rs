//! `InternalService`: what other brokers call. Answers probes and adoption from the start, the rest once this broker
//! is part of a cluster.

use std::sync::Arc;

use jangada_controller::Command;
use jangada_proto::internal::internal_service_server::InternalService;
use jangada_proto::internal::{
    AdoptRequest, AdoptResponse, CleanedSinceRequest, CleanedSinceResponse, EndOffsetsRequest, EndOffsetsResponse,
    ForwardRequest, ForwardResponse, Frame, InstallSnapshotResponse, JoinRequest, JoinResponse, PartitionEnds,
    ProbeRequest, ProbeResponse, ProposeMetadataRequest, ProposeMetadataResponse, SlowestGroups, SlowestGroupsTaken,
    SnapshotChunk,
};
use jangada_replication::transport::inbound::FrameStream;
use jangada_replication::{Cause, PeerService, Registry, STARTING};
use tonic::{Request, Response, Status, Streaming};

use super::forwarded;
use crate::admission::call_of;
use crate::cluster::bootstrap::{self, Bootstrap};
use crate::cluster::metadata::Metadata;
use crate::compaction::cleaned_since;
use crate::groups;
use crate::http::NodeWatch;
use crate::partition::Partition;

/// The service of the internal listener (`internal.proto`).
pub(crate) struct Internal {
    pub bootstrap: Arc<Bootstrap>,
    pub node: NodeWatch,
}

impl Internal {
    fn metadata(&self) -> Result<Metadata, Status> {
        let metadata = self.bootstrap.metadata.borrow().clone();
        metadata.ok_or_else(|| self.not_yet())
    }

    /// Before there is the metadata: peers judge each other's past before any group is opened.
    fn registry(&self) -> Result<Arc<Registry>, Status> {
        let registry = self.bootstrap.registry.borrow().clone();
        registry.ok_or_else(|| self.not_yet())
    }

    fn peers(&self) -> Result<PeerService, Status> {
        self.registry().map(PeerService::new)
    }

    fn not_yet(&self) -> Status {
        let broker = self.bootstrap.local.broker;
        Status::unavailable(match self.bootstrap.is_bound() {
            true => format!("{STARTING}: broker {broker} opens its store"),
            false => format!("broker {broker} does not belong to a cluster yet"),
        })
    }
}

#[tonic::async_trait]
impl InternalService for Internal {
    type ControlStream = FrameStream;

    async fn control(&self, request: Request<Streaming<Frame>>) -> Result<Response<FrameStream>, Status> {
        self.peers()?.control(request).await
    }

    type BulkStream = FrameStream;

    async fn bulk(&self, request: Request<Streaming<Frame>>) -> Result<Response<FrameStream>, Status> {
        self.peers()?.bulk(request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        self.peers()?.install_snapshot(request).await
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        self.bootstrap.answer_probe(request.get_ref()).map(Response::new)
    }

    async fn adopt(&self, request: Request<AdoptRequest>) -> Result<Response<AdoptResponse>, Status> {
        let cluster_id = self.bootstrap.adopt(request.get_ref())?;
        Ok(Response::new(AdoptResponse { cluster_id }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        bootstrap::admit(&self.metadata()?, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn end_offsets(&self, request: Request<EndOffsetsRequest>) -> Result<Response<EndOffsetsResponse>, Status> {
        self.registry()?.admit(request.into_inner().hello)?;
        let node = self.node.borrow().clone().ok_or_else(|| self.not_yet())?;
        let led = node.replicas.fronts::<Partition>().into_iter().filter_map(|partition| {
            let (log_start, end) = partition.ends_if_led()?;
            Some(PartitionEnds {
                group_id: partition.hosted.id().get(),
                log_start_offset: log_start.get(),
                end_offset: end.get(),
            })
        });
        Ok(Response::new(EndOffsetsResponse {
            partitions: led.collect(),
        }))
    }

    async fn tell_slowest_groups(
        &self,
        request: Request<SlowestGroups>,
    ) -> Result<Response<SlowestGroupsTaken>, Status> {
        let mut request = request.into_inner();
        self.registry()?.admit(request.hello.take())?;
        let node = self.node.borrow().clone().ok_or_else(|| self.not_yet())?;
        groups::told_slowest(&node.replicas, request);
        Ok(Response::new(SlowestGroupsTaken {}))
    }

    async fn cleaned_since(
        &self,
        request: Request<CleanedSinceRequest>,
    ) -> Result<Response<CleanedSinceResponse>, Status> {
        let mut request = request.into_inner();
        self.registry()?.admit(request.hello.take())?;
        let node = self.node.borrow().clone().ok_or_else(|| self.not_yet())?;
        let answer = cleaned_since(&node.compaction, &node.partitions.clock, &node.replicas, &request);
        Ok(Response::new(answer))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        let arrived = call_of(&request);
        let ForwardRequest { hello, context, call } = request.into_inner();
        let from = self.registry()?.admit(hello)?;
        let node = self.node.borrow().clone().ok_or_else(|| self.not_yet())?;
        forwarded::answer(&node, from, &arrived, context, call).await
    }

    async fn propose_metadata(
        &self,
        request: Request<ProposeMetadataRequest>,
    ) -> Result<Response<ProposeMetadataResponse>, Status> {
        let metadata = self.metadata()?;
        let request = request.into_inner();
        let is_known = metadata.registry.admit_stranger(request.hello)?;
        let refuse = |cause, message: String| {
            metadata.registry.rejections().count(cause);
            Err(Status::failed_precondition(message))
        };
        // What cannot be read would stop the metadata group on every broker when it is applied.
        let command = match Command::decode(&request.command) {
            Err(error) => return refuse(Cause::Command, format!("metadata command: {error}")),
            Ok(command) => command,
        };
        // The metadata judges by itself who comes back, and says what to do.
        let comes_back = matches!(command, Command::RegisterBroker(_) | Command::RegisterEndpoints { .. });
        if !is_known && !comes_back {
            return refuse(Cause::Stranger, "UNKNOWN_BROKER: only brokers propose".to_owned());
        }
        let (reply, version) = metadata
            .propose_once(command, request.forwarded)
            .await
            .map_err(|error| {
                // Definite errors are told apart by their code alone.
                if error.definite {
                    Status::failed_precondition(error.message)
                } else {
                    Status::unavailable(error.message)
                }
            })?;
        let reply = reply.encode();
        Ok(Response::new(ProposeMetadataResponse { reply, version }))
    }
}
