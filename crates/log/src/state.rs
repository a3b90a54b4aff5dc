//! The replicated state of a partition: gives batches their offsets in log order, judges sequences, moves the log start.
//!
//! ```text
//!   log start                          next offset = high watermark
//!      |               |                   |
//! -----+===============+===================+
//!       records that consumers can read
//!                      |
//!                      last stable offset: who reads committed records stops here, where the earliest open transaction begins
//! ```
//!
//! The state is a few numbers, the producer table with the open transactions, and the slots of the partition's queues; the records
//! stay in the log.

mod incoming;
mod queues;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_queue::Slots;
use jangada_types::batch::EndMarker;
use jangada_types::planted::{self, Bug};
use jangada_types::{CodecError, LeaderEpoch, LogPosition, Offset, ProducerEpoch, ProducerId};

use self::incoming::Incoming;
use self::queues::number;
use crate::check;
use crate::command::{IdFinding, PartitionCommand};
use crate::compaction::{Form, Original};
use crate::condition::{ConditionFailed, Conditions};
use crate::producers::{Ending, Producers, Verdict};
use crate::reply::{PartitionReply, Refusal};
use crate::tables::IndexEntry;
use crate::transactions::{AbortedTransaction, Marker, OpenTransaction, ProducerState};

const STATE_VERSION: u8 = 1;
/// That of a partition which has, or had, queues: the slots follow.
const STATE_VERSION_WITH_SLOTS: u8 = 2;
/// That of a partition which has, or had, transactions, or tombstones that may go: it says which sections follow.
const STATE_VERSION_WITH_SECTIONS: u8 = 3;
/// The sections of version 3, as bits.
const HAS_SLOTS: u8 = 1;
const HAS_TRANSACTIONS: u8 = 2;
const HAS_HORIZON: u8 = 4;
/// Far beyond what can be written, and far from where adding a batch would overflow.
const OFFSET_MAX: Offset = Offset(1 << 60);
/// Silent producers are looked for after so many appends.
const EXPIRE_EVERY_APPENDS: u64 = 1024;

/// The state of one partition: equal on every replica that applied the same commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    next_offset: Offset,
    log_start: Offset,
    running_max_timestamp_ms: i64,
    retained_bytes: u64,
    appends: u64,
    producers: Producers,
    /// Tombstones below it may go from the log: every replica has compacted the log up to there.
    clean_horizon: Offset,
    slots: Slots,
    /// There was a transaction in this log, whether or not anything of it is left.
    has_transactions: bool,
}

impl Default for PartitionState {
    /// That of a partition in which nothing was written.
    fn default() -> Self {
        Self {
            next_offset: Offset(0),
            log_start: Offset(0),
            running_max_timestamp_ms: i64::MIN,
            retained_bytes: 0,
            appends: 0,
            producers: Producers::default(),
            clean_horizon: Offset(0),
            slots: Slots::default(),
            has_transactions: false,
        }
    }
}

impl PartitionState {
    /// The offset that the next record gets: the high watermark, once it is applied.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The last stable offset: where the earliest open transaction begins, or the log's end. It never goes back.
    pub fn last_stable_offset(&self) -> Offset {
        match self.producers.first_open() {
            Some(first) if !planted::is(Bug::StableBeyondOpen) => first,
            _ => self.next_offset,
        }
    }

    /// Whether there are, or were, transactions.
    pub fn has_transactions(&self) -> bool {
        self.has_transactions
    }

    /// The open transactions by their first offset, each with its producer and its epoch.
    pub fn open_transactions(&self) -> impl Iterator<Item = (ProducerId, ProducerEpoch, OpenTransaction)> {
        self.producers.open()
    }

    /// The open transaction of a producer, with its epoch.
    pub fn open_transaction_of(&self, id: ProducerId) -> Option<(ProducerEpoch, OpenTransaction)> {
        self.producers.open_of(id)
    }

    /// A marker that would have no effect: its transaction is not open and will not be, and its epoch is known. True stays true.
    pub fn has_ended(&self, end: &EndMarker, seq: u64) -> bool {
        self.producers.has_ended(end, seq)
    }

    /// Number of open transactions.
    pub fn open_transaction_count(&self) -> usize {
        self.producers.open_count()
    }

    /// What is known of each idempotent producer, by id.
    pub fn producers(&self) -> impl Iterator<Item = ProducerState> {
        self.producers.states()
    }

    /// The log start offset: the first record that is kept.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Bytes of the batches from log start to end.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes
    }

    /// The offset below which compaction may take tombstones: every replica has compacted the log up to there.
    pub fn clean_horizon(&self) -> Offset {
        self.clean_horizon
    }

    /// The slots of the partition's queues.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The offset below which no queue needs a record, if the log is that of a queue, or of an exchange; none: there is no such queue.
    pub fn queue_floor(&self) -> Option<Offset> {
        self.slots.floor().map(offset_of)
    }

    /// The offset that no log start may pass, whoever asks for it: below it the queue whose own log this is needs no record; none: there is
    /// no such queue. Of an exchange's log retention takes what its queues have not done, as of any topic's.
    pub fn kept_from(&self) -> Option<Offset> {
        self.slots.kept_from().map(offset_of)
    }

    /// [`Machine::apply`], with the row of the offset index that a batch gets, which is not among the effects.
    pub fn fold(
        &mut self,
        at: LogPosition,
        command: &PartitionCommand,
        effects: &mut Effects,
    ) -> (PartitionReply, Option<IndexEntry>) {
        match command {
            PartitionCommand::Append {
                now_ms,
                expiration_ms,
                conditions,
                batch,
            } => self.append(
                at,
                &Incoming::of(batch),
                (*now_ms, *expiration_ms),
                conditions,
                None,
                None,
            ),
            PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            } => (self.advance_log_start(*from, *to, *dropped_bytes), None),
            PartitionCommand::QueueOps(ops) => (PartitionReply::Queue(self.change_slots(at, ops)), None),
            PartitionCommand::AppendMarked {
                now_ms,
                expiration_ms,
                conditions,
                ids,
                marks,
                batch,
            } => {
                let incoming = Incoming::of(batch);
                let appended = self.append(at, &incoming, (*now_ms, *expiration_ms), conditions, ids.as_ref(), None);
                if let Some(row) = &appended.1 {
                    self.mark(row.base_offset, marks, ids.as_ref(), *now_ms, effects);
                }
                appended
            }
            PartitionCommand::Carry { carry, batch } => self.carry(at, carry, batch, effects),
            PartitionCommand::Schedule { change, marks, batch } => self.schedule(at, change, marks, batch, effects),
            PartitionCommand::TxnAppend {
                now_ms,
                expiration_ms,
                seq,
                batch,
            } => {
                let (incoming, times) = (Incoming::of(batch), (*now_ms, *expiration_ms));
                self.append(at, &incoming, times, &Conditions::default(), None, Some(*seq))
            }
            PartitionCommand::TxnAppendMarked {
                now_ms,
                expiration_ms,
                seq,
                marks,
                batch,
            } => {
                let (incoming, times) = (Incoming::of(batch), (*now_ms, *expiration_ms));
                let appended = self.append(at, &incoming, times, &Conditions::default(), None, Some(*seq));
                if let Some(row) = &appended.1 {
                    self.mark(row.base_offset, marks, None, *now_ms, effects);
                }
                appended
            }
            PartitionCommand::Marker { marker, batch } => self.end(at, marker, &Incoming::of(batch), effects),
            PartitionCommand::CompactedAppend { original, batch } => {
                self.apply_again(at, original, &Incoming::compacted(original, batch))
            }
            PartitionCommand::EmptiedAppend { original, remains } => {
                self.apply_again(at, original, &Incoming::emptied(original, remains))
            }
            PartitionCommand::AdvanceHorizon { upto, .. } => {
                self.clean_horizon = self.clean_horizon.max((*upto).min(self.next_offset));
                (PartitionReply::Horizon(self.clean_horizon), None)
            }
        }
    }

    /// Applies what compaction has left of a command, as the original was applied.
    fn apply_again(
        &mut self,
        at: LogPosition,
        original: &Original,
        incoming: &Incoming,
    ) -> (PartitionReply, Option<IndexEntry>) {
        let times = (original.now_ms, original.expiration_ms);
        match &original.form {
            Form::Plain(conditions) => self.append(at, incoming, times, conditions, None, None),
            Form::Transactional { seq } => self.append(at, incoming, times, &Conditions::default(), None, Some(*seq)),
            // No record of an aborted transaction is left where its marker went. Readers must not be told of it: they would wait for its
            // marker, and take what the producer wrote since for aborted.
            Form::Marker { .. } => {
                let marker = original.marker().expect("it is one");
                let (reply, row) = self.end(at, &marker, incoming, &mut Effects::default());
                (reply.without_aborted(), row)
            }
            Form::Marked { conditions, ids } => {
                let appended = self.append(at, incoming, times, conditions, ids.as_ref(), None);
                assert!(
                    appended.1.is_none(),
                    "the batch with marks at index {} was emptied, and that of one that takes offsets never is",
                    at.index
                );
                appended
            }
        }
    }

    fn append(
        &mut self,
        at: LogPosition,
        incoming: &Incoming,
        (now_ms, expiration_ms): (i64, i64),
        conditions: &Conditions,
        ids: Option<&IdFinding>,
        transaction: Option<u64>,
    ) -> (PartitionReply, Option<IndexEntry>) {
        let header = &incoming.header;
        self.count_append(now_ms, expiration_ms);
        if header.producer_id.is_some() {
            match self.producers.judge(header, transaction, now_ms, expiration_ms) {
                Verdict::Append => {}
                Verdict::Duplicate {
                    base_offset,
                    last_offset,
                } => {
                    let reply = PartitionReply::Appended {
                        base_offset,
                        last_offset,
                        duplicate: true,
                    };
                    return (reply, None);
                }
                Verdict::Refused(refusal) => return (refusal.into(), None),
            }
        }
        // After the sequence: a retry of what was appended gets its offsets. A refused batch changes nothing, so its
        // producer goes on with the sequence that it had.
        if let Err(failed) = conditions.judge(at.term, self.next_offset, self.log_start) {
            return (Refusal::from(failed).into(), None);
        }
        // What was not there when another leader looked may be there by now.
        if ids.is_some_and(|found| found.term != at.term && !planted::is(Bug::IdsOfOldTerm)) {
            return (Refusal::from(ConditionFailed::LeaderChanged).into(), None);
        }
        let transaction = transaction.map(|seq| Self::transaction_of(header, seq));
        if let Some(refusal) = transaction.and_then(|transaction| self.refused_by_queues(transaction)) {
            return (refusal.into(), None);
        }
        let row = self.place(at, incoming);
        if header.producer_id.is_some() {
            self.producers
                .appended(header, row.base_offset, row.last_offset, now_ms);
        }
        if let Some(transaction) = transaction {
            self.has_transactions = true;
            self.producers
                .open_at(header.producer_id, row.base_offset, transaction.seq, now_ms);
            self.sent_in_queues(transaction, &row, now_ms);
        }
        (appended(&row), Some(row))
    }

    /// Counts an append, and forgets producers when it is time.
    fn count_append(&mut self, now_ms: i64, expiration_ms: i64) {
        self.appends += 1;
        if self.appends.is_multiple_of(EXPIRE_EVERY_APPENDS) {
            self.producers.expire(now_ms, expiration_ms);
        }
    }

    /// Ends a transaction, if it is open here.
    fn end(
        &mut self,
        at: LogPosition,
        marker: &Marker,
        incoming: &Incoming,
        effects: &mut Effects,
    ) -> (PartitionReply, Option<IndexEntry>) {
        self.count_append(marker.now_ms, marker.expiration_ms);
        self.has_transactions = true;
        let staged = self.slots.undecided_of(marker.end.producer_id);
        let first = match self.producers.judge_end(marker) {
            Ending::Refused(refusal) => return (refusal.into(), None),
            // Messages were acknowledged in an earlier one, which was forgotten here, and is to be aborted first.
            _ if let Some(earlier) = staged.filter(|staged| staged.seq < marker.seq) => {
                return (Refusal::TransactionOpen { seq: earlier.seq }.into(), None);
            }
            Ending::Of(first) => first,
            Ending::OfNone => {
                self.producers.fence(marker, self.next_offset);
                let reply = PartitionReply::Ended {
                    marker: None,
                    aborted: None,
                    queues: self.end_in_queues(marker, None),
                };
                return (reply, None);
            }
        };
        let stable_before = self.last_stable_offset();
        let row = self.place(at, incoming);
        self.producers.close(marker, row.base_offset);
        assert!(
            first < row.base_offset && stable_before <= self.last_stable_offset(),
            "the marker at index {} ends what begins at {first}, and the last stable offset was {stable_before}",
            at.index
        );
        let aborted = (!marker.end.commit).then(|| AbortedTransaction {
            producer_id: marker.end.producer_id,
            first,
            marker: row.last_offset,
            stable_after: self.last_stable_offset(),
        });
        if let Some(aborted) = &aborted
            && !planted::is(Bug::AbortedRowLost)
        {
            aborted.put_into(effects);
        }
        let reply = PartitionReply::Ended {
            marker: Some(row.base_offset),
            aborted,
            queues: self.end_in_queues(marker, Some(row.base_offset)),
        };
        (reply, Some(row))
    }

    /// Gives a batch its offsets.
    fn place(&mut self, at: LogPosition, incoming: &Incoming) -> IndexEntry {
        let Incoming {
            header,
            size_bytes,
            stored_bytes,
        } = incoming;
        let base_offset = self.next_offset;
        let last_offset = Offset(base_offset.get() + i64::from(header.last_offset_delta));
        assert!(
            last_offset >= base_offset,
            "the batch at index {} has no record, and the leader checked that it has",
            at.index
        );
        self.next_offset = Offset(last_offset.get() + 1);
        self.running_max_timestamp_ms = self.running_max_timestamp_ms.max(header.max_timestamp);
        self.retained_bytes += u64::from(*size_bytes);
        IndexEntry {
            last_offset,
            base_offset,
            raft_index: at.index,
            epoch: epoch_of(at.term),
            max_timestamp_ms: header.max_timestamp,
            running_max_timestamp_ms: self.running_max_timestamp_ms,
            size_bytes: *stored_bytes,
            original_bytes: *size_bytes,
            offsets_before: 0,
        }
    }

    fn advance_log_start(&mut self, from: Offset, to: Offset, dropped_bytes: u64) -> PartitionReply {
        if from != self.log_start || to < from || to > self.next_offset {
            return PartitionReply::LogStartMoved(self.log_start);
        }
        if let Some(floor) = self.kept_from().filter(|floor| to > *floor) {
            return PartitionReply::LogStartHeld(floor);
        }
        self.log_start = to;
        self.slots.cut_off(to);
        assert!(
            self.queue_floor().is_none_or(|floor| floor >= to),
            "the log starts at {to}, above the floor of a queue"
        );
        self.retained_bytes = self.retained_bytes.saturating_sub(dropped_bytes);
        PartitionReply::LogStart(to)
    }
}

/// The reply to a batch that got its offsets.
fn appended(row: &IndexEntry) -> PartitionReply {
    PartitionReply::Appended {
        base_offset: row.base_offset,
        last_offset: row.last_offset,
        duplicate: false,
    }
}

/// A number of a slot as an offset.
fn offset_of(number: u64) -> Offset {
    Offset(i64::try_from(number).expect("an offset is below 2^60"))
}

/// A Raft term as a leader epoch.
fn epoch_of(term: u64) -> LeaderEpoch {
    LeaderEpoch(
        u32::try_from(term)
            .ok()
            .filter(|term| i32::try_from(*term).is_ok())
            .expect("fewer than 2^31 elections"),
    )
}

impl Machine for PartitionState {
    type Command = PartitionCommand;
    type Reply = PartitionReply;

    fn encode(command: PartitionCommand) -> EncodedCommand {
        command.encode()
    }

    fn decode(command: EncodedCommand) -> Result<PartitionCommand, CodecError> {
        PartitionCommand::decode(command)
    }

    fn apply(&mut self, at: LogPosition, command: &PartitionCommand, effects: &mut Effects) -> PartitionReply {
        let (reply, row) = self.fold(at, command, effects);
        if let Some(row) = row {
            row.put_into(effects);
        }
        reply
    }

    /// `version u8 | next offset i64 | log start i64 | running maximum of timestamps i64 | retained bytes u64 | appends
    /// u64 | producers`, and of version 2 the slots. Only a partition that has or had queues is of version 2. Of version 3, which only one
    /// that has or had transactions is, or a horizon, `sections u8` stand before the producers, and behind them the transactions, the
    /// horizon i64 and the slots, as far as they are among the sections.
    fn snapshot(&self) -> Bytes {
        let section = |is_there, section| if is_there { section } else { 0 };
        let sections = section(!self.slots.is_unused(), HAS_SLOTS)
            | section(self.has_transactions, HAS_TRANSACTIONS)
            | section(self.clean_horizon > Offset(0), HAS_HORIZON);
        let version = match sections {
            0 => STATE_VERSION,
            HAS_SLOTS => STATE_VERSION_WITH_SLOTS,
            _ => STATE_VERSION_WITH_SECTIONS,
        };
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(version);
        out.put_i64(self.next_offset.get());
        out.put_i64(self.log_start.get());
        out.put_i64(self.running_max_timestamp_ms);
        out.put_u64(self.retained_bytes);
        out.put_u64(self.appends);
        if version == STATE_VERSION_WITH_SECTIONS {
            out.put_u8(sections);
        }
        match self.has_transactions || !planted::is(Bug::ProducersLostInSnapshot) {
            true => self.producers.encode(&mut out),
            false => Producers::default().encode(&mut out),
        }
        if sections & HAS_TRANSACTIONS != 0 {
            self.producers.encode_transactions(&mut out);
        }
        if sections & HAS_HORIZON != 0 {
            out.put_i64(self.clean_horizon.get());
        }
        self.slots.encode(&mut out);
        out.freeze()
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        let damaged = |_| RestoreError("a partition's state is damaged".into());
        let mut input = &snapshot[..];
        let version = input.try_get_u8().map_err(damaged)?;
        if !(STATE_VERSION..=STATE_VERSION_WITH_SECTIONS).contains(&version) {
            return Err(RestoreError(format!(
                "a partition's state has version {version}; this build reads versions {STATE_VERSION} to \
                 {STATE_VERSION_WITH_SECTIONS}"
            )));
        }
        let mut state = Self {
            next_offset: Offset(input.try_get_i64().map_err(damaged)?),
            log_start: Offset(input.try_get_i64().map_err(damaged)?),
            running_max_timestamp_ms: input.try_get_i64().map_err(damaged)?,
            retained_bytes: input.try_get_u64().map_err(damaged)?,
            appends: input.try_get_u64().map_err(damaged)?,
            producers: Producers::default(),
            clean_horizon: Offset(0),
            slots: Slots::default(),
            has_transactions: false,
        };
        let sections = match version {
            STATE_VERSION => 0,
            STATE_VERSION_WITH_SLOTS => HAS_SLOTS,
            _ => input.try_get_u8().map_err(damaged)?,
        };
        if sections & !(HAS_SLOTS | HAS_TRANSACTIONS | HAS_HORIZON) != 0 {
            return Err(RestoreError(format!(
                "a partition's state has the sections {sections}; this build does not know all of them"
            )));
        }
        let has_transactions = sections & HAS_TRANSACTIONS != 0;
        state.has_transactions = has_transactions;
        state.producers = Producers::decode(&mut input, has_transactions)?;
        let has_horizon = sections & HAS_HORIZON != 0;
        if has_horizon {
            state.clean_horizon = Offset(input.try_get_i64().map_err(damaged)?);
        }
        // What is said to be there is used, so each state has one form.
        let has_slots = sections & HAS_SLOTS != 0;
        let is_sound = input.is_empty() != has_slots
            && (has_transactions || has_horizon) == (version == STATE_VERSION_WITH_SECTIONS)
            && has_horizon == (state.clean_horizon > Offset(0))
            && state.clean_horizon <= state.next_offset
            && state.log_start >= Offset(0)
            && state.log_start <= state.next_offset
            && state.last_stable_offset() <= state.next_offset
            && state.producers.are_below(state.next_offset)
            && state.next_offset <= OFFSET_MAX;
        if !is_sound {
            return Err(RestoreError("a partition's state is damaged".into()));
        }
        if has_slots {
            let [start, next] = [state.log_start, state.next_offset].map(|offset| offset.get().unsigned_abs());
            state.slots = Slots::restore(input, start, next)?;
            let is_one =
                state.slots.iter().len() == 0 || state.slots.stable(next) == number(state.last_stable_offset());
            if !is_one {
                return Err(RestoreError(
                    "a partition's state and its queues differ in what is stable".into(),
                ));
            }
        }
        Ok(state)
    }

    fn retention(&self) -> Retention {
        Retention::LogIsData {
            position: self.next_offset,
            start: self.log_start,
        }
    }

    /// Also looks at the batch: apply relies on what a leader checks.
    fn check_command(command: &EncodedCommand) -> Result<(), String> {
        check::check_command(command)
    }
}
