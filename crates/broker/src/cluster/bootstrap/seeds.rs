//! Asking the seeds who they are and which cluster they belong to.

use std::time::Duration;

use jangada_proto::internal::{ProbeRequest, ProbeResponse};
use jangada_replication::{PROTOCOL_MAX, PROTOCOL_MIN, Registry, transport};
use jangada_types::BrokerId;
use tonic::Status;

use super::error::BootstrapError;
use super::state::Bootstrap;

/// One seed's answer.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a start waits for the seeds to say who they are, before it asks those that it knows.
const ASK_SEEDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A reachable seed.
pub(super) struct Seed {
    pub address: String,
    pub answer: ProbeResponse,
}

impl Bootstrap {
    /// Calls the peers that this broker has met and the seeds, and returns when each has judged its past, or is not there.
    pub async fn ask_peers(&self, registry: &Registry) {
        let met = registry.met();
        registry.set_peers(&met);
        let probed = async {
            // What is wrong with the seeds is told when the cluster is completed.
            let mut found = met.clone();
            let seeds = self.probe_seeds().await.unwrap_or_default().into_iter();
            let bound = seeds.filter(|seed| !seed.answer.cluster_id.is_empty());
            found.extend(bound.map(|seed| (BrokerId(seed.answer.broker_id), seed.answer.internal_address)));
            registry.set_peers(&found);
        };
        // A seed that is silent has been called as one that was met, if it ever was.
        let _ = tokio::time::timeout(ASK_SEEDS_TIMEOUT, probed).await;
        registry.ask_peers().await;
    }

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
        let probe = |channel| async move { transport::internal_client(channel).probe(request).await };
        let answer = self.dialer.call(address, PROBE_TIMEOUT, probe).await;
        answer.map_err(Status::from)
    }
}
