//! The marks of messages from a place on that only goes up: the cursor's, or that of what is to be carried. They come in batches, from rows
//! or as they are appended.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::command::{Mark, Marks, PackedMarks};
use crate::engine::io::Rows;
use crate::tables::MarkRow;

/// Batches that were appended, in memory.
const BATCHES_MAX: usize = 256;
/// Messages in memory, about: of batches that were appended, and of one look-up.
const MESSAGES_MAX: u64 = 65_536;
/// Rows of a look-up: that of the first, and the most.
const ROWS: usize = 64;
const ROWS_MAX: usize = 4_096;

/// Marks from a place on.
#[derive(Debug)]
pub(super) struct MarksAhead {
    batches: VecDeque<Batch>,
    /// The marks below it, from the place on, are those in `batches`.
    known_to: u64,
    /// A look-up is under way, and the end of all marks when it began.
    reads: Option<u64>,
    /// Rows of the next look-up.
    rows: usize,
}

#[derive(Debug)]
struct Batch {
    /// The offset of its first record, and the one behind its last.
    base: u64,
    end: u64,
    marks: BatchMarks,
}

/// A row's are unpacked when one of them is asked for.
#[derive(Debug)]
enum BatchMarks {
    Packed(PackedMarks),
    Open(Arc<Marks>),
}

impl MarksAhead {
    /// Nothing is known from this place on.
    pub(super) fn from(place: u64) -> Self {
        Self {
            batches: VecDeque::new(),
            known_to: place,
            reads: None,
            rows: ROWS,
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

    /// The batch that has a message. Offsets come in ascending order.
    fn batch(&mut self, offset: u64) -> Option<&mut Batch> {
        while self.batches.front().is_some_and(|batch| batch.end <= offset) {
            self.batches.pop_front();
        }
        self.batches.front_mut().filter(|batch| batch.base <= offset)
    }

    /// The mark of a message below `known_to`; none: it has none. Offsets come in ascending order.
    pub(super) fn mark(&mut self, offset: u64) -> Option<&Mark> {
        let batch = self.batch(offset)?;
        if let BatchMarks::Packed(packed) = &batch.marks {
            batch.marks = BatchMarks::Open(Arc::new(packed.unpack()));
        }
        match &batch.marks {
            BatchMarks::Open(marks) => marks.0.get((offset - batch.base) as usize),
            BatchMarks::Packed(_) => None,
        }
    }

    /// If no message of the batch of this one is to go out before some time: the offset behind the batch, and the time.
    pub(super) fn not_before(&mut self, offset: u64) -> Option<(u64, u64)> {
        let batch = self.batch(offset)?;
        match &batch.marks {
            BatchMarks::Packed(packed) if packed.not_before_ms() != 0 => Some((batch.end, packed.not_before_ms())),
            BatchMarks::Packed(_) | BatchMarks::Open(_) => None,
        }
    }

    /// A batch with marks was appended, where all marks ended at `before`.
    pub(super) fn appended(&mut self, before: u64, base: u64, marks: &Arc<Marks>) {
        let known = self.batches.front().map_or(0, |first| self.known_to - first.base);
        let has_room = self.batches.len() < BATCHES_MAX && known < MESSAGES_MAX;
        if self.known_to >= before.min(base) && has_room && self.reads.is_none() {
            self.known_to = base + marks.0.len() as u64;
            self.batches.push_back(Batch {
                base,
                end: self.known_to,
                marks: BatchMarks::Open(Arc::clone(marks)),
            });
        }
    }

    /// Rows of batches from the place on are looked up, where all marks end at `marks_end`. Gives how many.
    pub(super) fn look_up(&mut self, marks_end: u64) -> usize {
        self.reads = Some(marks_end);
        self.batches.clear();
        self.rows
    }

    /// The rows that were looked up.
    pub(super) fn read(&mut self, rows: Rows) {
        let marks_end = self.reads.take().unwrap_or(0);
        let (mut count, mut messages) = (0, 0);
        for row in rows.rows {
            if let MarkRow::Batch { base, marks } = row {
                self.known_to = base + marks.count();
                (count, messages) = (count + 1, messages + marks.count());
                self.batches.push_back(Batch {
                    base,
                    end: self.known_to,
                    marks: BatchMarks::Packed(marks),
                });
            }
        }
        if let Some(most) = (MESSAGES_MAX * count).checked_div(messages) {
            self.rows = (most as usize).clamp(ROWS, ROWS_MAX);
        }
        if rows.is_all {
            self.known_to = self.known_to.max(marks_end);
        }
    }
}
