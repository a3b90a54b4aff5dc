//! The search for a new log start: a walk through the offset index, from the log start on, as far as batches go.

use bytes::Bytes;
use jangada_machine::{Row, RowRange};
use jangada_types::{Offset, RowError};

use crate::state::PartitionState;
use crate::tables::offset_index::{Gap, IndexEntry, OFFSET_INDEX, begins_at, follow, key_of};

/// Rows that are read at once.
const ROWS_PER_READ: usize = 4096;

/// The rule by which batches go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Records below this offset go. It may lie inside a batch, which then stays in the log.
    Below(Offset),
    /// Whole batches go.
    Retention {
        /// A batch goes if all its records are older than this, milliseconds since the Unix epoch.
        oldest_ms: Option<i64>,
        /// A batch goes if at least so many bytes stay without it, as with Kafka's segments.
        keep_bytes: Option<u64>,
    },
    /// What lies below this offset goes, which no queue needs any more, as far as that is worth a command.
    Queue(Offset),
}

/// What a queue keeps from retention: batches with records from an offset on, as long as those from there to the end have no more bytes
/// than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub from: Offset,
    pub bytes_max: u64,
}

/// A search that is under way. What it finds is true as long as the log starts where it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Search {
    pub cut: Cut,
    /// What is kept although the rule lets it go.
    holds: Box<[Hold]>,
    /// The log start at which the search began.
    pub from: Offset,
    /// The high watermark at which it began, or the floor of the queues; batches behind it stay.
    end: Offset,
    /// Bytes of the batches between the two.
    retained_bytes: u64,
    /// Everything below this offset goes.
    to: Offset,
    /// Bytes that they had when they were appended, and bytes that the rule counts.
    dropped_bytes: u64,
    counted_bytes: u64,
    /// Whether batches count as compaction has left them.
    counts_stored: bool,
    /// The largest timestamp of the first batch that stays, if the search has met one.
    pub first_kept_ms: Option<i64>,
}

/// Rows of the offset index that cannot be what this replica wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadRows(pub String);

impl From<Gap> for BadRows {
    fn from(Gap(what): Gap) -> Self {
        Self(what)
    }
}

impl From<RowError> for BadRows {
    fn from(error: RowError) -> Self {
        Self(error.to_string())
    }
}

impl Search {
    pub fn new(state: &PartitionState, cut: Cut, holds: Box<[Hold]>) -> Self {
        let end = match cut {
            Cut::Below(_) | Cut::Retention { .. } => state.next_offset(),
            Cut::Queue(floor) => floor,
        };
        Self {
            cut,
            holds,
            from: state.log_start(),
            end,
            retained_bytes: state.retained_bytes(),
            to: state.log_start(),
            dropped_bytes: 0,
            counted_bytes: 0,
            counts_stored: false,
            first_kept_ms: None,
        }
    }

    /// Of the batches so many bytes are gone, if that is known.
    pub fn without(self, gone_bytes: Option<u64>) -> Self {
        Self {
            retained_bytes: self.retained_bytes.saturating_sub(gone_bytes.unwrap_or(0)),
            counts_stored: gone_bytes.is_some(),
            ..self
        }
    }

    fn counted(&self, row: &IndexEntry) -> u64 {
        u64::from(match self.counts_stored {
            true => row.size_bytes,
            false => row.original_bytes,
        })
    }

    /// The search goes on to a floor of the queues that is further on: what was found stays found.
    pub fn continued(self, floor: Offset) -> Self {
        Self {
            cut: Cut::Queue(floor),
            end: floor,
            ..self
        }
    }

    /// Whether it is known without a row that nothing goes.
    pub fn is_vain(&self) -> bool {
        let is_reached = matches!(self.cut, Cut::Below(offset) if offset <= self.from);
        is_reached || self.to >= self.end
    }

    /// The rows that are to be read next.
    pub fn rows(&self) -> RowRange {
        RowRange {
            table: &OFFSET_INDEX,
            from: Bytes::copy_from_slice(&key_of(self.to)),
            to: Some(Bytes::copy_from_slice(&key_of(self.end))),
            limit: ROWS_PER_READ,
        }
    }

    /// Takes the rows that were read. True: the search is over.
    ///
    /// # Errors
    /// Offsets are missing: they would go without being counted.
    pub fn take(&mut self, rows: &[Row]) -> Result<bool, BadRows> {
        let rows: Vec<IndexEntry> = rows
            .iter()
            .map(|(key, value)| IndexEntry::decode(key, value))
            .collect::<Result<_, _>>()?;
        // The floor of the queues lies inside a batch, which stays.
        if rows.is_empty() && matches!(self.cut, Cut::Queue(_)) {
            return Ok(true);
        }
        begins_at(&rows, self.to)?;
        follow(&rows)?;
        for row in &rows {
            if !self.drops(row) {
                self.first_kept_ms = Some(row.max_timestamp_ms);
                return Ok(true);
            }
            self.to = Offset(row.last_offset.get() + 1);
            self.dropped_bytes += u64::from(row.original_bytes);
            self.counted_bytes += self.counted(row);
        }
        Ok(self.to >= self.end)
    }

    /// Whether the whole batch goes.
    fn drops(&self, row: &IndexEntry) -> bool {
        match self.cut {
            Cut::Below(offset) | Cut::Queue(offset) => row.last_offset < offset,
            Cut::Retention { oldest_ms, keep_bytes } => {
                let stay = self
                    .retained_bytes
                    .saturating_sub(self.counted_bytes + self.counted(row));
                if self.is_held(row) {
                    return false;
                }
                oldest_ms.is_some_and(|oldest| row.max_timestamp_ms < oldest)
                    || keep_bytes.is_some_and(|keep| stay >= keep)
            }
        }
    }

    fn is_held(&self, row: &IndexEntry) -> bool {
        let with_it = self.retained_bytes.saturating_sub(self.counted_bytes);
        let mut holds = self.holds.iter();
        holds.any(|hold| row.last_offset >= hold.from && with_it <= hold.bytes_max)
    }

    /// The new log start, and the bytes of the batches that go.
    pub fn found(&self) -> (Offset, u64) {
        let to = match self.cut {
            Cut::Below(offset) | Cut::Queue(offset) => offset.max(self.to),
            Cut::Retention { .. } => self.to,
        };
        (to, self.dropped_bytes)
    }
}
