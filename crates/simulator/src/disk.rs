//! A host's disk: what its store and its small files lie on, and what can go wrong with it.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_env::Random;
use jangada_storage::{
    MemoryDisk, MemoryImage, MemoryStore, NodeStore, OnFence, Recovery, StoreError, StoreFactory, StoreOptions,
    WriteMoment,
};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::Notify;

use crate::files::{FileTree, MemoryFiles};

/// How long a sync takes unless somebody says otherwise.
const SYNC_TAKES: Range<Duration> = Duration::from_micros(200)..Duration::from_millis(3);
/// What a disk that fails says.
const FAILS: &str = "Input/output error (os error 5)";
/// Bytes that a full disk has free, and the reserve that it should have.
const FULL: (u64, u64) = (0, 1 << 20);

/// A host's disk. Clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

struct Inner {
    memory: MemoryDisk,
    files: Arc<MemoryFiles>,
    random: Random,
    pace: Mutex<Pace>,
    /// Kills the process that runs there.
    kill: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

struct Pace {
    sync_takes: Range<Duration>,
    slow: Option<Duration>,
}

/// What a disk has at some time: the store and the small files.
#[derive(Clone)]
pub struct DiskImage {
    memory: MemoryImage,
    files: FileTree,
}

impl Disk {
    pub(crate) fn new(files: Arc<MemoryFiles>, random: Random) -> Self {
        Self(Arc::new(Inner {
            memory: MemoryDisk::new(),
            files,
            random,
            pace: Mutex::new(Pace {
                sync_takes: SYNC_TAKES,
                slow: None,
            }),
            kill: Mutex::default(),
        }))
    }

    /// The layers of the store.
    pub fn memory(&self) -> &MemoryDisk {
        &self.0.memory
    }

    /// What is not synced is lost, or only the first writes of it are on disk: a torn one is dropped by its checksum. The store that is
    /// open is cut off. Gives how many writes were kept.
    pub fn lose_power(&self, random: &Random) -> usize {
        let keep_some = random.number().is_multiple_of(2);
        let draw = random.number();
        let some = |count: usize| if keep_some { at(draw, count + 1) } else { 0 };
        self.0.memory.crash_keeping(some)
    }

    /// The process that had it open was killed, and the system goes on: most of the time it has everything that was written.
    pub(crate) fn close(&self, random: &Random) -> usize {
        let keep_all = random.number().is_multiple_of(2);
        let draw = random.number();
        let most = |count: usize| if keep_all { count } else { at(draw, count + 1) };
        self.0.memory.crash_keeping(most)
    }

    /// Whether writes fail from now on. A store that has met it has to be opened again.
    pub fn fail(&self, fails: bool) {
        self.0.memory.set_failure(fails.then_some(FAILS));
        self.0.files.fail(fails);
    }

    /// Whether it has less space than its reserve. Writes still work.
    pub fn full(&self, is_full: bool) {
        self.0.memory.set_low(is_full.then_some(FULL));
    }

    /// Each sync takes so long from now on; none: as long as usual.
    pub fn slow(&self, sync_takes: Option<Duration>) {
        self.0.pace.lock().slow = sync_takes;
    }

    /// How long a sync takes usually. Below a millisecond it is over in the next one.
    pub fn set_sync_time(&self, takes: Range<Duration>) {
        self.0.pace.lock().sync_takes = takes;
    }

    fn sync_takes(&self) -> Duration {
        let pace = self.0.pace.lock();
        match pace.slow {
            Some(takes) => takes,
            None if pace.sync_takes.is_empty() => pace.sync_takes.start,
            None => self.0.random.clone().random_range(pace.sync_takes.clone()),
        }
    }

    /// Damages one value at rest: who reads it is told. Gives what it is, in words; `None` if there is nothing.
    pub fn rot(&self, random: &Random) -> Option<String> {
        let draw = random.number();
        self.0.memory.rot(|count| at(draw, count))
    }

    /// What is on it now, as far as it is synced.
    pub fn copy(&self) -> DiskImage {
        DiskImage {
            memory: self.0.memory.image(),
            files: self.0.files.copy(),
        }
    }

    /// Puts back what was on it once. Who has it open is cut off.
    pub fn put_back(&self, image: &DiskImage) {
        self.0.memory.restore(&image.memory);
        self.0.files.put_back(image.files.clone());
    }

    /// Removes everything. Who has it open is cut off.
    pub fn wipe(&self) {
        self.0.memory.wipe();
        self.0.files.put_back(FileTree::new());
    }

    /// The process is killed at its `count`th write from now on, 1 being the next one: before anything of it is on disk, or once it is
    /// and nobody was told. Chance decides which.
    pub fn kill_at_write(&self, count: u64) {
        let moment = match self.0.random.number().is_multiple_of(2) {
            true => WriteMoment::Before,
            false => WriteMoment::Synced,
        };
        self.kill_at(count, moment);
    }

    /// The process is not killed at a write any more.
    pub fn clear_kill_at_write(&self) {
        self.0.memory.clear_at_write();
    }

    /// Like [`Disk::kill_at_write`], with the moment.
    pub fn kill_at(&self, count: u64, moment: WriteMoment) {
        let disk = Arc::downgrade(&self.0);
        let kill = move || {
            let kill = disk.upgrade().and_then(|disk| disk.kill.lock().clone());
            kill.into_iter().for_each(|kill| kill());
        };
        self.0.memory.at_write(count, moment, Arc::new(kill));
    }

    /// Whom to kill from now on.
    pub(crate) fn on_kill(&self, kill: Arc<dyn Fn() + Send + Sync>) {
        *self.0.kill.lock() = Some(kill);
    }
}

/// One of so many, as chance has it.
fn at(draw: u64, count: usize) -> usize {
    usize::try_from(draw % (count.max(1) as u64)).expect("it is less than the count")
}

/// The store's syncs take time, which passes for a task of the process that has it open.
impl StoreFactory for Disk {
    fn exists(&self, _directory: &std::path::Path) -> bool {
        self.0.memory.was_used()
    }

    fn open(&self, options: StoreOptions, on_fence: OnFence) -> Result<(Arc<dyn NodeStore>, Recovery), StoreError> {
        let store = Arc::new(MemoryStore::open(&self.0.memory, &options.tables, on_fence)?);
        let wanted = Arc::new(Notify::new());
        let wants = wanted.clone();
        store.pace_syncs(Arc::new(move || wants.notify_one()));
        tokio::spawn(sync_on(self.clone(), Arc::downgrade(&store), wanted));
        Ok((store, self.0.memory.recovery()))
    }
}

/// Syncs what was written before the sync began, each time that somebody waits for it.
async fn sync_on(disk: Disk, store: Weak<MemoryStore>, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        loop {
            let Some(upto) = store.upgrade().map(|store| store.waits_for_sync()) else {
                return;
            };
            let Some(upto) = upto else { break };
            tokio::time::sleep(disk.sync_takes()).await;
            match store.upgrade() {
                Some(store) => store.sync_upto(upto),
                None => return,
            }
        }
    }
}
