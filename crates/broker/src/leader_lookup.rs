//! Finds the leading replica for a request about a partition: on this broker, or else an error that names the leader.

use std::sync::Arc;

use jangada_types::{BrokerId, Reason};

use crate::api::context::Route;
use crate::error::RequestError;
use crate::replica::{Front, Hosted, Replicas};
use crate::stopping::Stopping;
use crate::target::Target;

/// Where a request is answered.
pub(crate) enum Lead<T> {
    /// A replica on this broker leads.
    Here(Arc<T>),
    /// Another broker leads, and the request is passed on to it.
    At(BrokerId),
}

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

    /// Like [`LeaderLookup::leading`]; a leader elsewhere is no error when the request can be passed on to it.
    pub async fn find<F: Front>(&self, target: &Target, route: Route) -> Result<Lead<F>, RequestError> {
        let here = self.leading(target).await;
        self.or_elsewhere(here, target, route)
    }

    /// Like [`LeaderLookup::find`], for a replica of any kind.
    pub async fn find_any(&self, target: &Target, route: Route) -> Result<Lead<Hosted>, RequestError> {
        let here = self.leading_any(target).await;
        self.or_elsewhere(here, target, route)
    }

    /// Like [`LeaderLookup::find`], without waiting.
    pub fn find_now<F: Front>(&self, target: &Target, route: Route) -> Result<Lead<F>, RequestError> {
        let here = self.leading_now(target);
        self.or_elsewhere(here, target, route)
    }

    fn or_elsewhere<T>(
        &self,
        here: Result<Arc<T>, RequestError>,
        target: &Target,
        route: Route,
    ) -> Result<Lead<T>, RequestError> {
        let error = match here {
            Ok(here) => return Ok(Lead::Here(here)),
            Err(error) if route != Route::PassOn || error.reason != Reason::NotLeader => return Err(error),
            Err(error) => error,
        };
        let leader = self.replicas.led_elsewhere(target.group);
        leader.map(|(leader, _)| Lead::At(leader)).ok_or(error)
    }

    async fn when_ready<T>(&self, target: &Target, find: impl Fn() -> Option<T>) -> Result<T, RequestError> {
        self.stopping.refuse()?;
        self.replicas.when_ready(target.group, target, find).await
    }
}
