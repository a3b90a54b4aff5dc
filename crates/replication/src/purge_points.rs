//! Where the log's head may be cut off, and how much was applied since: what decides when the next such point is due.

use std::collections::VecDeque;
use std::sync::Arc;

use jangada_machine::Retention;
use jangada_storage::{Op, StateKind};
use jangada_types::Offset;
use jangada_types::planted::{self, Bug};

use crate::raft_types::{LogId, SnapshotMeta, next_index};
use crate::snapshot::chunks::{Chunks, Stored};

/// A compacted group asks for a snapshot after this many entries of applied log; but not before the state's own size was applied.
pub(crate) const SNAPSHOT_EVERY_ENTRIES: u64 = 4096;

/// Where a checkpoint lies.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub index: u64,
    /// The state's position then: every record below it lies in entries up to `index`.
    pub position: Offset,
    /// The chunks of its state, if it lies in chunks.
    pub chunks: Option<Arc<Chunks>>,
}

impl Checkpoint {
    /// Deletes its record. [`Checkpoint::let_go`] follows when that was queued.
    pub fn deletion(&self) -> Op {
        Op::DeleteState {
            kind: StateKind::CHECKPOINT,
            suffix: Some(self.index),
        }
    }

    /// Its record is gone, and so are the chunks that it names.
    pub fn let_go(&self) {
        self.chunks.iter().for_each(|chunks| chunks.let_go());
    }
}

/// The purge points that are left, and the one that the snapshot stands at. Shared with the builder, which runs apart
/// from apply.
#[derive(Default)]
pub(crate) struct PurgePoints {
    pub checkpoints: VecDeque<Checkpoint>,
    pub snapshot_index: Option<u64>,
    /// The snapshot, if its state lies in chunks.
    pub chunked_snapshot: Option<(SnapshotMeta, Arc<Chunks>)>,
}

impl PurgePoints {
    /// The snapshot is another one: the caller has queued its record. What comes back is to be dropped then.
    #[must_use]
    pub fn set_snapshot(&mut self, meta: &SnapshotMeta, state: &Stored) -> Option<Arc<Chunks>> {
        self.snapshot_index = meta.last_log_id.map(|id| id.index);
        let chunks = state.chunks().cloned();
        if let Some(chunks) = &chunks {
            chunks.keep();
        }
        let now = chunks.map(|chunks| (meta.clone(), chunks));
        let before = std::mem::replace(&mut self.chunked_snapshot, now);
        before.map(|(_, chunks)| chunks).inspect(|chunks| chunks.let_go())
    }

    /// The last checkpoint at or below `start`. It is news: what becomes the snapshot is a checkpoint no more.
    pub fn reachable(&self, start: Offset) -> Option<Checkpoint> {
        self.checkpoints
            .iter()
            .rev()
            .find(|point| point.position <= start || planted::is(Bug::PurgeAboveCheckpoint))
            .cloned()
    }
}

/// Applied log since some event.
#[derive(Clone, Copy, Default)]
pub(crate) struct Progress {
    pub bytes: u64,
    pub entries: u64,
}

impl Progress {
    /// More than any distance: what is due by bytes is due now.
    const UNKNOWN: Self = Self {
        bytes: u64::MAX,
        entries: u64::MAX,
    };

    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries = self.entries.saturating_add(1);
    }

    /// What earlier runs applied since the newest point that the log can be cut at. Were it forgotten, a group that no run
    /// of the process takes far enough would never shrink. How many bytes it was is not known, so a point is made soon.
    pub fn recovered(points: &PurgePoints, last_applied: Option<LogId>, retention: Retention) -> Self {
        let newest = points.checkpoints.back();
        let cut = newest.map(|point| point.index).max(points.snapshot_index);
        let entries = next_index(last_applied) - cut.map_or(0, |index| index + 1);
        let is_far_behind = match retention {
            Retention::Compacted => entries >= SNAPSHOT_EVERY_ENTRIES,
            // Where no records came, there is nothing to cut: a broker that is restarted often makes no rows for its idle
            // partitions.
            Retention::LogIsData { position, .. } => match newest {
                Some(point) => point.position < position,
                None => entries > 0 && position > Offset::from(0),
            },
        };
        if is_far_behind {
            Self::UNKNOWN
        } else {
            Self { bytes: 0, entries }
        }
    }
}
