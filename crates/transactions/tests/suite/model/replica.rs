//! One replica of a partition: the real state machine, with the log, the index and the table of aborted transactions that the store would
//! keep beside it, which passes of compaction rewrite.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jangada_log::compaction::{Ceilings, KeyMap, Pass};
use jangada_log::tables::aborted::pick;
use jangada_log::tables::{ABORTED, OFFSET_INDEX};
use jangada_log::{AbortedTransaction, Conditions, IndexEntry, PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::{Effects, EncodedCommand, Machine};
use jangada_types::batch::{BatchHeader, EndMarker, decode_records};
use jangada_types::table::number_of;
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerId, Record, RowChange};

/// More than any record unpacks to.
const UNPACKED_MAX: usize = 1 << 20;

#[derive(Clone, Default)]
pub struct Replica {
    log: Vec<(LogPosition, EncodedCommand)>,
    pub state: PartitionState,
    rows: BTreeMap<Offset, IndexEntry>,
    /// The table of aborted transactions, by their markers.
    aborted: BTreeMap<Offset, AbortedTransaction>,
    /// The aborted transactions that applying has told of since the replica was opened: what it would keep in memory.
    pub told: BTreeMap<Offset, AbortedTransaction>,
    /// The saved state, and how many entries it covers.
    saved: (usize, Option<Bytes>),
    /// Where passes ended, and when.
    cleaned: BTreeMap<Offset, u64>,
    /// Records and markers that passes have taken.
    pub taken: u64,
}

/// A batch that is left in the log, with the offset of its first record.
pub struct Batch {
    pub base: Offset,
    pub last: Offset,
    pub header: BatchHeader,
    pub bytes: Bytes,
}

/// What a broker sends a reader: batches, and the aborted transactions with records among them.
pub struct Fetched {
    pub batches: Vec<Batch>,
    pub aborted: Vec<AbortedTransaction>,
    pub next: Offset,
}

impl Fetched {
    /// What a client shows of it: a producer is left out from the first offset of a transaction that was aborted up to its marker.
    pub fn visible(mut self) -> Vec<Record> {
        self.aborted.sort_unstable_by_key(|aborted| aborted.first);
        let mut aborted = self.aborted.into_iter().peekable();
        let mut open: BTreeSet<ProducerId> = BTreeSet::new();
        let mut records = Vec::new();
        for batch in self.batches {
            while let Some(begun) = aborted.next_if(|aborted| aborted.first <= batch.last) {
                open.insert(begun.producer_id);
            }
            let producer = batch.header.producer_id;
            if batch.header.attributes.is_control() {
                if matches!(EndMarker::read(&batch.bytes), Ok(Some(EndMarker { commit: false, .. }))) {
                    open.remove(&producer);
                }
                continue;
            }
            if !(batch.header.attributes.is_transactional() && open.contains(&producer)) {
                let decoded = decode_records(&batch.bytes, UNPACKED_MAX).expect("it can be read");
                // The log has offsets from the batch's beginning on.
                records.extend(decoded.into_iter().map(|record| Record {
                    offset: Offset(batch.base.get() + record.offset.get()),
                    ..record
                }));
            }
        }
        records
    }
}

fn batch_of(command: &EncodedCommand) -> Option<Bytes> {
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
        let stable = self.state.last_stable_offset();
        let mut effects = Effects::default();
        let reply = self.state.apply(*at, &command, &mut effects);
        assert!(
            self.state.last_stable_offset() >= stable,
            "the last stable offset went back"
        );
        for change in effects.take() {
            if let Some(row) = IndexEntry::of_change(&change) {
                let row = row.expect("it can be read");
                self.rows.insert(row.last_offset, row);
            }
            if let RowChange::Put { table, key, value } = change
                && *table == ABORTED
            {
                let row = AbortedTransaction::decode(&key, &value).expect("it can be read");
                self.aborted.insert(row.marker, row);
                self.told.insert(row.marker, row);
            }
        }
        if let PartitionReply::LogStart(start) = reply {
            self.aborted = self.aborted.split_off(&start);
            self.rows = self.rows.split_off(&start);
            self.cleaned = self.cleaned.split_off(&start);
        }
        reply
    }

    pub fn save(&mut self) {
        self.saved = (self.log.len(), Some(self.state.snapshot()));
    }

    /// The process ends, and the replica applies again what lies behind its saved state. `forgets`: the aborted transactions were only in
    /// memory.
    pub fn restart(&mut self, forgets: bool) {
        let before = self.state.snapshot();
        let (covered, saved) = self.saved.clone();
        self.state = match saved {
            Some(saved) => PartitionState::restore(&saved).expect("it was saved"),
            None => PartitionState::default(),
        };
        self.told.clear();
        if forgets {
            self.aborted.clear();
        }
        for nth in covered..self.log.len() {
            self.apply(nth);
        }
        assert_eq!(
            self.state.snapshot(),
            before,
            "what is left of the log leads to the same state"
        );
    }

    /// A replica that begins anew gets the log as this one has it.
    pub fn copy(&self) -> Self {
        let mut copy = Self::default();
        for (at, command) in &self.log {
            copy.take(*at, command.clone());
        }
        assert_eq!(copy.state.snapshot(), self.state.snapshot());
        copy
    }

    /// Forgets all of a producer, as a table of producers that is too small would: what it wrote stands there as if nobody had.
    pub fn forget(&mut self, producer: ProducerId) {
        let placed: BTreeSet<u64> = self.rows.values().map(|row| row.raft_index).collect();
        let mut state = PartitionState::default();
        for (at, command) in &self.log {
            let command = PartitionState::decode(command.clone()).expect("it can be read");
            let is_its = match &command {
                PartitionCommand::TxnAppend { batch, .. } | PartitionCommand::Marker { batch, .. } => {
                    header_of(batch).producer_id == producer
                }
                _ => false,
            };
            if !is_its {
                state.apply(*at, &command, &mut Effects::default());
            } else if placed.contains(&at.index) {
                let records = header_of(&batch_of(&PartitionState::encode(command)).expect("it has one")).record_count;
                state.apply(*at, &plain(records), &mut Effects::default());
            }
        }
        self.state = state;
        self.save();
    }

    /// Bytes of the batches below an offset, as they were appended.
    pub fn bytes_below(&self, offset: Offset) -> u64 {
        let below = self.rows.values().take_while(|row| row.last_offset < offset);
        below.map(|row| u64::from(row.original_bytes)).sum()
    }

    fn cleaned_to(&self) -> Offset {
        let last = self.cleaned.last_key_value().map_or(Offset(0), |(offset, _)| *offset);
        last.max(self.state.log_start())
    }

    /// The end of the newest pass that is so old.
    pub fn clean_since(&self, old_before_ms: u64) -> Offset {
        let old = self.cleaned.iter().rev().find(|(_, at_ms)| **at_ms < old_before_ms);
        old.map_or(Offset(0), |(offset, _)| *offset)
    }

    fn ceiling(&self) -> Offset {
        let saved = self.rows.values().find(|row| row.raft_index > self.saved.0 as u64);
        let newest = self.rows.last_key_value();
        let ceilings = Ceilings {
            newest_batch: newest.map_or(Offset(0), |(_, row)| row.base_offset),
            last_stable: self.state.last_stable_offset(),
            saved: saved.map_or(self.state.next_offset(), IndexEntry::first_offset),
            young: self.state.next_offset(),
            key_index: None,
        };
        ceilings.lowest()
    }

    /// A pass of compaction. It may end early: what it has written then stays, and nothing of it is known.
    pub fn clean(&mut self, map_bytes: usize, rows_max: usize, now_ms: u64) {
        let (dirty, ceiling) = (self.cleaned_to(), self.ceiling());
        if self.rows.is_empty() || ceiling <= self.state.log_start() {
            return;
        }
        let keys = (ceiling.get() - dirty.get()).max(0).unsigned_abs();
        let map = KeyMap::new(42, keys, map_bytes);
        let aborted = self.aborted.values().copied();
        let mut pass = Pass::new(map, ceiling.max(dirty), self.state.clean_horizon()).without(aborted);
        let rows: Vec<IndexEntry> = self.rows.values().copied().collect();
        let command_of =
            |log: &[(LogPosition, EncodedCommand)], row: &IndexEntry| log[row.raft_index as usize - 1].1.clone();
        let unclean = rows
            .iter()
            .filter(|row| row.last_offset >= dirty && row.base_offset < ceiling);
        for row in unclean {
            let learned = pass.learn_entry(row, command_of(&self.log, row), dirty);
            if !learned.expect("each batch can be read") {
                break;
            }
        }
        let upto = pass.upto();
        let below: Vec<&IndexEntry> = rows.iter().filter(|row| row.base_offset < upto).collect();
        for (nth, row) in below.iter().enumerate() {
            if nth == rows_max {
                break;
            }
            pass.clean(row, command_of(&self.log, row))
                .expect("each batch can be read");
        }
        self.write(&mut pass);
        self.taken += pass.tally().records_gone;
        if below.len() <= rows_max {
            self.cleaned.insert(upto, now_ms);
        }
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
            if let Some(row) = IndexEntry::of_change(&change) {
                let row = row.expect("it can be read");
                self.rows.insert(row.last_offset, row);
                continue;
            }
            let RowChange::Delete { table, key } = change else {
                panic!("{change:?}");
            };
            let at = Offset(number_of(&key).expect("a number") as i64);
            match *table == OFFSET_INDEX {
                true => drop(self.rows.remove(&at).expect("each row that is deleted was there")),
                false => drop(self.aborted.remove(&at)),
            }
        }
    }

    /// What a broker sends of `from..end`, so many rows of it. `remembers`: it also names what is in its memory of
    /// aborted transactions, and not in the table any more.
    pub fn fetch(&self, from: Offset, end: Offset, rows_max: usize, remembers: bool) -> Fetched {
        let rows = self.rows.range(from..).map(|(_, row)| row);
        let rows: Vec<&IndexEntry> = rows.take_while(|row| row.last_offset < end).take(rows_max).collect();
        let next = rows.last().map_or(from, |row| Offset(row.last_offset.get() + 1));
        let batches = rows.into_iter().filter(|row| row.size_bytes > 0).map(|row| {
            let bytes = batch_of(&self.log[row.raft_index as usize - 1].1).expect("a row says that some of it is left");
            Batch {
                base: row.base_offset,
                last: row.last_offset,
                header: header_of(&bytes),
                bytes,
            }
        });
        let batches = batches.collect();
        let mut aborted = Vec::new();
        for (_, row) in self.aborted.range(from..) {
            if !pick(row, next, &mut aborted) {
                break;
            }
        }
        if remembers {
            let gone = self
                .told
                .range(from..)
                .filter(|(marker, _)| !self.aborted.contains_key(marker));
            aborted.extend(gone.map(|(_, row)| *row).filter(|row| row.first < next));
        }
        Fetched { batches, aborted, next }
    }
}

/// Records of nobody.
fn plain(records: i32) -> PartitionCommand {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.append(0, Some(b""), None, []).expect("it is small");
    }
    PartitionCommand::Append {
        now_ms: 0,
        expiration_ms: i64::MAX,
        conditions: Conditions::default(),
        batch: builder.build(),
    }
}
