//! Dropping old records: the leader decides where the log shall start and proposes it; every replica then purges as
//! far as its checkpoints allow.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_log::{IndexEntry, PartitionCommand, PartitionReply, PartitionState};
use jangada_types::{Offset, Reason};
use tokio::time::MissedTickBehavior;

use super::Partition;
use super::fetch::Unread;
use super::index_reads::rows_from;
use super::rows::{begins_at, follow};
use crate::error::RequestError;
use crate::replica::Replicas;

/// How long the leader waits for the quorum.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Partitions whose retention is enforced at once: one without a quorum must not hold up the others.
const MAX_CONCURRENT: usize = 16;
/// Index rows that are read at once while counting what is dropped.
const ROWS_AT_ONCE: usize = 4096;
/// The log start may move between looking and applying; after so many tries somebody else is at it all the time.
const TRIES: usize = 5;

/// Enforces retention at an interval on all partitions that this broker leads, for ever.
pub(crate) async fn enforce_retention(replicas: Arc<Replicas>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let partitions = replicas.fronts::<Partition>();
        let enforce = partitions.into_iter().map(|partition| async move {
            if let Err(error) = partition.enforce_retention().await {
                tracing::debug!(%error, "retention");
            }
        });
        futures::stream::iter(enforce)
            .buffer_unordered(MAX_CONCURRENT)
            .collect::<Vec<()>>()
            .await;
    }
}

/// Where the log shall start.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Exactly here.
    Offset(Offset),
    /// Before the first record at or after this time (milliseconds since the Unix epoch), and so that at most this
    /// many bytes stay.
    Retention {
        oldest_ms: Option<i64>,
        keep_bytes: Option<u64>,
    },
}

impl Partition {
    /// Drops the records below `before`; `None`: all that are there. Returns the new log start.
    pub async fn trim(&self, before: Option<Offset>) -> Result<Offset, RequestError> {
        self.hosted.leader_epoch()?;
        let high_watermark = self.latest_offset().await?;
        let to = before.unwrap_or(high_watermark);
        if to < Offset(0) || to > high_watermark {
            let message = format!(
                "partition {}: offset {to} is beyond the high watermark {high_watermark}; nothing was dropped",
                self.hosted.name
            );
            return Err(RequestError::new(Reason::OffsetOutOfRange, message)
                .with("offset", to)
                .with("high_watermark", high_watermark));
        }
        self.advance(Until::Offset(to)).await
    }

    /// Applies the topic's retention settings, if this replica leads.
    pub async fn enforce_retention(&self) -> Result<(), RequestError> {
        let config = self.config();
        if self.hosted.leader_epoch().is_err() || self.view.log_start() == self.view.high_watermark() {
            return Ok(());
        }
        // Not by a clock that may be wrong.
        let oldest_ms = config.retention_ms.and_then(|ms| self.shared.clock.old_before_ms(ms));
        let keep_bytes = config.retention_bytes.filter(|keep| self.view.retained_bytes() > *keep);
        if oldest_ms.is_none() && keep_bytes.is_none() {
            return Ok(());
        }
        self.advance(Until::Retention { oldest_ms, keep_bytes }).await.map(drop)
    }

    async fn advance(&self, until: Until) -> Result<Offset, RequestError> {
        for _ in 0..TRIES {
            let from = self.view.log_start();
            let (to, dropped_bytes) = self.look(from, until).await?;
            if to <= from {
                return Ok(from);
            }
            let command = PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            };
            let applied = self.hosted.group.propose::<PartitionState>(command, TIMEOUT).await;
            let applied = applied.map_err(|error| self.hosted.propose_error(&error))?;
            match applied.reply {
                PartitionReply::LogStart(offset) => {
                    tracing::info!(partition = %self.hosted.name, from = %from, to = %offset, dropped_bytes, "log start advanced");
                    return Ok(offset);
                }
                PartitionReply::LogStartMoved(_) => {}
                PartitionReply::Appended { .. } | PartitionReply::Refused(_) => {
                    unreachable!("not the reply to a new log start")
                }
            }
        }
        let message = format!("partition {}: its log start kept moving; try again", self.hosted.name);
        Err(RequestError::new(Reason::PartitionBusy, message).retry_after(super::inflight::BUSY_RETRY))
    }

    /// Where the log would start, and how many bytes of batches lie before that. Reads the index only as far as
    /// records are dropped.
    async fn look(&self, from: Offset, until: Until) -> Result<(Offset, u64), RequestError> {
        let (store, group) = (self.shared.store.clone(), self.hosted.group.id());
        let (high_watermark, retained) = (self.view.high_watermark(), self.view.retained_bytes());
        let look = tokio::task::spawn_blocking(move || {
            let (mut to, mut dropped) = (from, 0);
            loop {
                let rows = rows_from(&*store, group, to, ROWS_AT_ONCE, usize::MAX)?;
                // What is missing would be dropped without being counted.
                if to < high_watermark {
                    begins_at(&rows, to)?;
                    follow(&rows)?;
                }
                let all = rows.len() < ROWS_AT_ONCE;
                for row in rows {
                    if row.last_offset >= high_watermark || !drops(&row, until, retained, dropped) {
                        return Ok(end(until, to, dropped));
                    }
                    to = Offset(row.last_offset.get() + 1);
                    dropped += u64::from(row.size_bytes);
                }
                if all {
                    return Ok::<_, Unread>(end(until, to, dropped));
                }
            }
        });
        let looked = look.await.map_err(|error| {
            RequestError::new(
                Reason::Internal,
                format!("partition {}: retention failed: {error}", self.hosted.name),
            )
        })?;
        match looked {
            Err(Unread::Gap(_)) if self.view.log_start() > from => Ok((from, 0)),
            looked => looked.map_err(|unread| self.unread(unread)),
        }
    }
}

/// Whether the whole batch goes.
fn drops(row: &IndexEntry, until: Until, retained: u64, dropped: u64) -> bool {
    match until {
        Until::Offset(offset) => row.last_offset < offset,
        Until::Retention { oldest_ms, keep_bytes } => {
            let too_old = oldest_ms.is_some_and(|oldest| row.max_timestamp_ms < oldest);
            // Like Kafka's segments: a batch goes only if what stays still has the bytes to keep.
            let too_much =
                keep_bytes.is_some_and(|keep| retained.saturating_sub(dropped + u64::from(row.size_bytes)) >= keep);
            too_old || too_much
        }
    }
}

/// An exact offset may lie inside the batch that stays.
fn end(until: Until, to: Offset, dropped: u64) -> (Offset, u64) {
    match until {
        Until::Offset(offset) => (offset.max(to), dropped),
        Until::Retention { .. } => (to, dropped),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Sequence, TopicConfig};

    use super::super::testing::{Broker, Options, PATIENCE, append};
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
        tokio::time::timeout(PATIENCE, steady).await.expect("it stands still");
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
        partition.enforce_retention().await.expect("it leads");
        assert_eq!(partition.view.log_start(), Offset(4));
        broker.stop().await;
    }

    async fn steady_after_step(broker: &Broker) {
        assert_eq!(broker.shared.clock.old_before_ms(u64::MAX), None, "the step is noticed");
        steady(broker).await;
    }
}
