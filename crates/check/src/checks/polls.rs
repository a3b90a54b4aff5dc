//! What each process read, one poll after another: order, and what was left out.

use std::collections::HashMap;

use crate::history::Rebalance;
use crate::history::log::Run;
use crate::history::operation::{Body, Operation, Read};
use crate::names::{OperationId, PartitionId};
use crate::verdict::{Findings, Kind};

use super::facts::{Entry, Facts};

/// Where a process is in a partition.
#[derive(Clone, Copy)]
struct Position {
    /// The last offset that it read.
    offset: i64,
    by: OperationId,
}

/// A process that reads.
#[derive(Default)]
struct Reader {
    positions: HashMap<PartitionId, Position>,
    /// The epoch in which its group assigned the partitions.
    epoch: Option<i64>,
    /// Partitions that its group has assigned to it.
    assigned: Vec<PartitionId>,
}

impl Reader {
    /// A new epoch may begin from other positions; so may partitions that are new in one.
    fn rebalance(&mut self, rebalance: &Rebalance) {
        let epoch = rebalance.member.map(|(_, epoch)| epoch);
        if epoch != self.epoch || epoch.is_none() {
            self.positions.clear();
        }
        let before = std::mem::replace(&mut self.assigned, rebalance.partitions.clone());
        let is_kept = |partition: &PartitionId| before.contains(partition) && self.assigned.contains(partition);
        self.positions.retain(|partition, _| is_kept(partition));
        self.epoch = epoch;
    }
}

/// Judges every poll.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    let mut readers: HashMap<u32, Reader> = HashMap::new();
    let mut rebalances = facts.history.rebalances().iter().peekable();
    // Polls count when they are answered: with the assignment that the process had by then.
    let mut order: Vec<(u64, OperationId)> = Vec::new();
    for (id, operation) in facts.history.numbered() {
        let counts = match operation.body {
            Body::Poll { .. } => operation.is_ok(),
            Body::Assign(_) | Body::Seek(_) => true,
            _ => false,
        };
        if counts {
            let at = if operation.is_ok() {
                operation.ended
            } else {
                operation.invoked
            };
            order.push((at, id));
        }
    }
    order.sort_unstable();
    for (index, id) in order {
        while let Some(rebalance) = rebalances.next_if(|it| it.index < index) {
            readers.entry(rebalance.process).or_default().rebalance(rebalance);
        }
        let operation = facts.history.operation(id);
        let reader = readers.entry(operation.process).or_default();
        match &operation.body {
            Body::Assign(_) => *reader = Reader::default(),
            Body::Seek(partition) => drop(reader.positions.remove(partition)),
            Body::Poll { reads, .. } => {
                for read in reads {
                    poll(facts, id, operation, read, reader, findings);
                }
            }
            _ => {}
        }
    }
}

fn poll(
    facts: &Facts<'_>,
    id: OperationId,
    operation: &Operation,
    read: &Read,
    reader: &mut Reader,
    findings: &mut Findings,
) {
    let partition = read.partition;
    for run in facts.history.runs(read) {
        if let Some(position) = reader.positions.get(&partition) {
            step(facts, id, operation, partition, *run, *position, reader.epoch, findings);
        }
        let before = reader.positions.get(&partition).map_or(run.last(), |it| it.offset);
        let position = Position {
            // What came again is told once.
            offset: before.max(run.last()),
            by: id,
        };
        reader.positions.insert(partition, position);
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one step of a reader, with all that is known of it"
)]
fn step(
    facts: &Facts<'_>,
    id: OperationId,
    operation: &Operation,
    partition: PartitionId,
    run: Run,
    before: Position,
    epoch: Option<i64>,
    findings: &mut Findings,
) {
    let is_internal = before.by == id;
    let name = facts.history.partition_name(partition);
    let events = || vec![facts.shown(before.by), facts.shown(id)];
    if run.first <= before.offset {
        let kind = if is_internal {
            Kind::PollOrderInternal
        } else {
            Kind::PollOrderExternal
        };
        findings.add(
            kind,
            || {
                format!(
                    "process {} read {name}:{} after {}",
                    operation.process, run.first, before.offset
                )
            },
            events,
        );
        return;
    }
    if run.first == before.offset + 1 {
        return;
    }
    let known = &facts.partitions[partition.at()];
    let between = &known.entries[known.at(before.offset + 1)..known.at(run.first)];
    let is_missed = |entry: &&Entry| facts.must_be_seen(entry) && !facts.may_be_gone(partition, entry);
    let (kind, missed) = match between.iter().find(is_missed) {
        Some(entry) if epoch.is_some() => (Kind::SkipWithinEpoch, entry),
        Some(entry) if is_internal => (Kind::PollSkipInternal, entry),
        Some(entry) => (Kind::PollSkipExternal, entry),
        None => match between
            .iter()
            .find(|entry| is_missed_deletion(facts, partition, entry, operation))
        {
            Some(entry) => (Kind::DeletionMissed, entry),
            None => return,
        },
    };
    findings.add(
        kind,
        || {
            let value = missed.value.map_or("", |value| facts.history.value(value));
            let (process, offset) = (operation.process, missed.offset);
            format!(
                "process {process} read {name}:{} and then {}, without {value:?} at {offset}",
                before.offset, run.first
            )
        },
        || {
            let mut witness = events();
            witness.extend(missed.writer.map(|writer| facts.shown(writer)));
            witness
        },
    );
}

/// Whether a tombstone that nothing has superseded was left out though it was young: the reader must see it.
fn is_missed_deletion(facts: &Facts<'_>, partition: PartitionId, entry: &Entry, poll: &Operation) -> bool {
    let retention = facts
        .history
        .partition_settings(partition)
        .and_then(|it| it.delete_retention);
    let (Some(retention), Some((sent, send))) = (retention, facts.sent(entry)) else {
        return false;
    };
    let is_last = send.key.is_some_and(|key| {
        let last = facts.partitions[partition.at()].last_of_key.get(&key);
        last == Some(&entry.offset)
    });
    send.tombstone && is_last && facts.must_be_seen(entry) && poll.ended_ns < sent.invoked_ns.saturating_add(retention)
}
