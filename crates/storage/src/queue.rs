//! The commit queue: what all groups want written, in one order, until the writer thread takes it.
//!
//! Writers of all threads put items in; only the writer thread takes them out. Memory is counted in bytes from `push`
//! until the completion was called; who proposes holds back by that count (`Store::queue_bytes`), as a write itself must
//! never block.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::StoreError;
use crate::group::{Change, Group};
use crate::options::{LAZY_BYTES_MAX, LAZY_DELAY};
use crate::store::{Completion, Durability};

/// A completion that is called exactly once: if nobody did, when it is dropped.
pub(crate) struct Answer(Option<Completion>);

impl Answer {
    pub(crate) fn new(done: Option<Completion>) -> Self {
        Self(done)
    }

    pub(crate) fn send(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(StoreError::ShuttingDown));
        }
    }
}

/// One write of one group.
pub(crate) struct Item {
    pub(crate) group: Arc<Group>,
    pub(crate) position: u64,
    pub(crate) changes: Vec<Change>,
    pub(crate) bytes: usize,
    pub(crate) durability: Durability,
    pub(crate) answer: Answer,
}

struct Inner {
    items: VecDeque<Item>,
    /// Position of the last item that was put in.
    last_position: u64,
    /// Everything up to this position is in RocksDB.
    written: u64,
    /// Somebody waits until this position is in RocksDB.
    wanted: u64,
    synced_items: usize,
    lazy_bytes: usize,
    /// When the oldest lazy item came.
    lazy_since: Option<Instant>,
    closed: bool,
    failed: bool,
}

impl Inner {
    fn urgent(&self) -> bool {
        self.closed
            || self.synced_items > 0
            || self.lazy_bytes >= LAZY_BYTES_MAX
            || (self.wanted > self.written && !self.items.is_empty())
    }
}

/// The writes of all groups that wait for the writer thread, in one order.
pub(crate) struct CommitQueue {
    inner: Mutex<Inner>,
    work: Condvar,
    progress: Condvar,
    bytes: AtomicUsize,
}

/// The locked queue, into which one item is put.
pub(crate) struct Place<'a> {
    queue: &'a CommitQueue,
    inner: MutexGuard<'a, Inner>,
}

impl CommitQueue {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            items: VecDeque::new(),
            last_position: 0,
            written: 0,
            wanted: 0,
            synced_items: 0,
            lazy_bytes: 0,
            lazy_since: None,
            closed: false,
            failed: false,
        };
        Self {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            progress: Condvar::new(),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes of the items that are not completed yet.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Takes the next place; `None` when the queue takes nothing any more.
    pub(crate) fn next_place(&self) -> Option<Place<'_>> {
        let inner = self.inner.lock();
        (!inner.closed).then_some(Place { queue: self, inner })
    }

    /// Waits for work and takes it, up to `max_bytes` but at least one item. `None` when closed and empty. For the
    /// writer thread.
    pub(crate) fn take(&self, max_bytes: usize) -> Option<Vec<Item>> {
        let mut inner = self.inner.lock();
        while !inner.urgent() {
            match inner.lazy_since {
                None => self.work.wait(&mut inner),
                Some(since) => {
                    if self.work.wait_until(&mut inner, since + LAZY_DELAY).timed_out() {
                        break;
                    }
                }
            }
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(item) = inner
            .items
            .pop_front_if(|item| taken.is_empty() || bytes + item.bytes <= max_bytes)
        {
            bytes += item.bytes;
            match item.durability {
                Durability::Synced => inner.synced_items -= 1,
                Durability::Lazy => inner.lazy_bytes -= item.bytes,
            }
            taken.push(item);
        }
        if inner.lazy_bytes == 0 {
            inner.lazy_since = None;
        }
        (!taken.is_empty()).then_some(taken)
    }

    /// Everything up to this position is in RocksDB. For the writer thread.
    pub(crate) fn set_written(&self, position: u64) {
        let mut inner = self.inner.lock();
        assert!(position > inner.written, "positions rise");
        inner.written = position;
        if inner.wanted > 0 {
            self.progress.notify_all();
        }
    }

    /// These bytes are completed. For the writer thread.
    pub(crate) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Nothing will be written any more. Wakes all who wait for it.
    pub(crate) fn fail(&self) {
        self.inner.lock().failed = true;
        self.progress.notify_all();
    }

    /// Waits until all that is queued now is in RocksDB. False when that will not happen.
    pub(crate) fn wait_written(&self) -> bool {
        let mut inner = self.inner.lock();
        let position = inner.last_position;
        if inner.written < position {
            inner.wanted = inner.wanted.max(position);
            self.work.notify_one();
        }
        while inner.written < position && !inner.failed {
            self.progress.wait(&mut inner);
        }
        inner.written >= position
    }

    /// Takes nothing more; what is queued is still written.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.work.notify_one();
    }
}

impl Place<'_> {
    /// Position that the item gets.
    pub(crate) fn position(&self) -> u64 {
        self.inner.last_position + 1
    }

    pub(crate) fn push(mut self, item: Item) {
        assert_eq!(item.position, self.position(), "the place that was taken");
        let inner = &mut *self.inner;
        inner.last_position = item.position;
        self.queue.bytes.fetch_add(item.bytes, Relaxed);
        let was_urgent = inner.urgent();
        match item.durability {
            Durability::Synced => inner.synced_items += 1,
            Durability::Lazy => inner.lazy_bytes += item.bytes,
        }
        // The first lazy item wakes the writer too: it starts the clock.
        let clock_starts = item.durability == Durability::Lazy && inner.lazy_since.is_none();
        if clock_starts {
            inner.lazy_since = Some(Instant::now());
        }
        inner.items.push_back(item);
        if !was_urgent && (inner.urgent() || clock_starts) {
            self.queue.work.notify_one();
        }
    }
}
