//! What others may know of compaction: the scrape, and brokers that ask since when a replica is clean.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use jangada_log::compaction::Tally;
use jangada_log::tables::cleaned::Cleaned;
use jangada_types::{GroupId, Offset, ReplicaId};
use parking_lot::Mutex;

use crate::replica::Hosted;

/// Bytes of an entry of which nothing is left, with its key, about.
const STUB_BYTES: u64 = 100;

/// What is known of one replica.
#[derive(Default)]
struct Replica {
    /// The replica as it was opened: one that was deleted and comes back has the same id, and none of its data.
    of: Weak<Hosted>,
    cleaned: Cleaned,
    /// Entries between the first and the last that the last pass looked at of which nothing is left.
    stubs: u64,
    /// How far the horizon lags behind what could go if all replicas had cleaned.
    horizon_lag: u64,
    /// Batches that the last pass had to leave as they are.
    stuck: u64,
}

/// What others may know of compaction.
#[derive(Default)]
pub(crate) struct CompactionStatus {
    under_way: AtomicU64,
    passes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    records_gone: AtomicU64,
    replicas: Mutex<BTreeMap<(GroupId, ReplicaId), Replica>>,
}

/// What a scrape shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompactionSample {
    pub under_way: u64,
    pub passes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub records_gone: u64,
    pub stored_bytes: u64,
    pub stub_bytes: u64,
    pub horizon_lag: u64,
    pub unreadable: u64,
}

/// Whose status it is.
pub(super) fn id_of(hosted: &Hosted) -> (GroupId, ReplicaId) {
    (hosted.id(), hosted.group.replica())
}

/// Whether a replica is the one that was remembered, and not one with its id that was opened since.
pub(super) fn is_same(known: &Weak<Hosted>, hosted: &Arc<Hosted>) -> bool {
    std::ptr::eq(known.as_ptr(), Arc::as_ptr(hosted))
}

impl CompactionStatus {
    /// Only these replicas are compacted here.
    pub fn keep(&self, ids: &[(GroupId, ReplicaId)]) {
        self.replicas.lock().retain(|id, _| ids.contains(id));
    }

    /// Changes what is known of a replica.
    fn with(&self, hosted: &Arc<Hosted>, change: impl FnOnce(&mut Replica)) {
        let mut replicas = self.replicas.lock();
        let replica = replicas.entry(id_of(hosted)).or_default();
        if !is_same(&replica.of, hosted) {
            *replica = Replica {
                of: Arc::downgrade(hosted),
                ..Replica::default()
            };
        }
        change(replica);
    }

    /// A replica was looked at.
    pub fn looked(&self, hosted: &Arc<Hosted>, cleaned: Option<&Cleaned>) {
        self.with(hosted, |replica| {
            if let Some(cleaned) = cleaned.filter(|cleaned| replica.cleaned != **cleaned) {
                replica.cleaned = cleaned.clone();
            }
        });
    }

    /// A pass begins, or none runs any more.
    pub fn set_under_way(&self, is_under_way: bool) {
        self.under_way.store(u64::from(is_under_way), Relaxed);
    }

    /// A pass has ended. The number of batches that the one before it had to leave as they are.
    pub fn ended(&self, hosted: &Arc<Hosted>, tally: &Tally, cleaned: Option<&Cleaned>) -> u64 {
        self.looked(hosted, cleaned);
        self.passes.fetch_add(1, Relaxed);
        self.read_bytes.fetch_add(tally.read_bytes, Relaxed);
        self.written_bytes.fetch_add(tally.written_bytes, Relaxed);
        self.records_gone.fetch_add(tally.records_gone, Relaxed);
        let mut stuck = 0;
        self.with(hosted, |replica| {
            replica.stubs = tally.entries.saturating_sub(tally.batches_left);
            stuck = std::mem::replace(&mut replica.stuck, tally.batches_stuck);
        });
        stuck
    }

    /// Of a replica here, if it is compacted.
    fn of<T>(&self, hosted: &Arc<Hosted>, read: impl FnOnce(&Cleaned) -> T) -> Option<T> {
        let replicas = self.replicas.lock();
        let replica = replicas.get(&id_of(hosted));
        let replica = replica.filter(|replica| is_same(&replica.of, hosted))?;
        Some(read(&replica.cleaned))
    }

    /// Up to where a replica here has been clean since before a time; `None`: it is not compacted here.
    pub fn since_before(&self, hosted: &Arc<Hosted>, old_before_ms: i64) -> Option<Offset> {
        self.of(hosted, |cleaned| cleaned.since_before(old_before_ms))
    }

    /// Whether anything would go from a replica here if the horizon were at this offset.
    pub fn waits_below(&self, hosted: &Arc<Hosted>, horizon: Offset) -> bool {
        let waits = |cleaned: &Cleaned| cleaned.last().is_some_and(|(_, stamp)| stamp.waits_from < horizon);
        self.of(hosted, waits).unwrap_or(false)
    }

    /// The horizon lags by so many offsets.
    pub fn set_horizon_lag(&self, hosted: &Arc<Hosted>, lag: u64) {
        self.with(hosted, |replica| replica.horizon_lag = lag);
    }

    /// As of now.
    pub fn sample(&self) -> CompactionSample {
        let replicas = self.replicas.lock();
        let stored = |replica: &Replica| replica.cleaned.last().map_or(0, |(_, stamp)| stamp.stored_bytes);
        CompactionSample {
            under_way: self.under_way.load(Relaxed),
            passes: self.passes.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            records_gone: self.records_gone.load(Relaxed),
            stored_bytes: replicas.values().map(stored).sum(),
            stub_bytes: replicas.values().map(|replica| replica.stubs * STUB_BYTES).sum(),
            horizon_lag: replicas.values().map(|replica| replica.horizon_lag).max().unwrap_or(0),
            unreadable: replicas.values().map(|replica| replica.stuck).sum(),
        }
    }
}
