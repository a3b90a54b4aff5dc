//! A cluster without replication: brokers that share one state in memory and do what a test's script says.
//!
//! Each broker has a runtime of its own, so that killing it cuts its connections as the death of a process does.

mod admin;
mod exchange;
mod group;
mod log;
mod partition;
mod queue;
mod transaction;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jangada_client::{Client, ClientConfig};
use jangada_proto::v1;
use jangada_types::{Reason, TopicId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use exchange::{Exchanges, PublishFault};
pub use group::{Event, GroupFault, Groups};
pub use partition::Partition;
pub use queue::{Opened, Queue, QueueFault};
pub use transaction::{EndFault, Transactions};

/// The fault of the next batch that a partition is sent.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The batch gets an error without effect.
    Refuse(Error),
    /// The batch is appended, and then gets an error that leaves the outcome open.
    AppendThen(Error),
    /// The stream breaks before the append.
    Cut,
    /// The stream breaks after the append.
    AppendThenCut,
    /// The batch is appended, but no answer comes.
    AppendThenSilence,
}

#[derive(Clone, Debug)]
pub struct Error {
    pub reason: Reason,
    pub definite: bool,
    pub retry_delay: Option<Duration>,
    pub metadata: Vec<(&'static str, String)>,
}

impl Error {
    pub fn definite(reason: Reason) -> Self {
        Self {
            reason,
            definite: true,
            retry_delay: None,
            metadata: Vec::new(),
        }
    }

    pub fn unknown(reason: Reason) -> Self {
        Self {
            definite: false,
            ..Self::definite(reason)
        }
    }

    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    fn code(&self) -> Code {
        match self.reason {
            Reason::InvalidBatch | Reason::InvalidRequest => Code::InvalidArgument,
            Reason::UnknownTopic | Reason::UnknownPartition => Code::NotFound,
            Reason::TopicExists => Code::AlreadyExists,
            Reason::OffsetOutOfRange => Code::OutOfRange,
            Reason::PartitionBusy => Code::ResourceExhausted,
            Reason::NotReady
            | Reason::LeaderNotAvailable
            | Reason::ConcurrentTransactions
            | Reason::UnstableOffsets => Code::Unavailable,
            Reason::QuorumTimeout => Code::DeadlineExceeded,
            _ => Code::FailedPrecondition,
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata: HashMap<String, String> =
            self.metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        metadata.insert("definite".to_owned(), self.definite.to_string());
        metadata
    }

    pub fn status(&self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason.as_str(), "jangada", self.metadata());
        if let Some(delay) = self.retry_delay {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(self.code(), "as scripted", details)
    }

    pub fn wire(&self) -> v1::Error {
        v1::Error {
            code: self.code() as i32,
            message: "as scripted".to_owned(),
            reason: self.reason.as_str().to_owned(),
            metadata: self.metadata(),
            retry_delay_ms: self.retry_delay.map(|delay| delay.as_millis() as u32),
        }
    }
}

pub struct Topic {
    pub id: TopicId,
    pub partitions: Vec<Partition>,
    pub replicas: u32,
    pub config: BTreeMap<String, String>,
}

#[derive(Default)]
pub struct State {
    /// The number in the cluster's id: another number is another cluster.
    pub cluster: u32,
    pub version: u64,
    pub topics: BTreeMap<String, Topic>,
    pub addresses: BTreeMap<u32, SocketAddr>,
    pub dead: Vec<u32>,
    next_topic: u8,
    pub next_producer: i64,
    /// The epochs that were given, by producer id.
    pub epochs: HashMap<i64, i32>,
    /// Scripted answers of admin calls, each with whether the work is done before.
    pub admin_faults: VecDeque<(bool, Status)>,
    pub admin_calls: u32,
    /// Whether another topic of its name is created as soon as a topic is deleted, once.
    pub recreates: bool,
    /// Whether new topics get no leaders, so that creating one waits.
    pub leaderless: bool,
    /// Number of calls that wait for leaders.
    pub awaiting_leaders: u32,
    /// Number of requests for metadata.
    pub metadata_calls: u32,
    /// Scripted answers to requests for offsets.
    pub list_faults: VecDeque<Error>,
    /// Applied to a partition as soon as one of its offsets was listed.
    pub after_list: Option<fn(&mut Partition)>,
    /// Brokers that no longer answer.
    pub frozen: Vec<u32>,
    /// Bytes of batches that fetch streams have sent.
    pub fetched_bytes: usize,
    groups: Groups,
    pub queue: Queue,
    pub exchanges: Exchanges,
    pub transactions: Transactions,
}

impl State {
    pub fn partition(&mut self, topic: &str, partition: u32) -> &mut Partition {
        &mut self.topics.get_mut(topic).expect("created").partitions[partition as usize]
    }

    /// The name of the topic that a request names, by its id if it has one.
    fn named(&self, topic_id: &[u8], name: String) -> Result<String, Error> {
        let has_id = |(_, topic): &(&String, &Topic)| topic_id == topic.id.as_bytes();
        let found = match topic_id.is_empty() {
            true => Some(name).filter(|name| self.topics.contains_key(name)),
            false => self.topics.iter().find(has_id).map(|(name, _)| name.clone()),
        };
        found.ok_or(Error::definite(Reason::UnknownTopic))
    }

    /// By id, for a request that came to a broker.
    fn led_by(&mut self, broker: u32, target: &v1::TopicPartition) -> Result<&mut Partition, Error> {
        let topic = self
            .topics
            .values_mut()
            .find(|topic| target.topic_id == topic.id.as_bytes()[..]);
        let topic = topic.ok_or(Error::definite(Reason::UnknownTopic))?;
        let partition = topic.partitions.get_mut(target.partition as usize);
        let partition = partition.ok_or(Error::definite(Reason::UnknownPartition))?;
        if partition.leader != broker {
            let mut error = Error::definite(Reason::NotLeader);
            if partition.hints {
                let address = self.addresses[&partition.leader].to_string();
                error = error
                    .with("leader_id", partition.leader)
                    .with("leader_epoch", partition.epoch);
                error = error.with("leader_address", address);
            }
            return Err(error);
        }
        Ok(partition)
    }
}

pub struct Cluster {
    state: Arc<Shared>,
    runtimes: BTreeMap<u32, Runtime>,
    calls_per_connection_max: Option<u32>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts changes: a task that waits for one checks again.
    changes: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// One broker's services.
#[derive(Clone)]
struct Broker {
    id: u32,
    shared: Arc<Shared>,
}

impl Broker {
    /// Never returns while the broker is frozen.
    async fn thaw(&self) {
        let mut changes = self.shared.changes.subscribe();
        while self.shared.lock().frozen.contains(&self.id) {
            changes.changed().await.expect("the cluster lives");
        }
    }
}

impl Cluster {
    pub fn start(brokers: u32) -> Self {
        Self::start_with(brokers, None)
    }

    /// Starts a cluster in which each connection may have this many calls open at once, streams included.
    pub fn start_with(brokers: u32, calls_per_connection_max: Option<u32>) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        let mut cluster = Self {
            state: Arc::new(shared),
            runtimes: BTreeMap::new(),
            calls_per_connection_max,
        };
        for id in 1..=brokers {
            cluster.start_broker(id);
        }
        cluster
    }

    fn start_broker(&mut self, id: u32) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("nonblocking");
        self.state()
            .addresses
            .insert(id, listener.local_addr().expect("its address"));
        let broker = Broker {
            id,
            shared: self.state.clone(),
        };
        let calls_max = self.calls_per_connection_max;
        runtime.spawn(async move {
            let listener = TcpListenerStream::new(TcpListener::from_std(listener).expect("a listener"));
            tonic::transport::Server::builder()
                .max_concurrent_streams(calls_max)
                .add_service(v1::metadata_service_server::MetadataServiceServer::new(broker.clone()))
                .add_service(v1::log_service_server::LogServiceServer::new(broker.clone()))
                .add_service(v1::queue_service_server::QueueServiceServer::new(broker.clone()))
                .add_service(v1::exchange_service_server::ExchangeServiceServer::new(broker.clone()))
                .add_service(v1::group_service_server::GroupServiceServer::new(broker.clone()))
                .add_service(v1::transaction_service_server::TransactionServiceServer::new(
                    broker.clone(),
                ))
                .add_service(v1::admin_service_server::AdminServiceServer::new(broker))
                .serve_with_incoming(listener)
                .await
                .expect("serves until it is killed");
        });
        self.runtimes.insert(id, runtime);
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn address(&self, broker: u32) -> String {
        self.state().addresses[&broker].to_string()
    }

    pub fn config(&self) -> ClientConfig {
        let addresses: Vec<String> = self.state().addresses.values().map(SocketAddr::to_string).collect();
        ClientConfig::new(addresses)
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.config()).await.expect("the brokers answer")
    }

    /// Creates a topic whose partitions are led by the brokers in turn, from 1 on.
    pub fn create_topic(&self, name: &str, partitions: u32) {
        let mut state = self.state();
        let brokers = state.addresses.len() as u32;
        let partitions = (0..partitions).map(|p| Partition::new(1 + p % brokers)).collect();
        state.create(name, partitions, brokers, BTreeMap::new());
    }

    pub fn delete_topic(&self, name: &str) {
        let mut state = self.state();
        state.version += 1;
        state.topics.remove(name).expect("created");
        drop(state);
        self.state.changed();
    }

    /// Alters the topic's `max.message.bytes`.
    pub fn limit_batches(&self, topic: &str, bytes: usize) {
        let mut state = self.state();
        state.version += 1;
        let topic = state.topics.get_mut(topic).expect("created");
        topic.config.insert("max.message.bytes".to_owned(), bytes.to_string());
        for partition in &mut topic.partitions {
            partition.batch_bytes_max = bytes;
        }
    }

    /// Sets whether new topics get leaders.
    pub fn elect_leaders(&self, elect: bool) {
        self.state().leaderless = !elect;
        self.state.changed();
    }

    pub fn script(&self, topic: &str, partition: u32, faults: impl IntoIterator<Item = Fault>) {
        self.state().partition(topic, partition).faults.extend(faults);
    }

    pub fn move_leader(&self, topic: &str, partition: u32, to: u32) {
        let mut state = self.state();
        let partition = state.partition(topic, partition);
        partition.leader = to;
        partition.epoch += 1;
        drop(state);
        self.state.changed();
    }

    /// Makes the broker take requests and do nothing with them.
    pub fn freeze(&self, broker: u32) {
        self.state().frozen.push(broker);
        self.state.changed();
    }

    pub fn thaw(&self) {
        self.state().frozen.clear();
        self.state.changed();
    }

    /// Ends a broker at once. The next one leads its partitions from now on.
    pub fn kill(&mut self, broker: u32) {
        self.runtimes.remove(&broker).expect("alive").shutdown_background();
        let mut state = self.state();
        state.dead.push(broker);
        let heir = *state
            .addresses
            .keys()
            .find(|id| !state.dead.contains(id))
            .expect("someone lives");
        if state.groups().broker == broker {
            state.groups().move_to(heir);
        }
        for partition in state.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            if partition.leader == broker {
                partition.leader = heir;
                partition.epoch += 1;
            }
        }
        drop(state);
        self.state.changed();
    }

    /// Ends the open transaction of an id, as its coordinator does by itself when the time is over.
    pub fn time_out(&self, id: &str) {
        self.state().end(id, false);
        self.state.changed();
    }

    /// The values in a partition, in order.
    pub fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        self.state().partition(topic, partition).values()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for runtime in std::mem::take(&mut self.runtimes).into_values() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    fn create(&mut self, name: &str, partitions: Vec<Partition>, replicas: u32, config: BTreeMap<String, String>) {
        self.next_topic += 1;
        self.version += 1;
        let id = TopicId([self.next_topic; 16]);
        let before = self.topics.insert(
            name.to_owned(),
            Topic {
                id,
                partitions,
                replicas,
                config,
            },
        );
        assert!(before.is_none(), "created once");
    }
}

#[tonic::async_trait]
impl v1::metadata_service_server::MetadataService for Broker {
    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        self.shared.lock().metadata_calls += 1;
        self.thaw().await;
        let request = request.into_inner();
        let state = self.shared.lock();
        if state.version < request.min_version {
            return Err(Error::definite(Reason::NotReady).status());
        }
        let brokers = state.addresses.iter().map(|(id, address)| v1::Broker {
            broker_id: *id,
            address: address.to_string(),
            rack: String::new(),
            alive: !state.dead.contains(id),
        });
        let all = request.topics.is_empty() && request.topic_ids.is_empty();
        let topics = state
            .topics
            .iter()
            .filter(|(name, _)| all || request.topics.contains(name));
        let topics = topics.map(|(name, topic)| v1::Topic {
            name: name.clone(),
            topic_id: topic.id.as_bytes().to_vec().into(),
            partitions: (0..)
                .zip(&topic.partitions)
                .map(|(index, partition)| partition.wire(index))
                .collect(),
            config: topic.config.clone().into_iter().collect(),
        });
        Ok(Response::new(v1::GetMetadataResponse {
            cluster_id: format!("11111111-2222-3333-4444-{:012}", state.cluster),
            version: state.version,
            brokers: brokers.collect(),
            topics: topics.collect(),
            controller_id: 1,
        }))
    }
}
