//! One partition's replica on this broker: what the services call to append, read and trim.
//!
//! - [`machine`]: the state machine, and the view that readers see. - [`command`]: what is replicated. -
//!   [`producers`]: the idempotent producers.
//! - [`fetch`]: reading. - [`retention`]: dropping what is old.
//! - [`condition`]: what a batch may expect. - [`keyed`], [`key_index`], [`key_locks`]: the last offsets of keys.
//!
//! Only the leader answers, and only once it is ready: it has applied an entry of its own term, so it knows
//! everything that was acknowledged before.

pub(crate) mod command;
mod condition;
mod fetch;
mod key_index;
mod key_locks;
mod keyed;
mod machine;
mod producers;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jangada_replication::{Group, ProposeError, ReadError, Registry};
use jangada_storage::{Store, StoreCondition};
use jangada_types::batch::{self, TimestampType};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, PRODUCERS_PER_PARTITION_MAX};
use jangada_types::{BatchHeader, Codec, LeaderEpoch, Offset, PartitionIndex, Reason, ReplicaId, TopicConfig};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::command::{PartitionCommand, PartitionReply};
pub(crate) use self::condition::Expectation;
use self::condition::{Conditions, NO_OFFSET};
use self::key_index::KeyIndex;
use self::keyed::Pending;
pub(crate) use self::machine::{PartitionMachine, View, epoch_of};
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::pool::{Pool, SMALL_BYTES};
use crate::seams::WallClock;

/// After this time a producer that was turned away for lack of room should try again.
const BUSY_RETRY: Duration = Duration::from_millis(25);
/// After this time a client should look for the new leader.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// After this time a producer should try a full disk again.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Which partition, in a message for people.
#[derive(Clone, Debug)]
pub(crate) struct PartitionName {
    pub topic: Arc<str>,
    pub index: PartitionIndex,
}

impl std::fmt::Display for PartitionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

/// What all partitions of a broker share.
pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub registry: Arc<Registry>,
    pub clock: Arc<dyn WallClock>,
    pub metrics: Arc<Metrics>,
    /// Bytes of batches that were taken and not answered, over all partitions.
    pub inflight: Arc<Semaphore>,
    pub inflight_per_partition: usize,
    /// Reads that may wait for the disk at once.
    pub read_pool: Pool,
    /// Packing, unpacking and checking of batches.
    pub compute: Pool,
    pub producer_expiration_ms: i64,
}

/// See the module text.
pub(crate) struct Partition {
    pub name: PartitionName,
    pub group: Group,
    pub view: Arc<View>,
    config: RwLock<Arc<TopicConfig>>,
    /// While the topic has `key.index.enable`.
    key_index: RwLock<Option<Arc<KeyIndex>>>,
    /// Held for reading from the look at `key_index` until the batch is proposed.
    admitting: tokio::sync::RwLock<()>,
    inflight: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// How an append is acknowledged.
pub(crate) struct Appended {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub append_time_ms: i64,
    pub log_start: Offset,
    pub duplicate: bool,
}

/// A batch that was taken: on its way to the quorum. Its bytes count against the limits until it is answered or
/// dropped.
pub(crate) struct Admitted {
    pending: Pending,
    append_time_ms: i64,
    bytes: usize,
    _room: Room,
}

/// Part of the budgets for bytes that were taken and not answered: the partition's and the broker's.
pub(crate) struct Room([OwnedSemaphorePermit; 2]);

impl Partition {
    pub fn new(
        name: PartitionName,
        group: Group,
        view: Arc<View>,
        config: Arc<TopicConfig>,
        shared: Arc<Shared>,
    ) -> Self {
        let inflight = Arc::new(Semaphore::new(shared.inflight_per_partition));
        let partition = Self {
            name,
            group,
            view,
            config: RwLock::new(config),
            key_index: RwLock::default(),
            admitting: tokio::sync::RwLock::default(),
            inflight,
            shared,
        };
        partition.keep_key_index();
        partition
    }

    pub fn set_config(&self, config: Arc<TopicConfig>) {
        self.view.set_checkpoint_bytes(checkpoint_bytes(&config));
        *self.config.write() = config;
        self.keep_key_index();
    }

    /// Starts or ends the index of keys, as the topic's settings say.
    fn keep_key_index(&self) {
        let wanted = self.config().key_index;
        let mut index = self.key_index.write();
        if wanted && index.is_none() {
            let shared = &self.shared;
            let (store, reads) = (shared.store.clone(), shared.read_pool.clone());
            *index = Some(Arc::new(KeyIndex::start(
                self.group.id(),
                store,
                self.view.clone(),
                reads,
            )));
        } else if !wanted {
            *index = None;
        }
    }

    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().clone()
    }

    /// The leader epoch, if this replica leads and is ready.
    pub fn leader_epoch(&self) -> Result<LeaderEpoch, RequestError> {
        let status = self.group.status();
        if status.ready {
            return Ok(epoch_of(status.term));
        }
        if status.leading {
            let message = format!(
                "partition {}: this broker was just elected and is not ready yet",
                self.name
            );
            return Err(RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY));
        }
        Err(self.not_leader())
    }

    /// Checks the epoch that a client knows.
    pub fn check_epoch(&self, known: Option<u32>) -> Result<LeaderEpoch, RequestError> {
        let epoch = self.leader_epoch()?;
        let Some(known) = known else { return Ok(epoch) };
        let (reason, what) = match known.cmp(&epoch.get()) {
            std::cmp::Ordering::Equal => return Ok(epoch),
            std::cmp::Ordering::Less => (
                Reason::StaleLeaderEpoch,
                "a newer leader was elected: refresh the metadata",
            ),
            std::cmp::Ordering::Greater => (
                Reason::UnknownLeaderEpoch,
                "this broker has not heard of that election yet: try again",
            ),
        };
        let message = format!(
            "partition {}: leader epoch {known} was sent, this is epoch {epoch}; {what}",
            self.name
        );
        Err(RequestError::new(reason, message)
            .with("expected", epoch)
            .with("actual", known)
            .retry_after(LEADER_RETRY))
    }

    fn not_leader(&self) -> RequestError {
        let status = self.group.status();
        match status.leader.filter(|leader| *leader != self.group.replica()) {
            Some(leader) => RequestError::new(
                Reason::NotLeader,
                format!("partition {}: broker {} leads it", self.name, leader.broker),
            )
            .with("leader_id", leader.broker)
            .with("leader_epoch", status.term)
            .retry_after(LEADER_RETRY),
            None => RequestError::new(
                Reason::LeaderNotAvailable,
                format!(
                    "partition {}: no leader is known; an election may be under way",
                    self.name
                ),
            )
            .retry_after(LEADER_RETRY),
        }
    }

    /// Checks a batch and hands it to the quorum. Batches of one caller keep the order of its calls. The room is what the
    /// caller took for it, if it did.
    ///
    /// On a topic with an index of keys this waits for other batches with the same keys, if one of them is conditional.
    pub async fn admit(
        &self,
        batch: Bytes,
        expected: Expectation,
        room: Option<Room>,
    ) -> Result<Admitted, RequestError> {
        self.leader_epoch()?;
        self.check_disk()?;
        self.check_expectation(expected)?;
        let config = self.config();
        let header = batch::validate(&batch, &config.batch_limits()).map_err(|error| self.refuse(error.into()))?;
        let bytes = batch.len();
        // Before anything that is waited for: what waits counts.
        let room = match room {
            Some(room) => self.fit(room, bytes)?,
            None => self.room(bytes)?,
        };
        if config.full_validation {
            self.validate_records(&header, &batch).await?;
        }
        if !header.producer_id.is_some() {
            self.refuse_early(expected)?;
        }
        let now_ms = self.shared.clock.now_ms();
        let (batch, append_time_ms) = match config.timestamp_type {
            TimestampType::CreateTime => (batch, -1),
            TimestampType::LogAppendTime => (with_append_time(batch, now_ms), now_ms),
        };
        let (_admitting, index) = self.begin_admitting(expected).await?;
        let mut conditions = Conditions {
            end_offset: expected.end_offset,
            key: None,
        };
        let mut turn = None;
        if let Some(index) = index {
            let (taken, key) = self.take_turn(&index, &batch, expected).await?;
            turn = Some(taken);
            conditions.key = key;
        }
        let command = PartitionCommand::Append {
            now_ms,
            expiration_ms: self.shared.producer_expiration_ms,
            conditions,
        };
        let command = command.encode(batch);
        let pending = match turn {
            Some(turn) => Pending::propose(self.group.clone(), command, turn).await,
            None => self.group.submit(command).await.map(Pending::Proposal),
        };
        let pending = pending.map_err(|error| self.propose_error(error))?;
        Ok(Admitted {
            pending,
            append_time_ms,
            bytes,
            _room: room,
        })
    }

    /// The index of keys, if there is one, as it stays until the guard goes.
    async fn begin_admitting(
        &self,
        expected: Expectation,
    ) -> Result<(tokio::sync::RwLockReadGuard<'_, ()>, Option<Arc<KeyIndex>>), RequestError> {
        loop {
            let guard = self.admitting.read().await;
            let index = self.key_index.read().clone();
            match &index {
                None if expected.key_offset.is_some() => return Err(self.no_key_index()),
                Some(index) if expected.key_offset.is_some() && !index.is_settled() => {
                    drop(guard);
                    self.settle_keys(index).await?;
                }
                _ => return Ok((guard, index)),
            }
        }
    }

    fn check_expectation(&self, expected: Expectation) -> Result<(), RequestError> {
        let bad = |field, offset: Offset, least| {
            let message = format!("partition {}: {field} is {offset}: {least} or more", self.name);
            Err(RequestError::new(Reason::InvalidRequest, message).with("actual", offset))
        };
        match (expected.end_offset, expected.key_offset) {
            (Some(offset), _) if offset < Offset(0) => bad("expected_end_offset", offset, 0),
            (_, Some(offset)) if offset < NO_OFFSET => bad("expected_key_offset", offset, -1),
            _ => Ok(()),
        }
    }

    /// The end offset never goes back, so what is below it now is refused for certain. Not for idempotent batches: they
    /// may be retries of what was appended.
    fn refuse_early(&self, expected: Expectation) -> Result<(), RequestError> {
        let actual = self.view.high_watermark();
        match expected.end_offset {
            Some(expected) if expected < actual => {
                Err(self.refused(PartitionReply::EndOffsetDiffers { expected, actual }))
            }
            _ => Ok(()),
        }
    }

    /// Waits until an admitted batch is acknowledged by the quorum and applied.
    pub async fn acknowledged(&self, admitted: Admitted, timeout: Duration) -> Result<Appended, RequestError> {
        let Admitted {
            pending,
            append_time_ms,
            bytes,
            _room,
        } = admitted;
        let applied = pending
            .applied(timeout)
            .await
            .map_err(|error| self.propose_error(error))?;
        let reply = PartitionReply::decode(&applied.reply).expect("the reply was encoded by this process");
        match reply {
            PartitionReply::Appended {
                base_offset,
                last_offset,
                duplicate,
            } => {
                self.shared
                    .metrics
                    .produced(bytes, last_offset.get() - base_offset.get() + 1);
                Ok(Appended {
                    base_offset,
                    last_offset,
                    append_time_ms,
                    log_start: self.view.log_start(),
                    duplicate,
                })
            }
            other => Err(self.refused(other)),
        }
    }

    async fn validate_records(&self, header: &BatchHeader, batch: &Bytes) -> Result<(), RequestError> {
        let valid = if batch.len() <= SMALL_BYTES && matches!(header.attributes.codec(), Ok(Codec::None)) {
            batch::validate_records(batch, DECOMPRESSED_BYTES_MAX)
        } else {
            let batch = batch.clone();
            let validate = move || batch::validate_records(&batch, DECOMPRESSED_BYTES_MAX);
            self.shared.compute.run(validate).await?
        };
        valid.map_err(|error| self.refuse(error.into()))
    }

    fn refused(&self, reply: PartitionReply) -> RequestError {
        let name = &self.name;
        match reply {
            PartitionReply::OutOfOrder { expected } => RequestError::new(
                Reason::OutOfOrderSequence,
                format!(
                    "partition {name}: the producer's next sequence is {expected}; a batch before this one is missing"
                ),
            )
            .with("expected", expected),
            PartitionReply::Fenced { current } => RequestError::new(
                Reason::ProducerFenced,
                format!(
                    "partition {name}: epoch {current} of this producer has written; this is an older one and must stop"
                ),
            )
            .with("expected", current),
            PartitionReply::TooOld => RequestError::new(
                Reason::DuplicateSequence,
                format!("partition {name}: the batch was appended before, but its offsets are no longer remembered"),
            ),
            PartitionReply::UnknownProducer => RequestError::new(
                Reason::UnknownProducer,
                format!(
                    "partition {name}: nothing is remembered of this producer: it was silent for too long, or \
                     {PRODUCERS_PER_PARTITION_MAX} others have written since; begin again with a new epoch and sequence 0"
                ),
            ),
            PartitionReply::EndOffsetDiffers { expected, actual } => RequestError::new(
                Reason::ConditionFailed,
                format!("partition {name}: the batch expects to begin at offset {expected}; the log ends at {actual}"),
            )
            .with("expected", expected)
            .with("actual", actual),
            PartitionReply::KeyOffsetDiffers { expected, actual } => RequestError::new(
                Reason::ConditionFailed,
                format!(
                    "partition {name}: the batch expects its key's last record at offset {expected}; it is at {actual} \
                     (-1: there is none)"
                ),
            )
            .with("expected", expected)
            .with("actual", actual),
            PartitionReply::LeaderChanged => RequestError::new(
                Reason::LeaderNotAvailable,
                format!("partition {name}: its leader changed while the key was looked up; nothing was appended"),
            )
            .retry_after(LEADER_RETRY),
            PartitionReply::Appended { .. } | PartitionReply::LogStart(_) | PartitionReply::LogStartMoved(_) => {
                unreachable!("not the reply to a refused batch")
            }
        }
    }

    /// Says in an error which partition it is about.
    pub fn refuse(&self, mut error: RequestError) -> RequestError {
        error.message = format!("partition {}: {}", self.name, error.message);
        error
    }

    fn check_disk(&self) -> Result<(), RequestError> {
        match self.shared.store.condition() {
            StoreCondition::Healthy => self.check_followers_disks(),
            StoreCondition::DiskLow { free, reserve } => {
                let message = format!(
                    "partition {}: its leader's disk has {free} bytes free, below the reserve of {reserve}; reading goes on, \
                     free space or trim topics",
                    self.name
                );
                Err(RequestError::new(Reason::DiskFull, message)
                    .with("actual", free)
                    .with("limit", reserve)
                    .retry_after(DISK_RETRY))
            }
            StoreCondition::Fenced(cause) => Err(RequestError::new(
                Reason::StoreFenced,
                format!("the broker's store has failed: {cause}"),
            )
            .retry_after(LEADER_RETRY)),
        }
    }

    /// Refuses when a quorum would need a replica whose disk is down to its reserve. As long as it does not, the others
    /// go on: they cannot keep from it what they commit.
    fn check_followers_disks(&self) -> Result<(), RequestError> {
        let low = self.shared.registry.low_disks();
        if low.is_empty() {
            return Ok(());
        }
        let voters = self.group.members().voters;
        let alive = voters
            .iter()
            .filter(|voter| self.shared.registry.is_alive(voter.broker));
        let (full, sound): (Vec<&ReplicaId>, Vec<&ReplicaId>) = alive.partition(|voter| low.contains(&voter.broker));
        if full.is_empty() || sound.len() > voters.len() / 2 {
            return Ok(());
        }
        let full: Vec<String> = full.iter().map(|voter| voter.broker.to_string()).collect();
        let full = full.join(", ");
        let message = format!(
            "partition {}: {} of its {} replicas can take more, and the disk of broker {full} is below its reserve; reading \
             goes on, free space there or trim topics",
            self.name,
            sound.len(),
            voters.len()
        );
        Err(RequestError::new(Reason::DiskFull, message)
            .with("broker", full)
            .retry_after(DISK_RETRY))
    }

    /// Takes room for so many bytes, or refuses at once. Those of a request in the plain form may be more than a budget
    /// has; such a request has the budget for itself.
    pub fn room(&self, bytes: usize) -> Result<Room, RequestError> {
        let for_partition = bytes.min(self.shared.inflight_per_partition);
        Ok(Room([
            self.reserve(&self.inflight, for_partition, Reason::PartitionBusy)?,
            self.reserve(&self.shared.inflight, for_partition, Reason::BrokerBusy)?,
        ]))
    }

    /// The room as it is for so many bytes: the rest is given back, or what is missing taken.
    fn fit(&self, Room(mut permits): Room, bytes: usize) -> Result<Room, RequestError> {
        let has = permits[0].num_permits();
        if bytes > has {
            let Room(more) = self.room(bytes - has)?;
            permits
                .iter_mut()
                .zip(more)
                .for_each(|(permit, more)| permit.merge(more));
        } else {
            permits.iter_mut().for_each(|permit| drop(permit.split(has - bytes)));
        }
        Ok(Room(permits))
    }

    fn reserve(
        &self,
        budget: &Arc<Semaphore>,
        bytes: usize,
        reason: Reason,
    ) -> Result<OwnedSemaphorePermit, RequestError> {
        let permits = u32::try_from(bytes).expect("a budget's part is at most 1 GiB");
        budget.clone().try_acquire_many_owned(permits).map_err(|_| {
            let message = match reason {
                Reason::PartitionBusy => format!("partition {}: too many bytes wait for its quorum", self.name),
                _ => "the broker has too many bytes waiting for their quorums".to_owned(),
            };
            RequestError::new(reason, message).retry_after(BUSY_RETRY)
        })
    }

    fn propose_error(&self, error: ProposeError) -> RequestError {
        match error {
            ProposeError::NotLeader(_) => self.not_leader(),
            ProposeError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!(
                    "partition {}: no quorum answered within the time given; the outcome is unknown",
                    self.name
                ),
            )
            .unknown(),
            ProposeError::Discarded | ProposeError::Stopped(_) => {
                RequestError::new(Reason::LeaderNotAvailable, format!("partition {}: {error}", self.name))
                    .unknown()
                    .retry_after(LEADER_RETRY)
            }
        }
    }

    fn read_error(&self, error: ReadError) -> RequestError {
        match error {
            ReadError::NotLeader(_) => self.not_leader(),
            ReadError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!("partition {}: no quorum confirmed the read", self.name),
            )
            .retry_after(LEADER_RETRY),
        }
    }

    /// The high watermark, at or after that of any acknowledgement before the call.
    pub async fn latest_offset(&self) -> Result<Offset, RequestError> {
        self.leader_epoch()?;
        self.group
            .confirm_read(READ_TIMEOUT)
            .await
            .map_err(|error| self.read_error(error))?;
        Ok(self.view.high_watermark())
    }
}

/// Bytes between two checkpoints: the segment size, or less when the topic keeps little, so that retention by size
/// has steps to take.
pub(crate) fn checkpoint_bytes(config: &TopicConfig) -> u64 {
    let steps = config.retention_bytes.map_or(u64::MAX, |bytes| bytes / 4);
    config
        .segment_bytes
        .min(steps.max(jangada_types::limits::SEGMENT_BYTES_MIN))
}

/// The batch with the leader's time. Under the checksum, so it costs a copy.
fn with_append_time(batch: Bytes, now_ms: i64) -> Bytes {
    let mut copy = BytesMut::from(&batch[..]);
    batch::set_append_time(&mut copy, now_ms);
    copy.freeze()
}
