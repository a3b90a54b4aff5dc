//! What outlives a run: the synced layer of a [`MemoryStore`](super::MemoryStore), and what can happen to it.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use jangada_types::GroupId;
use parking_lot::{Mutex, MutexGuard};

use super::journal::Journal;
use super::layer::Layer;
use super::run::Run;
use crate::error::StoreError;
use crate::mark::LostTail;
use crate::recovery::Recovery;
use crate::store::Op;
use crate::tables::Tables;

/// What is named when the disk is in use.
const NAME: &str = "(in memory)";

/// A disk in memory. Clones are the same disk: whoever has one can open the data again, or have its store crash.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<DiskState>>);

#[derive(Default)]
pub(super) struct DiskState {
    pub(super) synced: Layer,
    pub(super) journal: Journal,
    /// Runs that there were, the present one included, and everything else that has cut a run off.
    runs: u64,
    was_used: bool,
    is_open: bool,
    /// What the present run has written, as long as its store is there.
    run: Weak<Mutex<Run>>,
    /// Why nothing can be written, if so.
    failure: Option<Arc<str>>,
    /// Free bytes and the reserve, while there is too little space.
    low: Option<(u64, u64)>,
    /// What other nodes remember of it, and it lacks.
    put_back: Option<LostTail>,
    trap: Option<Trap>,
}

/// What is done at a write.
type Then = Arc<dyn Fn() + Send + Sync>;

/// What happens at a write that comes.
struct Trap {
    /// Writes up to it.
    left: u64,
    moment: WriteMoment,
    then: Then,
}

/// A moment at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMoment {
    /// Nothing of the write is on disk.
    Before,
    /// The write is on disk, and nobody was told.
    Synced,
}

/// What a disk has at some time, to be put back later.
#[derive(Clone)]
pub struct MemoryImage {
    synced: Layer,
    was_used: bool,
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

    pub(super) fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock()
    }

    /// As when the power fails: the store that is open loses what it has not synced, and can sync nothing any more. It goes on
    /// reading what it had, since whoever holds it may still be on the way out. The disk can be opened again at once.
    pub fn crash(&self) {
        self.0.lock().cut_off();
    }

    /// Like [`MemoryDisk::crash`], but the first of the writes that are not synced have reached the disk all the same, since
    /// the system writes them when it likes. `choose` is given how many there are, and says how many are kept, and that is returned.
    pub fn crash_keeping(&self, choose: impl FnOnce(usize) -> usize) -> usize {
        let run = self.0.lock().run.upgrade();
        let Some(run) = run else {
            self.crash();
            return 0;
        };
        // The run's lock comes before the disk's.
        let run = run.lock();
        let mut disk = self.0.lock();
        let mut kept = 0;
        if disk.is_open && run.id() == RunId(disk.runs) {
            let unsynced = run.unsynced();
            kept = choose(unsynced.len()).min(unsynced.len());
            for (group, ops) in unsynced.iter().take(kept) {
                disk.write(*group, ops, run.tables());
            }
        }
        disk.cut_off();
        kept
    }

    /// From now on no sync works, and what it says is this. `None`: the disk is sound again, which helps the next run only.
    pub fn set_failure(&self, reason: Option<&str>) {
        self.0.lock().failure = reason.map(Into::into);
    }

    /// From now on it has so many bytes free, which is less than the reserve of so many; none: it has enough.
    pub fn set_low(&self, free_and_reserve: Option<(u64, u64)>) {
        self.0.lock().low = free_and_reserve;
    }

    pub(super) fn low(&self) -> Option<(u64, u64)> {
        self.0.lock().low
    }

    /// Calls `then` once, at the `count`th write from now on, 1 being the next one. It is called on the thread that writes, without a lock:
    /// it may cut the store off.
    pub fn at_write(&self, count: u64, moment: WriteMoment, then: Arc<dyn Fn() + Send + Sync>) {
        self.0.lock().trap = Some(Trap {
            left: count.max(1),
            moment,
            then,
        });
    }

    /// Nothing happens at a write any more.
    pub fn clear_at_write(&self) {
        self.0.lock().trap = None;
    }

    /// A write comes: at which moment of it something is to be done, and what.
    pub(super) fn next_write(&self) -> Option<(WriteMoment, Then)> {
        let mut disk = self.0.lock();
        let trap = disk.trap.as_mut()?;
        trap.left -= 1;
        if trap.left > 0 {
            return None;
        }
        disk.trap.take().map(|trap| (trap.moment, trap.then))
    }

    /// Damages one entry or row at rest: reads that meet it fail from now on, until something else is written in its place. The rows
    /// of the node and of the metadata are spared. `choose` is given how many there are to choose from, and says which. Returns what
    /// it is, in words; `None` if there is nothing.
    pub fn rot(&self, choose: impl FnOnce(usize) -> usize) -> Option<String> {
        let run = self.0.lock().run.upgrade();
        let mut run = run.as_ref().map(|run| run.lock());
        let mut disk = self.0.lock();
        let (group, spot) = disk.synced.choose_spot(choose)?;
        disk.synced.rot(group, &spot);
        disk.journal.forget();
        if let Some(run) = run.as_mut().filter(|run| run.id() == RunId(disk.runs)) {
            run.rot(group, &spot);
        }
        Some(format!("group {group}: {spot:?}"))
    }

    /// What is durable.
    pub fn image(&self) -> MemoryImage {
        let disk = self.0.lock();
        MemoryImage {
            synced: disk.synced.clone(),
            was_used: disk.was_used,
            put_back: disk.put_back,
        }
    }

    /// Puts an earlier state back. Whoever has the disk open is cut off from it.
    pub fn restore(&self, image: &MemoryImage) {
        let mut disk = self.0.lock();
        disk.cut_off();
        disk.synced = image.synced.clone();
        disk.was_used = image.was_used;
        disk.put_back = image.put_back;
        disk.journal.forget();
    }

    /// Empties it. Whoever has it open is cut off from it.
    pub fn wipe(&self) {
        self.restore(&MemoryImage {
            synced: Layer::default(),
            was_used: false,
            put_back: None,
        });
    }

    /// Whether a store was ever opened on it.
    pub fn was_used(&self) -> bool {
        self.0.lock().was_used
    }

    /// What the next store that opens it will find.
    pub fn recovery(&self) -> Recovery {
        let lost_tail = self.0.lock().put_back;
        Recovery { lost_tail }
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
        disk.was_used = true;
        disk.runs += 1;
        Ok((RunId(disk.runs), disk.synced.clone()))
    }

    /// Where the run's writes are found until they are synced.
    pub(super) fn keep_run(&self, run: &Arc<Mutex<Run>>) {
        self.0.lock().run = Arc::downgrade(run);
    }

    /// Takes over what a run has written, in order.
    pub(super) fn sync<'a>(
        &self,
        run: RunId,
        writes: impl Iterator<Item = &'a (GroupId, Vec<Op>)>,
        tables: &Tables,
    ) -> Result<(), NotSynced> {
        let mut disk = self.0.lock();
        if run != RunId(disk.runs) {
            return Err(NotSynced::CutOff);
        }
        if let Some(reason) = &disk.failure {
            return Err(NotSynced::Failed(reason.clone()));
        }
        for (group, ops) in writes {
            disk.write(*group, ops, tables);
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

impl DiskState {
    fn cut_off(&mut self) {
        self.runs += 1;
        self.is_open = false;
        self.run = Weak::new();
        self.trap = None;
    }

    fn write(&mut self, group: GroupId, ops: &[Op], tables: &Tables) {
        self.synced.write(group, ops, tables);
        self.journal.note(group, ops, tables);
    }
}
