//! The newest entries of each group's log, in memory: what replication, apply and fetches at the log's end read.
//!
//! An entry stays at least until it is in RocksDB. After that it may go, oldest first over all groups of the node, when
//! all tails together exceed their budget. Bodies are shared with whoever else holds them; nothing is copied.
//!
//! ```text
//!  purged      evicted: on disk only      tail: in memory          last
//!    |---------------------------------|---------|----------------|
//!                                          written   not written yet (pinned)
//! ```

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::group::Group;
use crate::store::LogEntry;

/// Memory of an entry beside its payload, bytes: the entry itself and the allocations of its parts.
const ENTRY_OVERHEAD: usize = 160;

/// Memory that an entry is counted with.
pub(crate) fn entry_bytes(entry: &LogEntry) -> usize {
    entry.payload_len() + ENTRY_OVERHEAD
}

/// What all tails of the node hold, and may hold.
pub(crate) struct TailBudget {
    used: AtomicUsize,
    limit: usize,
}

impl TailBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn exceeded(&self) -> bool {
        self.used() > self.limit
    }
}

struct Held {
    entry: LogEntry,
    /// Position in the commit queue; the entry is in RocksDB once the writer has passed it.
    position: u64,
}

/// The tail of one group: consecutive entries up to the last of the log. Empty says that all there is lies on disk.
pub(crate) struct Tail {
    entries: VecDeque<Held>,
    budget: Arc<TailBudget>,
}

impl Tail {
    pub(crate) fn new(budget: Arc<TailBudget>) -> Self {
        Self {
            entries: VecDeque::new(),
            budget,
        }
    }

    /// Index of the first entry in memory.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|held| held.entry.index)
    }

    pub(crate) fn push(&mut self, entry: LogEntry, position: u64) {
        if let Some(last) = self.entries.back() {
            assert_eq!(last.entry.index + 1, entry.index, "the tail has no gaps");
            assert!(last.position <= position, "positions rise");
        }
        self.budget.used.fetch_add(entry_bytes(&entry), Relaxed);
        self.entries.push_back(Held { entry, position });
    }

    /// Puts an entry in the place of the one with its index, if that is in memory. It stays at least until it is written.
    pub(crate) fn replace(&mut self, entry: &LogEntry, position: u64) {
        let Some(first) = self.first_index() else { return };
        let Some(at) = entry.index.checked_sub(first).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        if let Some(held) = self.entries.get_mut(at) {
            self.budget.used.fetch_add(entry_bytes(entry), Relaxed);
            self.budget.used.fetch_sub(entry_bytes(&held.entry), Relaxed);
            *held = Held {
                entry: entry.clone(),
                position,
            };
        }
    }

    pub(crate) fn get(&self, index: u64) -> Option<&LogEntry> {
        let first = self.first_index()?;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.entries.get(at).map(|held| &held.entry)
    }

    /// Adds the entries of `range` to `found` until `bytes` plus theirs exceed `max_bytes`; one is added even then if
    /// `found` is empty.
    pub(crate) fn read(&self, range: Range<u64>, found: &mut Vec<LogEntry>, mut bytes: usize, max_bytes: usize) {
        for index in range {
            let Some(entry) = self.get(index) else { return };
            bytes = bytes.saturating_add(entry.payload_len());
            if bytes > max_bytes && !found.is_empty() {
                return;
            }
            found.push(entry.clone());
        }
    }

    /// Drops the entries after `index`.
    pub(crate) fn truncate_after(&mut self, index: Option<u64>) {
        while self
            .entries
            .back()
            .is_some_and(|held| index.is_none_or(|index| held.entry.index > index))
        {
            let held = self.entries.pop_back();
            self.released(held);
        }
    }

    /// Drops the entries up to and with `index`.
    pub(crate) fn drop_through(&mut self, index: u64) {
        while self.entries.front().is_some_and(|held| held.entry.index <= index) {
            let held = self.entries.pop_front();
            self.released(held);
        }
    }

    /// Drops what was queued at or before `position`, which is in RocksDB by now.
    fn evict_through(&mut self, position: u64) {
        while self.entries.front().is_some_and(|held| held.position <= position) {
            let held = self.entries.pop_front();
            self.released(held);
        }
    }

    /// Whether anything that was queued at or before `position` is still in memory.
    fn holds_through(&self, position: u64) -> bool {
        self.entries.front().is_some_and(|held| held.position <= position)
    }

    fn released(&self, held: Option<Held>) {
        let held = held.expect("checked by the caller");
        self.budget.used.fetch_sub(entry_bytes(&held.entry), Relaxed);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.truncate_after(None);
    }
}

/// Evicts written entries in the order in which they were queued. Belongs to the writer thread.
pub(crate) struct Evictor {
    budget: Arc<TailBudget>,
    written: VecDeque<(Arc<Group>, u64)>,
    /// At this length it is looked through for what purges have taken from memory already.
    sweep_at: usize,
}

/// Fewer notes than this are never worth looking through.
const SWEEP_MIN: usize = 4096;

impl Evictor {
    pub(crate) fn new(budget: Arc<TailBudget>) -> Self {
        Self {
            budget,
            written: VecDeque::new(),
            sweep_at: SWEEP_MIN,
        }
    }

    /// Entries of the group at this position are in RocksDB.
    pub(crate) fn wrote(&mut self, group: Arc<Group>, position: u64) {
        self.written.push_back((group, position));
    }

    /// Evicts until the budget holds or nothing evictable is left.
    pub(crate) fn run(&mut self) {
        while self.budget.exceeded() {
            let Some((group, position)) = self.written.pop_front() else {
                break;
            };
            group.lock().tail.evict_through(position);
        }
        if self.written.len() >= self.sweep_at {
            self.written
                .retain(|(group, position)| group.lock().tail.holds_through(*position));
            self.sweep_at = (self.written.len() * 2).max(SWEEP_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(index: u64) -> LogEntry {
        LogEntry {
            index,
            term: 1,
            head: Bytes::new(),
            body: Bytes::from(vec![0; 100]),
        }
    }

    fn tail_of(range: Range<u64>) -> (Tail, Arc<TailBudget>) {
        let budget = Arc::new(TailBudget::new(0));
        let mut tail = Tail::new(budget.clone());
        for index in range {
            tail.push(entry(index), index);
        }
        (tail, budget)
    }

    fn indexes(tail: &Tail, range: Range<u64>, max_bytes: usize) -> Vec<u64> {
        let mut found = Vec::new();
        tail.read(range, &mut found, 0, max_bytes);
        found.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn reading_stops_at_the_byte_cap_but_never_before_the_first_entry() {
        let (tail, _) = tail_of(5..10);
        assert_eq!(indexes(&tail, 5..10, 250), [5, 6]);
        assert_eq!(indexes(&tail, 5..10, 1), [5]);
        assert_eq!(indexes(&tail, 8..20, 1000), [8, 9]);
        assert!(indexes(&tail, 4..10, 1000).is_empty());
    }

    #[test]
    fn everything_that_leaves_gives_its_memory_back() {
        let (mut tail, budget) = tail_of(0..10);
        let one = entry_bytes(&entry(0));
        assert_eq!(budget.used(), 10 * one);
        tail.truncate_after(Some(7));
        assert_eq!(budget.used(), 8 * one);
        tail.drop_through(1);
        assert_eq!(budget.used(), 6 * one);
        tail.evict_through(3);
        assert_eq!((budget.used(), tail.first_index()), (4 * one, Some(4)));
        drop(tail);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_rewritten_entry_stays_until_it_is_written_and_holds_nothing_else_back_for_ever() {
        let (mut tail, budget) = tail_of(0..5);
        let one = entry_bytes(&entry(0));
        let emptied = LogEntry {
            body: Bytes::new(),
            ..entry(1)
        };
        tail.replace(&emptied, 9);
        tail.replace(&entry(7), 9);
        assert_eq!(budget.used(), 5 * one - 100);
        assert_eq!(tail.get(1), Some(&emptied));
        tail.evict_through(4);
        assert_eq!(tail.first_index(), Some(1), "it is not written");
        tail.evict_through(9);
        assert_eq!((tail.first_index(), budget.used()), (None, 0));
    }

    #[test]
    fn an_old_eviction_spares_what_was_appended_again() {
        let (mut tail, _) = tail_of(0..5);
        tail.truncate_after(Some(2));
        tail.push(entry(3), 90);
        tail.evict_through(4);
        assert_eq!(tail.first_index(), Some(3));
    }
}
