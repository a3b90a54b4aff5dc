//! The time of an append, on a topic with `message.timestamp.type=LogAppendTime`: the leader's clock, but never before
//! the time of the batch ahead in the log.
//!
//! A clock may be set back, and the next leader's may be behind. So a leader begins a term with the time of the last batch, and gives
//! times to one batch after the other: admission holds the [`AppendTimes`] until the batch has its place in the log's order. A time that
//! a producer gave, before the topic had the setting, does not count, as it may be any.

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
            let epoch = self.hosted.leader_epoch()?;
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
    use std::sync::Arc;

    use jangada_types::batch::BatchIter;
    use jangada_types::topic_config::UNBOUNDED_MS;
    use jangada_types::{BatchBuilder, Codec, Offset, TimestampType, TopicConfig};

    use super::super::Partition;
    use super::super::testing::{self, BYTES, Broker, Options};

    /// What a producer may claim: the year 2255.
    const FAR_MS: i64 = 9_000_000_000_000;

    fn start(step_ms: i64) -> Broker {
        Broker::start(Options {
            step_ms,
            ..Options::default()
        })
    }

    async fn lead(broker: &Broker, timestamp_type: TimestampType) -> Arc<Partition> {
        let config = TopicConfig {
            timestamp_type,
            timestamp_after_max_ms: UNBOUNDED_MS,
            ..TopicConfig::default()
        };
        broker.lead(config).await
    }

    /// What a producer is told of a batch that comes at this time.
    async fn append_at(broker: &Broker, now_ms: i64, partition: &Partition) -> i64 {
        broker.set_clock(now_ms);
        append(partition).await
    }

    async fn append(partition: &Partition) -> i64 {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(FAR_MS, None, None, []).expect("it is small");
        let appended = testing::append(partition, builder.build()).await;
        appended.expect("it is written").append_time_ms
    }

    /// The times of the batches, in the order of the log.
    async fn times(partition: &Partition) -> Vec<i64> {
        let fetched = partition
            .read(Offset(0), BYTES, super::super::Reading::AS_IT_IS)
            .await
            .expect("it is read");
        BatchIter::new(fetched.batches)
            .map(|batch| batch.expect("it is whole").0.max_timestamp)
            .collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_clock_that_is_set_back_sets_no_time_back() {
        let broker = start(0);
        let partition = lead(&broker, TimestampType::LogAppendTime).await;
        assert_eq!(append_at(&broker, 1_000, &partition).await, 1_000);
        assert_eq!(append_at(&broker, 900, &partition).await, 1_000);
        assert_eq!(append_at(&broker, 2_000, &partition).await, 2_000);
        assert_eq!(times(&partition).await, [1_000, 1_000, 2_000]);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_leader_begins_with_the_time_of_the_last_batch() {
        let broker = start(0);
        let before = lead(&broker, TimestampType::LogAppendTime).await;
        assert_eq!(append_at(&broker, 2_000, &before).await, 2_000);
        let partition = lead(&broker, TimestampType::LogAppendTime).await;
        assert_eq!(append_at(&broker, 1_000, &partition).await, 2_000);
        assert_eq!(append_at(&broker, 3_000, &partition).await, 3_000);
        assert_eq!(times(&partition).await, [2_000, 2_000, 3_000]);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_producers_claimed_before_holds_no_time_up() {
        let broker = start(0);
        let before = lead(&broker, TimestampType::CreateTime).await;
        assert_eq!(append_at(&broker, 1_000, &before).await, -1);
        let partition = lead(&broker, TimestampType::LogAppendTime).await;
        assert_eq!(append_at(&broker, 2_000, &partition).await, 2_000);
        assert_eq!(times(&partition).await, [FAR_MS, 2_000]);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn times_have_the_order_of_the_log() {
        const BATCHES: usize = 500;
        let broker = start(1);
        let partition = lead(&broker, TimestampType::LogAppendTime).await;
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
