//! One pass over a partition: which records stay, and what is written for it.
//!
//! ```text
//! learn  batches of the dirty part, in their order      -> the map of keys; a full map ends the part that is cleaned
//! clean  rows and entries from the log start, in order  -> entries with fewer records, and their rows
//! take   now and then, between two rows                 -> what is to be written, whole by itself
//! ```
//!
//! It knows no store and no clock. Who reads and writes is the host's.
//!
//! Of transactions: records of one that was aborted go at once, and supersede nothing. A marker goes when nothing of its transaction is
//! left before it, and every replica has cleaned beyond it; the row that tells readers of an aborted transaction goes with it, as clients
//! that were told of one wait for its marker (KAFKA-8351, KAFKA-13727, redpanda issue 16295).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use jangada_machine::{EncodedCommand, Machine};
use jangada_types::batch::{self, BatchHeader, KeyedRecord, Thinned};
use jangada_types::limits::{BATCH_BYTES_MAX, DECOMPRESSED_BYTES_MAX};
use jangada_types::planted::{self, Bug};
use jangada_types::{BatchError, CodecError, LogPosition, Offset, ProducerId, RowChange};

use super::key_map::KeyMap;
use crate::command::PartitionCommand;
use crate::state::PartitionState;
use crate::tables::IndexEntry;
use crate::transactions::AbortedTransaction;

/// An entry in the place of the one that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Where it stands.
    pub at: LogPosition,
    /// What is left of the command.
    pub command: EncodedCommand,
}

/// What is to be written in one piece.
#[derive(Debug, Default)]
pub struct Writes {
    /// The entries, in their order.
    pub entries: Vec<Replacement>,
    /// Changes of rows, each with the index of the entry that it is about: without that entry it is of no use.
    pub rows: Vec<(u64, RowChange)>,
    /// Bytes of the entries.
    pub bytes: usize,
}

/// A tombstone that is being taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenTombstone {
    /// The key that it deletes.
    pub key: Bytes,
    /// The offset of the tombstone.
    pub offset: Offset,
}

/// What a pass did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of batches that were looked at.
    pub read_bytes: u64,
    /// Bytes of entries that are written in the place of others.
    pub written_bytes: u64,
    /// Records that are gone.
    pub records_gone: u64,
    /// Batches that are gone as a whole.
    pub batches_emptied: u64,
    /// Bytes of the batches below the end of the pass.
    pub stored_bytes: u64,
    /// Batches that have a record left.
    pub batches_left: u64,
    /// Entries from the first that was looked at to the last.
    pub entries: u64,
    /// Bytes that the batches below the end of the pass had more when they were appended.
    pub gone_bytes: u64,
    /// Batches that stay as they are although records should go.
    pub batches_stuck: u64,
}

/// Why a batch was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its records cannot be read, by nobody.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The entry is not an append, or cannot be read.
    #[error("{0}")]
    Entry(CodecError),
    /// Nothing can be taken from such an entry.
    #[error("the entry at index {0} is not one that compaction may take records of")]
    NotCompactable(u64),
    /// It would be larger than any batch may be.
    #[error("without some records the batch would have {0} bytes, more than a batch may have")]
    Grows(usize),
}

/// A row of which nothing is left, until it is known whether the next one takes it over.
struct Held {
    row: IndexEntry,
    /// The row as the store has it.
    stored: IndexEntry,
}

/// A pass that is under way.
pub struct Pass {
    map: KeyMap,
    /// Keys of records below this offset are in the map: no record from here on is judged.
    upto: Offset,
    horizon: Offset,
    /// By producer and first offset, the markers of the transactions that were aborted.
    aborted: BTreeMap<(ProducerId, Offset), Offset>,
    /// Producers of whose last transaction a record is left.
    with_records: BTreeSet<ProducerId>,
    collects_tombstones: bool,
    held: Option<Held>,
    /// The first batch that stays as it is although records should go.
    stuck: Option<Offset>,
    /// The first tombstone or marker that stays for the sake of the horizon alone.
    waits_from: Option<Offset>,
    first_index: Option<u64>,
    writes: Writes,
    tombstones: Vec<TakenTombstone>,
    tally: Tally,
}

impl Pass {
    /// A pass that leaves alone what lies from the ceiling on, and tombstones from the horizon on.
    pub fn new(map: KeyMap, ceiling: Offset, horizon: Offset) -> Self {
        Self {
            map,
            upto: ceiling,
            horizon,
            aborted: BTreeMap::new(),
            with_records: BTreeSet::new(),
            collects_tombstones: false,
            held: None,
            stuck: None,
            waits_from: None,
            first_index: None,
            writes: Writes::default(),
            tombstones: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// These transactions were aborted: all that have records below the ceiling.
    #[must_use]
    pub fn without(mut self, aborted: impl IntoIterator<Item = AbortedTransaction>) -> Self {
        let aborted = aborted.into_iter();
        self.aborted = aborted.map(|of| ((of.producer_id, of.first), of.marker)).collect();
        self
    }

    /// Whether a batch is of a transaction that was aborted.
    fn is_aborted(&self, header: &BatchHeader, base: Offset) -> bool {
        if !header.attributes.is_transactional() {
            return false;
        }
        let (first, last) = ((header.producer_id, Offset(0)), (header.producer_id, base));
        let before = self.aborted.range(first..=last).next_back();
        before.is_some_and(|(_, marker)| *marker > base)
    }

    /// The tombstones that go are collected: there is an index of keys that names them.
    #[must_use]
    pub fn collecting_tombstones(mut self) -> Self {
        self.collects_tombstones = true;
        self
    }

    /// The offset below which all is clean when the pass has ended. It moves back while keys are learned that there is no room for.
    pub fn upto(&self) -> Offset {
        self.upto
    }

    /// The offset below which each batch that was cleaned could be rewritten: the first that could not, or the end of the pass.
    pub fn whole_below(&self) -> Offset {
        self.stuck.map_or(self.upto, |stuck| stuck.min(self.upto))
    }

    /// The first tombstone or marker that would go if the horizon were behind it. `None`: there is none, and to move the horizon lets
    /// nothing go of what was cleaned.
    pub fn waits_from(&self) -> Option<Offset> {
        self.waits_from
    }

    /// What it did so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Puts the keys of a batch of the dirty part into the map, from an offset on. False: the map is full, and the part that is learned
    /// ends.
    ///
    /// # Errors
    /// The batch cannot be read: none of its keys is in the map, since no reader gets their values.
    pub fn learn(&mut self, base: Offset, batch: &[u8], from: Offset) -> Result<bool, BatchError> {
        let header = BatchHeader::parse(batch)?;
        self.tally.read_bytes += batch.len() as u64;
        // The key of a marker is the same for all of them.
        let is_aborted = self.is_aborted(&header, base) && !planted::is(Bug::AbortedSupersedes);
        if header.attributes.is_control() || is_aborted {
            return Ok(true);
        }
        let mut keys = Vec::new();
        batch::each_keyed(batch, DECOMPRESSED_BYTES_MAX, |record| {
            let offset = offset_of(base, record);
            let supersedes = !record.is_tombstone || !planted::is(Bug::TombstoneSupersedesNothing);
            if let Some(key) = record
                .key
                .filter(|_| offset >= from && offset < self.upto && supersedes)
            {
                keys.push((self.map.hash(key), offset));
            }
            ControlFlow::Continue(())
        })?;
        for (key, offset) in keys {
            if self.map.put(key, offset).is_err() {
                self.upto = offset;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// [`Pass::learn`] of the batch of a row, as it is in the log.
    ///
    /// # Errors
    /// None of its keys is in the map.
    pub fn learn_entry(&mut self, row: &IndexEntry, command: EncodedCommand, from: Offset) -> Result<bool, Unreadable> {
        if row.size_bytes == 0 {
            return Ok(true);
        }
        let command = PartitionState::decode(command).map_err(Unreadable::Entry)?;
        let batch = command.compactable_batch();
        let batch = batch.ok_or(Unreadable::NotCompactable(row.raft_index))?;
        Ok(self.learn(row.base_offset, batch, from)?)
    }

    fn keeps(&mut self, offset: Offset, record: KeyedRecord<'_>) -> bool {
        if offset >= self.upto {
            return true;
        }
        // A record without a key is from before the topic was compacted: nothing would ever supersede it.
        let Some(key) = record.key else { return false };
        let is_newest = self.map.get(key).is_none_or(|last| last <= offset);
        if is_newest && record.is_tombstone {
            if planted::is(Bug::TombstoneLost) {
                return false;
            }
            return self.waits_for_horizon(offset);
        }
        is_newest
    }

    /// Whether what would go by itself is at or above the horizon, and stays for that.
    fn waits_for_horizon(&mut self, offset: Offset) -> bool {
        let waits = offset >= self.horizon;
        if waits {
            // Rows come in their order.
            self.waits_from.get_or_insert(offset);
        }
        waits
    }

    /// Judges the batch of a row, and notes what is to be written for it. Rows come in their order, without a gap.
    ///
    /// # Errors
    /// The batch stays as it is.
    pub fn clean(&mut self, row: &IndexEntry, command: EncodedCommand) -> Result<(), Unreadable> {
        let rewritten = match row.size_bytes {
            0 => Ok(None),
            _ => self.rewrite(row, command),
        };
        let mut now = *row;
        let outcome = rewritten.map(|rewritten| {
            if let Some(command) = rewritten {
                now.size_bytes = u32::try_from(command.body().len()).expect("it is no larger than a batch may be");
                self.replace(row, command);
            }
        });
        if outcome.is_err() {
            self.stuck.get_or_insert(row.base_offset);
            self.tally.batches_stuck += 1;
        }
        self.tally.stored_bytes += u64::from(now.size_bytes);
        self.tally.gone_bytes += u64::from(row.original_bytes.saturating_sub(now.size_bytes));
        self.tally.batches_left += u64::from(now.size_bytes > 0);
        let first = *self.first_index.get_or_insert(row.raft_index);
        self.tally.entries = row.raft_index.saturating_sub(first) + 1;
        self.merge(row, now);
        outcome
    }

    fn replace(&mut self, row: &IndexEntry, command: EncodedCommand) {
        let bytes = command.head().len() + command.body().len();
        self.writes.bytes += bytes;
        self.tally.written_bytes += bytes as u64;
        let at = LogPosition {
            term: u64::from(row.epoch.get()),
            index: row.raft_index,
        };
        self.writes.entries.push(Replacement { at, command });
    }

    /// What is left of an entry; `None`: it stays as it is.
    fn rewrite(&mut self, row: &IndexEntry, command: EncodedCommand) -> Result<Option<EncodedCommand>, Unreadable> {
        let command = PartitionState::decode(command).map_err(Unreadable::Entry)?;
        let batch = command.compactable_batch().cloned();
        let batch = batch.ok_or(Unreadable::NotCompactable(row.raft_index))?;
        self.tally.read_bytes += batch.len() as u64;
        let header = BatchHeader::parse(&batch)?;
        if header.attributes.is_control() {
            return Ok(self.rewrite_marker(row, &header, command));
        }
        if self.is_aborted(&header, row.base_offset) {
            return Ok(self.emptied(&header, command));
        }
        let mut tombstones = Vec::new();
        let thinned = batch::thin(&batch, DECOMPRESSED_BYTES_MAX, |record| {
            let offset = offset_of(row.base_offset, record);
            let keeps = self.keeps(offset, record);
            if !keeps && record.is_tombstone && self.collects_tombstones {
                tombstones.extend(record.key.map(|key| TakenTombstone {
                    key: Bytes::copy_from_slice(key),
                    offset,
                }));
            }
            keeps
        });
        // What cannot be read is left.
        let is_left = !matches!(thinned, Ok(Thinned::Empty));
        if is_left && header.attributes.is_transactional() {
            self.with_records.insert(header.producer_id);
        }
        let rewritten = match thinned? {
            Thinned::Whole => return Ok(None),
            Thinned::Fewer(fewer) if fewer.len() > BATCH_BYTES_MAX => return Err(Unreadable::Grows(fewer.len())),
            Thinned::Fewer(fewer) => {
                let left = BatchHeader::parse(&fewer)?.record_count;
                self.tally.records_gone += u64::from((header.record_count - left).unsigned_abs());
                command.with_fewer_records(fewer).map(PartitionState::encode)
            }
            Thinned::Empty => self.emptied(&header, command),
        };
        self.tombstones.append(&mut tombstones);
        Ok(rewritten)
    }

    fn emptied(&mut self, header: &BatchHeader, command: PartitionCommand) -> Option<EncodedCommand> {
        self.tally.records_gone += u64::from(header.record_count.unsigned_abs());
        self.tally.batches_emptied += 1;
        command.emptied().map(PartitionState::encode)
    }

    /// What is left of a control batch.
    fn rewrite_marker(
        &mut self,
        row: &IndexEntry,
        header: &BatchHeader,
        command: PartitionCommand,
    ) -> Option<EncodedCommand> {
        let has_records = self.with_records.remove(&header.producer_id) && !planted::is(Bug::MarkerBeforeItsRecords);
        if has_records || row.last_offset >= self.upto || self.waits_for_horizon(row.last_offset) {
            return None;
        }
        assert!(
            row.last_offset < self.horizon.min(self.upto),
            "the marker at {} goes, and the horizon is {}",
            row.last_offset,
            self.horizon
        );
        let emptied = self.emptied(header, command)?;
        self.writes
            .rows
            .push((row.raft_index, AbortedTransaction::deletion(row.last_offset)));
        Some(emptied)
    }

    /// Lets the row of a batch of which nothing is left go into the row behind it.
    fn merge(&mut self, stored: &IndexEntry, mut now: IndexEntry) {
        if let Some(held) = self.held.take() {
            match with_row_before(&now, &held.row) {
                Some(merged) => {
                    now = merged;
                    self.writes.rows.push((held.row.raft_index, held.row.deletion()));
                }
                None => self.put_if_changed(&held.stored, &held.row),
            }
        }
        match now.size_bytes {
            0 => {
                self.held = Some(Held {
                    row: now,
                    stored: *stored,
                });
            }
            _ => self.put_if_changed(stored, &now),
        }
    }

    fn put_if_changed(&mut self, stored: &IndexEntry, now: &IndexEntry) {
        if stored != now {
            self.writes.rows.push((now.raft_index, now.put()));
        }
    }

    /// Bytes of the entries that wait to be written, and the changes of rows.
    pub fn pending(&self) -> (usize, usize) {
        (self.writes.bytes, self.writes.rows.len())
    }

    /// What is to be written now. With it, the log and the index are whole.
    pub fn take_writes(&mut self) -> Writes {
        if let Some(mut held) = self.held.take() {
            self.put_if_changed(&held.stored, &held.row);
            held.stored = held.row;
            self.held = Some(held);
        }
        std::mem::take(&mut self.writes)
    }

    /// The tombstones that go with the next writes. What names them must go before.
    pub fn take_tombstones(&mut self) -> Vec<TakenTombstone> {
        std::mem::take(&mut self.tombstones)
    }
}

fn offset_of(base: Offset, record: KeyedRecord<'_>) -> Offset {
    Offset(base.get() + i64::from(record.offset_delta))
}

/// The row, standing for what the row before it stood for, too; `None`: its numbers are too small for that.
fn with_row_before(row: &IndexEntry, before: &IndexEntry) -> Option<IndexEntry> {
    let offsets = before.last_offset.get() - before.first_offset().get() + 1;
    Some(IndexEntry {
        original_bytes: row.original_bytes.checked_add(before.original_bytes)?,
        offsets_before: row.offsets_before.checked_add(u32::try_from(offsets).ok()?)?,
        ..*row
    })
}
