//! What others may know of compaction: the scrape, and brokers that ask since when a replica is clean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jangada_log::compaction::Tally;
use jangada_log::tables::cleaned::Cleaned;
use jangada_types::{GroupId, Offset, ReplicaId};
use parking_lot::Mutex;

/// Bytes of an entry of which nothing is left, with its key, about.
const STUB_BYTES: u64 = 100;

/// What is known of one replica.
#[derive(Default)]
struct Replica {
    cleaned: Cleaned,
    /// Entries between the first and the last that the last pass looked at of which nothing is left.
    stubs: u64,
    /// How far the horizon lags behind what could go if all replicas had cleaned.
    horizon_lag: u64,
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
    /// Batches that cannot be read.
    unreadable: Mutex<BTreeSet<(GroupId, Offset)>>,
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

impl CompactionStatus {
    /// Only these replicas are compacted here.
    pub fn keep(&self, ids: &[(GroupId, ReplicaId)]) {
        self.replicas.lock().retain(|id, _| ids.contains(id));
        self.unreadable
            .lock()
            .retain(|(group, _)| ids.iter().any(|(of, _)| of == group));
    }

    /// A replica was looked at.
    pub fn looked(&self, id: (GroupId, ReplicaId), cleaned: Option<&Cleaned>) {
        if let Some(cleaned) = cleaned {
            let mut replicas = self.replicas.lock();
            let replica = replicas.entry(id).or_default();
            if replica.cleaned != *cleaned {
                replica.cleaned = cleaned.clone();
            }
        }
    }

    /// A pass begins, or none runs any more.
    pub fn set_under_way(&self, is_under_way: bool) {
        self.under_way.store(u64::from(is_under_way), Relaxed);
    }

    /// A pass has ended.
    pub fn ended(&self, id: (GroupId, ReplicaId), tally: &Tally, cleaned: Option<&Cleaned>) {
        self.looked(id, cleaned);
        self.passes.fetch_add(1, Relaxed);
        self.read_bytes.fetch_add(tally.read_bytes, Relaxed);
        self.written_bytes.fetch_add(tally.written_bytes, Relaxed);
        self.records_gone.fetch_add(tally.records_gone, Relaxed);
        let mut replicas = self.replicas.lock();
        replicas.entry(id).or_default().stubs = tally.entries.saturating_sub(tally.batches_left);
    }

    /// A batch cannot be read. Whether that is news.
    pub fn unreadable(&self, group: GroupId, offset: Offset) -> bool {
        self.unreadable.lock().insert((group, offset))
    }

    /// Up to where a replica here has been clean since before a time; `None`: it is not compacted here.
    pub fn since_before(&self, id: (GroupId, ReplicaId), old_before_ms: i64) -> Option<Offset> {
        let replicas = self.replicas.lock();
        replicas
            .get(&id)
            .map(|replica| replica.cleaned.since_before(old_before_ms))
    }

    /// The horizon lags by so many offsets.
    pub fn set_horizon_lag(&self, id: (GroupId, ReplicaId), lag: u64) {
        if let Some(replica) = self.replicas.lock().get_mut(&id) {
            replica.horizon_lag = lag;
        }
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
            unreadable: self.unreadable.lock().len() as u64,
        }
    }
}
