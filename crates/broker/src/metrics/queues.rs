//! What has come of the messages of queues on this broker, as counters that never go back. A queue's leader counts anew with each term;
//! what it has counted since the last look is added here, at each scrape and when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_queue::engine::Tally;
use parking_lot::Mutex;

/// The counters of all queues of which this broker has led a partition.
#[derive(Default)]
pub(crate) struct QueueTallies {
    by_name: Mutex<BTreeMap<Arc<str>, Tally>>,
}

impl QueueTallies {
    /// Adds what was counted of a queue's messages.
    pub fn add(&self, name: &Arc<str>, tally: Tally) {
        self.by_name.lock().entry(name.clone()).or_default().add(tally);
    }

    /// The counters by queue, without those of queues that are gone.
    pub fn sample(&self, is_there: impl Fn(&str) -> bool) -> BTreeMap<Arc<str>, Tally> {
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
        let sampled = tallies.sample(|name| name == "a");
        assert_eq!(sampled, BTreeMap::from([("a".into(), sent(4))]));
        assert_eq!(tallies.sample(|_| true), sampled, "the other one is forgotten");
        assert_eq!(sent(7).since(sent(5)), sent(2));
    }
}
