//! A broker that is alone, with a clock that a test sets, and a partition that it leads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use jangada_replication::Publisher;
use jangada_storage::MemoryStore;
use jangada_types::{GroupId, PartitionIndex, TopicConfig};

use super::{Appended, Expectation, KIND, LogStarts, Partition, RetentionClock, Shared};
use crate::clock_guard::ClockGuard;
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::quota::Caller;
use crate::replica::{DriverShared, ReplicaName, Replicas, Timers};
use crate::testing::Alone;
use jangada_env::Blocking;
use jangada_env::WallClock;

pub const GROUP: GroupId = GroupId(1);
pub const BYTES: usize = 1 << 20;
/// No test waits longer for what must happen.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Stands where it is put, or goes on when it is looked at.
pub struct Clock {
    pub now_ms: AtomicI64,
    step_ms: i64,
}

impl WallClock for Clock {
    fn now_ms(&self) -> i64 {
        self.now_ms.fetch_add(self.step_ms, Ordering::SeqCst)
    }
}

/// A broker that is alone.
pub struct Broker {
    pub shared: Arc<Shared>,
    pub store: Arc<MemoryStore>,
    pub clock: Arc<Clock>,
    replicas: Arc<Replicas>,
}

/// What differs from broker to broker.
pub struct Options {
    /// How far the clock goes on when it is looked at.
    pub step_ms: i64,
    pub steady: Duration,
    pub producer_expiration_ms: i64,
    pub check_interval_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            step_ms: 0,
            steady: Duration::ZERO,
            producer_expiration_ms: i64::MAX,
            check_interval_ms: 60 * 60 * 1_000,
        }
    }
}

impl Broker {
    pub fn start(with: Options) -> Self {
        let Alone { store, registry } = Alone::start();
        let clock = Arc::new(Clock {
            now_ms: AtomicI64::new(0),
            step_ms: with.step_ms,
        });
        let guard = Arc::new(ClockGuard::new(clock.clone(), with.steady, Box::new(|_| Vec::new())));
        let timers = Arc::new(Timers::new(guard.clone()));
        let replicas = Arc::new(Replicas::new(registry.clone(), TIMEOUT));
        tokio::spawn(timers.clone().run(replicas.clone()));
        let read_pool = Pool::new(1, Blocking::Threads);
        let driving = DriverShared {
            timers,
            store: store.clone(),
            read_pool: read_pool.clone(),
            observer: Box::new(LogStarts),
        };
        let shared = Shared {
            store: store.clone(),
            registry,
            clock: guard,
            metrics: Metrics::new(&Default::default(), &Default::default()),
            inflight_per_partition: BYTES,
            queue_bytes_max: BYTES,
            read_pool,
            compute: Pool::new(1, Blocking::Threads),
            producer_expiration_ms: with.producer_expiration_ms,
            retention: RetentionClock {
                check_interval_ms: with.check_interval_ms,
                steady_clock_ms: u64::try_from(with.steady.as_millis()).expect("it is short"),
            },
            driving: Arc::new(driving),
            beyond_desks: OnceLock::new(),
            spent: Arc::default(),
            transactions: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
            store,
            clock,
            replicas,
        }
    }

    /// The partition, led by this broker in a new term.
    pub async fn lead(&self, config: TopicConfig) -> Arc<Partition> {
        let registry = &self.shared.registry;
        self.replicas.close(GROUP).await;
        registry.close(GROUP).await;
        let config = Arc::new(config);
        let name = ReplicaName {
            topic: "readings".into(),
            index: Some(PartitionIndex(0)),
        };
        let state = self.shared.empty_partition((GROUP, name.clone()), &config);
        let publisher = state.publisher();
        let id = (GROUP, registry.local_replica());
        let front = |hosted| Partition::new(hosted, state, config, self.shared.clone());
        let opened = self.replicas.open(id, (&KIND, name), publisher.erased(), front).await;
        let partition = opened.expect("it opens");
        let group = &partition.hosted.group;
        let alone = BTreeSet::from([registry.local_replica()]);
        group.initialize(&alone).await.expect("it is formed, now or before");
        let mut status = group.watch();
        let ready = tokio::time::timeout(TIMEOUT, status.wait_for(|status| status.ready)).await;
        drop(ready.expect("it elects itself").expect("the group is open"));
        partition
    }

    pub fn set_clock(&self, now_ms: i64) {
        self.clock.now_ms.store(now_ms, Ordering::SeqCst);
    }

    pub async fn stop(&self) {
        self.shared.registry.shutdown().await;
    }
}

/// What becomes of a batch.
pub async fn append(partition: &Partition, batch: Bytes) -> Result<Appended, RequestError> {
    let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
    let admitted = partition.admit(batch, Expectation::default(), room).await?;
    partition.acknowledged(admitted, TIMEOUT).await
}
