//! Finds the replica here that answers a request about a partition, or says where the request is to go.

use std::sync::Arc;

use crate::cluster::metadata::Metadata;
use crate::error::RequestError;
use crate::replica::{Front, Hosted, Replicas};
use crate::stopping::Stopping;
use crate::target::Target;

/// See the module text.
pub(crate) struct LeaderLookup {
    replicas: Arc<Replicas>,
    metadata: Metadata,
    stopping: Stopping,
}

impl LeaderLookup {
    pub fn new(replicas: Arc<Replicas>, metadata: Metadata, stopping: Stopping) -> Self {
        Self {
            replicas,
            metadata,
            stopping,
        }
    }

    /// The front of the replica here, leading and ready. Waits a moment for an election or an opening that is under way
    /// here.
    pub async fn leading<F: Front>(&self, target: &Target) -> Result<Arc<F>, RequestError> {
        self.when_ready(target, || self.replicas.ready(target.group)).await
    }

    /// As [`LeaderLookup::leading`], for a replica of any kind.
    pub async fn leading_any(&self, target: &Target) -> Result<Arc<Hosted>, RequestError> {
        let ready = || self.replicas.get(target.group).filter(|replica| replica.is_ready());
        self.when_ready(target, ready).await
    }

    /// As [`LeaderLookup::leading`], without waiting.
    pub fn leading_now<F: Front>(&self, target: &Target) -> Result<Arc<F>, RequestError> {
        self.stopping.refuse()?;
        self.replicas.ready(target.group).ok_or_else(|| {
            let error = self.replicas.not_here(target.group, target);
            self.metadata.with_leader_address(error)
        })
    }

    async fn when_ready<T>(&self, target: &Target, find: impl Fn() -> Option<T>) -> Result<T, RequestError> {
        self.stopping.refuse()?;
        let found = self.replicas.when_ready(target.group, target, find).await;
        found.map_err(|error| self.metadata.with_leader_address(error))
    }
}
