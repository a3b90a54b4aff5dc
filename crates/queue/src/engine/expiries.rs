//! The times to live of messages that were handed out, so that one that comes back keeps its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::Slot;

/// Look-ups of times to live that may be under way.
const READS_MAX: usize = 16;
/// Times to live of messages that are held nowhere any more are forgotten when there are more than so many.
const KEPT: usize = 1_024;

/// The times to live of messages that were handed out or come back.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    /// By offset; 0: it has none.
    known: BTreeMap<u64, u64>,
    /// Messages that came back, and whose rows have to be looked up before they go out.
    unknown: BTreeSet<u64>,
    /// Those of them that are being looked up.
    reads: BTreeSet<u64>,
    kept: usize,
}

impl Expiries {
    pub(super) fn learn(&mut self, offset: u64, expires_at_ms: u64) {
        self.known.insert(offset, expires_at_ms);
    }

    /// The time to live of a message that comes back. None: it has to be looked up.
    pub(super) fn ask(&mut self, offset: u64, marks_end: u64) -> Option<u64> {
        if offset >= marks_end {
            return Some(0);
        }
        let known = self.known.get(&offset).copied();
        if known.is_none() {
            self.unknown.insert(offset);
        }
        known
    }

    /// A message has another offset now.
    pub(super) fn carry(&mut self, old: u64, new: u64) {
        if let Some(expires_at_ms) = self.known.remove(&old) {
            self.known.insert(new, expires_at_ms);
        }
    }

    pub(super) fn is_unknown(&self, offset: u64) -> bool {
        self.unknown.contains(&offset)
    }

    /// What the row of a message says.
    pub(super) fn read(&mut self, offset: u64, expires_at_ms: u64) {
        self.reads.remove(&offset);
        self.unknown.remove(&offset);
        self.learn(offset, expires_at_ms);
    }

    /// The next message whose row is to be looked up.
    pub(super) fn wants(&mut self) -> Option<u64> {
        if self.reads.len() >= READS_MAX {
            return None;
        }
        let next = self.unknown.difference(&self.reads).next().copied()?;
        self.reads.insert(next);
        Some(next)
    }

    /// Nothing below an offset is there any more.
    pub(super) fn cut_off(&mut self, floor: u64) {
        self.known = self.known.split_off(&floor);
        self.unknown = self.unknown.split_off(&floor);
        self.reads = self.reads.split_off(&floor);
    }

    pub(super) fn forget_done(&mut self, slot: &Slot) {
        if self.known.len() > KEPT.max(self.kept) {
            self.known.retain(|offset, _| slot.held(*offset).is_some());
            self.kept = 2 * self.known.len();
        }
    }
}
