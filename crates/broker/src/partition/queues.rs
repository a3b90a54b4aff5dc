//! The queues whose messages are a partition's records: the desk that leads them here, and messages that are sent to them.

use std::sync::Arc;

use bytes::Bytes;
use jangada_log::IdFinding;
use jangada_queue::{Marks, QueueId};
use jangada_types::batch::{BatchIter, Records, validate_with_times};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::queue_config::OnOverflow;
use jangada_types::{BatchBuilder, BatchHeader, Codec, Offset, QueueConfig, Reason, Record};

use super::append::With;
use super::inflight::Full;
use super::{Admitted, Expectation, InTransaction, Partition, Room, checkpoint_bytes};
use crate::disk;
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::queues::{BeyondDesk, Desk, DeskTask, QueueSpec};
use crate::replica::LEADER_RETRY;

/// Bytes of batches that may be on their way through the quorum of a partition whose queues have consumers: a command of the queues waits
/// behind them.
const BESIDE_CONSUMERS_MAX: usize = 4 << 20;
/// Messages that are so many offsets apart are read at once.
const CLOSE_OFFSETS: u64 = 64;

impl Partition {
    /// Takes the queues of the partition's topic, as the metadata has them.
    pub fn set_queues(self: &Arc<Self>, queues: Arc<[QueueSpec]>) {
        let _ = self.this.set(Arc::downgrade(self));
        let is_new = self.queues.send_if_modified(|known| {
            let is_new = *known != queues;
            *known = queues;
            is_new
        });
        if is_new {
            self.refresh_surroundings();
            self.refresh_desk();
        }
    }

    /// The desk of the partition's queues.
    ///
    /// # Errors
    /// The partition is not led here, or has no queue; DISK_FULL below half of the disk's reserve.
    pub fn desk(&self) -> Result<Arc<Desk>, RequestError> {
        self.hosted.leader_epoch()?;
        self.check_queue_disk()?;
        if let Some(desk) = self.view.desk.get().filter(|desk| !desk.has_ended()) {
            return Ok(desk);
        }
        self.refresh_desk();
        self.view.desk.get().filter(|desk| !desk.has_ended()).ok_or_else(|| {
            if self.queues.borrow().is_empty() {
                let message = format!(
                    "{}: no queue has its messages here, as far as this broker knows",
                    self.hosted.title
                );
                return RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY);
            }
            self.hosted.not_leader()
        })
    }

    /// Begins or ends the desk if this replica's leadership asks for it.
    pub(crate) fn refresh_desk(&self) {
        let cell = &self.view.desk;
        let is_wanted = !self.queues.borrow().is_empty() || cell.has_slots();
        let Some(this) = self.this.get().filter(|_| is_wanted || cell.is_there()) else {
            return;
        };
        // Under the lock: so the engine is told of every command that is not in the state from which it begins.
        let begun = self.driver.with_machine(|state| {
            let status = self.hosted.group.status();
            let is_led = status.ready && !self.hosted.check_quorum.is_lost();
            if let Some(desk) = cell.get() {
                if is_wanted && is_led && desk.term == status.term && !desk.has_ended() {
                    return None;
                }
                desk.end();
            }
            if !is_wanted || !is_led || self.check_queue_disk().is_err() {
                if cell.is_there() {
                    cell.set(None);
                }
                return None;
            }
            let (driver, hosted) = (self.driver.clone(), self.hosted.clone());
            let timers = self.shared.driving.timers.clone();
            let desk = Arc::new(Desk::begin(
                status.term,
                state,
                driver,
                hosted,
                timers,
                cell.succession(),
            ));
            cell.set(Some(desk.clone()));
            Some(desk)
        });
        if let Some(desk) = begun {
            let task = DeskTask {
                desk,
                partition: this.clone(),
                specs: self.queues.subscribe(),
                ends: self.view.watch_ends(),
            };
            tokio::spawn(task.run());
        }
    }

    /// Refuses commands of the queues when less than half of the disk's reserve is free.
    ///
    /// # Errors
    /// DISK_FULL.
    pub fn check_queue_disk(&self) -> Result<(), RequestError> {
        disk::check_half(&*self.shared.store, &self.hosted.title)
    }

    /// The replica is closed.
    pub(super) fn close_desk(&self) {
        self.driver.with_machine(|_| {
            if let Some(desk) = self.view.desk.get() {
                desk.end();
                self.view.desk.set(None);
            }
        });
    }

    /// Leadership is about to go to another broker: the queues hand nothing out any more, and their consumers are told.
    pub fn hand_over_queues(&self) {
        if let Some(desk) = self.view.desk.get() {
            desk.hand_over();
        }
    }

    /// Refuses messages for a queue with limits while nobody counts them here: this broker has the queue from the metadata, and its leader
    /// here has not opened it yet.
    ///
    /// # Errors
    /// NOT_READY, NOT_LEADER.
    pub fn check_limited(&self, queue: QueueId, config: &QueueConfig) -> Result<(), RequestError> {
        let has_limit = config.messages_max.is_some() || config.bytes_max.is_some();
        match has_limit && config.overflow == OnOverflow::Reject {
            true => self.desk()?.check_open(queue),
            false => Ok(()),
        }
    }

    /// Like [`Partition::admit`], for messages of a queue: with what is said of them beside the records, if anything is, and what was found
    /// of their ids.
    ///
    /// # Errors
    /// QUEUE_FULL, NOT_READY while a queue with a limit has no slot here, and those of a batch.
    pub async fn admit_messages(
        &self,
        batch: Bytes,
        marks: Option<Marks>,
        ids: Option<IdFinding>,
        room: Room,
    ) -> Result<Admitted, RequestError> {
        let with = |marks: Option<Marks>| marks.map_or(With::Nothing, |marks| With::Marks(marks, ids));
        self.admit_sent(batch, marks, with, room).await
    }

    /// Likewise, for messages that are sent in a transaction.
    ///
    /// # Errors
    /// Those of [`Partition::admit_messages`], and of [`Partition::admit_in`].
    pub async fn admit_messages_in(
        &self,
        batch: Bytes,
        marks: Option<Marks>,
        transaction: &InTransaction,
        room: Room,
    ) -> Result<Admitted, RequestError> {
        let with = |marks| With::Transaction(transaction, marks);
        self.admit_sent(batch, marks, with, room).await
    }

    async fn admit_sent<'a>(
        &self,
        batch: Bytes,
        marks: Option<Marks>,
        with: impl FnOnce(Option<Marks>) -> With<'a>,
        room: Room,
    ) -> Result<Admitted, RequestError> {
        let header = BatchHeader::parse(&batch).map_err(|error| self.refuse(error.into()))?;
        let count = u64::try_from(header.record_count).unwrap_or(0);
        if let Some(marks) = &marks
            && marks.0.len() as u64 != count
        {
            let message = format!("{}: {} marks for {count} messages", self.hosted.title, marks.0.len());
            return Err(RequestError::new(Reason::Internal, message));
        }
        let is_limited = self.queues.borrow().iter().any(QueueSpec::is_limited);
        let desk = match is_limited {
            true => Some(self.desk()?),
            false => self.view.desk.get(),
        };
        let reserved = desk.map(|desk| desk.reserve((count, batch.len() as u64), is_limited));
        let reserved = reserved.transpose()?.flatten();
        let with = with(marks.filter(|marks| !marks.is_empty()));
        let mut admitted = self.admit_with(batch, Expectation::default(), room, with).await?;
        admitted.reserved = reserved;
        Ok(admitted)
    }

    /// Refuses what is not to be written while the disk is at its reserve.
    ///
    /// # Errors
    /// DISK_FULL, STORE_FENCED, BROKER_BUSY.
    pub fn check_disk(&self) -> Result<(), RequestError> {
        self.shared.check_disk(&self.hosted)
    }

    /// Refuses the message of a schedule as that of a sender would be.
    ///
    /// # Errors
    /// DISK_FULL, and those of a batch.
    pub fn check_scheduled(&self, batch: &Bytes) -> Result<(), RequestError> {
        self.check_disk()?;
        let checked = validate_with_times(batch, &self.config().batch_limits());
        checked.map(drop).map_err(|error| self.refuse(error.into()))
    }

    /// The message of a schedule was appended.
    pub fn count_scheduled(&self, bytes: usize) {
        self.shared.metrics.produced(&self.traffic, bytes, 1);
    }

    /// Refuses a batch when others that are on their way would hold up the small commands of a queue whose consumers wait here. A batch
    /// that has the way for itself may be of any size.
    pub(super) fn check_queue_share(&self, bytes: usize) -> Result<(), RequestError> {
        let Some(desk) = self.view.desk.get() else {
            return Ok(());
        };
        let others = self.inflight.used().saturating_sub(bytes);
        match others > BESIDE_CONSUMERS_MAX && desk.has_consumers() {
            true => Err(self.full(Full::Partition)),
            false => Ok(()),
        }
    }

    /// A batch of these records as they are, in ascending order: as many as have `bytes_max`, but one at least. Says how many they are.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn messages_again(&self, offsets: &[u64], bytes_max: usize) -> Result<(Bytes, usize), RequestError> {
        let mut builder = BatchBuilder::new(Codec::None);
        let append = |record: &Record| {
            builder
                .append_record(record)
                .map_err(|error| self.undecodable(&error))?;
            Ok(builder.estimated_size() < bytes_max)
        };
        self.visit_messages(offsets, bytes_max, append).await?;
        let count = builder.len();
        Ok((builder.build(), count))
    }

    /// Reads these records, in ascending order, and shows each, until `visit` says that it wants no more. At most about `bytes_max` are in
    /// memory at once.
    ///
    /// # Errors
    /// They cannot be read, or `visit` refuses one.
    pub async fn visit_messages(
        &self,
        offsets: &[u64],
        bytes_max: usize,
        mut visit: impl FnMut(&Record) -> Result<bool, RequestError>,
    ) -> Result<(), RequestError> {
        let mut left = offsets;
        while let [first, ..] = left {
            let at = Offset(i64::try_from(*first).unwrap_or(i64::MAX));
            let is_close = left.get(1).is_some_and(|next| next - first <= CLOSE_OFFSETS);
            let at_once = if is_close { bytes_max } else { 1 };
            let (batches, next) = self.read_for_queues(at, at_once).await?;
            for batch in BatchIter::new(batches) {
                let (_, batch) = batch.map_err(|error| self.undecodable(&error))?;
                for record in Records::new(&batch, DECOMPRESSED_BYTES_MAX).map_err(|error| self.undecodable(&error))? {
                    let record = record.map_err(|error| self.undecodable(&error))?;
                    let [first, rest @ ..] = left else { break };
                    if record.offset.get().unsigned_abs() != *first {
                        continue;
                    }
                    left = rest;
                    if !visit(&record)? {
                        return Ok(());
                    }
                }
            }
            let is_passed = |first: &u64| *first < next.get().unsigned_abs();
            if left.first().is_some_and(is_passed) {
                let message = format!("{}: message {} cannot be found in the log", self.hosted.title, left[0]);
                return Err(RequestError::new(Reason::Internal, message));
            }
        }
        Ok(())
    }

    /// What the desks of this broker need beyond their partitions; none: the broker does not serve yet.
    pub fn beyond_desks(&self) -> Option<Arc<dyn BeyondDesk>> {
        self.shared.beyond_desks.get().cloned()
    }

    /// The counters of this broker.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What a cut of the log frees at once, bytes.
    pub fn log_part_bytes(&self) -> u64 {
        checkpoint_bytes(&self.config())
    }
}
