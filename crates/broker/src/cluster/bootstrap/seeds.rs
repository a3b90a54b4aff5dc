//! Asking the seeds who they are and which cluster they belong to.

use std::time::Duration;

use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{ProbeRequest, ProbeResponse};
use jangada_replication::{PROTOCOL_MAX, PROTOCOL_MIN, transport};
use tonic::Status;
use tonic::transport::Channel;

use super::{Bootstrap, BootstrapError};

/// One seed's answer.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A reachable seed.
pub(super) struct Seed {
    pub address: String,
    pub answer: ProbeResponse,
}

impl Bootstrap {
    /// Asks all seeds at once, this broker among them.
    pub(super) async fn probe_seeds(&self) -> Result<Vec<Seed>, BootstrapError> {
        let probes = self
            .local
            .seeds
            .iter()
            .map(|address| async move { (address, self.probe(address).await) });
        let mut seeds = Vec::new();
        for (address, answer) in futures::future::join_all(probes).await {
            match answer {
                Ok(answer) => seeds.push(Seed {
                    address: address.clone(),
                    answer,
                }),
                // A new broker would wait for this seed for ever. One of a cluster may do without it.
                Err(status) if status.code() == tonic::Code::FailedPrecondition && self.bound.borrow().is_none() => {
                    return Err(BootstrapError::RefusedBySeed {
                        seed: address.clone(),
                        message: status.message().to_owned(),
                    });
                }
                Err(status) => tracing::debug!(seed = %address, %status, "not reached"),
            }
        }
        let ours = self.bound.borrow().as_ref().map(|bound| bound.cluster_id.clone());
        for Seed { address, answer } in &seeds {
            let theirs = &answer.cluster_id;
            if let Some(ours) = ours.as_ref().filter(|ours| !theirs.is_empty() && *ours != theirs) {
                return Err(BootstrapError::OtherCluster {
                    seed: address.clone(),
                    theirs: theirs.clone(),
                    ours: ours.clone(),
                });
            }
            if theirs.is_empty() && ours.is_none() && answer.seeds != self.local.seeds {
                return Err(BootstrapError::OtherSeeds {
                    seed: address.clone(),
                    theirs: answer.seeds.clone(),
                    ours: self.local.seeds.clone(),
                });
            }
            if answer.broker_id == self.local.broker.get() && *answer.directory_id != self.directory_id().as_bytes()[..]
            {
                return Err(BootstrapError::SameId {
                    seed: address.clone(),
                    broker: self.local.broker,
                });
            }
        }
        Ok(seeds)
    }

    async fn probe(&self, address: &str) -> Result<ProbeResponse, Status> {
        let request = ProbeRequest {
            seeds: self.local.seeds.clone(),
            broker_id: self.local.broker.get(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        };
        let probe = async { Ok(connect(address).await?.probe(request).await?.into_inner()) };
        tokio::time::timeout(PROBE_TIMEOUT, probe)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
    }
}

pub(super) async fn connect(address: &str) -> Result<InternalServiceClient<Channel>, Status> {
    let endpoint = transport::endpoint(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(InternalServiceClient::new(channel))
}
