//! Replicas of a compacted partition, each with a log and an index of its own that its passes rewrite, and what readers see of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jangada_log::compaction::{Ceilings, KeyMap, Pass};
use jangada_log::tables::ABORTED;
use jangada_log::tables::offset_index::{begins_at, follow};
use jangada_log::{AbortedTransaction, IndexEntry, PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::{Effects, EncodedCommand, Machine};
use jangada_types::batch::{BatchHeader, decode_records, set_position};
use jangada_types::{LogPosition, Offset, Record, RowChange};

use crate::world::rows_of;

/// Entries of a log: each at its index minus one.
pub type Log = Vec<(LogPosition, EncodedCommand)>;

/// More than any record unpacks to.
const MAX: usize = 1 << 20;

/// What a pass of a test goes by.
#[derive(Clone, Copy, Debug)]
pub struct PassOf {
    /// Memory of the map of keys, bytes.
    pub map_bytes: usize,
    /// Rows after which what is to be written is taken.
    pub rows_per_write: usize,
    /// Writes that are lost: the process dies before them, and before the pass has ended.
    pub crash_after: Option<usize>,
    pub now_ms: i64,
}

/// One replica of a partition.
#[derive(Clone, Default)]
pub struct Replica {
    pub log: Log,
    pub state: PartitionState,
    pub rows: BTreeMap<Offset, IndexEntry>,
    /// The rows of aborted transactions, by their markers.
    pub aborted: BTreeMap<Offset, AbortedTransaction>,
    /// The saved state, and how many entries it covers.
    saved: (usize, Option<Bytes>),
    /// Where passes ended, and when.
    pub cleaned: BTreeMap<Offset, i64>,
    /// The first offset that the last pass has left for the sake of the horizon alone.
    pub waits_from: Option<Offset>,
    /// Passes that a full map has ended early.
    pub cut_short: usize,
}

/// The batch of an append that is left, whatever compaction made of it.
pub fn batch_of(command: &EncodedCommand) -> Option<Bytes> {
    match PartitionState::decode(command.clone()).expect("it can be read") {
        PartitionCommand::Append { batch, .. }
        | PartitionCommand::TxnAppend { batch, .. }
        | PartitionCommand::Marker { batch, .. }
        | PartitionCommand::CompactedAppend { batch, .. } => Some(batch),
        _ => None,
    }
}

fn header_of(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).expect("it is a batch")
}

impl Replica {
    /// Takes the next entry, and applies it.
    pub fn take(&mut self, at: LogPosition, command: EncodedCommand) -> PartitionReply {
        assert_eq!(at.index as usize, self.log.len() + 1);
        self.log.push((at, command));
        self.apply(self.log.len() - 1)
    }

    fn apply(&mut self, nth: usize) -> PartitionReply {
        let (at, command) = &self.log[nth];
        PartitionState::check_command(command).expect("it may come from a leader");
        let command = PartitionState::decode(command.clone()).expect("it can be read");
        let mut effects = Effects::default();
        let reply = self.state.apply(*at, &command, &mut effects);
        for row in rows_of(&effects) {
            self.rows.insert(row.last_offset, row);
        }
        for change in effects.take() {
            if let RowChange::Put { table, key, value } = change
                && *table == ABORTED
            {
                let row = AbortedTransaction::decode(&key, &value).expect("it can be read");
                self.aborted.insert(row.marker, row);
            }
        }
        if let PartitionReply::Ended {
            aborted: Some(aborted), ..
        } = &reply
        {
            let row = self.aborted.get(&aborted.marker);
            assert_eq!(row, Some(aborted), "readers are told what the table has");
        }
        let start = self.state.log_start();
        self.aborted = self.aborted.split_off(&start);
        self.rows = self.rows.split_off(&start);
        self.cleaned = self.cleaned.split_off(&start);
        reply
    }

    pub fn save(&mut self) {
        self.saved = (self.log.len(), Some(self.state.snapshot()));
    }

    /// The process ends, and the replica applies again what lies behind its saved state.
    pub fn restart(&mut self) {
        let before = self.state.snapshot();
        let (covered, saved) = self.saved.clone();
        self.state = match saved {
            Some(saved) => PartitionState::restore(&saved).expect("it was saved"),
            None => PartitionState::default(),
        };
        for nth in covered..self.log.len() {
            self.apply(nth);
        }
        assert_eq!(
            self.state.snapshot(),
            before,
            "what is left of the log leads to the same state"
        );
    }

    /// Up to where all is clean.
    pub fn cleaned_to(&self) -> Offset {
        let last = self.cleaned.last_key_value().map_or(Offset(0), |(offset, _)| *offset);
        last.max(self.state.log_start())
    }

    /// The end of the newest pass that is so old.
    pub fn clean_since(&self, old_before_ms: i64) -> Offset {
        let old = self.cleaned.iter().rev().find(|(_, at_ms)| **at_ms < old_before_ms);
        old.map_or(Offset(0), |(offset, _)| *offset)
    }

    fn ceiling(&self) -> Offset {
        let first_above = |index: usize| {
            let above = self.rows.values().find(|row| row.raft_index > index as u64);
            above.map_or(self.state.next_offset(), IndexEntry::first_offset)
        };
        let newest = self.rows.last_key_value();
        let ceilings = Ceilings {
            newest_batch: newest.map_or(Offset(0), |(_, row)| row.base_offset),
            last_stable: self.state.last_stable_offset(),
            saved: first_above(self.saved.0),
            young: self.state.next_offset(),
            key_index: None,
        };
        ceilings.lowest()
    }

    /// One pass. The horizon is that of the state, which all replicas share.
    pub fn clean(&mut self, of: PassOf) {
        let (dirty, ceiling) = (self.cleaned_to(), self.ceiling());
        if self.rows.is_empty() || ceiling <= self.state.log_start() {
            return;
        }
        let keys = (ceiling.get() - dirty.get()).max(0).unsigned_abs();
        let map = KeyMap::new(42, keys, of.map_bytes);
        let ceiling = ceiling.max(dirty);
        let aborted = self.aborted.values().copied();
        let mut pass = Pass::new(map, ceiling, self.state.clean_horizon()).without(aborted);
        let rows: Vec<IndexEntry> = self.rows.values().copied().collect();
        let command_of = |log: &Log, row: &IndexEntry| log[row.raft_index as usize - 1].1.clone();
        for row in rows
            .iter()
            .filter(|row| row.last_offset >= dirty && row.base_offset < ceiling)
        {
            let Some(batch) = batch_of(&command_of(&self.log, row)) else {
                continue;
            };
            if !pass
                .learn(row.base_offset, &batch, dirty)
                .expect("each batch can be read")
            {
                self.cut_short += 1;
                assert!(pass.upto() > dirty, "a pass always makes progress");
                break;
            }
        }
        let upto = pass.upto();
        let mut writes = 0;
        let below = rows.iter().filter(|row| row.base_offset < upto);
        for (nth, row) in below.enumerate() {
            if (nth + 1) % of.rows_per_write == 0 {
                if of.crash_after == Some(writes) {
                    return self.restart();
                }
                self.write(&mut pass);
                writes += 1;
            }
            pass.clean(row, command_of(&self.log, row))
                .expect("each batch can be read");
        }
        if of.crash_after.is_some() {
            return self.restart();
        }
        self.write(&mut pass);
        self.waits_from = pass.waits_from();
        let stored: u32 = self
            .rows
            .values()
            .filter(|row| row.base_offset < upto)
            .map(|row| row.size_bytes)
            .sum();
        assert_eq!(pass.tally().stored_bytes, u64::from(stored));
        self.cleaned.insert(upto, of.now_ms);
    }

    /// As the store does: in one write.
    fn write(&mut self, pass: &mut Pass) {
        let writes = pass.take_writes();
        for replacement in writes.entries {
            let entry = &mut self.log[replacement.at.index as usize - 1];
            assert_eq!(entry.0, replacement.at, "an entry keeps its place and its term");
            entry.1 = replacement.command;
        }
        for (_, change) in writes.rows {
            match IndexEntry::of_change(&change) {
                Some(row) => {
                    let row = row.expect("it can be read");
                    self.rows.insert(row.last_offset, row);
                }
                None => {
                    let RowChange::Delete { table, key } = change else {
                        panic!("{change:?}");
                    };
                    let key = u64::from_be_bytes(key[..].try_into().expect("a number"));
                    if *table == ABORTED {
                        self.aborted.remove(&Offset(key as i64));
                        continue;
                    }
                    let known = self.rows.remove(&Offset(key as i64));
                    assert!(known.is_some(), "each row that is deleted was there");
                }
            }
        }
    }

    /// Empties the appends of this kind that got no offsets.
    pub fn empty_refused(&mut self) {
        let with_row: Vec<u64> = self.rows.values().map(|row| row.raft_index).collect();
        let mut state = PartitionState::default();
        for (at, entry) in &mut self.log {
            let command = PartitionState::decode(entry.clone()).expect("it can be read");
            let reply = state.apply(*at, &command, &mut Effects::default());
            let is_refused = matches!(
                reply,
                PartitionReply::Refused(_) | PartitionReply::Appended { duplicate: true, .. }
            );
            if is_refused {
                assert!(!with_row.contains(&at.index));
                let emptied = command.emptied().expect("it is an append");
                *entry = PartitionState::encode(emptied);
            }
        }
    }

    /// What a reader gets from an offset on: whole batches with their records. Checks that no row is missing.
    pub fn read(&self, from: Offset) -> Vec<(IndexEntry, Vec<Record>)> {
        let rows: Vec<IndexEntry> = self
            .rows
            .values()
            .copied()
            .filter(|row| row.last_offset >= from)
            .collect();
        follow(&rows).expect("no row is missing");
        let end = self.state.next_offset();
        if from < end {
            begins_at(&rows, from).expect("no row is missing");
        }
        let last = rows.last().map_or(from, |row| Offset(row.last_offset.get() + 1));
        assert_eq!(last, end.max(from), "a reader reaches the end");
        let read = rows.into_iter().map(|row| {
            let (at, command) = &self.log[row.raft_index as usize - 1];
            assert_eq!(at.term, u64::from(row.epoch.get()));
            let Some(batch) = batch_of(command) else {
                assert_eq!(row.size_bytes, 0, "a row says what is left: {row:?}");
                return (row, Vec::new());
            };
            assert_eq!(row.size_bytes as usize, batch.len(), "{row:?}");
            let header = header_of(&batch);
            if header.attributes.is_control() || self.is_aborted(&header, row.base_offset) {
                return (row, Vec::new());
            }
            let mut batch = batch.to_vec();
            set_position(&mut batch, row.base_offset, row.epoch);
            let mut records = decode_records(&batch.into(), MAX).expect("it can be read");
            records.retain(|record| record.offset >= from);
            (row, records)
        });
        read.collect()
    }

    /// The committed records that a reader gets from an offset on.
    pub fn records(&self, from: Offset) -> Vec<Record> {
        let stable = self.state.last_stable_offset();
        let read = self.read(from).into_iter().filter(|(row, _)| row.last_offset < stable);
        read.flat_map(|(_, records)| records).collect()
    }

    /// As a reader is told.
    fn is_aborted(&self, header: &BatchHeader, base: Offset) -> bool {
        let mut of_producer = self
            .aborted
            .values()
            .filter(|row| row.producer_id == header.producer_id);
        let is_of_it = of_producer.any(|row| row.first <= base && base < row.marker);
        header.attributes.is_transactional() && is_of_it
    }

    /// A client that is told of aborted transactions takes all that their producers wrote for aborted, until it meets their markers.
    ///
    /// And no record of a transaction is without its marker.
    pub fn check_markers(&self, original: &Self) {
        let mut with_records = BTreeSet::new();
        let start = self.state.log_start();
        for (offset, row) in original.rows.iter().filter(|(offset, _)| **offset >= start) {
            let header = header_of(&batch_of(&original.log[row.raft_index as usize - 1].1).expect("it never cleans"));
            let is_left = self.rows.get(offset).is_some_and(|row| row.size_bytes > 0);
            if header.attributes.is_control() {
                let has_records = with_records.remove(&header.producer_id);
                assert!(
                    is_left || !has_records,
                    "a transaction has records, and its marker at {offset} is gone"
                );
            } else if header.attributes.is_transactional() && is_left {
                with_records.insert(header.producer_id);
            }
        }
        for aborted in self
            .aborted
            .values()
            .filter(|aborted| aborted.marker >= self.state.log_start())
        {
            let row = self.rows.get(&aborted.marker).expect("the marker is there");
            assert_ne!(
                row.size_bytes, 0,
                "a reader of {aborted:?} would wait for its marker for ever"
            );
        }
    }

    /// Bytes of the batches when they were appended, as the rows have them.
    pub fn original_bytes(&self) -> u64 {
        self.rows.values().map(|row| u64::from(row.original_bytes)).sum()
    }

    /// Control batches that are there.
    pub fn markers(&self) -> usize {
        let batches = self
            .rows
            .values()
            .filter_map(|row| batch_of(&self.log[row.raft_index as usize - 1].1));
        batches.filter(|batch| header_of(batch).attributes.is_control()).count()
    }
}
