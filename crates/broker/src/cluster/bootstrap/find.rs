//! Finding the cluster to belong to, or deciding to form one. Ends when the data directory is bound.

use std::time::Duration;

use jangada_proto::internal::JoinRequest;
use jangada_replication::transport::dialer::CallError;
use jangada_replication::{PROTOCOL_MAX, PROTOCOL_MIN, transport};
use jangada_types::Incarnation;

use super::error::BootstrapError;
use super::member::member_of;
use super::seeds::Seed;
use super::state::{Bootstrap, Bound, FIRST_INCARNATION, ROUND};
use crate::cluster::failpoint;

/// An answer that includes a proposal.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

impl Bootstrap {
    /// Finds the cluster to belong to, or makes it. Returns when the directory is bound. Waits as long as it takes: a
    /// seed may start hours later.
    pub async fn find_cluster(&self) -> Result<Bound, BootstrapError> {
        // A cluster that was asked, and did not answer, may have let this broker in.
        let mut in_doubt = false;
        let found = self.search(&mut in_doubt).await;
        if found.is_err() && !in_doubt {
            let forgotten = self.directory.lock().forget();
            let _ = forgotten.inspect_err(|error| tracing::warn!(%error, "what a refused start made stays"));
        }
        found
    }

    async fn search(&self, in_doubt: &mut bool) -> Result<Bound, BootstrapError> {
        let mut bound = self.bound.subscribe();
        let mut told = false;
        loop {
            if let Some(bound) = bound.borrow_and_update().clone() {
                return Ok(bound);
            }
            failpoint::reached("bootstrap.directory-made");
            let seeds = self.probe_seeds().await?;
            if seeds.len() == self.local.seeds.len() {
                failpoint::reached("bootstrap.probed");
            }
            if let Some(seed) = seeds.iter().find(|seed| seed.answer.ready) {
                match self.join(&seed.address).await? {
                    Some(bound) => return Ok(bound),
                    None => {
                        *in_doubt = true;
                        tracing::debug!(seed = %seed.address, "joining did not work out; trying again");
                    }
                }
            } else if self.may_form(&seeds) {
                let cluster_id = self.random.new_id().to_string();
                tracing::info!(cluster = %cluster_id, "forming a new cluster");
                let bound = self.bind(&cluster_id, FIRST_INCARNATION)?;
                failpoint::reached("bootstrap.bound");
                return Ok(bound);
            }
            if !told {
                told = true;
                let missing = self.local.seeds.len().saturating_sub(seeds.len());
                tracing::info!(
                    reached = seeds.len(),
                    missing,
                    "waiting for the seeds to form a cluster"
                );
            }
            // Adopted meanwhile, or time for another round.
            let _ = tokio::time::timeout(ROUND, bound.changed()).await;
        }
    }

    /// Only the seed with the lowest id, only when all seeds answered and none belongs to a cluster.
    fn may_form(&self, seeds: &[Seed]) -> bool {
        seeds.len() == self.local.seeds.len()
            && seeds.iter().all(|seed| seed.answer.cluster_id.is_empty())
            && seeds.iter().map(|seed| seed.answer.broker_id).min() == Some(self.local.broker.get())
            && self.local.seeds.contains(&self.local.internal_address)
    }

    /// Asks a broker of a cluster for membership. `None`: not now.
    async fn join(&self, address: &str) -> Result<Option<Bound>, BootstrapError> {
        let request = JoinRequest {
            cluster_id: String::new(),
            member: Some(member_of(&self.registration())),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        };
        let join = |channel| async move { transport::internal_client(channel).join(request).await };
        match self.dialer.call(address, JOIN_TIMEOUT, join).await {
            Ok(response) => {
                tracing::info!(cluster = %response.cluster_id, incarnation = response.incarnation, "joined");
                failpoint::reached("bootstrap.joined");
                let bound = self.bind(&response.cluster_id, Incarnation(response.incarnation))?;
                failpoint::reached("bootstrap.join-bound");
                Ok(Some(bound))
            }
            Err(CallError::Failed(status)) if status.code() == tonic::Code::FailedPrecondition => {
                Err(BootstrapError::Refused(status.message().to_owned()))
            }
            Err(error) => {
                tracing::warn!(seed = %address, %error, "could not join");
                Ok(None)
            }
        }
    }
}
