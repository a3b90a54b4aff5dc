//! The last aborted transactions of a partition in memory, so that reading at the end of its log does not ask the disk for them.

use std::collections::VecDeque;
use std::ops::Range;

use jangada_log::AbortedTransaction;
use jangada_log::tables::aborted::pick;
use jangada_types::Offset;

/// The most aborted transactions that are kept in memory.
const RECENT_MAX: usize = 256;

/// The last aborted transactions, by their markers.
#[derive(Default)]
pub(super) struct RecentAborted {
    rows: VecDeque<AbortedTransaction>,
    /// All whose markers lie at or above this offset are here.
    all_from: Offset,
}

impl RecentAborted {
    /// Of a replica whose state was read, and has this end.
    pub fn begin(end: Offset) -> Self {
        Self {
            rows: VecDeque::new(),
            all_from: end,
        }
    }

    /// Adds further ones, in their order.
    pub fn add(&mut self, further: impl Iterator<Item = AbortedTransaction>) {
        self.rows.extend(further);
        let excess = self.rows.len().saturating_sub(RECENT_MAX);
        if let Some(last) = self.rows.drain(..excess).next_back() {
            self.all_from = Offset(last.marker.get() + 1);
        }
    }

    /// The rows of these markers are being taken out of the table, with the markers: nothing of their transactions is left.
    pub fn forget(&mut self, markers: &[Offset]) {
        self.rows.retain(|row| !markers.contains(&row.marker));
    }

    /// Those with records in these offsets; `None`: they are not all here.
    pub fn within(&self, within: Range<Offset>) -> Option<Vec<AbortedTransaction>> {
        if within.start < self.all_from {
            return None;
        }
        let start = self.rows.partition_point(|row| row.marker < within.start);
        let mut picked = Vec::new();
        for row in self.rows.range(start..) {
            if !pick(row, within.end, &mut picked) {
                break;
            }
        }
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::ProducerId;

    use super::*;

    fn row(first: i64, marker: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(first),
            first: Offset(first),
            marker: Offset(marker),
            stable_after: Offset(marker + 1),
        }
    }

    #[test]
    fn what_is_not_all_in_memory_is_asked_for_elsewhere() {
        let mut recent = RecentAborted::begin(Offset(100));
        assert_eq!(recent.within(Offset(99)..Offset(200)), None);
        assert_eq!(recent.within(Offset(100)..Offset(200)), Some(Vec::new()));
        let count = RECENT_MAX as i64 + 2;
        recent.add((0..count).map(|at| row(100 + 2 * at, 101 + 2 * at)));
        assert_eq!(recent.within(Offset(103)..Offset(200)), None, "the first two have gone");
        let two = recent.within(Offset(105)..Offset(107)).expect("they are here");
        assert_eq!(two, [row(104, 105), row(106, 107)]);
        recent.forget(&[Offset(103), Offset(105)]);
        assert_eq!(recent.within(Offset(105)..Offset(107)), Some(vec![row(106, 107)]));
    }
}
