//! What is known of one partition's log, and reads as references to it.
//!
//! The first who names an offset, by an acknowledgement or a read, decides which value the log has there; whoever contradicts is a
//! [`Conflict`]. So a read of a million records that agree is one [`Run`] of 16 bytes, and the reads of all replicas cost memory only where
//! they differ.

use std::collections::BTreeMap;

use crate::names::{OperationId, PartitionId, ValueId};

/// Who said that a value is at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An operation: a send that was acknowledged, or a poll.
    Operation(OperationId),
    /// A final read, by its place among them.
    Final(u32),
}

/// Records of adjacent offsets that were read in order. All of them are in the log as they were read, unless it is one record with a
/// value of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first offset.
    pub first: i64,
    /// How many there are.
    pub count: u32,
    /// The value that was read in place of the log's; [`AGREES`]: none.
    other: u32,
}

const AGREES: u32 = u32::MAX;
/// A marker's place was read where the log has a record.
const MARKER: u32 = u32::MAX - 1;

impl Run {
    /// The last offset.
    pub fn last(self) -> i64 {
        self.first + (i64::from(self.count) - 1)
    }

    /// Whether the log has what was read.
    pub fn agrees(self) -> bool {
        self.other == AGREES
    }

    /// The value that was read in place of the log's.
    pub fn other(self) -> Option<ValueId> {
        (self.other < MARKER).then_some(ValueId(self.other))
    }
}

/// Somebody read or was told another value at an offset than the first one.
#[derive(Clone, Copy, Debug)]
pub struct Conflict {
    /// The partition that it is about.
    pub partition: PartitionId,
    /// The offset that has two values.
    pub offset: i64,
    /// The other value; none: a marker.
    pub value: Option<ValueId>,
    /// Who says so.
    pub source: Source,
}

/// The value of each offset of a partition that anybody named.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// No value: a transaction's marker.
    values: BTreeMap<i64, Option<ValueId>>,
}

impl Log {
    /// All offsets with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, Option<ValueId>)> + '_ {
        self.values.iter().map(|(offset, value)| (*offset, *value))
    }

    /// Says that a value is at an offset. False: another one was there first.
    pub(crate) fn put(&mut self, offset: i64, value: Option<ValueId>) -> bool {
        *self.values.entry(offset).or_insert(value) == value
    }

    /// Adds a record to a read, to its last run if it continues that one.
    pub(crate) fn read(&mut self, runs: &mut Vec<Run>, from: usize, offset: i64, value: Option<ValueId>) -> bool {
        if !self.put(offset, value) {
            let other = value.map_or(MARKER, |value| value.0);
            runs.push(Run {
                first: offset,
                count: 1,
                other,
            });
            return false;
        }
        if let Some(run) = runs[from..].last_mut()
            && run.agrees()
            && run.count < u32::MAX
            && run.last() + 1 == offset
        {
            run.count += 1;
            return true;
        }
        runs.push(Run {
            first: offset,
            count: 1,
            other: AGREES,
        });
        true
    }
}
