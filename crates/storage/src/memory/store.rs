//! [`MemoryStore`]: the contract of stores on a run and its disk.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use jangada_types::{GroupId, RowError, Table};
use parking_lot::{Mutex, MutexGuard};

use super::disk::{MemoryDisk, NotSynced, WriteMoment};
use super::layer::GroupData;
use super::run::Run;
use crate::damage::Damage;
use crate::error::StoreError;
use crate::fence::{Fence, OnFence};
use crate::queue::Answer;
use crate::scrub_cursor::{ScrubCursor, Scrubbed};
use crate::starts::{self, Start, Starts};
use crate::statistics::{Counters, StoreStatistics};
use crate::store::{
    Completion, Durability, KeyRange, LogBounds, LogEntry, Op, RowVisitor, StateKind, Store, StoreCondition,
};
use crate::tables::{STATE, Tables, state_key, state_suffix};

/// A store in memory; see the module text. Dropping it syncs everything and answers everybody.
pub struct MemoryStore {
    /// Held only for moments: completions and visitors are called without it.
    run: Arc<Mutex<Run>>,
    disk: MemoryDisk,
    /// The last write of earlier runs.
    opened_at: u64,
    tables: Tables,
    fence: Fence,
    damage: Damage,
    counters: Counters,
    /// Free bytes and the reserve, while the disk is said to be low.
    disk_low: Mutex<Option<(u64, u64)>>,
    /// Hears of writes that wait for a sync which is held.
    on_wait: Mutex<Option<OnWait>>,
}

/// Called after a write, if a write waits for a sync that is held. On the thread that has written, without a lock.
pub type OnWait = Arc<dyn Fn() + Send + Sync>;

impl MemoryStore {
    /// An empty store with these tables on a disk that nobody else has. Panics when its tables are not sound.
    pub fn new(tables: &[&'static Table]) -> Self {
        let on_fence: OnFence = Box::new(|cause| panic!("a sync failed on a disk that nobody has: {cause}"));
        Self::open(&MemoryDisk::new(), tables, on_fence).expect("the tables are sound")
    }

    /// Opens what is synced on a disk. `on_fence` is called once when a sync has failed, on the thread that has written.
    ///
    /// # Errors
    /// Another store has the disk open, or the tables cannot be told apart.
    pub fn open(disk: &MemoryDisk, tables: &[&'static Table], on_fence: OnFence) -> Result<Self, StoreError> {
        let tables = Tables::new(tables)?;
        let (id, layer) = disk.begin()?;
        let opened_at = layer.sequence;
        let run = Arc::new(Mutex::new(Run::new(id, layer, tables.clone())));
        disk.keep_run(&run);
        Ok(Self {
            opened_at,
            run,
            disk: disk.clone(),
            tables,
            fence: Fence::new(on_fence),
            damage: Damage::default(),
            counters: Counters::default(),
            disk_low: Mutex::default(),
            on_wait: Mutex::default(),
        })
    }

    /// From now on the disk has so many bytes free, which is less than its reserve of so many; none: it has enough.
    pub fn set_disk_low(&self, free_and_reserve: Option<(u64, u64)>) {
        *self.disk_low.lock() = free_and_reserve;
    }

    /// From now on synced writes wait, and with them all that come later, until [`MemoryStore::release_syncs`].
    pub fn hold_syncs(&self) {
        self.run.lock().holds_syncs = true;
    }

    /// Syncs what waits for it, and lets later syncs go through.
    pub fn release_syncs(&self) {
        self.run.lock().holds_syncs = false;
        self.settle();
    }

    /// Like [`MemoryStore::hold_syncs`], for whoever has a clock: `on_wait` is called when a write begins to wait, and who hears it syncs
    /// after a while with [`MemoryStore::sync_upto`] what [`MemoryStore::waits_for_sync`] says.
    pub fn pace_syncs(&self, on_wait: OnWait) {
        *self.on_wait.lock() = Some(on_wait);
        self.hold_syncs();
    }

    /// The last write so far, by number, if any waits for a sync that is held.
    pub fn waits_for_sync(&self) -> Option<u64> {
        self.run.lock().waits_for_sync()
    }

    /// Syncs the writes up to this one, and answers them.
    pub fn sync_upto(&self, upto: u64) {
        self.run.lock().sync_upto(upto, &self.disk, &self.counters);
        self.settle();
    }

    /// Syncs what is written, also while syncs are held, for somebody who cannot wait.
    fn sync_all(&self) {
        self.run.lock().sync(&self.disk, &self.counters);
        self.settle();
    }

    pub(crate) fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// Adds a start of the process to those that the store knows of, like [`RocksStore::begin_start`](crate::RocksStore::begin_start).
    pub fn begin_start(&self, id: u64) -> Result<Starts, StoreError> {
        let after = self.opened_at;
        // It blocks until the row is synced, and nobody else would do that meanwhile.
        let held = std::mem::replace(&mut self.run.lock().holds_syncs, false);
        let starts = starts::begin(self, Start { id, after });
        self.run.lock().holds_syncs = held;
        starts
    }

    /// Takes no more writes, syncs what is written and answers it. Reads still work. The disk can be opened again.
    pub fn shutdown(&self) {
        {
            let mut run = self.run.lock();
            if std::mem::replace(&mut run.is_closed, true) {
                return;
            }
            run.sync(&self.disk, &self.counters);
        }
        self.settle();
        self.run.lock().end(&self.disk);
    }

    /// Calls the completions that are due, in order. Whoever comes while another does it leaves his to the other.
    fn settle(&self) {
        loop {
            let settled = {
                let mut run = self.run.lock();
                if run.is_settling {
                    return;
                }
                let settled = run.next_settled(&self.disk, &self.counters);
                run.is_settling = settled.is_some();
                let failure = match &run.failure {
                    Some(NotSynced::Failed(reason)) => Some(reason.clone()),
                    Some(NotSynced::CutOff) | None => None,
                };
                drop(run);
                if let Some(reason) = failure {
                    self.fence.trip(&reason);
                }
                settled
            };
            let Some(settled) = settled else { return };
            let _settling = Settling(self);
            settled.send();
        }
    }

    fn queue(
        &self,
        mut run: MutexGuard<'_, Run>,
        group: GroupId,
        ops: Vec<Op>,
        durability: Durability,
        answer: Answer,
    ) {
        if run.is_closed {
            drop(run);
            return answer.send(Err(StoreError::ShuttingDown));
        }
        let trap = self.disk.next_write();
        if let Some((WriteMoment::Before, then)) = &trap {
            MutexGuard::unlocked(&mut run, || then());
        }
        let entries = ops.iter().map(|op| match op {
            Op::Append(entries) => entries.len(),
            _ => 0,
        });
        Counters::add(&self.counters.entries, entries.sum());
        Counters::add(&self.counters.writes, 1);
        Counters::add(&self.counters.commits, 1);
        run.write(group, ops, durability, answer);
        if let Some((WriteMoment::Synced, then)) = trap {
            run.sync(&self.disk, &self.counters);
            MutexGuard::unlocked(&mut run, || then());
            run.cut_off();
        }
        drop(run);
        self.settle();
        let waits = self.run.lock().waits_for_sync().is_some();
        let on_wait = self.on_wait.lock().clone().filter(|_| waits);
        if let Some(on_wait) = on_wait {
            on_wait();
        }
    }

    /// What a read of an open group finds. Damage is told.
    fn read<T>(&self, group: GroupId, read: impl FnOnce(&GroupData) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let found = self.run.lock().group(group).and_then(read);
        self.met(group, found)
    }

    fn met<T>(&self, group: GroupId, read: Result<T, StoreError>) -> Result<T, StoreError> {
        self.damage.note(read.map_err(|error| error.of_group(group)))
    }

    /// Copies of rows: whoever looks at them does it without the lock.
    fn rows(
        &self,
        group: GroupId,
        table: &'static Table,
        keys: KeyRange<'_>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let slot = self.tables.slot(table);
        self.read(group, |data| {
            let rows = data.rows(slot, keys).take(limit);
            rows.map(|(key, value)| data.check_row(slot, key).map(|()| (key.clone(), value.clone())))
                .collect()
        })
    }
}

/// While a completion is called. Others go on with the next ones afterwards, also when it has panicked.
struct Settling<'a>(&'a MemoryStore);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.run.lock().is_settling = false;
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Store for MemoryStore {
    fn open_group(&self, group: GroupId) -> Result<LogBounds, StoreError> {
        let mut run = self.run.lock();
        run.open_group(group);
        run.group(group).map(GroupData::bounds)
    }

    fn close_group(&self, group: GroupId) {
        self.run.lock().open.remove(&group);
    }

    fn delete_group(&self, group: GroupId, leave: Vec<Op>, done: Completion) {
        self.damage.forget(group);
        let mut run = self.run.lock();
        run.open.remove(&group);
        let mut ops = vec![Op::DeleteGroup];
        ops.extend(leave);
        self.queue(run, group, ops, Durability::Synced, Answer::new(Some(done)));
    }

    fn write(&self, group: GroupId, ops: Vec<Op>, durability: Durability, done: Option<Completion>) {
        let answer = Answer::new(done);
        let run = self.run.lock();
        if !run.open.contains(&group) {
            drop(run);
            return answer.send(Err(StoreError::GroupNotOpen(group)));
        }
        self.queue(run, group, ops, durability, answer);
    }

    fn bounds(&self, group: GroupId) -> LogBounds {
        let run = self.run.lock();
        run.group(group).expect("bounds are asked of open groups").bounds()
    }

    fn read_log(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.read(group, |data| {
            let entries = data.log(range, max_bytes);
            data.check_entries(&entries).map(|()| entries)
        })
    }

    fn read_log_cached(&self, group: GroupId, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>> {
        self.run.lock().group(group).ok()?.recent_log(range, max_bytes)
    }

    fn term_at(&self, group: GroupId, index: u64) -> Result<Option<u64>, StoreError> {
        self.read(group, |data| Ok(data.term_at(index)))
    }

    fn get_state(&self, group: GroupId, kind: StateKind, suffix: Option<u64>) -> Result<Option<Bytes>, StoreError> {
        self.get_row(group, &STATE, &state_key(kind, suffix.unwrap_or(0)))
    }

    fn peek_state(&self, group: GroupId, kind: StateKind) -> Result<Option<Bytes>, StoreError> {
        let slot = self.tables.slot(&STATE);
        let run = self.run.lock();
        let data = run.layer().group(group);
        Ok(data.and_then(|data| data.row(slot, &state_key(kind, 0)).cloned()))
    }

    fn scrub(&self, group: GroupId, cursor: ScrubCursor, max_bytes: u64) -> Result<Scrubbed, StoreError> {
        let scrubbed = self.read(group, |data| scrub(data, &self.tables, cursor, max_bytes))?;
        self.counters.scrubbed_bytes.fetch_add(scrubbed.bytes, Relaxed);
        Ok(scrubbed)
    }

    fn scan_state(&self, group: GroupId, kind: StateKind) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let (from, next) = (state_key(kind, 0), kind.0.checked_add(1).map(|next| [next]));
        let keys = KeyRange {
            from: &from,
            to: next.as_ref().map(|next| &next[..]),
        };
        let rows = self.rows(group, &STATE, keys, usize::MAX)?;
        let suffix = |key: &Bytes| state_suffix(key).expect("its keys are made by the store");
        Ok(rows.into_iter().map(|(key, value)| (suffix(&key), value)).collect())
    }

    fn tables(&self) -> &[&'static Table] {
        self.tables.declared()
    }

    fn get_row(&self, group: GroupId, table: &'static Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let slot = self.tables.slot(table);
        self.read(group, |data| {
            data.check_row(slot, key).map(|()| data.row(slot, key).cloned())
        })
    }

    fn scan_rows(
        &self,
        group: GroupId,
        table: &'static Table,
        keys: KeyRange<'_>,
        limit: usize,
        visitor: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let rows = self.rows(group, table, keys, limit)?;
        let mut show = || -> Result<(), RowError> {
            for (key, value) in &rows {
                if visitor(key, value)?.is_break() {
                    break;
                }
            }
            Ok(())
        };
        self.met(group, show().map_err(StoreError::from))
    }

    fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        Ok(self.run.lock().layer().groups())
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }

    fn condition(&self) -> StoreCondition {
        match self.fence.reason() {
            Some(reason) => StoreCondition::Fenced(reason.to_string()),
            None => match self.disk_low.lock().or_else(|| self.disk.low()) {
                Some((free, reserve)) => StoreCondition::DiskLow { free, reserve },
                None => StoreCondition::Healthy,
            },
        }
    }

    fn damaged_file(&self) -> Option<String> {
        None
    }

    fn hurry(&self) {
        self.sync_all();
    }

    fn queue_bytes(&self) -> usize {
        self.run.lock().queue_bytes()
    }

    fn durable_commit(&self) -> u64 {
        self.run.lock().told
    }

    fn statistics(&self) -> StoreStatistics {
        let run = self.run.lock();
        StoreStatistics {
            queue_bytes: run.queue_bytes() as u64,
            open_groups: run.open.len() as u64,
            ..self.counters.read()
        }
    }
}

/// Lets each table judge its rows, about `max_bytes` from the cursor on. The log cannot have a gap here.
fn scrub(data: &GroupData, tables: &Tables, cursor: ScrubCursor, max_bytes: u64) -> Result<Scrubbed, StoreError> {
    let mut bytes = 0;
    let mut rest = None;
    let mut damaged = Ok(());
    match cursor.family.checked_sub(1) {
        None => data.each_entry(cursor.next.unwrap_or(0), &mut |entry| {
            if let Err(error) = data.check_entries(std::slice::from_ref(entry)) {
                damaged = Err(error);
                return ControlFlow::Break(());
            }
            if bytes >= max_bytes {
                rest = Some(ScrubCursor {
                    next: Some(entry.index),
                    ..ScrubCursor::default()
                });
                return ControlFlow::Break(());
            }
            bytes += entry.payload_len() as u64;
            ControlFlow::Continue(())
        }),
        Some(slot) => {
            let mut before = cursor.next;
            for (at, (key, value)) in data.rows(slot, KeyRange::from(&cursor.key)).enumerate() {
                if bytes >= max_bytes {
                    rest = Some(ScrubCursor {
                        family: cursor.family,
                        key: key.to_vec(),
                        next: before,
                    });
                    break;
                }
                data.check_row(slot, key)?;
                // Rows may have gone between two pieces.
                let known = before.filter(|_| at > 0 || *key == cursor.key);
                before = (tables.all()[slot].check)(known, key, value)?;
                bytes += (key.len() + value.len()) as u64;
            }
        }
    }
    damaged?;
    let next = rest.or_else(|| {
        (cursor.family < tables.all().len()).then(|| ScrubCursor {
            family: cursor.family + 1,
            ..ScrubCursor::default()
        })
    });
    Ok(Scrubbed { bytes, next })
}
