//! The time of an append, on a topic with `message.timestamp.type=LogAppendTime`: the leader's clock, but never before
//! the time of the batch ahead in the log.
//!
//! A clock may be set back, and the next leader's may be behind. So a leader begins a term with the time of the last
//! batch, and gives one batch after the other its time: who has one holds the [`AppendTimes`] until the batch has its
//! place in the log's order. Only times that a leader gave count: a producer's, from before the topic had the setting,
//! may be any.

use jangada_types::LeaderEpoch;
use tokio::sync::MutexGuard;

use super::Partition;
use crate::error::RequestError;

/// The times that a partition's batches get.
#[derive(Debug)]
pub(super) struct AppendTimes {
    /// The last epoch of this leader that is known to have begun with the time of the last batch.
    epoch: Option<LeaderEpoch>,
    /// No batch gets an earlier one, milliseconds since the Unix epoch.
    floor_ms: i64,
}

impl AppendTimes {
    pub fn new() -> Self {
        Self {
            epoch: None,
            floor_ms: i64::MIN,
        }
    }

    /// The time of the next batch.
    pub fn next_ms(&mut self, now_ms: i64) -> i64 {
        self.floor_ms = self.floor_ms.max(now_ms);
        self.floor_ms
    }
}

impl Partition {
    /// For the batch that is proposed next: see the module text.
    pub(super) async fn append_times(&self) -> Result<MutexGuard<'_, AppendTimes>, RequestError> {
        let mut times = self.append_times.lock().await;
        loop {
            // A ready leader has applied what earlier terms appended; what this one appends gets its times here.
            let epoch = self.leader_epoch()?;
            if times.epoch == Some(epoch) {
                return Ok(times);
            }
            if let Some(last_ms) = self.last_append_time().await? {
                times.floor_ms = times.floor_ms.max(last_ms);
            }
            times.epoch = Some(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use jangada_replication::{Identity, Registry, Timing};
    use jangada_storage::{RocksStore, StoreOptions};
    use jangada_types::batch::BatchIter;
    use jangada_types::{
        BatchBuilder, BrokerId, Codec, GroupId, Incarnation, Offset, PartitionIndex, TimestampType, TopicConfig,
    };
    use tempfile::TempDir;

    use super::super::{Expectation, Partition, PartitionMachine, PartitionName, Shared, View, checkpoint_bytes};
    use crate::admission::Caller;
    use crate::metrics::Metrics;
    use crate::pool::Pool;
    use crate::seams::WallClock;

    const GROUP: GroupId = GroupId(1);
    const BYTES: usize = 1 << 20;
    /// No test waits longer for what must happen.
    const PATIENCE: Duration = Duration::from_secs(30);
    /// What a producer may claim: the year 2255.
    const FAR_MS: i64 = 9_000_000_000_000;

    /// Stands where it is put, or goes on when it is looked at.
    struct Clock {
        now_ms: AtomicI64,
        step_ms: i64,
    }

    impl WallClock for Clock {
        fn now_ms(&self) -> i64 {
            self.now_ms.fetch_add(self.step_ms, Ordering::SeqCst)
        }
    }

    /// A broker that is alone.
    struct Broker {
        shared: Arc<Shared>,
        clock: Arc<Clock>,
        _directory: TempDir,
    }

    impl Broker {
        fn start(step_ms: i64) -> Self {
            let directory = tempfile::tempdir().expect("a temporary folder");
            let mut options = StoreOptions::new(directory.path());
            options.disk_reserve_bytes = 0;
            let (store, _) = RocksStore::open(options, Box::new(|cause| panic!("fenced: {cause}"))).expect("it is new");
            let store = Arc::new(store);
            let identity = Identity {
                cluster_id: "one".to_owned(),
                broker: BrokerId(1),
                incarnation: Incarnation(1),
            };
            let timing = Timing {
                heartbeat_ms: 50,
                election_timeout_min_ms: 150,
                election_timeout_max_ms: 300,
            };
            let registry =
                Registry::start(identity, store.clone(), timing, Default::default()).expect("the timing is sound");
            let clock = Arc::new(Clock {
                now_ms: AtomicI64::new(0),
                step_ms,
            });
            let shared = Shared {
                store,
                registry,
                clock: clock.clone(),
                metrics: Metrics::new(&Default::default(), &Default::default()),
                inflight_per_partition: BYTES,
                queue_bytes_max: BYTES,
                read_pool: Pool::new(1),
                compute: Pool::new(1),
                producer_expiration_ms: i64::MAX,
                quorum_within: PATIENCE,
            };
            Self {
                shared: Arc::new(shared),
                clock,
                _directory: directory,
            }
        }

        /// The partition, led by this broker in a new term.
        async fn lead(&self, timestamp_type: TimestampType) -> Partition {
            let registry = &self.shared.registry;
            registry.close(GROUP).await;
            let config = Arc::new(TopicConfig {
                timestamp_type,
                ..TopicConfig::default()
            });
            let view = Arc::new(View::new(checkpoint_bytes(&config)));
            let machine = PartitionMachine::new(GROUP, view.clone());
            let group = registry.open(GROUP, Box::new(machine)).await.expect("it opens");
            let alone = BTreeSet::from([registry.local_replica()]);
            group.initialize(&alone).await.expect("it is formed, now or before");
            let mut status = group.watch();
            let ready = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.ready)).await;
            drop(ready.expect("it elects itself").expect("the group is open"));
            let name = PartitionName {
                topic: "readings".into(),
                index: PartitionIndex(0),
            };
            Partition::new(name, group, view, config, self.shared.clone())
        }

        /// What a producer is told of a batch that comes at this time.
        async fn append_at(&self, now_ms: i64, partition: &Partition) -> i64 {
            self.clock.now_ms.store(now_ms, Ordering::SeqCst);
            append(partition).await
        }

        async fn stop(&self) {
            self.shared.registry.shutdown().await;
        }
    }

    async fn append(partition: &Partition) -> i64 {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(FAR_MS, None, None, []).expect("it is small");
        let batch = builder.build();
        let room = partition.room(&Caller::alone(), batch.len()).expect("there is room");
        let admitted = partition.admit(batch, Expectation::default(), room).await;
        let appended = partition.acknowledged(admitted.expect("it is taken"), PATIENCE).await;
        appended.expect("it is written").append_time_ms
    }

    /// The times of the batches, in the order of the log.
    async fn times(partition: &Partition) -> Vec<i64> {
        let fetched = partition.read(Offset(0), BYTES).await.expect("it is read");
        BatchIter::new(fetched.batches)
            .map(|batch| batch.expect("it is whole").0.max_timestamp)
            .collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_clock_that_is_set_back_sets_no_time_back() {
        let broker = Broker::start(0);
        let partition = broker.lead(TimestampType::LogAppendTime).await;
        assert_eq!(broker.append_at(1_000, &partition).await, 1_000);
        assert_eq!(broker.append_at(900, &partition).await, 1_000);
        assert_eq!(broker.append_at(2_000, &partition).await, 2_000);
        assert_eq!(times(&partition).await, [1_000, 1_000, 2_000]);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_leader_begins_with_the_time_of_the_last_batch() {
        let broker = Broker::start(0);
        let before = broker.lead(TimestampType::LogAppendTime).await;
        assert_eq!(broker.append_at(2_000, &before).await, 2_000);
        let partition = broker.lead(TimestampType::LogAppendTime).await;
        assert_eq!(broker.append_at(1_000, &partition).await, 2_000);
        assert_eq!(broker.append_at(3_000, &partition).await, 3_000);
        assert_eq!(times(&partition).await, [2_000, 2_000, 3_000]);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_producers_claimed_before_holds_no_time_up() {
        let broker = Broker::start(0);
        let before = broker.lead(TimestampType::CreateTime).await;
        assert_eq!(broker.append_at(1_000, &before).await, -1);
        let partition = broker.lead(TimestampType::LogAppendTime).await;
        assert_eq!(broker.append_at(2_000, &partition).await, 2_000);
        assert_eq!(times(&partition).await, [FAR_MS, 2_000]);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn times_have_the_order_of_the_log() {
        const BATCHES: usize = 500;
        let broker = Broker::start(1);
        let partition = Arc::new(broker.lead(TimestampType::LogAppendTime).await);
        let appending: Vec<_> = (0..BATCHES)
            .map(|_| {
                let partition = partition.clone();
                tokio::spawn(async move { append(&partition).await })
            })
            .collect();
        for appended in appending {
            appended.await.expect("it is appended");
        }
        let times = times(&partition).await;
        assert_eq!(times.len(), BATCHES);
        assert!(times.is_sorted(), "{times:?}");
        broker.stop().await;
    }
}
