//! Finds the replica here that answers a request about a partition, or says where the request is to go.

use std::sync::Arc;

use crate::error::RequestError;
use crate::replica::{Front, Hosted, Replicas};
use crate::stopping::Stopping;
use crate::target::Target;

/// Finds leading replicas on this broker.
pub(crate) struct LeaderLookup {
    replicas: Arc<Replicas>,
    stopping: Stopping,
}

impl LeaderLookup {
    pub fn new(replicas: Arc<Replicas>, stopping: Stopping) -> Self {
        Self { replicas, stopping }
    }

    /// The front of the replica here, leading and ready. Waits a moment for an election or an opening that is under way
    /// here.
    pub async fn leading<F: Front>(&self, target: &Target) -> Result<Arc<F>, RequestError> {
        self.when_ready(target, || self.replicas.ready(target.group)).await
    }

    /// Like [`LeaderLookup::leading`], for a replica of any kind.
    pub async fn leading_any(&self, target: &Target) -> Result<Arc<Hosted>, RequestError> {
        let ready = || self.replicas.get(target.group).filter(|replica| replica.is_ready());
        self.when_ready(target, ready).await
    }

    /// Like [`LeaderLookup::leading`], without waiting.
    pub fn leading_now<F: Front>(&self, target: &Target) -> Result<Arc<F>, RequestError> {
        self.stopping.refuse()?;
        let here = self.replicas.ready(target.group);
        here.ok_or_else(|| self.replicas.not_here(target.group, target))
    }

    async fn when_ready<T>(&self, target: &Target, find: impl Fn() -> Option<T>) -> Result<T, RequestError> {
        self.stopping.refuse()?;
        self.replicas.when_ready(target.group, target, find).await
    }
}
