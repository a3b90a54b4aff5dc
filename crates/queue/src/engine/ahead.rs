//! The marks of messages from a place on that only goes up: the cursor's, or that of what is to be carried. They come in batches, from rows
//! or as they are appended.

use std::collections::VecDeque;

use crate::command::{Mark, Marks};
use crate::engine::io::Rows;
use crate::tables::MarkRow;

/// Batches in memory.
const BATCHES_MAX: usize = 256;

/// Marks from a place on.
#[derive(Debug)]
pub(super) struct MarksAhead {
    /// The offset of the first record of each batch, and the marks.
    batches: VecDeque<(u64, Marks)>,
    /// The marks below it, from the place on, are those in `batches`.
    known_to: u64,
    /// A look-up is under way, and the end of all marks when it began.
    reads: Option<u64>,
}

impl MarksAhead {
    /// Nothing is known from this place on.
    pub(super) fn from(place: u64) -> Self {
        Self {
            batches: VecDeque::new(),
            known_to: place,
            reads: None,
        }
    }

    /// What is known ends here.
    pub(super) fn known_to(&self) -> u64 {
        self.known_to
    }

    /// A look-up is under way.
    pub(super) fn reads(&self) -> bool {
        self.reads.is_some()
    }

    /// The mark of a message below `known_to`; none: it has none. Offsets come in ascending order.
    pub(super) fn mark(&mut self, offset: u64) -> Option<&Mark> {
        let is_behind = |(base, marks): &(u64, Marks)| base + marks.0.len() as u64 <= offset;
        while self.batches.front().is_some_and(is_behind) {
            self.batches.pop_front();
        }
        match self.batches.front() {
            Some((base, marks)) if *base <= offset => marks.0.get((offset - base) as usize),
            _ => None,
        }
    }

    /// A batch with marks was appended, where all marks ended at `before`.
    pub(super) fn appended(&mut self, before: u64, base: u64, marks: &Marks) {
        if self.known_to >= before.min(base) && self.batches.len() < BATCHES_MAX && self.reads.is_none() {
            self.batches.push_back((base, marks.clone()));
            self.known_to = base + marks.0.len() as u64;
        }
    }

    /// Rows of batches from the place on are looked up, where all marks end at `marks_end`.
    pub(super) fn look_up(&mut self, marks_end: u64) {
        self.reads = Some(marks_end);
        self.batches.clear();
    }

    /// The rows that were looked up.
    pub(super) fn read(&mut self, rows: Rows) {
        let marks_end = self.reads.take().unwrap_or(0);
        for row in rows.rows {
            if let MarkRow::Batch { base, marks } = row {
                self.known_to = base + marks.0.len() as u64;
                self.batches.push_back((base, marks));
            }
        }
        if rows.is_all {
            self.known_to = self.known_to.max(marks_end);
        }
    }
}
