//! Where the log's head may be cut off, and how much was applied since: what decides when the next such point is due.

use std::collections::VecDeque;

use jangada_types::Offset;

use crate::raft_types::{LogId, next_index};
use jangada_machine::Retention;

/// A compacted group asks for a snapshot after this many entries of applied log; but not before the state's own size was applied.
pub(crate) const SNAPSHOT_EVERY_ENTRIES: u64 = 4096;

/// Where a checkpoint lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint {
    pub index: u64,
    /// The state's position then: every record below it lies in entries up to `index`.
    pub position: Offset,
}

/// The purge points that are left, and the one that the snapshot stands at. Shared with the builder, which runs apart
/// from apply.
#[derive(Default)]
pub(crate) struct PurgePoints {
    pub checkpoints: VecDeque<Checkpoint>,
    pub snapshot_index: Option<u64>,
}

impl PurgePoints {
    /// The last checkpoint at or below `start`. It is news: what becomes the snapshot is a checkpoint no more.
    pub fn reachable(&self, start: Offset) -> Option<Checkpoint> {
        self.checkpoints
            .iter()
            .rev()
            .find(|point| point.position <= start)
            .copied()
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
    pub fn inherited(points: &PurgePoints, last_applied: Option<LogId>, retention: Retention) -> Self {
        let newest = points.checkpoints.back();
        let cut = newest.map(|point| point.index).max(points.snapshot_index);
        let entries = next_index(last_applied) - cut.map_or(0, |index| index + 1);
        let is_far = match retention {
            Retention::Compacted => entries >= SNAPSHOT_EVERY_ENTRIES,
            // Where no records came, there is nothing to cut: a broker that is restarted often makes no rows for its idle
            // partitions.
            Retention::LogIsData { position, .. } => match newest {
                Some(point) => point.position < position,
                None => entries > 0 && position > Offset::from(0),
            },
        };
        if is_far {
            Self::UNKNOWN
        } else {
            Self { bytes: 0, entries }
        }
    }
}
