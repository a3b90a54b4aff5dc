//! What has come of the messages of queues on this broker, as counters that never go back. A queue's leader counts anew with each term;
//! what it has counted since the last look is added here, at each scrape and when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_queue::engine::Tally;
use parking_lot::Mutex;

/// The counters of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueTotals {
    /// What leaders have counted.
    pub tally: Tally,
    /// Messages that were not sent again, as they had been sent before.
    pub duplicates: u64,
    /// Messages that schedules have sent.
    pub scheduled: u64,
    /// Occurrences of schedules that were left out, as they were missed.
    pub left_out: u64,
}

/// The counters of all queues of which this broker has led a partition.
#[derive(Default)]
pub(crate) struct QueueTallies {
    by_name: Mutex<BTreeMap<Arc<str>, QueueTotals>>,
}

impl QueueTallies {
    /// Adds what was counted of a queue's messages.
    pub fn add(&self, name: &Arc<str>, tally: Tally) {
        self.count(name, |totals| totals.tally.add(tally));
    }

    /// Counts what has happened to a queue.
    pub fn count(&self, name: &Arc<str>, count: impl FnOnce(&mut QueueTotals)) {
        count(self.by_name.lock().entry(name.clone()).or_default());
    }

    /// The counters by queue, without those of queues that are gone.
    pub fn sample(&self, is_there: impl Fn(&str) -> bool) -> BTreeMap<Arc<str>, QueueTotals> {
        let mut by_name = self.by_name.lock();
        by_name.retain(|name, _| is_there(name));
        by_name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_kept_while_their_queue_is_there() {
        let tallies = QueueTallies::default();
        let sent = |sent| Tally {
            sent,
            ..Tally::default()
        };
        for (name, count) in [("a", 1), ("b", 2), ("a", 3)] {
            tallies.add(&name.into(), sent(count));
        }
        tallies.count(&"a".into(), |totals| totals.duplicates += 2);
        let sampled = tallies.sample(|name| name == "a");
        let totals = QueueTotals {
            tally: sent(4),
            duplicates: 2,
            ..QueueTotals::default()
        };
        assert_eq!(sampled, BTreeMap::from([("a".into(), totals)]));
        assert_eq!(tallies.sample(|_| true), sampled, "the other one is forgotten");
        assert_eq!(sent(7).since(sent(5)), sent(2));
    }
}
