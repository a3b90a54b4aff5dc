//! Dropping old records. The leader (`jangada_log::leader`) decides where the log shall start and proposes it; every replica then
//! purges as far as its checkpoints allow. Here is what clients call.

use jangada_types::{Offset, Reason};

use super::Partition;
use super::inflight::BUSY_RETRY;
use crate::error::RequestError;

impl Partition {
    /// Drops the records below `before`; `None`: all that are there. Returns the new log start.
    pub async fn trim(&self, before: Option<Offset>) -> Result<Offset, RequestError> {
        // So that no deposed leader says what lies beyond the high watermark.
        self.confirmed_ends().await?;
        let trimmed = self
            .driver
            .decide((), |leader, state, now| leader.trim(state, before, now));
        trimmed.await?.map_err(|rejection| {
            let error = self.refuse(rejection.into());
            match error.reason {
                Reason::PartitionBusy => error.retry_after(BUSY_RETRY),
                _ => error,
            }
        })
    }

    /// Drops the records that the topic's retention lets go, as the leader's timer does. Returns the log start then.
    #[cfg(test)]
    pub async fn enforce_retention(&self) -> Result<Offset, RequestError> {
        let retained = self.driver.decide((), |leader, state, now| leader.retain(state, now));
        retained.await?.map_err(|rejection| self.refuse(rejection.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Sequence, TopicConfig};

    use super::super::testing::{Broker, GROUP, Options, TIMEOUT, append};
    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    const START_MS: i64 = 1_764_000_000_000;
    const STEADY: Duration = Duration::from_millis(500);

    /// One record of an idempotent producer.
    fn batch(sequence: i32, at_ms: i64) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.producer(ProducerId(7), ProducerEpoch(0), Sequence(sequence));
        builder.append(at_ms, None, Some(b"v"), []).expect("small");
        builder.build()
    }

    /// Waits until the clock counts again.
    async fn steady(broker: &Broker) {
        let steady = async {
            while broker.shared.clock.old_before_ms(u64::MAX).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, steady).await.expect("it stands still");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_clock_that_jumps_ahead_deletes_no_records_and_forgets_no_producer() {
        let broker = Broker::start(Options {
            steady: STEADY,
            producer_expiration_ms: DAY_MS,
            ..Options::default()
        });
        broker.set_clock(START_MS);
        let partition = broker.lead(TopicConfig::default()).await;
        for sequence in 0..3 {
            append(&partition, batch(sequence, START_MS)).await.expect("appended");
        }
        steady(&broker).await;
        broker.set_clock(START_MS + 8 * DAY_MS);
        partition.enforce_retention().await.expect("it leads");
        assert_eq!(partition.view.log_start(), Offset(0));
        let appended = append(&partition, batch(3, START_MS)).await.expect("it is known");
        assert_eq!(appended.base_offset, Offset(3));
        assert!(append(&partition, batch(3, START_MS)).await.expect("a retry").duplicate);
        broker.set_clock(START_MS);
        partition.enforce_retention().await.expect("it leads");
        steady(&broker).await;
        partition.enforce_retention().await.expect("it leads");
        assert_eq!(partition.view.log_start(), Offset(0), "they are young");
        // When that is the time for long enough, it is.
        broker.set_clock(START_MS + 8 * DAY_MS);
        steady_after_step(&broker).await;
        assert_eq!(partition.enforce_retention().await, Ok(Offset(4)));
        assert_eq!(partition.view.log_start(), Offset(4));
        broker.stop().await;
    }

    async fn steady_after_step(broker: &Broker) {
        assert_eq!(broker.shared.clock.old_before_ms(u64::MAX), None, "the step is noticed");
        steady(broker).await;
    }

    /// A leader's state has a batch before its row can be read: the search must not take that for damage.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn records_that_come_while_others_are_dropped_are_not_missing() {
        const BATCHES: i32 = 2_000;
        let broker = Broker::start(Options::default());
        broker.set_clock(START_MS);
        let partition = broker.lead(TopicConfig::default()).await;
        let appending = tokio::spawn({
            let partition = partition.clone();
            async move {
                for sequence in 0..BATCHES {
                    append(&partition, batch(sequence, START_MS)).await.expect("appended");
                }
            }
        });
        let trimming = async {
            let mut trimmed = Offset(0);
            while trimmed < Offset(i64::from(BATCHES)) {
                trimmed = partition.trim(None).await.expect("it leads, and nothing is damaged");
                tokio::task::yield_now().await;
            }
        };
        let trimmed = tokio::time::timeout(TIMEOUT, trimming).await;
        appending.await.expect("all are taken");
        trimmed.expect("all are dropped");
        assert_eq!(broker.shared.store.damage().of(GROUP), None);
        broker.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn old_records_go_by_the_leaders_timer_and_by_settings_that_change() {
        let broker = Broker::start(Options {
            check_interval_ms: 10,
            ..Options::default()
        });
        broker.set_clock(START_MS + DAY_MS);
        let partition = broker.lead(TopicConfig::default()).await;
        for sequence in 0..3 {
            append(&partition, batch(sequence, START_MS)).await.expect("appended");
        }
        let starts_at = async |offset| {
            while partition.view.log_start() != offset {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let shorter = TopicConfig {
            retention_ms: Some(u64::try_from(DAY_MS / 2).expect("it is positive")),
            ..TopicConfig::default()
        };
        partition.set_config(shorter.into()).await;
        let gone = tokio::time::timeout(TIMEOUT, starts_at(Offset(3))).await;
        gone.expect("they are old by the new setting");
        append(&partition, batch(3, START_MS)).await.expect("appended");
        let gone = tokio::time::timeout(TIMEOUT, starts_at(Offset(4))).await;
        gone.expect("the timer fires again");
        broker.stop().await;
    }
}
