//! One broker: builds its components, starts them in order, and stops them in order.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jangada_controller::DirectoryId;
use jangada_env::Env;
use jangada_replication::transport::dialer::Dialer;
use jangada_replication::{Identity, OpenError, Registry, Timing};
use jangada_storage::{LostTail, NodeStore, Starts, Store, StoreError, StoreFactory};
use jangada_types::{BrokerId, GroupId};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::api::beyond_desks::NodeBeyondDesks;
use crate::api::transactions::{NodeTransactions, send_ends};
use crate::clock_guard::ClockGuard;
use crate::cluster::balance::Balancer;
use crate::cluster::bootstrap::{Bootstrap, BootstrapError, Local};
use crate::cluster::directory::{DataDirectory, DirectoryError};
use crate::cluster::hand_over::hand_over;
use crate::cluster::metadata::Metadata;
use crate::cluster::reconcile::Reconciler;
use crate::cluster::roster::ImageRoster;
use crate::compaction::{Cleaner, Compactor};
use crate::groups::{self, LagSources};
use crate::listener::descriptors::{self, Shares, TooFewDescriptors};
use crate::listener::{ConnectionMetrics, Listener, Protocol};
use crate::listening::{self, Addresses, ListenError};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::partition::{LogStarts, RetentionClock, Shared, watch_transactions};
use crate::pool::Pool;
use crate::quota;
use crate::repair::scrub::Scrubber;
use crate::repair::worker::Repairer;
use crate::replica::{DriverShared, Replicas, Timers};
use crate::services::internal::Internal;
use crate::services::passing::Passing;
use crate::serving::{Service, stalled_after};
use crate::settings::BrokerSettings;
use crate::tail::Missing;

/// Why a broker could not start. When it is returned, no task or listener of the broker is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// The limit of open files cannot be read or raised.
    #[error("the limit of open files: {0}")]
    DescriptorLimit(std::io::Error),
    /// The data directory cannot be used, or belongs to another broker or cluster.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The broker could not form or join a cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The store cannot be opened.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The end of the write-ahead log, or a part before its end, is missing.
    #[error(
        "the store in {directory} lost {part} of its write-ahead log ({detail}): what this broker acknowledged may be \
         missing, so it must not vote. \
         Stop it, run `jangada cluster replace-broker {broker}` on another one, empty its data directory and start it again. \
         Only if no majority of sound replicas is left: `jangada server confirm-tail` accepts the loss (see docs/operations.md)"
    )]
    LostTail {
        /// The store's directory.
        directory: String,
        /// The id of this broker.
        broker: BrokerId,
        /// `the end` or `a part`.
        part: &'static str,
        /// Which commits are missing, in words.
        detail: String,
    },
    /// Something is damaged that no single partition owns, so it cannot be repaired from the replicas of a partition.
    #[error(
        "the store in {directory} is damaged and cannot be used: {detail}. \
         With a majority of each partition's replicas on other brokers nothing is lost: run `jangada cluster replace-broker \
         {broker} --yes` on another one, empty this broker's data directory and start it again (see docs/operations.md)"
    )]
    StoreDamaged {
        /// The store's directory.
        directory: String,
        /// The id of this broker.
        broker: BrokerId,
        /// What is damaged, in words.
        detail: String,
    },
    /// The replica of a Raft group could not be opened.
    #[error("replication: {0}")]
    Replication(#[from] jangada_replication::OpenError),
    /// A listener stopped accepting connections while the broker ran.
    #[error("serving {listener}: {cause}")]
    Serve {
        /// The listener's name in the settings.
        listener: String,
        /// Why it stopped.
        cause: String,
    },
}

/// Why a running broker ended although no shutdown was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A write or sync failed. The outcome of unacknowledged writes is unknown until the store is opened again.
    #[error("the store has failed and takes no more writes: {0}; check the disk, then start the broker again")]
    Fenced(String),
    /// The broker failed after its listeners were bound.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A broker whose listeners are bound. [`Broker::run_until`] does the rest.
pub struct Broker {
    settings: BrokerSettings,
    env: Env,
    stores: Arc<dyn StoreFactory>,
    bootstrap: Arc<Bootstrap>,
    descriptors: Shares,
    metrics: Arc<Metrics>,
    /// Listeners for clients. They are bound, but accept nothing until this broker is part of a cluster.
    for_clients: Vec<Arc<Listener>>,
    servers: Vec<JoinHandle<()>>,
    /// The stop signal of `servers`, which never comes: they are aborted. Held because a dropped sender means "stop".
    _never_stops: watch::Sender<bool>,
    node: watch::Sender<Option<Arc<Node>>>,
    stop: watch::Sender<bool>,
    addresses: Addresses,
}

/// Serves a listener in a task of its own until the task is aborted. An early end is only logged.
fn spawn(service: &Service, listener: &Arc<Listener>, stop: &watch::Sender<bool>) -> JoinHandle<()> {
    let serving = service.clone().serve(listener.clone(), stop.subscribe());
    let listener = listener.clone();
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(listener = listener.name(), %error, "the listener has ended");
        }
    })
}

impl Broker {
    /// Binds the listeners, opens the data directory, and serves the internal and HTTP listeners from now on, so that the brokers
    /// of a new cluster can find each other. What the broker takes from the world comes from `env` and from the tokio runtime that
    /// this is called on; its store from `stores`.
    ///
    /// # Errors
    /// A listener, the limit of open files or the data directory cannot be used.
    pub async fn start(settings: BrokerSettings, env: Env, stores: Arc<dyn StoreFactory>) -> Result<Self, StartError> {
        let limit = descriptors::raise().map_err(StartError::DescriptorLimit)?;
        let descriptors = descriptors::share_out(limit, &listening::wanted(&settings))?;
        let connections = ConnectionMetrics::default();
        let listeners = listening::bind(&env.network, &settings, &descriptors, &connections).await?;
        let broker = BrokerId(settings.broker_id);
        let directory_id = DirectoryId::new(*env.random.new_id().as_bytes());
        let directory = DataDirectory::open(&env.files, &settings.data_dir, broker, directory_id)?;
        let mut seeds = settings.seeds.clone();
        seeds.sort();
        let local = Local {
            broker,
            address: settings.listeners.public().address().to_owned(),
            internal_address: settings.listeners.internal().address().to_owned(),
            endpoints: listening::endpoints(&settings),
            rack: settings.rack.clone(),
            seeds,
        };
        let bootstrap = Arc::new(Bootstrap::new(
            local,
            directory,
            env.random.clone(),
            Dialer::new(env.network.clone()),
        ));
        let stop = watch::Sender::new(false);
        let (node, node_watch) = watch::channel(None);
        let metrics = Metrics::new(&connections, &settings.metrics);
        let internal = Internal {
            bootstrap: bootstrap.clone(),
            node: node_watch.clone(),
        };
        let for_brokers = Service::for_brokers(internal, &settings, metrics.clone());
        let for_probes = Service::for_probes(node_watch);
        // The internal and HTTP listeners serve until the end, when they are aborted: while this broker hands over its leaderships
        // and drains, its peers and probes still need answers.
        let never = watch::Sender::new(false);
        let [public, internal, http, ..] = &*listeners else {
            unreachable!("those three are always there")
        };
        let addresses = Addresses {
            public: public.address(),
            internal: internal.address(),
            http: http.address(),
        };
        let mut servers = Vec::new();
        let mut for_clients = Vec::new();
        for listener in &listeners {
            match listener.protocol() {
                Protocol::Grpc => for_clients.push(listener.clone()),
                Protocol::Internal => servers.push(spawn(&for_brokers, listener, &never)),
                Protocol::Http => servers.push(spawn(&for_probes, listener, &never)),
            }
        }
        Ok(Self {
            settings,
            env,
            stores,
            bootstrap,
            descriptors,
            metrics,
            for_clients,
            servers,
            _never_stops: never,
            node,
            stop,
            addresses,
        })
    }

    /// The addresses that the listeners are bound to.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Joins the cluster and serves clients until `shutdown` is ready; then hands over its leaderships, drains and stops.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        tokio::pin!(shutdown);
        let bound = tokio::select! {
            bound = self.bootstrap.find_cluster() => bound.map_err(StartError::from)?,
            () = &mut shutdown => return Ok(()),
        };
        let (fenced, mut fence) = watch::channel(None);
        let (node_store, starts) = self.open_store(fenced).await?;
        let store: Arc<dyn Store> = node_store.clone();
        let identity = Identity {
            cluster_id: bound.cluster_id,
            broker: self.bootstrap.local.broker,
            incarnation: bound.incarnation,
        };
        let raft = &self.settings.raft;
        let timing = Timing {
            heartbeat_ms: raft.heartbeat_ms,
            election_timeout_min_ms: raft.election_timeout_min_ms,
            election_timeout_max_ms: raft.election_timeout_max_ms,
        };
        let registry = Registry::start(
            identity,
            store.clone(),
            timing,
            starts,
            self.bootstrap.dialer(),
            &self.env,
        )
        .map_err(|error| self.metadata_error(&store, error))?;
        self.bootstrap.registry.send_replace(Some(registry.clone()));
        let replicas = Arc::new(Replicas::new(registry.clone(), raft.quorum_timeout()));
        let mut early_fence = fence.clone();
        let result = tokio::select! {
            joined = self.join(&registry, &replicas) => match joined {
                Ok(metadata) => self.serve(metadata, replicas.clone(), node_store.clone(), &mut fence, shutdown).await,
                Err(error) => Err(error.into()),
            },
            () = &mut shutdown => Ok(()),
            failure = self.failed(&mut early_fence, &registry, &node_store) => Err(failure),
        };
        self.stop.send_replace(true);
        registry.shutdown().await;
        for server in &self.servers {
            server.abort();
        }
        self.bootstrap.registry.send_replace(None);
        self.bootstrap.metadata.send_replace(None);
        self.node.send_replace(None);
        drop(replicas);
        // Writes what is queued, syncs, and joins the store's threads. Tasks of connections that are still open may hold the
        // store longer, but it refuses further writes.
        if let Err(error) = self.env.blocking.run(move || node_store.shutdown()).await {
            tracing::error!(%error, "the store did not shut down");
        }
        result
    }

    /// Joins the metadata group and the cluster. First asks the peers which commits of this broker they have seen: a broker
    /// whose data directory was restored from an older copy must not vote.
    async fn join(&self, registry: &Arc<Registry>, replicas: &Replicas) -> Result<Metadata, StartError> {
        self.bootstrap.ask_peers(registry).await;
        let opened = Metadata::open(replicas, registry).await;
        let opened = opened.map_err(|error| self.metadata_error(registry.store(), error))?;
        let metadata = Metadata::clone(&opened);
        registry.set_roster(ImageRoster::new(metadata.watch(), Arc::downgrade(registry)));
        self.bootstrap.metadata.send_replace(Some(metadata.clone()));
        self.bootstrap.complete(&metadata).await?;
        self.bootstrap.register(&metadata).await?;
        Ok(metadata)
    }

    /// Completes when this broker must stop: its store has failed, it was removed from the cluster, or its peers have seen
    /// commits of it that its store does not have.
    async fn failed(
        &self,
        fence: &mut watch::Receiver<Option<String>>,
        registry: &Registry,
        store: &Arc<dyn NodeStore>,
    ) -> RunError {
        let lost = tokio::select! {
            cause = store_failure(fence) => return RunError::Fenced(cause),
            why = registry.removed() => return StartError::from(BootstrapError::Refused(why)).into(),
            lost = registry.put_back() => lost,
        };
        let store = store.clone();
        let keep = move || store.keep_put_back(lost.seen, lost.last);
        let kept = self.env.blocking.run(keep).await;
        let kept = kept.map_err(|error| StoreError::Database(error.to_string()));
        let error = match kept.and_then(|kept| kept) {
            Ok(lost) => self.lost_tail(lost),
            Err(error) => error.into(),
        };
        RunError::Start(error)
    }

    fn lost_tail(&self, lost: LostTail) -> StartError {
        StartError::LostTail {
            directory: self.bootstrap.store_path().display().to_string(),
            broker: self.bootstrap.local.broker,
            part: Missing(lost).part(),
            detail: Missing(lost).to_string(),
        }
    }

    /// Maps an error of opening the store. Damage that prevents opening is never confined to one partition.
    fn store_error(&self, error: StoreError) -> StartError {
        match error {
            StoreError::Corrupt(detail) => self.store_damaged(detail),
            StoreError::Damaged { group, what } => self.store_damaged(format!("group {group}: {what}")),
            error => error.into(),
        }
    }

    fn store_damaged(&self, detail: String) -> StartError {
        StartError::StoreDamaged {
            directory: self.bootstrap.store_path().display().to_string(),
            broker: self.bootstrap.local.broker,
            detail,
        }
    }

    /// Maps an error of opening the metadata replica. Without it the broker cannot run, and cannot report the damage through the
    /// cluster, so the error tells the operator what to do.
    fn metadata_error(&self, store: &Arc<dyn Store>, error: OpenError) -> StartError {
        match (store.damage().of(GroupId::METADATA), error) {
            (Some(what), _) => self.store_damaged(format!("the metadata: {what}")),
            (None, OpenError::Store(error)) => self.store_error(error),
            (None, error) => error.into(),
        }
    }

    async fn open_store(
        &self,
        fenced: watch::Sender<Option<String>>,
    ) -> Result<(Arc<dyn NodeStore>, Starts), StartError> {
        self.bootstrap.expect_store(&*self.stores)?;
        let mut options = self.settings.storage.store_options(self.bootstrap.store_path());
        options.open_files_max = i32::try_from(self.descriptors.store).unwrap_or(i32::MAX);
        let (first, second) = self.env.random.new_id().as_u64_pair();
        let on_fence = Box::new(move |cause: &str| {
            fenced.send_replace(Some(cause.to_owned()));
        });
        let stores = self.stores.clone();
        let opened = self.env.blocking.run(move || {
            let (store, recovery) = stores.open(options, on_fence)?;
            let starts = match recovery.lost_tail {
                Some(lost) => Err(lost),
                None => Ok(store.begin_start(first ^ second)?),
            };
            Ok::<_, StoreError>((store, starts))
        });
        let opened = opened.await.map_err(|error| StoreError::Database(error.to_string()))?;
        let (store, starts) = opened.map_err(|error| self.store_error(error))?;
        let starts = starts.map_err(|lost| self.lost_tail(lost))?;
        self.bootstrap.store_opened()?;
        Ok((store, starts))
    }

    async fn serve(
        &self,
        metadata: Metadata,
        replicas: Arc<Replicas>,
        node_store: Arc<dyn NodeStore>,
        fence: &mut watch::Receiver<Option<String>>,
        mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), RunError> {
        let settings = &self.settings;
        let store: Arc<dyn Store> = node_store.clone();
        let usize_of = |bytes: u64| usize::try_from(bytes).expect("usize has 64 bits");
        let clock = self.guard_clock(&metadata.registry);
        let timers = Arc::new(Timers::new(clock.clone()));
        let read_pool = Pool::new(settings.storage.read_threads as usize, self.env.blocking);
        let driving = DriverShared {
            timers: timers.clone(),
            store: store.clone(),
            read_pool: read_pool.clone(),
            observer: Box::new(LogStarts),
        };
        let shared = Arc::new(Shared {
            store,
            registry: metadata.registry.clone(),
            clock: clock.clone(),
            metrics: self.metrics.clone(),
            inflight_per_partition: usize_of(settings.limits.produce_inflight_bytes_per_partition),
            queue_bytes_max: usize_of(settings.limits.produce_inflight_bytes),
            read_pool,
            compute: Pool::per_cpu(self.env.blocking),
            producer_expiration_ms: i64::try_from(settings.produce.producer_expiration_ms).unwrap_or(i64::MAX),
            retention: RetentionClock {
                check_interval_ms: settings.retention.check_interval_ms,
                steady_clock_ms: settings.retention.steady_clock_ms,
            },
            driving: Arc::new(driving),
            beyond_desks: OnceLock::new(),
            spent: Arc::default(),
            transactions: OnceLock::new(),
        });
        let node = Arc::new(Node::new(
            settings.clone(),
            metadata.clone(),
            replicas.clone(),
            self.env.clone(),
            shared.clone(),
            (timers.clone(), Arc::new(Passing::new(metadata.clone()))),
            self.stop.subscribe(),
        ));
        let beyond_desks = NodeBeyondDesks::new(&node);
        let _ = node.partitions.beyond_desks.set(Arc::new(beyond_desks));
        let _ = node.partitions.transactions.set(Arc::new(NodeTransactions::new(&node)));
        let balancer = self.balance(&node);
        let registered = tokio::spawn({
            let (bootstrap, metadata) = (self.bootstrap.clone(), metadata.clone());
            async move { bootstrap.keep_registered(metadata).await }
        });
        let groups = node.groups.clone();
        let ticker = tokio::spawn(timers.run(replicas.clone()));
        let topics = tokio::spawn(groups.clone().follow(metadata.clone()));
        let repairs = node.repairs.clone();
        let reconciler = Reconciler::new(metadata.clone(), replicas.clone(), shared, groups, repairs);
        let reconciler = tokio::spawn(reconciler.run());
        let repairer = tokio::spawn(Repairer { node: node.clone() }.run());
        let scrubber = Scrubber {
            registry: node.registry().clone(),
            clock: self.env.clock.clone(),
            settings: settings.repair.clone(),
            status: node.scrub.clone(),
        };
        let scrubber = tokio::spawn(scrubber.run());
        let compactor = Compactor {
            metadata: metadata.clone(),
            replicas: replicas.clone(),
            cleaner: Cleaner {
                shared: node.partitions.clone(),
                random: self.env.random.clone(),
                settings: settings.compaction.clone(),
                status: node.compaction.clone(),
            },
        };
        let compactor = tokio::spawn(compactor.run());
        let quorums = tokio::spawn(replicas.clone().check_quorums());
        let refusals = tokio::spawn(self.metrics.clone().report_refusals());
        let started_ms = self.env.clock.now_ms();
        let slowest = tokio::spawn(groups::tell_slowest(metadata.clone(), replicas.clone(), started_ms));
        let sources = LagSources {
            metadata,
            replicas: replicas.clone(),
            metrics: self.metrics.clone(),
        };
        let lag = tokio::spawn(groups::watch_lag(sources, settings.metrics.clone()));
        let transactions = tokio::spawn(watch_transactions(replicas.clone()));
        let ends = tokio::spawn(send_ends(node.clone()));
        let stalled = tokio::spawn(quota::watch_stalled(node.budgets.clone(), stalled_after(settings)));
        let clocks = tokio::spawn(clock.watch());
        self.node.send_replace(Some(node.clone()));
        let mut clients = self.serve_clients(&node).await?;
        tracing::info!(broker = %node.broker(), address = %self.addresses.public, "serving");
        let result = tokio::select! {
            () = &mut shutdown => Ok(()),
            failure = self.failed(fence, node.registry(), &node_store) => Err(failure),
            Some(ended) = clients.join_next() => Err(ended_early(ended)),
        };
        // From now on leaderships go to the followers that are furthest ahead; the balancer would move some of them back.
        balancer.abort();
        repairer.abort();
        scrubber.abort();
        compactor.abort();
        if result.is_ok() {
            let limit = Duration::from_millis(settings.shutdown.transfer_ms);
            node.replicas.about_to_hand_over_all();
            if tokio::time::timeout(limit, hand_over(node.registry())).await.is_err() {
                tracing::warn!(?limit, "not all leaderships could be handed over in time");
            }
            self.stop.send_replace(true);
            let limit = Duration::from_millis(settings.shutdown.drain_ms);
            let all = async { while clients.join_next().await.is_some() {} };
            if tokio::time::timeout(limit, all).await.is_err() {
                tracing::warn!(?limit, "not all requests could be answered in time");
            }
        }
        registered.abort();
        reconciler.abort();
        ticker.abort();
        topics.abort();
        quorums.abort();
        refusals.abort();
        lag.abort();
        slowest.abort();
        transactions.abort();
        ends.abort();
        stalled.abort();
        clocks.abort();
        clients.abort_all();
        result
    }

    /// Compares this broker's wall clock with its peers', and sends them this one's.
    fn guard_clock(&self, registry: &Arc<Registry>) -> Arc<ClockGuard> {
        let own = self.env.clock.clone();
        registry.clocks().tell(move || own.now_ms());
        let registry = registry.clone();
        let others = Box::new(move |now_ms| registry.clocks().ahead_of(now_ms));
        let steady = Duration::from_millis(self.settings.retention.steady_clock_ms);
        Arc::new(ClockGuard::new(self.env.clock.clone(), steady, others))
    }

    /// Moves leaderships back to the preferred leaders, unless `cluster.preferred_leader_after_ms` is 0.
    fn balance(&self, node: &Node) -> JoinHandle<()> {
        let after = Duration::from_millis(self.settings.cluster.preferred_leader_after_ms);
        let balancer = Balancer {
            metadata: node.metadata.clone(),
            replicas: node.replicas.clone(),
            after,
            fit_since: BTreeMap::new(),
        };
        tokio::spawn(async move {
            if !after.is_zero() {
                balancer.run().await;
            }
        })
    }

    /// Serves clients on all of their listeners until the broker stops. Each task yields the listener's name with how it ended.
    async fn serve_clients(&self, node: &Arc<Node>) -> Result<JoinSet<(String, Result<(), String>)>, StartError> {
        let service = Service::for_clients(node).await.map_err(|cause| StartError::Serve {
            listener: Protocol::Grpc.name().to_owned(),
            cause,
        })?;
        let mut serving = JoinSet::new();
        for listener in &self.for_clients {
            let served = service.clone().serve(listener.clone(), self.stop.subscribe());
            let name = listener.name().to_owned();
            serving.spawn(async move { (name, served.await) });
        }
        Ok(serving)
    }
}

/// The error for a client listener that ended before the broker was stopped.
fn ended_early(ended: Result<(String, Result<(), String>), JoinError>) -> RunError {
    let (listener, cause) = match ended {
        Ok((listener, Ok(()))) => (listener, "it ended".to_owned()),
        Ok((listener, Err(cause))) => (listener, cause),
        Err(error) => (Protocol::Grpc.name().to_owned(), error.to_string()),
    };
    RunError::Start(StartError::Serve { listener, cause })
}

/// Waits until the store has failed, and returns why.
async fn store_failure(fence: &mut watch::Receiver<Option<String>>) -> String {
    let cause = fence
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|cause| cause.clone());
    match cause {
        Some(cause) => cause,
        // The sender was dropped, so the store was closed without a failure.
        None => std::future::pending().await,
    }
}
