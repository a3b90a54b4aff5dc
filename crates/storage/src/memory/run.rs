//! One run of a process on a disk: what it has written, what of it is not synced, and the answers that are due.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use jangada_types::GroupId;

use super::disk::{MemoryDisk, NotSynced, RunId};
use super::layer::{GroupData, Layer, Spot};
use crate::error::StoreError;
use crate::queue::Answer;
use crate::statistics::Counters;
use crate::store::{Durability, LogEntry, Op};
use crate::tables::Tables;

/// What is said of writes of a run that a crash has ended.
const CUT_OFF: &str = "the process was cut off from its disk by a crash";

/// A write that is not answered.
struct Waiting {
    /// The number of the write.
    sequence: u64,
    durability: Durability,
    bytes: usize,
    answer: Answer,
}

/// What [`Run::next_settled`] finds.
pub(super) struct Settled {
    answer: Answer,
    result: Result<(), Arc<str>>,
}

impl Settled {
    /// Calls the completion.
    pub fn send(self) {
        self.answer.send(self.result.map_err(StoreError::Fenced));
    }
}

/// What one run of a process has written and answered. It is behind the store's lock.
pub(super) struct Run {
    id: RunId,
    tables: Tables,
    written: Layer,
    /// Groups that are open.
    pub open: BTreeSet<GroupId>,
    /// Not synced, in order: the first is the write after `synced`.
    unsynced: VecDeque<(GroupId, Vec<Op>)>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Writes up to this number are synced.
    synced: u64,
    /// The last synced write that is not only notes of the node's own.
    pub told: u64,
    /// Somebody calls completions, and goes on with those that come meanwhile.
    pub is_settling: bool,
    /// Syncs wait until they are let go.
    pub holds_syncs: bool,
    pub is_closed: bool,
    /// A sync has failed.
    pub failure: Option<NotSynced>,
}

impl Run {
    pub fn new(id: RunId, written: Layer, tables: Tables) -> Self {
        let sequence = written.sequence;
        Self {
            id,
            tables,
            written,
            open: BTreeSet::new(),
            unsynced: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            synced: sequence,
            told: sequence,
            is_settling: false,
            holds_syncs: false,
            is_closed: false,
            failure: None,
        }
    }

    pub fn id(&self) -> RunId {
        self.id
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn layer(&self) -> &Layer {
        &self.written
    }

    /// Writes that are not synced, in order.
    pub fn unsynced(&self) -> &VecDeque<(GroupId, Vec<Op>)> {
        &self.unsynced
    }

    /// Something on disk is damaged, which this run reads from there unless it has it in memory.
    pub fn rot(&mut self, group: GroupId, spot: &Spot) {
        if !self.written.is_recent(group, spot) {
            self.written.rot(group, spot);
        }
    }

    /// An open group's data.
    pub fn group(&self, group: GroupId) -> Result<&GroupData, StoreError> {
        let is_open = self.open.contains(&group);
        let data = self.written.group(group).filter(|_| is_open);
        data.ok_or(StoreError::GroupNotOpen(group))
    }

    pub fn open_group(&mut self, group: GroupId) {
        if self.open.insert(group) {
            self.written.open(group);
        }
    }

    pub fn queue_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Carries out a write, and lets its answer wait.
    pub fn write(&mut self, group: GroupId, ops: Vec<Op>, durability: Durability, answer: Answer) {
        self.written.write(group, &ops, &self.tables);
        let sequence = self.written.sequence;
        let bytes = ops.iter().map(payload_len).sum();
        if self.failure.is_none() {
            self.unsynced.push_back((group, ops));
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting {
            sequence,
            durability,
            bytes,
            answer,
        });
    }

    /// The last write so far, if somebody waits for a sync and syncs are held.
    pub fn waits_for_sync(&self) -> Option<u64> {
        let is_due = |waiting: &Waiting| waiting.durability == Durability::Synced && waiting.sequence > self.synced;
        let waits = self.holds_syncs && !self.is_closed && self.failure.is_none();
        (waits && self.waiting.iter().any(is_due)).then_some(self.written.sequence)
    }

    /// Syncs everything that is written.
    pub fn sync(&mut self, disk: &MemoryDisk, counters: &Counters) {
        self.sync_upto(self.written.sequence, disk, counters);
    }

    /// Syncs the writes up to this one.
    pub fn sync_upto(&mut self, upto: u64, disk: &MemoryDisk, counters: &Counters) {
        if self.failure.is_some() || self.synced >= upto {
            return;
        }
        let count = usize::try_from(upto - self.synced).expect("usize has 64 bits");
        match disk.sync(self.id, self.unsynced.iter().take(count), &self.tables) {
            Ok(()) => {
                for (group, _) in self.unsynced.drain(..count) {
                    self.synced += 1;
                    if group != GroupId::NODE {
                        self.told = self.synced;
                    }
                }
                Counters::add(&counters.syncs, 1);
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// The next answer that can be given, in the order of the writes. Syncs if somebody waits for it.
    pub fn next_settled(&mut self, disk: &MemoryDisk, counters: &Counters) -> Option<Settled> {
        let first = self.waiting.front()?;
        if first.durability == Durability::Synced && first.sequence > self.synced && self.failure.is_none() {
            if self.holds_syncs && !self.is_closed {
                return None;
            }
            self.sync(disk, counters);
        }
        let first = self.waiting.pop_front()?;
        self.waiting_bytes -= first.bytes;
        let result = match &self.failure {
            None => Ok(()),
            Some(NotSynced::CutOff) => Err(CUT_OFF.into()),
            Some(NotSynced::Failed(reason)) => Err(reason.clone()),
        };
        let answer = first.answer;
        Some(Settled { answer, result })
    }

    /// A crash has ended the run: what it still does is for nobody.
    pub fn cut_off(&mut self) {
        self.failure = Some(NotSynced::CutOff);
    }

    /// The disk may be opened again. What is not answered hears that the store is shutting down.
    pub fn end(&mut self, disk: &MemoryDisk) {
        disk.end(self.id);
    }
}

/// Bytes that an operation keeps in memory until it is answered.
fn payload_len(op: &Op) -> usize {
    match op {
        Op::Append(entries) => entries.iter().map(|entry| entry.payload_len()).sum(),
        Op::Rewrite { entries, rows } => {
            let entries = entries.iter().map(LogEntry::payload_len).sum::<usize>();
            entries + rows.iter().map(|(_, change)| change.payload_len()).sum::<usize>()
        }
        Op::PutState { value, .. } => value.len(),
        Op::Row(change) => change.payload_len(),
        Op::TruncateAfter(_)
        | Op::Purge { .. }
        | Op::DeleteState { .. }
        | Op::DeleteStateRange { .. }
        | Op::CutOff(_)
        | Op::DeleteGroup => 0,
    }
}
