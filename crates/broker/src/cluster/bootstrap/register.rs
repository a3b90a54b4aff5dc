//! Telling the cluster that this broker is back, with its addresses as they are now.

use std::collections::HashMap;

use jangada_controller::{BrokerRegistration, Command, DirectoryId};
use jangada_proto::internal::Member;
use jangada_types::{BrokerId, Incarnation};

use super::{Bootstrap, BootstrapError, ROUND};
use crate::cluster::failpoint;
use crate::cluster::metadata::Metadata;

impl Bootstrap {
    /// Tells the cluster that this broker is back, with its addresses as they are now. Refused for a broker that was
    /// replaced meanwhile.
    pub async fn register(&self, metadata: &Metadata) -> Result<(), BootstrapError> {
        tokio::select! {
            registered = self.propose_registration(metadata) => registered,
            error = self.keep_finding_peers(metadata) => Err(error),
        }
    }

    /// Keeps the transport's addresses as good as can be while the metadata's leader is not reached: those of the
    /// image as it was saved, and over them what the seeds say of themselves now. Ends only with an error.
    async fn keep_finding_peers(&self, metadata: &Metadata) -> BootstrapError {
        metadata.registry.set_peers(&addresses(metadata));
        loop {
            let seeds = match self.probe_seeds().await {
                Ok(seeds) => seeds,
                Err(error) => return error,
            };
            let mut found = addresses(metadata);
            found.extend(
                seeds
                    .into_iter()
                    .map(|seed| (BrokerId(seed.answer.broker_id), seed.answer.internal_address)),
            );
            metadata.registry.set_peers(&found);
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn propose_registration(&self, metadata: &Metadata) -> Result<(), BootstrapError> {
        let member = self.member();
        loop {
            match metadata.propose(&registration(&member)).await {
                Ok(_) => {
                    failpoint::reached("bootstrap.registered");
                    return Ok(());
                }
                Err(error) if error.definite && error.retry_delay.is_none() => {
                    return Err(BootstrapError::Refused(error.message));
                }
                Err(error) => tracing::info!(%error, "waiting for the cluster's metadata"),
            }
        }
    }
}

pub(super) fn registration(member: &Member) -> Command {
    Command::RegisterBroker(BrokerRegistration {
        broker: BrokerId(member.broker_id),
        incarnation: Incarnation(member.incarnation),
        directory: DirectoryId::from_slice(&member.directory_id).unwrap_or_default(),
        address: member.address.clone(),
        internal_address: member.internal_address.clone(),
        rack: member.rack.clone(),
        feature_level: member.feature_level,
    })
}

/// Ids of the brokers as a shared set of addresses for the transport.
pub(crate) fn addresses(metadata: &Metadata) -> HashMap<BrokerId, String> {
    metadata
        .image()
        .brokers()
        .map(|broker| (broker.id, broker.internal_address.clone()))
        .collect()
}
