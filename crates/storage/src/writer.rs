//! The writer thread: takes what all groups queued, writes it as one batch, syncs once, answers everybody in order.
//!
//! The next sync starts when the last one has ended; there is no timer, so the number of syncs follows the disk. A
//! commit of lazy writes only is written but not synced: the next sync makes it durable with the rest.

use std::sync::Arc;
use std::time::Instant;

use jangada_types::{GroupId, RowChange};
use rocksdb::{BoundColumnFamily, WriteBatch};

use crate::codec;
use crate::commit_rows;
use crate::database::Database;
use crate::error::StoreError;
use crate::fence::Fence;
use crate::group::Change;
use crate::keys;
use crate::mark::{ChainHasher, CommitPoint, Marker};
use crate::options::COMMIT_BYTES_MAX;
use crate::places::Place;
use crate::queue::{CommitQueue, Item};
use crate::reclaim::Reclaim;
use crate::statistics::Counters;
use crate::store::{Durability, StateKind};
use crate::tail::Evictor;

/// Where the writer writes: the seam at which tests let the disk fail.
pub(crate) trait Device: Send {
    /// Writes a batch; not durable yet.
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError>;
    /// Makes all batches durable.
    fn sync(&mut self) -> Result<(), StoreError>;
}

impl Device for Arc<Database> {
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        Database::write(self, batch)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        Database::sync(self)
    }
}

/// Everything that belongs to the writer thread.
pub(crate) struct Writer {
    pub(crate) queue: Arc<CommitQueue>,
    pub(crate) database: Arc<Database>,
    pub(crate) device: Box<dyn Device>,
    pub(crate) marker: Arc<Marker>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reclaim: Arc<Reclaim>,
    pub(crate) evictor: Evictor,
    /// The last commit that was written.
    pub(crate) point: CommitPoint,
    /// The last commit that was synced.
    pub(crate) synced: CommitPoint,
    /// The last commit that was written and holds anything but the node's own notes.
    pub(crate) told: u64,
    pub(crate) scratch: Vec<u8>,
}

/// Fences the store should the writer thread panic, so that nobody waits for it for ever.
struct PanicGuard {
    queue: Arc<CommitQueue>,
    fence: Arc<Fence>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.close();
            self.fence.trip("the writer thread panicked");
            self.queue.fail();
            while let Some(items) = self.queue.take(usize::MAX) {
                drop(items);
            }
        }
    }
}

impl Writer {
    /// The writer thread. Returns when the queue is closed and everything in it is durable and answered.
    pub(crate) fn run(mut self) {
        let _guard = PanicGuard {
            queue: self.queue.clone(),
            fence: self.fence.clone(),
        };
        while let Some(items) = self.queue.take(COMMIT_BYTES_MAX) {
            self.commit(items);
        }
        if self.fence.reason().is_none() {
            let last = self.sync().and_then(|()| self.marker.wait_idle());
            if let Err(error) = last {
                self.fence.trip(&error.to_string());
            }
        }
        self.queue.fail();
    }

    fn commit(&mut self, items: Vec<Item>) {
        let bytes = items.iter().map(|item| item.bytes).sum();
        let result = match self.fence.reason() {
            Some(reason) => Err(reason.clone()),
            None => self
                .persist(&items)
                .map_err(|error| self.fence.trip(&error.to_string())),
        };
        if result.is_err() {
            self.queue.fail();
        }
        for item in items {
            item.answer.send(result.clone().map_err(StoreError::Fenced));
        }
        self.queue.release(bytes);
    }

    fn persist(&mut self, items: &[Item]) -> Result<(), StoreError> {
        let batch = self.encode(items);
        Counters::add(&self.counters.bytes_written, batch.size_in_bytes());
        let started = Instant::now();
        self.device.write(batch)?;
        self.counters.write_latency.record(started.elapsed());
        Counters::add(&self.counters.commits, 1);
        Counters::add(&self.counters.writes, items.len());
        self.after_write(items);
        if items.iter().any(|item| item.durability == Durability::Synced) {
            self.sync()?;
        }
        Ok(())
    }

    /// Syncs what is written, if anything is not, and lets the mark follow. Returns when the mark *before* this sync is
    /// durable.
    fn sync(&mut self) -> Result<(), StoreError> {
        if self.synced == self.point {
            return Ok(());
        }
        let started = Instant::now();
        self.device.sync()?;
        let synced = Instant::now();
        self.marker.wait_idle()?;
        self.marker.submit(self.point, self.told);
        self.synced = self.point;
        self.counters.sync_latency.record(synced - started);
        self.counters.mark_latency.record(synced.elapsed());
        Counters::add(&self.counters.syncs, 1);
        Ok(())
    }

    /// The items are in RocksDB: what was pinned or overlaid for them may go.
    fn after_write(&mut self, items: &[Item]) {
        for item in items {
            item.group.lock().written(item.position);
            for change in &item.changes {
                match change {
                    Change::Append(entries) => {
                        Counters::add(&self.counters.entries, entries.len());
                        self.evictor.wrote(item.group.clone(), item.position);
                    }
                    Change::Rewrite(entries) => {
                        self.evictor.wrote(item.group.clone(), item.position);
                        // What was there before is garbage once the range is compacted.
                        let indexes = || entries.iter().map(|entry| entry.index);
                        if let (Some(first), Some(last)) = (indexes().min(), indexes().max())
                            && !item.group.place.is_apart()
                        {
                            self.reclaim.note_range(item.group.id, first..last + 1);
                        }
                    }
                    // While rows lie apart nothing is compacted.
                    Change::DeleteLog(from, to) if !item.group.place.is_apart() => {
                        self.reclaim.note_range(item.group.id, *from..*to);
                    }
                    Change::Floor(floor) => self.database.floors().raise(item.group.id, *floor),
                    Change::DeleteGroup => {
                        self.database.floors().forget(item.group.id);
                        self.reclaim.note_group(item.group.id);
                    }
                    _ => {}
                }
            }
        }
        let last = items.last().expect("a commit has items");
        self.queue.set_written(last.position);
        self.evictor.run();
    }

    fn encode(&mut self, items: &[Item]) -> WriteBatch {
        let (tables, families) = (self.database.tables(), self.database.families());
        let expected = items.iter().map(|item| item.bytes).sum::<usize>();
        let mut batch = WriteBatch::with_capacity_bytes(expected + 512);
        let mut chain = ChainHasher::after(self.point);
        for item in items {
            let (group, mut place) = (item.group.id, item.group.place);
            for change in &item.changes {
                match change {
                    Change::Append(entries) | Change::Rewrite(entries) => {
                        for entry in entries {
                            chain.update([group.get(), entry.index, entry.term]);
                            codec::encode_log(&mut self.scratch, entry);
                            batch.put_cf(&families.log, place.log(entry.index), &self.scratch);
                        }
                    }
                    Change::DeleteLog(from, to) => {
                        delete_range(&mut batch, &families.log, &place.log(*from), &place.log(*to));
                    }
                    Change::Row(change) => {
                        let family = &families.tables[tables.slot(change.table())];
                        put_row(&mut batch, family, place, change, &mut self.scratch);
                    }
                    Change::Floor(_) => {}
                    Change::Move(moved) => {
                        let key = keys::state(GroupId::NODE, StateKind::PLACES, 0);
                        batch.put_cf(families.state(), key, &moved.row);
                        place = moved.to;
                    }
                    Change::DeleteGroup => {
                        for family in [&families.log].into_iter().chain(&families.tables) {
                            delete_range(&mut batch, family, &place.start(), &place.end());
                        }
                    }
                }
            }
            chain.update([group.get(), item.changes.len() as u64, item.bytes as u64]);
        }
        self.point = chain.finish();
        if items.iter().any(|item| item.group.id != GroupId::NODE) {
            self.told = self.point.sequence;
        }
        commit_rows::put(&mut batch, tables, &families, self.point);
        batch
    }
}

/// Adds a change of a row. `key` is overwritten.
fn put_row(
    batch: &mut WriteBatch,
    family: &Arc<BoundColumnFamily<'_>>,
    place: Place,
    change: &RowChange,
    key: &mut Vec<u8>,
) {
    match change {
        RowChange::Put { key: row, value, .. } => {
            place.put_key(row, key);
            batch.put_cf(family, &*key, value);
        }
        RowChange::Delete { key: row, .. } => {
            place.put_key(row, key);
            batch.delete_cf(family, &*key);
        }
        RowChange::DeleteRange { from, to, .. } => {
            let end = to.as_ref().map_or_else(|| place.end().to_vec(), |to| place.key(to));
            delete_range(batch, family, &place.key(from), &end);
        }
    }
}

/// Deletes the rows of a family in `start..end`, of which there may be none. An empty range is not given to RocksDB, which
/// counts it when it is written and not when it is replayed: after that sequence numbers go backwards, and the database
/// cannot be opened any more.
fn delete_range(batch: &mut WriteBatch, family: &Arc<BoundColumnFamily<'_>>, start: &[u8], end: &[u8]) {
    if start < end {
        batch.delete_range_cf(family, start, end);
    }
}
