//! What readers see of a partition, and what puts it there: [`PartitionPublisher`] applies commands to the replicated state and
//! shows of it, in the [`View`], what was applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use jangada_log::{IndexEntry, Leader, PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::{Effects, Machine, Retention};
use jangada_replication::{Publisher, StateImage};
use jangada_types::{LogPosition, Offset};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::queues::DeskCell;
use crate::replica::Driven;

/// Index rows kept in memory, so that reading at the end of the log asks neither the disk nor the writer.
const RECENT_ROWS_MAX: usize = 1024;

/// What readers see of a partition: everything here is committed and applied.
pub(crate) struct View {
    high_watermark: watch::Sender<Offset>,
    log_start: AtomicI64,
    retained_bytes: AtomicU64,
    recent: RwLock<VecDeque<IndexEntry>>,
    /// Bytes of log between checkpoints, from the topic's settings; read when applying, never part of the state.
    checkpoint_bytes: AtomicU64,
    /// The leader's side of the partition's queues, while this replica leads and there are some.
    pub desk: DeskCell,
}

impl View {
    pub fn new(checkpoint_bytes: u64) -> Self {
        Self {
            high_watermark: watch::Sender::new(Offset(0)),
            log_start: AtomicI64::new(0),
            retained_bytes: AtomicU64::new(0),
            recent: RwLock::default(),
            checkpoint_bytes: AtomicU64::new(checkpoint_bytes),
            desk: DeskCell::default(),
        }
    }

    pub fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    pub fn watch_high_watermark(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Bytes of the batches from log start to high watermark.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    pub fn set_checkpoint_bytes(&self, bytes: u64) {
        self.checkpoint_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether the batches from `offset` to the high watermark have at least `min_bytes`.
    pub fn has_bytes(&self, offset: Offset, high_watermark: Offset, min_bytes: usize) -> bool {
        if offset >= high_watermark {
            return false;
        }
        let recent = self.recent.read();
        if recent.front().is_none_or(|first| offset < first.base_offset) {
            // So far behind that there is no need to count.
            return true;
        }
        let start = recent.partition_point(|row| row.last_offset < offset);
        let rows = recent.range(start..).take_while(|row| row.last_offset < high_watermark);
        let mut bytes = 0;
        rows.map(|row| row.size_bytes as usize).any(|size| {
            bytes += size;
            bytes >= min_bytes
        })
    }

    /// Rows from the one that holds `offset` on, until their batches have `max_bytes`; `None` when the first is not
    /// in memory any more.
    pub fn recent_rows(&self, offset: Offset, max_bytes: usize) -> Option<Vec<IndexEntry>> {
        let recent = self.recent.read();
        if recent.front().is_none_or(|first| offset < first.base_offset) {
            return None;
        }
        let start = recent.partition_point(|row| row.last_offset < offset);
        let mut bytes = 0;
        let fits = |row: &&IndexEntry| {
            let first = bytes == 0;
            bytes += row.size_bytes as usize;
            first || bytes <= max_bytes
        };
        Some(recent.range(start..).take_while(fits).copied().collect())
    }
}

/// A partition's replicated state with its leader's side, and what readers see of it.
pub(crate) struct ReplicaState {
    pub driven: Arc<Driven<Leader>>,
    pub view: Arc<View>,
}

impl ReplicaState {
    /// What applies commands to it.
    pub fn publisher(&self) -> PartitionPublisher {
        PartitionPublisher {
            driven: self.driven.clone(),
            view: self.view.clone(),
            unpublished: Vec::new(),
        }
    }
}

/// Applies commands to a partition's state, and shows it to readers.
pub(crate) struct PartitionPublisher {
    driven: Arc<Driven<Leader>>,
    view: Arc<View>,
    /// Rows applied since the last publication.
    unpublished: Vec<IndexEntry>,
}

impl Publisher for PartitionPublisher {
    type Machine = PartitionState;

    fn apply(&mut self, at: LogPosition, command: PartitionCommand, effects: &mut Effects) -> PartitionReply {
        let fold = |state: &mut PartitionState| {
            let (reply, row) = state.fold(at, &command, effects);
            self.view.desk.applied(at, state, &command, &reply);
            (reply, row)
        };
        let (reply, row) = self.driven.apply(at, &command, fold);
        if let Some(row) = row {
            row.put_into(effects);
            self.unpublished.push(row);
        }
        reply
    }

    fn publish(&mut self) {
        if !self.unpublished.is_empty() {
            let mut recent = self.view.recent.write();
            recent.extend(self.unpublished.drain(..));
            let excess = recent.len().saturating_sub(RECENT_ROWS_MAX);
            recent.drain(..excess);
        }
        let shown = |state: &PartitionState| {
            let has_slots = state.slots().iter().len() > 0;
            (
                state.log_start(),
                state.next_offset(),
                state.retained_bytes(),
                has_slots,
            )
        };
        let (log_start, next, retained_bytes, has_slots) = self.driven.publish(shown);
        self.view.log_start.store(log_start.get(), Ordering::Release);
        self.view.retained_bytes.store(retained_bytes, Ordering::Relaxed);
        self.view
            .high_watermark
            .send_if_modified(|known| std::mem::replace(known, next) != next);
        self.view.desk.published(has_slots);
    }

    fn snapshot(&self) -> Bytes {
        // Under the lock, since a clone of many producers takes as long as encoding them.
        self.driven.with_machine(Machine::snapshot)
    }

    /// The slots of queues may be large, and are cheap to clone.
    fn image(&self) -> StateImage {
        let image = |state: &PartitionState| match state.slots().is_unused() {
            true => StateImage::Encoded(state.snapshot()),
            false => StateImage::shared(state.clone()),
        };
        self.driven.with_machine(image)
    }

    fn replace(&mut self, state: PartitionState) {
        // The rows in memory belong to the state that goes.
        self.unpublished.clear();
        self.view.recent.write().clear();
        self.driven.replace(state);
    }

    fn retention(&self) -> Retention {
        self.driven.with_machine(Machine::retention)
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.view.checkpoint_bytes.load(Ordering::Relaxed)
    }
}
