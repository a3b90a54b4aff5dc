//! What a desk has counted, as far as the broker's counters do not have it.

use super::desk::Desk;
use crate::metrics::QueueTallies;

impl Desk {
    /// Adds what this has counted since the last look.
    pub fn count_into(&self, tallies: &QueueTallies) {
        for spec in self.queues() {
            let Some(counts) = self.counts(spec.id) else { continue };
            let before = self.counted.lock().insert(spec.id, counts.tally).unwrap_or_default();
            tallies.add(&spec.name, counts.tally.since(before));
        }
    }
}
