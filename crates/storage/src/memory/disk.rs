//! What outlives a run: the synced layer of a [`MemoryStore`](super::MemoryStore), and what can happen to it.

use std::path::PathBuf;
use std::sync::Arc;

use jangada_types::GroupId;
use parking_lot::Mutex;

use super::layer::Layer;
use crate::error::StoreError;
use crate::mark::LostTail;
use crate::store::Op;
use crate::tables::Tables;

/// What is named when the disk is in use.
const NAME: &str = "(in memory)";

/// A disk in memory. Clones are the same disk: whoever has one can open the data again, or have its store crash.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<DiskState>>);

#[derive(Default)]
struct DiskState {
    synced: Layer,
    /// Runs that there were, the present one included.
    runs: u64,
    is_open: bool,
    /// Why nothing can be written, if so.
    failure: Option<Arc<str>>,
    /// What other nodes remember of it, and it lacks.
    put_back: Option<LostTail>,
}

/// Which run writes. Those of earlier runs are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunId(u64);

/// Why a sync did not happen.
pub(super) enum NotSynced {
    /// The run has ended by a crash.
    CutOff,
    /// The disk says so.
    Failed(Arc<str>),
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// As when the power fails: the store that is open loses what it has not synced, and can sync nothing any more. It goes on
    /// reading what it had, since whoever holds it may still be on the way out. The disk can be opened again at once.
    pub fn crash(&self) {
        let mut disk = self.0.lock();
        disk.runs += 1;
        disk.is_open = false;
    }

    /// From now on no sync works, and what it says is this. `None`: the disk is sound again, which helps the next run only.
    pub fn set_failure(&self, reason: Option<&str>) {
        self.0.lock().failure = reason.map(Into::into);
    }

    /// Whether a store was ever opened on it.
    pub(crate) fn was_used(&self) -> bool {
        self.0.lock().runs > 0
    }

    /// What it lacks, as it was told.
    pub(crate) fn put_back(&self) -> Option<LostTail> {
        self.0.lock().put_back
    }

    pub(crate) fn keep_put_back(&self, lost: LostTail) {
        self.0.lock().put_back = Some(lost);
    }

    /// Begins a run, with what is synced.
    pub(super) fn begin(&self) -> Result<(RunId, Layer), StoreError> {
        let mut disk = self.0.lock();
        if std::mem::replace(&mut disk.is_open, true) {
            return Err(StoreError::InUse(PathBuf::from(NAME)));
        }
        disk.runs += 1;
        Ok((RunId(disk.runs), disk.synced.clone()))
    }

    /// Takes over what a run has written since its last sync.
    pub(super) fn sync(&self, run: RunId, writes: &[(GroupId, Vec<Op>)], tables: &Tables) -> Result<(), NotSynced> {
        let mut disk = self.0.lock();
        if run != RunId(disk.runs) {
            return Err(NotSynced::CutOff);
        }
        if let Some(reason) = &disk.failure {
            return Err(NotSynced::Failed(reason.clone()));
        }
        for (group, ops) in writes {
            disk.synced.write(*group, ops, tables);
        }
        Ok(())
    }

    /// The run has ended.
    pub(super) fn end(&self, run: RunId) {
        let mut disk = self.0.lock();
        if run == RunId(disk.runs) {
            disk.is_open = false;
        }
    }
}
