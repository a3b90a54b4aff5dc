//! Appending: a batch is checked and handed to the quorum ([`Partition::admit`]), and answered when it is applied
//! ([`Partition::acknowledged`]).

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jangada_log::{
    ConditionFailed, Conditions, Expectation, IdFinding, NO_OFFSET, PartitionCommand, PartitionReply, PartitionState,
    Refusal,
};
use jangada_queue::Marks;
use jangada_types::batch::{self, TimestampType};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::planted::{self, Bug};
use jangada_types::{BatchError, BatchHeader, Codec, Offset, Reason, RecordTimes, TopicConfig};
use tokio::time::Instant;

use super::key_index::IndexGuard;
use super::keyed::Pending;
use super::room::Room;
use super::{InTransaction, Partition, timestamps};
use crate::error::RequestError;
use crate::pool::SMALL_BYTES;
use crate::queues::Reserved;
use crate::replica::InflightProposal;

/// A small packed batch is checked on the worker that received it if it unpacks to no more bytes than this, as a producer's usual batch
/// does.
const UNPACKED_INLINE_BYTES: usize = 2 * SMALL_BYTES;
/// Time between two warnings about records that retention deletes at once.
const WARN_EVERY_MS: u64 = 60_000;

/// How an append is acknowledged.
pub(crate) struct Appended {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub append_time_ms: i64,
    pub log_start: Offset,
    pub duplicate: bool,
}

/// A batch that was taken: on its way to the quorum. Its bytes count against the limits until Raft lets go of it, also
/// when this is dropped.
pub(crate) struct Admitted {
    pub(super) pending: Pending,
    pub(super) append_time_ms: i64,
    pub(super) bytes: usize,
    pub(super) began: Instant,
    /// The refusal to answer with, unless the batch was appended before. Most batches have none.
    pub(super) refusal: Option<Box<RequestError>>,
    /// Its part of a queue's limit.
    pub(super) reserved: Option<Reserved>,
}

/// What stands in an append's command beside the batch.
pub(super) enum With<'a> {
    Nothing,
    /// Marks of the records for the partition's queues, and what was found of the ids among them.
    Marks(Marks, Option<IdFinding>),
    /// The transaction that it belongs to, and marks of the records if they are messages of a queue that have some.
    Transaction(&'a InTransaction, Option<Marks>),
}

impl Partition {
    /// Checks a batch and hands it to the quorum. Batches of one caller keep the order of its calls. The caller has taken `room` for
    /// it before it waited for anything.
    ///
    /// On a topic with an index of keys this waits for other batches with the same keys, if one of them is conditional.
    pub async fn admit(&self, batch: Bytes, expected: Expectation, room: Room) -> Result<Admitted, RequestError> {
        self.admit_with(batch, expected, room, With::Nothing).await
    }

    /// [`Partition::admit`] for a batch of a transaction. The first one waits for its coordinator, and those behind it wait with it.
    pub async fn admit_in(
        &self,
        batch: Bytes,
        transaction: &InTransaction,
        room: Room,
    ) -> Result<Admitted, RequestError> {
        let with = With::Transaction(transaction, None);
        self.admit_with(batch, Expectation::default(), room, with).await
    }

    /// [`Partition::admit`], with what stands in the command beside the batch.
    pub(super) async fn admit_with(
        &self,
        batch: Bytes,
        expected: Expectation,
        room: Room,
        with: With<'_>,
    ) -> Result<Admitted, RequestError> {
        let began = Instant::now();
        self.hosted.leader_epoch()?;
        self.shared.check_disk(&self.hosted)?;
        self.check_expectation(expected)?;
        let config = self.config();
        self.check_group_lag(&config)?;
        let (header, times) =
            batch::validate_with_times(&batch, &config.batch_limits()).map_err(|error| self.refuse(error.into()))?;
        if header.attributes.is_transactional() || matches!(with, With::Transaction(..)) {
            self.check_transactional(&header, &with)?;
        }
        let bytes = batch.len();
        let mut room = self.fit(room, bytes)?;
        self.check_queue_share(bytes)?;
        self.check_times(&config, &times)?;
        if let Some(times) = self.check_records(&config, &header, &batch).await? {
            self.check_times(&config, &times)?;
        }
        if config.cleanup_policy.compacts() {
            self.check_keys(&batch).await?;
        }
        if !header.producer_id.is_some() {
            self.refuse_early(expected)?;
        }
        let seq = match &with {
            With::Transaction(transaction, _) => {
                let producer = (header.producer_id, header.producer_epoch);
                Some(self.join(transaction, producer).await?)
            }
            With::Nothing | With::Marks(..) => None,
        };
        let index = self.begin_admitting(expected).await?;
        let mut conditions = Conditions {
            end_offset: expected.end_offset,
            key: None,
        };
        let mut guard = None;
        if let Some(index) = index.as_ref() {
            let (taken, key, with_keys) = self.lock_keys(index, &batch, expected, room).await?;
            guard = Some(taken);
            room = with_keys;
            conditions.key = key;
        }
        // After everything that waits, so that a batch which waited gets the time of its place in the log.
        let mut times = match config.timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(self.append_times().await?),
        };
        let now_ms = self.shared.clock.now_ms();
        let (batch, append_time_ms) = match &mut times {
            None => (batch, -1),
            Some(times) => {
                let time_ms = times.next_ms(now_ms);
                (with_append_time(batch, time_ms), time_ms)
            }
        };
        let expiration_ms = self.producer_expiration_ms();
        let command = match (with, seq) {
            (With::Marks(marks, ids), _) => PartitionCommand::AppendMarked {
                now_ms,
                expiration_ms,
                conditions,
                ids,
                marks,
                batch,
            },
            (With::Transaction(_, Some(marks)), Some(seq)) => PartitionCommand::TxnAppendMarked {
                now_ms,
                expiration_ms,
                seq,
                marks,
                batch,
            },
            (With::Transaction(_, None), Some(seq)) => PartitionCommand::TxnAppend {
                now_ms,
                expiration_ms,
                seq,
                batch,
            },
            (With::Nothing | With::Transaction(..), _) => PartitionCommand::Append {
                now_ms,
                expiration_ms,
                conditions,
                batch,
            },
        };
        let pending = match guard {
            Some(guard) => Pending::propose(self.hosted.group.clone(), command, guard, room).await,
            None => InflightProposal::submit::<PartitionState>(&self.hosted.group, command, room)
                .await
                .map(Pending::InflightProposal),
        };
        drop((times, index));
        let pending = pending.map_err(|error| self.hosted.propose_error(&error))?;
        Ok(Admitted {
            pending,
            append_time_ms,
            bytes,
            began,
            refusal: None,
            reserved: None,
        })
    }

    /// Refuses a batch that says something else than its request.
    fn check_transactional(&self, header: &BatchHeader, with: &With<'_>) -> Result<(), RequestError> {
        let is_named = matches!(with, With::Transaction(..));
        if header.attributes.is_transactional() != is_named {
            let message = match is_named {
                true => "the request names a transactional id, and its batch is not transactional",
                false => "the batch is transactional, and its request names no transactional id",
            };
            return Err(self.refuse(RequestError::new(Reason::InvalidRequest, message)));
        }
        Ok(())
    }

    /// The time after which silent producers are forgotten, without end while this leader's clock may not decide that: with a clock
    /// that is ahead, retries would be appended twice.
    pub(super) fn producer_expiration_ms(&self) -> i64 {
        let expiration_ms = self.shared.producer_expiration_ms;
        let kept_ms = u64::try_from(expiration_ms).unwrap_or(0);
        match self.shared.clock.old_before_ms(kept_ms) {
            Some(_) => expiration_ms,
            None => i64::MAX,
        }
    }

    /// The index of keys, if there is one. It is not switched before the guard is dropped.
    async fn begin_admitting(&self, expected: Expectation) -> Result<IndexGuard<'_>, RequestError> {
        loop {
            let guard = self.key_index.held().await;
            match guard.as_ref() {
                None if expected.key_offset.is_some() => return Err(self.no_key_index()),
                Some(index)
                    if expected.key_offset.is_some()
                        && !index.is_barrier_applied()
                        && !planted::is(Bug::KeysBeforeBarrier) =>
                {
                    let index = index.clone();
                    drop(guard);
                    self.settle_keys(&index).await?;
                }
                _ => return Ok(guard),
            }
        }
    }

    fn check_expectation(&self, expected: Expectation) -> Result<(), RequestError> {
        let bad = |field, offset: Offset, least| {
            let message = format!("partition {}: {field} is {offset}: {least} or more", self.hosted.name);
            Err(RequestError::new(Reason::InvalidRequest, message).with("actual", offset))
        };
        match (expected.end_offset, expected.key_offset) {
            (Some(offset), _) if offset < Offset(0) => bad("expected_end_offset", offset, 0),
            (_, Some(offset)) if offset < NO_OFFSET => bad("expected_key_offset", offset, -1),
            _ => Ok(()),
        }
    }

    /// Refuses a batch that expects an end offset below the present one, which never goes back. Not to be called for idempotent batches,
    /// which may be retries of what was appended.
    fn refuse_early(&self, expected: Expectation) -> Result<(), RequestError> {
        let actual = self.view.high_watermark();
        match expected.end_offset {
            Some(expected) if expected < actual => {
                Err(self.refused(ConditionFailed::EndOffsetDiffers { expected, actual }.into()))
            }
            _ => Ok(()),
        }
    }

    /// Checks the records of a batch as far as the topic asks for it, and gives their times if they were read. A check that may take
    /// long does not run on a worker of the runtime, where the heartbeats of all groups run.
    async fn check_records(
        &self,
        config: &TopicConfig,
        header: &BatchHeader,
        batch: &Bytes,
    ) -> Result<Option<RecordTimes>, RequestError> {
        let is_packed = header.attributes.codec() != Ok(Codec::None);
        let check = match (config.full_validation, config.compressed_validation && is_packed) {
            (true, _) => batch::validate_records_with_times,
            (false, true) => batch::validate_packed,
            (false, false) => return Ok(None),
        };
        let is_small = batch.len() <= SMALL_BYTES;
        let most = if is_packed {
            UNPACKED_INLINE_BYTES
        } else {
            DECOMPRESSED_BYTES_MAX
        };
        let checked = match is_small.then(|| check(batch, most)) {
            // It unpacks to more than is worth doing here.
            None | Some(Err(BatchError::TooLarge { .. })) => {
                let batch = batch.clone();
                self.shared
                    .compute
                    .run(move || check(&batch, DECOMPRESSED_BYTES_MAX))
                    .await?
            }
            Some(checked) => checked,
        };
        checked.map(Some).map_err(|error| self.refuse(error.into()))
    }

    /// Refuses a batch with a record that has no key: of a topic that is compacted it would go with the next pass.
    async fn check_keys(&self, batch: &Bytes) -> Result<(), RequestError> {
        let owned = batch.clone();
        let first_without = move || {
            let mut first = None;
            batch::each_keyed(&owned, DECOMPRESSED_BYTES_MAX, |record| match record.key {
                Some(_) => ControlFlow::Continue(()),
                None => {
                    first = Some(record.offset_delta);
                    ControlFlow::Break(())
                }
            })
            .map(|()| first)
        };
        // A small one may unpack to a thousand times as much.
        let is_packed = BatchHeader::parse(batch).map_or(true, |header| header.attributes.codec() != Ok(Codec::None));
        let found = match batch.len() <= SMALL_BYTES && !is_packed {
            true => first_without(),
            false => self.shared.compute.run(first_without).await?,
        };
        match found.map_err(|error| self.refuse(error.into()))? {
            None => Ok(()),
            Some(index) => {
                let message = format!(
                    "record {index} of the batch has no key, and the topic is compacted: each record must have one"
                );
                let error = RequestError::new(Reason::KeyRequired, message).with("record", index);
                Err(self.refuse(error))
            }
        }
    }

    /// Refuses times beyond the topic's bounds. With LogAppendTime the times of the producer are replaced and not checked.
    fn check_times(&self, config: &TopicConfig, times: &RecordTimes) -> Result<(), RequestError> {
        if config.timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        let now_ms = self.shared.clock.now_ms();
        timestamps::check(config, times, now_ms).map_err(|error| self.refuse(error))?;
        if let Some(latest_ms) = timestamps::is_gone_at_once(config, times, now_ms) {
            self.warn_of_old_records(latest_ms, now_ms);
        }
        Ok(())
    }

    /// Warns of such records once in [`WARN_EVERY_MS`], as a producer that writes one mostly writes many.
    fn warn_of_old_records(&self, latest_ms: i64, now_ms: i64) {
        let at_ms = self.shared.clock.monotonic_ms();
        let due_ms = self.warn_of_old_at_ms.load(Ordering::Relaxed);
        let next_ms = at_ms + WARN_EVERY_MS;
        let is_turn = at_ms >= due_ms
            && self
                .warn_of_old_at_ms
                .compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_turn {
            tracing::warn!(
                partition = %self.hosted.name, latest_ms, now_ms,
                "records come that are older than retention.ms, and go again at once{}; \
                 message.timestamp.before.max.ms would refuse them",
                timestamps::unit_hint(latest_ms, now_ms)
            );
        }
    }

    /// Waits until an admitted batch is acknowledged by the quorum and applied.
    pub async fn acknowledged(&self, admitted: Admitted, timeout: Duration) -> Result<Appended, RequestError> {
        let Admitted {
            pending,
            append_time_ms,
            bytes,
            began,
            refusal,
            mut reserved,
        } = admitted;
        let applied = pending.applied(timeout).await;
        self.shared.metrics.decided(began.elapsed());
        let applied = applied.map_err(|error| self.hosted.propose_error(&error))?;
        match applied.reply {
            PartitionReply::Appended {
                base_offset,
                last_offset,
                duplicate,
            } => {
                let records = last_offset.get() - base_offset.get() + 1;
                if let Some(reserved) = &mut reserved {
                    reserved.is_appended = !duplicate;
                }
                self.shared.metrics.produced(&self.traffic, bytes, records);
                Ok(Appended {
                    base_offset,
                    last_offset,
                    append_time_ms,
                    log_start: self.view.log_start(),
                    duplicate,
                })
            }
            // Only that it was appended before is more than the refusal says.
            PartitionReply::Refused(Refusal::TooOld) => Err(self.refused(Refusal::TooOld)),
            PartitionReply::Refused(other) => Err(refusal.map_or_else(|| self.refused(other), |refusal| *refusal)),
            PartitionReply::LogStart(_)
            | PartitionReply::LogStartMoved(_)
            | PartitionReply::LogStartHeld(_)
            | PartitionReply::Queue(_)
            | PartitionReply::CarryRefused(_)
            | PartitionReply::Scheduled
            | PartitionReply::ScheduleRefused(_)
            | PartitionReply::Horizon(_)
            | PartitionReply::Ended { .. } => {
                unreachable!("not the reply to a batch")
            }
        }
    }
}

/// A copy of the batch with the leader's time, which the checksum covers.
fn with_append_time(batch: Bytes, time_ms: i64) -> Bytes {
    let mut copy = BytesMut::from(&batch[..]);
    batch::set_append_time(&mut copy, time_ms);
    copy.freeze()
}
