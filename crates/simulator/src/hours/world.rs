//! The cluster of a play, and what plays do with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jangada_client::{
    BrokerId, Client, ClientConfig, ClientError, ConsumerConfig, Isolation, NewTopic, OffsetAt, Producer,
    ProducerConfig, ProducerRecord, StartAt,
};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::host::Host;
use crate::invariants::Invariants;
use crate::play::cluster::Cluster;
use crate::roles::team::Finding;
use crate::simulation::Simulation;
use crate::trace::Trace;

/// What is waited for has happened by then, of simulated time.
pub(super) const WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at the invariants.
const LOOK: Duration = Duration::from_millis(100);

/// Records as they are read: offset and value.
pub(super) type Read = Vec<(i64, String)>;

/// A cluster that has formed, and a client that is never cut off.
pub(super) struct World {
    pub sim: Arc<Simulation>,
    pub cluster: Cluster,
    pub admin: Client,
    invariants: Rc<RefCell<Invariants>>,
    broken: Rc<RefCell<Option<Finding>>>,
}

/// Plays an hour on a seed with so many brokers. Panics when it does not come out as it must.
pub(super) fn play<F: Future<Output = ()>>(seed: u64, brokers: u32, hour: impl FnOnce(Rc<World>) -> F) -> Trace {
    let ((), trace) = Simulation::run(seed, |sim| async move {
        let world = Rc::new(World::start(sim, brokers).await);
        hour(world.clone()).await;
        world.end();
    });
    trace
}

async fn connect(sim: &Simulation, cluster: &Cluster, name: &str, set: impl Fn(&mut ClientConfig)) -> Client {
    let host = cluster.client_host(name);
    let connected = timeout(WITHIN, async {
        loop {
            let mut config = ClientConfig::new(cluster.addresses());
            config.client_id = name.to_owned();
            config.request_timeout = Duration::from_secs(3);
            config.retry_timeout = Duration::from_secs(20);
            set(&mut config);
            match host.connect(config).await {
                Ok(client) => return client,
                Err(error) => sim.note(format_args!("{name} is not connected: {error}")),
            }
            sleep(PAUSE).await;
        }
    });
    connected.await.unwrap_or_else(|_| panic!("{name} is not connected"))
}

impl World {
    async fn start(sim: Arc<Simulation>, brokers: u32) -> Self {
        let cluster = Cluster::new(&sim, brokers, &[], None);
        let booted = join_all(cluster.ids().map(|broker| cluster.start(broker))).await;
        for started in booted {
            started.expect("a new broker starts");
        }
        let invariants = Rc::new(RefCell::new(Invariants::new(cluster.hosts())));
        let broken = Rc::new(RefCell::new(None));
        spawn_local(look(invariants.clone(), broken.clone()));
        let admin = connect(&sim, &cluster, "admin", |_| ()).await;
        let world = Self {
            sim,
            cluster,
            admin,
            invariants,
            broken,
        };
        world.healthy().await;
        world
    }

    /// A client at a host of its own.
    pub async fn client(&self, name: &str) -> Client {
        connect(&self.sim, &self.cluster, name, |_| ()).await
    }

    /// Waits until `check` gives something.
    pub async fn eventually<T>(&self, what: &str, check: impl AsyncFn() -> Option<T>) -> T {
        let waited = timeout(WITHIN, async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                sleep(PAUSE).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("not within {WITHIN:?}: {what}"))
    }

    /// Makes a topic, with settings.
    pub async fn topic_with(&self, name: &str, partitions: u32, config: &[(&str, &str)]) {
        let replicas = self.cluster.brokers().min(3);
        let config = config
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let topic = NewTopic {
            config: config.collect(),
            if_not_exists: true,
            ..NewTopic::new(name, partitions, replicas)
        };
        self.eventually("the topic is made", async || {
            self.admin.admin().create_topic(topic.clone()).await.ok()
        })
        .await;
    }

    /// Makes a topic with one partition.
    pub async fn topic(&self, name: &str) {
        self.topic_with(name, 1, &[]).await;
    }

    /// The broker that leads the first partition of a topic.
    pub async fn leader(&self, topic: &str) -> u32 {
        self.eventually("the partition has a leader", async || {
            let described = self.admin.admin().describe_topic(topic).await.ok()?;
            let leader = described.partitions.first()?.leader_id?.get();
            self.cluster.is_running(leader).then_some(leader)
        })
        .await
    }

    /// Those that do not lead it.
    pub async fn followers(&self, topic: &str) -> Vec<u32> {
        let leader = self.leader(topic).await;
        self.cluster.ids().filter(|broker| *broker != leader).collect()
    }

    /// Moves the leadership of the first partition to a broker.
    pub async fn lead(&self, topic: &str, broker: u32) {
        self.eventually("the leadership moves", async || {
            let moved = self.admin.admin().transfer_leader(topic, 0, BrokerId(broker)).await;
            if let Err(error) = moved {
                self.sim
                    .note(format_args!("broker {broker} does not lead {topic} yet: {error}"));
            }
            (self.leader(topic).await == broker).then_some(())
        })
        .await;
    }

    /// Starts brokers, all at once.
    pub async fn restart(&self, brokers: &[u32]) {
        let started = join_all(brokers.iter().map(|broker| self.cluster.start(*broker))).await;
        for started in started {
            started.expect("nothing is in its way");
        }
    }

    /// Waits until all brokers are alive and nothing lacks a leader or a replica.
    pub async fn healthy(&self) {
        let brokers = self.cluster.brokers() as usize;
        self.eventually("the cluster is healthy", async || {
            let cluster = self.admin.admin().describe_cluster().await.ok()?;
            let is_healthy = cluster.brokers.len() == brokers
                && cluster.brokers.iter().all(|broker| broker.alive)
                && cluster.leaderless_partitions == 0
                && cluster.under_replicated_partitions == 0
                && cluster.damaged_replicas.is_empty();
            is_healthy.then_some(())
        })
        .await;
    }

    /// A broker gets another machine, which has nothing. It is dead, or is killed.
    pub async fn replace(&self, broker: u32) {
        self.cluster.kill(broker);
        self.cluster.wipe(broker).expect("it is dead");
        self.invariants.borrow_mut().replaced(broker, self.cluster.host(broker));
        self.eventually("the broker is replaced", async || {
            self.admin.admin().replace_broker(BrokerId(broker)).await.ok()
        })
        .await;
        self.restart(&[broker]).await;
    }

    /// What lies on a broker's disk is damaged in so many places. Says where.
    pub fn rot(&self, broker: u32, places: usize) -> Vec<String> {
        self.invariants.borrow_mut().rotten(broker);
        let random = self.sim.random();
        let disk = self.cluster.host(broker).disk();
        (0..places).filter_map(|_| disk.rot(&random)).collect()
    }

    /// Nothing goes between two hosts.
    pub fn cut(&self, one: &Host, other: &Host) {
        self.sim.network().cut(one, other);
        self.sim.network().cut(other, one);
    }

    /// Everything goes between two hosts again.
    pub fn mend(&self, one: &Host, other: &Host) {
        self.sim.network().mend(one, other);
        self.sim.network().mend(other, one);
    }

    /// The offset behind the last record of the first partition.
    pub async fn end_of(&self, topic: &str) -> i64 {
        self.eventually("the end is known", async || {
            let found = self.admin.list_offsets(topic, 0, OffsetAt::Latest).await.ok()?;
            found.offset
        })
        .await
    }

    /// All records of the first partition that a new reader of committed records gets.
    pub async fn read(&self, topic: &str) -> Read {
        self.read_as(topic, Isolation::Committed).await
    }

    /// All records of the first partition that a new reader gets.
    pub async fn read_as(&self, topic: &str, isolation: Isolation) -> Read {
        self.eventually("the partition is read to its end", async || {
            match timeout(Duration::from_secs(20), read(&self.admin, topic, isolation)).await {
                Ok(Ok(read)) => Some(read),
                Ok(Err(error)) => {
                    self.sim.note(format_args!("{topic} is not read yet: {error}"));
                    None
                }
                Err(_) => None,
            }
        })
        .await
    }

    /// Lets simulated time pass.
    pub async fn pass(&self, time: Duration) {
        sleep(time).await;
    }

    /// Nothing was seen on the disks that must not be.
    pub fn end(&self) {
        if let Some(finding) = self.broken.borrow_mut().take() {
            panic!("an invariant does not hold: {finding}");
        }
        let mut invariants = self.invariants.borrow_mut();
        invariants
            .look()
            .unwrap_or_else(|finding| panic!("an invariant does not hold: {finding}"));
        assert!(invariants.committed() > 0, "something was looked at");
    }
}

async fn read(client: &Client, topic: &str, isolation: Isolation) -> Result<Read, ClientError> {
    let config = ConsumerConfig {
        isolation,
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config)?;
    consumer.assign(vec![(topic.to_owned(), 0, StartAt::Earliest)]).await?;
    let ends = consumer.end_offsets().await?;
    let mut read = Vec::new();
    while !consumer.reached(&ends) {
        // Markers and aborted records at the end are passed without a record.
        let Ok(record) = timeout(Duration::from_secs(2), consumer.next()).await else {
            continue;
        };
        let record = record?;
        read.push((record.offset, text(record.value.as_deref())));
    }
    Ok(read)
}

/// A value as text.
pub(super) fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// A record for the first partition of a topic.
pub(super) fn record(topic: &str, value: &str) -> ProducerRecord {
    let record = ProducerRecord::new(topic.to_owned()).with_partition(0);
    record.with_value(value.to_owned())
}

/// An idempotent producer, each record of which is sent at once.
pub(super) fn producer(client: &Client) -> Producer {
    let config = ProducerConfig {
        linger: Duration::ZERO,
        request_timeout: Duration::from_secs(3),
        delivery_timeout: WITHIN,
        ..ProducerConfig::default()
    };
    client.producer(config).expect("the settings are sound")
}

/// Sends a record, and gives its offset.
pub(super) async fn send(producer: &Producer, topic: &str, value: &str) -> i64 {
    let delivery = producer.send(record(topic, value)).await.expect("it is taken");
    let delivered = delivery
        .await
        .unwrap_or_else(|error| panic!("{value} is not delivered: {error}"));
    delivered.offset.expect("it is acknowledged")
}

/// Values with their offsets, from one on.
pub(super) fn at<'a>(first: i64, values: impl IntoIterator<Item = &'a str>) -> Read {
    (first..)
        .zip(values)
        .map(|(offset, value)| (offset, value.to_owned()))
        .collect()
}

/// Looks at the invariants again and again.
async fn look(invariants: Rc<RefCell<Invariants>>, broken: Rc<RefCell<Option<Finding>>>) {
    loop {
        sleep(LOOK).await;
        let looked = invariants.borrow_mut().look();
        if let Err(finding) = looked {
            broken.borrow_mut().get_or_insert(finding);
            return;
        }
    }
}
