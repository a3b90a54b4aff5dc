//! [`RocksStore`]: puts the parts of the crate together, starts and stops its threads.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use jangada_types::{GroupId, Table};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::damage::Damage;
use crate::database::Database;
use crate::error::StoreError;
use crate::factory;
use crate::fence::{Fence, OnFence};
use crate::group::{Change, Group, GroupState};
use crate::mark::{CommitPoint, Found, LostTail, MarkFile, Marker};
use crate::options::{RESERVE_INTERVAL, StoreOptions};
use crate::places::{Moved, Places};
use crate::quarantine::Quarantine;
use crate::queue::{Answer, CommitQueue, Item};
use crate::read;
use crate::reclaim::Reclaim;
use crate::recovery::{self, DirectoryLock, Recovery};
use crate::reserve::Reserve;
use crate::scrub;
use crate::scrub_cursor::{ScrubCursor, Scrubbed};
use crate::starts::{self, Start, Starts};
use crate::statistics::{Counters, StoreStatistics};
use crate::store::{
    Completion, Durability, KeyRange, LogBounds, LogEntry, Op, RowVisitor, StateKind, Store, StoreCondition,
};
use crate::tail::{Evictor, TailBudget};
use crate::writer::{Device, Writer};

/// Memory of a queued item beside its operations, bytes.
const ITEM_OVERHEAD: usize = 128;

/// The store on RocksDB. Dropping it writes and syncs everything that is queued.
pub struct RocksStore {
    database: Arc<Database>,
    mark_path: PathBuf,
    /// Where the chain of commits went on.
    opened_at: CommitPoint,
    groups: RwLock<HashMap<GroupId, Arc<Group>>>,
    places: Places,
    /// Held while a group is loaded, so that nobody opens, writes and closes it meanwhile.
    opening: Mutex<()>,
    queue: Arc<CommitQueue>,
    marker: Arc<Marker>,
    fence: Arc<Fence>,
    reserve: Arc<Reserve>,
    reclaim: Arc<Reclaim>,
    counters: Arc<Counters>,
    tails: Arc<TailBudget>,
    damage: Damage,
    quarantine: Arc<Quarantine>,
    threads: Mutex<Option<Threads>>,
    /// Last, so that it is let go of after the database.
    _lock: DirectoryLock,
}

struct Threads {
    writer: JoinHandle<()>,
    marker: JoinHandle<()>,
    reserve: JoinHandle<()>,
    reclaim: JoinHandle<()>,
}

impl RocksStore {
    /// Opens or creates the store of a directory. Blocks while WALs are replayed.
    ///
    /// `on_fence` is called once, from a thread of the store, when a write or sync has failed: the process should end.
    pub fn open(options: StoreOptions, on_fence: OnFence) -> Result<(Self, Recovery), StoreError> {
        Self::open_on(options, on_fence, |database| Box::new(database))
    }

    /// As `open`, with the device under the writer exchanged.
    pub(crate) fn open_on(
        options: StoreOptions,
        on_fence: OnFence,
        device: impl FnOnce(Arc<Database>) -> Box<dyn Device>,
    ) -> Result<(Self, Recovery), StoreError> {
        options.validate()?;
        let directory = options.directory.clone();
        let counters = Arc::new(Counters::default());
        let mark_path = directory.join("commit-mark");
        let quarantine = Arc::new(Quarantine::open(&directory)?);
        let compacts = quarantine.cause().is_none();
        let opened = recovery::open(&options, &mark_path, counters.clone(), compacts)?;
        let (point, database) = (opened.point, Arc::new(opened.database));
        let places = database.state(GroupId::NODE.into(), StateKind::PLACES, 0)?;
        let places = Places::load(places.as_deref())?;
        let remembered = quarantine.clone();
        let on_fence: OnFence = Box::new(move |reason| {
            if Quarantine::is_damage(reason) {
                remembered.add(reason);
            }
            on_fence(reason);
        });

        let tails = Arc::new(TailBudget::new(options.tail_bytes));
        let store = Self {
            mark_path,
            opened_at: point,
            groups: RwLock::new(HashMap::new()),
            places,
            opening: Mutex::new(()),
            queue: Arc::new(CommitQueue::new()),
            marker: Arc::new(Marker::after(point.sequence)),
            fence: Arc::new(Fence::new(on_fence)),
            reserve: Arc::new(Reserve::new(options.disk_reserve_bytes)),
            reclaim: Arc::new(Reclaim::default()),
            counters,
            tails,
            damage: Damage::default(),
            quarantine,
            threads: Mutex::new(None),
            _lock: opened.lock,
            database: database.clone(),
        };
        if let Some(cause) = store.quarantine.cause() {
            tracing::warn!(
                cause,
                "a file of the store was found damaged earlier: nothing is compacted until this broker is replaced"
            );
            store.reclaim.pause();
        }
        store.reserve.check(&directory);
        let writer = Writer {
            queue: store.queue.clone(),
            device: device(database.clone()),
            database,
            marker: store.marker.clone(),
            fence: store.fence.clone(),
            counters: store.counters.clone(),
            reclaim: store.reclaim.clone(),
            evictor: Evictor::new(store.tails.clone()),
            point,
            synced: point,
            told: point.sequence,
            scratch: Vec::new(),
        };
        let threads = store.start(writer, opened.mark, &directory, &options)?;
        *store.threads.lock() = Some(threads);
        Ok((store, opened.recovery))
    }

    fn start(
        &self,
        writer: Writer,
        mut mark_file: MarkFile,
        directory: &Path,
        options: &StoreOptions,
    ) -> Result<Threads, StoreError> {
        let spawn = |name: &'static str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|error| StoreError::io("start a thread for", directory, error))
        };
        let marker = self.marker.clone();
        let (reserve, watched) = (self.reserve.clone(), directory.to_owned());
        let (reclaim, database) = (self.reclaim.clone(), self.database.clone());
        let interval = options.reclaim_interval;
        // Before anything new is written.
        let replayed = self.database.has_log_in_memory()?;
        Ok(Threads {
            writer: spawn("store-writer", Box::new(move || writer.run()))?,
            marker: spawn(
                "store-marker",
                Box::new(move || marker.run(|point| mark_file.write(point))),
            )?,
            reserve: spawn(
                "store-reserve",
                Box::new(move || reserve.run(&watched, RESERVE_INTERVAL)),
            )?,
            reclaim: spawn(
                "store-reclaim",
                Box::new(move || reclaim.run(&database, interval, replayed)),
            )?,
        })
    }

    /// Says that an operator goes on with what this node has: the lost tail is forgotten, and peers will be told that its
    /// loss was accepted. Blocks.
    pub fn confirm_tail(&self) -> Result<(), StoreError> {
        let mut starts = starts::load(self)?;
        let lost = Found::read(&self.mark_path)?.0.sequence();
        starts.accepted_loss = starts.accepted_loss.max(lost);
        // The commit brings the database up to the number that the mark has seen, or the next opening would doubt it again.
        starts::save(self, &starts)?;
        MarkFile::clear_doubt(&self.mark_path, self.database.commit_point()?.sequence)
    }

    /// Adds a start of the process to those that the store knows of, durably, and gives them all. To be called once, when
    /// there is no lost tail, before anything is told to peers. Blocks.
    pub fn begin_start(&self, id: u64) -> Result<Starts, StoreError> {
        let after = self.opened_at.sequence;
        starts::begin(self, Start { id, after })
    }

    /// Peers remember this node's commits up to `remembered`, and it has them up to `last` at most: later openings say so
    /// until [`RocksStore::confirm_tail`]. Returns what they will say. Blocks.
    pub fn keep_put_back(&self, remembered: u64, last: u64) -> Result<LostTail, StoreError> {
        let lost = factory::put_back(remembered, last);
        MarkFile::keep_doubt(&self.mark_path, lost)?;
        Ok(lost)
    }

    /// Takes no more writes, writes and syncs what is queued, answers it, and ends the threads. Reads still work.
    /// Blocks.
    pub fn shutdown(&self) {
        let Some(threads) = self.threads.lock().take() else {
            return;
        };
        self.queue.close();
        self.reserve.stop();
        self.reclaim.stop();
        let join = |thread: JoinHandle<()>| {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        };
        join(threads.writer);
        self.marker.stop();
        join(threads.marker);
        join(threads.reserve);
        // Ends a long compaction of the cleaning thread.
        self.database.raw().cancel_all_background_work(true);
        join(threads.reclaim);
    }

    /// For tests that damage what is on disk.
    #[cfg(test)]
    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    #[cfg(test)]
    pub(crate) fn place_of(&self, group: GroupId) -> crate::places::Place {
        self.places.of(group)
    }

    fn group(&self, group: GroupId) -> Result<Arc<Group>, StoreError> {
        self.groups
            .read()
            .get(&group)
            .cloned()
            .ok_or(StoreError::GroupNotOpen(group))
    }

    fn queue(
        &self,
        group: &Arc<Group>,
        state: MutexGuard<'_, GroupState>,
        ops: Vec<Op>,
        durability: Durability,
        answer: Answer,
    ) {
        self.queue_changes(group, state, durability, answer, |state, position| {
            let mut changes = Vec::with_capacity(ops.len() + 1);
            for op in ops {
                state.apply(op, position, &mut changes);
            }
            changes
        });
    }

    /// Deletes a group, and leaves these rows, where its rows lie from now on.
    fn queue_deletion(
        &self,
        group: &Arc<Group>,
        state: MutexGuard<'_, GroupState>,
        leave: Vec<Op>,
        moved: Option<Moved>,
        answer: Answer,
    ) {
        self.queue_changes(group, state, Durability::Synced, answer, |state, position| {
            let mut changes = Vec::with_capacity(leave.len() + 2);
            state.apply(Op::DeleteGroup, position, &mut changes);
            changes.extend(moved.map(Change::Move));
            for op in leave {
                state.apply(op, position, &mut changes);
            }
            changes
        });
    }

    fn queue_changes(
        &self,
        group: &Arc<Group>,
        mut state: MutexGuard<'_, GroupState>,
        durability: Durability,
        answer: Answer,
        change: impl FnOnce(&mut GroupState, u64) -> Vec<Change>,
    ) {
        let Some(place) = self.queue.next_place() else {
            drop(state);
            return answer.send(Err(StoreError::ShuttingDown));
        };
        let position = place.position();
        let changes = change(&mut state, position);
        let bytes = changes.iter().map(Change::bytes).sum::<usize>() + ITEM_OVERHEAD;
        place.push(Item {
            group: group.clone(),
            position,
            changes,
            bytes,
            durability,
            answer,
        });
    }

    /// What a read of a group found. Damage is told.
    fn met<T>(&self, group: GroupId, read: Result<T, StoreError>) -> Result<T, StoreError> {
        let read = self.damage.note(read.map_err(|error| error.of_group(group)));
        if let Err(StoreError::Damaged { what, .. }) = &read {
            self.leave_alone(group, what);
        }
        read
    }

    /// Lets no compaction read what is damaged.
    fn leave_alone(&self, group: GroupId, what: &str) {
        if Quarantine::is_file(what) {
            self.reclaim.leave_blobs(group);
        }
        if !Quarantine::is_table(what) || !self.quarantine.add(what) {
            return;
        }
        self.reclaim.pause();
        if let Err(error) = self.database.stop_compacting() {
            tracing::warn!(%error, "compactions could not be switched off");
        }
    }

    fn wait_written(&self) -> Result<(), StoreError> {
        if self.queue.wait_written() {
            return Ok(());
        }
        let reason = self.fence.reason().cloned();
        Err(reason.map_or(StoreError::ShuttingDown, StoreError::Fenced))
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Store for RocksStore {
    fn open_group(&self, group: GroupId) -> Result<LogBounds, StoreError> {
        let _opening = self.opening.lock();
        if let Ok(open) = self.group(group) {
            return Ok(open.lock().bounds);
        }
        // Writes from before the group was closed may still be queued.
        self.wait_written()?;
        let loaded = Group::load(group, self.places.of(group), &self.database, self.tails.clone());
        let loaded = Arc::new(self.met(group, loaded)?);
        let bounds = loaded.lock().bounds;
        self.groups.write().insert(group, loaded);
        Ok(bounds)
    }

    fn close_group(&self, group: GroupId) {
        self.groups.write().remove(&group);
    }

    fn delete_group(&self, group: GroupId, leave: Vec<Op>, done: Completion) {
        // Nobody loads it meanwhile.
        let _opening = self.opening.lock();
        self.damage.forget(group);
        let open = self.groups.write().remove(&group);
        let tables = || self.database.tables().clone();
        let blank = || Arc::new(Group::blank(group, self.places.of(group), tables(), self.tails.clone()));
        let deleted = open.unwrap_or_else(blank);
        let moved = match leave.is_empty() {
            true => self.places.forget(group),
            false if self.quarantine.cause().is_some() => Some(self.places.give(group)),
            false => None,
        };
        let mut state = deleted.lock();
        state.deleted = true;
        let reclaim = self.reclaim.clone();
        let answer = Answer::new(Some(Box::new(move |deleted| {
            if deleted.is_ok() {
                reclaim.blobs_are_gone(group);
            }
            done(deleted);
        })));
        self.queue_deletion(&deleted, state, leave, moved, answer);
    }

    fn write(&self, group: GroupId, ops: Vec<Op>, durability: Durability, done: Option<Completion>) {
        let answer = Answer::new(done);
        let group = match self.group(group) {
            Ok(group) => group,
            Err(error) => return answer.send(Err(error)),
        };
        let state = group.lock();
        if state.deleted {
            drop(state);
            return answer.send(Err(StoreError::GroupNotOpen(group.id)));
        }
        self.queue(&group, state, ops, durability, answer);
    }

    fn bounds(&self, group: GroupId) -> LogBounds {
        let group = self.group(group).expect("bounds are asked of open groups");
        let state = group.lock();
        state.bounds
    }

    fn read_log(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.met(group, read::log(&*self.group(group)?, &self.database, range, max_bytes))
    }

    fn read_log_cached(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>> {
        read::log_cached(&*self.group(group).ok()?, range, max_bytes)
    }

    fn term_at(&self, group: GroupId, index: u64) -> Result<Option<u64>, StoreError> {
        self.met(group, read::term_at(&*self.group(group)?, &self.database, index))
    }

    fn get_state(&self, group: GroupId, kind: StateKind, suffix: Option<u64>) -> Result<Option<Bytes>, StoreError> {
        self.met(
            group,
            read::state(&*self.group(group)?, &self.database, kind, suffix.unwrap_or(0)),
        )
    }

    fn peek_state(&self, group: GroupId, kind: StateKind) -> Result<Option<Bytes>, StoreError> {
        if let Ok(open) = self.group(group) {
            return self.met(group, read::state(&open, &self.database, kind, 0));
        }
        // Writes from before the group was closed may still be queued.
        self.wait_written()?;
        self.met(group, self.database.state(self.places.of(group), kind, 0))
    }

    fn scrub(&self, group: GroupId, cursor: ScrubCursor, max_bytes: u64) -> Result<Scrubbed, StoreError> {
        self.met(
            group,
            scrub::piece(&*self.group(group)?, &self.database, cursor, max_bytes),
        )
    }

    fn scan_state(&self, group: GroupId, kind: StateKind) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.met(group, read::scan_state(&*self.group(group)?, &self.database, kind))
    }

    fn tables(&self) -> &[&'static Table] {
        self.database.tables().declared()
    }

    fn get_row(&self, group: GroupId, table: &'static Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.met(group, read::row(&*self.group(group)?, &self.database, table, key))
    }

    fn scan_rows(
        &self,
        group: GroupId,
        table: &'static Table,
        keys: KeyRange<'_>,
        limit: usize,
        visitor: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let read = read::rows(&*self.group(group)?, &self.database, table, keys, limit, visitor);
        self.met(group, read)
    }

    fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        self.wait_written()?;
        let mut groups = self.database.groups()?;
        groups.extend(self.places.groups());
        groups.sort_unstable();
        Ok(groups)
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }

    fn condition(&self) -> StoreCondition {
        match self.fence.reason() {
            Some(reason) => StoreCondition::Fenced(reason.to_string()),
            None => self.reserve.condition().unwrap_or(StoreCondition::Healthy),
        }
    }

    fn damaged_file(&self) -> Option<String> {
        self.quarantine.cause().map(str::to_owned)
    }

    fn queue_bytes(&self) -> usize {
        self.queue.bytes()
    }

    fn durable_commit(&self) -> u64 {
        self.marker.told()
    }

    fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            queue_bytes: self.queue.bytes() as u64,
            tail_bytes: self.tails.used() as u64,
            open_groups: self.groups.read().len() as u64,
            disk_free_bytes: self.reserve.free(),
            disk_total_bytes: self.reserve.total(),
            ..self.counters.read()
        }
    }
}
