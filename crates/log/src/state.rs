//! The replicated state of a partition: gives batches their offsets in log order, judges sequences, moves the log start.
//!
//! ```text
//!   log start                          next offset = high watermark
//!      |                                   |
//! -----+===================================+
//!       records that consumers can read
//! ```
//!
//! The state is a few numbers and the producer table; the records stay in the log.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_machine::{Effects, EncodedCommand, Machine, RestoreError, Retention};
use jangada_types::{BatchHeader, CodecError, LeaderEpoch, LogPosition, Offset};

use crate::command::PartitionCommand;
use crate::condition::Conditions;
use crate::producers::{Producers, Verdict};
use crate::reply::{PartitionReply, Refusal};
use crate::tables::IndexEntry;

const STATE_VERSION: u8 = 1;
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

    /// [`Machine::apply`], with the row of the offset index that a batch gets.
    pub fn fold(&mut self, at: LogPosition, command: &PartitionCommand) -> (PartitionReply, Option<IndexEntry>) {
        match command {
            PartitionCommand::Append {
                now_ms,
                expiration_ms,
                conditions,
                batch,
            } => self.append(at, batch, (*now_ms, *expiration_ms), *conditions),
            PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            } => (self.advance_log_start(*from, *to, *dropped_bytes), None),
        }
    }

    fn append(
        &mut self,
        at: LogPosition,
        batch: &Bytes,
        (now_ms, expiration_ms): (i64, i64),
        conditions: Conditions,
    ) -> (PartitionReply, Option<IndexEntry>) {
        let header = BatchHeader::parse(batch).expect("the leader checked the batch before it proposed it");
        self.appends += 1;
        if self.appends.is_multiple_of(EXPIRE_EVERY_APPENDS) {
            self.producers.expire(now_ms, expiration_ms);
        }
        if header.producer_id.is_some() {
            match self.producers.judge(&header, now_ms, expiration_ms) {
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
        let base_offset = self.next_offset;
        let last_offset = Offset(base_offset.get() + i64::from(header.last_offset_delta));
        assert!(
            last_offset >= base_offset,
            "the batch at index {} has no record, and the leader checked that it has",
            at.index
        );
        self.next_offset = Offset(last_offset.get() + 1);
        self.running_max_timestamp_ms = self.running_max_timestamp_ms.max(header.max_timestamp);
        self.retained_bytes += batch.len() as u64;
        if header.producer_id.is_some() {
            self.producers.appended(&header, base_offset, last_offset, now_ms);
        }
        let row = IndexEntry {
            last_offset,
            base_offset,
            raft_index: at.index,
            epoch: epoch_of(at.term),
            max_timestamp_ms: header.max_timestamp,
            running_max_timestamp_ms: self.running_max_timestamp_ms,
            size_bytes: u32::try_from(batch.len()).expect("a batch is at most 8 MiB"),
        };
        let reply = PartitionReply::Appended {
            base_offset,
            last_offset,
            duplicate: false,
        };
        (reply, Some(row))
    }

    fn advance_log_start(&mut self, from: Offset, to: Offset, dropped_bytes: u64) -> PartitionReply {
        if from != self.log_start || to < from || to > self.next_offset {
            return PartitionReply::LogStartMoved(self.log_start);
        }
        self.log_start = to;
        self.retained_bytes = self.retained_bytes.saturating_sub(dropped_bytes);
        PartitionReply::LogStart(to)
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
        let (reply, row) = self.fold(at, command);
        if let Some(row) = row {
            row.put_into(effects);
        }
        reply
    }

    /// `version u8 | next offset i64 | log start i64 | running maximum of timestamps i64 | retained bytes u64 | appends
    /// u64 | producers`.
    fn snapshot(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(STATE_VERSION);
        out.put_i64(self.next_offset.get());
        out.put_i64(self.log_start.get());
        out.put_i64(self.running_max_timestamp_ms);
        out.put_u64(self.retained_bytes);
        out.put_u64(self.appends);
        self.producers.encode(&mut out);
        out.freeze()
    }

    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError> {
        let damaged = |_| RestoreError("a partition's state is damaged".into());
        let mut input = &snapshot[..];
        let version = input.try_get_u8().map_err(damaged)?;
        if version != STATE_VERSION {
            return Err(RestoreError(format!(
                "a partition's state has version {version}; this build reads version {STATE_VERSION}"
            )));
        }
        let state = Self {
            next_offset: Offset(input.try_get_i64().map_err(damaged)?),
            log_start: Offset(input.try_get_i64().map_err(damaged)?),
            running_max_timestamp_ms: input.try_get_i64().map_err(damaged)?,
            retained_bytes: input.try_get_u64().map_err(damaged)?,
            appends: input.try_get_u64().map_err(damaged)?,
            producers: Producers::decode(&mut input)?,
        };
        let is_sound = input.is_empty()
            && state.log_start >= Offset(0)
            && state.log_start <= state.next_offset
            && state.next_offset <= OFFSET_MAX;
        if is_sound {
            Ok(state)
        } else {
            Err(RestoreError("a partition's state is damaged".into()))
        }
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
            PartitionCommand::Append { .. } => {
                let batch = command.body();
                let header = BatchHeader::parse(batch).map_err(|error| error.to_string())?;
                let is_whole = header.total_size() == batch.len() && header.last_offset_delta >= 0;
                let has_sequence = header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0;
                match is_whole && (has_sequence || !header.producer_id.is_some()) {
                    true => Ok(()),
                    false => Err("its batch is not what a leader takes".to_owned()),
                }
            }
        }
    }
}
