//! The replicated state of a partition: gives batches their offsets in log order, judges sequences, moves the log start.
//!
//! ```text
//!   log start                          next offset = high watermark
//!      |                                   |
//! -----+===================================+
//!       records that consumers can read
//! ```
//!
//! The state is a few numbers, the producer table, and the slots of the partition's queues; the records stay in the log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_queue::{Carry, Context, Fire, Marks, OpsReply, QueueOps, ScheduleCommand, Slots};
use jangada_types::{BatchHeader, CodecError, LeaderEpoch, LogPosition, Offset};

use crate::command::{IdFinding, PartitionCommand};
use crate::condition::{ConditionFailed, Conditions};
use crate::producers::{Producers, Verdict};
use crate::reply::{PartitionReply, Refusal};
use crate::tables::IndexEntry;

const STATE_VERSION: u8 = 1;
/// That of a partition which has, or had, queues: the slots follow.
const STATE_VERSION_WITH_SLOTS: u8 = 2;
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
    slots: Slots,
}

/// A batch as far as apply looks at it: nothing that is folded into the state depends on its records.
struct Incoming {
    /// The batch's header, with the position that its producer wrote into it.
    header: BatchHeader,
    /// Size of the batch in bytes when it was appended, whatever of it is left.
    size_bytes: u32,
}

impl Incoming {
    fn of(batch: &Bytes) -> Self {
        Self {
            header: BatchHeader::parse(batch).expect("the leader checked or made the batch before it proposed it"),
            size_bytes: u32::try_from(batch.len()).expect("a batch is at most 8 MiB"),
        }
    }
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
            slots: Slots::default(),
        }
    }
}

impl PartitionState {
    /// The offset that the next record gets: the high watermark, once it is applied.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The log start offset: the first record that is kept.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Bytes of the batches from log start to end.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes
    }

    /// The slots of the partition's queues.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The offset below which no queue whose log this is needs a record; none: there is no such queue.
    pub fn queue_floor(&self) -> Option<Offset> {
        let floor = self.slots.floor()?;
        Some(Offset(i64::try_from(floor).expect("an offset is below 2^60")))
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
            } => self.append(at, &Incoming::of(batch), (*now_ms, *expiration_ms), conditions, None),
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
                let appended = self.append(at, &incoming, (*now_ms, *expiration_ms), conditions, ids.as_ref());
                if let Some(row) = &appended.1 {
                    self.mark(row.base_offset, marks, ids.as_ref(), *now_ms, effects);
                }
                appended
            }
            PartitionCommand::Carry { carry, batch } => self.carry(at, carry, batch, effects),
            PartitionCommand::Schedule { change, marks, batch } => self.schedule(at, change, marks, batch, effects),
        }
    }

    fn append(
        &mut self,
        at: LogPosition,
        incoming: &Incoming,
        (now_ms, expiration_ms): (i64, i64),
        conditions: &Conditions,
        ids: Option<&IdFinding>,
    ) -> (PartitionReply, Option<IndexEntry>) {
        let header = &incoming.header;
        self.appends += 1;
        if self.appends.is_multiple_of(EXPIRE_EVERY_APPENDS) {
            self.producers.expire(now_ms, expiration_ms);
        }
        if header.producer_id.is_some() {
            match self.producers.judge(header, now_ms, expiration_ms) {
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
        if ids.is_some_and(|found| found.term != at.term) {
            return (Refusal::from(ConditionFailed::LeaderChanged).into(), None);
        }
        let row = self.place(at, incoming);
        if header.producer_id.is_some() {
            self.producers
                .appended(header, row.base_offset, row.last_offset, now_ms);
        }
        (appended(&row), Some(row))
    }

    /// Gives a batch its offsets.
    fn place(&mut self, at: LogPosition, incoming: &Incoming) -> IndexEntry {
        let Incoming { header, size_bytes } = incoming;
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
            size_bytes: *size_bytes,
        }
    }

    fn context(&self, at: LogPosition) -> Context {
        Context {
            at,
            log_start: self.log_start,
            next_offset: self.next_offset,
        }
    }

    fn change_slots(&mut self, at: LogPosition, ops: &QueueOps) -> OpsReply {
        let context = self.context(at);
        self.slots.apply(&context, ops)
    }

    /// The queues learn what is said of the records of a batch that was appended.
    fn mark(&mut self, base: Offset, marks: &Marks, ids: Option<&IdFinding>, now_ms: i64, effects: &mut Effects) {
        let ids = ids.map(|found| (found.window, u64::try_from(now_ms).unwrap_or(0)));
        self.slots.appended(base.get().unsigned_abs(), marks, ids, effects);
    }

    fn carry(
        &mut self,
        at: LogPosition,
        carry: &Carry,
        batch: &Bytes,
        effects: &mut Effects,
    ) -> (PartitionReply, Option<IndexEntry>) {
        if let Err(refused) = self.slots.judge_carry(&self.context(at), carry) {
            return (PartitionReply::CarryRefused(refused), None);
        }
        let row = self.place(at, &Incoming::of(batch));
        self.slots.carry(carry, row.base_offset.get().unsigned_abs(), effects);
        (appended(&row), Some(row))
    }

    fn schedule(
        &mut self,
        at: LogPosition,
        change: &ScheduleCommand,
        marks: &Marks,
        batch: &Bytes,
        effects: &mut Effects,
    ) -> (PartitionReply, Option<IndexEntry>) {
        let context = self.context(at);
        let changed = match change {
            ScheduleCommand::Put(put) => self.slots.put_schedule(&context, put),
            ScheduleCommand::Delete { key } => self.slots.delete_schedule(key),
            ScheduleCommand::Fire(fire) => self.slots.judge_fire(&context, fire),
        };
        if let Err(refused) = changed {
            return (PartitionReply::ScheduleRefused(refused), None);
        }
        let ScheduleCommand::Fire(fire) = change else {
            return (PartitionReply::Scheduled, None);
        };
        self.slots.fired(fire);
        if !fire.appends {
            return (PartitionReply::Scheduled, None);
        }
        let row = self.place(at, &Incoming::of(batch));
        self.slots
            .appended(row.base_offset.get().unsigned_abs(), marks, None, effects);
        (appended(&row), Some(row))
    }

    fn advance_log_start(&mut self, from: Offset, to: Offset, dropped_bytes: u64) -> PartitionReply {
        if from != self.log_start || to < from || to > self.next_offset {
            return PartitionReply::LogStartMoved(self.log_start);
        }
        if let Some(floor) = self.queue_floor().filter(|floor| to > *floor) {
            return PartitionReply::LogStartHeld(floor);
        }
        self.log_start = to;
        self.slots.cut_off(to);
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
    /// u64 | producers`, and of version 2 the slots. Only a partition that has or had queues is of version 2.
    fn snapshot(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(match self.slots.is_unused() {
            true => STATE_VERSION,
            false => STATE_VERSION_WITH_SLOTS,
        });
        out.put_i64(self.next_offset.get());
        out.put_i64(self.log_start.get());
        out.put_i64(self.running_max_timestamp_ms);
        out.put_u64(self.retained_bytes);
        out.put_u64(self.appends);
        self.producers.encode(&mut out);
        self.slots.encode(&mut out);
        out.freeze()
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        let damaged = |_| RestoreError("a partition's state is damaged".into());
        let mut input = &snapshot[..];
        let version = input.try_get_u8().map_err(damaged)?;
        if version != STATE_VERSION && version != STATE_VERSION_WITH_SLOTS {
            return Err(RestoreError(format!(
                "a partition's state has version {version}; this build reads versions {STATE_VERSION} and \
                 {STATE_VERSION_WITH_SLOTS}"
            )));
        }
        let mut state = Self {
            next_offset: Offset(input.try_get_i64().map_err(damaged)?),
            log_start: Offset(input.try_get_i64().map_err(damaged)?),
            running_max_timestamp_ms: input.try_get_i64().map_err(damaged)?,
            retained_bytes: input.try_get_u64().map_err(damaged)?,
            appends: input.try_get_u64().map_err(damaged)?,
            producers: Producers::decode(&mut input)?,
            slots: Slots::default(),
        };
        // Slots that are there are used, so each state has one form.
        let has_slots = version == STATE_VERSION_WITH_SLOTS;
        let is_sound = input.is_empty() != has_slots
            && state.log_start >= Offset(0)
            && state.log_start <= state.next_offset
            && state.next_offset <= OFFSET_MAX;
        if !is_sound {
            return Err(RestoreError("a partition's state is damaged".into()));
        }
        if has_slots {
            let [start, next] = [state.log_start, state.next_offset].map(|offset| offset.get().unsigned_abs());
            state.slots = Slots::restore(input, start, next)?;
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
        match PartitionCommand::decode_head(command.head()).map_err(|error| error.to_string())? {
            PartitionCommand::AdvanceLogStart { .. } => Ok(()),
            PartitionCommand::QueueOps(_) => Slots::check_ops(command.body()).map_err(|error| error.to_string()),
            PartitionCommand::Append { .. } => check_batch(command.body()).map(drop),
            PartitionCommand::AppendMarked { marks, .. } => {
                let header = check_batch(command.body())?;
                check_count("marks", marks.0.len() as u64, &header)
            }
            PartitionCommand::Carry { carry, .. } => {
                let header = check_batch(command.body())?;
                if header.producer_id.is_some() {
                    return Err("what is carried has no producer, and its batch has".to_owned());
                }
                check_count("places", carry.messages.len(), &header)
            }
            PartitionCommand::Schedule { change, marks, .. } => match *change {
                ScheduleCommand::Fire(Fire { appends: true, .. }) => check_scheduled(command.body(), &marks),
                _ if command.body().is_empty() => Ok(()),
                _ => Err("it sends no message, and has a batch".to_owned()),
            },
        }
    }
}

/// The header of a batch that a leader takes.
fn check_batch(batch: &Bytes) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(batch).map_err(|error| error.to_string())?;
    let is_whole = header.total_size() == batch.len() && header.last_offset_delta >= 0;
    let has_sequence = header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0;
    match is_whole && (has_sequence || !header.producer_id.is_some()) {
        true => Ok(header),
        false => Err("its batch is not what a leader takes".to_owned()),
    }
}

/// The batch of an occurrence: one message, without a producer, whose id nobody remembers.
fn check_scheduled(batch: &Bytes, marks: &Marks) -> Result<(), String> {
    let header = check_batch(batch)?;
    if header.producer_id.is_some() || marks.0.iter().any(|mark| mark.id != 0) {
        return Err("an occurrence is sent once by its number, and has neither a producer nor a message id".to_owned());
    }
    check_count("message", 1, &header)?;
    match marks.is_empty() {
        true => Ok(()),
        false => check_count("marks", marks.0.len() as u64, &header),
    }
}

fn check_count(what: &str, given: u64, header: &BatchHeader) -> Result<(), String> {
    let records = u64::from(header.last_offset_delta.unsigned_abs()) + 1;
    match given == records {
        true => Ok(()),
        false => Err(format!("it has {given} {what} for {records} records")),
    }
}
