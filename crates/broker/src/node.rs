//! The handles that the services of one broker share. They exist once the broker is part of a cluster.

use std::sync::Arc;

use jangada_env::Env;
use jangada_replication::Registry;
use jangada_storage::Store;
use jangada_types::BrokerId;
use tokio::sync::watch;

use crate::api::peers::Peers;
use crate::cluster::metadata::Metadata;
use crate::compaction::CompactionStatus;
use crate::error::RequestError;
use crate::groups::{self, CoordinatorTopic};
use crate::leader_lookup::LeaderLookup;
use crate::metrics::Metrics;
use crate::partition;
use crate::producer_ids::ProducerIds;
use crate::quota::{Budgets, PassedCallers};
use crate::repair::Repairs;
use crate::repair::scrub::ScrubStatus;
use crate::replica::{Replicas, Timers};
use crate::routing::Routers;
use crate::settings::BrokerSettings;
use crate::stopping::Stopping;

/// The handles that the services share.
pub(crate) struct Node {
    pub settings: BrokerSettings,
    pub metadata: Metadata,
    /// The replicas on this broker, of all kinds, and the leaders of their groups.
    pub replicas: Arc<Replicas>,
    /// Finds the leading replica for a request.
    pub leaders: LeaderLookup,
    /// Handles that the partitions on this broker share: store, clock, budgets, pools.
    pub partitions: Arc<partition::Shared>,
    /// Handles that the coordinator's shards on this broker share.
    pub groups: Arc<groups::Shared>,
    pub coordinator: CoordinatorTopic,
    pub producer_ids: ProducerIds,
    /// The router of the exchanges in the metadata.
    pub routers: Routers,
    /// The damaged replicas on this broker.
    pub repairs: Arc<Repairs>,
    pub scrub: Arc<ScrubStatus>,
    pub compaction: Arc<CompactionStatus>,
    pub metrics: Arc<Metrics>,
    pub env: Env,
    pub stopping: Stopping,
    /// The budgets that all client connections share.
    pub budgets: Arc<Budgets>,
    /// Clients of other brokers, whose calls are passed on to this one.
    pub passed_callers: PassedCallers,
    /// Passes calls on to other brokers.
    pub peers: Arc<dyn Peers>,
}

impl Node {
    pub fn new(
        settings: BrokerSettings,
        metadata: Metadata,
        replicas: Arc<Replicas>,
        env: Env,
        partitions: Arc<partition::Shared>,
        (timers, peers): (Arc<Timers>, Arc<dyn Peers>),
        is_stopping: watch::Receiver<bool>,
    ) -> Self {
        let metrics = partitions.metrics.clone();
        let stopping = Stopping::new(metadata.registry.identity().broker, is_stopping);
        let reads = (partitions.store.clone(), partitions.read_pool.clone());
        let groups = groups::Shared::new(
            (&settings.groups, &settings.transactions),
            timers,
            (metrics.groups.clone(), metrics.transactions.clone()),
            reads,
        );
        let budgets = Budgets::new(&settings.limits, metrics.quota.clone());
        Self {
            leaders: LeaderLookup::new(replicas.clone(), stopping.clone()),
            groups: Arc::new(groups),
            coordinator: CoordinatorTopic::new(metadata.clone(), env.random.clone(), settings.groups.shards),
            producer_ids: ProducerIds::new(metadata.clone()),
            routers: Routers::new(metadata.clone(), partitions.compute.clone(), metrics.clone()),
            repairs: Arc::default(),
            scrub: Arc::default(),
            compaction: Arc::default(),
            passed_callers: PassedCallers::new(budgets.clone()),
            budgets,
            peers,
            settings,
            metadata,
            replicas,
            partitions,
            metrics,
            env,
            stopping,
        }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.metadata.registry
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.partitions.store
    }

    pub fn broker(&self) -> BrokerId {
        self.registry().identity().broker
    }

    /// Prepares an error for a client of this listener: counts it, and adds the address of the leader that it names.
    pub fn refused(&self, error: RequestError, listener: &str) -> RequestError {
        self.metrics.failed(error.reason);
        self.metadata.with_leader_address(error, listener)
    }
}
