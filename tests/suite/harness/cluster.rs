//! A cluster of real processes on loopback.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Instant;

use jangada_client::{Admin, BrokerId, Client, ClientConfig, NewTopic, PartitionState};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cli::{self, Run};
use super::node::{self, Addresses, Node};
use super::wait::POLL_INTERVAL;
use super::{Disk, Network, Proxy, WAIT, eventually};

/// So many clusters live at a time: most of them wait for most of their time.
const AT_ONCE: u32 = 2;

/// The places of clusters, given in the order in which they were asked for.
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// The place of a cluster; dropping it makes way for the next one.
pub type Turn = SemaphorePermit<'static>;

/// Waits for the turn to start a cluster: beside another one, or `alone`, as what is measured has to be.
pub async fn turn(alone: bool) -> Turn {
    let places = if alone { AT_ONCE } else { 1 };
    PLACES.acquire_many(places).await.expect("it is never closed")
}

/// Most attempts of a start, each with other ports, when another process took one in the meantime.
const START_ATTEMPTS: usize = 3;

/// Little memory: several nodes share the machine.
const SMALL_STORAGE: &str = "[storage]
memtable_bytes = 8388608
memtables_bytes = 33554432
wal_bytes = 67108864
tail_bytes = 16777216
block_cache_bytes = 8388608
blob_file_bytes = 4194304
reclaim_interval_ms = 500
disk_reserve_bytes = 0
";

/// The options of a cluster that differ from its defaults.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further sections for each node's settings, TOML.
    pub sections: String,
    /// Whether `sections` has a `[storage]` of its own, in place of the one with little memory.
    pub plain_storage: bool,
    /// Whether the nodes are left down.
    pub stopped: bool,
    /// Number of nodes that are seeds, from id 1 on; 0: all are.
    pub seeds: usize,
    /// Whether clients are sent to a proxy before each node.
    pub proxied: bool,
    /// Size of a file system for each data directory, which can lose power; see [`Disk`].
    pub disk_bytes: Option<u64>,
    /// Whether there is a network that nodes can be cut off from; see [`Network`].
    pub network: bool,
    /// The limit of open files of each node, soft and hard.
    pub open_files: Option<u32>,
    /// Nodes up to this id have a listener `inside` for clients; 0: none has.
    pub inside: u32,
    /// Whether no other cluster lives beside it: its test measures time, load or memory.
    pub alone: bool,
}

/// Nodes with ids from 1 on. Dropping it kills them; after a panic it shows their logs first.
pub struct Cluster {
    nodes: Vec<Node>,
    /// The proxies by node, if they were asked for.
    proxies: Vec<Proxy>,
    network: Option<Network>,
    /// Dropped before the folder that has their files and mount points.
    disks: BTreeMap<u32, Disk>,
    folder: TempDir,
    _turn: Turn,
}

impl Cluster {
    /// A cluster whose nodes are all ready.
    pub async fn start(nodes: u32) -> Cluster {
        Cluster::start_with(nodes, Options::default()).await
    }

    /// Like [`Self::start`], with no other cluster beside it.
    pub async fn start_alone(nodes: u32) -> Cluster {
        let options = Options {
            alone: true,
            ..Options::default()
        };
        Cluster::start_with(nodes, options).await
    }

    /// Like [`Self::start`], with other options.
    pub async fn start_with(nodes: u32, options: Options) -> Cluster {
        let mut turn = turn(options.alone).await;
        for _ in 0..START_ATTEMPTS {
            let mut cluster = Cluster::written(nodes, &options, turn).await;
            if options.stopped {
                return cluster;
            }
            cluster.start_all();
            if cluster.formed().await {
                cluster.healthy().await;
                return cluster;
            }
            turn = cluster.give_up(options.alone).await;
        }
        panic!("a port was taken each of {START_ATTEMPTS} times");
    }

    async fn written(nodes: u32, options: &Options, turn: Turn) -> Cluster {
        let folder = tempfile::Builder::new()
            .prefix("jangada-test-")
            .tempdir()
            .expect("a temporary folder");
        let mut network = options.network.then(Network::new);
        let mut addresses = Vec::new();
        for id in 1..=nodes {
            let of_node = match &mut network {
                Some(network) => Addresses::behind(network, id).await,
                None => Addresses::free(),
            };
            addresses.push(match id <= options.inside {
                true => of_node.with_inside(),
                false => of_node,
            });
        }
        let sections = match options.plain_storage {
            true => options.sections.clone(),
            false => format!("{SMALL_STORAGE}\n{}", options.sections),
        };
        let mut seeds: Vec<String> = addresses.iter().map(|a| a.internal.clone()).collect();
        if options.seeds > 0 {
            seeds.truncate(options.seeds);
        }
        let mut proxies = Vec::new();
        for addresses in addresses.iter_mut().filter(|_| options.proxied) {
            let proxy = Proxy::before(addresses.public.clone());
            addresses.advertised = proxy.address();
            proxies.push(proxy);
        }
        let nodes: Vec<Node> = (1..)
            .zip(addresses)
            .map(|(id, addresses)| {
                let node = Node::new(id, folder.path(), addresses, &seeds, &sections);
                node.with_open_files(options.open_files)
            })
            .collect();
        let disk = |node: &Node, bytes| {
            let image = folder.path().join(format!("disk-{}", node.id));
            (node.id, Disk::new(image, node.data(), bytes))
        };
        let disks = options.disk_bytes.into_iter();
        let disks = disks.flat_map(|bytes| nodes.iter().map(move |node| disk(node, bytes)));
        Cluster {
            disks: disks.collect(),
            nodes,
            proxies,
            network,
            folder,
            _turn: turn,
        }
    }

    /// Waits until all nodes are ready. False: one found its port taken.
    async fn formed(&mut self) -> bool {
        for index in 0..self.nodes.len() {
            let ready = eventually("all nodes are ready", WAIT, || {
                let crashed = self
                    .nodes
                    .iter_mut()
                    .find_map(|node| Some((node.crashed()?, node.log_tail())));
                let http = self.nodes[index].addresses.http.clone();
                async move {
                    match crashed {
                        Some((_, log)) if log.contains("in use") => Some(false),
                        Some((status, log)) => panic!("a node ended with {status}:\n{log}"),
                        None => node::ready(&http).await.ok().map(|()| true),
                    }
                }
            })
            .await;
            if !ready {
                return false;
            }
        }
        true
    }

    /// Ends the running nodes, and frees the turn for another attempt.
    async fn give_up(self, alone: bool) -> Turn {
        drop(self);
        turn(alone).await
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The node of this id.
    pub fn node(&self, id: u32) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.id == id)
            .expect("a node of this cluster")
    }

    fn node_mut(&mut self, id: u32) -> &mut Node {
        self.nodes
            .iter_mut()
            .find(|node| node.id == id)
            .expect("a node of this cluster")
    }

    /// The proxy before a node.
    pub fn proxy(&self, id: u32) -> &Proxy {
        let index = self.nodes.iter().position(|node| node.id == id);
        &self.proxies[index.expect("a node of this cluster")]
    }

    /// The proxies before all nodes, if they were asked for.
    pub fn proxies(&self) -> Vec<Proxy> {
        self.proxies.clone()
    }

    /// A folder that is removed with the cluster.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The public addresses of all nodes.
    pub fn brokers(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addresses.public.clone()).collect()
    }

    /// Starts every node that is down.
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.start();
        }
    }

    /// Starts a node that is down; does not wait.
    pub fn restart(&mut self, id: u32) {
        self.node_mut(id).start();
    }

    /// Like [`Self::restart`], with these variables in its environment.
    pub fn restart_with(&mut self, id: u32, environment: &[(&str, &str)]) {
        self.node_mut(id).start_with(environment);
    }

    /// Sends SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, id: u32) {
        self.node_mut(id).kill();
    }

    /// Sends SIGKILL to all that run.
    pub fn kill_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.kill();
        }
    }

    /// The disk of a node, in a cluster that was started with some.
    pub fn disk(&mut self, id: u32) -> &mut Disk {
        self.disks.get_mut(&id).expect("it was started with disks")
    }

    /// Cuts the power of these nodes at once, and leaves them down.
    pub fn lose_power(&mut self, ids: &[u32]) {
        for &id in ids {
            self.kill(id);
        }
        // The disks fail only after all nodes are killed: no node may sync while a disk fails.
        for &id in ids {
            self.disk(id).lose_power();
        }
    }

    /// Cuts a running node off from all others and from all clients, without a reset. In a cluster that was started
    /// with a network.
    pub fn cut_off(&self, id: u32) {
        let network = self.network.as_ref().expect("it was started with a network");
        network.cut(id, self.node(id).pid());
    }

    /// Cuts a running node off from all others, but not from clients, without a reset.
    pub fn cut_from_nodes(&self, id: u32) {
        let network = self.network.as_ref().expect("it was started with a network");
        network.cut_from_nodes(id, self.node(id).pid());
    }

    /// Connects all nodes that were cut off again.
    pub fn heal(&self) {
        self.network.as_ref().expect("it was started with a network").heal();
    }

    /// Whether a node's process is there.
    pub fn is_running(&mut self, id: u32) -> bool {
        let node = self.node_mut(id);
        node.is_running() && node.crashed().is_none()
    }

    /// Sends SIGTERM; returns when the process has ended.
    pub async fn stop(&mut self, id: u32) -> ExitStatus {
        let node = self.node_mut(id);
        node.signal(Signal::TERM);
        node.ended(WAIT).await
    }

    /// Waits for a node to end by itself.
    pub async fn ended(&mut self, id: u32) -> ExitStatus {
        self.node_mut(id).ended(WAIT).await
    }

    /// Sends SIGSTOP: the node is silent, and its connections stay open.
    pub fn pause(&self, id: u32) {
        self.node(id).pause();
    }

    /// Sends SIGCONT, which ends a pause.
    pub fn resume(&self, id: u32) {
        self.node(id).signal(Signal::CONT);
    }

    /// Waits until a node is ready.
    pub async fn ready(&self, id: u32) {
        let node = self.node(id);
        eventually(&format!("node {id} is ready"), WAIT, || async {
            node::ready(&node.addresses.http).await.ok()
        })
        .await;
    }

    /// Waits until every node is alive, every partition has a leader, and every replica is in sync.
    pub async fn healthy(&self) {
        for id in self.ids() {
            self.ready(id).await;
        }
        self.in_sync().await;
    }

    /// Like [`Self::healthy`], also if a node refuses records and so is not ready.
    pub async fn in_sync(&self) {
        let client = self.client().await;
        let count = self.nodes.len();
        let mut last = None;
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline {
            if let Ok(cluster) = client.admin().describe_cluster().await {
                let all = cluster.brokers.len() == count && cluster.brokers.iter().all(|broker| broker.alive);
                if all && cluster.leaderless_partitions == 0 && cluster.under_replicated_partitions == 0 {
                    return;
                }
                last = Some(cluster);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let partitions = client.admin().describe_partitions(None).await;
        panic!("not healthy after {WAIT:?}: {last:#?}\n{partitions:#?}");
    }

    /// A client that knows all nodes.
    pub async fn client(&self) -> Client {
        Client::connect(self.client_config()).await.expect("a broker answers")
    }

    /// The settings of such a client.
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig::new(self.brokers())
    }

    /// The settings of a client that knows all nodes by the addresses that they advertise: everything that it does goes through the
    /// proxies, if there are some.
    pub fn proxied_config(&self) -> ClientConfig {
        ClientConfig::new(self.nodes.iter().map(|node| node.addresses.advertised.clone()))
    }

    /// The admin of a new client.
    pub async fn admin(&self) -> Admin {
        self.client().await.admin()
    }

    /// Creates a topic with default settings.
    pub async fn create_topic(&self, name: &str, partitions: u32, replicas: u32) {
        self.create(NewTopic::new(name, partitions, replicas)).await;
    }

    /// Creates a topic.
    pub async fn create(&self, topic: NewTopic) {
        let name = topic.name.clone();
        let created = self.admin().await.create_topic(topic).await;
        created.unwrap_or_else(|error| panic!("create {name}: {error}"));
    }

    /// One partition, as its leader sees it. Waits for a leader that answers.
    pub async fn partition(&self, topic: &str, partition: u32) -> PartitionState {
        let admin = self.admin().await;
        eventually(&format!("{topic}[{partition}] has a leader"), WAIT, || async {
            let states = admin.describe_partitions(Some(topic)).await.ok()?;
            let state = states.into_iter().find(|state| state.partition == partition)?;
            (state.leader_id.is_some() && state.high_watermark.is_some()).then_some(state)
        })
        .await
    }

    /// The offset after a partition's last committed record. Waits for a leader that answers.
    pub async fn high_watermark(&self, topic: &str, partition: u32) -> i64 {
        let state = self.partition(topic, partition).await;
        state.high_watermark.expect("its leader answers")
    }

    /// The offset of a partition's first record. Waits for a leader that answers.
    pub async fn log_start(&self, topic: &str, partition: u32) -> i64 {
        let state = self.partition(topic, partition).await;
        state.log_start_offset.expect("its leader answers")
    }

    /// The node that leads a partition. Waits for one that answers.
    pub async fn leader(&self, topic: &str, partition: u32) -> u32 {
        let state = self.partition(topic, partition).await;
        state.leader_id.map(BrokerId::get).expect("it has a leader")
    }

    /// Waits until a partition has this many offsets.
    pub async fn grown(&self, topic: &str, partition: u32, high_watermark: i64) {
        let admin = self.admin().await;
        let what = format!("{topic}[{partition}] has {high_watermark} records");
        eventually(&what, WAIT, || async {
            let states = admin.describe_partitions(Some(topic)).await.ok()?;
            let state = states.into_iter().find(|state| state.partition == partition)?;
            (state.high_watermark? >= high_watermark).then_some(())
        })
        .await;
    }

    /// One run of the command line against this cluster.
    pub async fn cli(&self, args: &[&str]) -> Run {
        self.cli_with(args, Vec::new()).await
    }

    /// Like [`Self::cli`], with an input.
    pub async fn cli_with(&self, args: &[&str], input: Vec<u8>) -> Run {
        cli::run(&self.brokers(), args, input).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- the end of node {}'s log:\n{}", node.id, node.log_tail());
            }
        }
        self.kill_all();
    }
}
