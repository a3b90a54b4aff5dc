//! What all checks need to know, found in one pass: who wrote what, what was read, how transactions ended.

use std::collections::{HashMap, HashSet};

use crate::call::Isolation;
use crate::history::History;
use crate::history::log::{Run, Source};
use crate::history::operation::{Body, Operation, Outcome, SendBody};
use crate::names::{NameId, OperationId, PartitionId, ValueId};

/// How a transaction ended, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never asked for a commit, or was refused: nobody may see anything of it.
    Aborted,
    /// It asked for a commit, and does not know; and nobody has seen anything of it.
    Unknown,
    /// It was told that it is committed, or somebody who reads committed records has seen something of it.
    Committed,
}

/// One transaction, and how it ended.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The transaction's name.
    pub name: NameId,
    /// How it ended.
    pub fate: Fate,
    /// The call that committed it, or asked for that.
    pub commit: Option<OperationId>,
    /// All calls of it but its beginning and end.
    pub operations: Vec<OperationId>,
}

/// One offset of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The offset that it is.
    pub offset: i64,
    /// The value there; none: a marker.
    pub value: Option<ValueId>,
    /// The send of the value.
    pub writer: Option<OperationId>,
    /// How often it was read by those who read committed records.
    pub committed_reads: u32,
    /// How often it was read by others.
    pub other_reads: u32,
}

impl Entry {
    /// Whether anybody read it.
    pub fn is_read(&self) -> bool {
        self.committed_reads > 0 || self.other_reads > 0
    }
}

/// Everything known about one partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// The offsets that anybody named, in order.
    pub entries: Vec<Entry>,
    /// A transaction wrote to it.
    pub transactional: bool,
    /// Everything below this may be deleted.
    pub cleared: i64,
    /// Of a compacted partition: the last offset of each key that counts.
    pub last_of_key: HashMap<NameId, i64>,
}

impl Partition {
    /// The place of the first entry at or behind an offset.
    pub fn at(&self, offset: i64) -> usize {
        self.entries.partition_point(|entry| entry.offset < offset)
    }
}

/// What all checks need to know.
pub struct Facts<'h> {
    /// The history that it is about.
    pub history: &'h History,
    /// The partitions by their number.
    pub partitions: Vec<Partition>,
    /// All transactions, in order.
    pub transactions: Vec<Transaction>,
    /// The place of each transaction among them.
    pub transaction_of: HashMap<NameId, usize>,
    /// The send of each value.
    pub writers: HashMap<(PartitionId, ValueId), OperationId>,
    /// Sends whose values were read at another offset than they were told.
    pub misplaced: HashSet<OperationId>,
    /// Sends of values that had been sent before, which no history may have.
    pub sent_again: Vec<(OperationId, OperationId)>,
}

impl<'h> Facts<'h> {
    /// Gathers what is known.
    pub fn of(history: &'h History) -> Self {
        let mut facts = Self {
            history,
            partitions: Vec::new(),
            transactions: Vec::new(),
            transaction_of: HashMap::new(),
            writers: HashMap::new(),
            misplaced: HashSet::new(),
            sent_again: Vec::new(),
        };
        facts.find_writers();
        facts.find_transactions();
        facts.partitions = history.partition_ids().map(|id| facts.entries(id)).collect();
        facts.count_reads();
        facts.find_misplaced();
        facts.promote();
        facts.find_cleared();
        for id in history.partition_ids() {
            if history
                .partition_settings(id)
                .is_some_and(|settings| settings.compacted)
            {
                facts.partitions[id.at()].last_of_key = facts.last_of_key(id);
            }
        }
        facts
    }

    /// The send that an operation is.
    pub fn send(&self, id: OperationId) -> &'h SendBody {
        match &self.history.operation(id).body {
            Body::Send(send) => send,
            other => unreachable!("{} is no send", other.name()),
        }
    }

    /// The send of an entry.
    pub fn sent(&self, entry: &Entry) -> Option<(&'h Operation, &'h SendBody)> {
        let writer = entry.writer?;
        Some((self.history.operation(writer), self.send(writer)))
    }

    /// How the transaction of this name ended. Of none: as if it were committed.
    pub fn fate(&self, transaction: Option<NameId>) -> Fate {
        transaction.map_or(Fate::Committed, |name| {
            self.transactions[self.transaction_of[&name]].fate
        })
    }

    /// Whether everybody who passes an entry must see it: it was acknowledged or read, and is of no transaction or a committed one.
    pub fn must_be_seen(&self, entry: &Entry) -> bool {
        let Some((operation, send)) = self.sent(entry) else {
            // Of what nobody sent nothing is known but that it was read.
            return false;
        };
        let is_elsewhere = entry.writer.is_some_and(|writer| self.misplaced.contains(&writer));
        if is_elsewhere && !entry.is_read() {
            return false;
        }
        match self.fate(send.transaction) {
            Fate::Committed => operation.is_ok() || entry.is_read(),
            Fate::Unknown | Fate::Aborted => false,
        }
    }

    /// Whether an entry may be gone: trimmed, or compacted.
    pub fn may_be_gone(&self, partition: PartitionId, entry: &Entry) -> bool {
        let known = &self.partitions[partition.at()];
        entry.offset < known.cleared || self.is_superseded(partition, entry)
    }

    /// Whether compaction may have taken an entry: a later one has its key, or it is a tombstone.
    pub fn is_superseded(&self, partition: PartitionId, entry: &Entry) -> bool {
        let is_compacted = |id| self.history.partition_settings(id).is_some_and(|it| it.compacted);
        if !is_compacted(partition) {
            return false;
        }
        match self.sent(entry) {
            // Records without a key go, too.
            Some((_, send)) => send.key.is_none_or(|key| {
                let last = self.partitions[partition.at()].last_of_key.get(&key);
                send.tombstone || last.is_some_and(|last| *last > entry.offset)
            }),
            None => true,
        }
    }

    /// The entries that a run has read as the log has them.
    pub fn entries_of(&self, partition: PartitionId, run: Run) -> &[Entry] {
        let known = &self.partitions[partition.at()];
        if !run.agrees() {
            return &[];
        }
        &known.entries[known.at(run.first)..][..run.count as usize]
    }

    /// Who said that there is something at an offset: a few of them, first those who were told or saw it first.
    pub fn who_saw(&self, partition: PartitionId, offset: i64, shown: usize) -> Vec<(u64, String)> {
        self.who(partition, offset, shown, |_| true)
    }

    /// Who read an offset and wanted committed records only.
    pub fn who_read_committed(&self, partition: PartitionId, offset: i64, shown: usize) -> Vec<(u64, String)> {
        self.who(partition, offset, shown, |isolation| {
            isolation == Some(Isolation::Committed)
        })
    }

    fn who(
        &self,
        partition: PartitionId,
        offset: i64,
        shown: usize,
        counts: impl Fn(Option<Isolation>) -> bool,
    ) -> Vec<(u64, String)> {
        let has = |runs: &[Run]| runs.iter().any(|run| (run.first..=run.last()).contains(&offset));
        let mut found = Vec::new();
        for (id, operation) in self.history.numbered() {
            let is_there = match &operation.body {
                Body::Send(send) => counts(None) && send.partition == partition && send.offset == Some(offset),
                Body::Poll { isolation, reads, .. } if counts(Some(*isolation)) => {
                    let mut of = reads.iter().filter(|read| read.partition == partition);
                    of.any(|read| has(self.history.runs(read)))
                }
                _ => false,
            };
            if is_there {
                found.push(self.history.describe_source(Source::Operation(id)));
            }
            if found.len() == shown {
                return found;
            }
        }
        for (at, read) in self.history.finals().iter().enumerate() {
            if read.partition == partition && counts(Some(read.isolation)) && has(&read.runs) && found.len() < shown {
                found.push((read.index, self.history.describe_final(at)));
            }
        }
        found
    }

    /// An operation as a line of a witness.
    pub fn shown(&self, id: OperationId) -> (u64, String) {
        (self.history.operation(id).invoked, self.history.describe(id))
    }

    fn find_writers(&mut self) {
        for (id, operation) in self.history.numbered() {
            if let Body::Send(send) = &operation.body {
                let before = *self.writers.entry((send.partition, send.value)).or_insert(id);
                if before != id {
                    self.sent_again.push((before, id));
                }
            }
        }
    }

    fn find_transactions(&mut self) {
        for (id, operation) in self.history.numbered() {
            let (name, is_end) = match &operation.body {
                Body::Begin(name) | Body::Commit(name) | Body::Abort(name) => (Some(*name), true),
                Body::Send(send) => (send.transaction, false),
                Body::Poll { transaction, .. } => (*transaction, false),
                Body::CommitOffsets(commit) => (commit.transaction, false),
                Body::QueueSend(send) => (send.transaction, false),
                Body::Settle(settle) => (settle.transaction, false),
                _ => (None, false),
            };
            let Some(name) = name else { continue };
            let place = *self.transaction_of.entry(name).or_insert(self.transactions.len());
            if place == self.transactions.len() {
                self.transactions.push(Transaction {
                    name,
                    fate: Fate::Aborted,
                    commit: None,
                    operations: Vec::new(),
                });
            }
            let transaction = &mut self.transactions[place];
            if !is_end {
                transaction.operations.push(id);
            }
            if let Body::Commit(_) = operation.body {
                let fate = match operation.outcome {
                    Outcome::Ok => Fate::Committed,
                    Outcome::Failed => continue,
                    Outcome::Open | Outcome::Unknown => Fate::Unknown,
                };
                if transaction.fate != Fate::Committed {
                    (transaction.fate, transaction.commit) = (fate, Some(id));
                }
            }
        }
    }

    fn entries(&self, id: PartitionId) -> Partition {
        let entry = |(offset, value): (i64, Option<ValueId>)| Entry {
            offset,
            value,
            writer: value.and_then(|value| self.writers.get(&(id, value)).copied()),
            committed_reads: 0,
            other_reads: 0,
        };
        let entries: Vec<Entry> = self.history.log(id).iter().map(entry).collect();
        Partition {
            entries,
            ..Partition::default()
        }
    }

    /// Counts how often each entry was read: the ends of runs are marked first, and then added up.
    fn count_reads(&mut self) {
        let mut changes: Vec<[Vec<i32>; 2]> = Vec::new();
        for known in &self.partitions {
            let none = vec![0; known.entries.len() + 1];
            changes.push([none.clone(), none]);
        }
        let mut mark = |known: &Partition, id: PartitionId, isolation: Isolation, runs: &[Run]| {
            let changes = &mut changes[id.at()][usize::from(isolation == Isolation::Committed)];
            for run in runs.iter().filter(|run| run.agrees()) {
                let at = known.at(run.first);
                changes[at] += 1;
                changes[at + run.count as usize] -= 1;
            }
        };
        for operation in self.history.operations() {
            if let Body::Poll { isolation, reads, .. } = &operation.body {
                for read in reads {
                    let known = &self.partitions[read.partition.at()];
                    mark(known, read.partition, *isolation, self.history.runs(read));
                }
            }
        }
        for read in self.history.finals() {
            mark(
                &self.partitions[read.partition.at()],
                read.partition,
                read.isolation,
                &read.runs,
            );
        }
        for (known, [others, committed]) in self.partitions.iter_mut().zip(changes) {
            let (mut other, mut by_committed) = (0, 0);
            for ((entry, others), committed) in known.entries.iter_mut().zip(others).zip(committed) {
                other += others;
                by_committed += committed;
                entry.other_reads = u32::try_from(other).unwrap_or(0);
                entry.committed_reads = u32::try_from(by_committed).unwrap_or(0);
            }
        }
        for send in self.history.operations().iter().filter_map(|it| match &it.body {
            Body::Send(send) if send.transaction.is_some() => Some(send),
            _ => None,
        }) {
            self.partitions[send.partition.at()].transactional = true;
        }
    }

    fn find_misplaced(&mut self) {
        for known in &self.partitions {
            let unread = known.entries.iter().filter(|entry| !entry.is_read());
            let unread: HashSet<OperationId> = unread.filter_map(|entry| entry.writer).collect();
            let read = known.entries.iter().filter(|entry| entry.is_read());
            let elsewhere = read
                .filter_map(|entry| entry.writer)
                .filter(|writer| unread.contains(writer));
            self.misplaced.extend(elsewhere);
        }
    }

    /// A transaction of which somebody has seen something is committed.
    fn promote(&mut self) {
        for known in &self.partitions {
            for entry in known.entries.iter().filter(|entry| entry.committed_reads > 0) {
                let Some(writer) = entry.writer else { continue };
                let Body::Send(send) = &self.history.operation(writer).body else {
                    continue;
                };
                if let Some(name) = send.transaction {
                    let transaction = &mut self.transactions[self.transaction_of[&name]];
                    if transaction.fate == Fate::Unknown {
                        transaction.fate = Fate::Committed;
                    }
                }
            }
        }
    }

    fn find_cleared(&mut self) {
        for operation in self.history.operations().iter().filter(|it| it.may_be()) {
            if let Body::Trim { partition, offset } = operation.body {
                let known = &mut self.partitions[partition.at()];
                known.cleared = known.cleared.max(offset);
            }
        }
        for read in self.history.finals() {
            if self
                .history
                .partition_settings(read.partition)
                .is_some_and(|it| it.retention)
            {
                let known = &mut self.partitions[read.partition.at()];
                known.cleared = known.cleared.max(read.log_start);
            }
        }
    }

    fn last_of_key(&self, id: PartitionId) -> HashMap<NameId, i64> {
        let mut last = HashMap::new();
        for entry in &self.partitions[id.at()].entries {
            if let Some((operation, send)) = self.sent(entry)
                && let Some(key) = send.key
                && self.fate(send.transaction) != Fate::Aborted
                && operation.may_be()
            {
                last.insert(key, entry.offset);
            }
        }
        last
    }
}
