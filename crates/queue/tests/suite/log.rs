//! The bytes of a partition's log in a [`World`](crate::world::World).

use std::collections::BTreeMap;

use jangada_queue::engine::LogPart;

/// How large the log is: of each record and of all entries. It can be cut at each sixteenth offset.
#[derive(Default)]
pub struct Log {
    pub records: Vec<u64>,
    /// Bytes of the entries by the part that they are in.
    entries: BTreeMap<u64, u64>,
    pub written: u64,
    pub carried: u64,
}

const PART: u64 = 16;

impl Log {
    pub fn write(&mut self, end: u64, bytes: u64) {
        *self.entries.entry(end / PART).or_default() += bytes;
        self.written += bytes;
    }

    pub fn record(&mut self, bytes: u64) {
        self.write(self.records.len() as u64, bytes);
        self.records.push(bytes);
    }

    pub fn carry(&mut self, old: u64) {
        let bytes = self.records[old as usize];
        self.carried += bytes;
        self.record(bytes);
    }

    /// The parts from the one on that has the floor.
    pub fn parts(&self, floor: u64) -> (u64, Vec<LogPart>) {
        let end = self.records.len() as u64;
        let first = floor / PART;
        let part = |number: u64| {
            let last = ((number + 1) * PART).min(end);
            LogPart {
                end: last,
                record_bytes: self.records[(number * PART) as usize..last as usize].iter().sum(),
                bytes: self.entries.get(&number).copied().unwrap_or(0),
            }
        };
        (first * PART, (first..end.div_ceil(PART)).map(part).collect())
    }
}
