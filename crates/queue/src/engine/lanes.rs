//! The cursors of the lanes above 0. The messages of a lane are found by rows; the next ones are in memory.

use std::collections::VecDeque;

use crate::command::Mark;

/// Messages of a lane in memory, at most.
const KNOWN_MAX: usize = 1_024;

/// What is known of one lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The next messages, in ascending order.
    known: VecDeque<(u64, Mark)>,
    /// The offset behind the last one that was known.
    end: u64,
    /// There are none behind those that are known.
    is_whole: bool,
    /// Rows are being looked up.
    reads: bool,
    /// Messages came meanwhile: the rows may be from before.
    is_overtaken: bool,
}

impl Lane {
    /// A lane of which nothing is known from an offset on.
    pub(super) fn unknown(end: u64) -> Self {
        Self { end, ..Self::default() }
    }

    /// A lane without messages.
    pub(super) fn empty(end: u64) -> Self {
        Self {
            end,
            is_whole: true,
            ..Self::default()
        }
    }

    /// A message was appended.
    pub(super) fn appended(&mut self, offset: u64, mark: &Mark) {
        if self.is_whole && self.known.len() < KNOWN_MAX {
            self.known.push_back((offset, mark.clone()));
            self.end = offset + 1;
        } else {
            self.is_whole = false;
            self.is_overtaken |= self.reads;
        }
    }

    /// The next message.
    pub(super) fn front(&self) -> Option<&(u64, Mark)> {
        self.known.front()
    }

    pub(super) fn pop(&mut self) {
        self.known.pop_front();
    }

    /// Whether there may be messages that are not known, while none is known.
    pub(super) fn is_blind(&self) -> bool {
        self.known.is_empty() && !self.is_whole
    }

    /// Rows from this offset on are needed. At most one look-up is under way.
    pub(super) fn wants(&mut self) -> Option<u64> {
        let wants = self.is_blind() && !self.reads;
        wants.then(|| {
            (self.reads, self.is_overtaken) = (true, false);
            self.end
        })
    }

    /// The messages of rows from `end` on.
    pub(super) fn rows(&mut self, messages: impl Iterator<Item = (u64, Mark)>, is_all: bool) {
        let end = self.end;
        self.known.extend(messages.filter(|(offset, _)| *offset >= end));
        self.end = self.known.back().map_or(self.end, |(last, _)| last + 1);
        self.is_whole = is_all && !self.is_overtaken;
        self.reads = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(lane: &Lane) -> Option<u64> {
        lane.front().map(|(offset, _)| *offset)
    }

    fn rows(offsets: &[u64]) -> impl Iterator<Item = (u64, Mark)> {
        offsets.iter().map(|offset| (*offset, Mark::default()))
    }

    #[test]
    fn what_comes_while_rows_are_read_is_not_lost() {
        let mut lane = Lane::unknown(0);
        assert_eq!((lane.wants(), lane.wants()), (Some(0), None));
        lane.appended(9, &Mark::default());
        lane.rows(rows(&[3, 5]), true);
        assert_eq!(front(&lane), Some(3));
        lane.pop();
        lane.pop();
        assert!(lane.is_blind(), "9 may be there, and is");
        assert_eq!(lane.wants(), Some(6));
        lane.rows(rows(&[9]), true);
        lane.appended(12, &Mark::default());
        assert_eq!((front(&lane), lane.is_blind()), (Some(9), false));
        lane.pop();
        assert_eq!(front(&lane), Some(12));
    }
}
