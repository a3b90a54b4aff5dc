//! One partition's replica on this broker: what the services call to append, read and trim.
//!
//! - [`view`]: what readers see of the state, and what puts it there. The state itself is of the crate `log`.
//! - [`append`]: taking batches.
//! - [`append_time`]: the times that they get from the leader.
//! - [`timestamps`]: whether the times that they have may be.
//! - [`room`]: whether there is room for them; [`inflight`]: how connections share a partition's. [`group_lag`], [`group_offsets`]: whether
//!   readers keep up.
//! - [`refusals`]: why not. [`retried`]: whether what is refused was appended before.
//! - [`fetch`][]: reading; [`rows`]: what is read has no gap. [`isolation`], [`aborted`]: what of it is for whom.
//! - [`joins`], [`ending`]: how transactions begin and end here.
//! - [`retention`]: dropping what is old, as the leader in `jangada_log` decides it. [`leading`]: what that goes by.
//! - [`keyed`], [`key_index`], [`undecided_keys`], [`key_locks`]: the last offsets of keys.
//! - `queues`: the desk of the partition's queues (`broker::queues`), and sending to them.
//! - [`compacting`], [`spent`]: what compaction (`broker::compaction`) reads and writes.
//! - [`record_time`]: the time of one record, for how old a queue's messages are.
//! - [`index_reads`]: rows of the offset index (`jangada_log::tables`) in the store.
//!
//! Only the leader answers, and only once it is ready: it has applied an entry of its own term, so it knows
//! everything that was acknowledged before.

mod aborted;
mod aborted_rows;
mod append;
mod append_time;
pub(crate) mod compacting;
mod ending;
mod fetch;
mod group_lag;
mod group_offsets;
mod index_reads;
mod inflight;
mod isolation;
mod joining;
mod joins;
mod key_index;
mod key_locks;
mod keyed;
mod leading;
mod queues;
mod recent_aborted;
mod record_time;
mod refusals;
mod retention;
mod retried;
mod room;
mod rows;
pub(crate) mod spent;
mod timestamps;
mod undecided_keys;
mod view;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod transaction_tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

pub(crate) use jangada_log::Expectation;
use jangada_log::Leader;
pub(crate) use jangada_log::question::QUESTION_BYTES;
use jangada_replication::{Group, Registry};
use jangada_storage::Store;
use jangada_types::{GroupId, LeaderEpoch, Offset, Reason, TopicConfig};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Notify, watch};

pub(crate) use self::append::{Admitted, Appended};
use self::append_time::AppendTimes;
pub(crate) use self::compacting::Bounds;
pub(crate) use self::ending::{EndMarker, watch_transactions};
pub(crate) use self::fetch::Fetched;
use self::group_offsets::GroupOffsets;
pub(crate) use self::group_offsets::{SaidAt, Slowest};
use self::inflight::Inflight;
pub(crate) use self::isolation::{Ends, Isolation, Reading};
use self::joins::Joins;
pub(crate) use self::joins::{InTransaction, Join, JoinTransactions, OpenHere, Standing};
use self::key_index::{KeptIndex, KeyIndex};
pub(crate) use self::leading::{LogStarts, RetentionClock};
pub(crate) use self::retried::may_have_been_taken;
pub(crate) use self::room::Room;
use self::spent::Spent;
use self::view::ReplicaState;
pub(crate) use self::view::View;
use crate::clock_guard::ClockGuard;
use crate::disk;
use crate::error::RequestError;
use crate::metrics::{Metrics, TopicTraffic};
use crate::pool::Pool;
use crate::queues::{BeyondDesk, QueueSpec};
use crate::replica::{Driven, Driver, DriverShared, Front, Hosted, Kind, LEADER_RETRY, ReplicaName, SurroundingsCell};

/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Partitions, among the kinds of hosted groups.
pub(crate) const KIND: Kind = Kind {
    noun: "partition",
    not_ready: Reason::LeaderNotAvailable,
    replicas_min: 1,
    without_quorum: "readers are sent away",
    is_vital: false,
};

/// What all partitions of a broker share.
pub(crate) struct Shared {
    pub store: Arc<dyn Store>,
    pub registry: Arc<Registry>,
    pub clock: Arc<ClockGuard>,
    pub metrics: Arc<Metrics>,
    /// Bytes of one partition's batches that were received and that Raft has not let go of.
    pub inflight_per_partition: usize,
    /// Bytes that may wait for this broker's disk before more is refused.
    pub queue_bytes_max: usize,
    /// Reads that may wait for the disk at once.
    pub read_pool: Pool,
    /// Packing, unpacking and checking of batches.
    pub compute: Pool,
    pub producer_expiration_ms: i64,
    /// When leaders look for what may go, and whose clock says so.
    pub retention: RetentionClock,
    /// What runs the partitions' leaders.
    pub driving: Arc<DriverShared<Leader>>,
    /// What the desks of queues need beyond their partitions, once the broker serves.
    pub beyond_desks: OnceLock<Arc<dyn BeyondDesk>>,
    /// What empties appends whose batches nobody reads.
    pub spent: Arc<Notify>,
    /// The coordinators of transactional ids, once the broker serves.
    pub transactions: OnceLock<Arc<dyn JoinTransactions>>,
}

impl Shared {
    /// The state of a partition that is to be opened, and in which nothing was written.
    pub fn empty_partition(&self, partition: (GroupId, ReplicaName), config: &TopicConfig) -> ReplicaState {
        let surroundings = SurroundingsCell::new(self.retention.surroundings(config, &[], None));
        ReplicaState {
            driven: Driven::new(partition, surroundings, self.driving.clone()),
            view: Arc::new(View::new(checkpoint_bytes(config), Spent::new(self.spent.clone()))),
        }
    }

    /// Refuses more for a group that is led here when the disk does not take it.
    pub fn check_disk(&self, hosted: &Hosted) -> Result<(), RequestError> {
        let Hosted { group, title, .. } = hosted;
        disk::check(&*self.store, self.queue_bytes_max, &self.registry, group, title)
    }
}

/// The replica of one partition, as the services call it.
pub(crate) struct Partition {
    pub hosted: Arc<Hosted>,
    pub view: Arc<View>,
    driver: Driver<Leader>,
    config: RwLock<Arc<TopicConfig>>,
    append_times: Mutex<AppendTimes>,
    /// The index of keys, while the topic has `key.index.enable`.
    key_index: KeptIndex,
    inflight: Arc<Inflight>,
    /// The committed offsets of groups, while the topic bounds their lag.
    group_offsets: GroupOffsets,
    /// What was found of the open transactions of producers.
    joins: Joins,
    /// The queues of the partition's topic, as the metadata has them.
    queues: watch::Sender<Arc<[QueueSpec]>>,
    /// Bytes that compaction has taken, once that is known.
    gone_bytes: parking_lot::Mutex<Option<u64>>,
    /// This partition, for the task of its desk.
    this: OnceLock<Weak<Self>>,
    traffic: Arc<TopicTraffic>,
    /// The monotonic time of the next warning about records that retention deletes at once.
    warn_of_old_at_ms: AtomicU64,
    shared: Arc<Shared>,
}

impl Partition {
    pub fn new(hosted: Arc<Hosted>, state: ReplicaState, config: Arc<TopicConfig>, shared: Arc<Shared>) -> Self {
        let ReplicaState { driven, view } = state;
        let inflight = Inflight::new(shared.inflight_per_partition);
        let start = || start_index(&hosted.group, &view, &shared);
        let key_index = KeptIndex::new(config.key_index.then(start));
        Self {
            traffic: shared.metrics.topics.join(&hosted.name.topic),
            driver: Driver::new(hosted.clone(), driven),
            hosted,
            view,
            config: RwLock::new(config),
            append_times: Mutex::new(AppendTimes::new()),
            key_index,
            inflight,
            group_offsets: GroupOffsets::default(),
            joins: Joins::default(),
            queues: watch::Sender::new(Arc::new([])),
            gone_bytes: parking_lot::Mutex::default(),
            this: OnceLock::new(),
            warn_of_old_at_ms: AtomicU64::new(0),
            shared,
        }
    }

    /// Takes the topic's settings. When they switch the index of keys, this waits for batches that are being admitted.
    pub async fn set_config(&self, config: Arc<TopicConfig>) {
        let wanted = config.key_index;
        self.view.set_checkpoint_bytes(checkpoint_bytes(&config));
        if config.max_group_lag.is_none() {
            self.group_offsets.clear();
        }
        *self.config.write() = config;
        self.refresh_surroundings();
        let start = || start_index(&self.hosted.group, &self.view, &self.shared);
        self.key_index.keep(wanted, start).await;
    }

    /// What the leader goes by follows from the settings of the topic, and of its queues.
    fn refresh_surroundings(&self) {
        let (config, queues, gone_bytes) = (self.config(), self.queues.borrow().clone(), *self.gone_bytes.lock());
        self.driver
            .set_surroundings(self.shared.retention.surroundings(&config, &queues, gone_bytes));
    }

    /// Compaction has taken so many bytes: retention by bytes goes by what is left.
    pub fn set_gone_bytes(&self, gone_bytes: u64) {
        if self.gone_bytes.lock().replace(gone_bytes) != Some(gone_bytes) && self.config().cleanup_policy.deletes() {
            self.refresh_surroundings();
        }
    }

    /// Bytes of the batches from log start to high watermark, as compaction has left them.
    pub fn stored_bytes(&self) -> u64 {
        let gone_bytes = self
            .gone_bytes
            .lock()
            .filter(|_| self.config().cleanup_policy.compacts());
        self.view.retained_bytes().saturating_sub(gone_bytes.unwrap_or(0))
    }

    /// Where the topic's records are counted.
    pub fn traffic(&self) -> &Arc<TopicTraffic> {
        &self.traffic
    }

    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().clone()
    }

    /// Checks the epoch that a client knows.
    pub fn check_epoch(&self, known: Option<u32>) -> Result<LeaderEpoch, RequestError> {
        let epoch = self.hosted.leader_epoch()?;
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
            self.hosted.name
        );
        Err(RequestError::new(reason, message)
            .with("expected", epoch)
            .with("actual", known)
            .retry_after(LEADER_RETRY))
    }

    /// The ends of the log, at or after those of any acknowledgement before the call.
    pub async fn confirmed_ends(&self) -> Result<Ends, RequestError> {
        self.hosted.leader_epoch()?;
        let confirmed = self.hosted.confirm_lead(READ_TIMEOUT).await;
        confirmed.map_err(|error| self.hosted.read_error(&error))?;
        Ok(self.view.ends())
    }

    /// The log start and the high watermark as this replica knows them, if it leads and a quorum answers it.
    pub fn ends_if_led(&self) -> Option<(Offset, Offset)> {
        let leads = self.hosted.is_ready() && !self.hosted.check_quorum.is_lost();
        leads.then(|| (self.view.log_start(), self.view.high_watermark()))
    }
}

impl Front for Partition {
    /// Ends the desk of its queues, and the index of keys, which writes to the store by itself.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.close_desk();
        let start = || start_index(&self.hosted.group, &self.view, &self.shared);
        Box::pin(self.key_index.keep(false, start))
    }

    fn tick(&self) {
        self.driver.tick();
    }

    fn hand_over(&self) {
        self.hand_over_queues();
    }

    fn refresh_leadership(&self) {
        self.driver.refresh_leadership();
        self.refresh_desk();
    }
}

fn start_index(group: &Group, view: &Arc<View>, shared: &Shared) -> KeyIndex {
    let (store, rows) = (shared.store.clone(), group.derived_rows());
    KeyIndex::start(group.id(), store, rows, view.clone(), shared.read_pool.clone())
}

/// Bytes between two checkpoints: the segment size, or less when the topic keeps little, so that retention by size
/// has steps to take.
pub(crate) fn checkpoint_bytes(config: &TopicConfig) -> u64 {
    let steps = config.retention_bytes.map_or(u64::MAX, |bytes| bytes / 4);
    config
        .segment_bytes
        .min(steps.max(jangada_types::limits::SEGMENT_BYTES_MIN))
}
