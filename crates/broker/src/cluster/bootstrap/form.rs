//! Forming a new cluster: the others adopt it, the metadata group begins, and its first command names the brokers.

use std::collections::{BTreeMap, BTreeSet};

use jangada_controller::metadata_quorum::metadata_voter_count;
use jangada_controller::{BrokerRegistration, Command, SeedBroker};
use jangada_proto::internal::AdoptRequest;
use jangada_replication::transport;
use jangada_types::{BrokerId, ReplicaId};

use super::error::BootstrapError;
use super::member::{member_of, probed};
use super::seeds::{PROBE_TIMEOUT, Seed};
use super::state::{Bootstrap, Bound, FIRST_INCARNATION, ROUND};
use crate::cluster::failpoint;
use crate::cluster::metadata::Metadata;

impl Bootstrap {
    /// Makes the cluster's first entries, if it is this broker's to do: lets the others adopt it, forms the metadata
    /// group, proposes the first command. Also finds the other brokers while the image does not name them yet.
    /// Returns when the image does.
    pub async fn complete(&self, metadata: &Metadata) -> Result<(), BootstrapError> {
        // Seeds of another cluster, or other brokers with this id, are noticed before anything is served.
        self.probe_seeds().await?;
        let mut image = metadata.watch();
        let bound = self
            .bound
            .borrow()
            .clone()
            .expect("the directory is bound before the metadata group is opened");
        while image.borrow_and_update().cluster_id().is_none() {
            let seeds = self.probe_seeds().await?;
            let addresses: BTreeMap<BrokerId, String> = seeds
                .iter()
                .map(|seed| (BrokerId(seed.answer.broker_id), seed.answer.internal_address.clone()))
                .collect();
            metadata.registry.set_peers(&addresses);
            let first = seeds.iter().map(|seed| seed.answer.broker_id).min() == Some(self.local.broker.get());
            if first && seeds.len() == self.local.seeds.len() && bound.incarnation == FIRST_INCARNATION {
                self.form(metadata, &bound, &seeds).await;
            }
            let _ = tokio::time::timeout(ROUND, image.changed()).await;
        }
        failpoint::reached("bootstrap.completed");
        Ok(())
    }

    /// Every step may be done again after a crash.
    async fn form(&self, metadata: &Metadata, bound: &Bound, seeds: &[Seed]) {
        let brokers: BTreeMap<BrokerId, SeedBroker> = seeds
            .iter()
            .map(|seed| (BrokerId(seed.answer.broker_id), probed(&seed.answer).into()))
            .collect();
        for seed in seeds
            .iter()
            .filter(|seed| seed.answer.broker_id != self.local.broker.get())
        {
            let member = |seed: &Seed| {
                let registration = probed(&seed.answer);
                member_of(&BrokerRegistration {
                    incarnation: FIRST_INCARNATION,
                    ..registration
                })
            };
            let members = seeds.iter().map(member).collect();
            let request = AdoptRequest {
                cluster_id: bound.cluster_id.clone(),
                broker_id: self.local.broker.get(),
                members,
            };
            let adopt = |channel| async move { transport::internal_client(channel).adopt(request).await };
            match self.dialer.call(&seed.address, PROBE_TIMEOUT, adopt).await {
                Ok(response) if response.cluster_id == bound.cluster_id => {
                    failpoint::reached("bootstrap.one-adopted");
                }
                other => {
                    tracing::warn!(seed = %seed.address, ?other, "has not adopted the new cluster yet");
                    return;
                }
            }
        }
        failpoint::reached("bootstrap.all-adopted");
        let voters: BTreeSet<ReplicaId> = brokers
            .keys()
            .take(metadata_voter_count(brokers.len()))
            .map(|&broker| ReplicaId {
                broker,
                incarnation: FIRST_INCARNATION,
            })
            .collect();
        if let Err(error) = metadata.hosted.group.initialize(&voters).await {
            tracing::warn!(%error, "the metadata group could not be formed yet");
            return;
        }
        failpoint::reached("bootstrap.initialized");
        let command = Command::FormCluster {
            cluster_id: bound.cluster_id.clone(),
            brokers: brokers.into_values().collect(),
        };
        match metadata.propose(&command).await {
            Ok(_) => {
                failpoint::reached("bootstrap.formed");
                tracing::info!(cluster = %bound.cluster_id, "the cluster is formed");
            }
            Err(error) => tracing::warn!(%error, "the cluster is not formed yet"),
        }
    }
}
