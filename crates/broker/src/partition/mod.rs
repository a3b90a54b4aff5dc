//! One partition's replica on this broker: what the services call to append, read and trim.
//!
//! - [`machine`]: the state machine, and the view that readers see.
//! - [`command`]: what is replicated.
//! - [`producers`]: the idempotent producers.
//! - [`append`]: taking batches.
//! - [`append_time`]: the times that they get from the leader.
//! - [`timestamps`]: whether the times that they have may be.
//! - [`room`]: whether there is room for them; [`inflight`]: how connections share a partition's.
//! - [`refusals`]: why not. [`retried`]: whether what is refused was appended before.
//! - [`fetch`][]: reading; [`rows`]: what is read has no gap.
//! - [`retention`]: dropping what is old.
//! - [`condition`]: what a batch may expect.
//! - [`keyed`], [`key_index`], [`key_locks`]: the last offsets of keys.
//!
//! Only the leader answers, and only once it is ready: it has applied an entry of its own term, so it knows
//! everything that was acknowledged before.

mod append;
mod append_time;
pub(crate) mod command;
mod condition;
mod fetch;
mod inflight;
mod key_index;
mod key_locks;
mod keyed;
mod machine;
mod producers;
mod refusals;
mod retention;
mod retried;
mod room;
mod rows;
mod timestamps;

#[cfg(test)]
mod testing;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jangada_replication::{Group, ReadError, Registry};
use jangada_storage::Store;
use jangada_types::{LeaderEpoch, Offset, PartitionIndex, Reason, TopicConfig};
use parking_lot::RwLock;
use tokio::sync::Mutex;

pub(crate) use self::append::{Admitted, Appended};
use self::append_time::AppendTimes;
pub(crate) use self::condition::Expectation;
pub(crate) use self::fetch::Fetched;
use self::inflight::Inflight;
use self::key_index::{KeptIndex, KeyIndex};
pub(crate) use self::machine::{PartitionMachine, View, epoch_of};
use self::refusals::LEADER_RETRY;
pub(crate) use self::retried::{QUESTION_BYTES, may_have_been_taken};
use self::room::BUSY_RETRY;
pub(crate) use self::room::Room;
use crate::clock_guard::ClockGuard;
use crate::disk;
use crate::error::RequestError;
use crate::metrics::{Metrics, TopicTraffic};
use crate::pool::Pool;
use crate::quorum::Quorum;

/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Which partition, in a message for people.
#[derive(Clone, Debug)]
pub(crate) struct PartitionName {
    pub topic: Arc<str>,
    pub index: PartitionIndex,
}

impl Display for PartitionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

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
    /// A leader that no quorum answered for so long sends its readers away.
    pub quorum_within: Duration,
}

impl Shared {
    /// Refuses more for a group that is led here when the disk does not take it. `name` says which group, in words.
    pub fn check_disk(&self, group: &Group, name: impl Display) -> Result<(), RequestError> {
        disk::check(&*self.store, self.queue_bytes_max, &self.registry, group, name)
    }
}

/// See the module text.
pub(crate) struct Partition {
    pub name: PartitionName,
    pub group: Group,
    pub view: Arc<View>,
    /// Whether a quorum answers this leader.
    pub quorum: Quorum,
    config: RwLock<Arc<TopicConfig>>,
    append_times: Mutex<AppendTimes>,
    /// While the topic has `key.index.enable`.
    key_index: KeptIndex,
    inflight: Arc<Inflight>,
    traffic: Arc<TopicTraffic>,
    /// When it may be said again that records come which retention takes at once, on the monotonic clock.
    warn_of_old_at_ms: AtomicU64,
    shared: Arc<Shared>,
}

impl Partition {
    pub fn new(
        name: PartitionName,
        group: Group,
        view: Arc<View>,
        config: Arc<TopicConfig>,
        shared: Arc<Shared>,
    ) -> Self {
        let inflight = Inflight::new(shared.inflight_per_partition);
        let start = || start_index(&group, &view, &shared);
        let key_index = KeptIndex::new(config.key_index.then(start));
        Self {
            traffic: shared.metrics.topics.join(&name.topic),
            name,
            group,
            view,
            quorum: Quorum::new(shared.quorum_within),
            config: RwLock::new(config),
            append_times: Mutex::new(AppendTimes::new()),
            key_index,
            inflight,
            warn_of_old_at_ms: AtomicU64::new(0),
            shared,
        }
    }

    /// Takes the topic's settings. When they switch the index of keys, this waits for batches that are being admitted.
    pub async fn set_config(&self, config: Arc<TopicConfig>) {
        let wanted = config.key_index;
        self.view.set_checkpoint_bytes(checkpoint_bytes(&config));
        *self.config.write() = config;
        let start = || start_index(&self.group, &self.view, &self.shared);
        self.key_index.keep(wanted, start).await;
    }

    /// Ends what writes for this replica beside Raft: it is closed for good.
    pub async fn stop_index(&self) {
        let start = || start_index(&self.group, &self.view, &self.shared);
        self.key_index.keep(false, start).await;
    }

    /// Where the topic's records are counted.
    pub fn traffic(&self) -> &Arc<TopicTraffic> {
        &self.traffic
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

    /// The high watermark, at or after that of any acknowledgement before the call.
    pub async fn latest_offset(&self) -> Result<Offset, RequestError> {
        self.leader_epoch()?;
        self.confirm_lead().await.map_err(|error| self.read_error(error))?;
        Ok(self.view.high_watermark())
    }

    /// The log start and the high watermark as this replica knows them, if it leads and a quorum answers it.
    pub fn ends_if_led(&self) -> Option<(Offset, Offset)> {
        let leads = self.group.status().ready && !self.quorum.is_lost();
        leads.then(|| (self.view.log_start(), self.view.high_watermark()))
    }

    /// Returns when a quorum has confirmed that this replica leads, and everything is applied that was committed anywhere
    /// before the call.
    async fn confirm_lead(&self) -> Result<(), ReadError> {
        tokio::select! {
            confirmed = self.group.confirm_read(READ_TIMEOUT) => confirmed,
            () = self.quorum.lost() => Err(ReadError::NotLeader(None)),
        }
    }
}

fn start_index(group: &Group, view: &Arc<View>, shared: &Shared) -> KeyIndex {
    KeyIndex::start(group.id(), shared.store.clone(), view.clone(), shared.read_pool.clone())
}

/// Bytes between two checkpoints: the segment size, or less when the topic keeps little, so that retention by size
/// has steps to take.
pub(crate) fn checkpoint_bytes(config: &TopicConfig) -> u64 {
    let steps = config.retention_bytes.map_or(u64::MAX, |bytes| bytes / 4);
    config
        .segment_bytes
        .min(steps.max(jangada_types::limits::SEGMENT_BYTES_MIN))
}
