//! Telling the cluster that this broker is back, with its addresses as they are now.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_controller::admission::{validate_endpoints, validate_raise_feature_level};
use jangada_controller::{Broker, Command, ENDPOINTS_FEATURE_LEVEL, Image};
use jangada_types::BrokerId;

use super::error::BootstrapError;
use super::state::{Bootstrap, ROUND};
use crate::cluster::failpoint;
use crate::cluster::metadata::Metadata;
use crate::error::RequestError;

/// Between two tries to bring endpoints, after one that failed, and when nothing has changed meanwhile.
const BRING_AGAIN: Duration = Duration::from_secs(30);

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
        loop {
            match metadata.propose(&self.registering(&metadata.image())).await {
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

    /// The command that names the endpoints of this broker as far as the cluster knows such.
    fn registering(&self, image: &Image) -> Command {
        let registration = self.registration();
        let endpoints = self.local.endpoints.clone();
        if endpoints.is_empty() || image.feature_level() < ENDPOINTS_FEATURE_LEVEL {
            return Command::RegisterBroker(registration);
        }
        Command::RegisterEndpoints {
            registration,
            endpoints,
        }
    }

    /// Brings the endpoints that this broker could not tell when it registered, because the cluster had brokers that would not
    /// have understood: once all of them do, it raises the cluster's feature level, and registers again. Never ends.
    pub async fn keep_registered(&self, metadata: Metadata) {
        let mut image = metadata.watch();
        let mut told = None;
        loop {
            let now = image.borrow_and_update().clone();
            let is_known = |broker: &Broker| broker.endpoints == self.local.endpoints;
            let raise = match now.broker(self.local.broker).is_none_or(is_known) {
                true => None,
                false => Some(self.judge_endpoints(&now)),
            };
            let (error, was_proposed) = match raise {
                None => (None, false),
                Some(Err(error)) => (Some(error), false),
                Some(Ok(raise)) => (self.bring_endpoints(&metadata, raise).await.err(), true),
            };
            let message = error.map(|error| error.to_string());
            if let Some(error) = message.as_ref().filter(|_| message != told) {
                tracing::info!(%error, "clients of some listeners are told the public addresses for now");
            }
            let has_failed = message.is_some();
            told = message;
            if has_failed && was_proposed {
                // Also when the image has changed: a command that is refused changes its version.
                tokio::time::sleep(BRING_AGAIN).await;
            } else if let Ok(Err(_)) = tokio::time::timeout(BRING_AGAIN, image.changed()).await {
                return;
            }
        }
    }

    /// What is to be proposed before the endpoints, unless they would be refused: nothing takes a feature level back.
    fn judge_endpoints(&self, image: &Image) -> Result<Option<Command>, RequestError> {
        validate_endpoints(self.local.broker, &self.local.endpoints)?;
        Ok(validate_raise_feature_level(image, ENDPOINTS_FEATURE_LEVEL)?)
    }

    async fn bring_endpoints(&self, metadata: &Metadata, raise: Option<Command>) -> Result<(), RequestError> {
        if let Some(raise) = raise {
            metadata.propose(&raise).await?;
            tracing::info!(
                level = ENDPOINTS_FEATURE_LEVEL,
                "raised the cluster's feature level for the endpoints of this broker"
            );
        }
        metadata.propose(&self.registering(&metadata.image())).await?;
        tracing::info!(listeners = ?self.local.endpoints.keys(), "registered the endpoints of more listeners");
        Ok(())
    }
}

/// Ids of the brokers as a shared set of addresses for the transport.
pub(crate) fn addresses(metadata: &Metadata) -> BTreeMap<BrokerId, String> {
    metadata
        .image()
        .brokers()
        .map(|broker| (broker.id, broker.internal_address.clone()))
        .collect()
}
