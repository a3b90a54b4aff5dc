//! What readers see of a partition, and what puts it there: [`PartitionPublisher`] applies commands to the replicated state and
//! shows of it, in the [`View`], what was applied.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use jangada_log::{AbortedTransaction, IndexEntry, Leader, PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::{Effects, Machine, Retention};
use jangada_replication::{Publisher, StateImage};
use jangada_types::{LogPosition, Offset};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::isolation::Ends;
use super::recent_aborted::RecentAborted;
use super::spent::Spent;
use crate::queues::DeskCell;
use crate::replica::Driven;

/// Index rows kept in memory, so that reading at the end of the log asks neither the disk nor the writer.
const RECENT_ROWS_MAX: usize = 1024;

/// The open transactions as people are shown them.
#[derive(Default)]
struct OpenTransactions {
    count: AtomicU64,
    since_ms: AtomicI64,
}

/// What readers see of a partition: everything here is committed and applied.
pub(crate) struct View {
    /// Both of one moment: who reads committed records never sees one without the other.
    ends: watch::Sender<Ends>,
    /// There are, or were, transactions. Set before the ends say so.
    has_transactions: AtomicBool,
    aborted: RwLock<RecentAborted>,
    open: OpenTransactions,
    log_start: AtomicI64,
    retained_bytes: AtomicU64,
    /// The offset below which compaction may take tombstones.
    clean_horizon: AtomicI64,
    recent: RwLock<VecDeque<IndexEntry>>,
    /// Bytes of log between checkpoints, from the topic's settings; read when applying, never part of the state.
    checkpoint_bytes: AtomicU64,
    /// The leader's side of the partition's queues, while this replica leads and there are some.
    pub desk: DeskCell,
    /// Appends whose batches nobody reads.
    pub spent: Spent,
}

impl View {
    pub fn new(checkpoint_bytes: u64, spent: Spent) -> Self {
        Self {
            ends: watch::Sender::new(Ends::default()),
            has_transactions: AtomicBool::new(false),
            aborted: RwLock::default(),
            open: OpenTransactions::default(),
            log_start: AtomicI64::new(0),
            retained_bytes: AtomicU64::new(0),
            clean_horizon: AtomicI64::new(0),
            recent: RwLock::default(),
            checkpoint_bytes: AtomicU64::new(checkpoint_bytes),
            desk: DeskCell::default(),
            spent,
        }
    }

    pub fn high_watermark(&self) -> Offset {
        self.ends.borrow().high_watermark
    }

    pub fn ends(&self) -> Ends {
        *self.ends.borrow()
    }

    pub fn watch_ends(&self) -> watch::Receiver<Ends> {
        self.ends.subscribe()
    }

    /// Whether there are, or were, transactions: if not, readers need not look for them in what they read.
    pub fn has_transactions(&self) -> bool {
        self.has_transactions.load(Ordering::Acquire)
    }

    /// Number of open transactions, and the time since when the earliest of them is open, milliseconds since the Unix epoch.
    pub fn open_transactions(&self) -> (u64, i64) {
        let OpenTransactions { count, since_ms } = &self.open;
        (count.load(Ordering::Relaxed), since_ms.load(Ordering::Relaxed))
    }

    /// The aborted transactions with records in these offsets, by their markers; `None`: they are not all in memory.
    pub(super) fn recent_aborted(&self, within: Range<Offset>) -> Option<Vec<AbortedTransaction>> {
        self.aborted.read().within(within)
    }

    /// Readers are not told any more of the aborted transactions with these markers.
    pub(super) fn forget_aborted(&self, markers: &[Offset]) {
        self.aborted.write().forget(markers);
    }

    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Bytes of the batches from log start to high watermark.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    /// Shows what there is of transactions.
    fn show_transactions(&self, state: &PartitionState) {
        let earliest = state.open_transactions().next();
        let since_ms = earliest.map_or(0, |(_, _, open)| open.since_ms);
        self.open
            .count
            .store(state.open_transaction_count() as u64, Ordering::Relaxed);
        self.open.since_ms.store(since_ms, Ordering::Relaxed);
        self.has_transactions.store(true, Ordering::Release);
    }

    /// Below this offset compaction may take tombstones.
    pub fn clean_horizon(&self) -> Offset {
        Offset(self.clean_horizon.load(Ordering::Acquire))
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
            unpublished_aborted: Vec::new(),
        }
    }
}

/// Applies commands to a partition's state, and shows it to readers.
pub(crate) struct PartitionPublisher {
    driven: Arc<Driven<Leader>>,
    view: Arc<View>,
    /// Rows applied since the last publication.
    unpublished: Vec<IndexEntry>,
    /// Transactions that were aborted since.
    unpublished_aborted: Vec<AbortedTransaction>,
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
        self.view.spent.applied(at, &reply);
        if let Some(row) = row {
            row.put_into(effects);
            self.unpublished.push(row);
        }
        if let PartitionReply::Ended {
            aborted: Some(aborted), ..
        } = &reply
        {
            self.unpublished_aborted.push(*aborted);
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
        if !self.unpublished_aborted.is_empty() {
            self.view.aborted.write().add(self.unpublished_aborted.drain(..));
        }
        let shown = |state: &PartitionState| {
            let has_slots = state.slots().iter().len() > 0;
            if state.has_transactions() {
                self.view.show_transactions(state);
            }
            let ends = Ends {
                high_watermark: state.next_offset(),
                // What was trimmed of an open transaction is no place where anybody reads.
                last_stable: state.last_stable_offset().max(state.log_start()),
            };
            (
                state.log_start(),
                ends,
                state.retained_bytes(),
                has_slots,
                state.clean_horizon(),
            )
        };
        let (log_start, ends, retained_bytes, has_slots, horizon) = self.driven.publish(shown);
        self.view.clean_horizon.store(horizon.get(), Ordering::Release);
        let start_before = self.view.log_start.swap(log_start.get(), Ordering::AcqRel);
        assert!(
            start_before <= log_start.get() && log_start <= ends.last_stable && ends.last_stable <= ends.high_watermark,
            "log start {log_start} after {start_before}, with {ends:?}"
        );
        self.view.retained_bytes.store(retained_bytes, Ordering::Relaxed);
        self.view.ends.send_if_modified(|known| {
            let is_behind = known.high_watermark <= ends.high_watermark && known.last_stable <= ends.last_stable;
            assert!(is_behind, "{known:?} is followed by {ends:?}");
            std::mem::replace(known, ends) != ends
        });
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
        self.unpublished_aborted.clear();
        *self.view.aborted.write() = RecentAborted::begin(state.next_offset());
        self.driven.replace(state);
    }

    fn retention(&self) -> Retention {
        self.driven.with_machine(Machine::retention)
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.view.checkpoint_bytes.load(Ordering::Relaxed)
    }
}
