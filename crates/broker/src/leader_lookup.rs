//! Finds the leading replica for a request about a partition: on this broker, or else an error that names the leader.

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

    /// The front of the replica on this broker, if it leads and is ready. Waits briefly while an election is going on or the
    /// replica is being opened.
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
