//! Ending transactions: the coordinator has decided, and the partition's leader writes the marker.
//!
//! A marker may be asked for any number of times, by old coordinators and new ones: apply judges by the transaction's number whether there
//! is anything to end (`jangada_log::transactions`).

use std::sync::Arc;
use std::time::Duration;

use jangada_log::{Marker, PartitionCommand, PartitionReply, PartitionState, ProducerState, Refusal};
use jangada_types::batch::{self, TimestampType};
use jangada_types::{Offset, ProducerEpoch, ProducerId, Reason};
use tokio::time::MissedTickBehavior;

use super::{OpenHere, Partition, Standing};
use crate::disk;
use crate::error::RequestError;
use crate::replica::{InflightProposal, Replicas};

/// How long a marker waits for its quorum. Whoever asked for it asks again.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Transactions before the one that is to be ended, which were forgotten and are aborted first. More is a fault.
const FORGOTTEN_MAX: u32 = 3;

/// How often leaders look after transactions that have been open for too long.
const WATCH_EVERY: Duration = Duration::from_secs(60);
/// How much longer than it may a transaction is open before its coordinator is asked: its marker is on its way.
const WATCH_GRACE: Duration = Duration::from_secs(60);

/// Looks after the open transactions of all partitions that are led here, each minute. Runs until it is aborted.
pub(crate) async fn watch_transactions(replicas: Arc<Replicas>) {
    let mut tick = tokio::time::interval(WATCH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for partition in replicas.fronts::<Partition>() {
            partition.watch_over_transactions(WATCH_GRACE).await;
        }
    }
}

/// The end of a transaction, as its coordinator has decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndMarker {
    pub producer_id: ProducerId,
    /// That from which on the producer may write again.
    pub producer_epoch: ProducerEpoch,
    pub coordinator_epoch: i32,
    /// Number of the transaction among those of its transactional id.
    pub seq: u64,
    pub commit: bool,
}

impl Partition {
    /// Ends a transaction, if it is open here. Returns when that is applied, so that a reader who comes now finds it ended.
    ///
    /// # Errors
    /// NOT_LEADER, LEADER_NOT_AVAILABLE, DISK_FULL below half of the reserve, and those of a proposal: ask again. PRODUCER_FENCED,
    /// definite: the transaction is open in a newer epoch than the marker has, which no coordinator decides.
    pub(crate) async fn end_transaction(&self, marker: EndMarker) -> Result<(), RequestError> {
        self.hosted.leader_epoch()?;
        let end = batch::EndMarker {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            coordinator_epoch: marker.coordinator_epoch,
            commit: marker.commit,
        };
        // What has ended stays so, whoever leads by now.
        if !self.driver.with_machine(|state| state.has_ended(&end, marker.seq)) {
            disk::check_half(&*self.shared.store, &self.hosted.title)?;
            self.write_ends(end, marker.seq).await?;
        }
        self.joins.ended(marker.producer_id, marker.seq);
        Ok(())
    }

    async fn write_ends(&self, end: batch::EndMarker, seq: u64) -> Result<(), RequestError> {
        for _ in 0..FORGOTTEN_MAX {
            let Err(refusal) = self.write_end(end, seq).await? else {
                return Ok(());
            };
            let Refusal::TransactionOpen { seq: forgotten } = refusal else {
                return Err(self.refused(refusal));
            };
            // Its coordinator went on, so it has ended, and this partition forgot it before it came late.
            tracing::warn!(
                partition = %self.hosted.name, producer = %end.producer_id, forgotten, seq,
                "a transaction that was ended is open; it is aborted"
            );
            let aborted = batch::EndMarker { commit: false, ..end };
            if let Err(refusal) = self.write_end(aborted, forgotten).await? {
                return Err(self.refused(refusal));
            }
        }
        let message = "transactions that have ended keep opening; try again";
        Err(self.refuse(RequestError::new(Reason::PartitionBusy, message)))
    }

    /// Writes one marker. The inner error is what apply says of it.
    async fn write_end(&self, end: batch::EndMarker, seq: u64) -> Result<Result<(), Refusal>, RequestError> {
        let mut times = match self.config().timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(self.append_times().await?),
        };
        let clock_ms = self.shared.clock.now_ms();
        let now_ms = times.as_mut().map_or(clock_ms, |times| times.next_ms(clock_ms));
        let command = PartitionCommand::Marker {
            marker: Marker {
                now_ms,
                expiration_ms: self.producer_expiration_ms(),
                end,
                seq,
            },
            batch: end.build(now_ms),
        };
        let proposed = InflightProposal::submit::<PartitionState>(&self.hosted.group, command, ()).await;
        drop(times);
        let proposed = proposed.map_err(|error| self.hosted.propose_error(&error))?;
        let applied = proposed.applied(END_TIMEOUT).await;
        let applied = applied.map_err(|error| self.hosted.propose_error(&error))?;
        match applied.reply {
            PartitionReply::Ended { .. } => Ok(Ok(())),
            PartitionReply::Refused(refusal) => Ok(Err(refusal)),
            other => unreachable!("not the reply to a marker: {other:?}"),
        }
    }

    /// What is remembered of the partition's producers, at or after any acknowledgement before the call.
    ///
    /// # Errors
    /// NOT_LEADER, LEADER_NOT_AVAILABLE, QUORUM_TIMEOUT.
    pub async fn describe_producers(&self) -> Result<Vec<ProducerState>, RequestError> {
        self.driver.read(|state| state.producers().collect()).await
    }

    /// Looks after transactions that have been open for longer than any may be: their marker was lost, or nobody will ever send one.
    pub(crate) async fn watch_over_transactions(&self, grace: Duration) {
        let Some(transactions) = self.shared.transactions.get() else {
            return;
        };
        // One that only acknowledges messages of queues has no record here.
        let may_have_any = self.view.has_transactions() || self.view.desk.has_slots();
        if !may_have_any || !self.hosted.is_ready() || self.hosted.check_quorum.is_lost() {
            return;
        }
        let longest = transactions.timeout_max() + grace;
        let longest_ms = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.shared.clock.now_ms().saturating_sub(longest_ms);
        let partition = self.hosted.id();
        let overdue: Vec<_> = self.driver.with_machine(|state| {
            let open = state
                .open_transactions()
                .map(|(producer_id, producer_epoch, open)| OpenHere {
                    producer_id,
                    producer_epoch,
                    seq: open.seq,
                    partition,
                    first: Some(open.first),
                    since_ms: open.since_ms,
                });
            let undecided = state.slots().undecided().filter(|undecided| undecided.first.is_none());
            let acknowledging = undecided.map(|undecided| OpenHere {
                producer_id: undecided.id.producer,
                producer_epoch: undecided.id.epoch,
                seq: undecided.id.seq,
                partition,
                first: None,
                since_ms: i64::try_from(undecided.since_ms).unwrap_or(i64::MAX),
            });
            let all = open.chain(acknowledging);
            all.filter(|open| open.since_ms < before_ms).collect()
        });
        for open in overdue {
            let first = open.first.map(Offset::get);
            let abort = EndMarker {
                producer_id: open.producer_id,
                producer_epoch: open.producer_epoch,
                coordinator_epoch: -1,
                seq: open.seq,
                commit: false,
            };
            let done = match transactions.standing(open).await {
                Ok(Standing::Open) => continue,
                Ok(Standing::Gone) => self.end_transaction(abort).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => tracing::warn!(
                    partition = %self.hosted.name, producer = %open.producer_id, seq = open.seq, first,
                    "a transaction that no coordinator knows was open for too long; it is aborted"
                ),
                Err(error) => tracing::warn!(
                    partition = %self.hosted.name, producer = %open.producer_id, seq = open.seq, first, %error,
                    "a transaction has been open for too long, and could not be looked after; trying again"
                ),
            }
        }
    }
}
