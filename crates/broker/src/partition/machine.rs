//! A partition's state machine: gives batches their offsets in log order, judges sequences, moves the log start.
//!
//! ```text
//!   log start                          next offset = high watermark
//!      |                                   |
//! -----+===================================+
//!       records that consumers can read
//! ```
//!
//! The state is a few numbers and the producer table; the records stay in the log. What readers need is published to
//! the [`View`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_replication::{Check, Command, Effects, RestoreError, Retention, StateMachine};
use jangada_storage::{IndexEntry, LogPosition};
use jangada_types::{BatchHeader, GroupId, LeaderEpoch, Offset};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::command::{PartitionCommand, PartitionReply};
use super::condition::Conditions;
use super::producers::{Producers, Verdict};

const STATE_VERSION: u8 = 1;
/// Far beyond what can be written, and far from where adding a batch would overflow.
const OFFSET_MAX: Offset = Offset(1 << 60);
/// Index rows kept in memory, so that reading at the end of the log asks neither the disk nor the writer.
const RECENT_ROWS_MAX: usize = 1024;
/// Silent producers are looked for after so many appends.
const EXPIRE_EVERY_APPENDS: u64 = 1024;

/// What readers see of a partition: everything here is committed and applied.
pub(crate) struct View {
    high_watermark: watch::Sender<Offset>,
    log_start: AtomicI64,
    retained_bytes: AtomicU64,
    recent: RwLock<VecDeque<IndexEntry>>,
    /// Bytes of log between checkpoints, from the topic's settings; read when applying, never part of the state.
    checkpoint_bytes: AtomicU64,
}

impl View {
    pub fn new(checkpoint_bytes: u64) -> Self {
        Self {
            high_watermark: watch::Sender::new(Offset(0)),
            log_start: AtomicI64::new(0),
            retained_bytes: AtomicU64::new(0),
            recent: RwLock::default(),
            checkpoint_bytes: AtomicU64::new(checkpoint_bytes),
        }
    }

    pub fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    pub fn watch_high_watermark(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Bytes of the batches from log start to high watermark.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    pub fn set_checkpoint_bytes(&self, bytes: u64) {
        self.checkpoint_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether the batches from `offset` to the high watermark have at least `min_bytes`.
    pub fn has_bytes(&self, offset: Offset, high_watermark: Offset, min_bytes: usize) -> bool {
        if offset >= high_watermark {
            return false;
        }
        let recent = self.recent.read();
        if recent.front().is_none_or(|first| offset < first.base_offset) {
            // So far behind that there is no need to count.
            return true;
        }
        let start = recent.partition_point(|row| row.last_offset < offset);
        let rows = recent.range(start..).take_while(|row| row.last_offset < high_watermark);
        let mut bytes = 0;
        rows.map(|row| row.size_bytes as usize).any(|size| {
            bytes += size;
            bytes >= min_bytes
        })
    }

    /// Rows from the one that holds `offset` on, until their batches have `max_bytes`; `None` when the first is not
    /// in memory any more.
    pub fn recent_rows(&self, offset: Offset, max_bytes: usize) -> Option<Vec<IndexEntry>> {
        let recent = self.recent.read();
        if recent.front().is_none_or(|first| offset < first.base_offset) {
            return None;
        }
        let start = recent.partition_point(|row| row.last_offset < offset);
        let mut bytes = 0;
        let fits = |row: &&IndexEntry| {
            let first = bytes == 0;
            bytes += row.size_bytes as usize;
            first || bytes <= max_bytes
        };
        Some(recent.range(start..).take_while(fits).copied().collect())
    }
}

/// See the module text.
pub(crate) struct PartitionMachine {
    group: GroupId,
    view: Arc<View>,
    next_offset: Offset,
    log_start: Offset,
    running_max_timestamp_ms: i64,
    retained_bytes: u64,
    appends: u64,
    producers: Producers,
    /// Rows applied since the last publication.
    unpublished: Vec<IndexEntry>,
}

impl PartitionMachine {
    pub fn new(group: GroupId, view: Arc<View>) -> Self {
        Self {
            group,
            view,
            next_offset: Offset(0),
            log_start: Offset(0),
            running_max_timestamp_ms: i64::MIN,
            retained_bytes: 0,
            appends: 0,
            producers: Producers::default(),
            unpublished: Vec::new(),
        }
    }

    fn append(
        &mut self,
        at: LogPosition,
        batch: &Bytes,
        (now_ms, expiration_ms): (i64, i64),
        conditions: Conditions,
        effects: &mut Effects,
    ) -> PartitionReply {
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
                    return PartitionReply::Appended {
                        base_offset,
                        last_offset,
                        duplicate: true,
                    };
                }
                Verdict::TooOld => return PartitionReply::TooOld,
                Verdict::OutOfOrder { expected } => return PartitionReply::OutOfOrder { expected },
                Verdict::Fenced { current } => return PartitionReply::Fenced { current },
                Verdict::Unknown => return PartitionReply::UnknownProducer,
            }
        }
        // After the sequence: a retry of what was appended gets its offsets. A refused batch changes nothing, so its
        // producer goes on with the sequence that it had.
        if let Some(refused) = conditions.judge(at.term, self.next_offset, self.log_start) {
            return refused;
        }
        let base_offset = self.next_offset;
        let last_offset = Offset(base_offset.get() + i64::from(header.last_offset_delta));
        assert!(
            last_offset >= base_offset,
            "group {}: a batch has at least one record",
            self.group
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
        effects.index.push(row);
        self.unpublished.push(row);
        PartitionReply::Appended {
            base_offset,
            last_offset,
            duplicate: false,
        }
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

impl StateMachine for PartitionMachine {
    fn apply(&mut self, at: LogPosition, command: &Command, effects: &mut Effects) -> Bytes {
        let decoded = PartitionCommand::decode(command);
        let Some(decoded) = decoded else {
            // Going on would let this replica part from the others; the group stops here instead.
            panic!(
                "group {}: the command at index {} was written by a later version, or is damaged: upgrade this broker",
                self.group, at.index
            );
        };
        let reply = match decoded {
            PartitionCommand::Append {
                now_ms,
                expiration_ms,
                conditions,
            } => self.append(at, command.body(), (now_ms, expiration_ms), conditions, effects),
            PartitionCommand::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            } => self.advance_log_start(from, to, dropped_bytes),
        };
        reply.encode()
    }

    fn publish(&mut self) {
        if !self.unpublished.is_empty() {
            let mut recent = self.view.recent.write();
            recent.extend(self.unpublished.drain(..));
            let excess = recent.len().saturating_sub(RECENT_ROWS_MAX);
            recent.drain(..excess);
        }
        self.view.log_start.store(self.log_start.get(), Ordering::Release);
        self.view.retained_bytes.store(self.retained_bytes, Ordering::Relaxed);
        let next = self.next_offset;
        self.view
            .high_watermark
            .send_if_modified(|known| std::mem::replace(known, next) != next);
    }

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

    fn restore(&mut self, snapshot: &Bytes) -> Result<(), RestoreError> {
        let damaged = |_| RestoreError("a partition's state is damaged".into());
        let mut input = &snapshot[..];
        let version = input.try_get_u8().map_err(damaged)?;
        if version != STATE_VERSION {
            return Err(RestoreError(format!(
                "a partition's state has version {version}; this build reads version {STATE_VERSION}"
            )));
        }
        let next_offset = Offset(input.try_get_i64().map_err(damaged)?);
        let log_start = Offset(input.try_get_i64().map_err(damaged)?);
        let running_max_timestamp_ms = input.try_get_i64().map_err(damaged)?;
        let retained_bytes = input.try_get_u64().map_err(damaged)?;
        let appends = input.try_get_u64().map_err(damaged)?;
        let producers = Producers::decode(&mut input)?;
        if !input.is_empty() || log_start > next_offset || log_start < Offset(0) || next_offset > OFFSET_MAX {
            return Err(RestoreError("a partition's state is damaged".into()));
        }
        // The rows in memory belong to the state that goes.
        self.unpublished.clear();
        self.view.recent.write().clear();
        (self.next_offset, self.log_start, self.running_max_timestamp_ms) =
            (next_offset, log_start, running_max_timestamp_ms);
        (self.retained_bytes, self.appends, self.producers) = (retained_bytes, appends, producers);
        Ok(())
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(PartitionCheck)
    }

    fn retention(&self) -> Retention {
        let checkpoint_bytes = self.view.checkpoint_bytes.load(Ordering::Relaxed);
        Retention::LogIsData {
            position: self.next_offset,
            start: self.log_start,
            checkpoint_bytes,
        }
    }
}

/// The next offset of a state that was saved.
pub(super) fn position_of(state: &Bytes) -> Result<Offset, RestoreError> {
    let mut machine = PartitionMachine::new(GroupId::METADATA, Arc::new(View::new(1)));
    machine.restore(state)?;
    Ok(machine.next_offset)
}

/// Judges commands and states of peers.
struct PartitionCheck;

impl Check for PartitionCheck {
    fn command(&self, command: &Command) -> Result<(), String> {
        match PartitionCommand::decode(command) {
            None => Err("it was written by a later version, or is damaged".to_owned()),
            Some(PartitionCommand::AdvanceLogStart { .. }) => Ok(()),
            Some(PartitionCommand::Append { .. }) => {
                let header = BatchHeader::parse(command.body()).map_err(|error| error.to_string())?;
                let is_whole = header.total_size() == command.body().len() && header.last_offset_delta >= 0;
                let has_sequence = header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0;
                match is_whole && (has_sequence || !header.producer_id.is_some()) {
                    true => Ok(()),
                    false => Err("its batch is not what a leader takes".to_owned()),
                }
            }
        }
    }

    fn snapshot(&self, snapshot: &Bytes) -> Result<(), RestoreError> {
        position_of(snapshot).map(drop)
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
